//! Apps that take Remora for their forward proxy.

use std::path::PathBuf;

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper_util::rt::{TokioExecutor, TokioIo};
use remora::config::{Config, Route};
use remora::model::Ended;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use crate::harness::{
    Authority, Connection, Gate, Offer, PATIENCE, Part, Peer, Sidecar, Upstream, plain, tls_over, tunnel,
};

/// A Remora in forward-proxy mode that stands in for `localhost` at the peer's port, and trusts its authority.
async fn standing_in(peer: &Peer, authority: &Authority) -> Sidecar {
    let folder = tempfile::tempdir().expect("a temporary directory");
    let ca = folder.path().join("authority.pem");
    authority.write(&ca);
    let place = format!("localhost:{}", peer.port());
    configured(move |c| {
        c.forward_proxy.hosts = vec![place.clone()];
        let mut route = Route { host: Some("LocalHost".into()), ..Route::default() };
        route.upstream.url = format!("https://{place}");
        route.upstream.ca = Some(ca);
        c.routes = vec![route];
    })
    .await
}

/// A Remora in forward-proxy mode, whose default upstream is never to be asked.
async fn configured(change: impl FnOnce(&mut Config)) -> Sidecar {
    Sidecar::configured("http://127.0.0.1:1", |c| {
        c.forward_proxy.enabled = true;
        c.forward_proxy.hosts = vec!["llm.example".into()];
        change(c);
    })
    .await
}

/// One where blind tunnels may lead to this port of this machine.
async fn tunnelling(port: u16) -> Sidecar {
    configured(|c| {
        c.forward_proxy.allow_local = true;
        c.forward_proxy.ports = vec![port];
    })
    .await
}

fn authority_of(sidecar: &Sidecar) -> PathBuf {
    sidecar.path().join("ca/ca.pem")
}

async fn read_until(stream: &mut (impl AsyncRead + Unpin), needle: &[u8]) -> Vec<u8> {
    let mut seen = Vec::new();
    let read = async {
        while !seen.windows(needle.len()).any(|w| w == needle) {
            assert_ne!(stream.read_buf(&mut seen).await.expect("readable"), 0, "closed early");
        }
    };
    tokio::time::timeout(PATIENCE, read).await.expect("it never came");
    seen
}

#[tokio::test]
async fn an_app_that_trusts_the_authority_gets_the_bytes_of_a_listed_host_and_they_are_recorded() {
    let authority = Authority::new();
    let peer = Peer::start(Offer::Tls(&authority), |_| vec![Part::Data(b"{\"plain\": \xff}")]).await;
    let sidecar = standing_in(&peer, &authority).await;
    let place = format!("localhost:{}", peer.port());

    // HTTP/1.1, byte by byte.
    let (head, stream) = tunnel(&sidecar.proxy, &place).await;
    assert!(head.starts_with("HTTP/1.1 200 OK\r\n"), "{head}");
    let mut stream =
        tls_over(stream, &authority_of(&sidecar), "localhost", &[b"http/1.1"]).await.expect("trusted");
    for n in 1..=2 {
        let body = format!("{{ \"n\" : {n} }}");
        let request = format!(
            "POST /v1/chat/completions?n={n} HTTP/1.1\r\nHost: {place}\r\nAuthorization: Bearer secret-key\r\n\
             Content-Length: {}\r\n\r\n{body}",
            body.len()
        );
        stream.write_all(request.as_bytes()).await.expect("sent");
        let answer = read_until(&mut stream, b"\xff}\r\n0\r\n\r\n").await;
        assert!(answer.starts_with(b"HTTP/1.1 200 OK\r\n"));
    }

    // HTTP/2; Remora's own paths are the host's here.
    let (_, stream) = tunnel(&sidecar.proxy, &place).await;
    let stream = tls_over(stream, &authority_of(&sidecar), "localhost", &[b"h2"]).await.expect("trusted");
    assert_eq!(stream.get_ref().1.alpn_protocol(), Some(b"h2".as_slice()));
    let (mut sender, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream))
            .await
            .expect("HTTP/2");
    tokio::spawn(connection);
    let request = http::Request::post(format!("https://{place}/remora/v1/feedback"))
        .body(Full::new(Bytes::from("{}")))
        .expect("a request");
    let answer = sender.send_request(request).await.expect("an answer");
    assert_eq!(answer.status(), 200);
    assert_eq!(answer.into_body().collect().await.expect("whole").to_bytes(), &b"{\"plain\": \xff}"[..]);

    let bodies: Vec<Bytes> = peer.seen().into_iter().map(|s| s.body).collect();
    assert_eq!(bodies, ["{ \"n\" : 1 }", "{ \"n\" : 2 }", "{}"]);
    let recorded = sidecar.recorded(3).await;
    assert!(recorded.iter().all(|e| e.ended == Ended::Complete && e.upstream == format!("https://{place}")));
    assert_eq!(recorded[1].target, "/v1/chat/completions?n=2");
    assert_eq!(recorded[1].request_body.bytes, "{ \"n\" : 2 }");
    assert_eq!(recorded[2].target, "/remora/v1/feedback");
    assert_eq!(recorded[0].connection, recorded[1].connection);
    assert_ne!(recorded[0].connection, recorded[2].connection);
    let everything = format!("{recorded:?}");
    assert!(!everything.contains("c2VjcmV0") && !everything.contains("secret-key"), "{everything}");
}

#[tokio::test]
async fn a_stream_of_a_listed_host_comes_piece_by_piece_and_finishes_before_the_end() {
    let authority = Authority::new();
    let gate = Gate::default();
    let script = {
        let gate = gate.clone();
        move |_: &_| {
            vec![Part::Data(b"data: one\n\n"), Part::Wait(gate.clone()), Part::Data(b"data: two\n\n")]
        }
    };
    let peer = Peer::start(Offer::Tls(&authority), script).await;
    let mut sidecar = standing_in(&peer, &authority).await;
    let (_, stream) = tunnel(&sidecar.proxy, &format!("localhost:{}", peer.port())).await;
    let mut stream =
        tls_over(stream, &authority_of(&sidecar), "localhost", &[b"http/1.1"]).await.expect("trusted");
    stream.write_all(b"POST /v1/x HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\n{}").await.expect("sent");
    read_until(&mut stream, b"data: one\n\n").await;
    let client = async {
        gate.open();
        read_until(&mut stream, b"data: two\n\n\r\n0\r\n\r\n").await;
        // Then it ends, in order.
        let mut rest = Vec::new();
        stream.read_to_end(&mut rest).await.expect("closed in order");
        assert!(rest.is_empty());
    };
    let ((), ()) = tokio::join!(client, sidecar.stop());
    assert_eq!(sidecar.recorded(1).await[0].ended, Ended::Complete);
}

#[tokio::test]
async fn without_a_route_a_listed_host_is_verified_against_the_systems_authorities() {
    let authority = Authority::new();
    let peer = Peer::start(Offer::Tls(&authority), |_| vec![Part::Data(b"never")]).await;
    let place = format!("localhost:{}", peer.port());
    let sidecar = configured(|c| c.forward_proxy.hosts = vec![place.clone()]).await;
    let (_, stream) = tunnel(&sidecar.proxy, &place).await;
    let mut stream =
        tls_over(stream, &authority_of(&sidecar), "localhost", &[b"http/1.1"]).await.expect("trusted");
    stream.write_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n").await.expect("sent");
    let answer = read_until(&mut stream, b"}}").await;
    let said = String::from_utf8_lossy(&answer).into_owned();
    assert!(said.starts_with("HTTP/1.1 502") && said.contains("certificate"), "{said}");
    assert!(peer.seen().is_empty(), "nothing is sent to a stranger");
}

#[tokio::test]
async fn a_tunnel_can_be_asked_for_over_http2() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = listener.local_addr().expect("bound");
    let sidecar = tunnelling(address.port()).await;
    let stream = tokio::net::TcpStream::connect(sidecar.proxy.strip_prefix("http://").expect("an http URL"));
    let stream = TokioIo::new(stream.await.expect("the proxy listens"));
    let (mut sender, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), stream).await.expect("HTTP/2");
    tokio::spawn(connection);
    let request =
        http::Request::connect(address.to_string()).body(Full::new(Bytes::new())).expect("a request");
    let answer = sender.send_request(request).await.expect("an answer");
    assert_eq!(answer.status(), 200);
    let mut client = TokioIo::new(hyper::upgrade::on(answer).await.expect("a tunnel"));
    let (mut server, _) = listener.accept().await.expect("a connection");
    client.write_all(b"question").await.expect("sent");
    let mut question = [0; 8];
    server.read_exact(&mut question).await.expect("it comes");
    server.write_all(b"answer").await.expect("sent");
    drop(server);
    let mut answer = Vec::new();
    client.read_to_end(&mut answer).await.expect("it comes");
    assert_eq!((&question, answer.as_slice()), (b"question", b"answer".as_slice()));
}

#[tokio::test]
async fn other_hosts_are_tunnelled_untouched_counted_and_not_recorded() {
    let authority = Authority::new();
    let peer = Peer::start(Offer::Tls(&authority), |_| vec![Part::Data(b"real")]).await;
    let mut sidecar = tunnelling(peer.port()).await;
    let real = sidecar.path().join("real.pem");
    authority.write(&real);
    let place = format!("localhost:{}", peer.port());

    let (_, stream) = tunnel(&sidecar.proxy, &place).await;
    assert!(
        tls_over(stream, &authority_of(&sidecar), "localhost", &[]).await.is_err(),
        "it is not our certificate"
    );
    let (head, stream) = tunnel(&sidecar.proxy, &place).await;
    assert!(head.starts_with("HTTP/1.1 200 OK\r\n"), "{head}");
    let mut stream = tls_over(stream, &real, "localhost", &[b"http/1.1"]).await.expect("the host's own");
    stream.write_all(b"GET /x HTTP/1.1\r\nHost: x\r\n\r\n").await.expect("sent");
    read_until(&mut stream, b"real").await;
    assert_eq!(peer.seen()[0].path, "/x");
    assert!(sidecar.metric("remora_tunnels_total").await >= 2.0);
    assert!(sidecar.metric("remora_tunnel_bytes_total{direction=\"up\"}").await > 100.0);
    assert!(sidecar.metric("remora_tunnel_bytes_total{direction=\"down\"}").await > 100.0);
    sidecar.stop().await;
    assert!(sidecar.exchanges().is_empty());
}

#[tokio::test]
async fn either_side_of_a_tunnel_may_end_and_still_hear_the_other() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let port = listener.local_addr().expect("bound").port();
    let sidecar = tunnelling(port).await;
    let (_, mut client) = tunnel(&sidecar.proxy, &format!("127.0.0.1:{port}")).await;
    let (mut server, _) = listener.accept().await.expect("a connection");
    client.write_all(b"question").await.expect("sent");
    client.shutdown().await.expect("ended");
    let mut question = Vec::new();
    server.read_to_end(&mut question).await.expect("the end arrives");
    assert_eq!(question, b"question");
    let long = vec![b'x'; 3 << 20];
    let (sent, read) = tokio::join!(
        async {
            server.write_all(&long).await.expect("sent");
            server.shutdown().await
        },
        async {
            let mut answer = Vec::new();
            client.read_to_end(&mut answer).await.expect("the answer comes");
            answer
        }
    );
    sent.expect("ended");
    assert_eq!(read, long);

    // The other way round.
    let (_, mut client) = tunnel(&sidecar.proxy, &format!("127.0.0.1:{port}")).await;
    let (mut server, _) = listener.accept().await.expect("a connection");
    server.shutdown().await.expect("ended");
    assert_eq!(client.read(&mut [0; 1]).await.expect("the end arrives"), 0);
    client.write_all(b"still").await.expect("sent");
    let mut still = [0; 5];
    server.read_exact(&mut still).await.expect("it comes");
    assert_eq!(&still, b"still");
}

#[tokio::test]
async fn a_quiet_tunnel_does_not_hold_up_the_end() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let port = listener.local_addr().expect("bound").port();
    let mut sidecar = tunnelling(port).await;
    let (_, mut client) = tunnel(&sidecar.proxy, &format!("127.0.0.1:{port}")).await;
    let (_server, _) = listener.accept().await.expect("a connection");
    tokio::time::timeout(PATIENCE, sidecar.stop()).await.expect("well within the grace period of 30 s");
    assert_eq!(client.read(&mut [0; 1]).await.expect("closed in order"), 0);
}

#[tokio::test]
async fn tunnels_lead_only_where_they_may() {
    let sidecar = configured(|_| ()).await;
    for (target, words) in [
        ("llm.example:22".to_owned(), "port 22 is not among"),
        ("127.0.0.1:443".to_owned(), "allow_local"),
        ("localhost:80".to_owned(), "allow_local"),
        ("[::1]:443".to_owned(), "allow_local"),
        ("169.254.169.254:80".to_owned(), "allow_local"),
        ("0.0.0.0:443".to_owned(), "allow_local"),
        ("[::ffff:127.0.0.1]:443".to_owned(), "allow_local"),
    ] {
        let mut client = Connection::open(&sidecar.proxy).await;
        client.send(format!("CONNECT {target} HTTP/1.1\r\nHost: x\r\n\r\n").as_bytes()).await;
        let answer = client.answer().await;
        let said = String::from_utf8_lossy(&answer.body).into_owned();
        assert!(answer.status == 403 && said.contains(words), "{target}: {said}");
    }
    // Not even where much is allowed: to Remora itself.
    let mut sidecar = Sidecar::configured("http://127.0.0.1:1", |c| {
        c.forward_proxy.enabled = true;
        c.forward_proxy.allow_local = true;
        c.forward_proxy.ports = (1024..=u16::MAX).collect();
    })
    .await;
    for own in [&sidecar.proxy, &sidecar.admin] {
        let place = own.strip_prefix("http://").expect("an http URL");
        let port = place.rsplit(':').next().expect("a port");
        for target in [place.to_owned(), format!("localhost:{port}"), format!("0.0.0.0:{port}")] {
            let mut client = Connection::open(&sidecar.proxy).await;
            client.send(format!("CONNECT {target} HTTP/1.1\r\nHost: x\r\n\r\n").as_bytes()).await;
            let answer = client.answer().await;
            let said = String::from_utf8_lossy(&answer.body).into_owned();
            assert!(answer.status == 403 && said.contains("Remora itself"), "{target}: {said}");
        }
    }
    let nobody = {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        listener.local_addr().expect("bound")
    };
    let mut client = Connection::open(&sidecar.proxy).await;
    client.send(format!("CONNECT {nobody} HTTP/1.1\r\nHost: x\r\n\r\n").as_bytes()).await;
    assert_eq!(client.answer().await.status, 502);
    sidecar.stop().await;
    assert!(sidecar.exchanges().is_empty());
}

#[tokio::test]
async fn whole_urls_of_listed_hosts_are_forwarded_and_recorded_and_others_refused() {
    let upstream = Upstream::always(plain("200 OK", "", b"fine")).await;
    let place = upstream.address.to_string();
    let sidecar = configured(|c| c.forward_proxy.hosts = vec![place.clone()]).await;
    let mut client = Connection::open(&sidecar.proxy).await;
    let request = format!(
        "POST http://{place}/v1/x?y HTTP/1.1\r\nHost: {place}\r\nProxy-Authorization: Basic c2VjcmV0\r\n\
         Proxy-Connection: keep-alive\r\nX-Kept: 1\r\nContent-Length: 2\r\n\r\n{{}}"
    );
    client.send(request.as_bytes()).await;
    assert_eq!(client.answer().await.body, b"fine");
    assert_eq!(
        upstream.requests()[0].head,
        format!("POST /v1/x?y HTTP/1.1\r\nHost: {place}\r\nX-Kept: 1\r\nContent-Length: 2")
    );
    let recorded = sidecar.recorded(1).await;
    assert_eq!((recorded[0].target.as_str(), &recorded[0].upstream), ("/v1/x?y", &format!("http://{place}")));
    assert!(!format!("{recorded:?}").contains("c2VjcmV0"));

    client.send(b"GET http://127.0.0.1:9/x HTTP/1.1\r\nHost: x\r\n\r\n").await;
    assert_eq!(client.answer().await.status, 403);
}

#[tokio::test]
async fn without_the_mode_nothing_is_tunnelled_and_no_authority_is_made() {
    let upstream = Upstream::always(plain("200 OK", "", b"")).await;
    let sidecar = Sidecar::start(&upstream.url()).await;
    for request in ["CONNECT api.openai.com:443", "GET http://api.openai.com/"] {
        let mut client = Connection::open(&sidecar.proxy).await;
        client.send(format!("{request} HTTP/1.1\r\nHost: x\r\n\r\n").as_bytes()).await;
        assert_eq!(client.answer().await.status, 405, "{request}");
    }
    assert!(!sidecar.path().join("ca").exists());
    assert!(upstream.requests().is_empty());
}

#[cfg(unix)]
#[tokio::test]
async fn the_authority_outlives_restarts_and_its_key_is_private() {
    use std::os::unix::fs::PermissionsExt;
    let mut sidecar = configured(|_| ()).await;
    let read = |sidecar: &Sidecar, name: &str| {
        std::fs::read(sidecar.path().join("ca").join(name)).expect("it is there")
    };
    let before = (read(&sidecar, "ca.key"), read(&sidecar, "ca.pem"));
    let mode = sidecar.path().join("ca/ca.key").metadata().expect("it is there").permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    sidecar.stop().await;
    let data = sidecar.path().to_owned();
    let again = configured(|c| c.data = Some(data)).await;
    assert_eq!((read(&sidecar, "ca.key"), read(&sidecar, "ca.pem")), before);
    drop(again);
    let output = crate::harness::remora(&crate::harness::with_data(&["ca", "--pem"], sidecar.path()));
    assert!(output.status.success());
    assert_eq!(output.stdout, before.1);
}

#[tokio::test]
async fn a_client_that_does_not_trust_the_authority_harms_nobody() {
    let authority = Authority::new();
    let peer = Peer::start(Offer::Tls(&authority), |_| vec![Part::Data(b"fine")]).await;
    let sidecar = standing_in(&peer, &authority).await;
    let other = sidecar.path().join("other.pem");
    Authority::new().write(&other);
    let place = format!("localhost:{}", peer.port());
    let (_, stream) = tunnel(&sidecar.proxy, &place).await;
    assert!(tls_over(stream, &other, "localhost", &[]).await.is_err());
    let (_, mut stream) = tunnel(&sidecar.proxy, &place).await;
    stream.write_all(b"this is no TLS\r\n\r\n").await.expect("sent");
    // An alert comes, perhaps, and then the end.
    drop(stream.read_to_end(&mut Vec::new()).await);
    let (_, stream) = tunnel(&sidecar.proxy, &place).await;
    let mut stream =
        tls_over(stream, &authority_of(&sidecar), "localhost", &[b"http/1.1"]).await.expect("trusted");
    stream.write_all(b"GET /x HTTP/1.1\r\nHost: x\r\n\r\n").await.expect("sent");
    read_until(&mut stream, b"fine").await;
    assert_eq!(sidecar.recorded(1).await.len(), 1);
}
