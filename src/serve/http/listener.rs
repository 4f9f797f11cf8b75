use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::{GracefulShutdown, Watcher};
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio_util::sync::CancellationToken;

use crate::tasks::Tasks;

/// Accepts connections and serves them.
pub(in crate::serve) struct Listener {
    pub listener: TcpListener,
    /// Whether it accepts.
    pub open: watch::Receiver<bool>,
    pub router: Router,
    pub tasks: Tasks,
}

/// Open connections; further ones wait in the system's backlog. Far more than slots: clients keep idle ones.
const CONNECTIONS: usize = 1024;
/// From the first byte of a request's head to its last; a connection at rest is kept as long.
const HEAD_TIMEOUT: Duration = Duration::from_secs(75);
const HEAD_SIZE: usize = 64 << 10;
/// Pause after accepting failed: file descriptors may be short for a while.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

impl Listener {
    /// Serves until `draining`, then lets requests under way finish.
    pub(in crate::serve) async fn run(self, draining: CancellationToken) {
        let Self { listener, open, router, tasks } = self;
        let places = Arc::new(Semaphore::new(CONNECTIONS));
        let graceful = GracefulShutdown::new();
        loop {
            let accept = async {
                turns(&open, true).await;
                let place = places.clone().acquire_owned().await.expect("it is never closed");
                (listener.accept().await, place)
            };
            let (accepted, place) = tokio::select! {
                // From then on whoever is in the queue is another process's.
                biased;
                () = draining.cancelled() => break,
                () = turns(&open, false), if *open.borrow() => continue,
                accepted = accept => accepted,
            };
            match accepted {
                Ok((stream, _)) => {
                    tasks.spawn_connection(serve(stream, router.clone(), graceful.watcher(), place));
                }
                Err(error) => {
                    tracing::warn!(%error, "cannot accept a connection");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
        drop(listener);
        graceful.shutdown().await;
    }
}

/// Resolves when the door is open, or shut; never where nobody is left to turn it.
async fn turns(open: &watch::Receiver<bool>, to: bool) {
    if open.clone().wait_for(|now| *now == to).await.is_err() {
        std::future::pending::<()>().await;
    }
}

async fn serve(stream: TcpStream, router: Router, watcher: Watcher, place: OwnedSemaphorePermit) {
    // A token is a small packet that somebody waits for.
    drop(stream.set_nodelay(true));
    let mut server = http1::Builder::new();
    server.timer(TokioTimer::new()).header_read_timeout(HEAD_TIMEOUT).max_buf_size(HEAD_SIZE);
    let connection = server.serve_connection(TokioIo::new(stream), TowerToHyperService::new(router));
    if let Err(error) = watcher.watch(connection).await {
        tracing::debug!(%error, "a client's connection ended");
    }
    drop(place);
}
