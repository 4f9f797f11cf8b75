//! A segment: what a tenant stored lately, one after the other, packed as one stream of zstd.
//!
//! A batch of exchanges ends with a flush, so that all of it can be read; the next batch goes on in the same stream and
//! finds what is like it. Packed by itself, a piece of 1 KB would keep half its size.

use zstd::zstd_safe::{CCtx, CParameter, DCtx, InBuffer, OutBuffer, ResetDirective};

use super::index::{self, Name};
use super::recipe::Extent;
use crate::store::StoreError;

/// Bytes in a segment, at most: what is unpacked to read a piece. Half as much packs 10 % worse.
pub(super) const SEGMENT: usize = 128 << 10;
/// Chunks in a segment, at most.
const CHUNKS: u32 = 1 << 16;
/// The level packs event streams twice as small as the fastest, at half its speed.
const LEVEL: i32 = 3;

/// A segment that grows.
pub(super) struct Open {
    id: u32,
    chunks: u32,
    /// Unpacked, with what waits.
    length: usize,
    /// Not packed yet.
    waiting: Vec<u8>,
    /// The pieces among it, see [`index`].
    list: Vec<u8>,
    packer: Packer,
}

/// What is appended to the table `chunk`.
pub(super) struct Chunk {
    pub id: i64,
    pub list: Vec<u8>,
    pub length: usize,
    pub bytes: Vec<u8>,
}

impl Open {
    pub fn new(id: u32, mut packer: Packer) -> Self {
        packer.restart();
        Self { id, chunks: 0, length: 0, waiting: Vec::new(), list: Vec::new(), packer }
    }

    /// How much more it takes; none when it is to be closed.
    pub fn room(&self) -> usize {
        if self.chunks + 1 >= CHUNKS { 0 } else { SEGMENT - self.length }
    }

    /// Appends bytes, for which there must be room.
    pub fn append(&mut self, bytes: &[u8]) -> Extent {
        debug_assert!(bytes.len() <= self.room());
        let extent = Extent { segment: self.id, offset: self.length as u32, length: bytes.len() as u32 };
        self.waiting.extend_from_slice(bytes);
        self.length += bytes.len();
        extent
    }

    /// Lists a piece that was appended, so that it is found again after a restart.
    pub fn list(&mut self, name: Name, extent: Extent) {
        index::list(&mut self.list, name, extent);
    }

    /// Packs what waits; none where nothing does.
    pub fn pack(&mut self) -> Result<Option<Chunk>, StoreError> {
        if self.waiting.is_empty() {
            return Ok(None);
        }
        let bytes = self.packer.pack(&self.waiting)?;
        let id = chunk_ids(self.id).0 + i64::from(self.chunks);
        self.chunks += 1;
        let length = self.waiting.len();
        self.waiting.clear();
        Ok(Some(Chunk { id, list: std::mem::take(&mut self.list), length, bytes }))
    }

    /// Ends the segment, whose packer can serve another.
    pub fn into_packer(self) -> Packer {
        self.packer
    }
}

/// The first and the last id that chunks of a segment can have.
pub(super) fn chunk_ids(segment: u32) -> (i64, i64) {
    let first = i64::from(segment) * i64::from(CHUNKS);
    (first, first + i64::from(CHUNKS) - 1)
}

/// The segment that a chunk belongs to.
pub(super) fn segment_of(chunk: i64) -> Option<u32> {
    u32::try_from(chunk / i64::from(CHUNKS)).ok()
}

/// A compressor, kept because setting one up costs more than packing a few KB.
pub(super) struct Packer(CCtx<'static>);

impl Packer {
    pub fn new() -> Result<Self, StoreError> {
        let mut context = CCtx::try_create().ok_or(StoreError::Pack("no memory"))?;
        // Tables no larger than a segment can use: they are cleared for each.
        for parameter in [
            CParameter::CompressionLevel(LEVEL),
            CParameter::WindowLog(17),
            CParameter::HashLog(16),
            CParameter::ChainLog(15),
        ] {
            context.set_parameter(parameter).map_err(failed)?;
        }
        Ok(Self(context))
    }

    fn restart(&mut self) {
        self.0.reset(ResetDirective::SessionOnly).expect("resetting a session cannot fail");
    }

    fn pack(&mut self, bytes: &[u8]) -> Result<Vec<u8>, StoreError> {
        let mut packed = Vec::with_capacity(zstd::zstd_safe::compress_bound(bytes.len()) + 64);
        let mut input = InBuffer::around(bytes);
        let mut output = OutBuffer::around(&mut packed);
        let flush = zstd::zstd_safe::zstd_sys::ZSTD_EndDirective::ZSTD_e_flush;
        // Once, for there is room for all of it; asked until it says so.
        while self.0.compress_stream2(&mut output, &mut input, flush).map_err(failed)? != 0 {
            if output.pos() == output.capacity() {
                return Err(StoreError::Pack("it did not fit"));
            }
        }
        packed.shrink_to_fit();
        Ok(packed)
    }
}

fn failed(code: zstd::zstd_safe::ErrorCode) -> StoreError {
    StoreError::Pack(zstd::zstd_safe::get_error_name(code))
}

/// Unpacks segments. Kept, like a [`Packer`].
pub(super) struct Unpacker(DCtx<'static>);

impl Unpacker {
    pub fn new() -> Self {
        Self(DCtx::create())
    }

    /// Begins with the first chunk of a segment.
    pub fn restart(&mut self) {
        self.0.reset(ResetDirective::SessionOnly).expect("resetting a session cannot fail");
    }

    /// Unpacks the next chunk of a segment behind what is in `into`; false where it is damaged or too long.
    pub fn unpack(&mut self, chunk: &[u8], length: usize, into: &mut Vec<u8>) -> bool {
        // A damaged row may hold any number.
        let Some(end) = into.len().checked_add(length).filter(|end| *end <= SEGMENT) else { return false };
        into.reserve_exact(length);
        let mut input = InBuffer::around(chunk);
        while input.pos() < chunk.len() || into.len() < end {
            let before = (input.pos(), into.len());
            let mut output = OutBuffer::around_pos(into, before.1);
            if self.0.decompress_stream(&mut output, &mut input).is_err() {
                return false;
            }
            if (input.pos(), into.len()) == before {
                break;
            }
        }
        input.pos() == chunk.len() && into.len() == end
    }
}

impl std::fmt::Debug for Unpacker {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Unpacker")
    }
}
