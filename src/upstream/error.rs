use std::error::Error;
use std::path::PathBuf;
use std::time::Duration;

pub(super) type BoxError = Box<dyn Error + Send + Sync>;

/// No response from the upstream.
#[derive(Debug, thiserror::Error)]
pub enum UpstreamError {
    #[error("cannot connect to the upstream {url}: {reason}", reason = root(source.as_ref()))]
    Connect { url: String, source: BoxError },

    #[error("the upstream {url} broke off before answering: {reason}", reason = root(source.as_ref()))]
    Broken { url: String, source: BoxError },

    #[error("the upstream {url} did not answer within {}", humantime::format_duration(*after))]
    Timeout { url: String, after: Duration },

    #[error("the request cannot be sent to the upstream {url}: {source}")]
    Request { url: String, source: http::Error },
}

/// An upstream's settings cannot be used. `at` is the YAML path.
#[derive(Debug, thiserror::Error)]
pub enum SetupError {
    #[error("{at}: {path}: {reason}", path = path.display())]
    File { at: String, path: PathBuf, reason: String },
    #[error("{at}: {reason}")]
    Proxy { at: String, reason: String },
    #[error("{at}: TLS cannot be set up: {reason}")]
    Tls { at: String, reason: String },
}

/// No way through a proxy. Says all itself, without a source: only the last cause is shown.
#[derive(Debug, thiserror::Error)]
pub enum ProxyError {
    #[error("the proxy {proxy} cannot be reached: {reason}")]
    Unreachable { proxy: String, reason: String },
    #[error("the proxy {proxy} refused: {answer}")]
    Refused { proxy: String, answer: String },
    #[error("the proxy {proxy} broke off: {reason}")]
    Broken { proxy: String, reason: String },
    #[error("the proxy {proxy} did not answer in HTTP")]
    NoHttp { proxy: String },
}

/// The last cause: "connection refused" rather than "client error".
pub(super) fn root<'a>(error: &'a (dyn Error + Send + Sync + 'static)) -> &'a (dyn Error + 'static) {
    let mut cause: &(dyn Error + 'static) = error;
    while let Some(next) = cause.source() {
        cause = next;
    }
    cause
}
