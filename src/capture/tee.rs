//! Bodies that pass through while a copy is taken.

use std::future::Future;
use std::pin::Pin;
use std::sync::PoisonError;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use hyper::body::{Body, Frame, SizeHint};
use tokio::sync::oneshot;
use tokio::time::Sleep;

use super::flight::{Flight, SharedCopy};
use super::recorder::Recorder;
use crate::model::Ended;

/// A request's body on its way to the upstream.
#[derive(Debug)]
pub struct RequestTee<B> {
    inner: B,
    copy: Option<SharedCopy>,
}

impl<B> RequestTee<B> {
    /// Copies what passes into the flight; without one, only passes.
    pub fn new(inner: B, flight: Option<&mut Flight>) -> Self {
        Self { inner, copy: flight.map(Flight::request_copy) }
    }
}

impl<B: Body<Data = Bytes> + Unpin> Body for RequestTee<B> {
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        let frame = ready!(Pin::new(&mut self.inner).poll_frame(cx));
        if let (Some(Ok(frame)), Some(copy)) = (&frame, &self.copy)
            && let Some(data) = frame.data_ref()
        {
            copy.lock().unwrap_or_else(PoisonError::into_inner).push(data);
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

/// A response's body on its way to the client. Its end is held back until the record is safe, for a bounded time.
#[derive(Debug)]
pub struct ResponseTee<B> {
    inner: B,
    state: State,
}

#[derive(Debug)]
enum State {
    /// Frames pass. None: nothing is recorded.
    Passing(Option<Flight>),
    /// The record is on its way; the last frame, if the end is one, goes out when it is safe.
    Holding(Option<Frame<Bytes>>, Box<Ack>),
    Done,
}

/// Waits for a record, but not for ever.
#[derive(Debug)]
pub(super) struct Ack {
    receiver: oneshot::Receiver<bool>,
    timeout: Pin<Box<Sleep>>,
    recorder: Recorder,
}

impl Ack {
    fn new(receiver: oneshot::Receiver<bool>, recorder: Recorder) -> Self {
        let timeout = Box::pin(tokio::time::sleep(recorder.ack_timeout()));
        Self { receiver, timeout, recorder }
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if Pin::new(&mut self.receiver).poll(cx).is_ready() {
            return Poll::Ready(());
        }
        ready!(self.timeout.as_mut().poll(cx));
        self.recorder.count_ack_timeout();
        Poll::Ready(())
    }
}

impl<B: Body<Data = Bytes> + Unpin> ResponseTee<B> {
    /// Copies what passes into the flight and ends it with the body.
    pub fn new(inner: B, flight: Option<Flight>) -> Self {
        Self { inner, state: State::Passing(flight) }
    }

    /// As [`new`](Self::new) for a body that may be empty: an empty one is never polled, so its record is made, and
    /// waited for, here.
    pub async fn started(inner: B, flight: Option<Flight>) -> Self {
        if !inner.is_end_stream() {
            return Self::new(inner, flight);
        }
        if let Some(flight) = flight {
            let recorder = flight.recorder().clone();
            if let Some(receiver) = flight.finish(Ended::Complete, None) {
                let mut ack = Ack::new(receiver, recorder);
                std::future::poll_fn(|cx| ack.poll(cx)).await;
            }
        }
        Self { inner, state: State::Done }
    }
}

impl State {
    /// The end is reached, with `last` still to be sent.
    fn end(flight: Option<Flight>, last: Option<Frame<Bytes>>) -> (Self, Option<Frame<Bytes>>) {
        let Some(flight) = flight else { return (Self::Done, last) };
        let recorder = flight.recorder().clone();
        match flight.finish(Ended::Complete, None) {
            Some(receiver) => (Self::Holding(last, Box::new(Ack::new(receiver, recorder))), None),
            None => (Self::Done, last),
        }
    }
}

impl<B> Body for ResponseTee<B>
where
    B: Body<Data = Bytes> + Unpin,
    B::Error: std::fmt::Display,
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
                State::Holding(last, ack) => {
                    ready!(ack.poll(cx));
                    let last = last.take();
                    this.state = State::Done;
                    return Poll::Ready(last.map(Ok));
                }
                State::Passing(flight) => match ready!(Pin::new(&mut this.inner).poll_frame(cx)) {
                    Some(Ok(frame)) => {
                        if let (Some(flight), Some(data)) = (flight.as_mut(), frame.data_ref()) {
                            flight.response_frame(data);
                        }
                        // With a known length the client needs no end mark: the last frame is the end.
                        if !this.inner.is_end_stream() {
                            return Poll::Ready(Some(Ok(frame)));
                        }
                        let (state, last) = State::end(flight.take(), Some(frame));
                        this.state = state;
                        if let Some(last) = last {
                            return Poll::Ready(Some(Ok(last)));
                        }
                    }
                    Some(Err(error)) => {
                        if let Some(flight) = flight.take() {
                            drop(flight.finish(Ended::UpstreamReset, Some(format!("the response broke off: {error}"))));
                        }
                        this.state = State::Done;
                        return Poll::Ready(Some(Err(error)));
                    }
                    None => {
                        let (state, _) = State::end(flight.take(), None);
                        this.state = state;
                    }
                },
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.state {
            State::Passing(_) => self.inner.is_end_stream(),
            State::Holding(..) => false,
            State::Done => true,
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.state {
            State::Holding(Some(frame), _) => {
                SizeHint::with_exact(frame.data_ref().map_or(0, |data| data.len() as u64))
            }
            _ => self.inner.size_hint(),
        }
    }
}
