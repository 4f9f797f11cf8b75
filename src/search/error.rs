use std::path::PathBuf;

use crate::store::StoreError;

/// Text cannot be turned into vectors.
#[derive(Debug, thiserror::Error)]
pub enum EmbedError {
    #[cfg(feature = "onnx")]
    #[error(transparent)]
    Provision(#[from] crate::onnx::ProvisionError),

    #[cfg(feature = "onnx")]
    #[error(transparent)]
    Runtime(#[from] crate::onnx::RuntimeError),

    #[cfg(feature = "onnx")]
    #[error("{path}: cannot read a file of the embedding model: {source}")]
    Read { path: PathBuf, source: std::io::Error },

    #[cfg(feature = "onnx")]
    #[error("cannot {operation} the embedding model: {source}")]
    Model { operation: &'static str, source: fastembed::Error },

    #[error("this binary was built without the feature `onnx`: set search.embedder to `auto` or `lexical`")]
    NotBuilt,
}

/// Trajectories cannot be indexed or found.
#[derive(Debug, thiserror::Error)]
pub enum SearchError {
    #[error(
        "{path}: cannot {operation}: {source}. Check that the directory is writable and the disk not full"
    )]
    Directory { operation: &'static str, path: PathBuf, source: std::io::Error },

    #[error(
        "{path}: the search index needs repair, but another process is writing it: try again when that is done"
    )]
    Busy { path: PathBuf },

    #[error(
        "cannot {operation} the search index: {source}. It is derived: deleting {path} makes it be built anew"
    )]
    Index { operation: &'static str, path: PathBuf, source: tantivy::TantivyError },

    #[error(transparent)]
    Store(#[from] StoreError),
}
