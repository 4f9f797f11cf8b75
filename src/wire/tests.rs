//! Whole exchanges through [`read`](super::read).

mod apis;
mod edges;
mod laws;

use bytes::Bytes;
use serde_json::Value;

use super::read;
use crate::model::{Body, Ended, Exchange, ExchangeId, Headers, Micros, Reading, Response, Scope, Timing};

const CHAT: &str = "/v1/chat/completions";
const JSON: &str = "application/json";
const EVENTS: &str = "text/event-stream; charset=utf-8";

fn exchange(
    method: &str,
    target: &str,
    request: &[u8],
    status: u16,
    headers: &[(&str, &str)],
    body: &[u8],
) -> Exchange {
    let whole = |bytes: &[u8]| Body::whole(Bytes::copy_from_slice(bytes));
    let headers = Headers(headers.iter().map(|(n, v)| ((*n).into(), (*v).into())).collect());
    Exchange {
        connection: 1,
        id: ExchangeId::new(),
        scope: Scope::default(),
        client_key: None,
        method: method.into(),
        target: target.into(),
        upstream: "http://127.0.0.1:1".into(),
        request_headers: Headers::default(),
        request_body: whole(request),
        response: Some(Response { status, headers, body: whole(body) }),
        timing: Timing { started: Micros(0), head: None, first_byte: None, ended: Micros(0) },
        ended: Ended::Complete,
        detail: None,
    }
}

/// A POST that was answered 200.
fn call(target: &str, request: &Value, media: &str, body: &[u8]) -> Reading {
    read(&exchange("POST", target, request.to_string().as_bytes(), 200, &[("content-type", media)], body))
}

fn whole(target: &str, request: &Value, answer: &Value) -> Reading {
    call(target, request, JSON, answer.to_string().as_bytes())
}

fn streamed(target: &str, request: &Value, events: &[Value]) -> Reading {
    call(target, request, EVENTS, stream_of(events).as_bytes())
}

/// Events as servers write them: named by their type where they have one, strings as they are.
fn stream_of(events: &[Value]) -> String {
    events
        .iter()
        .map(|event| match (event.as_str(), event["type"].as_str()) {
            (Some(text), _) => format!("data: {text}\n\n"),
            (_, Some(name)) => format!("event: {name}\ndata: {event}\n\n"),
            _ => format!("data: {event}\n\n"),
        })
        .collect()
}
