//! Forward-proxy mode: for apps whose base URL cannot be changed, but that honour `HTTPS_PROXY`.
//!
//! In: `CONNECT host:port`, and requests whose target is a whole URL. Out: for listed hosts, their requests, decrypted
//! with a certificate of the local authority, for the forwarder; for others, a blind tunnel.
//!
//! Always true: a blind tunnel is never looked into; it leads neither to ports that are not allowed, nor to this machine
//! unless that is allowed, nor ever to Remora itself; `Proxy-Authorization` goes nowhere.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::uri::{Authority as HostPort, Scheme};
use http::{HeaderValue, Method, Request, Response, StatusCode, Version, header};
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use tokio_rustls::TlsAcceptor;
use tokio_util::task::TaskTracker;

use super::authority::{Authority, AuthorityError};
use super::blind::{Gate, Refusal, pipe};
use super::line::{Line, Tunnels};
use super::respond::{self, ProxyBody};
use super::route::{Otherwise, Upstream};
use super::serve::serve;
use super::turn::Turn;
use super::wire::Wire;
use super::{ClientBody, Forwarder, Front};
use crate::config::{self, Config};
use crate::tasks::Tasks;
use crate::telemetry::Metrics;
use crate::upstream::{HttpUpstream, Setup, SetupError};

/// Takes what comes to us as a forward proxy.
pub struct ForwardProxy {
    listed: Vec<Arc<Listed>>,
    authority: Authority,
    gate: Gate,
    front: Front,
    tasks: Tasks,
    /// Connections within connections, which the listener does not see.
    open: TaskTracker,
    metrics: Metrics,
}

/// A host whose traffic is recorded.
struct Listed {
    host: String,
    /// None: the usual one of the scheme.
    port: Option<u16>,
    https: Upstream,
    http: Upstream,
}

/// Forward-proxy mode cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum ForwardProxyError {
    #[error("forward_proxy: {0}")]
    Authority(#[from] AuthorityError),
    #[error(transparent)]
    Upstream(#[from] SetupError),
}

/// A client that was promised a tunnel begins with TLS within this time.
const HANDSHAKE_PATIENCE: Duration = Duration::from_secs(60);

/// What it shares with the rest of the process.
pub struct ForwardProxyDeps {
    pub front: Front,
    pub tasks: Tasks,
    /// Counts connections within connections, also of those forward proxies that a reload replaced.
    pub open: TaskTracker,
    pub metrics: Metrics,
}

impl ForwardProxy {
    /// What the configuration asks for; none where the mode is off. `own` are the ports that Remora listens on.
    ///
    /// # Errors
    /// When the local authority or an upstream cannot be set up.
    pub fn build(
        config: &Config,
        folder: &std::path::Path,
        own: &[u16],
        setup: Setup,
        deps: ForwardProxyDeps,
    ) -> Result<Option<Self>, ForwardProxyError> {
        let ForwardProxyDeps { front, tasks, open, metrics } = deps;
        let section = &config.forward_proxy;
        if !section.enabled {
            return Ok(None);
        }
        let mut listed = Vec::new();
        for (i, entry) in section.hosts.iter().enumerate() {
            let place: HostPort = entry.parse().expect("checked with the configuration");
            let upstream = |scheme: &str| {
                let url = format!("{scheme}://{place}");
                // Proxy and patience as for all; keys and authorities are the other upstream's affair.
                let config = config::Upstream {
                    url,
                    ca: None,
                    client_certificate: None,
                    client_key: None,
                    idle_timeout: None,
                    http2: config::Http2::Auto,
                    embedded: false,
                    ..config.upstream.clone()
                };
                HttpUpstream::build(&config, &format!("forward_proxy.hosts[{i}]"), &setup)
            };
            listed.push(Arc::new(Listed {
                host: place.host().to_owned(),
                port: place.port_u16(),
                https: upstream("https")?,
                http: upstream("http")?,
            }));
        }
        let authority = Authority::open(folder, &section.host_names())?;
        let gate = Gate::new(section, &config.upstream, own, setup);
        Ok(Some(Self { listed, authority, gate, front, tasks, open, metrics }))
    }

    /// The certificate that apps are to trust.
    #[must_use]
    pub fn certificate(&self) -> &std::path::Path {
        self.authority.certificate()
    }

    /// Waits until connections within connections have ended; call it when no new ones come.
    pub(super) async fn ended(&self) {
        self.open.close();
        self.open.wait().await;
    }

    /// Answers a request that takes us for a forward proxy.
    pub(super) async fn answer(
        &self,
        forwarder: &Arc<Forwarder>,
        mut request: Request<ClientBody>,
        line: &Line,
    ) -> Response<ProxyBody> {
        let Some(place) = request.uri().authority().cloned() else {
            return refuse(StatusCode::BAD_REQUEST, "the target names no host");
        };
        if request.method() != Method::CONNECT {
            let https = request.uri().scheme() == Some(&Scheme::HTTPS);
            let Some(listed) = self.listed(place.host(), place.port_u16(), if https { 443 } else { 80 })
            else {
                let message =
                    format!("{} is not among forward_proxy.hosts; set NO_PROXY for it", place.host());
                return refuse(StatusCode::FORBIDDEN, &message);
            };
            let upstream = if https { &listed.https } else { &listed.http };
            let otherwise = Otherwise { upstream, host: Some(&listed.host) };
            return forwarder.forward(request, line, otherwise).await;
        }
        let Some(port) = place.port_u16() else {
            return refuse(StatusCode::BAD_REQUEST, "CONNECT takes host:port");
        };
        let upgrade = hyper::upgrade::on(&mut request);
        match self.listed(place.host(), Some(port), 443) {
            Some(listed) => match self.authority.server(&listed.host) {
                Ok(tls) => self.stand_in(listed.clone(), tls.into(), upgrade, line),
                Err(error) => return refuse(StatusCode::INTERNAL_SERVER_ERROR, &error.to_string()),
            },
            None => match self.gate.open(place.host(), port).await {
                Ok(server) => {
                    self.metrics.tunnels.increment(1);
                    let (bytes, stopping) = (self.metrics.tunnel_bytes.clone(), self.tasks.stopping());
                    self.tasks.spawn_connection(self.open.track_future(async move {
                        if let Ok(client) = upgrade.await {
                            pipe(TokioIo::new(client), server, bytes, stopping).await;
                        }
                    }));
                }
                Err(Refusal::Forbidden(reason)) => return refuse(StatusCode::FORBIDDEN, &reason),
                Err(Refusal::Unreachable(reason)) => return refuse(StatusCode::BAD_GATEWAY, &reason),
            },
        }
        Response::new(ProxyBody::Own(None))
    }

    fn listed(&self, host: &str, port: Option<u16>, usual: u16) -> Option<&Arc<Listed>> {
        let port = port.unwrap_or(usual);
        self.listed
            .iter()
            .find(|listed| listed.host.eq_ignore_ascii_case(host) && listed.port.unwrap_or(usual) == port)
    }

    /// Serves what the client believes to send to a listed host.
    fn stand_in(&self, listed: Arc<Listed>, tls: TlsAcceptor, upgrade: OnUpgrade, outer: &Line) {
        let front = self.front.clone();
        let parting = Arc::new(outer.parting.within());
        let line = Line {
            number: outer.number,
            // Interim answers and half-closed clients are an affair of connections in clear.
            turn: Turn::default(),
            tunnels: Tunnels::new(self.tasks.clone(), self.open.clone()),
            current: outer.current.clone(),
            parting: parting.clone(),
        };
        self.tasks.spawn_connection(self.open.track_future(async move {
            let Ok(client) = upgrade.await else { return };
            let accepted = tokio::select! {
                accepted = tokio::time::timeout(HANDSHAKE_PATIENCE, tls.accept(TokioIo::new(client))) => accepted,
                () = parting.due() => return,
            };
            let stream = match accepted {
                Ok(Ok(stream)) => stream,
                Ok(Err(error)) => {
                    // Most likely it does not trust the authority yet, which should be easy to find out.
                    tracing::warn!(host = listed.host, %error, "an app refuses the local authority's certificate");
                    return;
                }
                Err(_) => return,
            };
            let answer = move |request: Request<ClientBody>| {
                let (forwarder, listed, line) = (line.current.load_full(), listed.clone(), line.clone());
                let version = request.version();
                async move {
                    // The connection may be older than the settings in force.
                    let now = forwarder
                        .forward_proxy()
                        .and_then(|proxy| proxy.listed(&listed.host, listed.port, 443));
                    let mut response = match now {
                        _ if request.method() == Method::CONNECT => {
                            refuse(StatusCode::METHOD_NOT_ALLOWED, "a tunnel within a tunnel leads nowhere")
                        }
                        Some(now) => {
                            let otherwise = Otherwise { upstream: &now.https, host: Some(&now.host) };
                            forwarder.forward(request, &line, otherwise).await
                        }
                        None => delisted(&listed.host, version),
                    };
                    line.parting.mark(version, &mut response);
                    response
                }
            };
            let (settings, wire) = (front.settings(), Wire::Inner(Box::new(stream)));
            let due = async { parting.due().await };
            // The outer connection has the place.
            serve(wire, front.metrics(), &settings, None, due, || parting.stirred(), answer).await;
        }));
    }
}

/// The host was listed when its connection began, and is no more: over a new one the client gets through to it.
fn delisted(host: &str, version: Version) -> Response<ProxyBody> {
    let message = format!("{host} is not among forward_proxy.hosts any more; connect anew");
    let mut response = refuse(StatusCode::MISDIRECTED_REQUEST, &message);
    // HTTP/2 knows no such header.
    if version < Version::HTTP_2 {
        response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    response
}

fn refuse(status: StatusCode, message: &str) -> Response<ProxyBody> {
    let kind = if status.is_server_error() { "upstream_error" } else { "invalid_request_error" };
    respond::error(status, kind, "connect", &format!("Remora: {message}"))
        .map(|bytes: Bytes| ProxyBody::Own(Some(bytes)))
}
