use std::sync::Arc;

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode};
use hyper::body::Incoming;

use super::FeedbackDesk;
use super::headers::{remove_hop_headers, take_remora_headers};
use super::respond::{self, ProxyBody};
use crate::capture::{Flight, Head, Recorder, RequestTee, ResponseTee};
use crate::model::Ended;
use crate::telemetry::Metrics;
use crate::upstream::{HttpUpstream, UpstreamError};

/// Answers requests: forwards them, with a copy to the recorder. Cheap to clone.
#[derive(Clone)]
pub struct Forwarder {
    upstream: HttpUpstream<RequestTee<Incoming>>,
    /// None: capture is switched off.
    recorder: Option<Recorder>,
    skip_paths: Arc<[String]>,
    feedback: FeedbackDesk,
    metrics: Metrics,
}

/// Counts a request as in flight until its response's head is on its way.
struct InFlight<'a>(&'a Metrics);

impl<'a> InFlight<'a> {
    fn new(metrics: &'a Metrics) -> Self {
        metrics.in_flight.increment(1);
        Self(metrics)
    }
}

impl Drop for InFlight<'_> {
    fn drop(&mut self) {
        self.0.in_flight.decrement(1);
    }
}

impl Forwarder {
    #[must_use]
    pub fn new(
        upstream: HttpUpstream<RequestTee<Incoming>>,
        recorder: Option<Recorder>,
        skip_paths: &[String],
        feedback: FeedbackDesk,
        metrics: Metrics,
    ) -> Self {
        Self { upstream, recorder, skip_paths: skip_paths.into(), feedback, metrics }
    }

    /// Answers one request that came over the connection numbered `connection`.
    pub async fn answer(&self, request: Request<Incoming>, connection: i64) -> Response<ProxyBody> {
        if request.uri().path() == FeedbackDesk::PATH {
            return own(self.feedback.take(request).await);
        }
        if request.method() == Method::CONNECT {
            let message = "Remora is no forward proxy: set it as the base URL, not as HTTP_PROXY";
            return own(respond::error(
                StatusCode::METHOD_NOT_ALLOWED,
                "invalid_request_error",
                "connect",
                message,
            ));
        }
        let _in_flight = InFlight::new(&self.metrics);
        let (mut parts, body) = request.into_parts();
        let mut flight = self.begin(&parts, connection);
        let scope = take_remora_headers(&mut parts.headers);
        if let Some(flight) = &mut flight {
            flight.set_scope(scope);
        }
        remove_hop_headers(&mut parts.headers);
        let (body, leftover) = RequestTee::new(body, flight.as_mut());
        match self.upstream.send(Request::from_parts(parts, body)).await {
            Ok(response) => Self::pass(response, flight).await,
            Err(error) => {
                leftover.read().await;
                Self::fail(&error, flight)
            }
        }
    }

    fn begin(&self, parts: &http::request::Parts, connection: i64) -> Option<Flight> {
        let recorder = self.recorder.as_ref()?;
        let path = parts.uri.path();
        if self.skip_paths.iter().any(|skip| path.starts_with(skip.as_str())) {
            return None;
        }
        Some(recorder.begin(Head {
            scope: crate::model::Scope::default(),
            connection,
            method: parts.method.clone(),
            target: parts.uri.path_and_query().map_or("/", |p| p.as_str()).to_owned(),
            upstream: self.upstream.url().clone(),
            headers: parts.headers.clone(),
        }))
    }

    async fn pass(response: Response<Incoming>, mut flight: Option<Flight>) -> Response<ProxyBody> {
        let (mut parts, body) = response.into_parts();
        if let Some(flight) = &mut flight {
            flight.response_head(parts.status.as_u16(), parts.headers.clone());
        }
        remove_hop_headers(&mut parts.headers);
        // The server side speaks the client's version.
        parts.version = http::Version::HTTP_11;
        Response::from_parts(parts, ProxyBody::Upstream(ResponseTee::started(body, flight).await))
    }

    /// What the client is told is recorded as the response; how it came about, as the way it ended.
    fn fail(error: &UpstreamError, flight: Option<Flight>) -> Response<ProxyBody> {
        let response = respond::upstream_error(error);
        if let Some(mut flight) = flight {
            flight.response_head(response.status().as_u16(), response.headers().clone());
            flight.response_frame(response.body());
            let ended = match error {
                UpstreamError::Timeout { .. } => Ended::UpstreamTimeout,
                _ => Ended::UpstreamReset,
            };
            drop(flight.finish(ended, Some(error.to_string())));
        }
        own(response)
    }
}

fn own(response: Response<Bytes>) -> Response<ProxyBody> {
    response.map(|bytes| ProxyBody::Own(Some(bytes).filter(|b| !b.is_empty())))
}
