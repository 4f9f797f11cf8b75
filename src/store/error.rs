use std::path::{Path, PathBuf};

use rusqlite::ErrorCode;

use super::quarantine::is_damage;

/// The store cannot do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    #[error(
        "{path}: cannot create the data directory: {source}. Give another with --data or `data:` in the configuration"
    )]
    Directory { path: PathBuf, source: std::io::Error },

    #[error(
        "{path}: cannot open the database: {source}. Check that the directory is writable and the disk not full"
    )]
    Open { path: PathBuf, source: rusqlite::Error },

    /// The file is no database, or a part of it is not what it must be.
    #[error("{path}: the database is damaged ({source}); nothing was changed. {}", way_out(path))]
    Corrupt { path: PathBuf, source: rusqlite::Error },

    #[error(
        "{path}: the database has schema version {found}, this binary knows up to {known}. \
         It was written by a newer Remora: upgrade, or give another --data"
    )]
    Newer { path: PathBuf, found: i64, known: i64 },

    #[error(
        "{path}: migration to schema version {version} failed: {source}. The database was left as it was"
    )]
    Migrate { path: PathBuf, version: i64, source: rusqlite::Error },

    #[error("{path}: the database was deleted or moved under the running process; it is opened anew")]
    Replaced { path: PathBuf },

    #[error("cannot {operation}: {source}")]
    Query { operation: &'static str, source: rusqlite::Error },

    #[error("{path}: it is damaged and cannot be moved to the folder quarantine: {source}")]
    Quarantine { path: PathBuf, source: std::io::Error },

    #[error("{path}: cannot be deleted although it is older than `retention` keeps it: {source}")]
    Drop { path: PathBuf, source: std::io::Error },

    #[error("cannot pack bodies: {0}")]
    Pack(&'static str),

    #[error("{operation}: {object} holds what this version cannot read: {reason}")]
    Damaged { operation: &'static str, object: String, reason: String },
}

/// What to do about a damaged database.
fn way_out(path: &Path) -> &'static str {
    if path.ends_with("insight.db") {
        "Restore it from a backup, or move it away with its -wal and -shm files: what is derived from the record is \
         built again, feedback and nights in it are lost"
    } else if path.ends_with("record.db") {
        // Not by itself: the other files count on its sequence numbers, which `remora run` sees to.
        "Restore it from a backup; or start `remora run`, which moves it to the folder quarantine and begins a new one; \
         or begin anew with another --data"
    } else {
        "Restore it from a backup, or move it away with its -wal and -shm files: the bodies in it are lost"
    }
}

impl StoreError {
    /// Whether the same may succeed later although nothing about it changes: the database is locked, the disk is full or
    /// fails, memory is short. A damaged database counts: somebody may repair it.
    #[must_use]
    pub fn may_pass(&self) -> bool {
        match self {
            Self::Query { source, .. } | Self::Open { source, .. } | Self::Migrate { source, .. } => {
                !matches!(
                    source.sqlite_error_code(),
                    Some(ErrorCode::ConstraintViolation | ErrorCode::TypeMismatch | ErrorCode::TooBig) | None
                )
            }
            Self::Directory { .. }
            | Self::Corrupt { .. }
            | Self::Newer { .. }
            | Self::Replaced { .. }
            | Self::Quarantine { .. }
            | Self::Drop { .. } => true,
            Self::Damaged { .. } | Self::Pack(_) => false,
        }
    }

    /// For `map_err`: a database that cannot be opened, told apart by what is to be done about it.
    pub(super) fn open(path: &Path) -> impl Fn(rusqlite::Error) -> Self {
        move |source| {
            let path = path.to_owned();
            if is_damage(&source) { Self::Corrupt { path, source } } else { Self::Open { path, source } }
        }
    }

    /// For `map_err`: a failed query, told apart where the database at `path` turns out damaged.
    pub(super) fn reading(path: &Path, operation: &'static str) -> impl Fn(rusqlite::Error) -> Self {
        move |source| match Self::open(path)(source) {
            Self::Open { source, .. } => Self::Query { operation, source },
            corrupt => corrupt,
        }
    }

    /// What SQLite says of a damaged file, without what is to be done about it.
    pub(super) fn reason(&self) -> String {
        match self {
            Self::Corrupt { source, .. } => source.to_string(),
            other => other.to_string(),
        }
    }

    /// For `map_err`: a failed query and what it was for.
    pub fn query(operation: &'static str) -> impl FnOnce(rusqlite::Error) -> Self {
        move |source| Self::Query { operation, source }
    }
}
