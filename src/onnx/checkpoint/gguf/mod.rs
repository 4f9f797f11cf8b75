//! GGUF, llama.cpp's format: one file with weights, architecture, tokenizer and chat template.
//!
//! In: a mapped file. Out: what every kind of checkpoint gives ([`Contents`]).

mod architecture;
mod file;
mod text;

use std::path::Path;

use self::file::File;
use super::encoding::Encoding;
use super::mapped::Mapped;
use super::parts::Naming;
use super::{CheckpointError, Contents, Stored};
use crate::onnx::llama::Family;

/// Reads everything but the weights themselves.
pub(super) fn open(path: &Path) -> Result<Contents, CheckpointError> {
    let mapped = Mapped::open(path)?;
    let file = File::parse(mapped.path(), mapped.bytes())?;
    let architecture = architecture::read(&file, mapped.bytes())?;
    let (tokenizer, template) = text::read(&file)?;
    let tensors = file
        .tensors
        .iter()
        .map(|tensor| {
            let stored = Stored {
                file: 0,
                start: tensor.start,
                encoding: Encoding::of_ggml(tensor.kind).ok_or_else(|| ggml_name(tensor.kind)),
                rows: tensor.rows,
                columns: tensor.columns,
                turned: None,
            };
            (tensor.name.to_owned(), stored)
        })
        .collect();
    // llama.cpp turns pairs of neighbouring dimensions where Hugging Face turns one half with the other, and its
    // converter sorts the rows of queries and keys for that; for the families of Qwen it turns halves as well.
    let rows_are_sorted = architecture.family == Family::Llama;
    drop(file);
    Ok(Contents {
        architecture,
        tokenizer,
        template,
        naming: Naming::Gguf,
        files: vec![mapped],
        tensors,
        rows_are_sorted,
    })
}

/// Names of those that are not supported, for messages.
fn ggml_name(kind: u32) -> String {
    let name = match kind {
        9 => "Q8_1",
        10 => "Q2_K",
        11 => "Q3_K",
        15 => "Q8_K",
        16 => "IQ2_XXS",
        17 => "IQ2_XS",
        18 => "IQ3_XXS",
        19 => "IQ1_S",
        20 => "IQ4_NL",
        21 => "IQ3_S",
        22 => "IQ2_S",
        23 => "IQ4_XS",
        24..=27 => "integers",
        28 => "F64",
        29 => "IQ1_M",
        34 => "TQ1_0",
        35 => "TQ2_0",
        39 => "MXFP4",
        _ => return format!("ggml type {kind}"),
    };
    name.to_owned()
}
