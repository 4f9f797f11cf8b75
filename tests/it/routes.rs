//! Several upstreams: by path, by host, by model.

use std::io::Write;

use remora::config::{Config, Route};
use remora::model::Ended;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use crate::harness::{Connection, PATIENCE, Sidecar, Upstream, plain};

/// A route to `upstream`, changed.
fn route(upstream: &str, change: impl FnOnce(&mut Route)) -> Route {
    let mut route = Route::default();
    route.upstream.url = upstream.to_owned();
    change(&mut route);
    route
}

fn by_model(upstream: &str, model: &str) -> Route {
    route(upstream, |r| r.model = Some(model.to_owned()))
}

/// An upstream that says who it is.
async fn named(name: &str) -> Upstream {
    Upstream::always(plain("200 OK", "", name.as_bytes())).await
}

async fn sidecar(default: &Upstream, routes: Vec<Route>) -> Sidecar {
    Sidecar::configured(&default.url(), |c: &mut Config| c.routes = routes).await
}

#[tokio::test]
async fn the_first_route_that_matches_takes_the_request_and_is_recorded() {
    let (default, audio, local, host) =
        (named("default").await, named("audio").await, named("local").await, named("host").await);
    let routes = vec![
        route(&format!("{}/base", audio.url()), |r| r.path = Some("/v1/audio".into())),
        route(&host.url(), |r| {
            r.host = Some("LLM.example".into());
            r.path = Some("/v1".into());
        }),
        by_model(&local.url(), "llama-*"),
    ];
    let sidecar = sidecar(&default, routes).await;
    let cases = [
        ("/v1/audio/speech", "remora", "{\"model\":\"llama-3\"}", "audio"),
        ("/v1/audiobooks", "remora", "{\"model\":\"gpt-4o\"}", "default"),
        (
            "/v1/chat/completions",
            "remora",
            "{\"messages\":[{\"model\":\"gpt\"}], \"model\" : \"llama-3\"}",
            "local",
        ),
        ("/v1/chat/completions", "llm.EXAMPLE:4141", "{\"model\":\"llama-3\"}", "host"),
        ("/v2/chat/completions", "llm.example", "{\"model\":\"other\"}", "default"),
        ("/v1/chat/completions", "remora", "no JSON", "default"),
        ("/v1/chat/completions", "remora", "", "default"),
    ];
    for (path, host, body, expected) in cases {
        let mut connection = Connection::open(&sidecar.proxy).await;
        let request =
            format!("POST {path} HTTP/1.1\r\nHost: {host}\r\nContent-Length: {}\r\n\r\n{body}", body.len());
        connection.send(request.as_bytes()).await;
        let answer = connection.answer().await;
        assert_eq!(String::from_utf8_lossy(&answer.body), expected, "{path} {host} {body}");
    }
    assert!(audio.requests()[0].head.starts_with("POST /base/v1/audio/speech HTTP/1.1\r\n"));
    assert_eq!(local.requests()[0].body, cases[2].2.as_bytes());

    let recorded = sidecar.recorded(cases.len()).await;
    let urls: Vec<&str> = recorded.iter().map(|e| e.upstream.as_str()).collect();
    let base = format!("{}/base", audio.url());
    let (d, l, h) = (default.url(), local.url(), host.url());
    assert_eq!(urls, [&base, &d, &l, &h, &d, &d, &d]);
    for (exchange, (_, _, body, _)) in recorded.iter().zip(cases) {
        assert_eq!(exchange.request_body.bytes, body);
        assert!(!exchange.request_body.truncated);
    }
}

#[tokio::test]
async fn a_chunked_and_a_compressed_body_find_their_model_and_arrive_as_they_were() {
    let (default, local) = (named("default").await, named("local").await);
    let sidecar = sidecar(&default, vec![by_model(&local.url(), "m?")]).await;
    let json = format!("{{\"messages\":[\"{}\"],\"model\":\"m1\"}}", "x".repeat(200_000));
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    encoder.write_all(json.as_bytes()).expect("in memory");
    let gzip = encoder.finish().expect("in memory");

    let answer = sidecar.post("/v1/x", "Content-Encoding: gzip\r\n", &gzip).await;
    assert_eq!(answer.body, b"local");
    assert_eq!(local.requests()[0].body, gzip);

    let mut connection = Connection::open(&sidecar.proxy).await;
    connection.send(b"POST /v1/x HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n").await;
    for piece in json.as_bytes().chunks(70_000) {
        connection.send(&crate::harness::chunk(piece)).await;
    }
    connection.send(crate::harness::LAST_CHUNK).await;
    assert_eq!(connection.answer().await.body, b"local");
    let recorded = sidecar.recorded(2).await;
    assert_eq!(recorded[0].request_body.bytes, gzip);
    assert_eq!(recorded[1].request_body.bytes, json);

    // A form has no model that we look for.
    let form = b"--b\r\nContent-Disposition: form-data; name=\"model\"\r\n\r\nm1\r\n--b--\r\n";
    let answer = sidecar.post("/v1/x", "Content-Type: multipart/form-data; boundary=b\r\n", form).await;
    assert_eq!(answer.body, b"default");
    assert_eq!(default.requests()[0].body, form);
}

/// Reads from the first connection that a listener gets until a needle came.
async fn arrived(listener: &TcpListener, needle: &[u8]) -> (tokio::net::TcpStream, Vec<u8>) {
    let read = async {
        let (mut stream, _) = listener.accept().await.expect("a connection");
        let mut seen = Vec::new();
        while !seen.windows(needle.len()).any(|w| w == needle) {
            assert_ne!(stream.read_buf(&mut seen).await.expect("readable"), 0, "closed early");
        }
        (stream, seen)
    };
    tokio::time::timeout(PATIENCE, read).await.expect("it never came")
}

#[tokio::test]
async fn a_body_is_waited_for_only_where_its_model_matters_and_only_up_to_the_model() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let url = format!("http://{}", listener.local_addr().expect("bound"));
    let other = named("other").await;
    let routes = vec![route(&other.url(), |r| {
        r.path = Some("/v1/chat".into());
        r.model = Some("other".into());
    })];
    let sidecar = Sidecar::configured(&url, |c: &mut Config| c.routes = routes).await;

    // No route looks at the model here: the head goes on before a byte of the body is there.
    let mut connection = Connection::open(&sidecar.proxy).await;
    connection.send(b"POST /v1/embeddings HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\n").await;
    let (_stream, seen) = arrived(&listener, b"\r\n\r\n").await;
    assert!(seen.starts_with(b"POST /v1/embeddings"));

    // Here one does: all that was read to find the model goes on at once, the rest when it comes.
    let mut connection = Connection::open(&sidecar.proxy).await;
    connection.send(b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Length: 25\r\n\r\n").await;
    connection.send(b"{ \"model\":\"mine\" ").await;
    let (mut stream, seen) = arrived(&listener, b"\"mine\" ").await;
    assert!(String::from_utf8_lossy(&seen).contains("\r\nContent-Length: 25\r\n"), "{seen:?}");
    connection.send(b",\"n\":12}").await;
    let mut rest = [0; 8];
    stream.read_exact(&mut rest).await.expect("the rest comes");
    assert_eq!(&rest, b",\"n\":12}");
    stream.write_all(&plain("200 OK", "", b"fine")).await.expect("sent");
    assert_eq!(connection.answer().await.body, b"fine");
}

#[tokio::test]
async fn a_client_that_leaves_before_its_model_is_known_is_recorded_with_what_it_sent() {
    let (default, local) = (named("default").await, named("local").await);
    let sidecar = sidecar(&default, vec![by_model(&local.url(), "m")]).await;
    let mut connection = Connection::open(&sidecar.proxy).await;
    connection.send(b"POST /v1/x HTTP/1.1\r\nHost: x\r\nContent-Length: 99\r\n\r\n{\"messages\":[").await;
    drop(connection);
    let recorded = sidecar.recorded(1).await;
    assert_eq!(recorded[0].ended, Ended::ClientCancelled);
    assert_eq!(recorded[0].request_body.bytes, "{\"messages\":[");
    assert!(recorded[0].request_body.truncated);
    assert!(default.requests().is_empty() && local.requests().is_empty());
}
