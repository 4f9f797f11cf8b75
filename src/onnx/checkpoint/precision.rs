use half::bf16;

use super::{Blocks, Checkpoint, CheckpointError, Part};
use crate::config::Quantize;

/// Elements that share a scale where matrices are rounded here.
const BLOCK: usize = 32;

/// How matrices are held in memory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Precision {
    /// 32-bit floats.
    #[default]
    F32,
    /// 16-bit floats (bfloat16: the range of 32 bits with 8 significant ones), rounded to the nearest, for matrices.
    Bf16,
    /// 8 bits, in blocks of 32; what the checkpoint has in blocks of 8 bits or fewer stays as it is.
    Q8,
    /// As [`Precision::Q8`] with 4 bits; the embedding and the output have 8.
    Q4,
    /// Blocks of few bits where the checkpoint has them, floats elsewhere.
    AsStored,
}

impl From<Quantize> for Precision {
    fn from(quantize: Quantize) -> Self {
        match quantize {
            Quantize::None => Self::F32,
            Quantize::Stored => Self::AsStored,
            Quantize::Bits8 => Self::Q8,
            Quantize::Bits4 => Self::Q4,
        }
    }
}

/// A part of a model in memory.
#[derive(Clone, Debug)]
pub enum Held {
    /// Row-major.
    Floats(Vec<f32>),
    /// Row-major.
    Half(Vec<bf16>),
    Blocks(Blocks),
}

impl Checkpoint {
    /// All elements of a part as floats, row-major.
    ///
    /// # Errors
    /// When the model has no such part.
    pub fn floats(&self, part: Part) -> Result<Vec<f32>, CheckpointError> {
        let stored = self.stored(part)?;
        let mut values = vec![0.0; stored.rows * stored.columns];
        self.read(part, &mut values)?;
        Ok(values)
    }

    /// A matrix in blocks where the precision asks for them and its columns are whole blocks; `None`: floats. Vectors are
    /// floats always.
    ///
    /// # Errors
    /// When the model has no such part.
    pub fn blocks_at(&self, part: Part, precision: Precision) -> Result<Option<Blocks>, CheckpointError> {
        let (rows, columns) = self.stored(part).map(|stored| (stored.rows, stored.columns))?;
        let bits = match precision {
            Precision::F32 | Precision::Bf16 => return Ok(None),
            Precision::AsStored => None,
            Precision::Q8 => Some(8),
            // The last matrix decides between tokens: 4 bits would change which one comes first.
            Precision::Q4 => Some(if matches!(part, Part::Layer(..)) { 4 } else { 8 }),
        };
        if rows == 1 {
            return Ok(None);
        }
        let stored = self.blocks(part)?.filter(is_supported);
        let Some(bits) = bits else { return Ok(stored) };
        if let Some(stored) = stored.filter(|blocks| blocks.bits <= bits) {
            return Ok(Some(stored));
        }
        if !columns.is_multiple_of(BLOCK) {
            return Ok(None);
        }
        Ok(Some(Blocks::round(&self.floats(part)?, columns, BLOCK, bits)))
    }

    /// A part as the precision asks for it.
    ///
    /// # Errors
    /// When the model has no such part.
    pub fn held(&self, part: Part, precision: Precision) -> Result<Held, CheckpointError> {
        if let Some(blocks) = self.blocks_at(part, precision)? {
            return Ok(Held::Blocks(blocks));
        }
        let (values, is_matrix) = (self.floats(part)?, self.stored(part)?.rows > 1);
        if precision == Precision::Bf16 && is_matrix {
            return Ok(Held::Half(values.into_iter().map(bf16::from_f32).collect()));
        }
        Ok(Held::Floats(values))
    }
}

/// Whether the runtime has fast products for such blocks.
fn is_supported(blocks: &Blocks) -> bool {
    blocks.block >= 16 && blocks.block.is_power_of_two() && matches!(blocks.bits, 4 | 8)
}
