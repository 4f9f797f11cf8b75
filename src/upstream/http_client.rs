use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use http::uri::{Authority, Parts, PathAndQuery, Scheme};
use http::{HeaderValue, Request, Response, Uri, Version, header};
use hyper::body::Body;
use hyper_util::client::legacy::Client;
use hyper_util::rt::{TokioExecutor, TokioTimer};

use super::body::UpstreamBody;
use super::connector::Connector;
use super::direct::{Direct, Failure};
use super::error::{SetupError, UpstreamError};
use super::trust::{SystemRoots, tls};
use super::{Dialer, proxy};
use crate::config::{self, Http2, variable};

/// What building several upstreams shares.
#[derive(Debug, Default)]
pub struct Setup {
    /// Where Remora itself listens: never taken for a proxy.
    own: Option<SocketAddr>,
    system: SystemRoots,
}

impl Setup {
    #[must_use]
    pub fn new(own: SocketAddr) -> Self {
        Self { own: Some(own), system: SystemRoots::default() }
    }

    /// What connects to `to` where a proxy of `config` stands between; none: there is none.
    ///
    /// # Errors
    /// When the proxy cannot be used. `at` is the YAML path of `config`.
    pub fn proxied(
        &self,
        to: &Uri,
        config: &config::Upstream,
        at: &str,
    ) -> Result<Option<Dialer>, SetupError> {
        let Some(proxy) = proxy::find(to, &config.proxy, &format!("{at}.proxy"), self.own, variable)? else {
            return Ok(None);
        };
        let needs_tls = proxy.uri.scheme() == Some(&Scheme::HTTPS);
        // We show our certificate to the upstream, not to a proxy on the way.
        let anonymous = config::Upstream { client_certificate: None, client_key: None, ..config.clone() };
        let tls = tls(&anonymous, at, needs_tls, &self.system)?;
        Ok(Some(Dialer::through(proxy, tls, config.http2 == Http2::Always)))
    }
}

/// An HTTP endpoint. Cheap to clone; clones share the pool. `B` is the body that requests carry.
pub struct HttpUpstream<B: Body + 'static> {
    transport: Transport<B>,
    url: Arc<str>,
    scheme: Scheme,
    authority: Authority,
    host: HeaderValue,
    /// For the proxy on the way, where it reads requests.
    credentials: Option<HeaderValue>,
    /// Put before the client's path; without a slash at its end.
    prefix: Arc<str>,
    response_timeout: Duration,
    embedded: bool,
}

/// How often the other side of an HTTP/2 connection in use is asked whether it is there, and how long it may take.
const HTTP2_PING: Duration = Duration::from_secs(20);
const HTTP2_PONG: Duration = Duration::from_secs(20);

/// How requests get there.
enum Transport<B: Body + 'static> {
    /// HTTP/1.1 without a proxy that reads requests.
    Direct(Direct<B>),
    /// Whatever else is agreed on.
    Any(Box<Clients<B>>),
}

struct Clients<B: Body + 'static> {
    pool: Client<Connector, B>,
    /// For requests that ask to change the protocol: that takes HTTP/1.1 and the whole connection.
    switching: Client<Connector, B>,
}

impl<B: Body + 'static> Clone for Transport<B> {
    fn clone(&self) -> Self {
        match self {
            Self::Direct(direct) => Self::Direct(direct.clone()),
            Self::Any(clients) => {
                let Clients { pool, switching } = &**clients;
                Self::Any(Box::new(Clients { pool: pool.clone(), switching: switching.clone() }))
            }
        }
    }
}

// Not derived: that would ask the body to be cloneable, too.
impl<B: Body + 'static> Clone for HttpUpstream<B> {
    fn clone(&self) -> Self {
        Self {
            transport: self.transport.clone(),
            url: self.url.clone(),
            scheme: self.scheme.clone(),
            authority: self.authority.clone(),
            host: self.host.clone(),
            credentials: self.credentials.clone(),
            prefix: self.prefix.clone(),
            response_timeout: self.response_timeout,
            embedded: self.embedded,
        }
    }
}

impl<B> HttpUpstream<B>
where
    B: Body + Send + Unpin + 'static,
    B::Data: Send,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    /// A pool for the configured endpoint; connects to nothing yet. `at` is the YAML path of `config`.
    ///
    /// # Errors
    /// When certificates cannot be read, or the proxy on the way cannot be used.
    pub fn build(config: &config::Upstream, at: &str, setup: &Setup) -> Result<Self, SetupError> {
        let uri: Uri = config.url.parse().expect("checked with the configuration");
        let scheme = uri.scheme().cloned().expect("checked with the configuration");
        let authority = uri.authority().cloned().expect("checked with the configuration");

        let proxied = setup.proxied(&uri, config, at)?;
        let direct = proxied.is_none()
            && match config.http2 {
                Http2::Auto => scheme == Scheme::HTTP,
                Http2::Always => false,
                Http2::Never => true,
            };
        let dialer = proxied.unwrap_or_else(Dialer::direct);
        let credentials = dialer.credentials(&scheme);
        let tls = tls(config, at, scheme == Scheme::HTTPS, &setup.system)?;
        let https =
            || hyper_rustls::HttpsConnectorBuilder::new().with_tls_config(tls.clone()).https_or_http();
        let patience = config.connect_timeout.0;
        let http1 = Connector { https: https().enable_http1().wrap_connector(dialer.clone()), patience };
        let https = match config.http2 {
            Http2::Auto => https().enable_all_versions().wrap_connector(dialer),
            Http2::Always => https().enable_http2().wrap_connector(dialer),
            Http2::Never => https().enable_http1().wrap_connector(dialer),
        };
        let connector = Connector { https, patience };
        let transport = if direct {
            Transport::Direct(Direct::new(connector, uri.clone(), config.idle()))
        } else {
            let pool = Client::builder(TokioExecutor::new())
                .pool_idle_timeout(config.idle())
                .pool_timer(TokioTimer::new())
                .timer(TokioTimer::new())
                .http1_preserve_header_case(true)
                .http2_only(config.http2 == Http2::Always)
                .http2_adaptive_window(true)
                // All requests share a connection: one that the network lost must not take them all with it.
                .http2_keep_alive_interval(HTTP2_PING)
                .http2_keep_alive_timeout(HTTP2_PONG)
                // Only where nothing of the request was written yet.
                .retry_canceled_requests(true)
                .set_host(false)
                .build(connector);
            let switching = Client::builder(TokioExecutor::new())
                .pool_max_idle_per_host(0)
                .timer(TokioTimer::new())
                .http1_preserve_header_case(true)
                .set_host(false)
                .build(http1);
            Transport::Any(Box::new(Clients { pool, switching }))
        };
        let host = HeaderValue::from_str(authority.as_str()).expect("an authority is a valid header value");
        Ok(Self {
            transport,
            url: config.url.trim_end_matches('/').into(),
            scheme,
            authority,
            host,
            credentials,
            prefix: uri.path().trim_end_matches('/').into(),
            response_timeout: config.response_timeout.0,
            embedded: config.embedded,
        })
    }

    /// The base URL, as it is recorded.
    #[must_use]
    pub fn url(&self) -> &Arc<str> {
        &self.url
    }

    /// Whether Remora itself answers there, and headers addressed to it are for it.
    #[must_use]
    pub fn is_embedded(&self) -> bool {
        self.embedded
    }

    /// Sends a request and waits for the head of its response. The URI needs path and query only; `Host` is replaced
    /// in its place; everything else goes as it is. With an `Upgrade` it goes over an HTTP/1.1 connection of its own.
    ///
    /// # Cancel safety
    /// Dropping the future closes the connection.
    ///
    /// # Errors
    /// When no response comes.
    pub async fn send(&self, request: Request<B>) -> Result<Response<UpstreamBody<B>>, UpstreamError> {
        match tokio::time::timeout(self.response_timeout, self.exchange(request)).await {
            Ok(done) => done,
            Err(_) => Err(UpstreamError::Timeout { url: self.url.to_string(), after: self.response_timeout }),
        }
    }

    async fn exchange(&self, mut request: Request<B>) -> Result<Response<UpstreamBody<B>>, UpstreamError> {
        let url = || self.url.to_string();
        let target = self
            .target(request.uri())
            .map_err(|e| UpstreamError::Request { url: url(), source: e.into() })?;
        // The pool chooses the protocol; a version of 2 would insist on it.
        *request.version_mut() = Version::HTTP_11;
        request.headers_mut().insert(header::HOST, self.host.clone());
        if let Some(credentials) = &self.credentials {
            request.headers_mut().insert(header::PROXY_AUTHORIZATION, credentials.clone());
        }
        match &self.transport {
            Transport::Direct(direct) => {
                *request.uri_mut() = target.into();
                match direct.send(request).await {
                    Ok(response) => Ok(response.map(UpstreamBody::Direct)),
                    Err(Failure::Connect(source)) => Err(UpstreamError::Connect { url: url(), source }),
                    Err(Failure::Broken(error)) => {
                        Err(UpstreamError::Broken { url: url(), source: error.into() })
                    }
                }
            }
            Transport::Any(clients) => {
                let switches = request.headers().contains_key(header::UPGRADE);
                let client = if switches { &clients.switching } else { &clients.pool };
                let mut parts = Parts::default();
                parts.scheme = Some(self.scheme.clone());
                parts.authority = Some(self.authority.clone());
                parts.path_and_query = Some(target);
                *request.uri_mut() = Uri::from_parts(parts)
                    .map_err(|e| UpstreamError::Request { url: url(), source: e.into() })?;
                match client.request(request).await {
                    Ok(response) => Ok(response.map(UpstreamBody::Any)),
                    Err(error) if error.is_connect() => {
                        Err(UpstreamError::Connect { url: url(), source: error.into() })
                    }
                    Err(error) => Err(UpstreamError::Broken { url: url(), source: error.into() }),
                }
            }
        }
    }

    /// The client's path and query below our prefix.
    fn target(&self, uri: &Uri) -> Result<PathAndQuery, http::uri::InvalidUri> {
        match uri.path_and_query() {
            Some(target) if self.prefix.is_empty() => Ok(target.clone()),
            target => format!("{}{}", self.prefix, target.map_or("/", PathAndQuery::as_str)).try_into(),
        }
    }
}
