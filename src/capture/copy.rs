use bytes::{Bytes, BytesMut};

use super::memory::{Memory, Share};
use crate::model::{Body, BodyHash};

/// A copy of a body as it passes: frames are kept by reference up to a limit, then only counted and hashed.
#[derive(Debug)]
pub(super) struct BodyCopy {
    frames: Vec<Bytes>,
    kept: usize,
    length: u64,
    max: usize,
    share: Share,
    /// Runs from the moment that the limit was passed; hashing what is kept is left to the recorder's thread.
    past_limit: Option<Box<BodyHash>>,
    out_of_memory: bool,
    /// Nothing is kept, because nothing is to be kept.
    unkept: bool,
}

/// What a kept frame costs besides its bytes: streams come in many small ones.
const FRAME: usize = size_of::<Bytes>();

impl BodyCopy {
    pub fn new(max: usize, memory: &Memory) -> Self {
        Self {
            frames: Vec::new(),
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

    /// Takes note of a frame.
    pub fn push(&mut self, frame: &Bytes) {
        self.length += frame.len() as u64;
        if let Some(hash) = &mut self.past_limit {
            hash.update(frame);
            return;
        }
        let room = self.max - self.kept;
        let fits = frame.len() <= room;
        let kept = if fits { frame.clone() } else { frame.slice(..room) };
        if self.share.grow(kept.len() + FRAME) {
            self.kept += kept.len();
            self.frames.push(kept);
            if fits {
                return;
            }
        } else {
            self.out_of_memory = true;
        }
        // From here on the hash must be kept up to date; what was kept so far is all of the body before `rest`.
        let mut hash = BodyHash::new();
        for frame in &self.frames {
            hash.update(frame);
        }
        let before = self.kept - (self.length as usize - frame.len());
        hash.update(&frame[before..]);
        self.past_limit = Some(Box::new(hash));
    }

    /// Whether the copy is cut because memory was short, not because the body was long.
    pub fn out_of_memory(&self) -> bool {
        self.out_of_memory
    }

    /// The recorded body, and the share of memory to hold until it is written. Hashes: not for the request's thread.
    pub fn into_body(self) -> (Body, Share) {
        let bytes = match <[Bytes; 1]>::try_from(self.frames) {
            Ok([only]) => only,
            Err(frames) => {
                let mut all = BytesMut::with_capacity(self.kept);
                for frame in frames {
                    all.extend_from_slice(&frame);
                }
                all.freeze()
            }
        };
        let truncated = self.past_limit.is_some() && self.length > 0;
        let sha256 = match self.past_limit {
            Some(hash) => hash.finish(),
            None => BodyHash::of(&bytes),
        };
        (Body { bytes, length: self.length, sha256, truncated }, self.share)
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
            frames in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..40), 0..12),
            max in 0usize..200,
            memory in 0usize..300,
        ) {
            let whole: Vec<u8> = frames.concat();
            let mut copy = BodyCopy::new(max, &Memory::new(memory));
            for frame in &frames {
                copy.push(&Bytes::copy_from_slice(frame));
            }
            let (body, _share) = copy.into_body();
            prop_assert_eq!(body.length, whole.len() as u64);
            let expected: [u8; 32] = Sha256::digest(&whole).into();
            prop_assert_eq!(body.sha256, expected);
            prop_assert!(whole.starts_with(&body.bytes));
            prop_assert_eq!(body.truncated, body.bytes.len() < whole.len());
            prop_assert!(body.bytes.len() <= max.min(memory));
            if memory >= whole.len() + frames.len() * FRAME {
                prop_assert_eq!(body.bytes.len(), max.min(whole.len()));
            }
        }
    }
}
