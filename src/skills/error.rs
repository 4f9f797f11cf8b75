use std::path::PathBuf;

use crate::store::StoreError;

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

    #[error("no open proposal {given:?} in {path}: `remora skills list` shows them")]
    NoProposal { given: String, path: PathBuf },

    #[error(
        "{branch} conflicts with what is committed in {files}; nothing was merged. Merge it by hand with git, or reject it"
    )]
    ProposalConflict { branch: String, files: String },

    #[error("{branch} is checked out in {path}: switch to the main branch first")]
    OnProposal { branch: String, path: PathBuf },

    #[error(transparent)]
    Store(#[from] StoreError),

    #[error("{path}: the frontmatter is not readable: {reason}")]
    Front { path: PathBuf, reason: String },
}
