use std::fs::File;
use std::io::{self, Read as _, Seek, SeekFrom};
use std::path::PathBuf;

use bytes::Bytes;

use super::format::{self, MAGIC, Mark, Read};
use crate::model::Exchange;

/// A place in a writer's entries.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Position {
    /// Segments count from 1.
    pub segment: u32,
    /// Bytes from the segment's beginning.
    pub offset: u64,
}

impl Position {
    /// After everything.
    pub const END: Self = Self { segment: u32::MAX, offset: u64::MAX };

    pub(super) fn bytes(self) -> [u8; 12] {
        let mut bytes = [0; 12];
        bytes[..4].copy_from_slice(&self.segment.to_le_bytes());
        bytes[4..].copy_from_slice(&self.offset.to_le_bytes());
        bytes
    }

    pub(super) fn parse(bytes: &[u8]) -> Option<Self> {
        let (segment, offset) = bytes.split_at_checked(4)?;
        Some(Self {
            segment: u32::from_le_bytes(segment.try_into().ok()?),
            offset: u64::from_le_bytes(offset.try_into().ok()?),
        })
    }
}

/// A file of entries.
#[derive(Clone, Debug)]
pub struct Segment {
    pub path: PathBuf,
    pub number: u32,
}

/// What was read at once.
#[derive(Debug, Default)]
pub struct Batch {
    pub exchanges: Vec<Exchange>,
    /// Where reading goes on.
    pub offset: u64,
    /// Nothing whole follows; the writer may still be at it.
    pub at_end: bool,
    /// Bytes passed over because they are no entry, although entries follow.
    pub damaged: u64,
}

/// Read at once, in bytes; more where one entry is longer.
const CHUNK: usize = 2 << 20;

impl Segment {
    /// Where the first entry stands, in bytes.
    pub const BEGINNING: u64 = (MAGIC.len() + size_of::<Mark>()) as u64;

    /// Where the file ends now.
    #[must_use]
    pub fn end(&self) -> Position {
        let offset = std::fs::metadata(&self.path).map_or(0, |m| m.len());
        Position { segment: self.number, offset }
    }

    /// The entries from `offset` on, at most about 2 MiB of them, or one. `over`: nothing will be appended any more, so
    /// what is torn stays torn.
    ///
    /// # Errors
    /// When the file cannot be read, or is of another format.
    pub fn read(&self, offset: u64, over: bool) -> io::Result<Batch> {
        let mut file = File::open(&self.path)?;
        let mut head = Vec::new();
        (&mut file).take(Self::BEGINNING).read_to_end(&mut head)?;
        let Some((magic, mark)) = head.split_first_chunk() else { return Ok(Batch::ended(offset)) };
        let Ok(mark) = Mark::try_from(mark) else { return Ok(Batch::ended(offset)) };
        if magic == &[0; MAGIC.len()] {
            // Of a file that was begun when the power went: its length was kept, its blocks were not.
            let end = self.end().offset;
            return Ok(Batch { damaged: end.saturating_sub(offset), ..Batch::ended(end) });
        }
        if magic != MAGIC {
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                format!("{}: this is no journal that this version can read", self.path.display()),
            ));
        }
        let offset = offset.max(Self::BEGINNING);
        let mut size = CHUNK;
        loop {
            file.seek(SeekFrom::Start(offset))?;
            let mut bytes = Vec::with_capacity(size);
            (&mut file).take(size as u64).read_to_end(&mut bytes)?;
            let more = bytes.len() == size;
            let batch = entries(&Bytes::from(bytes), &mark, offset, more, over);
            // One entry may be longer than what was read.
            if batch.exchanges.is_empty() && batch.offset == offset && more {
                size *= 2;
                continue;
            }
            return Ok(batch);
        }
    }
}

impl Batch {
    /// Nothing.
    fn ended(offset: u64) -> Self {
        Self { offset, at_end: true, ..Self::default() }
    }
}

/// The entries in `bytes`, which stand at `offset` of the file; `more`: something follows them in the file.
fn entries(bytes: &Bytes, mark: &Mark, offset: u64, more: bool, over: bool) -> Batch {
    let mut batch = Batch { offset, ..Batch::default() };
    let (mut at, mut damaged) = (0, 0);
    while at < bytes.len() {
        match format::decode(&bytes.slice(at..), mark) {
            Read::Entry(exchange, length) => {
                batch.exchanges.push(*exchange);
                at += length;
                batch.damaged += std::mem::take(&mut damaged);
                batch.offset = offset + at as u64;
            }
            // The rest is in the file, or is just being written.
            Read::Partial if more || !over => break,
            // A torn length promises more than will ever come: an entry may follow all the same.
            Read::Partial | Read::Damaged => {
                let next = format::next_mark(bytes, mark, at + 1).unwrap_or(bytes.len());
                damaged += (next - at) as u64;
                at = next;
            }
        }
    }
    batch.at_end = !more;
    batch
}
