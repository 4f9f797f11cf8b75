use std::path::PathBuf;

use crate::onnx::program::ProgramError;

/// A run cannot begin or go on. What was reached before is kept.
#[derive(Debug, thiserror::Error)]
pub enum TrainError {
    #[error("training options: {name} {rule}")]
    Option { name: &'static str, rule: &'static str },

    #[error("there is nothing to train on: no example has a token that counts")]
    NoExamples,

    #[error(
        "example {index} has {tokens} tokens, more than the context of {context}: leave it out or raise `context`"
    )]
    TooLong { index: usize, tokens: usize, context: usize },

    #[error(
        "example {index}: token {token} is not in the model's vocabulary of {vocabulary}: it was made for another model"
    )]
    Token { index: usize, token: u32, vocabulary: usize },

    #[error("{path}: {reason}")]
    State { path: PathBuf, reason: String },

    #[error("{path}: cannot {operation}: {source}")]
    Io { operation: &'static str, path: PathBuf, source: std::io::Error },

    #[error(transparent)]
    Program(#[from] ProgramError),
}
