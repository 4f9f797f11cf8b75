//! Opens connections: directly, or through a proxy.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use http::{HeaderValue, Uri, uri::Scheme};
use hyper::rt::{Read, ReadBufCursor, Write};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder, MaybeHttpsStream};
use hyper_util::client::legacy::connect::{Connected, Connection, HttpConnector};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tower_service::Service;

use super::error::{BoxError, ProxyError, root};
use super::proxy::Proxy;

type Dialing = Pin<Box<dyn Future<Output = Result<Dialed, BoxError>> + Send>>;

/// Connects to where a URI says, through a proxy if it has one. Cheap to clone.
#[derive(Clone)]
pub struct Dialer {
    tcp: HttpConnector,
    via: Option<Arc<Via>>,
}

struct Via {
    proxy: Proxy,
    /// As errors name it.
    name: String,
    connector: HttpsConnector<HttpConnector>,
    /// Whether a tunnel is asked for also where there is no TLS.
    always_tunnel: bool,
}

/// A proxy's answer to CONNECT may be this long, bytes.
const MAX_ANSWER: usize = 16 << 10;

impl Dialer {
    /// `tls` is for connections to the proxy itself, where its URL says https.
    pub(super) fn through(proxy: Proxy, tls: rustls::ClientConfig, always_tunnel: bool) -> Self {
        let name = proxy.uri.authority().map(ToString::to_string).unwrap_or_default();
        let connector = HttpsConnectorBuilder::new()
            .with_tls_config(tls)
            .https_or_http()
            .enable_http1()
            .wrap_connector(tcp());
        Self { tcp: tcp(), via: Some(Arc::new(Via { proxy, name, connector, always_tunnel })) }
    }

    /// Connects without a proxy.
    #[must_use]
    pub(super) fn direct() -> Self {
        Self { tcp: tcp(), via: None }
    }

    /// What requests on these connections must carry in `Proxy-Authorization`: those to a proxy that reads them.
    pub(super) fn credentials(&self, scheme: &Scheme) -> Option<HeaderValue> {
        let via = self.via.as_ref().filter(|via| !via.tunnels(scheme))?;
        via.proxy.credentials.clone()
    }
}

fn tcp() -> HttpConnector {
    let mut tcp = HttpConnector::new();
    tcp.enforce_http(false);
    tcp.set_nodelay(true);
    tcp.set_keepalive(Some(Duration::from_secs(60)));
    tcp
}

impl Via {
    fn tunnels(&self, scheme: &Scheme) -> bool {
        self.always_tunnel || *scheme == Scheme::HTTPS
    }

    async fn dial(&self, to: &Uri) -> Result<Dialed, BoxError> {
        let proxy = || self.name.clone();
        let stream =
            self.connector.clone().call(self.proxy.uri.clone()).await.map_err(|e| {
                ProxyError::Unreachable { proxy: proxy(), reason: root(e.as_ref()).to_string() }
            })?;
        let scheme = to.scheme().unwrap_or(&Scheme::HTTPS);
        if !self.tunnels(scheme) {
            return Ok(Dialed { stream, absolute: true });
        }
        let port = to.port_u16().unwrap_or(if *scheme == Scheme::HTTPS { 443 } else { 80 });
        let target = format!("{}:{port}", to.host().unwrap_or_default());
        let mut stream = TokioIo::new(stream);
        let answer = self
            .connect(&mut stream, &target)
            .await
            .map_err(|e| ProxyError::Broken { proxy: proxy(), reason: e.to_string() })?;
        let line = answer.split(|b| *b == b'\r').next().unwrap_or_default();
        let line = String::from_utf8_lossy(line);
        match line.strip_prefix("HTTP/1.").and_then(|rest| rest.get(2..)) {
            Some(status) if status.starts_with('2') => {
                Ok(Dialed { stream: stream.into_inner(), absolute: false })
            }
            Some(status) => {
                Err(ProxyError::Refused { proxy: proxy(), answer: status.trim().to_owned() }.into())
            }
            None => Err(ProxyError::NoHttp { proxy: proxy() }.into()),
        }
    }

    /// Asks for a tunnel ([RFC 9110 §9.3.6](https://www.rfc-editor.org/rfc/rfc9110#section-9.3.6)) and gives the
    /// answer's head.
    async fn connect(
        &self,
        stream: &mut TokioIo<MaybeHttpsStream<TokioIo<TcpStream>>>,
        target: &str,
    ) -> std::io::Result<Vec<u8>> {
        let mut request = format!("CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n").into_bytes();
        if let Some(credentials) = &self.proxy.credentials {
            request.extend_from_slice(b"Proxy-Authorization: ");
            request.extend_from_slice(credentials.as_bytes());
            request.extend_from_slice(b"\r\n");
        }
        request.extend_from_slice(b"\r\n");
        stream.write_all(&request).await?;
        stream.flush().await?;
        // Byte by byte: what follows the head is the upstream's.
        let mut answer = Vec::with_capacity(256);
        while !answer.ends_with(b"\r\n\r\n") {
            if answer.len() == MAX_ANSWER {
                return Err(std::io::Error::other("the head of its answer has no end"));
            }
            answer.push(stream.read_u8().await?);
        }
        Ok(answer)
    }
}

impl Service<Uri> for Dialer {
    type Response = Dialed;
    type Error = BoxError;
    type Future = Dialing;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.tcp.poll_ready(cx).map_err(Into::into)
    }

    fn call(&mut self, to: Uri) -> Dialing {
        match self.via.clone() {
            Some(via) => Box::pin(async move { via.dial(&to).await }),
            None => {
                let connecting = self.tcp.call(to);
                Box::pin(async move {
                    Ok(Dialed { stream: MaybeHttpsStream::Http(connecting.await?), absolute: false })
                })
            }
        }
    }
}

/// A connection to an upstream, or to a proxy that is told whole URLs.
pub struct Dialed {
    stream: MaybeHttpsStream<TokioIo<TcpStream>>,
    absolute: bool,
}

impl Connection for Dialed {
    fn connected(&self) -> Connected {
        let connected = self.stream.connected();
        if self.absolute { connected.proxy(true) } else { connected }
    }
}

impl Read for Dialed {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: ReadBufCursor<'_>,
    ) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl Write for Dialed {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<std::io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[std::io::IoSlice<'_>],
    ) -> Poll<std::io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, bufs)
    }
}
