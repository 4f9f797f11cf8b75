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
use crate::serve::scheduler::{Answer, Event};

/// The body of a streamed answer; dropping it cancels the request.
struct Events {
    frame: Frame,
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
    answer: Answer,
    first: Event,
    with_usage: bool,
) -> Result<Response, ApiError> {
    if let Event::Failed(failure) = first {
        return Err(failure.into());
    }
    let begun = vec![false; frame.answers];
    let (usage, ready) = (Usage::default(), VecDeque::new());
    let mut events = Events { frame, answer, usage, with_usage, begun, ready, over: false };
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
                let first = !std::mem::replace(&mut self.begun[choice], true);
                self.send(self.frame.delta(choice, &text, &told, None, first));
            }
            Event::Ended { choice, finish, tokens, cached } => {
                let first = !std::mem::replace(&mut self.begun[choice], true);
                self.send(self.frame.delta(choice, "", &[], Some(finish), first));
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
