//! Copies what crosses the proxy and hands it to the recorder, without holding the traffic back.
//!
//! In: bodies as they stream ([`RequestTee`], [`ResponseTee`]) and how they ended. Out:
//! [`Exchange`](crate::model::Exchange) rows in the store, credentials replaced by fingerprints on the way.
//!
//! ```text
//! flight ──▶ queue ──▶ recorder's thread ──▶ journal ──▶ settler's thread ──▶ record.db, payloads/
//!                      one write a batch     (files)     when traffic leaves time
//! ```
//! The end of a response waits for the journal, never for a database.
//!
//! Always true: frames go on untouched and are never waited for; memory held is bounded; a record that cannot be kept
//! is dropped and counted; every flight ends in exactly one record or one counted loss.

mod ack;
mod backlog;
mod copy;
mod files;
mod flight;
mod memory;
mod recorder;
mod redact;
mod settle;
mod tee;
mod writer;

pub use backlog::Backlog;
pub use flight::{Flight, Head};
pub use memory::Memory;
pub use recorder::{Recorder, RecorderWorker};
pub use redact::Redactor;
use settle::Own;
pub use settle::{Settler, settle};
pub use tee::{RequestTee, ResponseTee};

use crate::config;
use crate::store::DataDir;
use crate::store::journal::{Journal, JournalWriter};
use crate::telemetry::Metrics;

/// A recorder, what appends for it, and what moves its entries into the record of `dir`.
///
/// # Errors
/// When the journal cannot be written.
pub fn build(
    config: &config::Capture,
    dir: &DataDir,
    redactor: Redactor,
    metrics: &Metrics,
) -> std::io::Result<(Recorder, RecorderWorker, Settler)> {
    let journal: JournalWriter = Journal::of(dir).writer(config.durability)?;
    let backlog = backlog::Backlog::default();
    let own = Own {
        home: journal.home().clone(),
        backlog: backlog.clone(),
        // Half of what fits: the other half is for while that is being moved.
        most: config.journal.as_u64() / 2,
    };
    let settler = Settler::new(dir.clone(), config.durability, Some(own), Some(metrics.clone()));
    let writer =
        writer::Writer::new(journal, redactor, metrics.clone(), backlog.clone(), config.journal.as_u64());
    let (recorder, worker) = Recorder::build(config, writer, backlog, metrics.clone());
    Ok((recorder, worker, settler))
}
