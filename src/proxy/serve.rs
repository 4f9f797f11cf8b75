//! One client connection, from its first request to its end: limits below the HTTP server, the strict reader's word
//! above it.

use std::convert::Infallible;
use std::future::{Future, poll_fn};
use std::pin::pin;
use std::sync::Arc;

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode, Version};
use hyper::body::{Body, Frame, Incoming, SizeHint};
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;

use super::front::Settings;
use super::limits::{Busy, ClientBody, Flaw, Guarded, Passed, Place, Session, Terms, refuse};
use super::wire::Wire;
use crate::telemetry::ClientMetrics;

/// What the requests of a connection share with its socket.
struct Client<A> {
    session: Session,
    answer: A,
    terms: Arc<Terms>,
    metrics: ClientMetrics,
}

impl<A> AsRef<Session> for Client<A> {
    fn as_ref(&self) -> &Session {
        &self.session
    }
}

/// Answers the requests that come over a connection, until it ends. When `due` resolves, the connection ends as soon as
/// nothing is under way on it; `stirred`: what `due` waits for has moved since the connection began; until then it is
/// asked once only.
pub(super) async fn serve<A, F, B>(
    wire: Wire,
    metrics: &ClientMetrics,
    settings: &Settings,
    place: Option<Place>,
    due: impl Future<Output = ()>,
    stirred: impl Fn() -> bool,
    answer: A,
) where
    A: Fn(Request<ClientBody>) -> F + Send + Sync + 'static,
    F: Future<Output = Response<B>> + Send + 'static,
    B: Body<Data = Bytes, Error: Into<Box<dyn std::error::Error + Send + Sync>>> + Send + Unpin + 'static,
{
    let terms = settings.terms.clone();
    let session = Session::default();
    let client = Arc::new(Client { session, answer, terms: terms.clone(), metrics: metrics.clone() });
    let io = TokioIo::new(Guarded::new(wire, client.clone(), terms, place));
    let requests = client.clone();
    let service = service_fn(move |request| {
        let client = requests.clone();
        async move { Ok::<_, Infallible>(one(client, request).await) }
    });
    let mut connection = pin!(settings.server.serve_connection_with_upgrades(io, service));
    let mut due = pin!(due);
    let (mut listening, mut ending) = (false, false);
    let ended = poll_fn(|cx| {
        // The first time it is told whom to wake. After that asking is left out for as long as nothing has moved: it
        // would cost more than it is worth at each turn of each connection.
        if !ending && (!listening || stirred()) {
            listening = true;
            ending = due.as_mut().poll(cx).is_ready();
            if ending {
                connection.as_mut().graceful_shutdown();
            }
        }
        if !ending && client.session.rested() {
            ending = true;
            connection.as_mut().graceful_shutdown();
        }
        connection.as_mut().poll(cx)
    });
    if let Err(error) = ended.await {
        count(metrics, error.as_ref());
        tracing::debug!(error = error.as_ref(), "a client connection ended");
    }
}

async fn one<A, F, B>(
    client: Arc<Client<A>>,
    request: Request<Incoming>,
) -> Response<Passed<Answer<B>, Client<A>>>
where
    A: Fn(Request<ClientBody>) -> F,
    F: Future<Output = Response<B>>,
{
    let busy = Busy::begin(&client, request.version());
    if request.version() < Version::HTTP_2
        && let Err(flaw) = client.session.admit()
    {
        let metrics = &client.metrics;
        let counter = if flaw == Flaw::TooLarge { &metrics.heads_too_large } else { &metrics.ambiguous };
        counter.increment(1);
        return refuse(flaw).map(|bytes| Passed::new(Answer::Refusal(Some(bytes)), busy));
    }
    let (http1, connect) = (request.version() < Version::HTTP_2, request.method() == Method::CONNECT);
    let response = (client.answer)(request.map(|body| ClientBody::new(body, client.terms.clone()))).await;
    let status = response.status();
    // In HTTP/2 a stream becomes a tunnel, not the connection.
    if http1 && (status == StatusCode::SWITCHING_PROTOCOLS || (connect && status.is_success())) {
        client.session.tunnel();
    }
    response.map(|body| Passed::new(Answer::Given(body), busy))
}

/// A response's body: what was answered, or why nothing was asked.
enum Answer<B> {
    Given(B),
    Refusal(Option<Bytes>),
}

impl<B: Body<Data = Bytes> + Unpin> Body for Answer<B> {
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(
        mut self: std::pin::Pin<&mut Self>,
        cx: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        match &mut *self {
            Self::Given(body) => std::pin::Pin::new(body).poll_frame(cx),
            Self::Refusal(bytes) => std::task::Poll::Ready(bytes.take().map(|bytes| Ok(Frame::data(bytes)))),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Given(body) => body.is_end_stream(),
            Self::Refusal(bytes) => bytes.is_none(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Given(body) => body.size_hint(),
            Self::Refusal(bytes) => SizeHint::with_exact(bytes.as_ref().map_or(0, |b| b.len() as u64)),
        }
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
