use bytes::Bytes;
use http::{Method, Request, StatusCode, Uri, header};
use http_body_util::{BodyExt, Full};
use hyper_util::client::legacy::Client as Http;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use serde_json::Value;

use super::answer::Answer;
use super::error::DemoError;

/// The app's side of the wire: plain HTTP, no knowledge of Remora but the base URL and, where asked, its headers.
#[derive(Clone, Debug)]
pub(super) struct Client {
    http: Http<HttpConnector, Full<Bytes>>,
    base: String,
}

/// What came of a request.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Outcome {
    Answered(Answer),
    /// An error with this status.
    Refused(StatusCode),
}

impl Client {
    /// `base` without a path: `http://127.0.0.1:4141`.
    pub(super) fn new(base: &str) -> Self {
        let http = Http::builder(TokioExecutor::new()).build_http();
        Self { http, base: base.trim_end_matches('/').to_owned() }
    }

    /// Asks the model; `headers` besides the usual ones.
    pub(super) async fn complete(
        &self,
        headers: &[(&'static str, &str)],
        request: &Value,
    ) -> Result<Outcome, DemoError> {
        let url = format!("{}/v1/chat/completions", self.base);
        let (status, body) = self.post(&url, headers, request).await?;
        if !status.is_success() {
            return Ok(Outcome::Refused(status));
        }
        let answer = if request["stream"] == true {
            Answer::of_events(&String::from_utf8_lossy(&body))
        } else {
            serde_json::from_slice(&body).ok().as_ref().and_then(Answer::of_plain)
        };
        let start = || String::from_utf8_lossy(&body[..body.len().min(200)]).into_owned();
        answer.map(Outcome::Answered).ok_or_else(|| DemoError::Unreadable { url, reason: start() })
    }

    /// Tells the proxy how a conversation went; gives the status of its answer.
    pub(super) async fn feedback(
        &self,
        headers: &[(&'static str, &str)],
        feedback: &Value,
    ) -> Result<StatusCode, DemoError> {
        let url = format!("{}/remora/v1/feedback", self.base);
        Ok(self.post(&url, headers, feedback).await?.0)
    }

    async fn post(
        &self,
        url: &str,
        with: &[(&'static str, &str)],
        body: &Value,
    ) -> Result<(StatusCode, Bytes), DemoError> {
        let uri: Uri = url.parse().map_err(|source| DemoError::Url { url: url.to_owned(), source })?;
        let mut request = Request::new(Full::from(body.to_string()));
        *request.method_mut() = Method::POST;
        *request.uri_mut() = uri;
        let headers = request.headers_mut();
        headers.insert(header::CONTENT_TYPE, header::HeaderValue::from_static("application/json"));
        // a key that opens nothing, so that the record shows what becomes of keys
        headers.insert(header::AUTHORIZATION, header::HeaderValue::from_static("Bearer demo-key"));
        headers.insert(header::USER_AGENT, header::HeaderValue::from_static("remora-demo"));
        for (name, value) in with {
            if let Ok(value) = value.parse() {
                headers.insert(*name, value);
            }
        }
        let response = self
            .http
            .request(request)
            .await
            .map_err(|source| DemoError::Send { url: url.to_owned(), source })?;
        let status = response.status();
        let body = response.into_body().collect().await;
        let body = body.map_err(|source| DemoError::Receive { url: url.to_owned(), source })?;
        Ok((status, body.to_bytes()))
    }
}
