//! What is kept, on embedded SQLite.
//!
//! In: finished exchanges from `capture`; what later stages make of them. Out: the same, by id, scope or watermark.
//!
//! Four kinds of files in the data directory, so that none waits for another:
//! - `journal/`: what has just ended, appended by the recorder's thread, before it is moved into the next two.
//! - `record.db`: a row for each exchange. Only one thread writes it ([`RecordWriter`]); [`retention`] deletes.
//! - `payloads/DAY.db`: the bodies of one day, in [pieces](split); retention drops files.
//! - `insight.db`: assembly, outcomes, clusters, lessons, nights. Any process may write it, in short transactions.
//!
//! Always true: a row in `record.db` is committed after its bodies; rows are never changed, only dropped by retention.

mod clusters;
mod columns;
mod counts;
mod data_dir;
mod error;
mod exchanges;
mod feedback;
mod index_state;
pub mod journal;
mod lessons;
mod lock;
mod migrate;
mod nights;
mod outcomes;
mod payloads;
mod quarantine;
mod record_writer;
pub mod retention;
pub mod split;
mod trajectories;
mod turns;
mod views;

use std::path::Path;
use std::sync::{Arc, Mutex};

use rusqlite::{Connection, Transaction, TransactionBehavior};

pub use counts::Counts;
pub use data_dir::{DataDir, file_name};
pub use error::StoreError;
pub use feedback::Correction;
pub use index_state::{EmbeddingFilter, Indexed, Unindexed};
pub use lock::FileLock;
pub use nights::Begun;
pub use outcomes::Assessment;
pub use record_writer::RecordWriter;
pub use trajectories::TrajectoryFilter;
pub use turns::{Anchor, Chain, NewTurn, Place, Placing, Turn};
pub use views::{ClusterFilter, ClusterView, LessonsOf, NightFilter, Totals};

/// The data directory, open. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Store {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    dir: DataDir,
    /// Connections at rest; one more is opened when all are in use.
    readers: Mutex<Vec<Connection>>,
    writer: Mutex<Connection>,
    payloads: Mutex<payloads::PayloadReader>,
    /// Not used but to be closed last: whoever closes a database last tidies up its write-ahead log, which the read-only
    /// connections above cannot.
    _record: Mutex<Connection>,
}

/// Readers kept open at rest.
const IDLE_READERS: usize = 4;

impl Store {
    /// Opens the databases of a data directory, creating and migrating them as needed.
    ///
    /// # Errors
    /// When the directory cannot be made or written, or a database is newer than this binary.
    pub fn open(dir: &DataDir) -> Result<Self, StoreError> {
        dir.create()?;
        let record = migrate::open(&dir.record_db(), &migrate::RECORD)?;
        let writer = Self::attach(dir)?;
        let payloads = Mutex::new(payloads::PayloadReader::new(dir.clone()));
        Ok(Self {
            inner: Arc::new(Inner {
                dir: dir.clone(),
                readers: Mutex::default(),
                writer: Mutex::new(writer),
                payloads,
                _record: Mutex::new(record),
            }),
        })
    }

    #[must_use]
    pub fn dir(&self) -> &DataDir {
        &self.inner.dir
    }

    /// `insight.db`, with `record.db` beside it under the name `record`.
    fn attach(dir: &DataDir) -> Result<Connection, StoreError> {
        let db = migrate::open(&dir.insight_db(), &migrate::INSIGHT)?;
        // Read-only: a write transaction takes the lock of every database that its connection could write.
        db.execute("ATTACH DATABASE ?1 AS record", [read_only_uri(&dir.record_db())])
            .map_err(StoreError::open(&dir.record_db()))?;
        Ok(db)
    }

    /// Closes the payload file of a day, so that it can be deleted.
    fn forget_payloads(&self, day: &str) {
        self.inner.payloads.lock().unwrap_or_else(std::sync::PoisonError::into_inner).close(day);
    }

    /// Runs a query on a connection that cannot write.
    pub fn read<T>(
        &self,
        operation: &'static str,
        query: impl FnOnce(&Connection) -> rusqlite::Result<T>,
    ) -> Result<T, StoreError> {
        let idle = self.inner.readers.lock().expect("no reader panics while it holds the lock").pop();
        let db = match idle {
            Some(db) => db,
            None => {
                let db = Self::attach(&self.inner.dir)?;
                db.pragma_update(None, "query_only", true).map_err(StoreError::query(operation))?;
                db
            }
        };
        let result = query(&db).map_err(StoreError::query(operation));
        let mut readers = self.inner.readers.lock().expect("no reader panics while it holds the lock");
        if readers.len() < IDLE_READERS {
            readers.push(db);
        }
        result
    }

    /// Runs a transaction on `insight.db`; commits when `work` succeeds. Keep it short: other processes wait for it.
    pub fn write<T>(
        &self,
        operation: &'static str,
        work: impl FnOnce(&Transaction<'_>) -> rusqlite::Result<T>,
    ) -> Result<T, StoreError> {
        let mut db = self.inner.writer.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let tx = db
            .transaction_with_behavior(TransactionBehavior::Immediate)
            .map_err(StoreError::query(operation))?;
        let value = work(&tx).map_err(StoreError::query(operation))?;
        tx.commit().map_err(StoreError::query(operation))?;
        Ok(value)
    }
}

/// The `file:` URI of a database that is only read (<https://www.sqlite.org/uri.html>).
fn read_only_uri(path: &Path) -> String {
    let mut uri = String::from("file:");
    for byte in path.to_string_lossy().bytes() {
        match byte {
            b'/' | b'.' | b'-' | b'_' => uri.push(byte as char),
            b if b.is_ascii_alphanumeric() => uri.push(b as char),
            b => uri.push_str(&format!("%{b:02X}")),
        }
    }
    uri + "?mode=ro"
}
