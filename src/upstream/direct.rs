//! HTTP/1.1 connections that run within the task that uses them. Nothing is handed from one task to another, so that
//! everything that one read brought goes on in one write; with a task for each connection, each piece of a stream would
//! cost a wake-up and a write.

use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::task::{Context, Poll, Waker, ready};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{Request, Response, StatusCode, Uri};
use hyper::body::{Body, Frame, Incoming, SizeHint};
use hyper::client::conn::TrySendError;
use hyper::client::conn::http1::{self, SendRequest};
use hyper::rt::Executor;
use hyper_util::rt::TokioExecutor;
use tower_service::Service;

use super::connector::Connector;
use super::error::BoxError;

/// Connections at rest that are kept, at most.
const IDLE: usize = 1024;

/// Connections to one HTTP/1.1 endpoint. Cheap to clone; clones share them.
pub(super) struct Direct<B: Body + 'static> {
    shared: Arc<Shared<B>>,
}

struct Shared<B: Body + 'static> {
    connector: Connector,
    to: Uri,
    idle_timeout: Duration,
    idle: Mutex<Idle<B>>,
}

struct Idle<B: Body + 'static> {
    /// The one used last is used next.
    lines: Vec<(Box<Line<B>>, Instant)>,
    /// Whether somebody watches how long they rest.
    watched: bool,
}

/// A connection, and its end that takes requests.
struct Line<B: Body + 'static> {
    sender: SendRequest<Sent<B>>,
    /// None once it has ended: requests that it has not begun come back when it is dropped.
    connection: Option<Pin<Box<dyn Future<Output = hyper::Result<()>> + Send>>>,
}

/// No response came.
pub(super) enum Failure {
    Connect(BoxError),
    Broken(hyper::Error),
}

impl<B: Body + 'static> Clone for Direct<B> {
    fn clone(&self) -> Self {
        Self { shared: self.shared.clone() }
    }
}

impl<B: Body + 'static> Shared<B> {
    fn idle(&self) -> MutexGuard<'_, Idle<B>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<B> Direct<B>
where
    B: Body + Send + Unpin + 'static,
    B::Data: Send,
    B::Error: Into<BoxError>,
{
    /// Connections that `connector` makes to the scheme and authority of `to`.
    pub fn new(connector: Connector, to: Uri, idle_timeout: Duration) -> Self {
        let idle = Mutex::new(Idle { lines: Vec::new(), watched: false });
        Self { shared: Arc::new(Shared { connector, to, idle_timeout, idle }) }
    }

    /// Sends a request, its target in origin form, and waits for the head of its response. It is sent again only when a
    /// connection at rest turned out closed before any of it was written.
    pub async fn send(&self, request: Request<B>) -> Result<Response<DirectBody<B>>, Failure> {
        let sending = Arc::new(());
        let mut request = request.map(|inner| Sent { inner, _alive: sending.clone() });
        loop {
            let rested = self.take();
            let reused = rested.is_some();
            let mut line = match rested {
                Some(line) => line,
                None => Box::new(self.connect().await?),
            };
            match line.exchange(request).await {
                Ok(response) => return Ok(self.receive(response, line, &sending)),
                Err(mut error) => match error.take_message().filter(|_| reused) {
                    Some(unsent) => request = unsent,
                    None => return Err(Failure::Broken(error.into_error())),
                },
            }
        }
    }

    async fn connect(&self) -> Result<Line<B>, Failure> {
        let mut connector = self.shared.connector.clone();
        let connect = async {
            poll_fn(|cx| connector.poll_ready(cx)).await?;
            connector.call(self.shared.to.clone()).await
        };
        let stream = connect.await.map_err(Failure::Connect)?;
        let (sender, connection) = http1::Builder::new()
            .preserve_header_case(true)
            .handshake(stream)
            .await
            .map_err(Failure::Broken)?;
        Ok(Line { sender, connection: Some(Box::pin(connection.with_upgrades())) })
    }

    /// A connection at rest that is still open.
    fn take(&self) -> Option<Box<Line<B>>> {
        loop {
            let (mut line, rests_since) = self.shared.idle().lines.pop()?;
            if rests_since.elapsed() < self.shared.idle_timeout && line.is_open() {
                return Some(line);
            }
        }
    }

    fn receive(
        &self,
        response: Response<Incoming>,
        line: Box<Line<B>>,
        sending: &Arc<()>,
    ) -> Response<DirectBody<B>> {
        // Where the request is still being sent, or where both sides will speak as they like, the connection must go on
        // whether or not somebody reads the response.
        let sent = Arc::strong_count(sending) == 1;
        let line = if sent && response.status() != StatusCode::SWITCHING_PROTOCOLS {
            Some(line)
        } else {
            TokioExecutor::new().execute(async move {
                let Line { sender, connection } = *line;
                // Nobody can send another request over it, so it ends with this one.
                drop(sender);
                if let Some(connection) = connection {
                    drop(connection.await);
                }
            });
            None
        };
        let pool = self.clone();
        response.map(|body| {
            let mut body = DirectBody { body, line, pool };
            body.rest_if_over();
            body
        })
    }

    /// Lets a connection rest until it is used again.
    fn rest(&self, mut line: Box<Line<B>>) {
        if !line.is_open() {
            return;
        }
        let mut idle = self.shared.idle();
        if idle.lines.len() < IDLE {
            idle.lines.push((line, Instant::now()));
        }
        if !std::mem::replace(&mut idle.watched, true) {
            TokioExecutor::new().execute(watch(Arc::downgrade(&self.shared), self.shared.idle_timeout));
        }
    }
}

/// Closes connections that rested too long, or that the other side has closed, until there are none.
async fn watch<B>(pool: Weak<Shared<B>>, timeout: Duration)
where
    B: Body + Send + Unpin + 'static,
    B::Data: Send,
    B::Error: Into<BoxError>,
{
    loop {
        tokio::time::sleep((timeout / 4).clamp(Duration::from_millis(50), Duration::from_secs(5))).await;
        let Some(pool) = pool.upgrade() else { return };
        // Looked at without the lock: that takes system calls.
        let mut lines = std::mem::take(&mut pool.idle().lines);
        lines.retain_mut(|(line, since)| since.elapsed() < timeout && line.is_open());
        let mut idle = pool.idle();
        // Those that came to rest meanwhile were used later.
        lines.append(&mut idle.lines);
        idle.lines = lines;
        if idle.lines.is_empty() {
            idle.watched = false;
            return;
        }
    }
}

impl<B> Line<B>
where
    B: Body + Send + Unpin + 'static,
    B::Data: Send,
    B::Error: Into<BoxError>,
{
    /// Lets the connection work; ready once it has ended. The response tells what went wrong.
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if let Some(connection) = &mut self.connection {
            drop(ready!(connection.as_mut().poll(cx)));
            self.connection = None;
        }
        Poll::Ready(())
    }

    /// Whether the connection can take a request now, as far as this side knows.
    fn is_open(&mut self) -> bool {
        // Nobody is to be woken: whoever takes the connection looks again.
        self.poll(&mut Context::from_waker(Waker::noop())).is_pending() && self.sender.is_ready()
    }

    async fn exchange(
        &mut self,
        request: Request<Sent<B>>,
    ) -> Result<Response<Incoming>, TrySendError<Request<Sent<B>>>> {
        let mut response = std::pin::pin!(self.sender.try_send_request(request));
        poll_fn(|cx| {
            // The connection first: it sends the request, and reads the response.
            if let Some(connection) = &mut self.connection
                && connection.as_mut().poll(cx).is_ready()
            {
                self.connection = None;
            }
            response.as_mut().poll(cx)
        })
        .await
    }
}

/// A response's body, and the connection that it comes over.
pub struct DirectBody<B: Body + 'static> {
    body: Incoming,
    /// None once it rests again, is broken, or runs by itself.
    line: Option<Box<Line<B>>>,
    pool: Direct<B>,
}

impl<B> DirectBody<B>
where
    B: Body + Send + Unpin + 'static,
    B::Data: Send,
    B::Error: Into<BoxError>,
{
    fn rest_if_over(&mut self) {
        if self.body.is_end_stream()
            && let Some(line) = self.line.take()
        {
            self.pool.rest(line);
        }
    }
}

impl<B> Body for DirectBody<B>
where
    B: Body + Send + Unpin + 'static,
    B::Data: Send,
    B::Error: Into<BoxError>,
{
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let this = &mut *self;
        let mut worked = false;
        loop {
            match Pin::new(&mut this.body).poll_frame(cx) {
                Poll::Ready(Some(Ok(frame))) => {
                    this.rest_if_over();
                    return Poll::Ready(Some(Ok(frame)));
                }
                Poll::Ready(None) => {
                    if let Some(line) = this.line.take() {
                        this.pool.rest(line);
                    }
                    return Poll::Ready(None);
                }
                Poll::Ready(error) => {
                    this.line = None;
                    return Poll::Ready(error);
                }
                Poll::Pending if worked => return Poll::Pending,
                Poll::Pending => {}
            }
            // What it read before it ended is still in the body.
            let Some(line) = &mut this.line else { return Poll::Pending };
            if line.poll(cx).is_ready() {
                this.line = None;
            }
            worked = true;
        }
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl<B: Body + 'static> std::fmt::Debug for DirectBody<B> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("DirectBody").field("body", &self.body).finish_non_exhaustive()
    }
}

/// A request's body; that it is still there says that it is still being sent.
struct Sent<B> {
    inner: B,
    _alive: Arc<()>,
}

impl<B: Body + Unpin> Body for Sent<B> {
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<B::Data>, B::Error>>> {
        Pin::new(&mut self.inner).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}
