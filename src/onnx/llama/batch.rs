//! A batch of token rows, as the programs of blocks take it.

use ort::value::DynTensor;

use super::MOST_CHUNKS;
use crate::onnx::program::{self, ProgramError};

/// From this many tokens on, queries are taken in chunks of about this many.
const CHUNK: usize = 128;

/// Rows of tokens, of one length.
pub struct Batch {
    pub rows: usize,
    pub length: usize,
    pub(super) chunks: usize,
    pub(super) longest: usize,
    pub(super) ids: DynTensor,
    pub(super) positions: DynTensor,
    pub(super) segments: DynTensor,
    /// 0, 1, … `[length]`
    pub(super) places: DynTensor,
}

/// One token of a row.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Slot {
    pub token: u32,
    /// Its place in its sequence, from 0.
    pub position: u32,
    /// Tokens see those of the same segment in their row; 0 is padding.
    pub segment: u32,
}

impl Batch {
    /// `slots [rows, length]`, row-major; the length is [`Batch::padded`].
    ///
    /// # Errors
    /// When memory is short.
    ///
    /// # Panics
    /// When `slots` are not whole rows of a padded length.
    pub fn new(slots: &[Slot], length: usize) -> Result<Self, ProgramError> {
        let rows = slots.len() / length;
        assert_eq!(slots.len(), rows * length, "rows are whole");
        assert_eq!(length, Self::padded(length), "lengths are padded");
        let integers = |of: fn(&Slot) -> u32| {
            program::integers(&[rows, length], slots.iter().map(|s| i64::from(of(s))).collect())
        };
        // ONNX Runtime refuses tables of fewer positions than a row has tokens, whatever positions these have.
        let longest = slots.iter().map(|s| s.position as usize + 1).max().unwrap_or(1).max(length);
        Ok(Self {
            rows,
            length,
            chunks: chunks(length),
            longest,
            ids: integers(|s| s.token)?,
            positions: integers(|s| s.position)?,
            segments: integers(|s| s.segment)?,
            places: program::integers(&[length], (0..).take(length).collect())?,
        })
    }

    /// The length of rows that hold at least `length` tokens.
    #[must_use]
    pub fn padded(length: usize) -> usize {
        length.max(1).next_multiple_of(chunks(length).max(if length > 8 { 8 } else { 1 }))
    }
}

/// A power of two, so that a padded length stays a multiple of it.
fn chunks(length: usize) -> usize {
    (length / CHUNK).max(1).next_power_of_two().min(MOST_CHUNKS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn padding_is_small_and_stable_and_fits_the_chunks() {
        for length in 1..3000 {
            let padded = Batch::padded(length);
            assert!(padded >= length && padded < length + 8, "{length}");
            assert_eq!(Batch::padded(padded), padded);
            assert_eq!(padded % chunks(padded), 0);
        }
    }
}
