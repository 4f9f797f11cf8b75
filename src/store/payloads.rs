//! Bodies, in one database file a day, so that retention drops files.

use std::collections::{HashMap, HashSet};
use std::path::Path;

use bytes::Bytes;
use rusqlite::{Connection, OptionalExtension, params};

use super::columns::Col;
use super::{DataDir, StoreError, migrate};
use crate::model::ExchangeId;

/// Which body of an exchange.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Side {
    Request = 0,
    Response = 1,
}

/// Below this many bytes a body is kept as it is: compressing would cost more than it saves.
const COMPRESS_FROM: usize = 512;
/// Fastest level: bodies are JSON and event streams, which it cuts to a quarter at hundreds of MB/s.
const ZSTD_LEVEL: i32 = 1;
/// Payload files that a reader keeps open.
const OPEN_DAYS: usize = 8;

/// Writes bodies; belongs to the recorder's thread.
pub(super) struct PayloadWriter {
    dir: DataDir,
    synchronous: &'static str,
    today: Option<Today>,
    /// Kept: its working memory is larger than most bodies. None where there was no memory for it.
    compressor: Option<zstd::bulk::Compressor<'static>>,
}

struct Today {
    day: String,
    /// As [`identity`] tells it.
    file: u64,
    db: Connection,
}

impl PayloadWriter {
    pub fn new(dir: DataDir, synchronous: &'static str) -> Self {
        Self { dir, synchronous, today: None, compressor: zstd::bulk::Compressor::new(ZSTD_LEVEL).ok() }
    }

    /// Commits bodies into a day's file; those of an exchange that is there already are replaced.
    pub fn put<'a>(
        &mut self,
        day: &str,
        bodies: impl Iterator<Item = (ExchangeId, Side, &'a Bytes)>,
    ) -> Result<(), StoreError> {
        const PUT: &str =
            "INSERT OR REPLACE INTO body (exchange_id, side, encoding, bytes) VALUES (?1, ?2, ?3, ?4)";
        let failed = StoreError::query;
        self.open(day)?;
        let db = &mut self.today.as_mut().expect("opened just above").db;
        let tx = db.transaction().map_err(failed("write bodies"))?;
        {
            let mut put = tx.prepare_cached(PUT).map_err(failed("write bodies"))?;
            for (id, side, bytes) in bodies.filter(|(_, _, b)| !b.is_empty()) {
                let packed = self
                    .compressor
                    .as_mut()
                    .filter(|_| bytes.len() >= COMPRESS_FROM)
                    .and_then(|compressor| compressor.compress(bytes).ok())
                    .filter(|packed| packed.len() < bytes.len());
                let (encoding, stored) = match &packed {
                    Some(packed) => (1, packed.as_slice()),
                    None => (0, bytes.as_ref()),
                };
                put.execute(params![Col(id), side as i64, encoding, stored])
                    .map_err(failed("write bodies"))?;
            }
        }
        tx.commit().map_err(failed("write bodies"))
    }

    fn open(&mut self, day: &str) -> Result<(), StoreError> {
        let path = self.dir.payload_db(day);
        let stays = |today: &Today| today.day == day && identity(&path) == Some(today.file);
        if !self.today.as_ref().is_some_and(stays) {
            // First closed, for closing removes the files beside it by name.
            self.today = None;
            let (db, file) = open_day(&path)?;
            db.pragma_update(None, "synchronous", self.synchronous)
                .map_err(StoreError::query("open payloads"))?;
            self.today = Some(Today { day: day.to_owned(), file, db });
        }
        Ok(())
    }
}

/// Opens a day's file, which must be there or be made, and says which it is.
fn open_day(path: &Path) -> Result<(Connection, u64), StoreError> {
    let db = migrate::open(path, migrate::PAYLOAD)?;
    Ok((db, identity(path).unwrap_or_default()))
}

/// Tells a file from one that took its name after it was deleted or replaced; none where there is no file. What is
/// written to a deleted file is lost, and what is read from it is old.
fn identity(path: &Path) -> Option<u64> {
    let found = std::fs::metadata(path).ok()?;
    #[cfg(unix)]
    let number = std::os::unix::fs::MetadataExt::ino(&found);
    // Elsewhere an open file cannot be deleted.
    #[cfg(not(unix))]
    let number = u64::from(!found.is_file());
    Some(number)
}

/// Reads bodies back.
#[derive(Debug)]
pub(super) struct PayloadReader {
    dir: DataDir,
    /// With the [`identity`] of the file.
    open: HashMap<String, (Connection, u64)>,
    /// Days whose file turned out damaged: said once, not for each body.
    damaged: HashSet<String>,
}

impl PayloadReader {
    pub fn new(dir: DataDir) -> Self {
        Self { dir, open: HashMap::new(), damaged: HashSet::new() }
    }

    /// What was kept of a body; none where it was empty, retention has dropped it, or it is damaged: one bad file must
    /// not keep the others from being read.
    pub fn get(&mut self, day: &str, id: ExchangeId, side: Side) -> Result<Option<Bytes>, StoreError> {
        match self.read(day, id, side) {
            Err(error @ (StoreError::Corrupt { .. } | StoreError::Damaged { .. })) => {
                if self.damaged.insert(day.to_owned()) {
                    tracing::warn!(%error, "bodies cannot be read; what else is known of their exchanges is");
                }
                Ok(None)
            }
            read => read,
        }
    }

    fn read(&mut self, day: &str, id: ExchangeId, side: Side) -> Result<Option<Bytes>, StoreError> {
        const GET: &str = "SELECT encoding, bytes FROM body WHERE exchange_id = ?1 AND side = ?2";
        let Some(db) = self.open(day)? else { return Ok(None) };
        let row: Option<(i64, Vec<u8>)> = db
            .prepare_cached(GET)
            .and_then(|mut q| {
                q.query_row(params![Col(id), side as i64], |r| Ok((r.get(0)?, r.get(1)?))).optional()
            })
            .map_err(StoreError::reading(&self.dir.payload_db(day), "read a body"))?;
        match row {
            None => Ok(None),
            Some((0, bytes)) => Ok(Some(bytes.into())),
            Some((_, packed)) => {
                let bytes = zstd::stream::decode_all(packed.as_slice()).map_err(|e| StoreError::Damaged {
                    operation: "read a body",
                    object: format!("{id} in {}", self.dir.payload_db(day).display()),
                    reason: e.to_string(),
                })?;
                Ok(Some(bytes.into()))
            }
        }
    }

    fn open(&mut self, day: &str) -> Result<Option<&Connection>, StoreError> {
        let path = self.dir.payload_db(day);
        let Some(found) = identity(&path) else {
            self.open.remove(day);
            return Ok(None);
        };
        if self.open.get(day).is_none_or(|(_, file)| *file != found) {
            self.open.remove(day);
            if self.open.len() >= OPEN_DAYS {
                self.open.clear();
            }
            self.open.insert(day.to_owned(), open_day(&path)?);
        }
        Ok(self.open.get(day).map(|(db, _)| db))
    }
}
