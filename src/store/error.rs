use std::path::PathBuf;

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

    #[error(
        "{path}: the database has schema version {found}, this binary knows up to {known}. \
         It was written by a newer Remora: upgrade, or give another --data"
    )]
    Newer { path: PathBuf, found: i64, known: i64 },

    #[error(
        "{path}: migration to schema version {version} failed: {source}. The database was left as it was"
    )]
    Migrate { path: PathBuf, version: i64, source: rusqlite::Error },

    #[error("cannot {operation}: {source}")]
    Query { operation: &'static str, source: rusqlite::Error },

    #[error("{operation}: {object} holds what this version cannot read: {reason}")]
    Damaged { operation: &'static str, object: String, reason: String },
}

impl StoreError {
    /// For `map_err`: a failed query and what it was for.
    pub fn query(operation: &'static str) -> impl FnOnce(rusqlite::Error) -> Self {
        move |source| Self::Query { operation, source }
    }
}
