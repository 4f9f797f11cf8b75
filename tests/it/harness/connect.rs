use std::net::SocketAddr;
use std::path::Path;
use std::sync::{Arc, Mutex};

use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, ServerName};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::client::TlsStream;
use tokio_rustls::{TlsAcceptor, TlsConnector};

use super::Authority;

/// A proxy that tunnels all it is asked for to one place, or gives one answer to all.
pub struct ConnectProxy {
    pub address: SocketAddr,
    heads: Arc<Mutex<Vec<String>>>,
}

impl ConnectProxy {
    /// Leads every tunnel to this port of 127.0.0.1, whatever host was asked for.
    pub async fn to(port: u16) -> Self {
        Self::start(Ok(port), None).await
    }

    /// As [`to`](Self::to), reached over TLS with a certificate of `authority`.
    pub async fn over_tls(port: u16, authority: &Authority) -> Self {
        Self::start(Ok(port), Some(authority.server(&[b"http/1.1"], None))).await
    }

    /// Answers each request with this, and closes.
    pub async fn refusing(answer: &'static str) -> Self {
        Self::start(Err(answer), None).await
    }

    async fn start(way: Result<u16, &'static str>, tls: Option<TlsAcceptor>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let proxy = Self { address: listener.local_addr().expect("bound"), heads: Arc::default() };
        let heads = proxy.heads.clone();
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let (heads, tls) = (heads.clone(), tls.clone());
                tokio::spawn(async move {
                    match tls {
                        None => serve(client, way, &heads).await,
                        Some(tls) => {
                            if let Ok(client) = tls.accept(client).await {
                                serve(client, way, &heads).await;
                            }
                        }
                    }
                });
            }
        });
        proxy
    }

    /// The heads of the requests that came.
    pub fn heads(&self) -> Vec<String> {
        self.heads.lock().expect("no test panics here").clone()
    }
}

async fn serve(
    mut client: impl AsyncRead + AsyncWrite + Unpin,
    way: Result<u16, &str>,
    heads: &Mutex<Vec<String>>,
) {
    let head = read_head(&mut client).await;
    heads.lock().expect("no test panics here").push(head);
    match way {
        Ok(port) => {
            let mut server = TcpStream::connect(("127.0.0.1", port)).await.expect("it listens");
            let answer = b"HTTP/1.1 200 Connection established\r\nVia: test\r\n\r\n";
            client.write_all(answer).await.expect("sent");
            drop(tokio::io::copy_bidirectional(&mut client, &mut server).await);
        }
        Err(answer) => client.write_all(answer.as_bytes()).await.expect("sent"),
    }
}

/// Reads up to the empty line, and not a byte more.
async fn read_head(stream: &mut (impl AsyncRead + Unpin)) -> String {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        match stream.read_u8().await {
            Ok(byte) => head.push(byte),
            Err(_) => break,
        }
    }
    String::from_utf8_lossy(&head).into_owned()
}

/// Asks a proxy for a tunnel: the head of its answer, and the connection.
pub async fn tunnel(proxy: &str, target: &str) -> (String, TcpStream) {
    let address = proxy.strip_prefix("http://").expect("an http URL");
    let mut stream = TcpStream::connect(address).await.expect("the proxy listens");
    let request =
        format!("CONNECT {target} HTTP/1.1\r\nHost: {target}\r\nProxy-Authorization: Basic c2VjcmV0\r\n\r\n");
    stream.write_all(request.as_bytes()).await.expect("sent");
    let head = read_head(&mut stream).await;
    (head, stream)
}

/// Begins TLS as a client that trusts the authorities of one file only.
pub async fn tls_over<S: AsyncRead + AsyncWrite + Unpin>(
    stream: S,
    trusted: &Path,
    host: &str,
    protocols: &[&[u8]],
) -> std::io::Result<TlsStream<S>> {
    let mut roots = rustls::RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(trusted).expect("a certificate")).expect("it can be trusted");
    let mut config =
        rustls::ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_safe_default_protocol_versions()
            .expect("the provider has them")
            .with_root_certificates(roots)
            .with_no_client_auth();
    config.alpn_protocols = protocols.iter().map(|p| p.to_vec()).collect();
    let name = ServerName::try_from(host.to_owned()).expect("a name");
    TlsConnector::from(Arc::new(config)).connect(name, stream).await
}
