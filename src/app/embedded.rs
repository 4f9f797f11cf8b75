//! The model of `serve` within the process that proxies.
//!
//! In: settings, a listening socket. Out: an upstream that answers when the model is open, and that takes adapters.
//!
//! Always true: nothing waits for the model but the requests that are meant for it; where it cannot be opened, they fail,
//! and nothing else does; while the proxy drains, its requests are answered; of two processes one accepts at a time.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use tokio::net::TcpListener;
use tokio::sync::watch;

use super::Gates;
use super::listeners::{Inherited, Kept, SERVE};
use crate::config::Config;
use crate::model::Scope;
use crate::serve::{self, Door, Model, OpenError, ServeError, Server};
use crate::store::{Store, StoreError};
use crate::tasks::{self, Tasks};

/// A server that is being opened, or runs; or the reason why not has been logged.
pub(super) struct Embedded {
    pub address: Option<SocketAddr>,
    opening: Option<Opening>,
}

struct Opening {
    listener: TcpListener,
    sockets: Kept,
    /// Whether this process accepts. Another one that takes over from it, or has not yet, has the same socket.
    open: watch::Receiver<bool>,
}

/// The model does not answer.
#[derive(Debug, thiserror::Error)]
enum EmbeddedError {
    #[error(transparent)]
    Open(#[from] OpenError),
    #[error(transparent)]
    Serve(#[from] ServeError),
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("opening it panicked; the message is above")]
    Broke,
}

/// The proxy has drained; this long are requests waited for that came past it. Less than all tasks have at the end.
const GRACE: Duration = Duration::from_secs(5);

impl Embedded {
    /// Binds `serve.listen` where an upstream is embedded. Connections wait there until the model is open.
    pub async fn bind(config: &Config, gates: &Gates, inherited: &mut Inherited) -> Self {
        let mut embedded = Self { address: None, opening: None };
        if config.embeds_server() {
            match gates.sockets.open(SERVE, &config.serve.listen, inherited).await {
                Ok((listener, address)) => {
                    let (sockets, open) = (gates.sockets.clone(), gates.admin.subscribe());
                    embedded.address = Some(address);
                    embedded.opening = Some(Opening { listener, sockets, open });
                }
                Err(error) => tracing::error!(%error, "no model is embedded; requests meant for it fail"),
            }
        }
        embedded
    }

    /// Opens the model in the background. `proxy`: where apps connect; `drained`: closed when the proxy's exchanges are
    /// over.
    pub fn open(
        &mut self,
        config: &Config,
        proxy: SocketAddr,
        store: &Store,
        drained: watch::Receiver<()>,
        tasks: &Tasks,
    ) {
        let (Some(opening), Some(address)) = (self.opening.take(), self.address) else { return };
        // What reaches the proxy reaches the server.
        let local = address.ip().is_loopback() && proxy.ip().is_loopback();
        if !local && config.serve.api_key.is_none() {
            tracing::warn!(
                "other machines reach the embedded model: adapters, those of nights too, are loaded only with serve.api_key"
            );
        }
        let trained = config.train.model.as_ref().filter(|model| **model != config.serve.model);
        if let Some(trained) = trained.filter(|_| config.train.schedule.is_some()) {
            tracing::warn!(
                trained,
                served = config.serve.model,
                "nights train on one model and another is served: its adapters are served only where the weights are the same"
            );
        }
        let (config, store) = (config.clone(), store.clone());
        tasks.spawn("embedded model", async move {
            let sockets = opening.sockets.clone();
            if let Err(error) = opening.run(config, local, store, drained).await {
                tracing::error!(
                    %error,
                    "the embedded model does not answer; requests meant for it fail until a restart"
                );
                // Otherwise clients would wait for somebody to accept them.
                sockets.close_one(SERVE);
            }
        });
    }
}

impl Opening {
    async fn run(
        self,
        config: Config,
        local: bool,
        store: Store,
        mut drained: watch::Receiver<()>,
    ) -> Result<(), EmbeddedError> {
        let began = Instant::now();
        tracing::info!(model = config.serve.model, "the embedded model is being opened");
        let settings = config.clone();
        let opened = tokio::select! {
            opened = tasks::blocking(move || open(&settings, &store)) => opened,
            _ = drained.changed() => return Ok(()),
        };
        let model = opened.unwrap_or(Err(EmbeddedError::Broke))?;
        let door = Door { listener: self.listener, local, open: self.open };
        let server = Server::behind(door, &config.serve, model).await?;
        tracing::info!(
            url = server.url(),
            names = server.names().base().join(", "),
            seconds = began.elapsed().as_secs_f64(),
            "the embedded model answers"
        );
        drop(drained.changed().await);
        server.stop(GRACE).await;
        Ok(())
    }
}

/// The model, with the aliases of all scopes known so far: those for which nothing was learned yet stand for the base
/// model, so that apps can use theirs before the first night.
fn open(config: &Config, store: &Store) -> Result<Model, EmbeddedError> {
    let mut model = serve::open(config, &crate::model::Silent)?;
    let scopes = store.scopes()?.into_iter().chain([Scope::default()]);
    for scope in scopes {
        let alias = config.adapters.alias_of(&scope.tenant, &scope.app);
        if !model.names.contains(&alias) {
            model.active.entry(alias).or_insert(None);
        }
    }
    Ok(model)
}
