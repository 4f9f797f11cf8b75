//! A database that cannot be read is moved aside, and a new one begun: traffic is to be recorded, and a person decides
//! what becomes of the old one.
//!
//! Always true: nothing is deleted; what is locked, unreadable for lack of rights or newer than this binary is not damaged
//! and stays where it is.

use std::path::{Path, PathBuf};

use rusqlite::{Connection, ErrorCode, TransactionBehavior, ffi, params};

use super::{DataDir, Store, StoreError, migrate, retention};

/// Files up to this size are read through at the start; in larger ones, damage deep inside shows when it is read.
const READ_THROUGH: u64 = 64 << 20;

impl Store {
    /// Opens the databases of a data directory as [`Store::open`] does, but moves those that are damaged, payload files
    /// included, to `quarantine/` and begins new ones. For the process that records.
    ///
    /// # Errors
    /// As [`Store::open`], but for damage.
    pub fn open_or_quarantine(dir: &DataDir) -> Result<Self, StoreError> {
        dir.create()?;
        let record = sound(dir, &dir.record_db(), &migrate::RECORD, READ_THROUGH)?;
        let insight = sound(dir, &dir.insight_db(), &migrate::INSIGHT, READ_THROUGH)?;
        go_on_counting(dir, record, &insight)?;
        drop(insight);
        let days = dir.payload_days()?;
        for (at, day) in days.iter().enumerate() {
            let path = dir.payload_db(day);
            // Only the latest is written to; a month of them is too much to read at a start.
            let depth = if at + 1 == days.len() { READ_THROUGH } else { 0 };
            sound(dir, &path, &migrate::PAYLOAD, depth)?;
        }
        Self::open(dir)
    }

    /// How many databases lie in quarantine.
    #[must_use]
    pub fn quarantined(&self) -> usize {
        std::fs::read_dir(self.dir().quarantine()).map_or(0, |folder| folder.flatten().count())
    }
}

/// Opens a database, and reads it through when it has at most `depth` bytes; a damaged one is moved aside and made anew.
fn sound(dir: &DataDir, path: &Path, schema: &migrate::Schema, depth: u64) -> Result<Connection, StoreError> {
    match migrate::open(path, schema).and_then(|db| read_through(path, &db, depth).map(|()| db)) {
        Err(error @ StoreError::Corrupt { .. }) => {
            move_aside(dir, path, &error)?;
            migrate::open(path, schema)
        }
        opened => opened,
    }
}

fn read_through(path: &Path, db: &Connection, depth: u64) -> Result<(), StoreError> {
    if path.metadata().is_ok_and(|found| found.len() > depth) {
        return Ok(());
    }
    let said: String =
        db.query_row("PRAGMA quick_check(1)", [], |r| r.get(0)).map_err(StoreError::open(path))?;
    if said == "ok" {
        return Ok(());
    }
    let source = rusqlite::Error::SqliteFailure(ffi::Error::new(ffi::SQLITE_CORRUPT), Some(said));
    Err(StoreError::Corrupt { path: path.to_owned(), source })
}

/// Moves a database and the files beside it to a folder of its own in `quarantine/`, and says so.
pub(super) fn move_aside(dir: &DataDir, path: &Path, why: &StoreError) -> Result<(), StoreError> {
    let failed = |source| StoreError::Quarantine { path: path.to_owned(), source };
    let name = path.file_name().unwrap_or_default();
    let folder = new_folder(dir, &name.to_string_lossy()).map_err(failed)?;
    let [log, shared] = retention::beside(path);
    // What is beside it first: alone it would be taken for the new file's.
    for file in [&log, &shared, path] {
        match std::fs::rename(file, folder.join(file.file_name().unwrap_or_default())) {
            Err(source) if source.kind() != std::io::ErrorKind::NotFound => return Err(failed(source)),
            _ => {}
        }
    }
    tracing::error!(
        error = %why.reason(),
        "{} is damaged: moved to {}, a new one is begun. Nothing was deleted",
        path.display(),
        folder.display()
    );
    Ok(())
}

fn new_folder(dir: &DataDir, name: &str) -> std::io::Result<PathBuf> {
    let mut private = std::fs::DirBuilder::new();
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut private, 0o700);
    let all = dir.quarantine();
    private.recursive(true).create(&all)?;
    private.recursive(false);
    let at = chrono::Utc::now().format("%Y%m%dT%H%M%SZ");
    let mut number = 1;
    loop {
        let again = if number == 1 { String::new() } else { format!("-{number}") };
        let folder = all.join(format!("{name}-{at}{again}"));
        match private.create(&folder) {
            Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists => number += 1,
            done => return done.map(|()| folder),
        }
    }
}

/// A record that is begun anew must not give numbers a second time: what was derived of the old one counts on them.
fn go_on_counting(dir: &DataDir, mut record: Connection, insight: &Connection) -> Result<(), StoreError> {
    const DERIVED: &str = "SELECT max(coalesce((SELECT max(seq) FROM watermark), 0), \
             coalesce((SELECT max(seq) FROM turn), 0))";
    const RECORDED: &str = "SELECT coalesce(max(seq), 0) FROM sqlite_sequence WHERE name = 'exchange'";
    let derived: i64 =
        insight.query_row(DERIVED, [], |r| r.get(0)).map_err(StoreError::open(&dir.insight_db()))?;
    let path = dir.record_db();
    let failed = StoreError::open(&path);
    let number = |db: &Connection| db.query_row(RECORDED, [], |r| r.get::<_, i64>(0));
    if number(&record).map_err(&failed)? >= derived {
        return Ok(());
    }
    let tx = record.transaction_with_behavior(TransactionBehavior::Immediate).map_err(&failed)?;
    if number(&tx).map_err(&failed)? < derived {
        tx.execute("DELETE FROM sqlite_sequence WHERE name = 'exchange'", []).map_err(&failed)?;
        tx.execute("INSERT INTO sqlite_sequence (name, seq) VALUES ('exchange', ?1)", params![derived])
            .map_err(&failed)?;
    }
    tx.commit().map_err(&failed)
}

/// Whether an error of SQLite says that the file is damaged.
pub(super) fn is_damage(error: &rusqlite::Error) -> bool {
    matches!(error.sqlite_error_code(), Some(ErrorCode::NotADatabase | ErrorCode::DatabaseCorrupt))
}
