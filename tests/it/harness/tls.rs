use std::convert::Infallible;
use std::net::SocketAddr;
use std::path::Path;
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response, Version};
use http_body_util::BodyExt;
use hyper::body::{Body, Frame, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use rustls::server::WebPkiClientVerifier;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio_rustls::TlsAcceptor;

use super::Gate;

/// A certificate authority of the test's own.
pub struct Authority {
    issuer: rcgen::Issuer<'static, rcgen::KeyPair>,
    pem: String,
}

impl Authority {
    pub fn new() -> Self {
        let key = rcgen::KeyPair::generate().expect("a key");
        let mut params = rcgen::CertificateParams::new(Vec::new()).expect("no names");
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        let pem = params.self_signed(&key).expect("a certificate").pem();
        Self { issuer: rcgen::Issuer::new(params, key), pem }
    }

    /// The authority's certificate, as `upstream.ca` wants it.
    pub fn write(&self, path: &Path) {
        std::fs::write(path, &self.pem).expect("the certificate is written");
    }

    /// Writes a certificate for a client, and its key.
    pub fn write_client(&self, certificate: &Path, key: &Path) {
        let pair = rcgen::KeyPair::generate().expect("a key");
        let params = rcgen::CertificateParams::new(vec!["client".to_owned()]).expect("a name");
        let made = params.signed_by(&pair, &self.issuer).expect("a certificate");
        std::fs::write(certificate, made.pem()).expect("the certificate is written");
        std::fs::write(key, pair.serialize_pem()).expect("the key is written");
    }

    /// A server for [`NAMES`] that offers these protocols; `clients`: who issues the certificates that it asks for.
    pub fn server(&self, protocols: &[&[u8]], clients: Option<&Self>) -> TlsAcceptor {
        let key = rcgen::KeyPair::generate().expect("a key");
        let params = rcgen::CertificateParams::new(NAMES.map(str::to_owned)).expect("names");
        let certificate = params.signed_by(&key, &self.issuer).expect("a certificate");
        let key = PrivateKeyDer::try_from(key.serialize_der()).expect("just made");
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = rustls::ServerConfig::builder_with_provider(provider.clone())
            .with_safe_default_protocol_versions()
            .expect("the provider has them");
        let builder = match clients {
            None => builder.with_no_client_auth(),
            Some(clients) => {
                let mut roots = rustls::RootCertStore::empty();
                roots
                    .add(CertificateDer::from_pem_slice(clients.pem.as_bytes()).expect("a certificate"))
                    .expect("fine");
                let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider);
                builder.with_client_cert_verifier(verifier.build().expect("it has a root"))
            }
        };
        let mut config =
            builder.with_single_cert(vec![certificate.der().clone()], key).expect("the key fits");
        config.alpn_protocols = protocols.iter().map(|p| p.to_vec()).collect();
        TlsAcceptor::from(Arc::new(config))
    }
}

/// Whom the servers' certificates are for.
pub const NAMES: [&str; 3] = ["127.0.0.1", "localhost", "llm.example"];

/// How a [`Peer`] is reached.
#[derive(Clone, Copy)]
pub enum Offer<'a> {
    /// Without TLS: HTTP/1.1, and HTTP/2 with prior knowledge.
    Clear,
    Tls(&'a Authority),
    /// TLS without HTTP/2.
    TlsHttp1(&'a Authority),
    /// TLS for clients with a certificate of the second authority.
    Mutual(&'a Authority, &'a Authority),
}

/// An upstream that speaks what the raw one does not: TLS, HTTP/2, trailers.
pub struct Peer {
    url: String,
    seen: Arc<Mutex<Vec<Seen>>>,
    cancelled: Arc<AtomicUsize>,
    asked_for: Arc<Mutex<Vec<Option<String>>>>,
}

/// A request as it arrived.
#[derive(Clone, Debug)]
pub struct Seen {
    pub version: Version,
    pub path: String,
    pub body: Bytes,
}

/// A part of an answer.
#[derive(Clone)]
pub enum Part {
    Data(&'static [u8]),
    /// Waits until the test opens the gate.
    Wait(Gate),
    Trailer(&'static str, &'static str),
}

type Script = dyn Fn(&Seen) -> Vec<Part> + Send + Sync;

impl Peer {
    pub async fn start(
        offer: Offer<'_>,
        script: impl Fn(&Seen) -> Vec<Part> + Send + Sync + 'static,
    ) -> Self {
        let tls = match offer {
            Offer::Clear => None,
            Offer::Tls(authority) => Some(authority.server(&[b"h2", b"http/1.1"], None)),
            Offer::TlsHttp1(authority) => Some(authority.server(&[b"http/1.1"], None)),
            Offer::Mutual(authority, clients) => Some(authority.server(&[b"http/1.1"], Some(clients))),
        };
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address: SocketAddr = listener.local_addr().expect("a bound address");
        let scheme = if tls.is_some() { "https" } else { "http" };
        let peer = Self {
            url: format!("{scheme}://{address}"),
            seen: Arc::default(),
            cancelled: Arc::default(),
            asked_for: Arc::default(),
        };
        let asked_for = peer.asked_for.clone();
        let desk =
            Desk { script: Arc::new(script), seen: peer.seen.clone(), cancelled: peer.cancelled.clone() };
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (desk, tls, asked_for) = (desk.clone(), tls.clone(), asked_for.clone());
                tokio::spawn(async move {
                    match tls {
                        None => desk.serve(stream).await,
                        // A client that does not trust us ends here.
                        Some(tls) => {
                            if let Ok(stream) = tls.accept(stream).await {
                                let name = stream.get_ref().1.server_name().map(str::to_owned);
                                asked_for.lock().expect("no test panics here").push(name);
                                desk.serve(stream).await;
                            }
                        }
                    }
                });
            }
        });
        peer
    }

    pub fn url(&self) -> &str {
        &self.url
    }

    /// Its port on 127.0.0.1.
    pub fn port(&self) -> u16 {
        self.url.rsplit(':').next().and_then(|port| port.parse().ok()).expect("a port ends the URL")
    }

    /// The names that clients asked for in TLS, a connection each.
    pub fn asked_for(&self) -> Vec<Option<String>> {
        self.asked_for.lock().expect("no test panics here").clone()
    }

    pub fn seen(&self) -> Vec<Seen> {
        self.seen.lock().expect("no test panics here").clone()
    }

    /// Answers that nobody waited for to the end.
    pub fn cancelled(&self) -> usize {
        self.cancelled.load(Ordering::SeqCst)
    }
}

#[derive(Clone)]
struct Desk {
    script: Arc<Script>,
    seen: Arc<Mutex<Vec<Seen>>>,
    cancelled: Arc<AtomicUsize>,
}

impl Desk {
    async fn serve(&self, stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static) {
        let desk = self.clone();
        let service = service_fn(move |request| {
            let desk = desk.clone();
            async move { Ok::<_, Infallible>(desk.answer(request).await) }
        });
        // How a connection ends is the tests' business, not its server's.
        drop(auto::Builder::new(TokioExecutor::new()).serve_connection(TokioIo::new(stream), service).await);
    }

    async fn answer(&self, request: Request<Incoming>) -> Response<Parts> {
        let (parts, body) = request.into_parts();
        let body = body.collect().await.map(|b| b.to_bytes()).unwrap_or_default();
        let seen = Seen { version: parts.version, path: parts.uri.path().to_owned(), body };
        let script = (self.script)(&seen);
        self.seen.lock().expect("no test panics here").push(seen);
        let (sender, receiver) = mpsc::channel(1);
        let cancelled = self.cancelled.clone();
        tokio::spawn(async move {
            if play(script, &sender).await.is_none() {
                cancelled.fetch_add(1, Ordering::SeqCst);
            }
        });
        Response::new(Parts(receiver))
    }
}

/// None when the answer was dropped before its end.
async fn play(script: Vec<Part>, sender: &mpsc::Sender<Frame<Bytes>>) -> Option<()> {
    for part in script {
        let frame = match part {
            Part::Data(data) => Frame::data(Bytes::from_static(data)),
            Part::Trailer(name, value) => {
                let pair = (HeaderName::from_static(name), HeaderValue::from_static(value));
                Frame::trailers(HeaderMap::from_iter([pair]))
            }
            Part::Wait(gate) => {
                tokio::select! {
                    () = gate.opened() => continue,
                    () = sender.closed() => return None,
                }
            }
        };
        sender.send(frame).await.ok()?;
    }
    Some(())
}

/// A body whose frames come from a script.
struct Parts(mpsc::Receiver<Frame<Bytes>>);

impl Body for Parts {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        self.0.poll_recv(cx).map(|frame| frame.map(Ok))
    }
}
