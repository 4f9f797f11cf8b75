use rusqlite::{Connection, TransactionBehavior, params};

use super::columns::{Col, Json};
use super::data_dir::identity;
use super::payloads::PayloadWriter;
use super::{DataDir, StoreError, migrate, quarantine};
use crate::config::Durability;
use crate::model::Exchange;

/// The only writer of `record.db` and of payload files. Belongs to one thread.
pub struct RecordWriter {
    db: Connection,
    payloads: PayloadWriter,
    dir: DataDir,
    /// Which file `db` is; see [`identity`].
    file: Option<u64>,
}

impl RecordWriter {
    /// Opens the files for writing.
    ///
    /// # Errors
    /// As [`Store::open`](super::Store::open).
    pub fn open(dir: &DataDir, durability: Durability) -> Result<Self, StoreError> {
        dir.create()?;
        let synchronous = match durability {
            // In WAL mode NORMAL syncs at checkpoints only: a commit survives the process, not the power.
            Durability::None | Durability::Process => "normal",
            Durability::Power => "full",
        };
        let db = migrate::open(&dir.record_db(), &migrate::RECORD)?;
        db.pragma_update(None, "synchronous", synchronous).map_err(StoreError::query("open the record"))?;
        let file = identity(&dir.record_db());
        Ok(Self { db, payloads: PayloadWriter::new(dir.clone(), synchronous), dir: dir.clone(), file })
    }

    /// Commits bodies. A payload file that turns out damaged is moved aside, and they go into a new one.
    fn put_bodies(&mut self, day: &str, exchanges: &[Exchange]) -> Result<(), StoreError> {
        match self.payloads.put(day, exchanges) {
            Err(error @ StoreError::Corrupt { .. }) => {
                self.payloads.close(day);
                quarantine::move_aside(&self.dir, &self.dir.payload_db(day), &error)?;
                self.payloads.put(day, exchanges)
            }
            done => done,
        }
    }

    /// Commits exchanges: bodies first, then rows, so that a row never lacks its bodies. All or none of the rows are
    /// kept; an exchange that is there already stays as it is.
    pub fn write(&mut self, exchanges: &[Exchange]) -> Result<(), StoreError> {
        const INSERT: &str = "INSERT OR IGNORE INTO exchange (id, tenant, app, user, connection, client_key, method, target, \
             upstream, request_headers, response_headers, status, ended, detail, started, head, first_byte, \
             finished, day, request_length, request_sha256, request_truncated, response_length, response_sha256, \
             response_truncated) \
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16, ?17, ?18, ?19, ?20, \
             ?21, ?22, ?23, ?24, ?25)";
        // What is written to a file that was deleted or moved away is lost.
        if identity(&self.dir.record_db()) != self.file {
            return Err(StoreError::Replaced { path: self.dir.record_db() });
        }
        let days: Vec<String> = exchanges.iter().map(|e| e.timing.started.day()).collect();
        let mut from = 0;
        // A batch spans two days at most twice a night; each run of one day is one transaction.
        while from < exchanges.len() {
            let to = from + days[from..].iter().take_while(|d| **d == days[from]).count();
            self.put_bodies(&days[from], &exchanges[from..to])?;
            from = to;
        }

        let failed = StoreError::query;
        let empty = crate::model::Body::default();
        // Immediate, for retention deletes at the same time.
        let tx = self
            .db
            .transaction_with_behavior(TransactionBehavior::Immediate)
            .map_err(failed("record exchanges"))?;
        {
            let mut insert = tx.prepare_cached(INSERT).map_err(failed("record exchanges"))?;
            for (e, day) in exchanges.iter().zip(&days) {
                let response = e.response.as_ref().map_or(&empty, |r| &r.body);
                insert
                    .execute(params![
                        Col(e.id),
                        e.scope.tenant,
                        e.scope.app,
                        e.scope.user,
                        e.connection,
                        e.client_key,
                        e.method,
                        e.target,
                        e.upstream,
                        Json(&e.request_headers),
                        e.response.as_ref().map(|r| Json(&r.headers)),
                        e.response.as_ref().map(|r| r.status),
                        e.ended.as_str(),
                        e.detail,
                        Col(e.timing.started),
                        e.timing.head.map(Col),
                        e.timing.first_byte.map(Col),
                        Col(e.timing.ended),
                        day,
                        e.request_body.length as i64,
                        e.request_body.sha256,
                        e.request_body.truncated,
                        response.length as i64,
                        response.sha256,
                        response.truncated,
                    ])
                    .map_err(failed("record exchanges"))?;
            }
        }
        tx.commit().map_err(failed("record exchanges"))
    }
}
