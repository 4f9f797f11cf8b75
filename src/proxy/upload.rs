use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http::request::Parts;
use http::{HeaderMap, Request, StatusCode, Version, header};
use hyper::body::{Body, Frame, Incoming, SizeHint};
use hyper_util::client::legacy::connect::capture_connection;
use tokio_util::sync::{CancellationToken, DropGuard};

use super::turn::{Coming, Turn};

/// A request's body on its way from the client. With `Expect: 100-continue` it is not asked for before the upstream
/// asks for it.
pub struct Upload<B> {
    /// None once nothing more comes of it.
    inner: Option<B>,
    /// All of its bytes came; trailers may follow.
    ended: bool,
    turn: Turn,
    asked_for: Option<Pin<Box<dyn Future<Output = Verdict> + Send>>>,
    /// Where the body was refused: until the answer is through, the upstream's connection must stay.
    refusal: Option<Pin<Box<dyn Future<Output = ()> + Send>>>,
}

/// A request that waits for the upstream's word on its body (RFC 9110 §10.1.1).
#[derive(Clone, Debug, Default)]
pub(super) struct Expectation {
    granted: CancellationToken,
    refused: CancellationToken,
    /// The answer that came in place of the word is through.
    over: CancellationToken,
}

enum Verdict {
    Granted,
    Refused,
}

/// The upstream answered before it wanted the body.
#[derive(Debug, thiserror::Error)]
pub enum UploadError {
    #[error(transparent)]
    Client(#[from] hyper::Error),
    #[error("the upstream answered without asking for the body")]
    Refused,
}

/// Upstreams that do not know the expectation say nothing; after this time the body is sent anyway.
const PATIENCE: Duration = Duration::from_secs(1);

impl Expectation {
    /// Whether a request has one that is passed on.
    pub fn of(parts: &Parts, body: &Incoming) -> Option<Self> {
        let expects = parts.version == Version::HTTP_11
            && super::headers::lists(&parts.headers, header::EXPECT, "100-continue")
            && !body.is_end_stream();
        expects.then(Self::default)
    }

    /// The upstream's head came. False when the body was asked for, so that it goes on as any other; else the body
    /// goes nowhere, and what is given is to be dropped when the response is through.
    pub fn settle(&self) -> Option<DropGuard> {
        if self.granted.is_cancelled() {
            return None;
        }
        self.refused.cancel();
        Some(self.over.clone().drop_guard())
    }

    async fn verdict(
        self,
        mut connection: hyper_util::client::legacy::connect::CaptureConnection,
    ) -> Verdict {
        // HTTP/2 has no such word that would be heard here.
        let unheard = async {
            let http2 = {
                let found = connection.wait_for_connection_metadata().await;
                found.as_ref().is_some_and(hyper_util::client::legacy::connect::Connected::is_negotiated_h2)
            };
            if !http2 {
                std::future::pending::<()>().await;
            }
        };
        let verdict = tokio::select! {
            biased;
            () = self.granted.cancelled() => Verdict::Granted,
            () = self.refused.cancelled() => Verdict::Refused,
            () = unheard => Verdict::Granted,
            () = tokio::time::sleep(PATIENCE) => Verdict::Granted,
        };
        if matches!(verdict, Verdict::Granted) {
            self.granted.cancel();
        }
        verdict
    }
}

impl<B: Body> Upload<B> {
    /// The body of a request that is about to be sent. Lets the request's interim responses through, and its body wait
    /// for the upstream's word if it expects one.
    pub(super) fn new(inner: B, turn: &Turn, parts: &mut Parts, expectation: Option<&Expectation>) -> Self {
        let mut upload =
            Self { inner: Some(inner), ended: false, turn: turn.clone(), asked_for: None, refusal: None };
        turn.request(Coming::Reading);
        upload.note_end();
        // What comes with the upstream's connection is asked for by means of a request.
        let mut request = Request::new(());
        std::mem::swap(request.extensions_mut(), &mut parts.extensions);
        upload.listen(&mut request, turn, expectation);
        std::mem::swap(request.extensions_mut(), &mut parts.extensions);
        upload
    }

    fn listen(&mut self, request: &mut Request<()>, turn: &Turn, expectation: Option<&Expectation>) {
        let (turn, granted) = (turn.clone(), expectation.map(|expectation| expectation.granted.clone()));
        hyper::ext::on_informational(request, move |response| match (response.status(), &granted) {
            (StatusCode::CONTINUE, Some(granted)) => granted.cancel(),
            // Nobody waits for it.
            (StatusCode::CONTINUE, None) => {}
            (status, _) => turn.interim(status, response.headers()),
        });
        let Some(expectation) = expectation else { return };
        self.asked_for = Some(Box::pin(expectation.clone().verdict(capture_connection(request))));
        let over = expectation.over.clone();
        self.refusal = Some(Box::pin(async move { over.cancelled().await }));
    }

    /// With a known length nobody asks for the end.
    fn note_end(&mut self) {
        if self.inner.as_ref().is_none_or(|b| b.is_end_stream() || b.size_hint().exact() == Some(0)) {
            self.ended = true;
            self.turn.request(Coming::Ended);
        }
    }
}

impl<B> std::fmt::Debug for Upload<B> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Upload").field("ended", &self.ended).finish_non_exhaustive()
    }
}

impl<B> Drop for Upload<B> {
    fn drop(&mut self) {
        if self.inner.is_some() && !self.ended {
            self.turn.request_given_up();
        }
    }
}

impl<B: Body<Data = Bytes, Error = hyper::Error> + Unpin> Body for Upload<B> {
    type Data = Bytes;
    type Error = UploadError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, UploadError>>> {
        if let Some(asked_for) = &mut self.asked_for {
            let verdict = ready!(asked_for.as_mut().poll(cx));
            self.asked_for = None;
            if matches!(verdict, Verdict::Refused) {
                // The server learns that the body is not wanted, and says so to the client.
                self.inner = None;
                self.turn.request_given_up();
            } else {
                self.refusal = None;
            }
        }
        if let Some(refusal) = &mut self.refusal {
            ready!(refusal.as_mut().poll(cx));
            return Poll::Ready(Some(Err(UploadError::Refused)));
        }
        let Some(inner) = &mut self.inner else { return Poll::Ready(None) };
        let Poll::Ready(frame) = Pin::new(inner).poll_frame(cx) else {
            self.turn.request(Coming::Starving);
            return Poll::Pending;
        };
        if frame.as_ref().is_none_or(Result::is_err) {
            self.inner = None;
            if frame.is_none() {
                self.turn.request(Coming::Ended);
            }
        } else {
            self.turn.request(Coming::Reading);
            self.note_end();
        }
        Poll::Ready(frame.map(|frame| frame.map_err(UploadError::from)))
    }

    fn is_end_stream(&self) -> bool {
        self.refusal.is_none() && self.inner.as_ref().is_none_or(Body::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.as_ref().map_or_else(|| SizeHint::with_exact(0), Body::size_hint)
    }
}

/// The header by which the server tells a client that it will close (RFC 9112 §9.6).
pub(super) fn close(headers: &mut HeaderMap) {
    headers.insert(header::CONNECTION, http::HeaderValue::from_static("close"));
}
