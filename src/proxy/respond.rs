//! Answers that Remora gives itself, in OpenAI's error shape, so that client libraries show them properly.

use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::{HeaderValue, Response, StatusCode, header};
use hyper::body::{Body, Frame, SizeHint};
use metrics::Gauge;
use serde_json::json;
use tokio_util::sync::DropGuard;

use super::route::RequestBody;
use crate::capture::ResponseTee;
use crate::upstream::{UpstreamBody, UpstreamError};

/// Counts a request as under way until its response has ended.
#[derive(Debug)]
pub struct InFlight(Gauge, Option<DropGuard>);

impl InFlight {
    pub(super) fn new(gauge: &Gauge) -> Self {
        gauge.increment(1);
        Self(gauge.clone(), None)
    }

    /// Holds on to something until then.
    pub(super) fn holding(self, guard: Option<DropGuard>) -> Self {
        let mut this = self;
        this.1 = guard;
        this
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.decrement(1);
    }
}

/// The body of a response: the upstream's, or a short one of ours.
#[derive(Debug)]
pub enum ProxyBody {
    Upstream(ResponseTee<UpstreamBody<RequestBody>>, InFlight),
    Own(Option<Bytes>),
}

impl Body for ProxyBody {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        match &mut *self {
            Self::Upstream(tee, _) => Pin::new(tee).poll_frame(cx),
            Self::Own(bytes) => Poll::Ready(bytes.take().map(|bytes| Ok(Frame::data(bytes)))),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Upstream(tee, _) => tee.is_end_stream(),
            Self::Own(bytes) => bytes.is_none(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Upstream(tee, _) => tee.size_hint(),
            Self::Own(bytes) => SizeHint::with_exact(bytes.as_ref().map_or(0, |b| b.len() as u64)),
        }
    }
}

/// A JSON answer of our own.
pub(super) fn json(status: StatusCode, body: &serde_json::Value) -> Response<Bytes> {
    let mut response = Response::new(Bytes::from(body.to_string()));
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

/// An error of our own: `{"error": {"message", "type", "param", "code"}}`.
pub(super) fn error(status: StatusCode, kind: &str, code: &str, message: &str) -> Response<Bytes> {
    json(status, &json!({"error": {"message": message, "type": kind, "param": null, "code": code}}))
}

/// 502 or 504 for a request that the upstream did not answer.
pub(super) fn upstream_error(error: &UpstreamError) -> Response<Bytes> {
    let (status, code) = match error {
        UpstreamError::Connect { .. } => (StatusCode::BAD_GATEWAY, "upstream_unreachable"),
        UpstreamError::Broken { .. } => (StatusCode::BAD_GATEWAY, "upstream_broke_off"),
        UpstreamError::Timeout { .. } => (StatusCode::GATEWAY_TIMEOUT, "upstream_timeout"),
        UpstreamError::Request { .. } => (StatusCode::BAD_REQUEST, "invalid_target"),
    };
    self::error(status, "upstream_error", code, &format!("Remora: {error}"))
}
