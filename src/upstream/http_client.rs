use std::sync::Arc;
use std::time::Duration;

use http::uri::{Authority, PathAndQuery, Scheme};
use http::{HeaderValue, Request, Response, Uri, Version, header};
use hyper::body::{Body, Incoming};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use rustls_pki_types::pem::PemObject;

use super::connector::Connector;
use super::error::{SetupError, UpstreamError};
use crate::config::{self, Http2};

/// An HTTP endpoint. Cheap to clone; clones share the pool. `B` is the body that requests carry.
pub struct HttpUpstream<B> {
    client: Client<Connector, B>,
    /// For requests that ask to change the protocol: that takes HTTP/1.1 and the whole connection.
    switching: Client<Connector, B>,
    url: Arc<str>,
    scheme: Scheme,
    authority: Authority,
    host: HeaderValue,
    /// Put before the client's path; without a slash at its end.
    prefix: Arc<str>,
    response_timeout: Duration,
}

// Not derived: that would ask the body to be cloneable, too.
impl<B> Clone for HttpUpstream<B> {
    fn clone(&self) -> Self {
        Self {
            client: self.client.clone(),
            switching: self.switching.clone(),
            url: self.url.clone(),
            scheme: self.scheme.clone(),
            authority: self.authority.clone(),
            host: self.host.clone(),
            prefix: self.prefix.clone(),
            response_timeout: self.response_timeout,
        }
    }
}

impl<B> HttpUpstream<B>
where
    B: Body + Send + Unpin + 'static,
    B::Data: Send,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    /// A pool for the configured endpoint; connects to nothing yet.
    ///
    /// # Errors
    /// When the certificate authorities cannot be read.
    pub fn build(config: &config::Upstream) -> Result<Self, SetupError> {
        let uri: Uri = config.url.parse().expect("checked with the configuration");
        let scheme = uri.scheme().cloned().expect("checked with the configuration");
        let authority = uri.authority().cloned().expect("checked with the configuration");

        let mut tcp = HttpConnector::new();
        tcp.enforce_http(false);
        tcp.set_nodelay(true);
        tcp.set_keepalive(Some(Duration::from_secs(60)));
        let tls = tls(config, &scheme)?;
        let https =
            || hyper_rustls::HttpsConnectorBuilder::new().with_tls_config(tls.clone()).https_or_http();
        let patience = config.connect_timeout.0;
        let http1 = Connector { https: https().enable_http1().wrap_connector(tcp.clone()), patience };
        let https = match config.http2 {
            Http2::Auto => https().enable_all_versions().wrap_connector(tcp),
            Http2::Always => https().enable_http2().wrap_connector(tcp),
            Http2::Never => https().enable_http1().wrap_connector(tcp),
        };
        let connector = Connector { https, patience };
        let switching = Client::builder(TokioExecutor::new())
            .pool_max_idle_per_host(0)
            .timer(TokioTimer::new())
            .http1_preserve_header_case(true)
            .set_host(false)
            .build(http1);
        let client = Client::builder(TokioExecutor::new())
            .pool_idle_timeout(config.idle_timeout.0)
            .pool_timer(TokioTimer::new())
            .timer(TokioTimer::new())
            .http1_preserve_header_case(true)
            .http2_only(config.http2 == Http2::Always)
            .http2_adaptive_window(true)
            // Only where nothing of the request was written yet.
            .retry_canceled_requests(true)
            .set_host(false)
            .build(connector);
        let host = HeaderValue::from_str(authority.as_str()).expect("an authority is a valid header value");
        Ok(Self {
            client,
            switching,
            url: config.url.trim_end_matches('/').into(),
            scheme,
            authority,
            host,
            prefix: uri.path().trim_end_matches('/').into(),
            response_timeout: config.response_timeout.0,
        })
    }

    /// The base URL, as it is recorded.
    #[must_use]
    pub fn url(&self) -> &Arc<str> {
        &self.url
    }

    /// Sends a request and waits for the head of its response. The URI needs path and query only; `Host` is replaced
    /// in its place; everything else goes as it is. With an `Upgrade` it goes over an HTTP/1.1 connection of its own.
    ///
    /// # Cancel safety
    /// Dropping the future closes the connection.
    ///
    /// # Errors
    /// When no response comes.
    pub async fn send(&self, mut request: Request<B>) -> Result<Response<Incoming>, UpstreamError> {
        let url = || self.url.to_string();
        let target = request.uri().path_and_query().map_or("/", PathAndQuery::as_str);
        let target =
            if self.prefix.is_empty() { target.to_owned() } else { format!("{}{target}", self.prefix) };
        *request.uri_mut() = Uri::builder()
            .scheme(self.scheme.clone())
            .authority(self.authority.clone())
            .path_and_query(target)
            .build()
            .map_err(|source| UpstreamError::Request { url: url(), source })?;
        // The pool chooses the protocol; a version of 2 would insist on it.
        *request.version_mut() = Version::HTTP_11;
        request.headers_mut().insert(header::HOST, self.host.clone());

        let switching = request.headers().contains_key(header::UPGRADE);
        let client = if switching { &self.switching } else { &self.client };
        match tokio::time::timeout(self.response_timeout, client.request(request)).await {
            Ok(Ok(response)) => Ok(response),
            Ok(Err(error)) if error.is_connect() => {
                Err(UpstreamError::Connect { url: url(), source: error.into() })
            }
            Ok(Err(error)) => Err(UpstreamError::Broken { url: url(), source: error.into() }),
            Err(_) => Err(UpstreamError::Timeout { url: url(), after: self.response_timeout }),
        }
    }
}

fn tls(config: &config::Upstream, scheme: &Scheme) -> Result<rustls::ClientConfig, SetupError> {
    let mut roots = rustls::RootCertStore::empty();
    if let Some(path) = &config.ca {
        let failed = |reason: String| SetupError::Ca { path: path.clone(), reason };
        let certificates =
            rustls_pki_types::CertificateDer::pem_file_iter(path).map_err(|e| failed(e.to_string()))?;
        for certificate in certificates {
            let certificate = certificate.map_err(|e| failed(e.to_string()))?;
            roots.add(certificate).map_err(|e| failed(e.to_string()))?;
        }
        if roots.is_empty() {
            return Err(failed("holds no certificate in PEM form".into()));
        }
    } else if *scheme == Scheme::HTTPS {
        let found = rustls_native_certs::load_native_certs();
        for error in &found.errors {
            tracing::warn!(%error, "a system certificate cannot be read");
        }
        roots.add_parsable_certificates(found.certs);
        if roots.is_empty() {
            return Err(SetupError::Tls(
                "the system has no certificate authorities; install ca-certificates or set upstream.ca"
                    .into(),
            ));
        }
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    Ok(rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|e| SetupError::Tls(e.to_string()))?
        .with_root_certificates(roots)
        .with_no_client_auth())
}
