//! The journal: where finished exchanges go first, by plain appending, so that the end of a response waits for one
//! write and for no database.
//!
//! In: batches of exchanges, as the recorder has them. Out: the same exchanges, whole, for whoever moves them into the
//! record; and those that were under way when their process died.
//!
//! ```text
//! journal/settle.lock            held by the one process that moves entries into the record
//! journal/WRITER/lock            held by the process that appends: free means that it is gone
//! journal/WRITER/power           it syncs: what is in it survives loss of power, and so it must in the record
//! journal/WRITER/00000001.log    segments; a new one is begun at 16 MiB
//! journal/WRITER/settled         segment and offset up to which entries are in the record
//! journal/WRITER/open/EXCHANGE   an exchange under way for long: what passed so far, appended every second
//! ```
//!
//! Always true: an entry is whole or it is not there (a checksum tells); entries are in the record before their
//! segment is deleted; to move an entry twice changes nothing. A journal that is deleted under a running process is made
//! again, with what was in the open segment.

mod format;
mod home;
mod reader;
mod writer;

#[cfg(test)]
mod tests;

pub use format::{Entry, HeaderLines};
pub use home::{Journal, WriterHome};
pub use reader::{Batch, Position, Segment};
pub use writer::{AppendError, JournalWriter};
