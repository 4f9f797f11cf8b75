use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use http::{HeaderMap, StatusCode, Version, header};
use hyper::body::{Body, Frame, SizeHint};

use super::headers::remove_hop_headers;

/// What one client connection is about: shared by the requests that come over it, one after the other in HTTP/1.1, and
/// by its [`ClientStream`](super::client_stream::ClientStream), which sees bytes only.
#[derive(Clone, Debug, Default)]
pub struct Turn(Arc<Mutex<State>>);

#[derive(Debug, Default)]
pub(super) struct State {
    pub phase: Phase,
    /// The request under way speaks HTTP/1.1: its client understands interim responses.
    pub interims_understood: bool,
    pub request: Coming,
    /// The connection speaks HTTP/1.
    http1: bool,
    /// A request's body was given up before its end: its client may still be sending.
    pub given_up: bool,
    /// Interim responses (RFC 9110 §15.2) to be written before the response.
    pub interim: Vec<u8>,
    /// The client ended its side and waits: how far its request and the answer are decides what becomes of it. Nobody
    /// else is to be woken for that.
    pub listening: bool,
    /// The connection's task.
    pub waker: Option<Waker>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Phase {
    /// No request is under way, or the connection is none of HTTP/1.
    #[default]
    Resting,
    /// A request is, and nothing of its response.
    Waiting,
    /// The response is under way.
    Answering,
}

/// How far the request under way is read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Coming {
    /// Nobody has looked at it yet.
    #[default]
    Unseen,
    /// Its body is being read, or will be.
    Reading,
    /// Whoever reads its body waits for more of it.
    Starving,
    /// All of it was read.
    Ended,
}

/// Interim responses waiting to be written, at most, in bytes; further ones are left out.
const MAX_INTERIM: usize = 64 << 10;

impl Turn {
    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A request came.
    pub fn begin(&self, version: Version) {
        if version >= Version::HTTP_2 {
            return;
        }
        let mut state = self.state();
        state.http1 = true;
        state.phase = Phase::Waiting;
        state.interims_understood = version == Version::HTTP_11;
        state.request = Coming::Unseen;
        state.given_up = false;
        state.listening = false;
        state.interim.clear();
    }

    /// Its response is about to go out, with this body.
    pub fn answer<B>(&self, body: B) -> Answering<B> {
        let mut state = self.state();
        if state.phase == Phase::Waiting {
            state.phase = Phase::Answering;
        }
        drop(state);
        Answering { body, turn: self.clone() }
    }

    /// Says how far the request is read.
    pub(super) fn request(&self, coming: Coming) {
        let mut state = self.state();
        // A body may be read to its end after its answer, when another request is under way.
        if state.phase == Phase::Waiting && state.request != coming && state.request != Coming::Ended {
            state.request = coming;
            wake_listening(state);
        }
    }

    pub(super) fn request_given_up(&self) {
        let mut state = self.state();
        // In HTTP/2 a stream is given up, not the connection.
        state.given_up = state.http1;
    }

    /// Passes an interim response on, where it can still come first and is understood.
    pub(super) fn interim(&self, status: StatusCode, headers: &HeaderMap) {
        let mut state = self.state();
        if state.phase != Phase::Waiting || !state.interims_understood {
            return;
        }
        // They frame or steer the upstream's connection; the client's has its own.
        let mut headers = headers.clone();
        remove_hop_headers(&mut headers, false);
        let mut bytes =
            format!("HTTP/1.1 {} {}\r\n", status.as_u16(), status.canonical_reason().unwrap_or_default())
                .into_bytes();
        for (name, value) in headers.iter().filter(|(name, _)| **name != header::CONTENT_LENGTH) {
            bytes.extend_from_slice(name.as_str().as_bytes());
            bytes.extend_from_slice(b": ");
            bytes.extend_from_slice(value.as_bytes());
            bytes.extend_from_slice(b"\r\n");
        }
        bytes.extend_from_slice(b"\r\n");
        if state.interim.len() + bytes.len() <= MAX_INTERIM {
            state.interim.append(&mut bytes);
        }
        wake(state);
    }

    fn over(&self) {
        let mut state = self.state();
        if state.phase == Phase::Answering {
            state.phase = Phase::Resting;
        }
        wake_listening(state);
    }
}

/// Spares the connection's task a turn that would find nothing to do.
fn wake_listening(state: MutexGuard<'_, State>) {
    if state.listening {
        wake(state);
    }
}

fn wake(mut state: MutexGuard<'_, State>) {
    let waker = state.waker.take();
    drop(state);
    if let Some(waker) = waker {
        waker.wake();
    }
}

/// A response's body; when it is gone, its turn is over.
#[derive(Debug)]
pub struct Answering<B> {
    body: B,
    turn: Turn,
}

impl<B> Drop for Answering<B> {
    fn drop(&mut self) {
        self.turn.over();
    }
}

impl<B: Body<Data = Bytes> + Unpin> Body for Answering<B> {
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
