//! Apps that reach the proxy over TLS.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper_util::rt::{TokioExecutor, TokioIo};
use remora::app::{App, AppError};
use remora::config::{Config, Span, Tls};
use remora::proxy::TlsError;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::harness::{Authority, PATIENCE, Sidecar, Upstream, plain};

/// The files of one server.
struct Files {
    folder: tempfile::TempDir,
    authority: Authority,
}

impl Files {
    fn new() -> Self {
        let files =
            Self { folder: tempfile::tempdir().expect("a temporary directory"), authority: Authority::new() };
        files.renew();
        files.authority.write(&files.path("ca.pem"));
        files
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn write(&self, name: &str, text: &str) {
        // As tools do it: written beside, then moved, so that nobody reads a half.
        std::fs::write(self.path("new"), text).expect("the file is written");
        std::fs::rename(self.path("new"), self.path(name)).expect("the file is moved");
    }

    fn renew(&self) {
        let (certificate, key) = self.authority.issue();
        self.write("certificate.pem", &certificate);
        self.write("key.pem", &key);
    }

    fn config(&self) -> Tls {
        Tls { certificate: self.path("certificate.pem"), key: self.path("key.pem"), client_ca: None }
    }

    async fn sidecar(&self, upstream: &Upstream, change: impl FnOnce(&mut Config)) -> Sidecar {
        Sidecar::configured(&upstream.url(), |c| {
            c.tls = Some(self.config());
            change(c);
        })
        .await
    }
}

fn connector(files: &Files, protocols: &[&[u8]], identity: Option<(String, String)>) -> TlsConnector {
    let mut roots = rustls::RootCertStore::empty();
    let ca = CertificateDer::from_pem_slice(files.authority.pem().as_bytes()).expect("PEM");
    roots.add(ca).expect("a certificate");
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("the provider has them")
        .with_root_certificates(roots);
    let mut config = match identity {
        None => builder.with_no_client_auth(),
        Some((certificate, key)) => {
            let certificate = CertificateDer::from_pem_slice(certificate.as_bytes()).expect("PEM");
            let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).expect("PEM");
            builder.with_client_auth_cert(vec![certificate], key).expect("the key fits")
        }
    };
    config.alpn_protocols = protocols.iter().map(|p| p.to_vec()).collect();
    TlsConnector::from(Arc::new(config))
}

async fn connect(sidecar: &Sidecar, connector: &TlsConnector) -> std::io::Result<TlsStream<TcpStream>> {
    let address = sidecar.proxy.strip_prefix("https://").expect("the URL says that it is TLS");
    let stream = TcpStream::connect(address).await.expect("the proxy listens");
    connector.connect(ServerName::try_from("127.0.0.1").expect("a name"), stream).await
}

/// Sends a request and reads its short answer.
async fn ask(stream: &mut TlsStream<TcpStream>) -> std::io::Result<String> {
    stream.write_all(b"POST /v1/x HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\n{}").await?;
    let mut all = Vec::new();
    while !all.ends_with(b"answer") {
        if stream.read_buf(&mut all).await? == 0 {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
    }
    Ok(String::from_utf8_lossy(&all).into_owned())
}

fn shown(stream: &TlsStream<TcpStream>) -> Vec<u8> {
    stream.get_ref().1.peer_certificates().expect("a server shows one")[0].to_vec()
}

async fn upstream() -> Upstream {
    Upstream::always(plain("200 OK", "", b"answer")).await
}

#[tokio::test]
async fn apps_are_served_over_tls_in_the_version_they_agree_on() {
    let (files, upstream) = (Files::new(), upstream().await);
    let sidecar = files.sidecar(&upstream, |_| {}).await;

    let mut old = connect(&sidecar, &connector(&files, &[b"http/1.1"], None)).await.expect("a handshake");
    assert_eq!(old.get_ref().1.alpn_protocol(), Some(&b"http/1.1"[..]));
    assert!(ask(&mut old).await.expect("an answer").starts_with("HTTP/1.1 200 OK\r\n"));

    let new = connect(&sidecar, &connector(&files, &[b"h2", b"http/1.1"], None)).await.expect("a handshake");
    assert_eq!(new.get_ref().1.alpn_protocol(), Some(&b"h2"[..]));
    let (mut client, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(new)).await.expect("h2");
    tokio::spawn(connection);
    let request: http::Request<Full<Bytes>> = http::Request::post(format!("{}/v1/x", sidecar.proxy))
        .body(Full::from(Bytes::from_static(b"{}")))
        .expect("a request");
    let answer = client.send_request(request).await.expect("an answer");
    assert_eq!(answer.into_body().collect().await.expect("a body").to_bytes(), "answer");
    assert_eq!(upstream.requests().len(), 2);
}

#[tokio::test]
async fn a_new_certificate_is_for_new_connections_and_running_ones_go_on() {
    let (files, upstream) = (Files::new(), upstream().await);
    let sidecar = files.sidecar(&upstream, |_| {}).await;
    let connector = connector(&files, &[], None);
    let mut running = connect(&sidecar, &connector).await.expect("a handshake");
    ask(&mut running).await.expect("an answer");
    let before = shown(&running);

    files.renew();
    let deadline = tokio::time::Instant::now() + PATIENCE;
    loop {
        let mut new = connect(&sidecar, &connector).await.expect("no connection is refused meanwhile");
        ask(&mut new).await.expect("an answer");
        if shown(&new) != before {
            break;
        }
        assert!(tokio::time::Instant::now() < deadline, "the new certificate was never shown");
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
    ask(&mut running).await.expect("the running connection is still served");
    assert!(sidecar.metric("remora_certificate_reloads_total{result=\"loaded\"}").await >= 1.0);
}

#[tokio::test]
async fn a_key_that_does_not_fit_keeps_the_old_certificate() {
    let (files, upstream) = (Files::new(), upstream().await);
    let sidecar = files.sidecar(&upstream, |_| {}).await;
    let connector = connector(&files, &[], None);
    let before = shown(&connect(&sidecar, &connector).await.expect("a handshake"));

    files.write("key.pem", &files.authority.issue().1);
    let deadline = tokio::time::Instant::now() + PATIENCE;
    while sidecar.metric("remora_certificate_reloads_total{result=\"refused\"}").await < 1.0 {
        assert!(tokio::time::Instant::now() < deadline, "the change was never noticed");
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
    let mut new = connect(&sidecar, &connector).await.expect("a handshake");
    assert_eq!(shown(&new), before);
    ask(&mut new).await.expect("an answer");
}

#[tokio::test]
async fn clients_without_a_certificate_are_turned_away_where_one_is_demanded() {
    let (files, upstream) = (Files::new(), upstream().await);
    let ca = files.path("ca.pem");
    let sidecar = files.sidecar(&upstream, |c| c.tls.as_mut().expect("set").client_ca = Some(ca)).await;

    let stranger = Authority::new();
    for identity in [None, Some(stranger.issue())] {
        // In TLS 1.3 the client is done before the server has looked: it hears of it when it reads.
        if let Ok(mut stream) = connect(&sidecar, &connector(&files, &[], identity)).await {
            ask(&mut stream).await.expect_err("it is no client of ours");
        }
    }
    assert!(upstream.requests().is_empty());
    let known = connector(&files, &[], Some(files.authority.issue()));
    let mut stream = connect(&sidecar, &known).await.expect("a handshake");
    ask(&mut stream).await.expect("an answer");
    assert!(sidecar.metric("remora_connections_cut_total{reason=\"tls_handshake\"}").await >= 2.0);
}

#[tokio::test]
async fn a_client_that_stalls_its_handshake_is_let_go() {
    let (files, upstream) = (Files::new(), upstream().await);
    let sidecar = files.sidecar(&upstream, |c| c.limits.header_timeout = Span::millis(100)).await;
    let address = sidecar.proxy.strip_prefix("https://").expect("the URL says that it is TLS");
    let mut stream = TcpStream::connect(address).await.expect("the proxy listens");
    stream.write_all(&[0x16, 3, 1]).await.expect("it reads");
    let mut rest = Vec::new();
    tokio::time::timeout(PATIENCE, stream.read_to_end(&mut rest)).await.expect("it closes").ok();
    assert!(sidecar.metric("remora_connections_cut_total{reason=\"tls_handshake\"}").await >= 1.0);
}

#[tokio::test]
async fn a_certificate_that_cannot_be_used_is_named_at_the_start() {
    let files = Files::new();
    let start = |tls: Tls| async move {
        let data = tempfile::tempdir().expect("a temporary directory");
        let config = Config {
            listen: "127.0.0.1:0".into(),
            admin: "127.0.0.1:0".into(),
            data: Some(data.path().to_owned()),
            tls: Some(tls),
            ..Config::default()
        };
        match App::start(&config, None).await {
            Ok(_) => panic!("it started"),
            Err(AppError::Tls(error)) => error,
            Err(other) => panic!("{other}"),
        }
    };
    let missing = Tls { certificate: Path::new("/nowhere.pem").into(), ..files.config() };
    let error = start(missing).await;
    assert!(error.to_string().starts_with("tls.certificate: /nowhere.pem: "), "{error}");
    let no_key = Tls { key: files.path("certificate.pem"), ..files.config() };
    let error = start(no_key).await;
    assert!(error.to_string().starts_with("tls.key: "), "{error}");
    files.write("other.pem", &Authority::new().issue().1);
    let other = Tls { key: files.path("other.pem"), ..files.config() };
    assert!(matches!(start(other).await, TlsError::Pair { .. }));
}
