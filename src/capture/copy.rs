use bytes::{Bytes, BytesMut};

use super::memory::{Memory, Share};
use crate::model::{Body, BodyHash};

/// A copy of a body as it passes: pieces up to a limit, then only their length and hash.
#[derive(Debug)]
pub(super) struct BodyCopy {
    /// Kept pieces, but for the tail. Long ones are kept by reference.
    pieces: Vec<Bytes>,
    /// Short pieces are copied together: by reference, each would hold the whole buffer that it was read into, and
    /// reading would need a new buffer each time.
    tail: BytesMut,
    kept: usize,
    length: u64,
    max: usize,
    share: Share,
    /// Runs from the moment that the limit was passed; until then the hash can be had from what is kept.
    past_limit: Option<Box<BodyHash>>,
    out_of_memory: bool,
    /// Nothing is kept, because nothing is to be kept.
    unkept: bool,
}

/// A piece of this many bytes or more is kept by reference.
const LONG: usize = 16 << 10;
/// Copied together, at most, in bytes.
const TAIL: usize = 64 << 10;

impl BodyCopy {
    pub fn new(max: usize, memory: &Memory) -> Self {
        Self {
            pieces: Vec::new(),
            tail: BytesMut::new(),
            kept: 0,
            length: 0,
            max,
            share: memory.share(),
            past_limit: None,
            out_of_memory: false,
            unkept: false,
        }
    }

    /// A copy that keeps no bytes: length and hash only.
    pub fn counted(memory: &Memory) -> Self {
        Self { past_limit: Some(Box::new(BodyHash::new())), unkept: true, ..Self::new(0, memory) }
    }

    /// Whether the copy holds less than passed although it should not.
    pub fn fell_short(&self) -> bool {
        self.past_limit.is_some() && !self.unkept
    }

    /// Takes note of a piece.
    pub fn push(&mut self, piece: &Bytes) {
        self.length += piece.len() as u64;
        if let Some(hash) = &mut self.past_limit {
            hash.update(piece);
            return;
        }
        let room = self.max - self.kept;
        let fits = piece.len() <= room;
        let wanted = piece.len().min(room);
        if self.share.grow(wanted) {
            self.keep(piece, wanted);
            if fits {
                return;
            }
        } else {
            self.out_of_memory = true;
        }
        // From here on the hash must be kept up to date; what was kept so far is all of the body before `rest`.
        let mut hash = BodyHash::new();
        for piece in self.parts() {
            hash.update(piece);
        }
        let before = self.kept - (self.length as usize - piece.len());
        hash.update(&piece[before..]);
        self.past_limit = Some(Box::new(hash));
    }

    fn keep(&mut self, piece: &Bytes, length: usize) {
        self.kept += length;
        if length >= LONG {
            if !self.tail.is_empty() {
                self.pieces.push(self.tail.split().freeze());
            }
            self.pieces.push(piece.slice(..length));
        } else {
            self.tail.extend_from_slice(&piece[..length]);
            // Growing further would take twice of what it holds.
            if self.tail.len() >= TAIL {
                self.pieces.push(self.tail.split().freeze());
            }
        }
    }

    /// What is kept, in order.
    fn parts(&self) -> impl Iterator<Item = &[u8]> {
        self.pieces.iter().map(AsRef::as_ref).chain(Some(self.tail.as_ref()))
    }

    /// Bytes kept so far.
    pub fn kept(&self) -> usize {
        self.kept
    }

    /// Whether the copy is cut because memory was short, not because the body was long.
    pub fn out_of_memory(&self) -> bool {
        self.out_of_memory
    }

    /// The recorded body as far as it came, without its bytes, and the bytes kept from `from` on.
    pub fn since(&self, from: usize) -> (Body, Vec<Bytes>) {
        let mut skip = from;
        let mut pieces = Vec::new();
        for piece in &self.pieces {
            if skip < piece.len() {
                pieces.push(piece.slice(skip..));
            }
            skip = skip.saturating_sub(piece.len());
        }
        if skip < self.tail.len() {
            pieces.push(Bytes::copy_from_slice(&self.tail[skip..]));
        }
        (self.line(self.past_limit.as_deref().cloned()), pieces)
    }

    /// The recorded body without its bytes, these, and the share of memory to hold until they are written.
    pub fn into_parts(mut self) -> (Body, Vec<Bytes>, Share) {
        let hash = self.past_limit.take().map(|hash| *hash);
        let line = self.line(hash);
        let mut pieces = self.pieces;
        if !self.tail.is_empty() {
            pieces.push(self.tail.freeze());
        }
        (line, pieces, self.share)
    }

    /// Whoever has the bytes can tell the hash of a body that is not truncated.
    fn line(&self, hash: Option<BodyHash>) -> Body {
        let truncated = hash.is_some() && self.length > 0;
        let sha256 = hash.map_or([0; 32], BodyHash::finish);
        Body { bytes: Bytes::new(), length: self.length, sha256, truncated }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use sha2::{Digest, Sha256};

    use super::*;

    proptest! {
        #[test]
        fn any_framing_and_limit_gives_the_true_length_and_hash(
            pieces in prop::collection::vec((any::<u8>(), 0usize..2 * LONG), 0..8),
            max in 0usize..6 * LONG,
            memory in 0usize..8 * LONG,
            from in 0usize..4 * LONG,
        ) {
            let pieces: Vec<Vec<u8>> = pieces.iter().map(|(byte, length)| vec![*byte; *length]).collect();
            let whole: Vec<u8> = pieces.concat();
            let mut copy = BodyCopy::new(max, &Memory::new(memory));
            for piece in &pieces {
                copy.push(&Bytes::copy_from_slice(piece));
            }
            let (so_far, rest) = copy.since(from);
            let kept = copy.kept();
            let (body, parts, _share) = copy.into_parts();
            let bytes = parts.concat();
            prop_assert_eq!(bytes.len(), kept);
            prop_assert_eq!(rest.concat(), &bytes[from.min(kept)..]);
            prop_assert_eq!(&so_far, &body);
            prop_assert_eq!(body.length, whole.len() as u64);
            prop_assert!(whole.starts_with(&bytes));
            prop_assert_eq!(body.truncated, bytes.len() < whole.len());
            if body.truncated {
                let expected: [u8; 32] = Sha256::digest(&whole).into();
                prop_assert_eq!(body.sha256, expected);
            }
            prop_assert!(bytes.len() <= max.min(memory));
            if memory >= whole.len() {
                prop_assert_eq!(bytes.len(), max.min(whole.len()));
            }
        }
    }
}
