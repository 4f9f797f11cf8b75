//! Adapters as ONNX Runtime's own loader takes them (`.onnx_adapter`).
//!
//! A FlatBuffer with identifier `TORT`; tables, in the order of their fields:
//! `Adapter { format_version: int; adapter_version: int; model_version: int; parameters: [Parameter] }` and
//! `Parameter { name: string; dims: [long]; data_type: int; raw_data: [ubyte] }`, where a data type is a number of ONNX
//! (1: float) and data begins at a multiple of 8. Schema: `onnxruntime/lora/adapter_format/adapter_schema.fbs`.
//!
//! Parameters have the names that PEFT's files have without `base_model.model.`, and its shapes. Of the scale an
//! `.onnx_adapter` knows nothing, so B is multiplied by it.

use std::path::Path;

use flatbuffers::{FlatBufferBuilder, TableFinishedWIPOffset, VOffsetT, Vector, WIPOffset};

use super::{AdapterError, disk, peft};
use crate::onnx::llama::Architecture;
use crate::onnx::lora::{Factor, Lora};

/// `AdapterFormat`'s version that ONNX Runtime 1.20 and later read.
const FORMAT_VERSION: i32 = 1;
/// ONNX's number for f32.
const FLOAT: i32 = 1;
const IDENTIFIER: &str = "TORT";

/// Where the n-th field of a table stands: two slots are taken by the lengths of the table.
const fn slot(n: VOffsetT) -> VOffsetT {
    4 + 2 * n
}

/// Writes an adapter as one file, f32. `adapter_version` is the caller's own count.
///
/// # Errors
/// When something is at `file` already, the adapter is none of this model, or the disk fails.
pub fn write(
    file: &Path,
    lora: &Lora,
    model: &Architecture,
    adapter_version: i32,
) -> Result<(), AdapterError> {
    peft::check(lora, model)?;
    if file.symlink_metadata().is_ok() {
        return Err(AdapterError::Exists { path: file.to_owned() });
    }
    disk::replace(file, &bytes(lora, model, adapter_version))
}

/// The floats' bytes as a vector of bytes whose first is at a multiple of 8: readers take tensors as they lie.
fn raw_data<'a>(
    out: &mut FlatBufferBuilder<'a>,
    data: impl ExactSizeIterator<Item = f32> + DoubleEndedIterator,
) -> WIPOffset<Vector<'a, u8>> {
    let count = data.len();
    // Written from its end to its beginning: where it ends decides where it begins.
    out.push(0_u64);
    if count % 2 == 1 {
        out.push(0_u32);
    }
    out.start_vector::<f32>(count);
    for x in data.rev() {
        out.push(x);
    }
    out.end_vector::<u8>(count * size_of::<f32>())
}

fn bytes(lora: &Lora, model: &Architecture, adapter_version: i32) -> Vec<u8> {
    let pieces = lora.shape.pieces(model);
    let mut out = FlatBufferBuilder::new();
    let mut parameters: Vec<WIPOffset<TableFinishedWIPOffset>> = Vec::new();
    for (layer, vector) in lora.layers.iter().enumerate() {
        for piece in &pieces {
            let factor = if piece.factor == Factor::B { lora.shape.scale } else { 1.0 };
            let name = peft::name(layer, piece.projection, piece.factor);
            let name = out.create_string(name.trim_start_matches("base_model.model."));
            let dims = out.create_vector(&[piece.rows as i64, piece.columns as i64]);
            let data = raw_data(&mut out, vector[piece.range()].iter().map(|x| x * factor));
            let table = out.start_table();
            out.push_slot_always(slot(3), data);
            out.push_slot_always(slot(2), FLOAT);
            out.push_slot_always(slot(1), dims);
            out.push_slot_always(slot(0), name);
            parameters.push(out.end_table(table));
        }
    }
    let parameters = out.create_vector(&parameters);
    let table = out.start_table();
    out.push_slot_always(slot(3), parameters);
    out.push_slot_always(slot(2), 0_i32);
    out.push_slot_always(slot(1), adapter_version);
    out.push_slot_always(slot(0), FORMAT_VERSION);
    let root = out.end_table(table);
    out.finish(root, Some(IDENTIFIER));
    out.finished_data().to_vec()
}
