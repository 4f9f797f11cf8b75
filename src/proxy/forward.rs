use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderValue, Method, Request, Response, StatusCode, Version, header};
use hyper::body::{Body, Incoming};

use super::headers::{remove_hop_headers, remove_remora_headers, scope_of};
use super::respond::{self, InFlight, ProxyBody};
use super::{ClientBody, FeedbackDesk, Slow, limits};
use crate::capture::{Flight, Head, Recorder, RequestTee, ResponseTee};
use crate::model::Ended;
use crate::telemetry::Metrics;
use crate::upstream::{HttpUpstream, UpstreamError};

/// Answers requests: forwards them, with a copy to the recorder.
pub struct Forwarder {
    upstream: HttpUpstream<RequestTee<ClientBody>>,
    /// None: capture is switched off.
    recorder: Option<Recorder>,
    skip_paths: Arc<[String]>,
    feedback: FeedbackDesk,
    metrics: Metrics,
}

/// What is answered here and never forwarded.
const OWN_PATHS: &str = "/remora/";

impl Forwarder {
    #[must_use]
    pub fn new(
        upstream: HttpUpstream<RequestTee<ClientBody>>,
        recorder: Option<Recorder>,
        skip_paths: &[String],
        feedback: FeedbackDesk,
        metrics: Metrics,
    ) -> Self {
        Self { upstream, recorder, skip_paths: skip_paths.into(), feedback, metrics }
    }

    /// Answers one request that came over the connection numbered `connection`.
    pub async fn answer(&self, request: Request<ClientBody>, connection: i64) -> Response<ProxyBody> {
        let path = request.uri().path();
        if path == FeedbackDesk::PATH {
            return own(self.feedback.take(request).await);
        }
        if path.starts_with(OWN_PATHS) {
            let message = format!("Remora has no {path}; there is {}", FeedbackDesk::PATH);
            return own(respond::error(
                StatusCode::NOT_FOUND,
                "invalid_request_error",
                "not_found",
                &message,
            ));
        }
        // In HTTP/1 only a request to a forward proxy names another host in its target; in HTTP/2 every one names ours.
        let elsewhere = request.version() < Version::HTTP_2 && request.uri().authority().is_some();
        if request.method() == Method::CONNECT || elsewhere {
            let message = "Remora is no forward proxy: set it as the base URL, not as HTTP_PROXY";
            return own(respond::error(
                StatusCode::METHOD_NOT_ALLOWED,
                "invalid_request_error",
                "connect",
                message,
            ));
        }
        let in_flight = InFlight::new(&self.metrics.in_flight);
        let bodiless = request.method() == Method::HEAD;
        let (mut parts, body) = request.into_parts();
        let mut flight = self.begin(&parts, connection);
        remove_remora_headers(&mut parts.headers);
        remove_hop_headers(&mut parts.headers);
        // Without a length, hyper would send the body of a GET or HEAD as none.
        if !body.is_end_stream() && body.size_hint().exact().is_none() {
            parts.headers.insert(header::TRANSFER_ENCODING, HeaderValue::from_static("chunked"));
        }
        let (body, leftover) = RequestTee::new(body, flight.as_mut());
        match self.upstream.send(Request::from_parts(parts, body)).await {
            Ok(response) => Self::pass(response, flight, bodiless, in_flight).await,
            Err(error) => {
                leftover.read().await;
                Self::fail(&error, flight).await
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
            scope: scope_of(&parts.headers),
            connection,
            method: parts.method.clone(),
            target: parts.uri.path_and_query().map_or("/", |p| p.as_str()).to_owned(),
            upstream: self.upstream.url().clone(),
            headers: parts.headers.clone(),
        }))
    }

    async fn pass(
        response: Response<Incoming>,
        mut flight: Option<Flight>,
        bodiless: bool,
        in_flight: InFlight,
    ) -> Response<ProxyBody> {
        let (mut parts, body) = response.into_parts();
        if parts.version < Version::HTTP_2
            && let Some(reason) = limits::ambiguous(&parts.headers)
        {
            return Self::ambiguous(reason, flight).await;
        }
        if let Some(flight) = &mut flight {
            flight.response_head(parts.status.as_u16(), parts.headers.clone());
        }
        remove_hop_headers(&mut parts.headers);
        // The server side speaks the client's version.
        parts.version = http::Version::HTTP_11;
        let bodiless = bodiless || matches!(parts.status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED);
        let body = ResponseTee::started(body, flight, bodiless).await;
        Response::from_parts(parts, ProxyBody::Upstream(body, in_flight))
    }

    /// Passing it on could make the client take a part of one answer for the beginning of another.
    async fn ambiguous(reason: &str, flight: Option<Flight>) -> Response<ProxyBody> {
        let message = format!("Remora: nobody can tell where the upstream's answer ends: {reason}");
        let response =
            respond::error(StatusCode::BAD_GATEWAY, "upstream_error", "ambiguous_answer", &message);
        if let Some(mut flight) = flight {
            flight.response_head(response.status().as_u16(), response.headers().clone());
            flight.response_frame(response.body());
            flight.finish_safely(Ended::UpstreamReset, Some(message)).await;
        }
        own(response)
    }

    /// The client did not send what it announced; it may still be there to hear of it.
    async fn slow(slow: Slow, flight: Option<Flight>) -> Response<ProxyBody> {
        let message = format!("Remora: {slow}");
        let response =
            respond::error(StatusCode::REQUEST_TIMEOUT, "invalid_request_error", "slow_request", &message);
        if let Some(mut flight) = flight {
            flight.response_head(response.status().as_u16(), response.headers().clone());
            flight.response_frame(response.body());
            flight.finish_safely(Ended::ClientCancelled, Some(slow.to_string())).await;
        }
        own(response)
    }

    /// What the client is told is recorded as the response; how it came about, as the way it ended.
    async fn fail(error: &UpstreamError, flight: Option<Flight>) -> Response<ProxyBody> {
        if let Some(late) = Slow::behind(error) {
            return Self::slow(late, flight).await;
        }
        let response = respond::upstream_error(error);
        if let Some(mut flight) = flight {
            if flight.request_broke_off() {
                // It was the client's doing: nobody is left to be answered.
                let detail = "the client broke off while it was sending the request".to_owned();
                flight.finish_safely(Ended::ClientCancelled, Some(detail)).await;
                let message = "Remora: the request's body broke off";
                return own(respond::error(
                    StatusCode::BAD_REQUEST,
                    "invalid_request_error",
                    "broken_request",
                    message,
                ));
            }
            flight.response_head(response.status().as_u16(), response.headers().clone());
            flight.response_frame(response.body());
            let ended = match error {
                UpstreamError::Timeout { .. } => Ended::UpstreamTimeout,
                _ => Ended::UpstreamReset,
            };
            flight.finish_safely(ended, Some(error.to_string())).await;
        }
        own(response)
    }
}

fn own(response: Response<Bytes>) -> Response<ProxyBody> {
    response.map(|bytes| ProxyBody::Own(Some(bytes).filter(|b| !b.is_empty())))
}
