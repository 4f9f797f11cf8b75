//! A strict second look at what a client sends over HTTP/1: where messages begin and end, and whether that can be read
//! in one way only.
//!
//! hyper drops what it tolerates (a `Content-Length` beside `Transfer-Encoding`, a repeated length, a bare LF), so what
//! it hands on cannot be judged. This reads the same bytes before it, without keeping them.

use memchr::{memchr, memmem};

/// Why a request is refused before anything of it is forwarded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(in crate::proxy) enum Flaw {
    /// A line of the head that does not end with CR LF (RFC 9112 §2.2 allows to accept it; not all do).
    Line = 1,
    /// The head is longer, or has more headers, than the limits allow.
    TooLarge,
    /// Content-Length beside Transfer-Encoding (RFC 9112 §6.3).
    BothLengths,
    /// More than one Content-Length, equal or not, or one that is no plain number.
    Length,
    /// Any Transfer-Encoding but one `chunked`.
    Coding,
    /// None in HTTP/1.1, several, or one that names no host (RFC 9112 §3.2).
    Host,
    /// `content_length` and the like: some servers read it as the real one.
    Disguise,
    /// A chunked body that breaks the format.
    Chunk,
}

impl Flaw {
    pub const ALL: [Self; 8] = [
        Self::Line,
        Self::TooLarge,
        Self::BothLengths,
        Self::Length,
        Self::Coding,
        Self::Host,
        Self::Disguise,
        Self::Chunk,
    ];

    pub fn from_code(code: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|flaw| *flaw as u8 == code)
    }
}

/// How much can be said of the bytes so far.
#[derive(Debug, PartialEq, Eq)]
enum State {
    /// Before the first byte of a head.
    Between,
    Head,
    /// So many bytes of a body are to come.
    Length(u64),
    Chunked(Chunk),
    /// A flaw was found: hyper is on its own, and its next request is refused.
    Flawed,
    /// HTTP/2, or a tunnel: no concern of this reader.
    Opaque,
}

/// Where in a chunked body (RFC 9112 §7.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Chunk {
    Size {
        value: u64,
        digits: bool,
    },
    Extension {
        value: u64,
    },
    SizeLf {
        value: u64,
    },
    Data {
        left: u64,
    },
    DataCr,
    DataLf,
    /// At the beginning of a line of trailers.
    Trailer,
    TrailerLine,
    TrailerLf,
    EndLf,
}

/// Follows one connection.
#[derive(Debug)]
pub(super) struct Framing {
    state: State,
    /// A head that did not come in one piece, so far.
    partial: Vec<u8>,
    heads: u32,
    flaw: Option<Flaw>,
    /// Bytes of a head, at most.
    size: usize,
    /// Headers, at most.
    headers: usize,
}

/// RFC 9113 §3.4: the beginning of the preface reads as a head; a request by the method PRI cannot be.
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\n";

impl Framing {
    pub fn new(size: usize, headers: usize) -> Self {
        Self { state: State::Between, partial: Vec::new(), heads: 0, flaw: None, size, headers }
    }

    /// Heads read without a flaw.
    pub fn heads(&self) -> u32 {
        self.heads
    }

    /// The first flaw; nothing is read after it.
    pub fn flaw(&self) -> Option<Flaw> {
        self.flaw
    }

    /// Whether no message has begun that has not ended.
    pub fn resting(&self) -> bool {
        self.state == State::Between
    }

    /// Whether this is no HTTP/1 (any more).
    pub fn opaque(&self) -> bool {
        self.state == State::Opaque
    }

    /// From here on the bytes are no HTTP.
    pub fn stop(&mut self) {
        self.state = State::Opaque;
        self.partial = Vec::new();
    }

    /// Reads on.
    pub fn take(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            match self.state {
                State::Opaque | State::Flawed => return,
                State::Between => {
                    // RFC 9112 §2.2: empty lines before a request line are skipped.
                    let skip = bytes.iter().take_while(|b| matches!(b, b'\r' | b'\n')).count();
                    bytes = &bytes[skip..];
                    if !bytes.is_empty() {
                        self.state = State::Head;
                    }
                }
                State::Head => bytes = self.head(bytes),
                State::Length(left) => {
                    let n = bytes.len().min(usize::try_from(left).unwrap_or(usize::MAX));
                    bytes = &bytes[n..];
                    self.state = match left - n as u64 {
                        0 => State::Between,
                        left => State::Length(left),
                    };
                }
                State::Chunked(at) => match at.step(bytes) {
                    Some((Some(next), n)) => {
                        self.state = State::Chunked(next);
                        bytes = &bytes[n..];
                    }
                    Some((None, n)) => {
                        self.state = State::Between;
                        bytes = &bytes[n..];
                    }
                    None => self.flawed(Flaw::Chunk),
                },
            }
        }
    }

    fn flawed(&mut self, flaw: Flaw) {
        self.state = State::Flawed;
        self.flaw = Some(flaw);
        self.partial = Vec::new();
    }

    /// Takes what belongs to a head, and gives the rest.
    fn head<'a>(&mut self, bytes: &'a [u8]) -> &'a [u8] {
        const END: &[u8] = b"\r\n\r\n";
        if self.partial.is_empty()
            && let Some(at) = memmem::find(bytes, END)
        {
            let (head, rest) = bytes.split_at(at + END.len());
            self.whole(head);
            return rest;
        }
        let known = self.partial.len();
        // Of a flood no more is copied than tells that it is one.
        let room = (self.size + 1).saturating_sub(known);
        self.partial.extend_from_slice(&bytes[..bytes.len().min(room)]);
        let from = known.saturating_sub(END.len() - 1);
        if let Some(at) = memmem::find(&self.partial[from..], END) {
            let end = from + at + END.len();
            let head = std::mem::take(&mut self.partial);
            self.whole(&head[..end]);
            return &bytes[end - known..];
        }
        if self.partial.len() > self.size {
            self.flawed(Flaw::TooLarge);
        }
        &[]
    }

    fn whole(&mut self, head: &[u8]) {
        if self.heads == 0 && head == PREFACE {
            self.stop();
            return;
        }
        let judged = if head.len() > self.size { Err(Flaw::TooLarge) } else { body_of(head, self.headers) };
        match judged {
            Ok(state) => {
                self.heads = self.heads.wrapping_add(1);
                self.state = state;
            }
            Err(flaw) => self.flawed(flaw),
        }
    }
}

/// What follows a head.
fn body_of(head: &[u8], most: usize) -> Result<State, Flaw> {
    let (mut length, mut chunked, mut hosts, mut count) = (None, false, 0, 0);
    let mut rest = head;
    let mut current = true;
    let mut first = true;
    while let Some(at) = memchr(b'\n', rest) {
        let line = rest[..at].strip_suffix(b"\r").ok_or(Flaw::Line)?;
        rest = &rest[at + 1..];
        if first {
            current = !line.ends_with(b"HTTP/1.0");
            first = false;
            continue;
        }
        if line.is_empty() {
            break;
        }
        count += 1;
        if count > most {
            return Err(Flaw::TooLarge);
        }
        if let Some(value) = value_of(line, b"content-length")? {
            if length.is_some() {
                return Err(Flaw::Length);
            }
            length = Some(number(value).ok_or(Flaw::Length)?);
        } else if let Some(value) = value_of(line, b"transfer-encoding")? {
            if chunked || !value.eq_ignore_ascii_case(b"chunked") {
                return Err(Flaw::Coding);
            }
            chunked = true;
        } else if let Some(value) = value_of(line, b"host")? {
            hosts += 1;
            if hosts > 1 || !is_host(value) {
                return Err(Flaw::Host);
            }
        }
    }
    if current && hosts == 0 {
        return Err(Flaw::Host);
    }
    match (length, chunked) {
        (Some(_), true) => Err(Flaw::BothLengths),
        // RFC 9112 §6.1: HTTP/1.0 knows no chunks.
        (None, true) if !current => Err(Flaw::Coding),
        (None, true) => Ok(State::Chunked(Chunk::FIRST)),
        (None | Some(0), false) => Ok(State::Between),
        (Some(length), false) => Ok(State::Length(length)),
    }
}

/// The value if the line is this header's.
fn value_of<'a>(line: &'a [u8], name: &[u8]) -> Result<Option<&'a [u8]>, Flaw> {
    // The colon's place tells most lines apart without reading them.
    if line.get(name.len()) != Some(&b':') {
        return Ok(None);
    }
    let (given, value) = line.split_at(name.len());
    if given.eq_ignore_ascii_case(name) {
        return Ok(Some(value[1..].trim_ascii()));
    }
    let disguised =
        given.iter().zip(name).all(|(g, n)| g.eq_ignore_ascii_case(n) || (*g == b'_' && *n == b'-'));
    if disguised { Err(Flaw::Disguise) } else { Ok(None) }
}

/// Digits only: no sign, no list.
fn number(text: &[u8]) -> Option<u64> {
    let all = !text.is_empty() && text.iter().all(u8::is_ascii_digit);
    all.then(|| std::str::from_utf8(text).ok()?.parse().ok()).flatten()
}

/// Whether it can be host and port (RFC 3986 §3.2.2): nothing that ends an authority, or hides in one.
fn is_host(text: &[u8]) -> bool {
    !text.is_empty() && text.iter().all(|b| b.is_ascii_graphic() && !b",/\\?#@<>\"{}|^`".contains(b))
}

impl Chunk {
    const FIRST: Self = Self::Size { value: 0, digits: false };

    /// One step over `bytes`, which are not empty: the next place (none: the body has ended) and how many bytes it
    /// took; nothing where the format is broken.
    fn step(self, bytes: &[u8]) -> Option<(Option<Self>, usize)> {
        let byte = bytes[0];
        let next = match self {
            Self::Size { value, digits } => match byte {
                b'0'..=b'9' | b'a'..=b'f' | b'A'..=b'F' => {
                    let digit = u64::from(char::from(byte).to_digit(16).expect("just matched"));
                    let value = value.checked_mul(16)?.checked_add(digit)?;
                    Self::Size { value, digits: true }
                }
                _ if !digits => return None,
                b'\r' => Self::SizeLf { value },
                b';' | b' ' | b'\t' => Self::Extension { value },
                _ => return None,
            },
            Self::Extension { value } => match byte {
                b'\r' => Self::SizeLf { value },
                b'\t' | b' '..=b'~' | 0x80.. => Self::Extension { value },
                _ => return None,
            },
            Self::SizeLf { value } => match (byte, value) {
                (b'\n', 0) => Self::Trailer,
                (b'\n', left) => Self::Data { left },
                _ => return None,
            },
            Self::Data { left } => {
                let n = bytes.len().min(usize::try_from(left).unwrap_or(usize::MAX));
                let next = match left - n as u64 {
                    0 => Self::DataCr,
                    left => Self::Data { left },
                };
                return Some((Some(next), n));
            }
            Self::DataCr => (byte == b'\r').then_some(Self::DataLf)?,
            Self::DataLf => (byte == b'\n').then_some(Self::FIRST)?,
            Self::Trailer => match byte {
                b'\r' => Self::EndLf,
                b'\n' => return None,
                _ => Self::TrailerLine,
            },
            Self::TrailerLine => match byte {
                b'\r' => Self::TrailerLf,
                b'\n' => return None,
                _ => Self::TrailerLine,
            },
            Self::TrailerLf => (byte == b'\n').then_some(Self::Trailer)?,
            Self::EndLf => return (byte == b'\n').then_some((None, 1)),
        };
        Some((Some(next), 1))
    }
}

#[cfg(test)]
mod tests;
