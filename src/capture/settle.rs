use std::time::{Duration, Instant};

use super::backlog::Backlog;
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
    durability: crate::config::Durability,
    /// Opened when there is something to write.
    record: Option<RecordWriter>,
    /// What this process appended; none in one that appends nothing.
    own: Option<(WriterHome, Backlog)>,
    metrics: Option<Metrics>,
    /// The last round failed: said once.
    failing: bool,
}

/// Between two looks while traffic is heavy.
const PAUSE: Duration = Duration::from_millis(250);
/// Other processes' entries are looked for this often.
const LOOK: Duration = Duration::from_secs(1);
/// Exchanges a second from which traffic is heavy: settling waits for a calmer moment, for it would take processor time
/// from the traffic. Moving so many takes a few hundredths of a second.
const HEAVY: f64 = 300.0;
/// But it waits no longer than this,
const LONGEST: Duration = Duration::from_secs(30);
/// nor for more than this many bytes.
const MOST: u64 = 256 << 20;
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
        durability: crate::config::Durability,
        own: Option<(WriterHome, Backlog)>,
        metrics: Option<Metrics>,
    ) -> Self {
        let journal = Journal::of(&dir);
        Self { dir, journal, durability, record: None, own, metrics, failing: false }
    }

    /// Settles until the recorder is gone. Blocks: for a thread of its own.
    pub fn run(mut self) {
        let Some(backlog) = self.own.as_ref().map(|(_, backlog)| backlog.clone()) else { return };
        // What an earlier process left.
        self.round();
        let (mut last, mut seen, mut calm) = (Instant::now(), backlog.exchanges(), true);
        loop {
            let since = Instant::now();
            backlog.wait(if calm { LOOK } else { PAUSE }, calm && !self.failing);
            let (closed, exchanges) = (backlog.is_closed(), backlog.exchanges());
            // Right after a sleep there is one exchange and no time: that is not heavy.
            let span = since.elapsed().max(PAUSE);
            let heavy = (exchanges - seen) as f64 > HEAVY * span.as_secs_f64();
            seen = exchanges;
            calm = !heavy || closed || last.elapsed() > LONGEST || backlog.bytes() > MOST;
            if calm {
                self.round();
                last = Instant::now();
            }
            if closed {
                return;
            }
        }
    }

    /// Moves everything that is there, unless another process is at it. What fails is tried again in the next round.
    fn round(&mut self) {
        let result = self.settle();
        if let Some((home, backlog)) = &self.own
            && let Ok(bytes) = home.unsettled(Position::END)
        {
            backlog.counted(bytes);
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

    fn settle(&mut self) -> Result<(), Stuck> {
        let Some(_lock) = self.journal.lock()? else { return Ok(()) };
        for writer in self.journal.writers()? {
            // Asked before reading: what its process appended until then is read.
            let left = writer.is_left()?;
            self.writer(&writer, left)?;
            if left {
                let open = writer.open_exchanges()?;
                self.keep(&open)?;
                writer.clear()?;
            }
        }
        Ok(())
    }

    /// Settles what one process appended; `left`: nothing more comes.
    fn writer(&mut self, writer: &WriterHome, left: bool) -> Result<(), Stuck> {
        let mut position = writer.settled();
        let segments = writer.segments()?;
        for (at, segment) in segments.iter().enumerate() {
            let over = left || at + 1 < segments.len();
            if segment.number >= position.segment {
                let offset = if segment.number == position.segment { position.offset } else { 0 };
                position = self.segment(writer, segment, offset, over)?;
            }
            if over && !left {
                std::fs::remove_file(&segment.path)?;
            }
        }
        Ok(())
    }

    fn segment(
        &mut self,
        writer: &WriterHome,
        segment: &Segment,
        mut offset: u64,
        over: bool,
    ) -> Result<Position, Stuck> {
        loop {
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
            for exchanges in batch.exchanges.chunks(BATCH) {
                self.keep(exchanges)?;
            }
            let position = Position { segment: segment.number, offset: batch.offset };
            if batch.offset > offset {
                writer.note_settled(position)?;
            }
            offset = batch.offset;
            if batch.exchanges.is_empty() || (batch.at_end && !over) {
                return Ok(position);
            }
        }
    }

    /// Writes exchanges into the record. Where one of them cannot be written whatever happens, it alone is given up.
    fn keep(&mut self, exchanges: &[Exchange]) -> Result<(), Stuck> {
        if exchanges.is_empty() {
            return Ok(());
        }
        let record = match &mut self.record {
            Some(record) => record,
            none => none.insert(RecordWriter::open(&self.dir, self.durability)?),
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
            Err(_) => exchanges.chunks(1).try_for_each(|one| self.keep(one)),
        }
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
    let mut settler = Settler::new(dir.clone(), crate::config::Durability::Process, None, None);
    while !journal.reached(&ends)? {
        if began.elapsed() > patience {
            let message = format!("the journal is not moved into the record within {patience:?}");
            return Err(std::io::Error::new(std::io::ErrorKind::TimedOut, message));
        }
        if began.elapsed() > COURTESY {
            settler.settle().map_err(std::io::Error::other)?;
        }
        std::thread::sleep(POLL);
    }
    Ok(())
}
