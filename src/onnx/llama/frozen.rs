//! Frozen matrices in a graph: given as floats of 32 or 16 bits, or in blocks of few bits. What the device has no products
//! of, the graph makes floats of where it is used, so that only the matrices of one layer are ever there as floats.

use ort::value::TensorElementType;

use crate::onnx::graph::{Dim, F32, Graph, Var};

/// How a frozen matrix `[rows, columns]` is given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Storage {
    /// As floats, one input by the matrix's name; products are of that type.
    Floats(TensorElementType),
    /// As floats of another type than 32 bits, for a device that has no products of it.
    Widened(TensorElementType),
    /// As [`QUANTS`] (signed integers of 4 or 8 bits, zero at 0) and [`SCALES`] `[rows, columns / block]`, and [`OFFSETS`]
    /// shaped alike where the format has minima: `w = scale · q + offset`.
    Blocks { bits: u8, block: usize, offsets: bool },
}

/// What the inputs of a matrix in blocks have after its name.
pub(super) const QUANTS: &str = ".quants";
pub(super) const SCALES: &str = ".scales";
pub(super) const OFFSETS: &str = ".offsets";

/// The matrix.
pub(super) fn frozen_matrix(
    g: &mut Graph,
    name: &str,
    (rows, columns): (usize, usize),
    storage: Storage,
) -> Var {
    match inputs(g, name, (rows, columns), storage) {
        Inputs::Floats(matrix) if matches!(storage, Storage::Widened(_)) => g.cast(matrix, F32),
        Inputs::Floats(matrix) => matrix,
        Inputs::Blocks(blocks) => dequantized(g, &blocks),
    }
}

/// Rows of the matrix at `indices [B, S]`: `[B, S, columns]`, 32-bit floats. Blocks are looked up as they are, since a whole
/// table of floats may be larger than the rest of the model; ONNX can look up bytes, but not halves of them.
pub(super) fn frozen_rows(
    g: &mut Graph,
    name: &str,
    size: (usize, usize),
    storage: Storage,
    indices: Var,
) -> Var {
    match inputs(g, name, size, storage) {
        Inputs::Floats(matrix) => {
            let found = g.gather(matrix, indices);
            g.cast(found, F32)
        }
        Inputs::Blocks(Blocks { quants, scales, offsets, block }) => {
            let found = Blocks {
                quants: g.gather(quants, indices),
                scales: g.gather(scales, indices),
                offsets: offsets.map(|offsets| g.gather(offsets, indices)),
                block,
            };
            dequantized(g, &found)
        }
    }
}

enum Inputs {
    Floats(Var),
    Blocks(Blocks),
}

/// The last axis is that of columns.
struct Blocks {
    quants: Var,
    scales: Var,
    offsets: Option<Var>,
    block: usize,
}

fn inputs(g: &mut Graph, name: &str, (rows, columns): (usize, usize), storage: Storage) -> Inputs {
    let whole = [rows.into(), columns.into()];
    match storage {
        Storage::Floats(kind) | Storage::Widened(kind) => Inputs::Floats(g.input(name, &whole, kind)),
        Storage::Blocks { bits, block, offsets } => {
            let kind = if bits == 4 { TensorElementType::Int4 } else { TensorElementType::Int8 };
            let per_block = [rows.into(), (columns / block).into()];
            Inputs::Blocks(Blocks {
                quants: g.input(format!("{name}{QUANTS}"), &whole, kind),
                scales: g.input(format!("{name}{SCALES}"), &per_block, F32),
                offsets: offsets.then(|| g.input(format!("{name}{OFFSETS}"), &per_block, F32)),
                block,
            })
        }
    }
}

fn dequantized(g: &mut Graph, blocks: &Blocks) -> Var {
    let matrix = g.dequantize(blocks.quants, blocks.scales, blocks.block);
    let Some(offsets) = blocks.offsets else { return matrix };
    let mut in_blocks = g.shape(offsets).to_vec();
    in_blocks.push(Dim::Size(1));
    let offsets = g.reshape(offsets, &in_blocks);
    *in_blocks.last_mut().expect("just pushed") = Dim::Size(blocks.block);
    let split = g.reshape(matrix, &in_blocks);
    let sum = g.add(split, offsets);
    g.reshape_like(sum, matrix)
}
