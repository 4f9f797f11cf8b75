use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use http::Uri;
use hyper_rustls::{HttpsConnector, MaybeHttpsStream};
use tower_service::Service;

use super::error::BoxError;
use super::heard::Heard;
use super::{Dialed, Dialer};

/// Connects within a limit, name look-up, proxy and TLS included: a host that accepts and then says nothing must not hold a
/// request.
#[derive(Clone)]
pub(super) struct Connector {
    pub https: HttpsConnector<Dialer>,
    pub patience: Duration,
}

/// Connecting took longer than it may.
#[derive(Debug, thiserror::Error)]
#[error("no connection within {}", humantime::format_duration(*.0))]
struct TooSlow(Duration);

impl Service<Uri> for Connector {
    type Response = Heard<MaybeHttpsStream<Dialed>>;
    type Error = BoxError;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, BoxError>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.https.poll_ready(cx)
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        let (connecting, patience) = (self.https.call(uri), self.patience);
        Box::pin(async move {
            let connected = tokio::time::timeout(patience, connecting).await;
            connected.unwrap_or_else(|_| Err(TooSlow(patience).into())).map(Heard::new)
        })
    }
}
