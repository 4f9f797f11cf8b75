use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use crate::model::Micros;

/// The line of a message, written while the message comes.
#[derive(Debug)]
pub(super) enum Line {
    Text(Text),
    Binary(Binary),
}

impl Line {
    pub fn text(at: Micros, keep_files: bool, out: &mut Vec<u8>) -> Self {
        begin(at, "text", out);
        out.extend_from_slice(b",\"text\":\"");
        Self::Text(Text { keep_files, ..Text::default() })
    }

    pub fn binary(at: Micros, keep_files: bool, out: &mut Vec<u8>) -> Self {
        begin(at, "binary", out);
        out.extend_from_slice(b",\"base64\":\"");
        let keep = if keep_files { u64::MAX } else { BINARY_KEPT };
        Self::Binary(Binary { keep, ..Binary::default() })
    }

    pub fn push(&mut self, data: &[u8], out: &mut Vec<u8>) {
        match self {
            Self::Text(text) => text.push(data, out),
            Self::Binary(binary) => binary.push(data, out),
        }
    }

    /// `cut`: the message's end never came.
    pub fn end(self, cut: bool, out: &mut Vec<u8>) {
        match self {
            Self::Text(text) => text.end(out),
            Self::Binary(binary) => binary.end(out),
        }
        out.extend_from_slice(if cut { b",\"cut\":true}\n" } else { b"}\n" });
    }
}

/// Begins a line; what follows, a comma first, and the end are the caller's.
pub(super) fn begin(at: Micros, kind: &str, out: &mut Vec<u8>) {
    out.extend_from_slice(format!("{{\"at\":{},\"type\":\"{kind}\"", at.0).as_bytes());
}

/// Text as a JSON string. Audio and images travel as base64 within text: of long runs of it only the beginning is kept,
/// or minutes of speech would fill the record of an hour.
#[derive(Debug, Default)]
pub(super) struct Text {
    /// The beginning of a character whose end comes with the next piece.
    torn: Vec<u8>,
    keep_files: bool,
    /// Characters of the base64 alphabet since the last other one.
    run: u64,
}

/// Kept of a run of base64, in characters. Longer than any id or signature, shorter than a tenth of a second of speech.
const RUN_KEPT: u64 = 2048;
/// Kept of a binary message, in bytes.
const BINARY_KEPT: u64 = 4096;

impl Text {
    fn push(&mut self, data: &[u8], out: &mut Vec<u8>) {
        let joined;
        let mut data = if self.torn.is_empty() {
            data
        } else {
            self.torn.extend_from_slice(data);
            joined = std::mem::take(&mut self.torn);
            &joined
        };
        while !data.is_empty() {
            match std::str::from_utf8(data) {
                Ok(text) => return self.escape(text, out),
                Err(error) => {
                    let (good, bad) = data.split_at(error.valid_up_to());
                    self.escape(std::str::from_utf8(good).unwrap_or_default(), out);
                    let Some(n) = error.error_len() else {
                        self.torn = bad.to_vec();
                        return;
                    };
                    self.escape("\u{fffd}", out);
                    data = &bad[n..];
                }
            }
        }
    }

    fn escape(&mut self, text: &str, out: &mut Vec<u8>) {
        let mut rest = text.as_bytes();
        while let Some(first) = rest.first() {
            let end = |stop: &dyn Fn(&u8) -> bool| rest.iter().position(stop).unwrap_or(rest.len());
            if is_base64(*first) {
                let (run, more) = rest.split_at(end(&|byte| !is_base64(*byte)));
                self.run(run, out);
                rest = more;
                continue;
            }
            self.end_run(out);
            match first {
                b'"' | b'\\' => out.extend_from_slice(&[b'\\', *first]),
                b'\n' => out.extend_from_slice(b"\\n"),
                0..0x20 => out.extend_from_slice(format!("\\u{first:04x}").as_bytes()),
                _ => out.push(*first),
            }
            rest = &rest[1..];
        }
    }

    /// Characters of the base64 alphabet, which need no escapes.
    fn run(&mut self, run: &[u8], out: &mut Vec<u8>) {
        let room = usize::try_from(RUN_KEPT.saturating_sub(self.run)).unwrap_or(usize::MAX);
        let kept = if self.keep_files { run.len() } else { run.len().min(room) };
        out.extend_from_slice(&run[..kept]);
        self.run += run.len() as u64;
    }

    fn end_run(&mut self, out: &mut Vec<u8>) {
        let left_out = self.run.saturating_sub(RUN_KEPT);
        if left_out > 0 && !self.keep_files {
            out.extend_from_slice(format!("…[{left_out} more]").as_bytes());
        }
        self.run = 0;
    }

    fn end(mut self, out: &mut Vec<u8>) {
        if !self.torn.is_empty() {
            self.escape("\u{fffd}", out);
        }
        self.end_run(out);
        out.push(b'"');
    }
}

/// Bytes as base64.
#[derive(Debug, Default)]
pub(super) struct Binary {
    /// Less than three bytes: base64 takes three at a time.
    rest: Vec<u8>,
    length: u64,
    keep: u64,
}

impl Binary {
    fn push(&mut self, data: &[u8], out: &mut Vec<u8>) {
        let room = usize::try_from(self.keep.saturating_sub(self.length)).unwrap_or(usize::MAX);
        self.length += data.len() as u64;
        self.rest.extend_from_slice(&data[..data.len().min(room)]);
        let whole = self.rest.len() / 3 * 3;
        out.extend_from_slice(STANDARD.encode(&self.rest[..whole]).as_bytes());
        self.rest.drain(..whole);
    }

    fn end(self, out: &mut Vec<u8>) {
        out.extend_from_slice(STANDARD.encode(&self.rest).as_bytes());
        out.extend_from_slice(format!("\",\"bytes\":{}", self.length).as_bytes());
    }
}

/// Of both alphabets of RFC 4648, with the padding.
fn is_base64(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'/' | b'=' | b'-' | b'_')
}
