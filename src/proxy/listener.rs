use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use http::Request;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use hyper_util::server::graceful::GracefulShutdown;
use tokio::net::{TcpListener, TcpStream};
use tokio_util::task::TaskTracker;

use super::Forwarder;
use super::client_stream::ClientStream;
use super::line::{Line, Tunnels};
use super::turn::Turn;
use crate::model::Micros;
use crate::tasks::Tasks;

/// Accepts connections and serves them.
pub struct Proxy {
    listener: TcpListener,
    forwarder: Arc<Forwarder>,
    tasks: Tasks,
    /// Connections that changed their protocol.
    tunnels: TaskTracker,
    grace: Duration,
}

/// A client that takes longer to send a request's head is let go; so is a connection at rest.
const HEADER_TIMEOUT: Duration = Duration::from_secs(60);
/// Pause after accepting failed: file descriptors may be short for a while.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

impl Proxy {
    /// A proxy on a bound listener; connections finish within `grace` when the tasks are stopped.
    #[must_use]
    pub fn new(listener: TcpListener, forwarder: Forwarder, tasks: Tasks, grace: Duration) -> Self {
        Self { listener, forwarder: Arc::new(forwarder), tasks, tunnels: TaskTracker::new(), grace }
    }

    /// The bound address.
    ///
    /// # Errors
    /// When the system does not tell.
    pub fn address(&self) -> std::io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// Serves until the tasks are stopped, then lets running exchanges finish within the grace period.
    pub async fn run(self) {
        let server = Arc::new(builder());
        let graceful = GracefulShutdown::new();
        let stopping = self.tasks.stopping();
        // Numbers are unique over restarts, too: they start at the time.
        let connection = AtomicI64::new(Micros::now().0);
        loop {
            let accepted = tokio::select! {
                accepted = self.listener.accept() => accepted,
                () = stopping.cancelled() => break,
            };
            let stream = match accepted {
                Ok((stream, _)) => stream,
                Err(error) => {
                    tracing::warn!(%error, "cannot accept a connection");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                    continue;
                }
            };
            self.serve(&server, &graceful, stream, connection.fetch_add(1, Ordering::Relaxed));
        }
        drop(self.listener);
        let ended = async {
            graceful.shutdown().await;
            self.forwarder.tunnels_ended().await;
            // No connection is left that could begin one.
            self.tunnels.close();
            self.tunnels.wait().await;
        };
        if tokio::time::timeout(self.grace, ended).await.is_err() {
            tracing::warn!(grace = ?self.grace, "some exchanges did not finish within the grace period");
        }
    }

    fn serve(
        &self,
        server: &Arc<auto::Builder<TokioExecutor>>,
        graceful: &GracefulShutdown,
        stream: TcpStream,
        number: i64,
    ) {
        // The first bytes of a stream go out at once.
        drop(stream.set_nodelay(true));
        let forwarder = self.forwarder.clone();
        let turn = Turn::default();
        let tunnels = Tunnels::new(self.tasks.clone(), self.tunnels.clone());
        let line = Line { number, turn: turn.clone(), tunnels };
        let service = service_fn(move |request: Request<Incoming>| {
            let (forwarder, line) = (forwarder.clone(), line.clone());
            line.turn.begin(request.version());
            async move {
                let response = forwarder.answer(request, &line).await;
                Ok::<_, Infallible>(response.map(|body| line.turn.answer(body)))
            }
        });
        let (server, watcher, stopping) = (server.clone(), graceful.watcher(), self.tasks.stopping());
        self.tasks.spawn_connection(async move {
            // hyper's own timer starts with the first byte.
            let spoke = tokio::select! {
                spoke = tokio::time::timeout(HEADER_TIMEOUT, stream.readable()) => matches!(spoke, Ok(Ok(()))),
                () = stopping.cancelled() => false,
            };
            if !spoke {
                return;
            }
            let stream = TokioIo::new(ClientStream::plain(stream, turn));
            let connection = server.serve_connection_with_upgrades(stream, service).into_owned();
            let connection = watcher.watch(connection);
            if let Err(error) = connection.await {
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
