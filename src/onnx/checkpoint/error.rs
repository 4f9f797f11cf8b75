use std::io;
use std::path::PathBuf;

use super::Part;

/// A checkpoint cannot be used. Each message names the file and what to do.
#[derive(Debug, thiserror::Error)]
pub enum CheckpointError {
    /// Damaged, incomplete, or something else than it says.
    #[error("{path}: {reason}")]
    Unreadable { path: PathBuf, reason: String },

    #[error("{path}: {family:?} is no supported model family; supported are {supported}")]
    Family { path: PathBuf, family: String, supported: String },

    #[error("{path}: {tensor} is stored as {encoding}, which is not supported; supported are {supported}")]
    Encoding { path: PathBuf, tensor: String, encoding: String, supported: String },

    #[error("{path}: the model has no {part:?}")]
    Absent { path: PathBuf, part: Part },

    #[error("{path}: cannot {operation}: {source}")]
    Io { operation: &'static str, path: PathBuf, source: io::Error },
}

impl CheckpointError {
    pub(super) fn io(operation: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| Self::Io { operation, path, source }
    }
}
