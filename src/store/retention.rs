//! Drops what is older than it is to be kept: whole days, the oldest first, never today.
//!
//! Of a day that goes, the rows of `record.db` are deleted in small batches, between which the recorder can write; then
//! the payload file is deleted; then `record.db` gives its free pages back, in small batches as well. A kill between any
//! two steps leaves a day that is dropped the next time. What was derived of it stays in `insight.db`: trajectories,
//! outcomes and lessons do not need the exchanges that they came from.

use std::path::PathBuf;
use std::time::Duration;

use chrono::Days;
use rusqlite::{Connection, OptionalExtension, params};

use super::{Store, StoreError, migrate};
use crate::config::Retention;
use crate::model::Micros;

/// Rows deleted, or pages given back, in one transaction. Some milliseconds, and memory for as many.
const BATCH: u32 = 500;
/// Between two batches, so that the recorder, which polls for the lock, gets it.
const PAUSE: Duration = Duration::from_millis(10);

/// What was dropped.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Dropped {
    /// `2026-11-21`, oldest first.
    pub days: Vec<String>,
    pub rows: u64,
    /// Transactions on `record.db` that it took.
    pub batches: u64,
}

/// Drops the days that are past the limits at the time `now`. `go_on` is asked between two batches; what is left then is
/// dropped the next time. The running recorder can write meanwhile.
///
/// # Errors
/// When the record cannot be read or written, or a file not be deleted. What was dropped before stays dropped.
pub fn apply(
    store: &Store,
    keep: &Retention,
    now: Micros,
    go_on: &dyn Fn() -> bool,
) -> Result<Dropped, StoreError> {
    let mut broom = Broom { store, record: None, dropped: Dropped::default(), go_on };
    let today = now.day();
    if let Some(days) = keep.days {
        let first = now.utc().date_naive().checked_sub_days(Days::new(u64::from(days)));
        let first = first.map_or_else(String::new, |day| day.format("%Y-%m-%d").to_string());
        while let Some(day) = broom.oldest()?.filter(|day| *day < first) {
            if !broom.drop_day(&day)? {
                return Ok(broom.dropped);
            }
        }
    }
    if let Some(bytes) = keep.bytes {
        // What a deletion adds to the log must not make the next day seem too much.
        while store.used_bytes()? > bytes.as_u64()
            && let Some(day) = broom.oldest()?.filter(|day| *day < today)
        {
            if !broom.drop_day(&day)? {
                return Ok(broom.dropped);
            }
        }
    }
    Ok(broom.dropped)
}

struct Broom<'a> {
    store: &'a Store,
    /// Opened when something is to be dropped.
    record: Option<Connection>,
    dropped: Dropped,
    go_on: &'a dyn Fn() -> bool,
}

impl Broom<'_> {
    /// The oldest day of which something is left.
    fn oldest(&self) -> Result<Option<String>, StoreError> {
        let rows: Option<String> = self
            .store
            .read("look for the oldest day", |db| {
                db.query_row("SELECT min(day) FROM record.exchange", [], |r| r.get(0)).optional()
            })?
            .flatten();
        let file = self.store.dir().payload_days()?.into_iter().next();
        Ok([rows, file].into_iter().flatten().min())
    }

    /// Drops all of a day; false when it was told to stop.
    fn drop_day(&mut self, day: &str) -> Result<bool, StoreError> {
        const DELETE: &str =
            "DELETE FROM exchange WHERE seq IN (SELECT seq FROM exchange WHERE day = ?1 LIMIT ?2)";
        let path = self.store.dir().record_db();
        let failed = StoreError::reading(&path, "drop old exchanges");
        let record = match &mut self.record {
            Some(record) => record,
            none => none.insert(migrate::open(&path, &migrate::RECORD)?),
        };
        loop {
            if !(self.go_on)() {
                return Ok(false);
            }
            let rows = record.execute(DELETE, params![day, BATCH]).map_err(&failed)?;
            self.dropped.rows += rows as u64;
            self.dropped.batches += 1;
            if rows < BATCH as usize {
                break;
            }
            std::thread::sleep(PAUSE);
        }
        self.store.forget_payloads(day);
        let file = self.store.dir().payload_db(day);
        // What is beside it first: alone it would be taken for a new file's.
        for path in beside(&file).into_iter().chain([file]) {
            match std::fs::remove_file(&path) {
                Err(source) if source.kind() != std::io::ErrorKind::NotFound => {
                    return Err(StoreError::Drop { path, source });
                }
                _ => {}
            }
        }
        self.dropped.days.push(day.to_owned());
        // Of a record that was begun by an older version there are no pages to give back; they are used again.
        loop {
            if !(self.go_on)() {
                return Ok(false);
            }
            let free: i64 =
                record.pragma_query_value(None, "freelist_count", |r| r.get(0)).map_err(&failed)?;
            let mut pages = 0;
            record
                .pragma(None, "incremental_vacuum", BATCH, |_| {
                    pages += 1;
                    Ok(())
                })
                .map_err(&failed)?;
            self.dropped.batches += 1;
            let left: i64 =
                record.pragma_query_value(None, "freelist_count", |r| r.get(0)).map_err(&failed)?;
            if left == 0 || left >= free {
                break;
            }
            std::thread::sleep(PAUSE);
        }
        // The file itself shrinks when the log is carried over. Passive: it waits for nobody.
        record.pragma(None, "wal_checkpoint", "passive", |_| Ok(())).map_err(&failed)?;
        Ok(true)
    }
}

/// The files that SQLite keeps beside a database.
pub(super) fn beside(file: &std::path::Path) -> [PathBuf; 2] {
    ["-wal", "-shm"].map(|end| {
        let mut name = file.as_os_str().to_owned();
        name.push(end);
        name.into()
    })
}

impl Store {
    /// What recorded exchanges occupy on disk in bytes: `record.db` and all payload files, with the files beside them.
    ///
    /// # Errors
    /// When the folder cannot be read.
    pub fn recorded_bytes(&self) -> Result<u64, StoreError> {
        let days = self.dir().payload_days()?;
        let files = days.iter().map(|day| self.dir().payload_db(day)).chain([self.dir().record_db()]);
        Ok(files.map(|file| size(&file)).sum())
    }
}

impl Store {
    /// As [`recorded_bytes`](Self::recorded_bytes), without the logs and what is free within `record.db`: what deleting
    /// can change at once, whoever reads meanwhile.
    fn used_bytes(&self) -> Result<u64, StoreError> {
        let pages = self.read("count pages", |db| {
            let pragma = |name: &str| {
                db.query_row(&format!("PRAGMA record.{name}"), [], |r| r.get::<_, i64>(0))
                    .map(i64::unsigned_abs)
            };
            Ok(pragma("page_count")?.saturating_sub(pragma("freelist_count")?) * pragma("page_size")?)
        })?;
        let days = self.dir().payload_days()?;
        Ok(pages + days.iter().map(|day| size(&self.dir().payload_db(day))).sum::<u64>())
    }
}

/// A day of the record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredDay {
    pub day: String,
    pub exchanges: u64,
    /// Length of all bodies as they crossed the wire, in bytes.
    pub raw: u64,
    /// Size of the day's payload file in bytes.
    pub stored: u64,
}

impl Store {
    /// What was recorded on each day and what its bodies occupy, oldest first. Reads every row: not for the hot path.
    ///
    /// # Errors
    /// When the record cannot be read.
    pub fn stored_days(&self) -> Result<Vec<StoredDay>, StoreError> {
        const SQL: &str = "SELECT day, count(*), sum(request_length + response_length) FROM record.exchange \
             GROUP BY day ORDER BY day";
        self.read("add up days", |db| {
            let day_of = |r: &rusqlite::Row<'_>| {
                let day: String = r.get(0)?;
                let stored = size(&self.dir().payload_db(&day));
                let count = |at| r.get::<_, i64>(at).map(i64::unsigned_abs);
                Ok(StoredDay { exchanges: count(1)?, raw: count(2)?, stored, day })
            };
            db.prepare_cached(SQL)?.query_map([], day_of)?.collect()
        })
    }
}

/// Bytes of a database and its log.
pub(super) fn size(file: &std::path::Path) -> u64 {
    let [log, _] = beside(file);
    [file, &log].iter().filter_map(|path| path.metadata().ok()).map(|found| found.len()).sum()
}
