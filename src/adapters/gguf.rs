//! LoRA adapters as llama.cpp loads them (`--lora FILE`).
//!
//! GGUF version 3: <https://github.com/ggml-org/ggml/blob/master/docs/gguf.md>. Of an adapter it holds
//! `general.type = adapter`, `adapter.type = lora`, `adapter.lora.alpha`, and a pair of tensors a matrix,
//! `blk.N.attn_q.weight.lora_a` and `.lora_b`. llama.cpp multiplies `B·A` by alpha / rank.

use std::path::Path;

use super::{AdapterError, disk, peft};
use crate::onnx::llama::{Architecture, Family};
use crate::onnx::lora::{Factor, Lora, Piece, Projection};

/// Tensors begin at multiples of this, in bytes; the format's default.
const ALIGNMENT: usize = 32;
/// GGUF's numbers for the types of values.
const FLOAT32: u32 = 6;
const STRING: u32 = 8;
/// GGML's number for tensors of f32.
const F32: u32 = 0;

/// Writes an adapter as one GGUF file, f32.
///
/// # Errors
/// When something is at `file` already, the adapter is none of this model, or the disk fails.
pub fn write(file: &Path, lora: &Lora, model: &Architecture, name: &str) -> Result<(), AdapterError> {
    peft::check(lora, model)?;
    if file.symlink_metadata().is_ok() {
        return Err(AdapterError::Exists { path: file.to_owned() });
    }
    disk::replace(file, &bytes(lora, model, name))
}

/// The architecture as llama.cpp calls it: Mistral's models are converted as `llama`, and so are their adapters.
fn architecture(model: &Architecture) -> &'static str {
    match model.family {
        Family::Llama | Family::Mistral => "llama",
        Family::Qwen2 | Family::Qwen3 => model.family.name(),
    }
}

fn tensor_name(layer: usize, piece: &Piece) -> String {
    let module = match piece.projection {
        Projection::Query => "attn_q",
        Projection::Key => "attn_k",
        Projection::Value => "attn_v",
        Projection::Output => "attn_output",
        Projection::Gate => "ffn_gate",
        Projection::Up => "ffn_up",
        Projection::Down => "ffn_down",
    };
    let factor = match piece.factor {
        Factor::A => "lora_a",
        Factor::B => "lora_b",
    };
    format!("blk.{layer}.{module}.weight.{factor}")
}

/// A file in the making.
#[derive(Default)]
struct Writer(Vec<u8>);

impl Writer {
    fn u32(&mut self, x: u32) {
        self.0.extend(x.to_le_bytes());
    }

    fn u64(&mut self, x: usize) {
        self.0.extend((x as u64).to_le_bytes());
    }

    fn text(&mut self, text: &str) {
        self.u64(text.len());
        self.0.extend(text.as_bytes());
    }

    fn pair(&mut self, key: &str, value: &str) {
        self.text(key);
        self.u32(STRING);
        self.text(value);
    }

    fn pad(&mut self) {
        self.0.resize(self.0.len().next_multiple_of(ALIGNMENT), 0);
    }
}

fn bytes(lora: &Lora, model: &Architecture, name: &str) -> Vec<u8> {
    let pieces = lora.shape.pieces(model);
    let mut out = Writer(b"GGUF".to_vec());
    out.u32(3);
    out.u64(pieces.len() * lora.layers.len());
    let pairs = [
        ("general.architecture", architecture(model)),
        ("general.type", "adapter"),
        ("general.name", name),
        ("adapter.type", "lora"),
    ];
    out.u64(pairs.len() + 1);
    for (key, value) in pairs {
        out.pair(key, value);
    }
    out.text("adapter.lora.alpha");
    out.u32(FLOAT32);
    out.0.extend((lora.shape.scale * lora.shape.rank as f32).to_le_bytes());
    let mut offset = 0;
    for layer in 0..lora.layers.len() {
        for piece in &pieces {
            out.text(&tensor_name(layer, piece));
            out.u32(2);
            // The fastest dimension comes first.
            out.u64(piece.columns);
            out.u64(piece.rows);
            out.u32(F32);
            out.u64(offset);
            offset += (piece.rows * piece.columns * 4).next_multiple_of(ALIGNMENT);
        }
    }
    out.pad();
    for vector in &lora.layers {
        for piece in &pieces {
            let matrix = &vector[piece.range()];
            for row in 0..piece.rows {
                let from = source_row(model, piece, row) * piece.columns;
                out.0.extend(matrix[from..from + piece.columns].iter().flat_map(|x| x.to_le_bytes()));
            }
            out.pad();
        }
    }
    out.0
}

/// The row of ours that becomes `row` of the file's.
///
/// llama.cpp rotates neighbouring dimensions of a head where Hugging Face rotates the two halves against each other, and
/// its converter reorders the rows of query and key of models of architecture `llama` accordingly: within a head, row
/// `2j + h` is row `j + h · head_dim / 2` of ours. B's rows are the projection's; A's are not touched.
fn source_row(model: &Architecture, piece: &Piece, row: usize) -> usize {
    let rotated =
        matches!(piece.projection, Projection::Query | Projection::Key) && piece.factor == Factor::B;
    if !rotated || architecture(model) != "llama" {
        return row;
    }
    let (head, within) = (row / model.head_dim, row % model.head_dim);
    head * model.head_dim + within / 2 + (within % 2) * (model.head_dim / 2)
}
