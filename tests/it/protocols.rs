//! The corners of HTTP/1.1: interim responses, trailers, answers without a body, early answers, half-closed clients,
//! bodies larger than memory is wasted on.

use std::time::Duration;

use remora::model::Ended;

use crate::harness::{
    Connection, Gate, LAST_CHUNK, Piece, Process, STREAM_HEAD, Sidecar, Upstream, chunk, plain, until,
};

const CONTINUE: &str = "HTTP/1.1 100 Continue\r\n\r\n";

/// The head of an upload whose script begins before its body.
fn upload(headers: &str, length: usize) -> Vec<u8> {
    format!("POST /v1/files HTTP/1.1\r\nHost: x\r\nX-Early: 1\r\n{headers}Content-Length: {length}\r\n\r\n")
        .into_bytes()
}

const EXPECTS: &str = "Expect: 100-continue\r\n";

#[tokio::test]
async fn a_client_that_waits_for_a_word_on_its_body_gets_the_upstreams() {
    let gate = Gate::default();
    let script = vec![
        Piece::Wait(gate.clone()),
        Piece::Send(CONTINUE.into()),
        Piece::Take(b"the body".to_vec()),
        Piece::Send(plain("200 OK", "", b"ok")),
    ];
    let upstream = Upstream::start(move |_| script.clone()).await;
    let sidecar = Sidecar::start(&upstream.url()).await;
    let mut client = Connection::open(&sidecar.proxy).await;
    client.send(&upload(EXPECTS, 8)).await;
    until("the request to arrive", || (upstream.requests().len() == 1).then_some(())).await;
    assert!(upstream.requests()[0].head.contains("Expect: 100-continue"));
    gate.open();
    assert_eq!(client.head().await, CONTINUE);
    client.send(b"the body").await;
    assert_eq!(client.answer().await.status, 200);
    assert_eq!(sidecar.recorded(1).await[0].request_body.bytes, "the body");
}

#[tokio::test]
async fn an_answer_in_place_of_the_word_comes_without_the_upload() {
    for status in ["417 Expectation Failed", "401 Unauthorized", "413 Content Too Large"] {
        let script = vec![Piece::Send(plain(status, "X-Why: no\r\n", b"{\"error\":1}")), Piece::UntilClosed];
        let upstream = Upstream::start(move |_| script.clone()).await;
        let sidecar = Sidecar::start(&upstream.url()).await;
        let mut client = Connection::open(&sidecar.proxy).await;
        client.send(&upload(EXPECTS, 1 << 30)).await;
        let head = client.head().await;
        assert!(head.starts_with(&format!("HTTP/1.1 {status}\r\nX-Why: no\r\n")), "{head}");
        assert!(
            head.contains("connection: close"),
            "the client must not take the body for a request: {head}"
        );
        assert_eq!(client.rest().await, b"{\"error\":1}");
        until("the upstream's connection to end", || (upstream.cancelled() == 1).then_some(())).await;
        let recorded = &sidecar.recorded(1).await[0];
        assert_eq!((recorded.ended, recorded.request_body.length), (Ended::Complete, 0));
    }
}

#[tokio::test]
async fn an_upstream_that_knows_no_such_word_gets_the_body_all_the_same() {
    let script = vec![Piece::Take(b"the body".to_vec()), Piece::Send(plain("200 OK", "", b"ok"))];
    let upstream = Upstream::start(move |_| script.clone()).await;
    let sidecar = Sidecar::start(&upstream.url()).await;
    let mut client = Connection::open(&sidecar.proxy).await;
    client.send(&upload(EXPECTS, 8)).await;
    assert_eq!(client.head().await, CONTINUE);
    client.send(b"the body").await;
    assert_eq!(client.answer().await.status, 200);
}

#[tokio::test]
async fn a_client_that_waits_for_a_word_is_told_when_the_upstream_is_down() {
    let free = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port").local_addr().expect("bound");
    let sidecar = Sidecar::start(&format!("http://{free}")).await;
    let mut client = Connection::open(&sidecar.proxy).await;
    client.send(&upload(EXPECTS, 1 << 30)).await;
    assert!(client.head().await.starts_with("HTTP/1.1 502 "));
}

#[tokio::test]
async fn early_hints_reach_the_client_before_the_answer() {
    let gate = Gate::default();
    let hints = "HTTP/1.1 103 Early Hints\r\nlink: </style.css>; rel=preload\r\n\r\n";
    let answer = plain("200 OK", "", b"ok");
    let script = vec![Piece::Send(hints.into()), Piece::Wait(gate.clone()), Piece::Send(answer.clone())];
    let upstream = Upstream::start(move |_| script.clone()).await;
    let sidecar = Sidecar::start(&upstream.url()).await;
    let mut client = Connection::open(&sidecar.proxy).await;
    for _ in 0..3 {
        client.post("/v1/x", "", b"{}").await;
        assert_eq!(client.head().await, hints);
        gate.open();
        assert_eq!(client.take(answer.len()).await, answer);
    }
    // HTTP/1.0 knows none of this.
    let mut old = Connection::open(&sidecar.proxy).await;
    old.send(b"GET /v1/x HTTP/1.0\r\nHost: x\r\n\r\n").await;
    gate.open();
    assert!(old.head().await.starts_with("HTTP/1.0 200 "));
}

#[tokio::test]
async fn trailers_pass_both_ways() {
    let sent = [&chunk(b"body")[..], b"0\r\nx-sum: 1\r\n\r\n"].concat();
    let answer = [
        &b"HTTP/1.1 200 OK\r\nTrailer: x-checksum\r\nTransfer-Encoding: chunked\r\n\r\n"[..],
        &chunk(b"data"),
        b"0\r\nx-checksum: abc\r\n\r\n",
    ]
    .concat();
    let script = vec![Piece::Take(sent.clone()), Piece::Send(answer.clone())];
    let upstream = Upstream::start(move |_| script.clone()).await;
    let sidecar = Sidecar::start(&upstream.url()).await;
    let mut client = Connection::open(&sidecar.proxy).await;
    client
        .send(b"POST / HTTP/1.1\r\nHost: x\r\nX-Early: 1\r\nTE: trailers\r\nTrailer: x-sum\r\nTransfer-Encoding: chunked\r\n\r\n")
        .await;
    client.send(&sent).await;
    client.head().await;
    let body = client.read_until(b"x-checksum: abc\r\n\r\n").await;
    assert_eq!(String::from_utf8_lossy(&body), "4\r\ndata\r\n0\r\nx-checksum: abc\r\n\r\n");
    let recorded = &sidecar.recorded(1).await[0];
    assert_eq!(recorded.request_body.bytes, "body");
    assert_eq!(recorded.response.as_ref().expect("answered").body.bytes, "data");
}

#[tokio::test]
async fn answers_without_a_body_keep_what_their_headers_say_and_the_connection() {
    let raw: [(&str, &str); 4] = [
        ("HEAD", "HTTP/1.1 200 OK\r\nContent-Length: 1234\r\nETag: a\r\n\r\n"),
        ("GET", "HTTP/1.1 204 No Content\r\nX-Left: 3\r\n\r\n"),
        ("GET", "HTTP/1.1 304 Not Modified\r\nETag: \"a\"\r\n\r\n"),
        ("GET", "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"),
    ];
    for (method, answer) in raw {
        let upstream = Upstream::always(answer.into()).await;
        let sidecar = Sidecar::start(&upstream.url()).await;
        let mut client = Connection::open(&sidecar.proxy).await;
        for _ in 0..2 {
            client.send(format!("{method} /v1/files/1 HTTP/1.1\r\nHost: x\r\n\r\n").as_bytes()).await;
            assert_eq!(client.head().await, answer);
        }
        let recorded = sidecar.recorded(2).await;
        assert!(recorded.iter().all(|e| e.ended == Ended::Complete), "{method} {answer}");
    }
}

#[tokio::test]
async fn chunk_extensions_are_understood_and_end_at_the_next_hop() {
    let answer =
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4;note=\"a\"\r\ndata\r\n0;last\r\n\r\n"
            .to_vec();
    let upstream = Upstream::always(answer).await;
    let sidecar = Sidecar::start(&upstream.url()).await;
    let mut client = Connection::open(&sidecar.proxy).await;
    client
        .send(b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n2;x=y\r\n{}\r\n0\r\n\r\n")
        .await;
    let got = client.answer().await;
    assert_eq!((got.body.as_slice(), got.whole), (b"data".as_slice(), true));
    assert_eq!(upstream.requests()[0].body, b"2\r\n{}\r\n0\r\n\r\n");
}

/// Sends a request whole and ends the client's side.
async fn ended(sidecar: &Sidecar) -> Connection {
    let mut client = Connection::open(&sidecar.proxy).await;
    client.post("/v1/chat/completions", "", b"{}").await;
    client.end().await;
    client
}

#[tokio::test]
async fn a_client_that_ends_its_side_gets_its_answer() {
    let gate = Gate::default();
    let script = vec![
        Piece::Wait(gate.clone()),
        Piece::Send(STREAM_HEAD.to_vec()),
        Piece::Send(chunk(b"data: one\n\n")),
        Piece::Wait(gate.clone()),
        Piece::Send(chunk(b"data: two\n\n")),
        Piece::Send(LAST_CHUNK.to_vec()),
    ];
    let upstream = Upstream::start(move |_| script.clone()).await;
    let sidecar = Sidecar::start(&upstream.url()).await;
    let mut client = ended(&sidecar).await;
    until("the request to arrive", || (upstream.requests().len() == 1).then_some(())).await;
    // It is asked whether it is still there.
    assert_eq!(client.head().await, CONTINUE);
    assert!(!client.ends_within(Duration::from_millis(300)).await, "the answer is still to come");
    gate.open();
    client.read_until(b"data: one\n\n").await;
    gate.open();
    let answer = client.answer().await;
    assert_eq!((answer.status, answer.whole), (200, true));
    assert!(client.rest().await.is_empty(), "and then the connection ends");
    assert_eq!(sidecar.recorded(1).await[0].ended, Ended::Complete);
}

#[tokio::test]
async fn requests_sent_ahead_of_the_end_are_all_answered() {
    let upstream = Upstream::always(plain("200 OK", "", b"ok")).await;
    let sidecar = Sidecar::start(&upstream.url()).await;
    let mut client = Connection::open(&sidecar.proxy).await;
    client.send("GET /v1/models HTTP/1.1\r\nHost: x\r\n\r\n".repeat(3).as_bytes()).await;
    client.end().await;
    let all = String::from_utf8(client.rest().await).expect("text");
    assert_eq!(all.matches("HTTP/1.1 200 OK").count(), 3, "{all}");
}

#[tokio::test]
async fn a_client_that_ended_its_side_and_then_goes_away_cancels_the_upstream() {
    let upstream = Upstream::start(|_| vec![Piece::UntilClosed]).await;
    let sidecar = Sidecar::start(&upstream.url()).await;
    let client = ended(&sidecar).await;
    until("the request to arrive", || (upstream.requests().len() == 1).then_some(())).await;
    drop(client);
    until("the upstream to see the cancellation", || (upstream.cancelled() == 1).then_some(())).await;
    assert_eq!(sidecar.recorded(1).await[0].ended, Ended::ClientCancelled);
}

#[tokio::test]
async fn a_client_that_ends_in_the_middle_of_its_request_is_gone() {
    let upstream = Upstream::start(|_| vec![Piece::UntilClosed]).await;
    let sidecar = Sidecar::start(&upstream.url()).await;
    let mut client = Connection::open(&sidecar.proxy).await;
    client.send(&upload("", 100)).await;
    client.send(b"a part").await;
    until("the request to arrive", || (upstream.requests().len() == 1).then_some(())).await;
    client.end().await;
    until("the upstream to see the cancellation", || (upstream.cancelled() == 1).then_some(())).await;
    assert_eq!(sidecar.recorded(1).await[0].ended, Ended::ClientCancelled);
}

#[tokio::test]
async fn an_upstream_that_refuses_an_upload_under_way_is_heard() {
    const HUGE: usize = 64 << 20;
    let refusal = plain("413 Content Too Large", "Connection: close\r\n", b"{\"error\":\"too large\"}");
    let script = vec![Piece::Send(refusal), Piece::Cut];
    let upstream = Upstream::start(move |_| script.clone()).await;
    let sidecar = Sidecar::start(&upstream.url()).await;
    for _ in 0..20 {
        let mut client = Connection::open(&sidecar.proxy).await;
        client.send(&upload("", HUGE)).await;
        client.pour(HUGE).await;
        let answer = client.answer().await;
        assert_eq!((answer.status, answer.whole), (413, true));
        assert_eq!(answer.body, b"{\"error\":\"too large\"}");
    }
    let recorded = sidecar.recorded(20).await;
    assert!(recorded.iter().all(|e| e.response.as_ref().is_some_and(|r| r.status == 413)));
}

#[tokio::test]
async fn an_answer_may_overtake_its_request() {
    let gate = Gate::default();
    let script = vec![
        Piece::Send(plain("200 OK", "", b"early")),
        Piece::Wait(gate.clone()),
        Piece::Take(b"first second".to_vec()),
    ];
    let upstream = Upstream::start(move |_| script.clone()).await;
    let sidecar = Sidecar::start(&upstream.url()).await;
    let mut client = Connection::open(&sidecar.proxy).await;
    for _ in 0..2 {
        client.send(&upload("", 12)).await;
        client.send(b"first ").await;
        assert_eq!(client.answer().await.body, b"early");
        gate.open();
        client.send(b"second").await;
    }
    until("both requests to be answered", || (upstream.requests().len() == 2).then_some(())).await;
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn a_hundred_megabytes_pass_both_ways_without_filling_memory() {
    const LENGTH: usize = 100 << 20;
    let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {LENGTH}\r\n\r\n").into_bytes();
    let body = vec![b'y'; LENGTH];
    let upstream = Upstream::start(move |request| {
        if request.body.len() != LENGTH && request.head.starts_with("POST") {
            return vec![Piece::Cut];
        }
        vec![Piece::Send(head.clone()), Piece::Send(body.clone())]
    })
    .await;
    let (data, scratch) =
        (tempfile::tempdir().expect("a directory"), tempfile::tempdir().expect("a directory"));
    let process = Process::start(&upstream.url(), data.path(), scratch.path()).await;
    let before = process.memory();
    let mut most = 0;
    for _ in 0..2 {
        let mut client = Connection::open(&process.proxy).await;
        client
            .send(format!("POST /v1/x HTTP/1.1\r\nHost: x\r\nContent-Length: {LENGTH}\r\n\r\n").as_bytes())
            .await;
        assert_eq!(client.pour(LENGTH).await, LENGTH);
        most = most.max(process.memory());
        client.head().await;
        for _ in 0..100 {
            assert!(client.take(1 << 20).await.iter().all(|b| *b == b'y'));
            most = most.max(process.memory());
        }
    }
    // Up to `capture.max_body` of each body is kept, and written in one piece.
    let grown = most.saturating_sub(before) >> 20;
    assert!(grown < 150, "{grown} MiB for bodies of which 16 MiB each are kept");
}
