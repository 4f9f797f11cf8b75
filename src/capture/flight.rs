use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use http::HeaderMap;
use tokio::sync::oneshot;

use super::copy::BodyCopy;
use super::recorder::Recorder;
use super::tee::Ack;
use crate::model::{Ended, ExchangeId, Micros, Scope, Timing};

/// The beginning of a request.
#[derive(Debug)]
pub struct Head {
    pub scope: Scope,
    pub connection: i64,
    pub method: http::Method,
    /// Path and query.
    pub target: String,
    pub upstream: Arc<str>,
    pub headers: HeaderMap,
}

/// An exchange under way. Ends in one record: by [`finish`](Self::finish), or, when it is dropped, as cancelled by the
/// client.
#[derive(Debug)]
#[must_use = "dropping it records the exchange as cancelled"]
pub struct Flight {
    recorder: Recorder,
    open: Option<Box<Open>>,
}

/// Everything known of an exchange; turned into a row by the recorder's thread.
#[derive(Debug)]
pub(super) struct Open {
    pub id: ExchangeId,
    pub head: Head,
    pub request: SharedCopy,
    pub response_head: Option<(u16, HeaderMap)>,
    pub response: BodyCopy,
    pub timing: Timing,
    pub ended: Ended,
    pub detail: Option<String>,
}

/// The request's body is read by the connection to the upstream while the flight is elsewhere.
pub(super) type SharedCopy = Arc<Mutex<RequestCopy>>;

/// What passed of a request's body, and whether it is all.
#[derive(Debug)]
pub(super) struct RequestCopy {
    pub copy: BodyCopy,
    pub state: RequestState,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum RequestState {
    /// More may come.
    Passing,
    /// The end was seen.
    Ended,
    /// The client broke off in the middle, or sent what is no HTTP.
    Broken,
}

impl Flight {
    pub(super) fn new(recorder: Recorder, head: Head) -> Self {
        let started = Micros::now();
        let open = Open {
            id: ExchangeId::new(),
            request: Arc::new(Mutex::new(RequestCopy {
                copy: recorder.copy(&head.headers),
                state: RequestState::Passing,
            })),
            response_head: None,
            response: recorder.copy(&HeaderMap::new()),
            head,
            timing: Timing { started, head: None, first_byte: None, ended: started },
            ended: Ended::ClientCancelled,
            detail: None,
        };
        Self { recorder, open: Some(Box::new(open)) }
    }

    fn open(&mut self) -> &mut Open {
        self.open.as_mut().expect("taken only by finish, which consumes the flight, and by drop")
    }

    pub(super) fn request_copy(&mut self) -> SharedCopy {
        self.open().request.clone()
    }

    pub(super) fn recorder(&self) -> &Recorder {
        &self.recorder
    }

    /// Whether the client broke off while it was sending its request.
    #[must_use]
    pub fn request_broke_off(&mut self) -> bool {
        let shared = self.open().request.clone();
        let state = shared.lock().unwrap_or_else(PoisonError::into_inner).state;
        state == RequestState::Broken
    }

    /// Takes note of a piece of the request that comes by no body: after a switch of protocols.
    pub fn request_frame(&mut self, frame: &Bytes) {
        self.open().request.lock().unwrap_or_else(PoisonError::into_inner).copy.push(frame);
    }

    /// Says that [`request_frame`](Self::request_frame) took note of all there was.
    pub fn request_ended(&mut self) {
        self.open().request.lock().unwrap_or_else(PoisonError::into_inner).state = RequestState::Ended;
    }

    /// Takes note of the response's head.
    pub fn response_head(&mut self, status: u16, headers: HeaderMap) {
        let copy = self.recorder.copy(&headers);
        let open = self.open();
        open.response = copy;
        open.timing.head = Some(Micros::now());
        open.response_head = Some((status, headers));
    }

    /// Takes note of a piece of the response's body.
    pub fn response_frame(&mut self, frame: &Bytes) {
        let open = self.open();
        if open.timing.first_byte.is_none() && !frame.is_empty() {
            open.timing.first_byte = Some(Micros::now());
        }
        open.response.push(frame);
    }

    /// Ends the exchange, and waits until the record is safe, for a bounded time.
    pub async fn finish_safely(self, ended: Ended, detail: Option<String>) {
        let recorder = self.recorder.clone();
        if let Some(receiver) = self.finish(ended, detail) {
            let mut ack = Ack::new(receiver, recorder);
            std::future::poll_fn(|cx| ack.poll(cx)).await;
        }
    }

    /// Ends the exchange. Gives what tells that the record is safe, or will never be; none when nothing is to be
    /// waited for.
    pub(super) fn finish(mut self, ended: Ended, detail: Option<String>) -> Option<oneshot::Receiver<()>> {
        let mut open = self.open.take().expect("finish consumes the flight");
        open.ended = ended;
        open.detail = detail;
        self.recorder.submit(open)
    }
}

impl Drop for Flight {
    fn drop(&mut self) {
        if let Some(mut open) = self.open.take() {
            if self.recorder.interrupting() {
                open.ended = Ended::Interrupted;
            }
            drop(self.recorder.submit(open));
        }
    }
}

impl Open {
    /// The copy of the request's body so far, out of the shared place, and whether it is all.
    pub fn take_request(&self, empty: BodyCopy) -> (BodyCopy, bool) {
        let mut shared = self.request.lock().unwrap_or_else(PoisonError::into_inner);
        let ended = shared.state == RequestState::Ended;
        (std::mem::replace(&mut shared.copy, empty), ended)
    }
}
