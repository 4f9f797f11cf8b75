use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;
use http::Request;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio_util::task::TaskTracker;

use super::client_stream::ClientStream;
use super::drain::{Parting, Phase, within_limit};
use super::front::Settings;
use super::limits::ClientBody;
use super::line::{Line, Tunnels};
use super::serve::serve;
use super::turn::Turn;
use super::wire::Wire;
use super::{Forwarder, Front};
use crate::model::Micros;
use crate::tasks::Tasks;

/// Accepts connections and serves them.
pub struct Proxy {
    listener: TcpListener,
    /// Loaded once a request: a reload replaces it.
    forwarder: Arc<ArcSwap<Forwarder>>,
    front: Front,
    tasks: Tasks,
    phase: watch::Receiver<Phase>,
    /// Connections that changed their protocol.
    tunnels: TaskTracker,
}

/// Pause after accepting failed: file descriptors may be short for a while. Doubled each time, up to the longest.
const ACCEPT_PAUSE: Duration = Duration::from_millis(10);
const LONGEST_ACCEPT_PAUSE: Duration = Duration::from_secs(1);

impl Proxy {
    /// A proxy on a bound listener; `phase` says when it accepts and how long it drains.
    #[must_use]
    pub fn new(
        listener: TcpListener,
        forwarder: Arc<ArcSwap<Forwarder>>,
        front: Front,
        tasks: Tasks,
        phase: watch::Receiver<Phase>,
    ) -> Self {
        Self { listener, forwarder, front, tasks, phase, tunnels: TaskTracker::new() }
    }

    /// Serves until it is to drain, then lets running exchanges finish within the limit.
    pub async fn run(mut self) {
        let places = self.front.places().clone();
        if let Some(tls) = self.front.tls() {
            self.tasks.spawn("certificates", tls.clone().watch(self.tasks.stopping()));
        }
        // Numbers are unique over restarts, too: they start at the time.
        let number = AtomicI64::new(Micros::now().0);
        let mut pause = ACCEPT_PAUSE;
        let mut full = false;
        loop {
            let accepts = match *self.phase.borrow_and_update() {
                Phase::Waiting => false,
                Phase::Serving => true,
                Phase::Draining { .. } => break,
            };
            let most = self.front.settings().most;
            let accept = async {
                if places.taken() >= most {
                    self.front.metrics().full.increment(1);
                    // Said once, not each time that one connection takes the place of another.
                    if !full {
                        full = true;
                        tracing::warn!(connections = most, "as many connections as may be; others wait");
                    }
                    places.below(most).await;
                } else {
                    full = false;
                }
                self.listener.accept().await
            };
            let accepted = tokio::select! {
                accepted = accept, if accepts => accepted,
                changed = self.phase.changed() => match changed {
                    Ok(()) => continue,
                    Err(_) => break,
                },
            };
            match accepted {
                Ok((stream, _)) => {
                    pause = ACCEPT_PAUSE;
                    // The settings may have changed while nobody came.
                    self.serve(stream, self.front.settings(), number.fetch_add(1, Ordering::Relaxed));
                }
                Err(error) => {
                    self.front.metrics().accept_failed.increment(1);
                    // Said once, not a hundred times a second.
                    if pause == ACCEPT_PAUSE {
                        tracing::warn!(%error, "cannot accept a connection; those that are open go on");
                    }
                    tokio::select! {
                        () = tokio::time::sleep(pause) => {}
                        changed = self.phase.changed() => if changed.is_err() {
                            break;
                        },
                    }
                    pause = (pause * 2).min(LONGEST_ACCEPT_PAUSE);
                }
            }
        }
        drop(self.listener);
        let ended = async {
            places.below(1).await;
            self.forwarder.load_full().tunnels_ended().await;
            // No connection is left that could begin one.
            self.tunnels.close();
            self.tunnels.wait().await;
        };
        if !within_limit(self.phase, ended).await {
            tracing::warn!("some exchanges did not finish within the grace period");
        }
    }

    fn serve(&self, stream: TcpStream, settings: Arc<Settings>, number: i64) {
        // The first bytes of a stream go out at once.
        drop(stream.set_nodelay(true));
        let place = self.front.places().take();
        let parting = Arc::new(Parting::new(self.phase.clone()));
        let turn = Turn::default();
        let tunnels = Tunnels::new(self.tasks.clone(), self.tunnels.clone());
        let current = self.forwarder.clone();
        let line = Line { number, turn: turn.clone(), tunnels, current, parting: parting.clone() };
        let front = self.front.clone();
        self.tasks.spawn_connection(async move {
            // A connection at rest since it began costs this little future, no buffers.
            let spoke = tokio::select! {
                spoke = tokio::time::timeout(settings.terms.keep_alive, stream.readable()) => {
                    matches!(spoke, Ok(Ok(())))
                }
                () = parting.due() => false,
            };
            if !spoke {
                return;
            }
            let Some(wire) = shake_hands(stream, turn, &front, &settings).await else { return };
            let answer = move |request: Request<ClientBody>| {
                let (forwarder, line) = (line.current.load_full(), line.clone());
                let version = request.version();
                line.turn.begin(version);
                async move {
                    let mut response = forwarder.answer(request, &line).await;
                    line.parting.mark(version, &mut response);
                    response.map(|body| line.turn.answer(body))
                }
            };
            let due = async { parting.due().await };
            let stirred = || parting.stirred();
            Box::pin(serve(wire, front.metrics(), &settings, Some(place), due, stirred, answer)).await;
        });
    }
}

/// The connection as the server is to see it; none where TLS was agreed on and does not come about.
async fn shake_hands(stream: TcpStream, turn: Turn, front: &Front, settings: &Settings) -> Option<Wire> {
    let Some(tls) = front.tls() else { return Some(Wire::Plain(ClientStream::plain(stream, turn))) };
    let shaken = tokio::time::timeout(settings.terms.header_timeout, tls.acceptor().accept(stream));
    let reason = match shaken.await {
        Ok(Ok(stream)) => return Some(Wire::Tls(Box::new(ClientStream::sealed(stream, turn)))),
        Ok(Err(error)) => error.to_string(),
        Err(_) => "the client took too long".to_owned(),
    };
    front.metrics().handshakes_failed.increment(1);
    tracing::debug!(reason, "a TLS handshake failed");
    None
}
