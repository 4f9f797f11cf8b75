use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};

use super::copy::BodyCopy;
use super::flight::{Flight, Head, Open};
use super::memory::Memory;
use super::redact::Redactor;
use crate::config::{self, Durability};
use crate::model::{Ended, Exchange, Micros, Response};
use crate::store::{RecordWriter, StoreError};
use crate::telemetry::{ApiLabel, Metrics};

/// Records waiting to be written, at most; beyond, new ones are dropped and counted.
const QUEUE: usize = 16_384;
/// Records in one transaction, at most.
const BATCH: usize = 256;

/// Takes exchanges. Cheap to clone.
#[derive(Clone)]
pub struct Recorder {
    shared: Arc<Shared>,
    queue: mpsc::Sender<Queued>,
}

struct Shared {
    max_body: usize,
    memory: Memory,
    durability: Durability,
    ack_timeout: Duration,
    metrics: Metrics,
    /// From now on, flights that are dropped were cut by us, not by their clients.
    interrupting: AtomicBool,
}

struct Queued {
    open: Box<Open>,
    ack: Option<oneshot::Sender<()>>,
}

/// Writes what the recorder took: run once, on a thread of its own, until every [`Recorder`] is gone.
#[must_use = "nothing is recorded until it runs"]
pub struct RecorderWorker {
    writer: RecordWriter,
    redactor: Redactor,
    queue: mpsc::Receiver<Queued>,
    metrics: Metrics,
    memory: Memory,
}

impl std::fmt::Debug for Recorder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Recorder").field("queued", &(QUEUE - self.queue.capacity())).finish()
    }
}

impl Recorder {
    /// A recorder that writes through `writer`.
    pub fn build(
        config: &config::Capture,
        writer: RecordWriter,
        redactor: Redactor,
        metrics: Metrics,
    ) -> (Self, RecorderWorker) {
        let size = |bytes: bytesize::ByteSize| usize::try_from(bytes.as_u64()).unwrap_or(usize::MAX);
        let memory = Memory::new(size(config.memory));
        let (queue, receiver) = mpsc::channel(QUEUE);
        let shared = Arc::new(Shared {
            max_body: size(config.max_body),
            memory: memory.clone(),
            durability: config.durability,
            ack_timeout: config.ack_timeout.0,
            metrics: metrics.clone(),
            interrupting: AtomicBool::new(false),
        });
        (Self { shared, queue }, RecorderWorker { writer, redactor, queue: receiver, metrics, memory })
    }

    /// Says that exchanges still under way are about to be cut because Remora stops.
    pub fn interrupt(&self) {
        self.shared.interrupting.store(true, Ordering::Relaxed);
    }

    /// Whether this is the only handle: no exchange is under way through it.
    #[must_use]
    pub fn is_unused(&self) -> bool {
        Arc::strong_count(&self.shared) == 1
    }

    pub(super) fn interrupting(&self) -> bool {
        self.shared.interrupting.load(Ordering::Relaxed)
    }

    /// Starts the record of an exchange.
    pub fn begin(&self, head: Head) -> Flight {
        Flight::new(self.clone(), head)
    }

    pub(super) fn copy(&self) -> BodyCopy {
        BodyCopy::new(self.shared.max_body, &self.shared.memory)
    }

    pub(super) fn ack_timeout(&self) -> Duration {
        self.shared.ack_timeout
    }

    pub(super) fn count_ack_timeout(&self) {
        self.shared.metrics.ack_timeouts.increment(1);
    }

    /// Queues a record. Never waits: a full queue drops it and counts the loss.
    pub(super) fn submit(&self, mut open: Box<Open>) -> Option<oneshot::Receiver<()>> {
        open.timing.ended = Micros::now();
        let metrics = &self.shared.metrics;
        let path = open.head.target.split('?').next().unwrap_or_default();
        metrics
            .count_request(ApiLabel::of_path(path), open.response_head.as_ref().map(|(status, _)| *status));
        metrics.duration.record(open.timing.started.until(open.timing.ended));
        if let Some(first) = open.timing.first_byte {
            metrics.time_to_first_byte.record(open.timing.started.until(first));
        }
        let (ack, receiver) = match self.shared.durability {
            Durability::None => (None, None),
            Durability::Process | Durability::Power => {
                let (ack, receiver) = oneshot::channel();
                (Some(ack), Some(receiver))
            }
        };
        match self.queue.try_send(Queued { open, ack }) {
            Ok(()) => receiver,
            Err(mpsc::error::TrySendError::Full(_)) => {
                metrics.lost_queue_full.increment(1);
                None
            }
            // The recorder's thread is gone: it panicked.
            Err(mpsc::error::TrySendError::Closed(_)) => {
                metrics.lost_write_failed.increment(1);
                None
            }
        }
    }
}

impl RecorderWorker {
    /// Writes until every recorder is gone and the queue is empty. Blocks: for a thread of its own.
    pub fn run(mut self) {
        let mut failing = false;
        while let Some(first) = self.queue.blocking_recv() {
            let mut batch = vec![first];
            while batch.len() < BATCH
                && let Ok(next) = self.queue.try_recv()
            {
                batch.push(next);
            }
            let mut shares = Vec::with_capacity(batch.len() * 2);
            let mut acks = Vec::with_capacity(batch.len());
            let exchanges: Vec<Exchange> = batch
                .into_iter()
                .map(|Queued { open, ack }| {
                    acks.push(ack);
                    self.exchange(*open, &mut shares)
                })
                .collect();
            self.write(&exchanges, &mut failing);
            for ack in acks.into_iter().flatten() {
                // The other side may have stopped waiting.
                let _ = ack.send(());
            }
            drop(shares);
            self.metrics.capture_bytes.set(self.memory.held() as f64);
        }
    }

    /// Writes a batch; when that fails, one by one, so that one bad record does not take the others along. Two failures
    /// in a row are no fault of a record's: the rest is given up, for on a full disk the queue would only grow.
    fn write(&mut self, exchanges: &[Exchange], failing: &mut bool) {
        let Err(error) = self.writer.write(exchanges) else { return self.kept(exchanges.len(), failing) };
        if exchanges.len() == 1 {
            return self.lost(1, failing, &error);
        }
        let mut failed_before = false;
        for (at, one) in exchanges.iter().enumerate() {
            match self.writer.write(std::slice::from_ref(one)) {
                Ok(()) => {
                    self.kept(1, failing);
                    failed_before = false;
                }
                Err(error) if failed_before => return self.lost(exchanges.len() - at, failing, &error),
                Err(error) => {
                    self.lost(1, failing, &error);
                    failed_before = true;
                }
            }
        }
    }

    fn kept(&self, count: usize, failing: &mut bool) {
        self.metrics.recorded.increment(count as u64);
        if std::mem::take(failing) {
            tracing::info!("recording again");
        }
    }

    fn lost(&self, count: usize, failing: &mut bool, error: &StoreError) {
        self.metrics.lost_write_failed.increment(count as u64);
        // Once, not for each batch: a full disk lasts.
        if !std::mem::replace(failing, true) {
            tracing::error!(%error, "cannot record; traffic goes on, losses are counted in remora_exchanges_lost_total");
        }
    }

    /// Turns what was captured into a row; shares of memory go to `shares`.
    fn exchange(&self, open: Open, shares: &mut Vec<super::memory::Share>) -> Exchange {
        let empty = BodyCopy::new(0, &self.memory);
        let (request, request_ended) = open.take_request(empty);
        if request.out_of_memory() || open.response.out_of_memory() {
            self.metrics.truncated_by_memory.increment(1);
        }
        let Open { id, head, response_head, response, timing, ended, detail, .. } = open;
        let (mut request_body, share) = request.into_body();
        shares.push(share);
        // An answer may come before the request's end; what came later is not in the record.
        request_body.truncated |= !request_ended;
        let (response_body, share) = response.into_body();
        shares.push(share);
        let truncated = (request_body.truncated && request_ended) || response_body.truncated;
        Exchange {
            id,
            scope: head.scope,
            connection: head.connection,
            client_key: self.redactor.client_key(&head.headers),
            method: head.method.to_string(),
            target: self.redactor.target(&head.target),
            upstream: head.upstream.to_string(),
            request_headers: self.redactor.headers(&head.headers),
            request_body,
            response: response_head.map(|(status, headers)| Response {
                status,
                headers: self.redactor.headers(&headers),
                body: response_body,
            }),
            timing,
            ended: if truncated && ended == Ended::Complete { Ended::TruncatedByLimit } else { ended },
            detail,
        }
    }
}
