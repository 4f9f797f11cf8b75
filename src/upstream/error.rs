use std::error::Error;
use std::time::Duration;

/// No response from the upstream.
#[derive(Debug, thiserror::Error)]
pub enum UpstreamError {
    #[error("cannot connect to the upstream {url}: {reason}", reason = root(source.as_ref()))]
    Connect { url: String, source: Box<dyn Error + Send + Sync> },

    #[error("the upstream {url} broke off before answering: {reason}", reason = root(source.as_ref()))]
    Broken { url: String, source: Box<dyn Error + Send + Sync> },

    #[error("the upstream {url} did not answer within {}", humantime::format_duration(*after))]
    Timeout { url: String, after: Duration },

    #[error("the request cannot be sent to the upstream {url}: {source}")]
    Request { url: String, source: http::Error },
}

/// The upstream's settings cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum SetupError {
    #[error("upstream.ca: {path}: {reason}", path = path.display())]
    Ca { path: std::path::PathBuf, reason: String },
    #[error("TLS cannot be set up: {0}")]
    Tls(String),
}

/// The last cause: "connection refused" rather than "client error".
fn root<'a>(error: &'a (dyn Error + Send + Sync + 'static)) -> &'a (dyn Error + 'static) {
    let mut cause: &(dyn Error + 'static) = error;
    while let Some(next) = cause.source() {
        cause = next;
    }
    cause
}
