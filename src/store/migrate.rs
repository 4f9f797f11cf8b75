//! Forward-only numbered migrations, one list a file kind; `PRAGMA user_version` holds the number reached.

use std::path::Path;
use std::time::Duration;

use rusqlite::{Connection, TransactionBehavior};

use super::StoreError;

/// A kind of file.
pub(super) struct Schema {
    /// In order; the first makes version 1.
    migrations: &'static [&'static str],
    /// Whether pages that become free can be given back to the file system. Only for a new file.
    shrinks: bool,
}

pub(super) const RECORD: Schema = Schema {
    migrations: &[include_str!("migrations/record_0001.sql"), include_str!("migrations/record_0002.sql")],
    shrinks: true,
};
pub(super) const INSIGHT: Schema =
    Schema { migrations: &[include_str!("migrations/insight_0001.sql")], shrinks: false };
pub(super) const PAYLOAD: Schema = Schema {
    migrations: &[include_str!("migrations/payload_0001.sql"), include_str!("migrations/payload_0002.sql")],
    shrinks: false,
};

/// How long a statement waits for another process's lock. Long: only background work waits here.
const BUSY_TIMEOUT: Duration = Duration::from_secs(20);

/// A write-ahead log that a long reader let grow is cut back to this many bytes.
const LOG: i64 = 64 << 20;

/// Opens a database in WAL mode and brings its schema up to date.
pub(super) fn open(path: &Path, schema: &Schema) -> Result<Connection, StoreError> {
    let failed = StoreError::open(path);
    make_private(path).map_err(|source| StoreError::Directory { path: path.to_owned(), source })?;
    let mut db = Connection::open(path).map_err(&failed)?;
    db.busy_timeout(BUSY_TIMEOUT).map_err(&failed)?;
    // Later it changes nothing but takes the lock for writing.
    if schema.shrinks && path.metadata().is_ok_and(|found| found.len() == 0) {
        db.pragma_update(None, "auto_vacuum", "incremental").map_err(&failed)?;
    }
    into_wal(&db).map_err(&failed)?;
    db.pragma_update(None, "synchronous", "normal").map_err(&failed)?;
    db.pragma_update(None, "journal_size_limit", LOG).map_err(&failed)?;
    db.pragma_update(None, "foreign_keys", true).map_err(&failed)?;
    // Reads the schema: a damaged one is told now, not at the first exchange.
    db.query_row("SELECT count(*) FROM sqlite_schema", [], |_| Ok(())).map_err(&failed)?;
    db.set_prepared_statement_cache_capacity(64);

    let known = schema.migrations.len() as i64;
    let found: i64 = db.pragma_query_value(None, "user_version", |r| r.get(0)).map_err(&failed)?;
    if found > known {
        return Err(StoreError::Newer { path: path.to_owned(), found, known });
    }
    if found < known {
        // Immediate, and the version read again inside: two processes may start at once.
        let failed = |version| {
            move |source| match StoreError::open(path)(source) {
                StoreError::Open { path, source } => StoreError::Migrate { path, version, source },
                damaged => damaged,
            }
        };
        let tx = db.transaction_with_behavior(TransactionBehavior::Immediate).map_err(failed(known))?;
        let found: i64 = tx.pragma_query_value(None, "user_version", |r| r.get(0)).map_err(failed(known))?;
        for version in found + 1..=known {
            tx.execute_batch(schema.migrations[version as usize - 1]).map_err(failed(version))?;
        }
        tx.pragma_update(None, "user_version", known).map_err(failed(known))?;
        tx.commit().map_err(failed(known))?;
        if schema.shrinks && found > 0 {
            make_shrink(&db);
        }
    }
    Ok(db)
}

/// Lets a file that was begun by an older version give back free pages. Where another process reads it just now, it stays
/// as it is: its free pages are used again.
fn make_shrink(db: &Connection) {
    if let Err(error) = db.execute_batch("PRAGMA auto_vacuum = incremental; VACUUM") {
        tracing::info!(%error, "the record does not shrink when exchanges are dropped; their space is used again");
    }
}

/// The first of two processes that open a fresh database switches it; the other may find it locked, and SQLite does not
/// wait for that by itself.
fn into_wal(db: &Connection) -> rusqlite::Result<()> {
    let mut tries = 0;
    loop {
        match db.pragma_update(None, "journal_mode", "wal") {
            Err(e) if tries < 100 && e.sqlite_error_code() == Some(rusqlite::ErrorCode::DatabaseBusy) => {
                tries += 1;
                std::thread::sleep(Duration::from_millis(10));
            }
            done => return done,
        }
    }
}

/// Makes the file, where there is none, readable by its owner only: it holds what users wrote.
fn make_private(path: &Path) -> std::io::Result<()> {
    let mut options = std::fs::OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    match options.open(path) {
        Err(e) if e.kind() != std::io::ErrorKind::AlreadyExists => Err(e),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_of_the_first_schema_keeps_its_rows_and_shrinks_from_then_on() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let path = dir.path().join("record.db");
        let db = Connection::open(&path).expect("it opens");
        db.execute_batch(include_str!("migrations/record_0001.sql")).expect("the first schema");
        db.pragma_update(None, "user_version", 1).expect("set");
        db.execute_batch(
            "WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 3000)
             INSERT INTO exchange SELECT i, randomblob(16), 't', '', '', 1, NULL, 'POST', '/', '', hex(zeroblob(200)),
                 NULL, 200, 'complete', NULL, i, NULL, NULL, i, '2026-11-' || (10 + i / 1501), 1, x'', 0, 1, x'', 0 FROM n",
        )
        .expect("rows");
        drop(db);

        let db = open(&path, &RECORD).expect("it is migrated");
        let number = |sql: &str| db.query_row(sql, [], |r| r.get::<_, i64>(0)).expect("a number");
        assert_eq!(number("PRAGMA user_version"), 2);
        assert_eq!(number("PRAGMA auto_vacuum"), 2, "incremental");
        assert_eq!(number("SELECT count(*) FROM exchange WHERE day = '2026-11-10'"), 1500);
        let pages = number("PRAGMA page_count");
        db.execute("DELETE FROM exchange WHERE day = '2026-11-10'", []).expect("deleted");
        db.pragma(None, "incremental_vacuum", 100_000, |_| Ok(())).expect("given back");
        assert!(number("PRAGMA page_count") < pages * 2 / 3);
        // As a new one.
        let fresh = open(&dir.path().join("fresh.db"), &RECORD).expect("it is made");
        let mode: i64 = fresh.pragma_query_value(None, "auto_vacuum", |r| r.get(0)).expect("a number");
        assert_eq!(mode, 2);
    }
}
