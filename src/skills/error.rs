use std::path::PathBuf;

/// The learned repository cannot be read or written.
#[derive(Debug, thiserror::Error)]
pub enum SkillsError {
    #[error("{path}: cannot {operation}: {source}")]
    File { operation: &'static str, path: PathBuf, source: std::io::Error },

    #[error("{path}: cannot {operation} in the learned repository: {source}")]
    Git { operation: &'static str, path: PathBuf, source: git2::Error },

    #[error("no commit {given:?} in {path}: `remora skills list` shows the commits")]
    NoCommit { given: String, path: PathBuf },

    #[error("{commit} cannot be reverted: later changes touch the same lines of {files}. Edit them by hand")]
    Conflict { commit: String, files: String },

    #[error("{path}: the frontmatter is not readable: {reason}")]
    Front { path: PathBuf, reason: String },
}
