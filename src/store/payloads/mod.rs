//! Bodies, in one database file a day, so that retention drops files.
//!
//! In: the bodies of finished exchanges. Out: the same bytes, checked against their hash.
//!
//! A body is [cut](super::split) into pieces. A piece's bytes are appended to a *segment*, a stream of zstd of at most
//! [`segment::SEGMENT`] bytes that belongs to one tenant; a body's *recipe* lists the stretches of segments that it is made
//! of, after an optional "first n bytes of that other body". Before a piece is appended, the *index* is asked whether the
//! tenant has stored it already. So the request of a conversation's n-th turn costs its last messages and a recipe of
//! a few dozen bytes.
//!
//! Always true: a recipe refers only to what was committed before it or with it, in the same file and of the same
//! tenant; what is stored is never changed, so that the same exchange written again changes nothing.

mod index;
mod reader;
mod recipe;
mod segment;
#[cfg(test)]
mod tests;
mod writer;

pub(super) use reader::PayloadReader;
pub(super) use writer::PayloadWriter;

/// Which body of an exchange.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Side {
    Request = 0,
    Response = 1,
}
