//! What the client sends is what the upstream gets, and back.

use crate::harness::{
    Connection, Gate, LAST_CHUNK, Piece, STREAM_HEAD, Sidecar, Upstream, chunk, plain, until,
};

#[tokio::test]
async fn a_request_arrives_with_its_bytes_its_header_order_and_case() {
    let upstream = Upstream::always(plain("200 OK", "", b"{}")).await;
    let sidecar = Sidecar::start(&upstream.url()).await;
    let body = b"{ \"odd\" :  [1,2 ,3],\n\n\"trailing\": \"space\" }   ";
    let headers = "X-First: 1\r\nauthorization: Bearer k\r\nX-sEcOnD: two\r\nAccept: */*\r\n";
    let answer = sidecar.post("/v1/chat/completions?a=b&c", headers, body).await;
    assert_eq!(answer.status, 200);

    let seen = &upstream.requests()[0];
    assert_eq!(seen.body, body);
    let host = upstream.url().replace("http://", "");
    let expected = format!(
        "POST /v1/chat/completions?a=b&c HTTP/1.1\r\nHost: {host}\r\n{headers}Content-Length: {}",
        body.len()
    );
    assert_eq!(seen.head, expected);
}

#[tokio::test]
async fn an_answer_arrives_with_its_bytes_its_header_order_and_case() {
    let raw =
        plain("418 Short And Stout", "X-TeA: 1\r\nX-Request-Id: abc\r\nDate: then\r\n", b"not json \xff\x00");
    let upstream = Upstream::always(raw.clone()).await;
    let sidecar = Sidecar::start(&upstream.url()).await;
    let mut connection = Connection::open(&sidecar.proxy).await;
    connection.post("/anything", "", b"").await;
    assert_eq!(connection.read_until(b"\xff\x00").await, raw);
}

#[tokio::test]
async fn any_method_and_path_goes_through_below_the_upstreams_path() {
    let upstream = Upstream::always(plain("200 OK", "", b"")).await;
    let sidecar = Sidecar::start(&format!("{}/base/", upstream.url())).await;
    for line in ["DELETE /v1/files/x%2Fy", "PATCH /", "OPTIONS /v1", "BREW /pot?sugar=2"] {
        let mut connection = Connection::open(&sidecar.proxy).await;
        connection.send(format!("{line} HTTP/1.1\r\nHost: x\r\n\r\n").as_bytes()).await;
        assert_eq!(connection.answer().await.status, 200);
        let expected = line.replacen(" /", " /base/", 1);
        let head = upstream.requests().last().expect("it came through").head.clone();
        assert!(head.starts_with(&expected), "{line}: {head}");
    }
}

#[tokio::test]
async fn a_stream_reaches_the_client_piece_by_piece() {
    let gate = Gate::default();
    let script = vec![
        Piece::Send(STREAM_HEAD.to_vec()),
        Piece::Send(chunk(b"data: one\n\n")),
        Piece::Wait(gate.clone()),
        Piece::Send(chunk(b"data: two\n\n")),
        Piece::Send(LAST_CHUNK.to_vec()),
    ];
    let upstream = Upstream::start(move |_| script.clone()).await;
    let sidecar = Sidecar::start(&upstream.url()).await;
    let mut connection = Connection::open(&sidecar.proxy).await;
    connection.post("/v1/chat/completions", "", b"{}").await;
    // The upstream goes on only after the client has the first piece.
    connection.read_until(b"data: one\n\n").await;
    gate.open();
    let answer = connection.answer().await;
    assert!(answer.whole);
    assert_eq!(answer.body, b"data: one\n\ndata: two\n\n");
    assert_eq!(
        sidecar.exchanges()[0].response.as_ref().expect("answered").body.bytes,
        "data: one\n\ndata: two\n\n"
    );
}

#[tokio::test]
async fn an_upload_streams_to_the_upstream_before_it_ends() {
    let upstream = Upstream::always(plain("200 OK", "", b"ok")).await;
    let sidecar = Sidecar::start(&upstream.url()).await;
    let mut connection = Connection::open(&sidecar.proxy).await;
    connection.send(b"POST /v1/files HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n").await;
    connection.send(&chunk(b"first ")).await;
    connection.send(&chunk(b"second")).await;
    connection.send(LAST_CHUNK).await;
    assert_eq!(connection.answer().await.status, 200);
    let body = upstream.requests()[0].body.clone();
    assert!(
        body.ends_with(LAST_CHUNK) && !upstream.requests()[0].head.to_lowercase().contains("content-length")
    );
    assert_eq!(sidecar.exchanges()[0].request_body.bytes, "first second");
}

#[tokio::test]
async fn a_client_that_goes_away_cancels_the_upstream() {
    let script =
        vec![Piece::Send(STREAM_HEAD.to_vec()), Piece::Send(chunk(b"data: one\n\n")), Piece::UntilClosed];
    let upstream = Upstream::start(move |_| script.clone()).await;
    let sidecar = Sidecar::start(&upstream.url()).await;
    let mut connection = Connection::open(&sidecar.proxy).await;
    connection.post("/v1/chat/completions", "", b"{}").await;
    connection.read_until(b"data: one\n\n").await;
    drop(connection);
    until("the upstream to see the cancellation", || (upstream.cancelled() == 1).then_some(())).await;
    let recorded = sidecar.recorded(1).await;
    assert_eq!(recorded[0].ended, remora::model::Ended::ClientCancelled);
    assert_eq!(recorded[0].response.as_ref().expect("the head came").body.bytes, "data: one\n\n");
}

#[tokio::test]
async fn a_client_that_goes_away_before_the_answer_cancels_the_upstream() {
    let upstream = Upstream::start(|_| vec![Piece::UntilClosed]).await;
    let sidecar = Sidecar::start(&upstream.url()).await;
    let mut connection = Connection::open(&sidecar.proxy).await;
    connection.post("/v1/chat/completions", "", b"{\"q\":1}").await;
    until("the request to arrive", || (upstream.requests().len() == 1).then_some(())).await;
    drop(connection);
    until("the upstream to see the cancellation", || (upstream.cancelled() == 1).then_some(())).await;
    let recorded = sidecar.recorded(1).await;
    assert_eq!(recorded[0].ended, remora::model::Ended::ClientCancelled);
    assert!(recorded[0].response.is_none());
    assert_eq!(recorded[0].request_body.bytes, "{\"q\":1}");
}

#[tokio::test]
async fn an_upstream_that_breaks_off_is_seen_as_a_break() {
    let answers: [Vec<u8>; 2] = [
        b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf".to_vec(),
        [STREAM_HEAD, &chunk(b"half")].concat(),
    ];
    for raw in answers {
        let script = vec![Piece::Send(raw), Piece::Cut];
        let upstream = Upstream::start(move |_| script.clone()).await;
        let sidecar = Sidecar::start(&upstream.url()).await;
        let answer = sidecar.post("/v1/chat/completions", "", b"{}").await;
        assert_eq!((answer.status, answer.whole), (200, false));
        assert_eq!(answer.body, b"half");
        let recorded = sidecar.recorded(1).await;
        assert_eq!(recorded[0].ended, remora::model::Ended::UpstreamReset);
        assert_eq!(recorded[0].response.as_ref().expect("the head came").body.bytes, "half");
    }
}

#[tokio::test]
async fn a_slow_reader_holds_the_upstream_back() {
    const HUGE: usize = 256 << 20;
    let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {HUGE}\r\n\r\n").into_bytes();
    let upstream =
        Upstream::start(move |_| vec![Piece::Send(head.clone()), Piece::Send(vec![b'x'; HUGE])]).await;
    let sidecar =
        Sidecar::configured(&upstream.url(), |c| c.capture.max_body = bytesize::ByteSize::kib(64)).await;
    let mut connection = Connection::open(&sidecar.proxy).await;
    connection.post("/v1/files", "", b"").await;
    connection.read_until(b"xxx").await;
    // Nobody reads: what the upstream could write settles, at what the sockets' and the proxy's buffers hold.
    let mut before = usize::MAX;
    until("the upstream to be held back", || {
        let now = upstream.written();
        let settled = now == before;
        before = now;
        std::thread::sleep(std::time::Duration::from_millis(100));
        settled.then_some(())
    })
    .await;
    assert!(before < HUGE / 4, "{before} bytes were taken although nobody read");
}

#[tokio::test]
async fn http2_clients_are_served_over_one_connection() {
    use http_body_util::{BodyExt, Full};
    let upstream = Upstream::start(|r| {
        vec![Piece::Send(plain("200 OK", "", r.head.lines().next().unwrap_or("").as_bytes()))]
    })
    .await;
    let sidecar = Sidecar::start(&upstream.url()).await;
    let client = hyper_util::client::legacy::Client::builder(hyper_util::rt::TokioExecutor::new())
        .http2_only(true)
        .build_http::<Full<bytes::Bytes>>();
    let sent = (0..20).map(|i| {
        let request = http::Request::post(format!("{}/v1/n/{i}", sidecar.proxy))
            .body(Full::from("{}"))
            .expect("a request");
        let client = client.clone();
        async move {
            let response = client.request(request).await.expect("an answer");
            assert_eq!(response.version(), http::Version::HTTP_2);
            let body = response.into_body().collect().await.expect("a body").to_bytes();
            assert_eq!(body, format!("POST /v1/n/{i} HTTP/1.1"));
        }
    });
    for one in sent {
        one.await;
    }
    assert_eq!(sidecar.exchanges().len(), 20);
}

#[tokio::test]
async fn headers_for_remora_are_not_forwarded() {
    let upstream = Upstream::always(plain("200 OK", "", b"{}")).await;
    let sidecar = Sidecar::start(&upstream.url()).await;
    sidecar.post("/v1/x", "X-Remora-Session: s1\r\nX-Remora-App: desk\r\nX-Other: 1\r\n", b"{}").await;
    let head = upstream.requests()[0].head.to_lowercase();
    assert!(!head.contains("x-remora") && head.contains("x-other: 1"), "{head}");
    assert_eq!(sidecar.exchanges()[0].scope.to_string(), "default/desk");
}
