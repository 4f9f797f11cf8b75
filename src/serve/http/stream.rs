//! Server-sent events, in OpenAI's form.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use axum::body::{Body, Bytes};
use axum::response::Response;
use http::{HeaderValue, header};
use hyper::body::Frame as BodyFrame;
use serde_json::{Value, json};

use super::error::ApiError;
use super::frame::{Frame, Usage};
use crate::serve::calls::{Calls, Part};
use crate::serve::scheduler::{Answer, Event};
use crate::serve::voice::Told;

/// The body of a streamed answer; dropping it cancels the request.
struct Events {
    frame: Frame,
    /// Of each answer.
    calls: Vec<Calls>,
    answer: Answer,
    usage: Usage,
    with_usage: bool,
    /// Of each answer, whether something of it was sent.
    begun: Vec<bool>,
    /// Events to be sent.
    ready: VecDeque<Bytes>,
    over: bool,
}

/// Begins a stream with its first event.
///
/// # Errors
/// When that says that the request failed.
pub(super) fn respond(
    frame: Frame,
    calls: &Calls,
    answer: Answer,
    first: Event,
    with_usage: bool,
) -> Result<Response, ApiError> {
    if let Event::Failed(failure) = first {
        return Err(failure.into());
    }
    let (begun, calls) = (vec![false; frame.answers], vec![calls.clone(); frame.answers]);
    let (usage, ready) = (Usage::default(), VecDeque::new());
    let mut events = Events { frame, calls, answer, usage, with_usage, begun, ready, over: false };
    events.take(first);
    let mut response = Response::new(Body::new(events));
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/event-stream; charset=utf-8"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    Ok(response)
}

impl Events {
    fn take(&mut self, event: Event) {
        match event {
            Event::Said { choice, text, told } => {
                let parts = self.calls[choice].read(&text);
                self.say(choice, parts, told);
            }
            Event::Ended { choice, finish, tokens, cached } => {
                let parts = self.calls[choice].end();
                if !parts.is_empty() {
                    self.say(choice, parts, Vec::new());
                }
                let first = !std::mem::replace(&mut self.begun[choice], true);
                let reason = self.calls[choice].reason(finish);
                self.send(self.frame.end(choice, reason, first));
                self.usage.ended(&self.frame, choice, tokens, cached);
                if self.usage.ended == self.frame.answers {
                    if self.with_usage {
                        let mut chunk = self.frame.chunk(Vec::new());
                        chunk.insert("usage".into(), self.frame.usage(self.usage));
                        self.push(&Value::Object(chunk));
                    }
                    self.ready.push_back(Bytes::from_static(b"data: [DONE]\n\n"));
                    self.over = true;
                }
            }
            Event::Failed(failure) => self.fail(&failure.into()),
        }
    }

    fn say(&mut self, choice: usize, mut parts: Vec<Part>, mut told: Vec<Told>) {
        // An answer's first event comes with its first token, and no probability waits for text.
        let is_due = !told.is_empty() || !self.begun[choice];
        if is_due && !matches!(parts.first(), Some(Part::Text(_))) {
            parts.insert(0, Part::Text(String::new()));
        }
        for part in parts {
            let first = !std::mem::replace(&mut self.begun[choice], true);
            let delta = match part {
                Part::Text(text) => self.frame.delta(choice, &text, &std::mem::take(&mut told), first),
                Part::Call(call) => Frame::call_delta(choice, &call),
            };
            self.send(delta);
        }
    }

    fn send(&mut self, delta: Value) {
        let mut chunk = self.frame.chunk(vec![delta]);
        if self.with_usage {
            chunk.insert("usage".into(), Value::Null);
        }
        self.push(&Value::Object(chunk));
    }

    /// The stream has begun: its status can no longer say it. Clients take this for an error, and no `[DONE]` follows.
    fn fail(&mut self, error: &ApiError) {
        self.push(&json!(error.value()));
        self.over = true;
    }

    fn push(&mut self, value: &Value) {
        self.ready.push_back(Bytes::from(format!("data: {value}\n\n")));
    }
}

impl hyper::body::Body for Events {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<BodyFrame<Bytes>, Infallible>>> {
        loop {
            if let Some(bytes) = self.ready.pop_front() {
                return Poll::Ready(Some(Ok(BodyFrame::data(bytes))));
            }
            if self.over {
                return Poll::Ready(None);
            }
            match ready!(self.answer.poll_next(cx)) {
                Some(event) => self.take(event),
                None => self.fail(&ApiError::stopping()),
            }
        }
    }
}
