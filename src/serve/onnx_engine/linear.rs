//! Matrices as a program holds them: floats, or blocks of few bits.

use ort::value::DynTensor;

use super::{OnnxEngineError, Precision};
use crate::onnx::checkpoint::{Blocks, Checkpoint, Held, Part, Prepared};
use crate::onnx::graph::{Attribute, Dim, F32, Graph, MICROSOFT, Var};
use crate::onnx::lent::{lent, owned};
use crate::onnx::program::ProgramError;

/// MLAS rounds activations to 8 bits for each block, and multiplies integers: several times faster than multiplying
/// floats, and an error of about 0.4 % of a block's largest activation.
const INTEGER_PRODUCTS: i64 = 4;

/// A linear map `y = W·x`: pieces of `W` one below another, each stored in its own way. Neighbours that are stored alike
/// are one piece, since one large product is faster than two small ones.
pub(super) struct Linear {
    pieces: Vec<(usize, Stored)>,
    columns: usize,
}

enum Stored {
    /// `[rows, columns]`
    Floats(DynTensor),
    Blocks {
        bits: u8,
        block: usize,
        /// `[rows, columns / block, block · bits / 8]`, bytes.
        quants: DynTensor,
        /// `[rows · columns / block]`
        scales: DynTensor,
        /// `[rows, columns / block]`
        offsets: Option<DynTensor>,
    },
}

/// What matrices are read from.
pub(super) struct Source<'a> {
    pub checkpoint: &'a Checkpoint,
    /// The weights as floats, where a file of them is mapped.
    pub floats: Option<&'a Prepared>,
    pub precision: Precision,
}

impl Source<'_> {
    /// All elements of a part as floats.
    pub fn floats(&self, part: Part) -> Result<Vec<f32>, OnnxEngineError> {
        Ok(self.checkpoint.floats(part)?)
    }

    /// A part in blocks, where the precision asks for it.
    pub fn blocks(&self, part: Part) -> Result<Option<Blocks>, OnnxEngineError> {
        Ok(self.checkpoint.blocks_at(part, self.precision)?)
    }

    /// The map that `parts` are, one below another. `joined`: the same as floats, where they are mapped.
    pub fn linear(
        &self,
        parts: &[Part],
        joined: impl Fn(&Prepared) -> &[f32],
    ) -> Result<Linear, OnnxEngineError> {
        let columns = self.checkpoint.shape(parts[0]).expect("asked for by its architecture").1;
        if let (Precision::F32, Some(mapped)) = (self.precision, self.floats) {
            let values = joined(mapped);
            let rows = values.len() / columns;
            return Ok(Linear {
                pieces: vec![(rows, Stored::Floats(lent(values, &[rows, columns])?))],
                columns,
            });
        }
        let mut pieces: Vec<Held> = Vec::new();
        for &part in parts {
            match (pieces.last_mut(), self.checkpoint.held(part, self.precision)?) {
                (Some(Held::Floats(above)), Held::Floats(below)) => above.extend(below),
                (Some(Held::Half(above)), Held::Half(below)) => above.extend(below),
                (Some(Held::Blocks(above)), Held::Blocks(below)) if are_alike(above, &below) => {
                    join(above, below);
                }
                (_, piece) => pieces.push(piece),
            }
        }
        let pieces = pieces.into_iter().map(|piece| store(&piece, columns)).collect::<Result<_, _>>()?;
        Ok(Linear { pieces, columns })
    }
}

fn are_alike(above: &Blocks, below: &Blocks) -> bool {
    let kind = |b: &Blocks| (b.bits, b.block, b.columns, b.offsets.is_some());
    kind(above) == kind(below)
}

fn join(above: &mut Blocks, below: Blocks) {
    above.rows += below.rows;
    above.quants.extend(below.quants);
    above.scales.extend(below.scales);
    if let (Some(above), Some(below)) = (&mut above.offsets, below.offsets) {
        above.extend(below);
    }
}

fn store(piece: &Held, columns: usize) -> Result<(usize, Stored), ProgramError> {
    match piece {
        // There are no products of 16-bit floats on the processor.
        Held::Half(values) => {
            let floats = values.iter().copied().map(f32::from).collect();
            store(&Held::Floats(floats), columns)
        }
        Held::Floats(values) => {
            let rows = values.len() / columns;
            Ok((rows, Stored::Floats(owned(values, &[rows, columns])?)))
        }
        Held::Blocks(blocks) => {
            let (rows, groups, bits) = (blocks.rows, columns / blocks.block, usize::from(blocks.bits));
            // The graph multiplies by means of blocks, not sums.
            #[expect(clippy::cast_precision_loss, reason = "blocks are small")]
            let of_means = |offsets: &Vec<f32>| -> Vec<f32> {
                offsets.iter().map(|offset| offset * blocks.block as f32).collect()
            };
            let offsets = blocks.offsets.as_ref().map(of_means);
            let stored = Stored::Blocks {
                bits: blocks.bits,
                block: blocks.block,
                quants: owned(&blocks.quants, &[rows, groups, blocks.block * bits / 8])?,
                scales: owned(&blocks.scales, &[rows * groups])?,
                offsets: offsets.map(|offsets| owned(&offsets, &[rows, groups])).transpose()?,
            };
            Ok((rows, stored))
        }
    }
}

impl Linear {
    /// Rows of all pieces: what comes out.
    pub fn rows(&self) -> usize {
        self.pieces.iter().map(|(rows, _)| rows).sum()
    }

    /// Appends `W·x` to a graph, for `x [.., columns]`; `name` is told apart from other maps' names.
    ///
    /// With offsets, `w = scale · (q − zero) + offset`, so `W·x = Q·x + O·s` where `s` are the sums of `x` over blocks:
    /// exact, and a matrix of 1/32 the size.
    pub fn apply(self, g: &mut Graph, x: Var, name: &str) -> Var {
        let (rows, columns) = (self.rows(), self.columns);
        let mut products = Vec::new();
        for (index, (rows, stored)) in self.pieces.into_iter().enumerate() {
            let weight = |g: &mut Graph, what: &str, tensor: DynTensor| {
                g.initializer(format!("{name}.{index}.{what}"), tensor)
            };
            let mut shape = g.shape(x).to_vec();
            *shape.last_mut().expect("x has axes") = rows.into();
            products.push(match stored {
                Stored::Floats(values) => {
                    let values = weight(g, "weight", values);
                    g.linear(x, values)
                }
                Stored::Blocks { bits, block, quants, scales, offsets } => {
                    let small = |n: usize| Attribute::Integer(i64::try_from(n).expect("sizes are small"));
                    let attributes = vec![
                        ("K", small(columns)),
                        ("N", small(rows)),
                        ("bits", small(bits.into())),
                        ("block_size", small(block)),
                        ("accuracy_level", Attribute::Integer(INTEGER_PRODUCTS)),
                    ];
                    let inputs =
                        [Some(x), Some(weight(g, "quants", quants)), Some(weight(g, "scales", scales))];
                    let product = g.raw("MatMulNBits", MICROSOFT, &inputs, &[(shape, F32)], attributes)[0];
                    match offsets {
                        None => product,
                        Some(offsets) => {
                            let offsets = weight(g, "offsets", offsets);
                            let means = block_means(g, x, block);
                            let shift = g.linear(means, offsets);
                            g.add(product, shift)
                        }
                    }
                }
            });
        }
        let axis = g.shape(x).len() - 1;
        g.concat(&products, axis, rows.into())
    }
}

/// Means over blocks of the last axis of `x [B, S, columns]`.
fn block_means(g: &mut Graph, x: Var, block: usize) -> Var {
    let mut shape = g.shape(x).to_vec();
    let last = shape.last_mut().expect("x has axes");
    *last = Dim::Size(last.size() / block);
    let extent = Attribute::Integers(vec![i64::try_from(block).expect("blocks are small")]);
    let attributes = vec![("kernel_shape", extent.clone()), ("strides", extent)];
    g.raw("AveragePool", "", &[Some(x)], &[(shape, F32)], attributes)[0]
}
