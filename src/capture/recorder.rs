use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError, TrySendError};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use slab::Slab;
use tokio::sync::oneshot;

use super::ack::Waiting;
use super::backlog::Backlog;
use super::copy::BodyCopy;
use super::files;
use super::flight::{Flight, Head, Open, SharedOpen, lock};
use super::memory::Memory;
use super::writer::Writer;
use crate::config::{self, Durability};
use crate::model::{ExchangeId, Micros};
use crate::telemetry::{ApiLabel, Metrics};

/// Records waiting to be written, at most; beyond, new ones are dropped and counted.
const QUEUE: usize = 16_384;
/// Records in one write, at most.
const BATCH: usize = 256;
/// Bytes of bodies in one write, at most, unless one record has more.
const BATCH_BYTES: usize = 4 << 20;
/// With no more exchanges than this under way it is quiet.
const QUIET: usize = 2;
/// Exchanges under way are looked at this often.
const CHECKPOINT: Duration = Duration::from_secs(1);
/// And saved when they are older than this: the others are likely to end by themselves before the next look. Together
/// with [`CHECKPOINT`] it is the most that a crash can take from their end; 2 s are promised.
const YOUNG: Duration = Duration::from_millis(500);

/// Takes exchanges. Cheap to clone.
#[derive(Clone)]
pub struct Recorder {
    shared: Arc<Shared>,
    queue: mpsc::SyncSender<Queued>,
}

struct Shared {
    max_body: usize,
    keep_uploads: bool,
    memory: Memory,
    durability: Durability,
    ack_timeout: Duration,
    metrics: Metrics,
    /// From now on, flights that are dropped were cut by us, not by their clients.
    interrupting: AtomicBool,
    /// The journal does not keep up: nobody waits for it until it does.
    slow: AtomicBool,
    under_way: UnderWay,
    backlog: Backlog,
    /// Lost exchanges of which something was saved while they were under way.
    orphans: Mutex<Vec<ExchangeId>>,
    /// Threads do not wait for each other's processor.
    parallel: bool,
}

fn orphans(shared: &Shared) -> MutexGuard<'_, Vec<ExchangeId>> {
    shared.orphans.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The exchanges under way.
type UnderWay = Mutex<Slab<SharedOpen>>;

fn list(under_way: &UnderWay) -> MutexGuard<'_, Slab<SharedOpen>> {
    under_way.lock().unwrap_or_else(PoisonError::into_inner)
}

struct Queued {
    open: Box<Open>,
    ack: Option<oneshot::Sender<()>>,
}

/// Appends what the recorder took: run once, on a thread of its own, until every [`Recorder`] is gone.
#[must_use = "nothing is recorded until it runs"]
pub struct RecorderWorker {
    writer: Writer,
    queue: mpsc::Receiver<Queued>,
    shared: Arc<Shared>,
    /// After the writer: the settler's last round must find that nothing more will be appended.
    _closing: Closing,
}

/// Tells the settler that the recorder is gone, however it went.
struct Closing(Backlog);

impl Drop for Closing {
    fn drop(&mut self) {
        self.0.close();
    }
}

impl std::fmt::Debug for Recorder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Recorder").field("under_way", &list(&self.shared.under_way).len()).finish()
    }
}

impl Recorder {
    pub(super) fn build(
        config: &config::Capture,
        writer: Writer,
        backlog: Backlog,
        metrics: Metrics,
    ) -> (Self, RecorderWorker) {
        let size = |bytes: bytesize::ByteSize| usize::try_from(bytes.as_u64()).unwrap_or(usize::MAX);
        let (queue, receiver) = mpsc::sync_channel(QUEUE);
        let shared = Arc::new(Shared {
            max_body: size(config.max_body),
            keep_uploads: config.keep_uploads,
            memory: Memory::new(size(config.memory)),
            durability: config.durability,
            ack_timeout: config.ack_timeout.0,
            metrics,
            interrupting: AtomicBool::new(false),
            slow: AtomicBool::new(false),
            under_way: UnderWay::default(),
            backlog: backlog.clone(),
            orphans: Mutex::default(),
            parallel: std::thread::available_parallelism().is_ok_and(|n| n.get() > 1),
        });
        let _closing = Closing(backlog);
        let worker = RecorderWorker { writer, queue: receiver, shared: shared.clone(), _closing };
        (Self { shared, queue }, worker)
    }

    /// Says that exchanges still under way are about to be cut because Remora stops.
    pub fn interrupt(&self) {
        self.shared.interrupting.store(true, Ordering::Relaxed);
    }

    /// Whether this is the only handle: no exchange is under way through it.
    #[must_use]
    pub fn is_unused(&self) -> bool {
        // The worker's and this one.
        Arc::strong_count(&self.shared) <= 2
    }

    pub(super) fn interrupting(&self) -> bool {
        self.shared.interrupting.load(Ordering::Relaxed)
    }

    /// What is on its way into the record, and how heavy traffic is.
    #[must_use]
    pub fn backlog(&self) -> &Backlog {
        &self.shared.backlog
    }

    /// Starts the record of an exchange.
    pub fn begin(&self, head: Head) -> Flight {
        Flight::new(self.clone(), head)
    }

    /// An empty copy for the body that these headers announce.
    pub(super) fn copy(&self, headers: &http::HeaderMap) -> BodyCopy {
        if !self.shared.keep_uploads && files::announced(headers) {
            return BodyCopy::counted(&self.shared.memory);
        }
        BodyCopy::new(self.shared.max_body, &self.shared.memory)
    }

    /// Whether files are kept whole, not as length and hash only.
    #[must_use]
    pub fn keeps_uploads(&self) -> bool {
        self.shared.keep_uploads
    }

    /// Enters an exchange in the list of those under way; gives its place.
    pub(super) fn under_way(&self, open: SharedOpen) -> usize {
        list(&self.shared.under_way).insert(open)
    }

    /// Takes an exchange off the list.
    pub(super) fn landed(&self, place: usize) {
        drop(list(&self.shared.under_way).try_remove(place));
    }

    /// Whether so little is under way that a thread may look for its answer instead of turning to something else.
    pub(super) fn is_quiet(&self) -> bool {
        self.shared.parallel && list(&self.shared.under_way).len() <= QUIET
    }

    pub(super) fn ack_timeout(&self) -> Duration {
        self.shared.ack_timeout
    }

    /// A record was not safe in time. As long as that lasts nobody else waits.
    pub(super) fn waited_in_vain(&self) {
        self.shared.metrics.ack_timeouts.increment(1);
        self.shared.slow.store(true, Ordering::Relaxed);
    }

    /// Queues a record. Never waits: a full queue drops it and counts the loss.
    pub(super) fn submit(&self, mut open: Box<Open>) -> Option<Waiting> {
        open.timing.ended = Micros::now();
        let metrics = &self.shared.metrics;
        let path = open.head.target.split('?').next().unwrap_or_default();
        metrics
            .count_request(ApiLabel::of_path(path), open.response_head.as_ref().map(|(status, _)| *status));
        metrics.duration.record(open.timing.started.until(open.timing.ended));
        if let Some(first) = open.timing.first_byte {
            metrics.time_to_first_byte.record(open.timing.started.until(first));
        }
        let waits = self.shared.durability != Durability::None && !self.shared.slow.load(Ordering::Relaxed);
        let (ack, receiver) = waits.then(oneshot::channel).unzip();
        let saved = open.saved.is_some().then_some(open.id);
        match self.queue.try_send(Queued { open, ack }) {
            Ok(()) => receiver.map(|receiver| Waiting::new(receiver, self.clone())),
            Err(TrySendError::Full(_)) => {
                metrics.lost_queue_full.increment(1);
                // It would come back as interrupted.
                orphans(&self.shared).extend(saved);
                None
            }
            // The recorder's thread is gone: it panicked.
            Err(TrySendError::Disconnected(_)) => {
                metrics.lost_write_failed.increment(1);
                None
            }
        }
    }
}

impl RecorderWorker {
    /// Appends until every recorder is gone and the queue is empty. Blocks: for a thread of its own.
    pub fn run(mut self) {
        let mut next_look = Instant::now() + CHECKPOINT;
        loop {
            match self.queue.recv_timeout(next_look.saturating_duration_since(Instant::now())) {
                Ok(first) => self.take(first),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => break,
            }
            if Instant::now() >= next_look {
                self.checkpoint();
                next_look = Instant::now() + CHECKPOINT;
            }
        }
    }

    /// Appends one record and those that wait behind it.
    fn take(&mut self, first: Queued) {
        let bytes = |queued: &Queued| queued.open.request.kept() + queued.open.response.kept();
        let mut size = bytes(&first);
        let mut batch = vec![first];
        while batch.len() < BATCH
            && size < BATCH_BYTES
            && let Ok(next) = self.queue.try_recv()
        {
            size += bytes(&next);
            batch.push(next);
        }
        let longest = batch.iter().map(|queued| queued.open.timing.ended).min();
        let (opens, acks): (Vec<_>, Vec<_>) = batch.into_iter().map(|q| (q.open, q.ack)).unzip();
        self.writer.write(opens);
        for ack in acks.into_iter().flatten() {
            // The other side may have stopped waiting.
            let _ = ack.send(());
        }
        if self.shared.slow.load(Ordering::Relaxed)
            && longest.is_some_and(|ended| ended.until(Micros::now()) < self.shared.ack_timeout)
        {
            self.shared.slow.store(false, Ordering::Relaxed);
        }
        self.shared.metrics.capture_bytes.set(self.shared.memory.held() as f64);
    }

    /// Saves what passed of the exchanges that have been under way for a while.
    fn checkpoint(&mut self) {
        self.writer.tend();
        for id in std::mem::take(&mut *orphans(&self.shared)) {
            self.writer.forget(id);
        }
        let now = Micros::now();
        let all: Vec<SharedOpen> =
            list(&self.shared.under_way).iter().map(|(_, open)| open.clone()).collect();
        for shared in all {
            // Ends of responses wait for what is queued.
            while let Ok(queued) = self.queue.try_recv() {
                self.take(queued);
            }
            // Held only while what is new is copied, not while it is written.
            let new = lock(&shared)
                .as_mut()
                .filter(|open| !is_young(open.timing.started, now))
                .and_then(|open| self.writer.news(open));
            if let Some((entry, first)) = new
                && !self.writer.save(&entry, first)
                && let Some(open) = lock(&shared).as_mut()
            {
                // The next look begins anew.
                open.saved = None;
            }
        }
    }
}

/// Whether an exchange has not been under way for long. One that began in the future was there before the clock was set
/// back.
fn is_young(started: Micros, now: Micros) -> bool {
    started <= now && started.until(now) < YOUNG
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_that_jumps_keeps_nothing_from_being_saved() {
        let (now, hour) = (Micros::now(), Duration::from_secs(3600));
        assert!(is_young(now, now) && is_young(now.minus(YOUNG / 2), now));
        assert!(!is_young(now.minus(YOUNG), now));
        // Forward by an hour, and back by one.
        assert!(!is_young(now, now.plus(hour)));
        assert!(!is_young(now, now.minus(hour)));
        // What it makes of ages: never less than nothing, never a panic.
        assert_eq!(now.until(now.minus(hour)), Duration::ZERO);
        assert_eq!(Micros(i64::MIN).until(Micros(i64::MAX)), Duration::from_micros(i64::MAX as u64));
        assert_eq!(Micros(i64::MIN).minus(hour), Micros(i64::MIN));
        assert_eq!(Micros(i64::MAX).plus(Duration::MAX), Micros(i64::MAX));
    }
}
