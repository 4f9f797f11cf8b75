//! What a reload replaces, all of it or nothing.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use arc_swap::ArcSwap;
use axum::Router;
use metrics_exporter_prometheus::PrometheusHandle;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::changes::changed;
use super::{AppError, Notifier, jobs};
use crate::capture::{self, Recorder, Redactor};
use crate::config::{Config, ConfigError};
use crate::dashboard;
use crate::proxy::{FeedbackDesk, ForwardProxy, ForwardProxyDeps, Forwarder, Front, Routes};
use crate::store::{RecordWriter, Store};
use crate::tasks::{self, Tasks};
use crate::telemetry::{self, Metrics};
use crate::upstream;

/// Reads the settings anew: the file, and over it the options of the command line.
pub type Loader = dyn Fn() -> Result<Config, ConfigError> + Send + Sync;

/// How often the configuration file is looked at.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// The parts that stay, from which the others are made anew.
pub(super) struct Fixed {
    /// Where apps connect, and where the dashboard is.
    pub own: [SocketAddr; 2],
    pub front: Front,
    /// Connections within connections.
    pub tunnels: TaskTracker,
    pub store: Store,
    pub metrics: Metrics,
    pub prometheus: PrometheusHandle,
    pub ready: watch::Receiver<bool>,
    pub tasks: Tasks,
    pub config_file: Option<PathBuf>,
    pub load: Option<Box<Loader>>,
    pub notifier: Arc<Notifier>,
    /// Where the embedded server listens, if it does.
    pub embedded: Option<SocketAddr>,
}

/// Everything that settings can replace while Remora runs.
pub(super) struct Live {
    fixed: Fixed,
    desk: FeedbackDesk,
    /// What the process was started with: what a reload cannot change is in force as it stands here.
    started: Config,
    pub forwarder: Arc<ArcSwap<Forwarder>>,
    pub pages: Arc<ArcSwap<Router>>,
    current: Mutex<Current>,
}

struct Current {
    config: Config,
    recorder: Option<Recorder>,
    /// Recorders of earlier settings: exchanges that began under them still use them.
    retired: Vec<Recorder>,
    /// Cancelled when other jobs replace these.
    jobs: CancellationToken,
    /// The file as it was when it was last read.
    read: Option<Stamp>,
}

/// A file's identity and state; another one means that it was changed or replaced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Stamp {
    modified: Option<SystemTime>,
    length: u64,
    /// Device, inode and, in nanoseconds, the time of its last change.
    identity: [i128; 3],
}

impl Live {
    /// Builds what the settings ask for; nothing runs in the background yet.
    pub fn build(config: &Config, fixed: Fixed) -> Result<Self, AppError> {
        let read = fixed.config_file.as_deref().and_then(stamp);
        let desk = FeedbackDesk::new(fixed.store.clone());
        let recorder = fixed.recorder(config)?;
        let forwarder = fixed.forwarder(config, recorder.clone(), desk.clone())?;
        let pages = fixed.pages(config);
        let current = Current {
            config: config.clone(),
            recorder,
            retired: Vec::new(),
            jobs: CancellationToken::new(),
            read,
        };
        Ok(Self {
            desk,
            started: config.clone(),
            forwarder: Arc::new(ArcSwap::from_pointee(forwarder)),
            pages: Arc::new(ArcSwap::from_pointee(pages)),
            current: Mutex::new(current),
            fixed,
        })
    }

    /// Starts the jobs, and looks at the configuration file from now on.
    pub fn run(self: &Arc<Self>) {
        let current = self.current();
        self.fixed.start_jobs(&current.config, current.recorder.as_ref(), &current.jobs);
        if self.fixed.config_file.is_some() && self.fixed.load.is_some() {
            let (live, tasks) = (self.clone(), &self.fixed.tasks);
            let stopping = tasks.stopping();
            tasks.spawn("configuration file", async move {
                tokio::select! {
                    () = live.follow() => {}
                    () = stopping.cancelled() => {}
                }
            });
        }
    }

    /// The settings in force.
    pub fn config(&self) -> Config {
        self.current().config.clone()
    }

    /// Ends the jobs; a night under way goes on.
    pub fn end_jobs(&self) {
        self.current().jobs.cancel();
    }

    /// Says that exchanges still under way are about to be cut because Remora stops, and lets the recorders go.
    pub fn interrupt(&self) -> bool {
        let mut current = self.current();
        let recorders: Vec<_> =
            current.recorder.take().into_iter().chain(current.retired.drain(..)).collect();
        recorders.iter().for_each(Recorder::interrupt);
        !recorders.is_empty()
    }

    /// Reads the settings anew. New requests are answered under them, running ones finish under the old. Settings that
    /// are wrong change nothing.
    ///
    /// # Errors
    /// With what is wrong.
    pub async fn reload(self: &Arc<Self>) -> Result<(), AppError> {
        let notifier = &self.fixed.notifier;
        notifier.reloading();
        let live = self.clone();
        let done = tasks::blocking(move || live.replace()).await;
        let done = done.unwrap_or(Err(AppError::Broke));
        let metrics = &self.fixed.metrics;
        match &done {
            Ok(()) => {
                metrics.reload_failed.set(0.0);
                metrics.reloads_done.increment(1);
                tracing::info!("the configuration is reloaded; new requests are answered under it");
            }
            Err(error) => {
                metrics.reload_failed.set(1.0);
                metrics.reloads_failed.increment(1);
                let error = one_line(&error.to_string());
                tracing::error!(%error, "the configuration is not reloaded; the old one stays in force");
            }
        }
        notifier.ready();
        done
    }

    fn replace(&self) -> Result<(), AppError> {
        let Some(load) = &self.fixed.load else { return Ok(()) };
        let mut current = self.current();
        // Before the file is read: a change meanwhile is found by the next look.
        current.read = self.fixed.config_file.as_deref().and_then(stamp);
        let config = load()?;
        // Until then nobody would answer the requests that would go to it.
        if config.embeds_server() && !self.started.embeds_server() {
            return Err(AppError::EmbeddedLate);
        }

        // What can fail comes first.
        let same_recorder = config.capture == current.config.capture;
        let recorder = if same_recorder { current.recorder.clone() } else { self.fixed.recorder(&config)? };
        // Always a new one: files that it names may have changed.
        let forwarder = self.fixed.forwarder(&config, recorder.clone(), self.desk.clone())?;

        self.fixed.front.reload()?;

        self.fixed.front.set_limits(&config.limits);
        self.forwarder.store(Arc::new(forwarder));
        self.pages.store(Arc::new(self.fixed.pages(&config)));
        telemetry::filter_logs(&config.log);
        if !same_recorder {
            let old = std::mem::replace(&mut current.recorder, recorder);
            current.retired.extend(old);
            current.forget_retired();
        }
        let times = |c: &Config| [c.dream.schedule.clone(), c.train.schedule.clone()];
        let jobs_of = |c: &Config| (c.trajectories.clone(), times(c), c.retention.clone());
        let same_jobs = same_recorder && jobs_of(&config) == jobs_of(&current.config);
        if !same_jobs && !current.jobs.is_cancelled() {
            std::mem::take(&mut current.jobs).cancel();
            self.fixed.start_jobs(&config, current.recorder.as_ref(), &current.jobs);
        }
        let late = changed(&self.started, &config);
        if !late.is_empty() {
            tracing::warn!(settings = late.join(", "), "changed in the configuration, but needs a restart");
        }
        current.config = config;
        Ok(())
    }

    /// Looks at the file until this process leaves.
    async fn follow(self: Arc<Self>) {
        let path = self.fixed.config_file.clone().unwrap_or_default();
        let mut before = stamp(&path);
        loop {
            tokio::time::sleep(LOOK_EVERY).await;
            let (path, live) = (path.clone(), self.clone());
            let looked = tasks::blocking(move || {
                let mut current = live.current();
                current.forget_retired();
                (stamp(&path), current.read, current.jobs.is_cancelled())
            });
            let Some((now, read, leaves)) = looked.await else { continue };
            if leaves {
                return;
            }
            // Unchanged for a while, so that a file is not read while it is being written; a missing one may come back.
            if now.is_some() && now == before && now != read {
                // It says itself what is wrong.
                drop(self.reload().await);
            }
            before = now;
        }
    }

    fn current(&self) -> MutexGuard<'_, Current> {
        self.current.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Current {
    /// Nobody uses a recorder any more when all its exchanges are over.
    fn forget_retired(&mut self) {
        self.retired.retain(|recorder| !recorder.is_unused());
    }
}

impl Fixed {
    fn forwarder(
        &self,
        config: &Config,
        recorder: Option<Recorder>,
        desk: FeedbackDesk,
    ) -> Result<Forwarder, AppError> {
        let setup = upstream::Setup::new(self.own[0]);
        let routes = Routes::build(&config.with_embedded_at(self.embedded), &setup)?;
        let forward_proxy = ForwardProxy::build(
            config,
            &self.store.dir().authority(),
            &self.own.map(|address| address.port()),
            setup,
            ForwardProxyDeps {
                front: self.front.clone(),
                tasks: self.tasks.clone(),
                open: self.tunnels.clone(),
                metrics: self.metrics.clone(),
            },
        )?;
        if let Some(proxy) = &forward_proxy {
            tracing::info!(certificate = %proxy.certificate().display(), "forward-proxy mode: apps have to trust this");
        }
        let skip_paths = &config.capture.skip_paths;
        Ok(Forwarder::new(routes, forward_proxy, recorder, skip_paths, desk, self.metrics.clone()))
    }

    fn pages(&self, config: &Config) -> Router {
        dashboard::router(dashboard::Deps {
            store: self.store.clone(),
            ready: self.ready.clone(),
            metrics: self.prometheus.clone(),
            allowed_hosts: config.dashboard.allowed_hosts.clone(),
        })
    }

    fn recorder(&self, config: &Config) -> Result<Option<Recorder>, AppError> {
        if !config.capture.enabled {
            return Ok(None);
        }
        let dir = self.store.dir();
        // A database that cannot be written is told now, not at the first exchange.
        drop(RecordWriter::open(dir, config.capture.durability)?);
        let path = dir.fingerprint_key();
        let redactor = Redactor::open(&path, &config.capture.secret_headers)
            .map_err(|source| AppError::Fingerprints { path, source })?;
        let (recorder, worker, settler) = capture::build(&config.capture, dir, redactor, &self.metrics)
            .map_err(|source| AppError::Journal { path: dir.journal(), source })?;
        self.tasks.thread("recorder", move || worker.run()).map_err(AppError::Thread)?;
        self.tasks.thread("settler", move || settler.run()).map_err(AppError::Thread)?;
        Ok(Some(recorder))
    }

    fn start_jobs(&self, config: &Config, recorder: Option<&Recorder>, over: &CancellationToken) {
        let file = self.config_file.as_deref();
        let backlog = recorder.map(|recorder| recorder.backlog().clone());
        jobs::start(config, file, &self.store, &self.metrics, &self.tasks, backlog, over);
    }
}

/// Several problems are told on lines of their own; a log has one line an event.
fn one_line(text: &str) -> String {
    text.split('\n').map(str::trim).collect::<Vec<_>>().join(" | ")
}

/// Follows links, for where files are replaced by turning a link.
fn stamp(path: &std::path::Path) -> Option<Stamp> {
    let about = std::fs::metadata(path).ok()?;
    #[cfg(unix)]
    let identity = {
        use std::os::unix::fs::MetadataExt;
        let changed = i128::from(about.ctime()) * 1_000_000_000 + i128::from(about.ctime_nsec());
        [i128::from(about.dev()), i128::from(about.ino()), changed]
    };
    #[cfg(not(unix))]
    let identity = [0; 3];
    Some(Stamp { modified: about.modified().ok(), length: about.len(), identity })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_was_replaced_by_one_alike_is_another() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let path = dir.path().join("remora.yaml");
        std::fs::write(&path, "a: 1").expect("written");
        let before = stamp(&path);
        assert!(before.is_some() && before == stamp(&path));
        let other = dir.path().join("other");
        std::fs::write(&other, "a: 2").expect("written");
        std::fs::rename(&other, &path).expect("renamed");
        assert_ne!(before, stamp(&path));
    }
}
