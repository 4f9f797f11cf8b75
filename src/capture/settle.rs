use std::time::{Duration, Instant};

use super::backlog::Backlog;
use crate::config::Durability;
use crate::model::Exchange;
use crate::store::journal::{Journal, Position, Segment, WriterHome};
use crate::store::{DataDir, RecordWriter, StoreError};
use crate::telemetry::Metrics;

/// Moves entries of the journal into the record: run on a thread of its own, until the recorder is gone and everything
/// is settled.
#[must_use = "nothing reaches the record until it runs"]
pub struct Settler {
    dir: DataDir,
    journal: Journal,
    durability: Durability,
    /// Opened when there is something to write, for what it is to survive.
    record: Option<(Durability, RecordWriter)>,
    /// What this process appended; none in one that appends nothing.
    own: Option<Own>,
    metrics: Option<Metrics>,
    /// The last round failed: said once.
    failing: bool,
}

/// What the process appends whose settler this is.
pub(super) struct Own {
    pub home: WriterHome,
    pub backlog: Backlog,
    /// With more bytes than this waiting, settling does not wait for a calmer moment.
    pub most: u64,
}

/// Between two looks while traffic is heavy.
const PAUSE: Duration = Duration::from_millis(250);
/// Other processes' entries are looked for this often.
const LOOK: Duration = Duration::from_secs(1);
/// Exchanges a second from which traffic is heavy: settling waits for a calmer moment, for it would take processor time
/// from the traffic. Moving so many takes a few hundredths of a second.
const HEAVY: f64 = 300.0;
/// But it waits no longer than this.
const LONGEST: Duration = Duration::from_secs(30);
/// Exchanges in one transaction.
const BATCH: usize = 256;

/// Settling failed in a way that may pass.
#[derive(Debug, thiserror::Error)]
enum Stuck {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("the journal cannot be read: {0}")]
    Journal(#[from] std::io::Error),
}

impl Settler {
    pub(super) fn new(
        dir: DataDir,
        durability: Durability,
        own: Option<Own>,
        metrics: Option<Metrics>,
    ) -> Self {
        let journal = Journal::of(&dir);
        Self { dir, journal, durability, record: None, own, metrics, failing: false }
    }

    /// Settles until the recorder is gone. Blocks: for a thread of its own.
    pub fn run(mut self) {
        let Some((backlog, most)) = self.own.as_ref().map(|own| (own.backlog.clone(), own.most)) else {
            return;
        };
        let mut traffic = Traffic::new(backlog.clone());
        let mut last = Instant::now();
        let mut covered = backlog.exchanges();
        // What an earlier process left.
        self.round(&mut || true);
        loop {
            let calm = !traffic.is_heavy() && !self.failing;
            backlog.wait(if calm { LOOK } else { PAUSE }, calm.then_some(covered));
            let closed = backlog.is_closed();
            let must = closed || last.elapsed() > LONGEST || backlog.bytes() > most;
            if must || !traffic.is_heavy() {
                covered = backlog.exchanges();
                self.round(&mut || must || !traffic.is_heavy());
                last = Instant::now();
            }
            if closed {
                return;
            }
        }
    }

    /// Moves what is there, unless another process is at it, as long as `go_on` allows. What fails is tried again in the
    /// next round.
    fn round(&mut self, go_on: &mut dyn FnMut() -> bool) {
        let result = self.settle(go_on);
        if let Some(own) = &self.own
            && let Ok(bytes) = own.home.unsettled(Position::END)
        {
            own.backlog.counted(bytes);
            if let Some(metrics) = &self.metrics {
                metrics.journal_bytes.set(bytes as f64);
            }
        }
        match result {
            Ok(()) => {
                if std::mem::take(&mut self.failing) {
                    tracing::info!("the journal is moved into the record again");
                }
            }
            Err(error) => {
                if let Some(metrics) = &self.metrics {
                    metrics.settle_failures.increment(1);
                }
                if !std::mem::replace(&mut self.failing, true) {
                    tracing::error!(%error, "the journal cannot be moved into the record; it is kept and tried again");
                }
                // A connection to a file that was replaced would go on failing.
                self.record = None;
            }
        }
    }

    fn settle(&mut self, go_on: &mut dyn FnMut() -> bool) -> Result<(), Stuck> {
        let Some(_lock) = self.journal.lock()? else { return Ok(()) };
        let mut stuck = None;
        for writer in self.journal.writers()? {
            match self.home(&writer, go_on) {
                Ok(true) => {}
                Ok(false) => break,
                // A file that cannot be read must not keep those of others from being moved.
                Err(error @ Stuck::Journal(_)) => stuck = Some(error),
                Err(error) => return Err(error),
            }
        }
        stuck.map_or(Ok(()), Err)
    }

    /// Settles what one process has appended, and clears it away when that process is gone. False when it was to stop.
    fn home(&mut self, writer: &WriterHome, go_on: &mut dyn FnMut() -> bool) -> Result<bool, Stuck> {
        // Asked before reading: what its process appended until then is read.
        let left = writer.is_left()?;
        // What was promised when it was appended holds, whatever is promised now and whoever moves it.
        let durability = if writer.survives_power() { Durability::Power } else { self.durability };
        if self.record.as_ref().is_some_and(|(open, _)| *open != durability) {
            self.record = None;
        }
        if !self.writer(writer, durability, left, go_on)? {
            return Ok(false);
        }
        if left {
            let open = writer.open_exchanges()?;
            self.keep(&open, durability)?;
            writer.clear()?;
        }
        Ok(true)
    }

    /// Settles what one process has appended until now; `left`: nothing more comes. False when it was to stop.
    fn writer(
        &mut self,
        writer: &WriterHome,
        durability: Durability,
        left: bool,
        go_on: &mut dyn FnMut() -> bool,
    ) -> Result<bool, Stuck> {
        let settled = writer.settled();
        let segments = writer.segments()?;
        for (at, segment) in segments.iter().enumerate() {
            let over = left || at + 1 < segments.len();
            if segment.number >= settled.segment {
                let offset = if segment.number == settled.segment { settled.offset } else { 0 };
                if !self.segment(writer, segment, offset, (over, durability), go_on)? {
                    return Ok(false);
                }
            }
            if over && !left {
                std::fs::remove_file(&segment.path)?;
            }
        }
        Ok(true)
    }

    fn segment(
        &mut self,
        writer: &WriterHome,
        segment: &Segment,
        mut offset: u64,
        (over, durability): (bool, Durability),
        go_on: &mut dyn FnMut() -> bool,
    ) -> Result<bool, Stuck> {
        // What comes meanwhile is for the next round: under load this one would never end.
        let end = segment.end();
        while offset < end.offset {
            if !go_on() {
                return Ok(false);
            }
            let batch = segment.read(offset, over)?;
            if batch.damaged > 0 {
                tracing::error!(
                    path = %segment.path.display(),
                    bytes = batch.damaged,
                    "a part of the journal is damaged and was passed over"
                );
                if let Some(metrics) = &self.metrics {
                    metrics.journal_damaged.increment(batch.damaged);
                }
            }
            if batch.exchanges.is_empty() {
                break;
            }
            for exchanges in batch.exchanges.chunks(BATCH) {
                self.keep(exchanges, durability)?;
            }
            offset = batch.offset;
            writer.note_settled(Position { segment: segment.number, offset })?;
        }
        Ok(true)
    }

    /// Writes exchanges into the record. Where one of them cannot be written whatever happens, it alone is given up.
    fn keep(&mut self, exchanges: &[Exchange], durability: Durability) -> Result<(), Stuck> {
        if exchanges.is_empty() {
            return Ok(());
        }
        let (_, record) = match &mut self.record {
            Some(record) => record,
            none => none.insert((durability, RecordWriter::open(&self.dir, durability)?)),
        };
        match record.write(exchanges) {
            Ok(()) => Ok(()),
            Err(error) if error.may_pass() => Err(error.into()),
            Err(error) if exchanges.len() == 1 => {
                tracing::error!(%error, id = %exchanges[0].id, "an exchange cannot be recorded and is given up");
                if let Some(metrics) = &self.metrics {
                    metrics.lost_refused.increment(1);
                }
                Ok(())
            }
            Err(_) => exchanges.chunks(1).try_for_each(|one| self.keep(one, durability)),
        }
    }
}

/// How heavy traffic is, looked at in windows of one [`PAUSE`] or more.
struct Traffic {
    backlog: Backlog,
    since: Instant,
    seen: u64,
    /// In the last whole window.
    was_heavy: bool,
}

impl Traffic {
    fn new(backlog: Backlog) -> Self {
        Self { backlog, since: Instant::now(), seen: 0, was_heavy: false }
    }

    /// Whether it is heavy now, or was a moment ago.
    fn is_heavy(&mut self) -> bool {
        let exchanges = self.backlog.exchanges();
        let window = self.since.elapsed().max(PAUSE);
        let heavy = (exchanges - self.seen) as f64 > HEAVY * window.as_secs_f64();
        if self.since.elapsed() >= PAUSE {
            (self.since, self.seen, self.was_heavy) = (Instant::now(), exchanges, heavy);
        }
        let heavy = heavy || self.was_heavy;
        self.backlog.set_heavy(heavy);
        heavy
    }
}

/// Between two looks at whether the process that settles has come so far.
const POLL: Duration = Duration::from_millis(5);
/// A running sidecar gets this long to do it before the one who waits does it.
const COURTESY: Duration = Duration::from_millis(50);

/// Waits until everything that has ended so far is in the record, for a bounded time: for those who are about to read.
/// Where no process is at it, this one does it. Blocks.
///
/// # Errors
/// When it is not done within `patience`, with the reason.
pub fn settle(dir: &DataDir, patience: Duration) -> std::io::Result<()> {
    let journal = Journal::of(dir);
    let ends = journal.ends()?;
    let began = Instant::now();
    let mut settler = Settler::new(dir.clone(), Durability::Process, None, None);
    while !journal.reached(&ends)? {
        if began.elapsed() > patience {
            let message = format!("the journal is not moved into the record within {patience:?}");
            return Err(std::io::Error::new(std::io::ErrorKind::TimedOut, message));
        }
        if began.elapsed() > COURTESY {
            settler.settle(&mut || true).map_err(std::io::Error::other)?;
        }
        std::thread::sleep(POLL);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_is_heavy_at_once_and_a_trickle_never() {
        let backlog = Backlog::default();
        let mut traffic = Traffic::new(backlog.clone());
        assert!(!traffic.is_heavy());
        backlog.appended(1, 10);
        assert!(!traffic.is_heavy(), "ten in a quarter of a second");
        backlog.appended(1, 1000);
        assert!(traffic.is_heavy());
        // A whole window later it was heavy still.
        traffic.since = Instant::now().checked_sub(PAUSE).expect("the clock has run for a while");
        assert!(traffic.is_heavy() && traffic.is_heavy());
        traffic.since = Instant::now().checked_sub(PAUSE).expect("the clock has run for a while");
        assert!(!traffic.is_heavy(), "a quiet window");
    }
}
