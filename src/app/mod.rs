//! The only wiring: settings → parts → running, and the orderly end.
//!
//! In: checked settings, and where another process or a service manager opened them, the listening sockets. Out: a
//! running [`App`].
//!
//! Always true: what a reload can replace is in [`live`], and is replaced whole or not at all; until a successor has
//! said that it serves, this process can go on as if nothing had happened; nothing here waits for a service manager.

mod changes;
#[cfg(feature = "onnx")]
mod embedded;
#[cfg(not(feature = "onnx"))]
#[path = "not_embedded.rs"]
mod embedded;
mod error;
#[cfg(unix)]
mod handover;
mod jobs;
mod listeners;
mod live;
mod notify;
#[cfg(unix)]
mod successor;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::task::TaskTracker;
use tower_service::Service as _;

use crate::config::{Config, Span};
use crate::proxy::{Front, Phase, Proxy};
use crate::store::{DataDir, Store};
use crate::tasks::Tasks;
use crate::telemetry::Metrics;
use embedded::Embedded;
use listeners::{ADMIN, Gated, Kept, LISTEN};
use live::{Fixed, Live};

pub use error::AppError;
#[cfg(unix)]
pub use handover::Takeover;
pub use listeners::Inherited;
pub use live::Loader;
pub use notify::Notifier;
#[cfg(unix)]
pub use successor::Successor;

/// A running Remora.
#[must_use = "stop it to end in order"]
pub struct App {
    proxy: SocketAddr,
    scheme: &'static str,
    admin: SocketAddr,
    tasks: Tasks,
    live: Arc<Live>,
    gates: Gates,
    notifier: Arc<Notifier>,
    /// Closed when the proxy has let its connections finish.
    drained: watch::Receiver<()>,
    embedded: Embedded,
    /// The data directory's name is ours, so that a successor finds us.
    #[cfg(unix)]
    desk: Option<handover::Desk>,
}

/// What a start may bring besides its settings.
#[derive(Default)]
pub struct Setup {
    /// Passed on to child processes; followed when it can be loaded.
    pub config_file: Option<PathBuf>,
    pub load: Option<Box<Loader>>,
    pub inherited: Inherited,
    pub notifier: Notifier,
}

/// Why the process drains.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Leaving {
    /// It was asked to end.
    Stopping,
    /// Another one has its place.
    HandedOver,
}

/// What decides whether requests come in.
#[derive(Clone)]
struct Gates {
    phase: watch::Sender<Phase>,
    /// Whether the admin listener accepts: while a stopping process drains, too, so that readiness can be seen to fail.
    admin: watch::Sender<bool>,
    ready: watch::Sender<bool>,
    sockets: Kept,
}

/// Metrics' histograms are folded this often.
const UPKEEP_EVERY: Duration = Duration::from_secs(5);
/// At the end, what is neither connection nor record gets this long.
/// Longer than a database may be locked, so that the recorder's queue is written.
const LAST_PATIENCE: Duration = Duration::from_secs(25);

impl Gates {
    /// Whether connections are accepted; without effect once it drains.
    fn accept(&self, yes: bool) {
        let next = if yes { Phase::Serving } else { Phase::Waiting };
        self.phase.send_modify(|phase| {
            if !matches!(phase, Phase::Draining { .. }) {
                *phase = next;
            }
        });
        self.admin.send_replace(yes);
    }
}

impl App {
    /// Starts everything that `config` asks for and serves. `config_file` is passed on to child processes.
    ///
    /// # Errors
    /// When an address is taken, the data directory cannot be used, or the upstream's settings are wrong.
    pub async fn start(config: &Config, config_file: Option<&Path>) -> Result<Self, AppError> {
        let setup = Setup { config_file: config_file.map(Path::to_owned), ..Setup::default() };
        let app = Self::prepare(config, setup).await?;
        app.serve();
        Ok(app)
    }

    /// Starts everything but accepting and the jobs in the background, so that what can fail has not failed.
    ///
    /// # Errors
    /// As [`start`](Self::start).
    pub async fn prepare(config: &Config, setup: Setup) -> Result<Self, AppError> {
        let Setup { config_file, load, mut inherited, notifier } = setup;
        let gates = Gates {
            phase: watch::Sender::new(Phase::Waiting),
            admin: watch::Sender::new(false),
            ready: watch::Sender::new(false),
            sockets: Kept::default(),
        };
        let (proxy_listener, proxy) = gates.sockets.open(LISTEN, &config.listen, &mut inherited).await?;
        let (admin_listener, admin) = gates.sockets.open(ADMIN, &config.admin, &mut inherited).await?;

        let mut embedded = Embedded::bind(config, &gates, &mut inherited).await;

        let store = Store::open_or_quarantine(&DataDir::new(config.data_dir()))?;
        let (tasks, notifier) = (Tasks::new(), Arc::new(notifier));
        let (metrics, prometheus) = Metrics::register();
        metrics.quarantined.set(store.quarantined() as f64);
        let upkeep = prometheus.clone();
        jobs::every(&tasks, "metrics", UPKEEP_EVERY, &tasks.stopping(), move || upkeep.run_upkeep());
        let front = Front::build(config.tls.as_ref(), &config.limits, &metrics.clients)?;
        let scheme = front.scheme();
        let live = Arc::new(Live::build(
            config,
            Fixed {
                own: [proxy, admin],
                front: front.clone(),
                tunnels: TaskTracker::new(),
                store: store.clone(),
                metrics,
                prometheus,
                ready: gates.ready.subscribe(),
                tasks: tasks.clone(),
                config_file,
                load,
                notifier: notifier.clone(),
                embedded: embedded.address,
            },
        )?);

        let (drained_tx, drained) = watch::channel(());
        embedded.open(config, proxy, &store, drained.clone(), &tasks);
        let phase = gates.phase.subscribe();
        let server = Proxy::new(proxy_listener, live.forwarder.clone(), front, tasks.clone(), phase);
        tasks.spawn("proxy", async move {
            server.run().await;
            drop(drained_tx);
        });
        let pages = live.pages.clone();
        let pages = axum::Router::new().fallback(move |request: axum::extract::Request| {
            let mut current = pages.load().as_ref().clone();
            async move { current.call(request).await }
        });
        let listener = Gated { listener: admin_listener, open: gates.admin.subscribe() };
        let mut until = drained.clone();
        tasks.spawn("dashboard", async move {
            let over = async move { drop(until.changed().await) };
            if let Err(error) = axum::serve(listener, pages).with_graceful_shutdown(over).await {
                tracing::error!(%error, "the dashboard stopped");
            }
        });
        Ok(Self {
            proxy,
            scheme,
            admin,
            tasks,
            live,
            gates,
            notifier,
            drained,
            embedded,
            #[cfg(unix)]
            desk: None,
        })
    }

    /// Accepts, and begins what runs in the background.
    fn serve(&self) {
        self.gates.accept(true);
        self.gates.ready.send_replace(true);
        let told = self.embedded.address.map(|address| self.data_dir().tell_embedded(address));
        if let Some(Err(error)) = told {
            tracing::warn!(%error, "nights and commands may not find the embedded model");
        }
        self.live.run();
        Notifier::watch(&self.notifier, &self.tasks, self.gates.ready.subscribe());
    }

    /// Starts, in the place of another process where there is one to take over from, and is there to be taken over
    /// from in its turn.
    ///
    /// # Errors
    /// As [`start`](Self::start); or when the other process goes on.
    #[cfg(unix)]
    pub async fn launch(config: &Config, setup: Setup, takeover: Option<Takeover>) -> Result<Self, AppError> {
        let succeeds = takeover.is_some();
        let mut app = Self::prepare(config, setup).await?;
        let mut agreed = Ok(());
        // Held until the next process finds us.
        let mut takeover = takeover;
        if let Some(takeover) = &mut takeover {
            agreed = takeover.ready().await;
        }
        if agreed.is_ok() {
            app.serve();
            if let Some(takeover) = &mut takeover {
                agreed = takeover.serving().await;
            }
        }
        if let Err(error) = agreed {
            app.stop().await;
            return Err(error);
        }
        let (gates, notifier) = (app.gates.clone(), app.notifier.clone());
        match handover::Desk::open(&config.data_dir(), gates, notifier, &app.tasks, succeeds).await {
            Ok(Some(desk)) => app.desk = Some(desk),
            Ok(None) => tracing::warn!(
                "another Remora runs on this data directory; a successor takes over from that one, not from this"
            ),
            Err(error) => tracing::warn!(%error, "no successor can take over from this process"),
        }
        app.notifier.ready();
        Ok(app)
    }

    /// Starts.
    ///
    /// # Errors
    /// As [`start`](Self::start).
    #[cfg(not(unix))]
    pub async fn launch(config: &Config, setup: Setup) -> Result<Self, AppError> {
        let app = Self::prepare(config, setup).await?;
        app.serve();
        app.notifier.ready();
        Ok(app)
    }

    /// Resolves when another process serves in this one's place; it is left to [`drain`](Self::drain) and
    /// [`stop`](Self::stop).
    pub async fn handed_over(&self) {
        #[cfg(unix)]
        if let Some(desk) = &self.desk {
            return desk.handed_over().await;
        }
        std::future::pending().await
    }

    /// Reads the configuration anew; what is wrong with it is logged, and changes nothing.
    pub async fn reload(&self) {
        drop(self.live.reload().await);
    }

    fn data_dir(&self) -> DataDir {
        DataDir::new(self.live.config().data_dir())
    }

    /// Where apps connect.
    #[must_use]
    pub fn proxy_url(&self) -> String {
        format!("{}://{}", self.scheme, self.proxy)
    }

    /// Where the dashboard is.
    #[must_use]
    pub fn admin_url(&self) -> String {
        format!("http://{}", self.admin)
    }

    /// Where the embedded server is, without `/v1`; none: there is none.
    #[must_use]
    pub fn serve_url(&self) -> Option<String> {
        self.embedded.address.map(|address| format!("http://{address}"))
    }

    /// Tells a supervising program where it listens: `{"proxy": url, "admin": url, "pid": n}`, with `"serve": url` where a
    /// model is embedded; written whole or not at all.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn write_ready_file(&self, path: &Path) -> Result<(), AppError> {
        let failed = |source| AppError::ReadyFile { path: path.to_owned(), source };
        let mut text = serde_json::json!({
            "proxy": self.proxy_url(),
            "admin": self.admin_url(),
            "pid": std::process::id(),
        });
        if let Some(url) = self.serve_url() {
            text["serve"] = url.into();
        }
        let folder = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let mut file = tempfile::NamedTempFile::new_in(folder).map_err(failed)?;
        std::io::Write::write_all(&mut file, format!("{text}\n").as_bytes()).map_err(failed)?;
        file.persist(path).map_err(|e| failed(e.error))?;
        Ok(())
    }

    /// Begins to leave: readiness fails, no more connections are accepted. Gives the time that running exchanges have.
    /// A second call can only shorten it.
    pub fn drain(&self, why: Leaving) -> Span {
        let shutdown = self.live.config().shutdown;
        let (rest, end) = match why {
            Leaving::Stopping => (shutdown.idle_grace.min(shutdown.grace), shutdown.grace),
            // The connections at rest are the only ones that anybody can still ask over: they end as they always do.
            Leaving::HandedOver => (shutdown.handover_grace, shutdown.handover_grace),
        };
        let drains = matches!(*self.gates.phase.borrow(), Phase::Draining { .. });
        self.gates.ready.send_replace(false);
        self.gates.sockets.close();
        self.live.end_jobs();
        match why {
            Leaving::HandedOver => drop(self.gates.admin.send_replace(false)),
            Leaving::Stopping => {
                if !drains {
                    self.notifier.stopping(end.0 + LAST_PATIENCE);
                }
                self.tasks.stopping().cancel();
            }
        }
        let now = Instant::now();
        self.gates.phase.send_modify(|phase| *phase = phase.draining(now + rest.0, now + end.0));
        end
    }

    /// Resolves when all exchanges are over, or the time that [`drain`](Self::drain) gave.
    pub async fn drained(&self) {
        // Its sender is dropped when the proxy is done.
        drop(self.drained.clone().changed().await);
    }

    /// Ends in order:
    /// 1. readiness fails, no more connections are accepted, if that has not begun;
    /// 2. running exchanges finish, within the grace period;
    /// 3. those that did not are cut and recorded as interrupted;
    /// 4. the recorder writes what is queued; the other tasks end.
    pub async fn stop(self) {
        if !matches!(*self.gates.phase.borrow(), Phase::Draining { .. }) {
            self.drain(Leaving::Stopping);
        }
        self.data_dir().forget_embedded();
        self.drained().await;
        let Self { tasks, live, .. } = self;
        if live.interrupt() {
            tasks.abort_connections();
        }
        // The forwarder holds the recorder, whose thread ends when nobody holds it.
        drop(live);
        let laggards = tasks.stop(LAST_PATIENCE).await;
        if !laggards.is_empty() {
            tracing::warn!(?laggards, "did not end in time");
        }
    }
}
