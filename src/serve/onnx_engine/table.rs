//! The embedding: rows looked up here, where they are kept once, rather than by the program, which would keep them again.

use super::OnnxEngineError;
use super::linear::Source;
use crate::onnx::checkpoint::{Blocks, Part, Prepared};

/// `[vocabulary, hidden]`
pub(super) struct Table {
    rows: Rows,
    hidden: usize,
}

enum Rows {
    Mapped(Prepared),
    Floats(Vec<f32>),
    Blocks(Blocks),
}

impl Table {
    pub fn read(source: &Source<'_>) -> Result<Self, OnnxEngineError> {
        let hidden = source.checkpoint.architecture.hidden;
        let rows = match (source.blocks(Part::Embedding)?, source.floats) {
            (Some(blocks), _) => Rows::Blocks(blocks),
            (None, Some(mapped)) => Rows::Mapped(mapped.clone()),
            (None, None) => Rows::Floats(source.floats(Part::Embedding)?),
        };
        Ok(Self { rows, hidden })
    }

    /// Appends the row of a token, which is in the vocabulary.
    pub fn append(&self, token: usize, to: &mut Vec<f32>) {
        let span = token * self.hidden..(token + 1) * self.hidden;
        match &self.rows {
            Rows::Mapped(mapped) => to.extend_from_slice(&mapped.embedding()[span]),
            Rows::Floats(values) => to.extend_from_slice(&values[span]),
            Rows::Blocks(all) => {
                let groups = self.hidden / all.block;
                let bytes = self.hidden * usize::from(all.bits) / 8;
                let of = |values: &Vec<f32>| values[token * groups..][..groups].to_vec();
                let row = Blocks {
                    bits: all.bits,
                    block: all.block,
                    rows: 1,
                    columns: self.hidden,
                    quants: all.quants[token * bytes..][..bytes].to_vec(),
                    scales: of(&all.scales),
                    offsets: all.offsets.as_ref().map(of),
                };
                let start = to.len();
                to.resize(start + self.hidden, 0.0);
                row.decode(&mut to[start..]);
            }
        }
    }
}
