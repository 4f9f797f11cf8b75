//! Reads WebSocket traffic from a copy of its bytes and writes it down as lines of JSON
//! ([RFC 6455](https://www.rfc-editor.org/rfc/rfc6455), compression by [RFC 7692](https://www.rfc-editor.org/rfc/rfc7692)).
//!
//! In: the bytes of one direction after the handshake, in whatever pieces they come. Out: one line a message,
//! `{"at": microseconds UTC, "type": "text" | "binary" | "ping" | "pong" | "close", …}`. What stays true:
//! - Nothing is held back but a few bytes: a message is written down while it comes, however long it is.
//! - What cannot be read ends the reading of its direction, with a line that says why; the bytes that follow are counted.
//! - Any chunking of the bytes gives the same lines.
//!
//! The crates that speak WebSocket want a stream of their own to read from and hold a message until it is whole; a
//! passive reader needs neither, so the few rules of framing are here.

mod frame;
mod inflate;
mod line;
mod transcript;

pub use transcript::Transcript;

/// How the two sides agreed to change frames.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Extensions {
    None,
    /// `permessage-deflate`, whatever its parameters: a reader that keeps the window reads messages that never refer
    /// back to it just as well.
    Deflate,
    /// Something that is not known here: frames may mean anything.
    Unknown,
}

impl Extensions {
    /// What the server's `Sec-WebSocket-Extensions` lines say; the client only offers.
    #[must_use]
    pub fn agreed<'a>(lines: impl Iterator<Item = &'a str>) -> Self {
        let mut agreed = Self::None;
        for extension in lines.flat_map(|line| line.split(',')) {
            match extension.split(';').next().unwrap_or_default().trim() {
                "" => {}
                name if name.eq_ignore_ascii_case("permessage-deflate") && agreed == Self::None => {
                    agreed = Self::Deflate;
                }
                _ => return Self::Unknown,
            }
        }
        agreed
    }
}

/// The stream is no WebSocket that can be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
enum Broken {
    #[error("a frame uses bits that nobody agreed on")]
    Bits,
    #[error("a frame of an unknown kind")]
    Kind,
    #[error("a control frame that is too long or in pieces")]
    Control,
    #[error("a frame longer than frames can be")]
    Length,
    #[error("a message within a message")]
    Order,
    #[error("compressed data that cannot be read")]
    Compressed,
    #[error("a compressed message that grows without end")]
    Bomb,
    #[error("an extension that is not known here")]
    Extension,
}
