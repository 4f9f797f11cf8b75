use rusqlite::{OptionalExtension, Row, params};

use super::columns::{Col, Json, Named};
use super::payloads::Side;
use super::{Store, StoreError};
use crate::model::{Body, Exchange, ExchangeId, Headers, Response, Scope, Timing};

/// An exchange as its row has it; the bodies' bytes are still in the payload file.
#[derive(Debug)]
struct Stored {
    exchange: Exchange,
    day: String,
}

const COLUMNS: &str = "seq, id, tenant, app, user, connection, client_key, method, target, upstream, \
     request_headers, response_headers, status, ended, detail, started, head, first_byte, finished, day, \
     request_length, request_sha256, request_truncated, response_length, response_sha256, response_truncated";

fn stored_of(r: &Row<'_>) -> rusqlite::Result<(i64, Stored)> {
    let body = |at: usize| {
        Ok::<_, rusqlite::Error>(Body {
            bytes: bytes::Bytes::new(),
            length: r.get::<_, i64>(at)?.max(0) as u64,
            sha256: r.get(at + 1)?,
            truncated: r.get(at + 2)?,
        })
    };
    let status: Option<u16> = r.get(12)?;
    let response = match status {
        Some(status) => Some(Response {
            status,
            headers: r.get::<_, Option<Json<Headers>>>(11)?.map(|j| j.0).unwrap_or_default(),
            body: body(23)?,
        }),
        None => None,
    };
    let exchange = Exchange {
        id: r.get::<_, Col<_>>(1)?.0,
        scope: Scope { tenant: r.get(2)?, app: r.get(3)?, user: r.get(4)? },
        connection: r.get(5)?,
        client_key: r.get(6)?,
        method: r.get(7)?,
        target: r.get(8)?,
        upstream: r.get(9)?,
        request_headers: r.get::<_, Json<_>>(10)?.0,
        request_body: body(20)?,
        response,
        timing: Timing {
            started: r.get::<_, Col<_>>(15)?.0,
            head: r.get::<_, Option<Col<_>>>(16)?.map(|c| c.0),
            first_byte: r.get::<_, Option<Col<_>>>(17)?.map(|c| c.0),
            ended: r.get::<_, Col<_>>(18)?.0,
        },
        ended: r.get::<_, Named<_>>(13)?.0,
        detail: r.get(14)?,
    };
    Ok((r.get(0)?, Stored { exchange, day: r.get(19)? }))
}

impl Store {
    /// The next exchange after a sequence number, whole, with its number.
    pub fn exchange_after(&self, seq: i64) -> Result<Option<(i64, Exchange)>, StoreError> {
        let sql = format!("SELECT {COLUMNS} FROM record.exchange WHERE seq > ?1 ORDER BY seq LIMIT 1");
        let row = self.read("read the next exchange", |db| {
            db.prepare_cached(&sql)?.query_row([seq], stored_of).optional()
        })?;
        row.map(|(seq, stored)| Ok((seq, self.with_bodies(stored)?))).transpose()
    }

    /// An exchange, whole; none where there is no such id.
    pub fn exchange(&self, id: ExchangeId) -> Result<Option<Exchange>, StoreError> {
        let sql = format!("SELECT {COLUMNS} FROM record.exchange WHERE id = ?1");
        let row = self.read("read an exchange", |db| {
            db.prepare_cached(&sql)?.query_row([Col(id)], stored_of).optional()
        })?;
        row.map(|(_, stored)| self.with_bodies(stored)).transpose()
    }

    /// How many exchanges are recorded, and the highest sequence number.
    pub fn recorded(&self) -> Result<(u64, i64), StoreError> {
        self.read("count exchanges", |db| {
            db.query_row("SELECT count(*), coalesce(max(seq), 0) FROM record.exchange", params![], |r| {
                Ok((r.get::<_, i64>(0)?.max(0) as u64, r.get(1)?))
            })
        })
    }

    /// How many bodies could not be read since this store was opened because what is stored of them is damaged.
    #[must_use]
    pub fn damaged_bodies(&self) -> u64 {
        self.inner.payloads.lock().unwrap_or_else(std::sync::PoisonError::into_inner).damaged()
    }

    fn with_bodies(&self, stored: Stored) -> Result<Exchange, StoreError> {
        let Stored { mut exchange, day } = stored;
        let mut payloads = self.inner.payloads.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let mut fill = |side, body: &mut Body| -> Result<(), StoreError> {
            match payloads.get(&day, exchange.id, side, body)? {
                Some(bytes) => body.bytes = bytes,
                // Retention dropped the day: what remains is the length and the hash.
                None => body.truncated |= body.length > 0,
            }
            Ok(())
        };
        fill(Side::Request, &mut exchange.request_body)?;
        if let Some(response) = &mut exchange.response {
            fill(Side::Response, &mut response.body)?;
        }
        Ok(exchange)
    }
}
