use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;
use http::Request;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio_util::task::TaskTracker;

use super::Forwarder;
use super::client_stream::ClientStream;
use super::drain::{Parting, Phase, within_limit};
use super::line::{Line, Tunnels};
use super::turn::Turn;
use crate::model::Micros;
use crate::tasks::Tasks;

/// Accepts connections and serves them.
pub struct Proxy {
    listener: TcpListener,
    /// Loaded once a request: a reload replaces it.
    forwarder: Arc<ArcSwap<Forwarder>>,
    tasks: Tasks,
    phase: watch::Receiver<Phase>,
    connections: TaskTracker,
    /// Connections that changed their protocol.
    tunnels: TaskTracker,
}

/// A client that takes longer to send a request's head is let go; so is a connection at rest.
const HEADER_TIMEOUT: Duration = Duration::from_secs(60);
/// Pause after accepting failed: file descriptors may be short for a while.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

impl Proxy {
    /// A proxy on a bound listener; `phase` says when it accepts and how long it drains.
    #[must_use]
    pub fn new(
        listener: TcpListener,
        forwarder: Arc<ArcSwap<Forwarder>>,
        tasks: Tasks,
        phase: watch::Receiver<Phase>,
    ) -> Self {
        let (connections, tunnels) = (TaskTracker::new(), TaskTracker::new());
        Self { listener, forwarder, tasks, phase, connections, tunnels }
    }

    /// The bound address.
    ///
    /// # Errors
    /// When the system does not tell.
    pub fn address(&self) -> std::io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// Serves until it is to drain, then lets running exchanges finish within the limit.
    pub async fn run(mut self) {
        let server = Arc::new(builder());
        // Numbers are unique over restarts, too: they start at the time.
        let connection = AtomicI64::new(Micros::now().0);
        loop {
            let accepts = match *self.phase.borrow_and_update() {
                Phase::Waiting => false,
                Phase::Serving => true,
                Phase::Draining { .. } => break,
            };
            let accepted = tokio::select! {
                accepted = self.listener.accept(), if accepts => accepted,
                changed = self.phase.changed() => match changed {
                    Ok(()) => continue,
                    Err(_) => break,
                },
            };
            let stream = match accepted {
                Ok((stream, _)) => stream,
                Err(error) => {
                    tracing::warn!(%error, "cannot accept a connection");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                    continue;
                }
            };
            self.serve(&server, stream, connection.fetch_add(1, Ordering::Relaxed));
        }
        drop(self.listener);
        self.connections.close();
        let ended = async {
            self.connections.wait().await;
            self.forwarder.load_full().tunnels_ended().await;
            // No connection is left that could begin one.
            self.tunnels.close();
            self.tunnels.wait().await;
        };
        if !within_limit(self.phase, ended).await {
            tracing::warn!("some exchanges did not finish within the grace period");
        }
    }

    fn serve(&self, server: &Arc<auto::Builder<TokioExecutor>>, stream: TcpStream, number: i64) {
        // The first bytes of a stream go out at once.
        drop(stream.set_nodelay(true));
        let (forwarder, parting) = (self.forwarder.clone(), Arc::new(Parting::new(self.phase.clone())));
        let marks = parting.clone();
        let turn = Turn::default();
        let tunnels = Tunnels::new(self.tasks.clone(), self.tunnels.clone());
        let line = Line { number, turn: turn.clone(), tunnels };
        let service = service_fn(move |request: Request<Incoming>| {
            let (forwarder, line, parting) = (forwarder.load_full(), line.clone(), marks.clone());
            let version = request.version();
            line.turn.begin(version);
            async move {
                let mut response = forwarder.answer(request, &line).await;
                parting.mark(version, &mut response);
                Ok::<_, Infallible>(response.map(|body| line.turn.answer(body)))
            }
        });
        let (server, counted) = (server.clone(), self.connections.token());
        self.tasks.spawn_connection(async move {
            let _counted = counted;
            // hyper's own timer starts with the first byte.
            let spoke = tokio::select! {
                spoke = tokio::time::timeout(HEADER_TIMEOUT, stream.readable()) => matches!(spoke, Ok(Ok(()))),
                () = parting.due() => false,
            };
            if !spoke {
                return;
            }
            let stream = TokioIo::new(ClientStream::plain(stream, turn));
            let connection = server.serve_connection_with_upgrades(stream, service);
            tokio::pin!(connection);
            let ended = tokio::select! {
                ended = connection.as_mut() => ended,
                () = parting.due() => {
                    connection.as_mut().graceful_shutdown();
                    connection.await
                }
            };
            if let Err(error) = ended {
                tracing::debug!(%error, "a client connection ended");
            }
        });
    }
}

pub(super) fn builder() -> auto::Builder<TokioExecutor> {
    let mut server = auto::Builder::new(TokioExecutor::new());
    server
        .http1()
        .preserve_header_case(true)
        // The upstream's date, or none.
        .auto_date_header(false)
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_TIMEOUT)
        .max_headers(256)
        .http2()
        .auto_date_header(false)
        .timer(TokioTimer::new())
        .adaptive_window(true)
        .max_concurrent_streams(1000);
    server
}
