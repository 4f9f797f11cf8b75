//! A LoRA adapter in memory: one flat vector a layer.
//!
//! A layer's vector holds, for each group of projections that read the same input (query, key, value; output; gate, up;
//! down), the group's A matrices one after another, then its B matrices. So the A's of a group are one matrix without
//! being copied, an optimiser sees one vector, and a checkpoint is a list of vectors.
//!
//! LoRA: Hu et al. 2021, <https://arxiv.org/abs/2106.09685>.

use serde::{Deserialize, Serialize};

use super::llama::Architecture;

/// A linear map within a block that an adapter may change.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Projection {
    Query,
    Key,
    Value,
    Output,
    Gate,
    Up,
    Down,
}

/// Projections that read the same input, in the order of a layer's vector.
pub const GROUPS: [&[Projection]; 4] = [
    &[Projection::Query, Projection::Key, Projection::Value],
    &[Projection::Output],
    &[Projection::Gate, Projection::Up],
    &[Projection::Down],
];

impl Projection {
    /// All of them, in the order of a layer's vector.
    pub const ALL: [Self; 7] =
        [Self::Query, Self::Key, Self::Value, Self::Output, Self::Gate, Self::Up, Self::Down];

    /// The last part of its name in Hugging Face checkpoints, as in PEFT's `target_modules`.
    #[must_use]
    pub fn module(self) -> &'static str {
        match self {
            Self::Query => "q_proj",
            Self::Key => "k_proj",
            Self::Value => "v_proj",
            Self::Output => "o_proj",
            Self::Gate => "gate_proj",
            Self::Up => "up_proj",
            Self::Down => "down_proj",
        }
    }

    /// The module that holds it within a layer.
    #[must_use]
    pub fn parent(self) -> &'static str {
        match self {
            Self::Query | Self::Key | Self::Value | Self::Output => "self_attn",
            Self::Gate | Self::Up | Self::Down => "mlp",
        }
    }

    /// Columns in and out.
    #[must_use]
    pub fn widths(self, model: &Architecture) -> (usize, usize) {
        match self {
            Self::Query => (model.hidden, model.query_width()),
            Self::Key | Self::Value => (model.hidden, model.kv_width()),
            Self::Output => (model.query_width(), model.hidden),
            Self::Gate | Self::Up => (model.hidden, model.feed_forward),
            Self::Down => (model.feed_forward, model.hidden),
        }
    }
}

/// Which of the two factors of an update: `W + scale · B·A`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Factor {
    /// `[rank, in]`
    A,
    /// `[out, rank]`
    B,
}

/// One matrix within a layer's vector, row-major.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Piece {
    pub projection: Projection,
    pub factor: Factor,
    pub rows: usize,
    pub columns: usize,
    /// Where it begins in the vector.
    pub start: usize,
}

impl Piece {
    #[must_use]
    pub fn range(&self) -> std::ops::Range<usize> {
        self.start..self.start + self.rows * self.columns
    }
}

/// The shape of an adapter.
#[derive(Clone, Debug, PartialEq)]
pub struct LoraShape {
    pub rank: usize,
    /// What `B·A` is multiplied by: alpha / rank, or alpha / √rank for rank-stabilised adapters.
    pub scale: f32,
    /// In the order of [`Projection::ALL`], each at most once.
    targets: Vec<Projection>,
}

impl LoraShape {
    /// `targets` in any order.
    #[must_use]
    pub fn new(rank: usize, scale: f32, targets: &[Projection]) -> Self {
        let mut targets = targets.to_vec();
        targets.sort_unstable();
        targets.dedup();
        Self { rank, scale, targets }
    }

    #[must_use]
    pub fn targets(&self) -> &[Projection] {
        &self.targets
    }

    /// The targets of one group of [`GROUPS`].
    pub fn targets_of<'a>(&'a self, group: &'a [Projection]) -> impl Iterator<Item = Projection> + 'a {
        group.iter().copied().filter(|p| self.targets.contains(p))
    }

    /// The matrices of a layer's vector, in order.
    #[must_use]
    pub fn pieces(&self, model: &Architecture) -> Vec<Piece> {
        let mut pieces = Vec::new();
        let mut start = 0;
        for group in GROUPS {
            for factor in [Factor::A, Factor::B] {
                for projection in self.targets_of(group) {
                    let (input, output) = projection.widths(model);
                    let (rows, columns) = match factor {
                        Factor::A => (self.rank, input),
                        Factor::B => (output, self.rank),
                    };
                    pieces.push(Piece { projection, factor, rows, columns, start });
                    start += rows * columns;
                }
            }
        }
        pieces
    }

    /// Elements of a layer's vector.
    #[must_use]
    pub fn len(&self, model: &Architecture) -> usize {
        self.pieces(model).last().map_or(0, |last| last.range().end)
    }
}

/// An adapter's weights.
#[derive(Clone, Debug, PartialEq)]
pub struct Lora {
    pub shape: LoraShape,
    /// A vector of [`LoraShape::len`] elements for each layer.
    pub layers: Vec<Vec<f32>>,
}

/// Whether no number is infinite or none at all.
#[must_use]
pub fn all_finite(values: &[f32]) -> bool {
    // The largest exponent, all ones where a number is not finite: compilers vectorise this, but no early exit.
    let infinite = f32::INFINITY.to_bits();
    values.iter().fold(0, |most: u32, value| most.max(value.to_bits() & infinite)) < infinite
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::onnx::llama::Family;

    fn model() -> Architecture {
        Architecture {
            family: Family::Llama,
            hidden: 6,
            feed_forward: 10,
            layers: 2,
            heads: 2,
            kv_heads: 1,
            head_dim: 4,
            vocabulary: 11,
            norm_epsilon: 1e-5,
            rotary_frequencies: vec![1.0, 0.1],
            context: 32,
            sliding_window: None,
            qkv_bias: false,
            qk_norm: false,
            tied: true,
        }
    }

    #[test]
    fn pieces_lie_next_to_each_other_and_the_as_of_a_group_are_adjacent() {
        let shape = LoraShape::new(2, 2.0, &Projection::ALL);
        let pieces = shape.pieces(&model());
        assert_eq!(pieces.len(), 14);
        let mut end = 0;
        for piece in &pieces {
            assert_eq!(piece.start, end);
            end = piece.range().end;
        }
        assert_eq!(end, shape.len(&model()));
        let first: Vec<_> = pieces[..3].iter().map(|p| (p.projection, p.factor, p.rows, p.columns)).collect();
        assert_eq!(first[0], (Projection::Query, Factor::A, 2, 6));
        assert_eq!(first[2], (Projection::Value, Factor::A, 2, 6));
        assert_eq!((pieces[3].rows, pieces[3].columns), (8, 2), "B of query is [out, rank]");
    }

    #[test]
    fn targets_are_sorted_and_missing_ones_leave_no_gap() {
        let shape = LoraShape::new(1, 1.0, &[Projection::Down, Projection::Query, Projection::Query]);
        assert_eq!(shape.targets(), [Projection::Query, Projection::Down]);
        assert_eq!(shape.len(&model()), (6 + 8) + (10 + 6));
    }

    #[test]
    fn only_numbers_are_finite() {
        let mut values = vec![f32::MIN, -0.0, f32::MIN_POSITIVE / 2.0, f32::MAX];
        assert!(all_finite(&values) && all_finite(&[]));
        for wrong in [f32::NAN, -f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            values[2] = wrong;
            assert!(!all_finite(&values), "{wrong}");
        }
    }
}
