//! Bodies that pass through while a copy is taken.

use std::future::poll_fn;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use super::ack::Waiting;
use super::flight::{Flight, Open, RequestState, SharedOpen, lock};
use crate::model::Ended;
use bytes::Bytes;
use hyper::body::{Body, Frame, SizeHint};

/// A request's body on its way to the upstream.
#[derive(Debug)]
pub struct RequestTee<B> {
    /// None once it has ended.
    inner: Option<B>,
    copy: Option<SharedOpen>,
    leftover: Arc<Mutex<Option<B>>>,
}

/// What nobody read of a request's body: where the upstream could not be reached, the record still wants it.
#[derive(Debug)]
pub struct Leftover<B> {
    body: Arc<Mutex<Option<B>>>,
    copy: Option<SharedOpen>,
}

/// Waiting for the rest of a request that goes nowhere.
const LEFTOVER_PATIENCE: Duration = Duration::from_secs(1);

impl<B: Body<Data = Bytes> + Unpin> RequestTee<B> {
    /// Copies what passes into the flight; without one, only passes. The second part gets what is never read.
    pub fn new(inner: B, flight: Option<&mut Flight>) -> (Self, Leftover<B>) {
        let copy = flight.map(|flight| flight.shared());
        let leftover = Leftover { body: Arc::default(), copy: copy.clone() };
        let tee = Self { inner: Some(inner), copy, leftover: leftover.body.clone() };
        // An empty body is never polled.
        if tee.is_end_stream() {
            tee.note(|open| open.request_state = RequestState::Ended);
        }
        (tee, leftover)
    }
}

impl<B> RequestTee<B> {
    /// Changes what is known of the exchange; nothing happens once it has ended.
    fn note(&self, change: impl FnOnce(&mut Open)) {
        if let Some(open) = self.copy.as_ref().map(lock).as_deref_mut().and_then(Option::as_mut) {
            change(open);
        }
    }
}

/// Whether nothing more comes: HTTP/2 may say so in an empty frame of its own, which nobody waits for when the length is
/// known.
fn is_over<B: Body>(body: &B) -> bool {
    body.is_end_stream() || body.size_hint().exact() == Some(0)
}

impl<B: Body<Data = Bytes> + Unpin> Leftover<B> {
    /// Reads the rest into the record, as far as it comes within a short time.
    pub async fn read(self) {
        let body = self.body.lock().unwrap_or_else(PoisonError::into_inner).take();
        let (Some(body), Some(copy)) = (body, self.copy) else { return };
        let mut rest = RequestTee { inner: Some(body), copy: Some(copy), leftover: Arc::default() };
        let read =
            async { while let Some(Ok(_)) = poll_fn(|cx| Pin::new(&mut rest).poll_frame(cx)).await {} };
        // What comes later is missing in the record, as it was for the upstream.
        let _ = tokio::time::timeout(LEFTOVER_PATIENCE, read).await;
    }
}

impl<B> Drop for RequestTee<B> {
    fn drop(&mut self) {
        if self.copy.is_some() && self.inner.is_some() {
            *self.leftover.lock().unwrap_or_else(PoisonError::into_inner) = self.inner.take();
        }
    }
}

impl<B: Body<Data = Bytes> + Unpin> Body for RequestTee<B> {
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        let Some(inner) = &mut self.inner else { return Poll::Ready(None) };
        let frame = ready!(Pin::new(inner).poll_frame(cx));
        match &frame {
            Some(Ok(frame)) => {
                // With a known length nobody asks for the end.
                let ended = self.inner.as_ref().is_none_or(is_over);
                self.note(|open| {
                    if let Some(data) = frame.data_ref() {
                        open.request.push(data);
                    }
                    if ended {
                        open.request_state = RequestState::Ended;
                    }
                });
            }
            Some(Err(_)) => {
                self.inner = None;
                self.note(|open| open.request_state = RequestState::Broken);
            }
            None => {
                self.inner = None;
                self.note(|open| open.request_state = RequestState::Ended);
            }
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.inner.as_ref().is_none_or(Body::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.as_ref().map_or_else(|| SizeHint::with_exact(0), Body::size_hint)
    }
}

/// A response's body on its way to the client. Its end is held back until the record is safe, for a bounded time.
#[derive(Debug)]
pub struct ResponseTee<B: Body> {
    inner: B,
    state: State<B::Error>,
}

#[derive(Debug)]
enum State<E> {
    /// This frame comes first; then frames pass.
    First(Option<Frame<Bytes>>, Option<Flight>),
    /// Frames pass. None: nothing is recorded.
    Passing(Option<Flight>),
    /// The record is on its way; the last frame, if the end is one, goes out when it is safe.
    Holding(Option<Frame<Bytes>>, Box<Waiting>),
    /// The upstream broke off. The server drops what it has not written yet when it hears of it, so it hears of it one
    /// turn later, after it has written: then the flag is set.
    Breaking(Option<E>, bool),
    Done,
}

impl<B: Body<Data = Bytes, Error: std::fmt::Display> + Unpin> ResponseTee<B> {
    /// Copies what passes into the flight and ends it with the body.
    pub fn new(inner: B, flight: Option<Flight>) -> Self {
        Self { inner, state: State::Passing(flight) }
    }

    /// As [`new`](Self::new) for the body of a response whose head is about to be sent. What is there of the body already
    /// is taken now: where that is all, its record is made and waited for here, and head and body go out in one write.
    /// (A body that is empty would not be polled later.) `bodiless`: the request or the status allows none, whatever the
    /// headers say.
    pub async fn started(mut inner: B, flight: Option<Flight>, bodiless: bool) -> Self {
        let Some(mut flight) = flight else { return Self::new(inner, None) };
        if bodiless || is_over(&inner) {
            flight.finish_safely(Ended::Complete, None).await;
            // The body itself still says how long it would have been.
            return Self { inner, state: State::Passing(None) };
        }
        let first = poll_fn(|cx| Poll::Ready(Pin::new(&mut inner).poll_frame(cx))).await;
        let state = match first {
            Poll::Pending => State::Passing(Some(flight)),
            Poll::Ready(Some(Ok(frame))) => {
                if let Some(data) = frame.data_ref() {
                    flight.response_frame(data);
                }
                if is_over(&inner) {
                    flight.finish_safely(Ended::Complete, None).await;
                    State::First(Some(frame), None)
                } else {
                    State::First(Some(frame), Some(flight))
                }
            }
            Poll::Ready(Some(Err(error))) => {
                drop(flight.finish(Ended::UpstreamReset, Some(format!("the response broke off: {error}"))));
                State::Breaking(Some(error), false)
            }
            Poll::Ready(None) => {
                flight.finish_safely(Ended::Complete, None).await;
                State::Done
            }
        };
        Self { inner, state }
    }

    /// The end is reached, with `last` still to be sent: makes the record, and gives `last` back unless it has to wait
    /// for that.
    fn end(&mut self, last: Option<Frame<Bytes>>) -> Option<Frame<Bytes>> {
        let over = last.is_none() || self.inner.is_end_stream();
        let next = if over { State::Done } else { State::Passing(None) };
        let State::Passing(Some(flight)) = std::mem::replace(&mut self.state, next) else { return last };
        match flight.finish(Ended::Complete, None) {
            Some(waiting) => {
                self.state = State::Holding(last, Box::new(waiting));
                None
            }
            None => last,
        }
    }
}

impl<B> Body for ResponseTee<B>
where
    B: Body<Data = Bytes> + Unpin,
    B::Error: std::fmt::Display + Unpin,
{
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        let this = &mut *self;
        loop {
            match &mut this.state {
                State::Done => return Poll::Ready(None),
                State::First(frame, flight) => {
                    let (frame, flight) = (frame.take(), flight.take());
                    this.state = State::Passing(flight);
                    return Poll::Ready(frame.map(Ok));
                }
                State::Breaking(_, written @ false) => {
                    *written = true;
                    cx.waker().wake_by_ref();
                    return Poll::Pending;
                }
                State::Breaking(error, true) => {
                    let error = error.take();
                    this.state = State::Done;
                    return Poll::Ready(error.map(Err));
                }
                State::Holding(last, waiting) => {
                    ready!(waiting.poll(cx));
                    let last = last.take();
                    // Trailers may follow the last piece of a known length.
                    this.state = match &last {
                        Some(_) if !this.inner.is_end_stream() => State::Passing(None),
                        _ => State::Done,
                    };
                    return Poll::Ready(last.map(Ok));
                }
                State::Passing(flight) => match ready!(Pin::new(&mut this.inner).poll_frame(cx)) {
                    Some(Ok(frame)) => {
                        if let (Some(flight), Some(data)) = (flight.as_mut(), frame.data_ref()) {
                            flight.response_frame(data);
                        }
                        // With a known length the client needs no end mark: the last frame is the end.
                        if flight.is_none() || !is_over(&this.inner) {
                            return Poll::Ready(Some(Ok(frame)));
                        }
                        if let Some(last) = this.end(Some(frame)) {
                            return Poll::Ready(Some(Ok(last)));
                        }
                    }
                    Some(Err(error)) => {
                        if let Some(flight) = flight.take() {
                            drop(flight.finish(
                                Ended::UpstreamReset,
                                Some(format!("the response broke off: {error}")),
                            ));
                        }
                        this.state = State::Breaking(Some(error), false);
                    }
                    None => {
                        this.end(None);
                    }
                },
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.state {
            State::Passing(_) => self.inner.is_end_stream(),
            State::First(..) | State::Holding(..) | State::Breaking(..) => false,
            State::Done => true,
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.state {
            State::Holding(Some(frame), _) => {
                SizeHint::with_exact(frame.data_ref().map_or(0, |data| data.len() as u64))
            }
            State::First(Some(frame), _) => {
                let first = frame.data_ref().map_or(0, |data| data.len() as u64);
                match self.inner.size_hint().exact() {
                    Some(rest) => SizeHint::with_exact(first + rest),
                    None => SizeHint::new(),
                }
            }
            _ => self.inner.size_hint(),
        }
    }
}
