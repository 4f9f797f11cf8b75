use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderValue, Method, Request, Response, StatusCode, Version, header};
use hyper::body::Body;
use hyper::upgrade::OnUpgrade;
use tokio_util::sync::DropGuard;

use super::headers::{remove_expect, remove_hop_headers, remove_remora_headers, scope_of};
use super::line::{Line, Tunnels};
use super::peeked::Peeked;
use super::respond::{self, InFlight, ProxyBody};
use super::route::{Otherwise, RequestBody};
use super::upgrade::{self, Switch, switched};
use super::upload::{Expectation, Upload, close};
use super::{ClientBody, FeedbackDesk, ForwardProxy, Routes, Slow, limits};
use crate::capture::{Flight, Head, Recorder, RequestTee, ResponseTee};
use crate::model::Ended;
use crate::telemetry::Metrics;
use crate::upstream::{UpstreamBody, UpstreamError};

/// Answers requests: forwards them, with a copy to the recorder.
pub struct Forwarder {
    routes: Routes,
    /// None: we are no forward proxy.
    forward_proxy: Option<ForwardProxy>,
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
        routes: Routes,
        forward_proxy: Option<ForwardProxy>,
        recorder: Option<Recorder>,
        skip_paths: &[String],
        feedback: FeedbackDesk,
        metrics: Metrics,
    ) -> Self {
        Self { routes, forward_proxy, recorder, skip_paths: skip_paths.into(), feedback, metrics }
    }

    /// Answers one request that came over a client's connection.
    pub async fn answer(self: &Arc<Self>, request: Request<ClientBody>, line: &Line) -> Response<ProxyBody> {
        // In HTTP/1 only a request to a forward proxy names another host in its target; in HTTP/2 every one names ours.
        let elsewhere = request.version() < Version::HTTP_2 && request.uri().authority().is_some();
        if request.method() == Method::CONNECT || elsewhere {
            return match &self.forward_proxy {
                Some(proxy) => proxy.answer(self, request, line).await,
                None => no_forward_proxy(),
            };
        }
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
        self.forward(request, line, self.routes.default()).await
    }

    pub(super) fn forward_proxy(&self) -> Option<&ForwardProxy> {
        self.forward_proxy.as_ref()
    }

    /// Waits until connections within connections have ended; call it when no new ones come.
    pub(super) async fn tunnels_ended(&self) {
        if let Some(proxy) = &self.forward_proxy {
            proxy.ended().await;
        }
    }

    /// Sends a request where the routes say, or else `otherwise`, and passes the answer on.
    pub(super) async fn forward(
        &self,
        mut request: Request<ClientBody>,
        line: &Line,
        otherwise: Otherwise<'_>,
    ) -> Response<ProxyBody> {
        let in_flight = InFlight::new(&self.metrics.in_flight);
        let bodiless = request.method() == Method::HEAD;
        let switch = upgrade::asked(&mut request);
        let (mut parts, body) = request.into_parts();
        let upstream = self.routes.by_head(&parts, otherwise);
        let mut flight = self.begin(&parts, line.number, upstream.unwrap_or(otherwise.upstream).url());
        // A body that decides on the upstream is asked for here.
        let expectation = upstream.and_then(|_| Expectation::of(&parts, &body));
        remove_hop_headers(&mut parts.headers, switch.is_some());
        if expectation.is_none() {
            remove_expect(&mut parts.headers);
        }
        // Without a length, hyper would send the body of a GET or HEAD as none.
        if !body.is_end_stream() && body.size_hint().exact().is_none() {
            parts.headers.insert(header::TRANSFER_ENCODING, HeaderValue::from_static("chunked"));
        }
        let upload = Upload::new(body, &line.turn, &mut parts, expectation.as_ref());
        let (body, leftover) = RequestTee::new(upload, flight.as_mut());
        let mut body = Peeked::new(body);
        let upstream = match upstream {
            Some(upstream) => upstream,
            None => {
                let upstream = self.routes.by_model(&parts, otherwise, &mut body).await;
                if let Some(flight) = &mut flight {
                    flight.goes_to(upstream.url());
                }
                upstream
            }
        };
        if !upstream.is_embedded() {
            remove_remora_headers(&mut parts.headers);
        }
        match upstream.send(Request::from_parts(parts, body)).await {
            Ok(response) if switched(&response) => {
                self.switch(response, switch, flight, in_flight, &line.tunnels).await
            }
            Ok(response) => {
                // An answer in place of the word to go on: the body goes nowhere.
                let refused = expectation.and_then(|expectation| expectation.settle());
                Self::pass(response, flight, bodiless, in_flight, refused).await
            }
            Err(error) => {
                match expectation.and_then(|expectation| expectation.settle()) {
                    // The client still has it.
                    Some(_) => drop(leftover),
                    None => leftover.read().await,
                }
                Self::fail(&error, flight).await
            }
        }
    }

    /// The upstream changed the protocol: so does the client, if it asked.
    async fn switch(
        &self,
        mut response: Response<UpstreamBody<RequestBody>>,
        asked: Option<OnUpgrade>,
        mut flight: Option<Flight>,
        in_flight: InFlight,
        tunnels: &Tunnels,
    ) -> Response<ProxyBody> {
        let upstream = hyper::upgrade::on(&mut response);
        let (mut parts, _) = response.into_parts();
        if let Some(flight) = &mut flight {
            flight.response_head(parts.status.as_u16(), parts.headers.clone());
        }
        let Some(client) = asked else {
            let message = "Remora: the upstream changed the protocol although nobody asked it to";
            if let Some(flight) = flight {
                flight.finish_safely(Ended::UpstreamReset, Some(message.to_owned())).await;
            }
            return own(respond::error(
                StatusCode::BAD_GATEWAY,
                "upstream_error",
                "upstream_switched",
                message,
            ));
        };
        let switch = Switch {
            client,
            upstream,
            headers: parts.headers.clone(),
            keep_files: self.recorder.as_ref().is_some_and(Recorder::keeps_uploads),
        };
        tunnels.open(switch, flight, in_flight);
        remove_hop_headers(&mut parts.headers, true);
        Response::from_parts(parts, ProxyBody::Own(None))
    }

    fn begin(&self, parts: &http::request::Parts, connection: i64, upstream: &Arc<str>) -> Option<Flight> {
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
            upstream: upstream.clone(),
            headers: parts.headers.clone(),
        }))
    }

    async fn pass(
        response: Response<UpstreamBody<RequestBody>>,
        mut flight: Option<Flight>,
        bodiless: bool,
        in_flight: InFlight,
        refused: Option<DropGuard>,
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
        // 426 names the protocol that would do (RFC 9110 §15.5.22).
        remove_hop_headers(&mut parts.headers, parts.status == StatusCode::UPGRADE_REQUIRED);
        if refused.is_some() {
            close(&mut parts.headers);
        }
        // The server side speaks the client's version.
        parts.version = http::Version::HTTP_11;
        let bodiless = bodiless || matches!(parts.status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED);
        let body = ResponseTee::started(body, flight, bodiless).await;
        Response::from_parts(parts, ProxyBody::Upstream(body, in_flight.holding(refused)))
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

fn no_forward_proxy() -> Response<ProxyBody> {
    let message =
        "Remora is no forward proxy: set it as the base URL, not as HTTP_PROXY, or set forward_proxy.enabled";
    own(respond::error(StatusCode::METHOD_NOT_ALLOWED, "invalid_request_error", "connect", message))
}
