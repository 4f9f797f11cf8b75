//! Checkpoints on disk: a directory of safetensors with `config.json`, or one GGUF file, memory-mapped.
//!
//! In: a path. Out: an [`Architecture`], the tensors by the part they play, the tokenizer and the chat template.

use std::path::Path;

use super::llama::Architecture;
use super::text::{ChatTemplate, Tokenizer};

/// The part that a tensor plays, whatever a file calls it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Part {
    /// `[vocabulary, hidden]`
    Embedding,
    /// `[hidden]`, before the output projection.
    Norm,
    /// `[vocabulary, hidden]`; absent when tied to the embedding.
    Output,
    Layer(usize, LayerPart),
}

/// A tensor of one layer. Matrices are `[out, in]`, as in Hugging Face checkpoints: GGUF's permuted rows are put back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum LayerPart {
    AttentionNorm,
    Query,
    Key,
    Value,
    AttentionOutput,
    QueryBias,
    KeyBias,
    ValueBias,
    QueryNorm,
    KeyNorm,
    FeedForwardNorm,
    Gate,
    Up,
    Down,
}

/// A matrix in blocks of few bits: `w = scale · (q − zero) + offset`, `zero` being 8 for 4 bits and 128 for 8 bits.
#[derive(Clone, Debug)]
pub struct Blocks {
    /// 4 or 8.
    pub bits: u8,
    /// Elements of a row that share a scale; divides `columns`.
    pub block: usize,
    pub rows: usize,
    pub columns: usize,
    /// `[rows, columns · bits / 8]`; with 4 bits the even column is in the low half.
    pub quants: Vec<u8>,
    /// `[rows, columns / block]`
    pub scales: Vec<f32>,
    /// `[rows, columns / block]`, where the format has a minimum of its own (Q4_1, Q4_K).
    pub offsets: Option<Vec<f32>>,
}

/// A checkpoint cannot be used. Each message names the file and what to do.
#[derive(Debug, thiserror::Error)]
pub enum CheckpointError {
    #[error("{path}: {reason}")]
    Unreadable { path: std::path::PathBuf, reason: String },
}

/// An opened checkpoint; its files stay mapped while it lives.
pub struct Checkpoint {
    pub architecture: Architecture,
    pub tokenizer: Tokenizer,
    pub template: ChatTemplate,
}

impl Checkpoint {
    /// Opens a GGUF file, or a directory with `config.json`, `tokenizer.json` and `*.safetensors`.
    ///
    /// # Errors
    /// When files are missing or damaged, or the family is none of those supported (both named).
    pub fn open(path: &Path) -> Result<Self, CheckpointError> {
        Err(CheckpointError::Unreadable { path: path.to_owned(), reason: "not yet".to_owned() })
    }

    /// SHA-256 over the weights' bytes, in hex: what an adapter was trained on.
    pub fn hash(&self) -> Result<String, CheckpointError> {
        unimplemented!()
    }

    /// Rows and columns (vectors: 1 row); `None`: the model has no such part.
    #[must_use]
    pub fn shape(&self, _part: Part) -> Option<(usize, usize)> {
        unimplemented!()
    }

    /// Writes a part's elements as f32, row-major, into `out`, which has exactly their number.
    pub fn read(&self, _part: Part, _out: &mut [f32]) -> Result<(), CheckpointError> {
        unimplemented!()
    }

    /// The part as it is stored, where it is stored in blocks: exact, nothing is rounded again.
    pub fn blocks(&self, _part: Part) -> Result<Option<Blocks>, CheckpointError> {
        unimplemented!()
    }
}
