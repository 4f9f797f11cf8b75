//! The only wiring file: settings → parts → running, and the orderly end.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::capture::{self, Recorder, Redactor};
use crate::config::{self, Config};
use crate::model::Micros;
use crate::proxy::{FeedbackDesk, ForwardProxy, ForwardProxyError, Forwarder, Proxy, Routes};
use crate::store::{DataDir, RecordWriter, Store, StoreError, retention};
use crate::tasks::{self, Tasks};
use crate::telemetry::Metrics;
use crate::upstream::{Setup, SetupError};
use crate::{dashboard, outcome, schedule, trajectory};

/// Remora cannot start.
#[derive(Debug, thiserror::Error)]
pub enum AppError {
    #[error("{key}: cannot listen on {address}: {reason}")]
    Listen { key: &'static str, address: String, reason: String },
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("{path}: cannot prepare credential fingerprints: {source}", path = path.display())]
    Fingerprints { path: PathBuf, source: std::io::Error },
    #[error("{path}: cannot begin the journal: {source}", path = path.display())]
    Journal { path: PathBuf, source: std::io::Error },
    #[error(transparent)]
    Upstream(#[from] SetupError),
    #[error(transparent)]
    ForwardProxy(#[from] ForwardProxyError),
    #[error("cannot start the recorder's thread: {0}")]
    Thread(std::io::Error),
    #[error("{path}: cannot write the ready file: {source}", path = path.display())]
    ReadyFile { path: PathBuf, source: std::io::Error },
}

/// A running Remora.
#[must_use = "stop it to end in order"]
pub struct App {
    proxy: SocketAddr,
    admin: SocketAddr,
    tasks: Tasks,
    recorder: Option<Recorder>,
    ready: watch::Sender<bool>,
    /// Closed when the proxy has let its connections finish.
    drained: watch::Receiver<()>,
    grace: Duration,
}

/// Gauges that are counted from the store are refreshed this often.
const GAUGES_EVERY: Duration = Duration::from_secs(30);
/// How often it is looked whether something is older than it is to be kept.
const RETENTION_EVERY: Duration = Duration::from_secs(60);
/// Metrics' histograms are folded this often.
const UPKEEP_EVERY: Duration = Duration::from_secs(5);
/// At the end, what is neither connection nor record gets this long.
/// Longer than a database may be locked, so that the recorder's queue is written.
const LAST_PATIENCE: Duration = Duration::from_secs(25);

impl App {
    /// Starts everything that `config` asks for. `config_file` is passed on to child processes.
    ///
    /// # Errors
    /// When an address is taken, the data directory cannot be used, or the upstream's settings are wrong.
    pub async fn start(config: &Config, config_file: Option<&Path>) -> Result<Self, AppError> {
        let proxy_listener = listen("listen", &config.listen).await?;
        let admin_listener = listen("admin", &config.admin).await?;
        let address = |key, listener: &TcpListener| {
            let reason =
                |e: std::io::Error| AppError::Listen { key, address: String::new(), reason: e.to_string() };
            listener.local_addr().map_err(reason)
        };
        let (proxy, admin) = (address("listen", &proxy_listener)?, address("admin", &admin_listener)?);

        let dir = DataDir::new(config.data_dir());
        let store = Store::open_or_quarantine(&dir)?;
        let tasks = Tasks::new();
        let (metrics, prometheus) = Metrics::register();
        metrics.quarantined.set(store.quarantined() as f64);
        let recorder =
            if config.capture.enabled { Some(start_recorder(config, &dir, &metrics, &tasks)?) } else { None };

        let setup = Setup::new(proxy);
        let routes = Routes::build(config, &setup)?;
        let forward_proxy = ForwardProxy::build(
            config,
            &dir.authority(),
            &[proxy.port(), admin.port()],
            setup,
            tasks.clone(),
            metrics.clone(),
        )?;
        if let Some(proxy) = &forward_proxy {
            tracing::info!(certificate = %proxy.certificate().display(), "forward-proxy mode: apps have to trust this");
        }
        let forwarder = Forwarder::new(
            routes,
            forward_proxy,
            recorder.clone(),
            &config.capture.skip_paths,
            FeedbackDesk::new(store.clone()),
            metrics.clone(),
        );
        let server = Proxy::new(proxy_listener, forwarder, tasks.clone(), config.shutdown.grace.0);
        let (drained_tx, drained) = watch::channel(());
        tasks.spawn("proxy", async move {
            server.run().await;
            drop(drained_tx);
        });

        let (ready, is_ready) = watch::channel(true);
        let pages = dashboard::router(dashboard::Deps {
            store: store.clone(),
            ready: is_ready,
            metrics: prometheus.clone(),
            allowed_hosts: config.dashboard.allowed_hosts.clone(),
        });
        // It answers while connections drain, so that readiness can be seen to fail.
        let mut until = drained.clone();
        tasks.spawn("dashboard", async move {
            let over = async move { drop(until.changed().await) };
            let served = axum::serve(admin_listener, pages).with_graceful_shutdown(over).await;
            if let Err(error) = served {
                tracing::error!(%error, "the dashboard stopped");
            }
        });

        let handle = prometheus;
        every(&tasks, "metrics", UPKEEP_EVERY, move || handle.run_upkeep());
        if let Some(span) = config.trajectories.every {
            let (store, quiet) = (store.clone(), config.trajectories.quiet.0);
            every(&tasks, "assembly", span.0, move || digest(&store, quiet));
        }
        let (swept, keep, stopping) = (store.clone(), config.retention.clone(), tasks.stopping());
        every(&tasks, "retention", RETENTION_EVERY, move || drop_old(&swept, &keep, &stopping));
        every(&tasks, "gauges", GAUGES_EVERY, move || count(&store, &metrics));
        if let Some(line) = &config.dream.schedule {
            let night = schedule::Nightly::new(line, dir.path(), config_file);
            tasks.spawn("schedule", night.run(tasks.stopping()));
        }
        Ok(Self { proxy, admin, tasks, recorder, ready, drained, grace: config.shutdown.grace.0 })
    }

    /// Where apps connect.
    #[must_use]
    pub fn proxy_url(&self) -> String {
        format!("http://{}", self.proxy)
    }

    /// Where the dashboard is.
    #[must_use]
    pub fn admin_url(&self) -> String {
        format!("http://{}", self.admin)
    }

    /// Tells a supervising program where it listens: `{"proxy": url, "admin": url, "pid": n}`, written whole or not
    /// at all.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn write_ready_file(&self, path: &Path) -> Result<(), AppError> {
        let failed = |source| AppError::ReadyFile { path: path.to_owned(), source };
        let text = serde_json::json!({
            "proxy": self.proxy_url(),
            "admin": self.admin_url(),
            "pid": std::process::id(),
        });
        let folder = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let mut file = tempfile::NamedTempFile::new_in(folder).map_err(failed)?;
        std::io::Write::write_all(&mut file, format!("{text}\n").as_bytes()).map_err(failed)?;
        file.persist(path).map_err(|e| failed(e.error))?;
        Ok(())
    }

    /// Ends in order:
    /// 1. readiness fails, no more connections are accepted;
    /// 2. running exchanges finish, within the grace period;
    /// 3. those that did not are cut and recorded as interrupted;
    /// 4. the recorder writes what is queued; the other tasks end.
    pub async fn stop(self) {
        let Self { tasks, recorder, ready, mut drained, grace, .. } = self;
        ready.send_replace(false);
        tasks.stopping().cancel();
        // Its sender is dropped when the proxy is done, which the proxy bounds by the same grace.
        drop(tokio::time::timeout(grace + LAST_PATIENCE, drained.changed()).await);
        if let Some(recorder) = recorder {
            recorder.interrupt();
            tasks.abort_connections();
        }
        let laggards = tasks.stop(LAST_PATIENCE).await;
        if !laggards.is_empty() {
            tracing::warn!(?laggards, "did not end in time");
        }
    }
}

fn start_recorder(
    config: &Config,
    dir: &DataDir,
    metrics: &Metrics,
    tasks: &Tasks,
) -> Result<Recorder, AppError> {
    // A database that cannot be written is told now, not at the first exchange.
    drop(RecordWriter::open(dir, config.capture.durability)?);
    let path = dir.fingerprint_key();
    let redactor = Redactor::open(&path, &config.capture.secret_headers)
        .map_err(|source| AppError::Fingerprints { path, source })?;
    let (recorder, worker, settler) = capture::build(&config.capture, dir, redactor, metrics)
        .map_err(|source| AppError::Journal { path: dir.journal(), source })?;
    tasks.thread("recorder", move || worker.run()).map_err(AppError::Thread)?;
    tasks.thread("settler", move || settler.run()).map_err(AppError::Thread)?;
    Ok(recorder)
}

async fn listen(key: &'static str, address: &str) -> Result<TcpListener, AppError> {
    TcpListener::bind(address).await.map_err(|e| AppError::Listen {
        key,
        address: address.to_owned(),
        reason: match e.kind() {
            std::io::ErrorKind::AddrInUse => {
                format!("another program listens there. Stop it, or choose another address with --{key}")
            }
            _ => format!("{e}. Choose another address with --{key}"),
        },
    })
}

/// Runs blocking work again and again, `pause` apart, until the tasks stop.
fn every(tasks: &Tasks, name: &'static str, pause: Duration, work: impl Fn() + Send + Sync + 'static) {
    let stopping = tasks.stopping();
    let work = std::sync::Arc::new(work);
    tasks.spawn(name, async move {
        loop {
            tokio::select! {
                () = stopping.cancelled() => return,
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
fn digest(store: &Store, quiet: Duration) {
    if let Err(error) = trajectory::catch_up(store) {
        tracing::warn!(%error, "cannot assemble trajectories; tried again later");
        return;
    }
    if let Err(error) = outcome::assess(store, Micros::now().minus(quiet)) {
        tracing::warn!(%error, "cannot judge trajectories; tried again later");
    }
}

/// Drops what is older than it is to be kept.
fn drop_old(store: &Store, keep: &config::Retention, stopping: &CancellationToken) {
    match retention::apply(store, keep, Micros::now(), &|| !stopping.is_cancelled()) {
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
