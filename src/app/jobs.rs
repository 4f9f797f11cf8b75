//! What runs in the background again and again, until a reload replaces it or the process leaves.

use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio_util::sync::CancellationToken;

use crate::capture::Backlog;
use crate::config::{self, Config};
use crate::model::Micros;
use crate::schedule::{Job, Nightly};
use crate::store::{Store, retention};
use crate::tasks::{self, Tasks};
use crate::telemetry::Metrics;
use crate::{outcome, trajectory};

/// Gauges that are counted from the store are refreshed this often.
const GAUGES_EVERY: Duration = Duration::from_secs(30);

/// Under heavy traffic joining and judging wait, but no longer than this.
const LONGEST: Duration = Duration::from_secs(60);
/// How often it is looked whether something is older than it is to be kept.
const RETENTION_EVERY: Duration = Duration::from_secs(60);

/// Starts what the settings ask for; it ends when `over`. A night under way goes on.
pub(super) fn start(
    config: &Config,
    config_file: Option<&Path>,
    store: &Store,
    metrics: &Metrics,
    tasks: &Tasks,
    backlog: Option<Backlog>,
    over: &CancellationToken,
) {
    if let Some(span) = config.trajectories.every {
        let (store, quiet) = (store.clone(), config.trajectories.quiet.0);
        let last = Mutex::new(Instant::now());
        every(tasks, "assembly", span.0, over, move || {
            let late = last.lock().unwrap_or_else(PoisonError::into_inner).elapsed() > LONGEST;
            let go_on = || late || !backlog.as_ref().is_some_and(Backlog::is_heavy);
            digest(&store, quiet, &go_on);
            if go_on() {
                *last.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
            }
        });
    }
    let (swept, keep, until) = (store.clone(), config.retention.clone(), over.clone());
    every(tasks, "retention", RETENTION_EVERY, over, move || drop_old(&swept, &keep, &until));
    let (counted, metrics) = (store.clone(), metrics.clone());
    every(tasks, "gauges", GAUGES_EVERY, over, move || count(&counted, &metrics));
    let nights = [
        ("dreams", Job::Dream, &config.dream.schedule),
        // What trains needs ONNX Runtime.
        ("trainings", Job::Train, if cfg!(feature = "onnx") { &config.train.schedule } else { &None }),
    ];
    for (name, job, line) in nights {
        let Some(line) = line else { continue };
        let night = Nightly::new(job, line, store.dir().path(), config_file);
        tasks.spawn(name, night.run(over.clone(), tasks.stopping()));
    }
}

/// Runs blocking work again and again, `pause` apart, until it is `over`.
pub(super) fn every(
    tasks: &Tasks,
    name: &'static str,
    pause: Duration,
    over: &CancellationToken,
    work: impl Fn() + Send + Sync + 'static,
) {
    let (over, work) = (over.clone(), Arc::new(work));
    tasks.spawn(name, async move {
        loop {
            tokio::select! {
                () = over.cancelled() => return,
                () = tokio::time::sleep(pause) => {}
            }
            let work = work.clone();
            if tasks::blocking(move || work()).await.is_none() {
                tracing::error!(task = name, "panicked; it runs again");
            }
        }
    });
}

/// Joins new exchanges and judges trajectories that went quiet.
fn digest(store: &Store, quiet: Duration, go_on: &dyn Fn() -> bool) {
    if let Err(error) = trajectory::catch_up_while(store, go_on) {
        tracing::warn!(%error, "cannot assemble trajectories; tried again later");
        return;
    }
    if let Err(error) = outcome::assess_while(store, Micros::now().minus(quiet), go_on) {
        tracing::warn!(%error, "cannot judge trajectories; tried again later");
    }
}

fn drop_old(store: &Store, keep: &config::Retention, until: &CancellationToken) {
    match retention::apply(store, keep, Micros::now(), &|| !until.is_cancelled()) {
        Ok(dropped) if dropped.days.is_empty() => {}
        Ok(retention::Dropped { days, rows, .. }) => {
            tracing::info!(?days, rows, "dropped as `retention` says")
        }
        Err(error) => tracing::warn!(%error, "cannot drop old records; tried again later"),
    }
}

fn count(store: &Store, metrics: &Metrics) {
    let set = |gauge: &metrics::Gauge, n: u64| gauge.set(n as f64);
    set(&metrics.quarantined, store.quarantined() as u64);
    set(&metrics.damaged_bodies, store.damaged_bodies());
    set(&metrics.stored_bytes, store.recorded_bytes().unwrap_or_default());
    let Ok(counts) = store.counts() else { return };
    set(&metrics.trajectories, counts.trajectories);
    set(&metrics.outcome_success, counts.success);
    set(&metrics.outcome_failure, counts.failure);
    set(&metrics.outcome_partial, counts.partial);
    set(&metrics.outcome_unknown, counts.unknown);
    set(&metrics.clusters_open, counts.clusters_open);
    set(&metrics.clusters_closed, counts.clusters_closed);
    set(&metrics.nights_done, counts.nights_done);
    set(&metrics.nights_failed, counts.nights_failed);
    set(&metrics.input_tokens, counts.input_tokens);
    set(&metrics.output_tokens, counts.output_tokens);
}
