//! Upstreams over TLS with an authority of one's own, and HTTP/2 on both sides.

use bytes::Bytes;
use http::Version;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use remora::app::{App, AppError};
use remora::config::{Config, Http2};
use remora::model::Ended;
use remora::upstream::SetupError;

use crate::harness::{Authority, Connection, Gate, Offer, Part, Peer, Sidecar, until};

/// A Remora before `peer` that trusts `authority`.
async fn trusting(authority: &Authority, peer: &Peer, http2: Http2) -> Sidecar {
    let folder = tempfile::tempdir().expect("a temporary directory");
    let ca = folder.path().join("ca.pem");
    authority.write(&ca);
    // The file is read at the start only.
    Sidecar::configured(peer.url(), |c| {
        c.upstream.ca = Some(ca);
        c.upstream.http2 = http2;
    })
    .await
}

fn http2_client() -> Client<HttpConnector, Full<Bytes>> {
    Client::builder(TokioExecutor::new()).http2_only(true).build_http()
}

async fn get(
    client: &Client<HttpConnector, Full<Bytes>>,
    sidecar: &Sidecar,
    path: &str,
) -> http::Response<Incoming> {
    let request =
        http::Request::post(format!("{}{path}", sidecar.proxy)).body(Full::from("{}")).expect("a request");
    client.request(request).await.expect("an answer")
}

/// The next piece of a body.
async fn piece(body: &mut Incoming) -> Bytes {
    body.frame().await.expect("a frame").expect("no break").into_data().expect("data")
}

#[tokio::test]
async fn plain_and_streamed_answers_come_through_tls_in_the_version_that_is_agreed_on() {
    let authority = Authority::new();
    let cases = [
        (Offer::Tls(&authority), Http2::Auto, Version::HTTP_2),
        (Offer::Tls(&authority), Http2::Always, Version::HTTP_2),
        (Offer::Tls(&authority), Http2::Never, Version::HTTP_11),
        (Offer::TlsHttp1(&authority), Http2::Auto, Version::HTTP_11),
    ];
    for (offer, http2, version) in cases {
        let gate = Gate::default();
        let script = {
            let gate = gate.clone();
            move |streamed: bool| {
                if streamed {
                    vec![Part::Data(b"data: one\n\n"), Part::Wait(gate.clone()), Part::Data(b"data: two\n\n")]
                } else {
                    vec![Part::Data(b"{\"plain\": \xff}")]
                }
            }
        };
        let peer = Peer::start(offer, move |seen| script(seen.path == "/v1/stream")).await;
        let sidecar = trusting(&authority, &peer, http2).await;

        let answer = sidecar.post("/v1/plain", "", b"{ \"a\" : 1 }\n").await;
        assert_eq!((answer.status, answer.whole), (200, true), "{http2:?}");
        assert_eq!(answer.body, b"{\"plain\": \xff}");
        let mut connection = Connection::open(&sidecar.proxy).await;
        connection.post("/v1/stream", "", b"{}").await;
        // The upstream goes on only after the client has the first piece.
        connection.read_until(b"data: one\n\n").await;
        gate.open();
        let answer = connection.answer().await;
        assert!(answer.whole);
        assert_eq!(answer.body, b"data: one\n\ndata: two\n\n");

        let seen = peer.seen();
        assert_eq!(seen[0].body, "{ \"a\" : 1 }\n");
        assert!(seen.iter().all(|s| s.version == version), "{http2:?}: {seen:?}");
        let recorded = sidecar.recorded(2).await;
        let bodies: Vec<_> =
            recorded.iter().map(|e| e.response.as_ref().expect("answered").body.bytes.clone()).collect();
        assert_eq!(bodies, [&b"{\"plain\": \xff}"[..], b"data: one\n\ndata: two\n\n"]);
        assert!(recorded.iter().all(|e| e.ended == Ended::Complete && e.upstream == peer.url()));
    }
}

#[tokio::test]
async fn a_certificate_of_an_unknown_authority_gives_a_502_that_says_so() {
    let peer = Peer::start(Offer::Tls(&Authority::new()), |_| vec![Part::Data(b"never")]).await;
    let sidecar = trusting(&Authority::new(), &peer, Http2::Auto).await;
    let answer = sidecar.post("/v1/chat/completions", "", b"{\"model\":\"m\"}").await;
    assert_eq!(answer.status, 502);
    let error: serde_json::Value = serde_json::from_slice(&answer.body).expect("JSON");
    let message = error["error"]["message"].as_str().expect("a message");
    assert!(message.contains("certificate") && message.contains(peer.url()), "{message}");
    assert_eq!(error["error"]["code"], "upstream_unreachable");
    assert!(peer.seen().is_empty(), "nothing was sent to a stranger");
    let recorded = sidecar.recorded(1).await;
    assert_eq!(recorded[0].ended, Ended::UpstreamReset);
    assert_eq!(recorded[0].request_body.bytes, "{\"model\":\"m\"}");
    assert!(
        recorded[0].detail.as_ref().is_some_and(|d| d.contains("certificate")),
        "{:?}",
        recorded[0].detail
    );
}

#[tokio::test]
async fn authorities_that_cannot_be_read_are_named_at_the_start() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let ca = dir.path().join("ca.pem");
    let broken = "-----BEGIN CERTIFICATE-----\nbm8gY2VydGlmaWNhdGU=\n-----END CERTIFICATE-----\n";
    for (content, word) in [
        (None, "No such file"),
        (Some("no certificate\n"), "PEM"),
        (Some(""), "PEM"),
        (Some(broken), "certificate"),
    ] {
        drop(std::fs::remove_file(&ca));
        if let Some(content) = content {
            std::fs::write(&ca, content).expect("written");
        }
        let mut config = Config {
            listen: "127.0.0.1:0".into(),
            admin: "127.0.0.1:0".into(),
            data: Some(dir.path().join("data")),
            ..Config::default()
        };
        config.upstream.ca = Some(ca.clone());
        let error = match App::start(&config, None).await {
            Ok(app) => {
                app.stop().await;
                panic!("it started with {content:?}");
            }
            Err(error) => error,
        };
        assert!(matches!(error, AppError::Upstream(SetupError::File { .. })), "{error}");
        let said = error.to_string();
        assert!(said.contains("upstream.ca") && said.contains("ca.pem") && said.contains(word), "{said}");
        assert!(!said.contains('\n'), "{said}");
    }
}

#[tokio::test]
async fn http2_is_spoken_in_clear_where_that_is_asked_for() {
    let peer = Peer::start(Offer::Clear, |_| vec![Part::Data(b"in "), Part::Data(b"clear")]).await;
    let sidecar = Sidecar::configured(peer.url(), |c| c.upstream.http2 = Http2::Always).await;
    let answer = sidecar.post("/v1/chat/completions?q=1", "", b"{}").await;
    assert_eq!((answer.status, answer.whole, answer.body.as_slice()), (200, true, b"in clear".as_slice()));
    assert_eq!(peer.seen()[0].version, Version::HTTP_2);
    assert_eq!(sidecar.recorded(1).await[0].ended, Ended::Complete);
}

#[tokio::test]
async fn trailers_of_an_http2_upstream_reach_an_http2_client() {
    let authority = Authority::new();
    let script = |_: &_| vec![Part::Data(b"body"), Part::Trailer("x-checksum", "abc")];
    let peer = Peer::start(Offer::Tls(&authority), script).await;
    let sidecar = trusting(&authority, &peer, Http2::Auto).await;
    let answer = get(&http2_client(), &sidecar, "/v1/trailers").await.into_body().collect().await;
    let answer = answer.expect("it ends well");
    assert_eq!(answer.trailers().expect("trailers came")["x-checksum"], "abc");
    assert_eq!(answer.to_bytes(), "body");
    let recorded = sidecar.recorded(1).await;
    assert_eq!(recorded[0].ended, Ended::Complete);
    assert_eq!(recorded[0].response.as_ref().expect("answered").body.bytes, "body");
}

#[tokio::test]
async fn cancelling_one_http2_stream_cancels_its_upstream_request_and_no_other() {
    let authority = Authority::new();
    for offer in [Offer::Tls(&authority), Offer::TlsHttp1(&authority)] {
        let gates = [Gate::default(), Gate::default(), Gate::default()];
        let script = {
            let gates = gates.clone();
            move |path: &str| {
                let gate = path.bytes().last().map(|digit| gates[usize::from(digit - b'0')].clone());
                vec![
                    Part::Data(b"one "),
                    Part::Wait(gate.expect("a digit ends the path")),
                    Part::Data(b"two"),
                ]
            }
        };
        let peer = Peer::start(offer, move |seen| script(&seen.path)).await;
        let sidecar = trusting(&authority, &peer, Http2::Auto).await;
        let client = http2_client();
        let mut bodies = Vec::new();
        for n in 0..3 {
            let mut body = get(&client, &sidecar, &format!("/v1/{n}")).await.into_body();
            assert_eq!(piece(&mut body).await, "one ");
            bodies.push(body);
        }
        drop(bodies.remove(1));
        until("the upstream to see the cancellation", || (peer.cancelled() == 1).then_some(())).await;
        let cut = sidecar.recorded(1).await;
        assert_eq!((cut[0].target.as_str(), cut[0].ended), ("/v1/1", Ended::ClientCancelled));
        gates[0].open();
        gates[2].open();
        for body in bodies {
            assert_eq!(body.collect().await.expect("it ends well").to_bytes(), "two");
        }
        assert_eq!(peer.cancelled(), 1);
        let recorded = sidecar.recorded(3).await;
        for other in recorded.iter().filter(|e| e.target != "/v1/1") {
            assert_eq!(other.ended, Ended::Complete);
            assert_eq!(other.response.as_ref().expect("answered").body.bytes, "one two");
        }
        assert!(
            recorded.iter().all(|e| e.connection == recorded[0].connection),
            "all came over one connection"
        );
    }
}

#[tokio::test]
async fn an_upstream_that_asks_for_a_certificate_is_shown_the_configured_one() {
    let (authority, clients) = (Authority::new(), Authority::new());
    let dir = tempfile::tempdir().expect("a temporary directory");
    let file = |name: &str| dir.path().join(name);
    authority.write(&file("ca.pem"));
    clients.write_client(&file("client.pem"), &file("client.key"));
    Authority::new().write_client(&file("stranger.pem"), &file("stranger.key"));
    let peer = Peer::start(Offer::Mutual(&authority, &clients), |_| vec![Part::Data(b"welcome")]).await;
    for (certificate, status) in [(Some("client"), 200), (Some("stranger"), 502), (None, 502)] {
        let sidecar = Sidecar::configured(peer.url(), |c| {
            c.upstream.ca = Some(file("ca.pem"));
            c.upstream.client_certificate = certificate.map(|name| file(&format!("{name}.pem")));
            c.upstream.client_key = certificate.map(|name| file(&format!("{name}.key")));
        })
        .await;
        let answer = sidecar.post("/v1/x", "", b"{}").await;
        let said = String::from_utf8_lossy(&answer.body).into_owned();
        assert_eq!(answer.status, status, "{certificate:?}: {said}");
        if status == 502 {
            assert!(said.to_lowercase().contains("certificate") || said.contains("alert"), "{said}");
        }
    }
    assert_eq!(peer.seen().len(), 1);
}

#[tokio::test]
async fn a_client_certificate_that_cannot_be_used_is_named_at_the_start_with_its_path_in_the_configuration() {
    let authority = Authority::new();
    let dir = tempfile::tempdir().expect("a temporary directory");
    let file = |name: &str| dir.path().join(name);
    authority.write_client(&file("a.pem"), &file("a.key"));
    authority.write_client(&file("b.pem"), &file("b.key"));
    std::fs::write(file("empty"), "").expect("written");
    for (certificate, key, at, word) in [
        ("a.pem", "b.key", "client_key", "does not fit"),
        ("a.pem", "missing", "client_key", "No such file"),
        ("a.pem", "empty", "client_key", "holds no private key"),
        ("empty", "a.key", "client_certificate", "holds no certificate"),
        ("missing", "a.key", "client_certificate", "No such file"),
    ] {
        let mut config = Config {
            listen: "127.0.0.1:0".into(),
            admin: "127.0.0.1:0".into(),
            data: Some(file("data")),
            ..Config::default()
        };
        let mut route = remora::config::Route { path: Some("/x".into()), ..Default::default() };
        route.upstream.client_certificate = Some(file(certificate));
        route.upstream.client_key = Some(file(key));
        config.routes.push(route);
        let said = match App::start(&config, None).await {
            Ok(app) => {
                app.stop().await;
                panic!("it started with {certificate} and {key}");
            }
            Err(error) => error.to_string(),
        };
        assert!(said.contains(&format!("routes[0].upstream.{at}: ")) && said.contains(word), "{said}");
        assert!(!said.contains('\n'), "{said}");
    }
}

#[tokio::test]
async fn names_and_addresses_are_verified_and_only_names_are_sent() {
    let authority = Authority::new();
    let peer = Peer::start(Offer::Tls(&authority), |_| vec![Part::Data(b"fine")]).await;
    let dir = tempfile::tempdir().expect("a temporary directory");
    authority.write(&dir.path().join("ca.pem"));
    for host in ["127.0.0.1", "localhost"] {
        let sidecar = Sidecar::configured(&format!("https://{host}:{}", peer.port()), |c| {
            c.upstream.ca = Some(dir.path().join("ca.pem"));
        })
        .await;
        assert_eq!(sidecar.post("/v1/x", "", b"{}").await.status, 200, "{host}");
    }
    assert_eq!(peer.asked_for(), [None, Some("localhost".to_owned())]);
}
