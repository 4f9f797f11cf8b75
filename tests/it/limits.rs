//! Each limit of `limits:`, and what happens at it.

use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Empty};
use hyper_util::rt::{TokioExecutor, TokioIo};
use remora::config::{Config, Span};
use remora::model::Ended;
use rustix::process::{Pid, Resource, Rlimit, getrlimit, prlimit, setrlimit};
use tokio::net::TcpStream;

use crate::harness::{
    Connection, Gate, LAST_CHUNK, PATIENCE, Piece, Process, STREAM_HEAD, Sidecar, Upstream, chunk, plain,
    until,
};

const SHORT: Span = Span::millis(200);

async fn upstream() -> Upstream {
    Upstream::always(plain("200 OK", "", b"{}")).await
}

/// A page of metrics from a Remora that is not in this process.
async fn metric(admin: &str, name: &str) -> f64 {
    let mut connection = Connection::open(admin).await;
    connection.send(b"GET /metrics HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n").await;
    let page = String::from_utf8(connection.answer().await.body).expect("metrics are text");
    let line = page.lines().find(|l| l.starts_with(name)).unwrap_or_else(|| panic!("no {name} in\n{page}"));
    line.rsplit(' ').next().and_then(|v| v.parse().ok()).expect("a number ends the line")
}

/// Waits until a metric reaches a value.
async fn reached(admin: &str, name: &str, value: f64) {
    let deadline = tokio::time::Instant::now() + PATIENCE;
    while metric(admin, name).await < value {
        assert!(tokio::time::Instant::now() < deadline, "{name} never reached {value}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test]
async fn a_head_that_takes_too_long_ends_the_connection_however_it_drips() {
    let upstream = upstream().await;
    let sidecar = Sidecar::configured(&upstream.url(), |c| c.limits.header_timeout = SHORT).await;
    // On a fresh connection, and on one that has served.
    for served in [false, true] {
        let mut connection = Connection::open(&sidecar.proxy).await;
        if served {
            connection.post("/v1/x", "", b"{}").await;
            assert_eq!(connection.answer().await.status, 200);
        }
        connection.send(b"GET / HTTP/1.1\r\nHost: x\r\nX: ").await;
        let begun = tokio::time::Instant::now();
        while connection.try_send(b"x").await {
            assert!(begun.elapsed() < PATIENCE, "it never ends");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        assert!(begun.elapsed() >= SHORT.0, "it ended too early");
    }
    assert!(sidecar.metric("remora_connections_cut_total{reason=\"header_timeout\"}").await >= 2.0);
    assert_eq!(upstream.requests().len(), 1);
}

#[tokio::test]
async fn a_connection_at_rest_is_closed_in_order_and_one_that_waits_for_its_answer_is_not() {
    let gate = Gate::default();
    let script = {
        let gate = gate.clone();
        move |first: bool| {
            if first {
                vec![Piece::Send(plain("200 OK", "", b"at once"))]
            } else {
                vec![Piece::Wait(gate.clone()), Piece::Send(plain("200 OK", "", b"at last"))]
            }
        }
    };
    let upstream = Upstream::start(move |r| script(r.head.starts_with("POST /at-once"))).await;
    let sidecar = Sidecar::configured(&upstream.url(), |c| {
        c.limits.keep_alive = SHORT;
        c.limits.header_timeout = SHORT;
        c.limits.body_timeout = SHORT;
        c.limits.write_timeout = SHORT;
    })
    .await;
    let mut waiting = Connection::open(&sidecar.proxy).await;
    waiting.post("/at-last", "", b"{}").await;
    let begun = tokio::time::Instant::now();
    let mut silent = Connection::open(&sidecar.proxy).await;
    let mut resting = Connection::open(&sidecar.proxy).await;
    resting.post("/at-once", "", b"{}").await;
    assert_eq!(resting.answer().await.body, b"at once");
    assert!(resting.rest().await.is_empty() && silent.rest().await.is_empty());
    assert!(begun.elapsed() >= SHORT.0);
    tokio::time::sleep_until(begun + SHORT.0 * 3).await;
    gate.open();
    assert_eq!(waiting.answer().await.body, b"at last");
    // Nothing of it is a fault.
    let page = String::from_utf8(sidecar.page("/metrics").await.body).expect("text");
    assert!(
        page.lines().filter(|l| l.starts_with("remora_connections_cut_total")).all(|l| l.ends_with(" 0")),
        "{page}"
    );
}

#[tokio::test]
async fn an_http2_connection_at_rest_is_told_goodbye() {
    let upstream = upstream().await;
    let sidecar = Sidecar::configured(&upstream.url(), |c| c.limits.keep_alive = SHORT).await;
    let (mut client, connection) = http2(&sidecar).await;
    let answer = client.send_request(get(&sidecar, "/v1/x")).await.expect("an answer");
    drop(answer.into_body().collect().await.expect("a body"));
    // An end without GOAWAY would be an error.
    tokio::time::timeout(PATIENCE, connection)
        .await
        .expect("it ends")
        .expect("no task panics")
        .expect("in order");
}

type Http2 = hyper::client::conn::http2::SendRequest<Empty<Bytes>>;

async fn http2(sidecar: &Sidecar) -> (Http2, tokio::task::JoinHandle<hyper::Result<()>>) {
    let address = sidecar.proxy.strip_prefix("http://").expect("plain");
    let stream = TcpStream::connect(address).await.expect("the proxy listens");
    let (client, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.expect("h2");
    (client, tokio::spawn(connection))
}

fn get(sidecar: &Sidecar, path: &str) -> http::Request<Empty<Bytes>> {
    http::Request::get(format!("{}{path}", sidecar.proxy)).body(Empty::new()).expect("a request")
}

#[tokio::test]
async fn a_body_that_stops_coming_is_answered_408_and_recorded() {
    let upstream = upstream().await;
    let sidecar = Sidecar::configured(&upstream.url(), |c| c.limits.body_timeout = SHORT).await;
    for head in ["Content-Length: 10", "Transfer-Encoding: chunked"] {
        let mut connection = Connection::open(&sidecar.proxy).await;
        connection.send(format!("POST /v1/x HTTP/1.1\r\nHost: x\r\n{head}\r\n\r\n").as_bytes()).await;
        connection.send(b"5\r\nhel").await;
        let answer = String::from_utf8_lossy(&connection.rest().await).into_owned();
        assert!(answer.starts_with("HTTP/1.1 408 ") && answer.contains("slow_request"), "{answer}");
    }
    let recorded = sidecar.recorded(2).await;
    for exchange in &recorded {
        assert_eq!(exchange.ended, Ended::ClientCancelled);
        let detail = exchange.detail.as_deref().unwrap_or_default();
        assert!(detail.contains("sent nothing of the request's body for 200ms"), "{detail}");
    }
    assert_eq!(recorded[0].request_body.bytes, "5\r\nhel");
    assert_eq!(sidecar.metric("remora_connections_cut_total{reason=\"body_timeout\"}").await, 2.0);
    assert!(upstream.requests().is_empty(), "it never had a whole request");
}

#[tokio::test]
async fn a_body_that_comes_slowly_but_comes_is_let_through() {
    let upstream = upstream().await;
    let sidecar = Sidecar::configured(&upstream.url(), |c| {
        c.limits.body_timeout = Span::millis(1000);
        c.limits.header_timeout = SHORT;
        c.limits.keep_alive = SHORT;
    })
    .await;
    let mut connection = Connection::open(&sidecar.proxy).await;
    connection.send(b"POST /v1/x HTTP/1.1\r\nHost: x\r\nContent-Length: 20\r\n\r\n").await;
    for _ in 0..20 {
        connection.send(b"x").await;
        tokio::time::sleep(Duration::from_millis(60)).await;
    }
    assert_eq!(connection.answer().await.status, 200);
    assert_eq!(upstream.requests()[0].body, [b'x'; 20]);
}

fn endless() -> Vec<Piece> {
    const HUGE: usize = 256 << 20;
    let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {HUGE}\r\n\r\n").into_bytes();
    vec![Piece::Send(head), Piece::Send(vec![b'x'; HUGE])]
}

fn small_capture(config: &mut Config) {
    config.capture.max_body = bytesize::ByteSize::kib(64);
}

#[tokio::test]
async fn a_client_that_does_not_read_its_answer_is_cut_and_the_upstream_cancelled() {
    let upstream = Upstream::start(|_| endless()).await;
    let sidecar = Sidecar::configured(&upstream.url(), |c| {
        small_capture(c);
        c.limits.write_timeout = SHORT;
    })
    .await;
    let mut connection = Connection::open(&sidecar.proxy).await;
    connection.post("/v1/x", "", b"{}").await;
    connection.read_until(b"xxx").await;
    until("the upstream to be cancelled", || (upstream.cancelled() == 1).then_some(())).await;
    let recorded = sidecar.recorded(1).await;
    assert_eq!(recorded[0].ended, Ended::ClientCancelled);
    assert_eq!(sidecar.metric("remora_connections_cut_total{reason=\"write_timeout\"}").await, 1.0);
}

#[tokio::test]
async fn an_http2_client_that_does_not_read_its_answer_is_cut_and_the_upstream_cancelled() {
    let upstream = Upstream::start(|_| endless()).await;
    let sidecar = Sidecar::configured(&upstream.url(), |c| {
        small_capture(c);
        c.limits.write_timeout = SHORT;
    })
    .await;
    let (mut client, _connection) = http2(&sidecar).await;
    let answer = client.send_request(get(&sidecar, "/v1/x")).await.expect("an answer");
    let mut body = answer.into_body();
    body.frame().await.expect("a frame").expect("no break");
    // The socket is read all the time; it is the stream's window that stays closed.
    until("the upstream to be cancelled", || (upstream.cancelled() == 1).then_some(())).await;
    assert_eq!(sidecar.metric("remora_connections_cut_total{reason=\"write_timeout\"}").await, 1.0);
}

#[tokio::test]
async fn a_stream_with_long_pauses_is_not_taken_for_a_slow_reader() {
    let gate = Gate::default();
    let script = vec![
        Piece::Send(STREAM_HEAD.to_vec()),
        Piece::Send(chunk(b"data: one\n\n")),
        Piece::Wait(gate.clone()),
        Piece::Send(chunk(b"data: two\n\n")),
        Piece::Send(LAST_CHUNK.to_vec()),
    ];
    let upstream = Upstream::start(move |_| script.clone()).await;
    let sidecar = Sidecar::configured(&upstream.url(), |c| {
        c.limits.write_timeout = SHORT;
        c.limits.keep_alive = SHORT;
    })
    .await;
    let (mut client, _connection) = http2(&sidecar).await;
    let mut body = client.send_request(get(&sidecar, "/v1/x")).await.expect("an answer").into_body();
    body.frame().await.expect("a frame").expect("no break");
    tokio::time::sleep(SHORT.0 * 3).await;
    gate.open();
    assert_eq!(body.collect().await.expect("no break").to_bytes(), "data: two\n\n");
}

#[tokio::test]
async fn a_head_too_large_or_of_too_many_headers_is_answered_431() {
    let upstream = upstream().await;
    let sidecar = Sidecar::configured(&upstream.url(), |c| {
        c.limits.header_size = bytesize::ByteSize::kib(8);
        c.limits.headers = 5;
    })
    .await;
    for headers in [format!("X: {}\r\n", "x".repeat(9000)), "X: 1\r\n".repeat(5), "X: 1\r\n".repeat(500)] {
        let mut connection = Connection::open(&sidecar.proxy).await;
        connection.send(format!("GET /v1/x HTTP/1.1\r\nHost: x\r\n{headers}\r\n").as_bytes()).await;
        let answer = String::from_utf8_lossy(&connection.rest().await).into_owned();
        assert!(answer.starts_with("HTTP/1.1 431 "), "{answer}");
    }
    assert!(upstream.requests().is_empty());
    let mut connection = Connection::open(&sidecar.proxy).await;
    let headers = format!("X: {}\r\n{}", "x".repeat(7000), "X: 1\r\n".repeat(3));
    connection.send(format!("GET /v1/x HTTP/1.1\r\nHost: x\r\n{headers}\r\n").as_bytes()).await;
    assert_eq!(connection.answer().await.status, 200);
    assert_eq!(sidecar.metric("remora_requests_refused_total{reason=\"headers_too_large\"}").await, 3.0);
}

#[tokio::test]
async fn heads_of_8_megabytes_are_answered_431_and_cost_no_memory() {
    let upstream = upstream().await;
    let folders = [tempfile::tempdir().expect("a folder"), tempfile::tempdir().expect("a folder")];
    let process = Process::start(&upstream.url(), folders[0].path(), folders[1].path()).await;
    let before = process.kib("VmHWM");
    let flood = vec![b'x'; 8 << 20];
    let tasks: Vec<_> = (0..20)
        .map(|_| {
            let (proxy, flood) = (process.proxy.clone(), flood.clone());
            tokio::spawn(async move {
                let mut connection = Connection::open(&proxy).await;
                connection.send(b"GET / HTTP/1.1\r\nHost: x\r\nX: ").await;
                connection.try_send(&flood).await;
                let answer = connection.rest().await;
                assert!(answer.starts_with(b"HTTP/1.1 431 "), "{}", String::from_utf8_lossy(&answer));
            })
        })
        .collect();
    for task in tasks {
        task.await.expect("answered");
    }
    let grown = process.kib("VmHWM") - before;
    assert!(grown < 20 << 10, "{grown} KiB more for 160 MiB of headers");
}

#[tokio::test]
async fn connections_beyond_the_limit_wait_until_one_closes() {
    let upstream = upstream().await;
    let sidecar = Sidecar::configured(&upstream.url(), |c| c.limits.connections = 2).await;
    let mut open = Vec::new();
    for _ in 0..2 {
        let mut connection = Connection::open(&sidecar.proxy).await;
        connection.post("/v1/x", "", b"{}").await;
        assert_eq!(connection.answer().await.status, 200);
        open.push(connection);
    }
    let mut third = Connection::open(&sidecar.proxy).await;
    third.post("/v1/x", "", b"{}").await;
    reached(&sidecar.admin, "remora_connections_full_total", 1.0).await;
    assert_eq!(sidecar.metric("remora_connections ").await, 2.0);
    // Those that are open are served all the same.
    open[0].post("/v1/x", "", b"{}").await;
    assert_eq!(open[0].answer().await.status, 200);
    assert_eq!(upstream.requests().len(), 3);
    open.pop();
    assert_eq!(third.answer().await.status, 200);
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn without_file_descriptors_open_connections_are_served_and_new_ones_wait() {
    let gates = [Gate::default(), Gate::default()];
    let script = {
        let gates = gates.clone();
        move |head: &str| {
            let gate = gates.iter().enumerate().find(|(i, _)| head.starts_with(&format!("POST /wait/{i} ")));
            let answer = Piece::Send(plain("200 OK", "", b"{}"));
            gate.map(|(_, gate)| Piece::Wait(gate.clone())).into_iter().chain([answer]).collect()
        }
    };
    let upstream = Upstream::start(move |r| script(&r.head)).await;
    let folders = [tempfile::tempdir().expect("a folder"), tempfile::tempdir().expect("a folder")];
    let process = Process::start(&upstream.url(), folders[0].path(), folders[1].path()).await;
    let id = Pid::from_raw(process.pid().cast_signed()).expect("a process id");
    // Two at once leave two connections to the upstream in the pool: one may not be back yet when it is wanted again.
    let mut both = [Connection::open(&process.proxy).await, Connection::open(&process.proxy).await];
    for (i, connection) in both.iter_mut().enumerate() {
        connection.post(&format!("/wait/{i}"), "", b"{}").await;
    }
    until("both to arrive", || (upstream.requests().len() == 2).then_some(())).await;
    for (gate, connection) in gates.iter().zip(&mut both) {
        gate.open();
        assert_eq!(connection.answer().await.status, 200);
    }
    let [mut open, _other] = both;

    let fds = std::fs::read_dir(format!("/proc/{}/fd", process.pid())).expect("it runs").count();
    let before = getrlimit(Resource::Nofile);
    let short = Rlimit { current: Some(fds as u64), maximum: before.maximum };
    prlimit(Some(id), Resource::Nofile, short).expect("it is our child");
    // More than may yet find one that is closed in the meantime.
    let mut waiting = Vec::new();
    for _ in 0..10 {
        waiting.push(Connection::open(&process.proxy).await);
    }
    // Nothing new can be opened, so the metrics cannot be asked for; that connection is served is what counts.
    for _ in 0..20 {
        open.post("/v1/x", "", b"{}").await;
        assert_eq!(open.answer().await.status, 200);
    }
    prlimit(Some(id), Resource::Nofile, Rlimit { current: before.maximum, maximum: before.maximum })
        .expect("it is our child");
    for connection in &mut waiting {
        connection.post("/v1/x", "", b"{}").await;
        assert_eq!(connection.answer().await.status, 200);
    }
    let failed = metric(&process.admin, "remora_accept_failed_total").await;
    assert!((1.0..1000.0).contains(&failed), "accepting failed {failed} times: never, or without a pause");
}

/// How many idle connections the test holds: `REMORA_TEST_IDLE`, or as many as are promised.
fn idle() -> usize {
    std::env::var("REMORA_TEST_IDLE").ok().and_then(|n| n.parse().ok()).unwrap_or(10_000)
}

/// Opens connections; those that are `served` have had a request answered.
async fn hold(process: &Process, count: usize, served: bool) -> Vec<Connection> {
    let mut open = Vec::with_capacity(count);
    for _ in 0..count {
        let mut connection = Connection::open(&process.proxy).await;
        if served {
            connection.post("/v1/x", "", b"{}").await;
            assert_eq!(connection.answer().await.status, 200);
        }
        open.push(connection);
    }
    open
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn ten_thousand_idle_connections_are_held_for_little_memory() {
    let limit = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum })
        .expect("the hard limit is allowed");
    // The proxy leaves a quarter of its descriptors to the rest.
    let room = limit.maximum.map_or(usize::MAX, |n| usize::try_from(n).expect("a count") * 3 / 4 - 64);
    let wanted = idle();
    let count = wanted.min(room);
    if count < wanted {
        eprintln!("ATTENTION: the limit of open files allows {count} idle connections only, not {wanted}");
    }
    let upstream = upstream().await;
    let folders = [tempfile::tempdir().expect("a folder"), tempfile::tempdir().expect("a folder")];
    let process = Process::start(&upstream.url(), folders[0].path(), folders[1].path()).await;
    let mut first = hold(&process, 1, true).await.remove(0);
    // What the allocator has got back it would give again: those that cost more come first.
    let served = count.min(1000);
    let before = process.kib("VmRSS");
    let resting_ones = hold(&process, served, true).await;
    let resting = process.kib("VmRSS").saturating_sub(before) as f64 / served as f64;
    let before = process.kib("VmRSS");
    let silent_ones = hold(&process, count - served, false).await;
    reached(&process.admin, "remora_connections ", count as f64 + 1.0).await;
    let silent = (process.kib("VmRSS") - before) as f64 / (count - served).max(1) as f64;
    // In the midst of them one is served, and a new one.
    first.post("/v1/x", "", b"{}").await;
    assert_eq!(first.answer().await.status, 200);
    drop(hold(&process, 1, true).await);
    drop((resting_ones, silent_ones));
    eprintln!(
        "{count} silent connections: {silent:.2} KiB each; {served} resting after a request: {resting:.2} KiB each"
    );
    assert!(silent < 8.0, "{silent} KiB for a connection that said nothing");
    assert!(resting < 48.0, "{resting} KiB for a connection at rest");
}

/// HTTP/2 by hand (RFC 9113 §4.1): what a well-behaved client library would not send.
fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).expect("a short frame").to_be_bytes();
    let mut bytes = vec![length[1], length[2], length[3], kind, flags];
    bytes.extend_from_slice(&stream.to_be_bytes());
    bytes.extend_from_slice(payload);
    bytes
}

const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const CONTINUATION: u8 = 9;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;

fn preface() -> Vec<u8> {
    [b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec(), frame(SETTINGS, 0, 0, &[])].concat()
}

/// `GET http://x/` (RFC 7541: three entries of the static table, and a literal).
const GET: &[u8] = &[0x82, 0x84, 0x86, 0x41, 1, b'x'];

/// Whether the server has said goodbye because of how the client behaves: GOAWAY with ENHANCE_YOUR_CALM, or the end.
fn calmed(bytes: &[u8]) -> bool {
    bytes.windows(4).any(|w| w == [0, 0, 0, 0xb])
}

#[tokio::test]
async fn rapid_resets_end_the_connection_and_no_other() {
    let upstream = Upstream::start(|_| vec![Piece::UntilClosed]).await;
    let sidecar = Sidecar::start(&upstream.url()).await;
    let mut attacker = Connection::open(&sidecar.proxy).await;
    attacker.send(&preface()).await;
    let mut flood = Vec::new();
    for i in 0..2000_u32 {
        flood.extend(frame(HEADERS, END_HEADERS | END_STREAM, 2 * i + 1, GET));
        flood.extend(frame(RST_STREAM, 0, 2 * i + 1, &8_u32.to_be_bytes()));
    }
    attacker.try_send(&flood).await;
    let said = attacker.rest().await;
    assert!(calmed(&said), "{} bytes", said.len());
    assert!(upstream.requests().len() < 200, "{} reached the upstream", upstream.requests().len());
    let (mut client, _connection) = http2(&sidecar).await;
    let answer = client.send_request(get(&sidecar, "/remora/nothing")).await.expect("others are served");
    assert_eq!(answer.status(), 404);
}

#[tokio::test]
async fn a_flood_of_continuations_ends_the_connection() {
    let upstream = upstream().await;
    let sidecar = Sidecar::start(&upstream.url()).await;
    let mut attacker = Connection::open(&sidecar.proxy).await;
    attacker.send(&preface()).await;
    attacker.send(&frame(HEADERS, END_STREAM, 1, GET)).await;
    // A literal header without indexing, again and again, without an end.
    let header = [&[0, 1, b'a', 100][..], &[b'x'; 100]].concat();
    let more = frame(CONTINUATION, 0, 1, &header.repeat(150));
    let mut sent = 0;
    while attacker.try_send(&more).await {
        sent += more.len();
        assert!(sent < 256 << 20, "it takes all of it");
        tokio::task::yield_now().await;
    }
    assert!(upstream.requests().is_empty());
    assert_eq!(sidecar.post("/v1/x", "", b"{}").await.status, 200);
}

#[tokio::test]
async fn http2_headers_of_one_hop_are_refused() {
    let upstream = upstream().await;
    let sidecar = Sidecar::start(&upstream.url()).await;
    let mut attacker = Connection::open(&sidecar.proxy).await;
    attacker.send(&preface()).await;
    let name = b"transfer-encoding";
    let literal = [&[0, name.len() as u8][..], name, &[7], b"chunked"].concat();
    attacker.send(&frame(HEADERS, END_HEADERS | END_STREAM, 1, &[GET, &literal].concat())).await;
    // RST_STREAM of stream 1 with PROTOCOL_ERROR.
    attacker.read_until(&frame(RST_STREAM, 0, 1, &1_u32.to_be_bytes())).await;
    assert!(upstream.requests().is_empty());
}
