use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use http::HeaderMap;

use super::ack::Waiting;
use super::copy::BodyCopy;
use super::recorder::Recorder;
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
    open: SharedOpen,
    /// Its place in the recorder's list of exchanges under way.
    place: usize,
    over: bool,
}

/// Everything known of an exchange; turned into an entry by the recorder's thread.
#[derive(Debug)]
pub(super) struct Open {
    pub id: ExchangeId,
    pub head: Head,
    pub request: BodyCopy,
    pub request_state: RequestState,
    pub response_head: Option<(u16, HeaderMap)>,
    pub response: BodyCopy,
    pub timing: Timing,
    pub ended: Ended,
    pub detail: Option<String>,
    /// What the journal has of it already.
    pub saved: Option<Saved>,
}

/// How much of an exchange under way is in the journal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Saved {
    pub request: usize,
    pub response: usize,
    pub head: bool,
}

/// Shared by the flight, the request's body, which the connection to the upstream reads, and the list of exchanges under
/// way. None once it has ended.
pub(super) type SharedOpen = Arc<Mutex<Option<Box<Open>>>>;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum RequestState {
    /// More may come.
    Passing,
    /// The end was seen.
    Ended,
    /// The client broke off in the middle, or sent what is no HTTP.
    Broken,
}

pub(super) fn lock(open: &SharedOpen) -> MutexGuard<'_, Option<Box<Open>>> {
    open.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Flight {
    pub(super) fn new(recorder: Recorder, head: Head) -> Self {
        let started = Micros::now();
        let open = Open {
            id: ExchangeId::new(),
            request: recorder.copy(&head.headers),
            request_state: RequestState::Passing,
            response_head: None,
            response: recorder.copy(&HeaderMap::new()),
            head,
            timing: Timing { started, head: None, first_byte: None, ended: started },
            ended: Ended::ClientCancelled,
            detail: None,
            saved: None,
        };
        let open = Arc::new(Mutex::new(Some(Box::new(open))));
        let place = recorder.under_way(open.clone());
        Self { recorder, open, place, over: false }
    }

    /// Changes what is known; nothing happens once it has ended.
    fn note(&self, change: impl FnOnce(&mut Open)) {
        if let Some(open) = lock(&self.open).as_mut() {
            change(open);
        }
    }

    pub(super) fn shared(&self) -> SharedOpen {
        self.open.clone()
    }

    /// Takes note of the upstream, where it was not known at the beginning.
    pub fn goes_to(&mut self, upstream: &Arc<str>) {
        self.note(|open| open.head.upstream = upstream.clone());
    }

    /// Whether the client broke off while it was sending its request.
    #[must_use]
    pub fn request_broke_off(&mut self) -> bool {
        lock(&self.open).as_ref().is_some_and(|open| open.request_state == RequestState::Broken)
    }

    /// Takes note of a piece of the request's body, where it does not pass as a body.
    pub fn request_frame(&mut self, piece: &Bytes) {
        self.note(|open| open.request.push(piece));
    }

    /// Takes note that the request is whole.
    pub fn request_ended(&mut self) {
        self.note(|open| open.request_state = RequestState::Ended);
    }

    /// Takes note of the response's head.
    pub fn response_head(&mut self, status: u16, headers: HeaderMap) {
        let copy = self.recorder.copy(&headers);
        self.note(|open| {
            open.response = copy;
            open.timing.head = Some(Micros::now());
            open.response_head = Some((status, headers));
        });
    }

    /// Takes note of a piece of the response's body.
    pub fn response_frame(&mut self, piece: &Bytes) {
        self.note(|open| {
            if open.timing.first_byte.is_none() && !piece.is_empty() {
                open.timing.first_byte = Some(Micros::now());
            }
            open.response.push(piece);
        });
    }

    /// Ends the exchange, and waits until the record is safe, for a bounded time.
    pub async fn finish_safely(self, ended: Ended, detail: Option<String>) {
        if let Some(mut waiting) = self.finish(ended, detail) {
            std::future::poll_fn(|cx| waiting.poll(cx)).await;
        }
    }

    /// Ends the exchange. Gives what tells that the record is safe, or will never be; none when nothing is to be
    /// waited for.
    pub(super) fn finish(mut self, ended: Ended, detail: Option<String>) -> Option<Waiting> {
        self.end(ended, detail)
    }

    fn end(&mut self, ended: Ended, detail: Option<String>) -> Option<Waiting> {
        self.over = true;
        let open = lock(&self.open).take();
        self.recorder.landed(self.place);
        let mut open = open.expect("only the flight ends it, once");
        open.ended = ended;
        open.detail = detail;
        self.recorder.submit(open)
    }
}

impl Drop for Flight {
    fn drop(&mut self) {
        if !self.over {
            let ended =
                if self.recorder.interrupting() { Ended::Interrupted } else { Ended::ClientCancelled };
            drop(self.end(ended, None));
        }
    }
}
