use bytes::Bytes;

use super::frame::{Frames, Header, Kind, Part};
use super::inflate::Inflate;
use super::line::{Line, begin};
use super::{Broken, Extensions};
use crate::model::Micros;

/// Writes down one direction of a WebSocket, a line a message.
#[derive(Debug)]
pub struct Transcript {
    frames: Frames,
    deflate: bool,
    /// Made with the first compressed message: it takes some 40 KiB.
    inflate: Option<Box<Inflate>>,
    /// The message under way.
    message: Option<Message>,
    /// The control frame under way and its payload, at most 125 bytes.
    control: Option<(Kind, Vec<u8>)>,
    /// Lines of control frames that came within a message; they follow it.
    waiting: Vec<u8>,
    keep_files: bool,
    state: State,
    closed: bool,
}

#[derive(Debug)]
struct Message {
    line: Line,
    compressed: bool,
    /// The frame under way is the message's last.
    fin: bool,
}

#[derive(Debug)]
enum State {
    Reading,
    /// Reading ended for a reason; this many bytes followed.
    Opaque(Broken, u64),
}

/// Lines of control frames wait for the end of a message up to this size; beyond, they are left out.
const MAX_WAITING: usize = 4096;

impl Transcript {
    /// `keep_files`: binary messages and long runs of base64 in text are written down whole, not their beginning only.
    #[must_use]
    pub fn new(extensions: Extensions, keep_files: bool) -> Self {
        let state = match extensions {
            Extensions::Unknown => State::Opaque(Broken::Extension, 0),
            Extensions::None | Extensions::Deflate => State::Reading,
        };
        Self {
            frames: Frames::default(),
            deflate: extensions == Extensions::Deflate,
            inflate: None,
            message: None,
            control: None,
            waiting: Vec::new(),
            keep_files,
            state,
            closed: false,
        }
    }

    /// Whether the closing handshake began in this direction.
    #[must_use]
    pub fn closed(&self) -> bool {
        self.closed
    }

    /// Whether the stream could be read all the way.
    #[must_use]
    pub fn readable(&self) -> bool {
        matches!(self.state, State::Reading)
    }

    /// Reads on, and gives what is to be written down: whole lines and beginnings of lines.
    #[must_use]
    pub fn read(&mut self, mut bytes: &[u8], at: Micros) -> Bytes {
        let mut out = Vec::new();
        if let State::Opaque(_, passed) = &mut self.state {
            *passed += bytes.len() as u64;
            return Bytes::new();
        }
        loop {
            let result = match self.frames.next(&mut bytes) {
                Ok(Some(part)) => self.take(part, at, &mut out),
                Ok(None) => break,
                Err(broken) => Err(broken),
            };
            if let Err(broken) = result {
                self.cut(&mut out);
                self.state = State::Opaque(broken, bytes.len() as u64);
                break;
            }
        }
        out.into()
    }

    /// The stream is over: what is still to be written down.
    #[must_use]
    pub fn end(&mut self, at: Micros) -> Bytes {
        let mut out = Vec::new();
        self.cut(&mut out);
        if let State::Opaque(reason, passed) = &self.state {
            begin(at, "opaque", &mut out);
            let tail = format!(",\"reason\":\"{reason}\",\"bytes\":{passed}}}\n");
            out.extend_from_slice(tail.as_bytes());
        }
        out.into()
    }

    /// Ends the line of a message that will not end.
    fn cut(&mut self, out: &mut Vec<u8>) {
        if let Some(message) = self.message.take() {
            message.line.end(true, out);
        }
        out.append(&mut self.waiting);
    }

    fn take(&mut self, part: Part<'_>, at: Micros, out: &mut Vec<u8>) -> Result<(), Broken> {
        match part {
            Part::Begin(header) => self.begin(header, at, out),
            Part::Data(data) => match (&mut self.control, &mut self.message) {
                (Some((_, payload)), _) => {
                    payload.extend_from_slice(&data);
                    Ok(())
                }
                (None, Some(message)) if message.compressed => {
                    let inflate = self.inflate.get_or_insert_with(|| Box::new(Inflate::new()));
                    inflate.push(&data, |plain| message.line.push(plain, out))
                }
                (None, Some(message)) => {
                    message.line.push(&data, out);
                    Ok(())
                }
                (None, None) => Err(Broken::Order),
            },
            Part::End => match self.control.take() {
                Some((kind, payload)) => {
                    self.control_line(kind, &payload, at, out);
                    Ok(())
                }
                None => self.end_of_frame(out),
            },
        }
    }

    fn end_of_frame(&mut self, out: &mut Vec<u8>) -> Result<(), Broken> {
        let Some(message) = self.message.as_mut().filter(|message| message.fin) else { return Ok(()) };
        if message.compressed
            && let Some(inflate) = &mut self.inflate
        {
            inflate.end(|plain| message.line.push(plain, out))?;
        }
        if let Some(message) = self.message.take() {
            message.line.end(false, out);
        }
        out.append(&mut self.waiting);
        Ok(())
    }

    fn begin(&mut self, header: Header, at: Micros, out: &mut Vec<u8>) -> Result<(), Broken> {
        if header.compressed && !(self.deflate && matches!(header.kind, Kind::Text | Kind::Binary)) {
            return Err(Broken::Bits);
        }
        let line = match header.kind {
            Kind::Close | Kind::Ping | Kind::Pong => {
                self.control = Some((header.kind, Vec::new()));
                return Ok(());
            }
            Kind::Continuation => {
                let message = self.message.as_mut().ok_or(Broken::Order)?;
                message.fin = header.fin;
                return Ok(());
            }
            Kind::Text if self.message.is_none() => Line::text(at, self.keep_files, out),
            Kind::Binary if self.message.is_none() => Line::binary(at, self.keep_files, out),
            _ => return Err(Broken::Order),
        };
        self.message = Some(Message { line, compressed: header.compressed, fin: header.fin });
        Ok(())
    }

    fn control_line(&mut self, kind: Kind, payload: &[u8], at: Micros, out: &mut Vec<u8>) {
        let within = self.message.is_some();
        if within && self.waiting.len() > MAX_WAITING {
            return;
        }
        let out = if within { &mut self.waiting } else { out };
        match kind {
            Kind::Close => {
                self.closed = true;
                begin(at, "close", out);
                if let [a, b, reason @ ..] = payload {
                    let reason = serde_json::Value::from(String::from_utf8_lossy(reason));
                    let code = u16::from_be_bytes([*a, *b]);
                    out.extend_from_slice(format!(",\"code\":{code},\"reason\":{reason}").as_bytes());
                }
            }
            kind => {
                begin(at, if kind == Kind::Ping { "ping" } else { "pong" }, out);
                out.extend_from_slice(format!(",\"bytes\":{}", payload.len()).as_bytes());
            }
        }
        out.extend_from_slice(b"}\n");
    }
}

#[cfg(test)]
#[path = "tests.rs"]
mod tests;
