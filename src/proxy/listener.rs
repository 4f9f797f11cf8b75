use std::convert::Infallible;
use std::future::poll_fn;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::time::Duration;

use http::{Method, Request, Response, StatusCode, Version};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;

use super::front::Settings;
use super::limits::{Busy, ClientBody, Flaw, Guarded, Passed, Place, Session, refuse};
use super::respond::ProxyBody;
use super::wire::Wire;
use super::{Forwarder, Front};
use crate::model::Micros;
use crate::tasks::Tasks;
use crate::telemetry::ClientMetrics;

/// Accepts connections and serves them.
pub struct Proxy {
    listener: TcpListener,
    forwarder: Arc<Forwarder>,
    front: Front,
    tasks: Tasks,
    grace: Duration,
}

/// Pause after accepting failed: file descriptors may be short for a while. Doubled each time, up to the longest.
const ACCEPT_PAUSE: Duration = Duration::from_millis(10);
const LONGEST_ACCEPT_PAUSE: Duration = Duration::from_secs(1);

/// Tells connections that they are to end. A flag beside the wake-up: asking a [`Notify`] at each turn of each
/// connection would cost more than it is worth.
#[derive(Debug, Default)]
struct Drain {
    begun: AtomicBool,
    tell: Notify,
}

impl Drain {
    fn begin(&self) {
        self.begun.store(true, Ordering::Release);
        self.tell.notify_waiters();
    }

    fn has_begun(&self) -> bool {
        self.begun.load(Ordering::Acquire)
    }

    async fn wait(&self) {
        let mut told = pin!(self.tell.notified());
        told.as_mut().enable();
        if !self.has_begun() {
            told.await;
        }
    }
}

impl Proxy {
    /// A proxy on a bound listener; connections finish within `grace` when the tasks are stopped.
    #[must_use]
    pub fn new(
        listener: TcpListener,
        forwarder: Forwarder,
        front: Front,
        tasks: Tasks,
        grace: Duration,
    ) -> Self {
        Self { listener, forwarder: Arc::new(forwarder), front, tasks, grace }
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
        let drain = Arc::new(Drain::default());
        let (stopping, places) = (self.tasks.stopping(), self.front.places().clone());
        if let Some(tls) = self.front.tls() {
            self.tasks.spawn("certificates", tls.clone().watch(self.tasks.stopping()));
        }
        // Numbers are unique over restarts, too: they start at the time.
        let number = AtomicI64::new(Micros::now().0);
        let mut pause = ACCEPT_PAUSE;
        loop {
            let settings = self.front.settings();
            let accept = async {
                if places.taken() >= settings.most {
                    self.front.metrics().full.increment(1);
                    tracing::warn!(connections = settings.most, "as many connections as may be; others wait");
                    places.below(settings.most).await;
                }
                self.listener.accept().await
            };
            let accepted = tokio::select! {
                accepted = accept => accepted,
                () = stopping.cancelled() => break,
            };
            match accepted {
                Ok((stream, _)) => {
                    pause = ACCEPT_PAUSE;
                    let number = number.fetch_add(1, Ordering::Relaxed);
                    self.serve(stream, settings, number, drain.clone());
                }
                Err(error) => {
                    self.front.metrics().accept_failed.increment(1);
                    // Said once, not a hundred times a second.
                    if pause == ACCEPT_PAUSE {
                        tracing::warn!(%error, "cannot accept a connection; those that are open go on");
                    }
                    tokio::select! {
                        () = tokio::time::sleep(pause) => {}
                        () = stopping.cancelled() => break,
                    }
                    pause = (pause * 2).min(LONGEST_ACCEPT_PAUSE);
                }
            }
        }
        drop(self.listener);
        drain.begin();
        if tokio::time::timeout(self.grace, places.below(1)).await.is_err() {
            tracing::warn!(grace = ?self.grace, "some exchanges did not finish within the grace period");
        }
    }

    fn serve(&self, stream: TcpStream, settings: Arc<Settings>, number: i64, drain: Arc<Drain>) {
        // The first bytes of a stream go out at once.
        drop(stream.set_nodelay(true));
        let place = self.front.places().take();
        let (forwarder, front) = (self.forwarder.clone(), self.front.clone());
        self.tasks.spawn_connection(async move {
            // A connection at rest since it began costs this little future, no buffers.
            let spoke = tokio::select! {
                spoke = tokio::time::timeout(settings.terms.keep_alive, stream.readable()) => {
                    matches!(spoke, Ok(Ok(())))
                }
                () = drain.wait() => false,
            };
            if spoke {
                let session = Session::default();
                let client = Arc::new(Client { forwarder, front, settings, session, number });
                Box::pin(client.serve(stream, place, &drain)).await;
            }
        });
    }
}

/// One connection that has begun to speak.
struct Client {
    forwarder: Arc<Forwarder>,
    front: Front,
    settings: Arc<Settings>,
    session: Session,
    number: i64,
}

impl Client {
    async fn serve(self: Arc<Self>, stream: TcpStream, place: Place, drain: &Drain) {
        let Some(wire) = self.shake_hands(stream).await else { return };
        let io = TokioIo::new(Guarded::new(wire, self.clone(), self.settings.terms.clone(), place));
        let service = service_fn(|request| {
            let this = self.clone();
            async move { Ok::<_, Infallible>(this.answer(request).await) }
        });
        let mut connection = pin!(self.settings.server.serve_connection_with_upgrades(io, service));
        let mut told = pin!(drain.wait());
        let (mut listening, mut ending) = (false, false);
        let ended = poll_fn(|cx| {
            // Once is enough: what it wakes is this task, whoever polls it.
            if !listening {
                listening = true;
                let _ = told.as_mut().poll(cx);
            }
            if !ending && (drain.has_begun() || self.session.rested()) {
                ending = true;
                connection.as_mut().graceful_shutdown();
            }
            connection.as_mut().poll(cx)
        });
        if let Err(error) = ended.await {
            count(self.front.metrics(), error.as_ref());
            tracing::debug!(error = error.as_ref(), "a client connection ended");
        }
    }

    async fn answer(self: Arc<Self>, request: Request<Incoming>) -> Response<Passed<ProxyBody, Self>> {
        let busy = Busy::begin(&self, request.version());
        if request.version() < Version::HTTP_2
            && let Err(flaw) = self.session.admit()
        {
            let metrics = self.front.metrics();
            let counter = if flaw == Flaw::TooLarge { &metrics.heads_too_large } else { &metrics.ambiguous };
            counter.increment(1);
            return refuse(flaw).map(|bytes| Passed::new(ProxyBody::Own(Some(bytes)), busy));
        }
        let connect = request.method() == Method::CONNECT;
        let request = request.map(|body| ClientBody::new(body, self.settings.terms.clone()));
        let response = self.forwarder.answer(request, self.number).await;
        let status = response.status();
        if status == StatusCode::SWITCHING_PROTOCOLS || (connect && status.is_success()) {
            self.session.tunnel();
        }
        response.map(|body| Passed::new(body, busy))
    }

    async fn shake_hands(&self, stream: TcpStream) -> Option<Wire> {
        let Some(tls) = self.front.tls() else { return Some(Wire::Plain(stream)) };
        let shaken = tokio::time::timeout(self.settings.terms.header_timeout, tls.acceptor().accept(stream));
        let reason = match shaken.await {
            Ok(Ok(stream)) => return Some(Wire::Tls(Box::new(stream))),
            Ok(Err(error)) => error.to_string(),
            Err(_) => "the client took too long".to_owned(),
        };
        self.front.metrics().handshakes_failed.increment(1);
        tracing::debug!(reason, "a TLS handshake failed");
        None
    }
}

impl AsRef<Session> for Client {
    fn as_ref(&self) -> &Session {
        &self.session
    }
}

/// Counts what hyper answered itself.
fn count(metrics: &ClientMetrics, error: &(dyn std::error::Error + Send + Sync + 'static)) {
    let Some(error) = error.downcast_ref::<hyper::Error>() else { return };
    if error.is_parse_too_large() {
        metrics.heads_too_large.increment(1);
    } else if error.is_parse() {
        metrics.malformed.increment(1);
    }
}
