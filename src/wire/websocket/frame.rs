use std::borrow::Cow;

use super::Broken;

/// What a frame is (RFC 6455 §5.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Continuation,
    Text,
    Binary,
    Close,
    Ping,
    Pong,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Header {
    pub kind: Kind,
    /// The last frame of its message.
    pub fin: bool,
    /// The first reserved bit, by which permessage-deflate marks a compressed message.
    pub compressed: bool,
}

/// A part of a frame, in the order of the stream: one `Begin`, any number of `Data`, one `End`.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Part<'a> {
    Begin(Header),
    /// Payload, the mask taken off.
    Data(Cow<'a, [u8]>),
    End,
}

/// Splits a stream into frames, without holding any.
#[derive(Debug, Default)]
pub(super) struct Frames {
    head: [u8; MAX_HEAD],
    have: usize,
    payload: Option<Payload>,
}

#[derive(Debug)]
struct Payload {
    left: u64,
    mask: Option<[u8; 4]>,
    /// Bytes of the payload that passed.
    at: usize,
}

/// Two bytes, eight of length, four of mask.
const MAX_HEAD: usize = 14;
/// Control frames are not longer (RFC 6455 §5.5).
const MAX_CONTROL: u64 = 125;

impl Frames {
    /// The next part, taken off the front of `bytes`; none when they are used up.
    pub fn next<'a>(&mut self, bytes: &mut &'a [u8]) -> Result<Option<Part<'a>>, Broken> {
        if let Some(payload) = &mut self.payload {
            if payload.left == 0 {
                self.payload = None;
                return Ok(Some(Part::End));
            }
            if bytes.is_empty() {
                return Ok(None);
            }
            let n = usize::try_from(payload.left).unwrap_or(usize::MAX).min(bytes.len());
            let (data, rest) = bytes.split_at(n);
            *bytes = rest;
            payload.left -= n as u64;
            let data = match payload.mask {
                None => Cow::Borrowed(data),
                Some(mask) => {
                    let at = payload.at;
                    Cow::Owned(data.iter().enumerate().map(|(i, b)| b ^ mask[(at + i) % 4]).collect())
                }
            };
            payload.at = (payload.at + n) % 4;
            return Ok(Some(Part::Data(data)));
        }
        while self.have < 2 || self.have < self.head_length() {
            let Some((first, rest)) = bytes.split_first() else { return Ok(None) };
            self.head[self.have] = *first;
            self.have += 1;
            *bytes = rest;
        }
        self.begin().map(|header| Some(Part::Begin(header)))
    }

    fn length_bytes(&self) -> usize {
        match self.head[1] & 0x7f {
            126 => 2,
            127 => 8,
            _ => 0,
        }
    }

    fn masked(&self) -> bool {
        self.head[1] & 0x80 != 0
    }

    fn head_length(&self) -> usize {
        2 + self.length_bytes() + if self.masked() { 4 } else { 0 }
    }

    /// The head is whole.
    fn begin(&mut self) -> Result<Header, Broken> {
        self.have = 0;
        let first = self.head[0];
        let kind = match first & 0x0f {
            0 => Kind::Continuation,
            1 => Kind::Text,
            2 => Kind::Binary,
            8 => Kind::Close,
            9 => Kind::Ping,
            10 => Kind::Pong,
            _ => return Err(Broken::Kind),
        };
        let header = Header { kind, fin: first & 0x80 != 0, compressed: first & 0x40 != 0 };
        if first & 0x30 != 0 {
            return Err(Broken::Bits);
        }
        let n = self.length_bytes();
        let length = match n {
            0 => u64::from(self.head[1] & 0x7f),
            n => self.head[2..2 + n].iter().fold(0, |length, byte| length << 8 | u64::from(*byte)),
        };
        if length > i64::MAX as u64 {
            return Err(Broken::Length);
        }
        let control = matches!(kind, Kind::Close | Kind::Ping | Kind::Pong);
        if control && (!header.fin || length > MAX_CONTROL) {
            return Err(Broken::Control);
        }
        let mask = self.masked().then(|| {
            self.head[2 + n..6 + n].try_into().expect("four bytes follow the length of a masked frame")
        });
        self.payload = Some(Payload { left: length, mask, at: 0 });
        Ok(header)
    }
}
