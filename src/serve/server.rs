use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::sync::{Semaphore, watch};
use tokio_util::sync::CancellationToken;

use super::engine::Engine;
use super::error::ServeError;
use super::files;
use super::grammar::Grammars;
use super::http::{self, Desk, Listener};
use super::names::{Adapter, Names};
use super::scheduler::{self, Scheduler};
use super::text::Text;
use crate::config;
use crate::onnx::llama::Architecture;
use crate::tasks::Tasks;

pub use super::http::LoadAdapter;

/// What is served.
pub struct Model {
    pub engine: Box<dyn Engine>,
    pub text: Arc<dyn Text>,
    /// Names that the base model answers to, at least one; the first is what adapters call their parent.
    pub names: Vec<String>,
    /// What the base model is: its path, or the name of the one that is fetched.
    pub root: String,
    /// What adapters have to fit; none: not checked.
    pub architecture: Option<Architecture>,
    /// Reads the adapters that requests and the configuration name; none: there are none to be read.
    pub load: Option<LoadAdapter>,
    /// Aliases with the directories of what they stand for; none: the base model. Where the configuration names an adapter
    /// likewise, that one is served.
    pub active: BTreeMap<String, Option<PathBuf>>,
    /// How scopes come by their aliases: the alias of the scope that a request's headers tell means the base model until it
    /// is given to an adapter. None: only names that are known are served.
    pub aliases: Option<config::Adapters>,
}

/// Where clients come in.
pub struct Door {
    pub listener: TcpListener,
    /// Only programs of this machine come this way, so that they may change adapters without a key.
    pub local: bool,
    /// Whether connections are accepted; otherwise they wait in the system's queue, where another process may find them.
    /// Without its sender it stays as it is.
    pub open: watch::Receiver<bool>,
}

/// A running server. Stop it to end in order.
#[must_use = "stop it to end in order"]
pub struct Server {
    address: SocketAddr,
    names: Names,
    scheduler: Scheduler,
    draining: CancellationToken,
    /// Closed when the connections are over.
    drained: watch::Receiver<()>,
    tasks: Tasks,
}

/// Prompts are prepared on so many threads at once: short work, but of every request.
const PREPARING: usize = 4;
/// After the grace, what is still there gets this long to notice that it is over.
const LAST_PATIENCE: Duration = Duration::from_secs(5);

impl Server {
    /// Binds `config.listen` and serves there, as [`behind`](Self::behind).
    ///
    /// # Errors
    /// When the address cannot be bound, or as [`behind`](Self::behind).
    pub async fn start(config: &config::Serve, model: Model) -> Result<Self, ServeError> {
        let address: SocketAddr =
            config.listen.parse().map_err(|_| ServeError::Address(config.listen.clone()))?;
        let listen = |source| ServeError::Listen { address, source };
        let listener = TcpListener::bind(address).await.map_err(listen)?;
        let local = listener.local_addr().map_err(listen)?.ip().is_loopback();
        let (_, open) = watch::channel(true);
        Self::behind(Door { listener, local, open }, config, model).await
    }

    /// Starts the engine's thread and serves. Adapters of the configuration are read first.
    ///
    /// # Errors
    /// When an adapter cannot be read, or there is no thread.
    pub async fn behind(door: Door, config: &config::Serve, model: Model) -> Result<Self, ServeError> {
        let Door { listener, local, open } = door;
        let Model { engine, text, names, root, architecture, load, active, aliases } = model;
        if names.is_empty() {
            return Err(ServeError::Nameless);
        }
        let names = Names::new(names, root, architecture);
        load_active(active, &names, load.as_ref()).await;
        load_all(&config.adapters, &names, load.as_ref()).await?;
        let address = listener.local_addr().map_err(ServeError::Socket)?;
        let tasks = Tasks::new();
        let context = engine.context();
        let (scheduler, worker) = scheduler::build(engine, text.clone(), config.queue);
        tasks.thread("engine", move || worker.run()).map_err(ServeError::Thread)?;
        let desk = Desk {
            names: names.clone(),
            scheduler: scheduler.clone(),
            grammars: Grammars::new(text.clone()),
            text,
            context,
            aliases,
            load,
            key: config.api_key.as_ref().map(|key| key.reveal().to_owned()),
            local,
            preparing: Semaphore::new(PREPARING),
        };
        let (over, drained) = watch::channel(());
        let draining = CancellationToken::new();
        let server = Listener { listener, open, router: http::router(Arc::new(desk)), tasks: tasks.clone() };
        let until = draining.clone();
        tasks.spawn("serve", async move {
            server.run(until).await;
            drop(over);
        });
        Ok(Self { address, names, scheduler, draining, drained, tasks })
    }

    /// Without `/v1`.
    #[must_use]
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// What is served under which name; adapters are swapped here.
    #[must_use]
    pub fn names(&self) -> &Names {
        &self.names
    }

    /// Ends in order:
    /// 1. no more connections are accepted, no more requests taken;
    /// 2. those under way finish, within `grace`;
    /// 3. the others are told that the server stops, and the threads end.
    pub async fn stop(mut self, grace: Duration) {
        self.draining.cancel();
        self.scheduler.drain();
        drop(tokio::time::timeout(grace, self.drained.changed()).await);
        self.scheduler.abandon();
        drop(tokio::time::timeout(LAST_PATIENCE, self.drained.changed()).await);
        let laggards = self.tasks.stop(LAST_PATIENCE).await;
        if !laggards.is_empty() {
            tracing::warn!(?laggards, "did not end in time");
        }
    }
}

/// Reads the adapters that were active. One that cannot be read is said loudly, and the base answers in its place: apps that
/// use the alias must not fail for it.
async fn load_active(active: BTreeMap<String, Option<PathBuf>>, names: &Names, load: Option<&LoadAdapter>) {
    for (alias, path) in active {
        let done = match path {
            None => names.put_base(&alias).map_err(|error| error.to_string()),
            Some(path) => match read_one(&path, load, names).await {
                Ok(adapter) => names.put(&alias, adapter).map_err(|error| error.to_string()),
                Err(reason) => Err(format!("{}: {reason}", path.display())),
            },
        };
        if let Err(reason) = done {
            tracing::error!(
                alias,
                reason,
                "the active adapter cannot be served; the base model answers instead"
            );
            drop(names.put_base(&alias));
        }
    }
}

async fn read_one(path: &Path, load: Option<&LoadAdapter>, names: &Names) -> Result<Arc<Adapter>, String> {
    files::adapter(path, load.ok_or("this server reads no adapters")?, names).await
}

/// Reads the adapters that the configuration names.
async fn load_all(
    adapters: &BTreeMap<String, PathBuf>,
    names: &Names,
    load: Option<&LoadAdapter>,
) -> Result<(), ServeError> {
    for (name, path) in adapters {
        let failed = |reason: String| ServeError::Adapter { name: name.clone(), path: path.clone(), reason };
        let adapter = read_one(path, load, names).await.map_err(failed)?;
        names.put(name, adapter).map_err(|error| failed(error.to_string()))?;
    }
    Ok(())
}
