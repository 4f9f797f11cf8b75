use std::time::{Duration, Instant};

use remora::model::Ended;
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use crate::harness::{Authority, Connection, Gate, LAST_CHUNK, Piece, STREAM_HEAD, Sidecar, Upstream, chunk};

fn event(text: &str) -> String {
    let delta = json!({"id": "c", "object": "chat.completion.chunk", "model": "m",
        "choices": [{"index": 0, "delta": {"role": "assistant", "content": text}, "finish_reason": null}]});
    format!("data: {delta}")
}

#[tokio::test]
async fn a_stream_torn_at_every_byte_arrives_and_is_read_whole() {
    for newline in ["\n", "\r\n", "\r"] {
        let text = "世界 🌍 é — fin";
        let stream: String = [&event(&text[..6]), ": ping", &event(&text[6..]), "data: [DONE]"]
            .map(|line| format!("{line}{newline}{newline}"))
            .concat();
        let torn: Vec<u8> = stream.bytes().flat_map(|byte| chunk(&[byte])).collect();
        let script = vec![Piece::Send([STREAM_HEAD, &torn, LAST_CHUNK].concat())];
        let upstream = Upstream::start(move |_| script.clone()).await;
        let sidecar = Sidecar::start(&upstream.url()).await;
        let answer = sidecar.post("/v1/chat/completions", "", b"{\"stream\":true}").await;
        assert_eq!((answer.body.as_slice(), answer.whole), (stream.as_bytes(), true), "{newline:?}");
        let reading = remora::wire::read(&sidecar.recorded(1).await[0]);
        assert_eq!(reading.choices[0].message.text, text, "{newline:?}");
    }
}

#[tokio::test]
async fn pings_and_slow_first_tokens_pass_at_once() {
    let gate = Gate::default();
    let script = vec![
        Piece::Send(STREAM_HEAD.to_vec()),
        Piece::Wait(gate.clone()),
        Piece::Send(chunk(b": ping\n\n")),
        Piece::Wait(gate.clone()),
        Piece::Send(chunk(b"event: message_start\n")),
        Piece::Wait(gate.clone()),
        Piece::Send(chunk(b"data: {}\n\n")),
        Piece::Send(LAST_CHUNK.to_vec()),
    ];
    let upstream = Upstream::start(move |_| script.clone()).await;
    let sidecar = Sidecar::start(&upstream.url()).await;
    let mut client = Connection::open(&sidecar.proxy).await;
    client.post("/v1/messages", "", b"{\"stream\":true}").await;
    // Each gate is opened only when the client has all that came before it: nothing may be held back.
    client.read_until(b"\r\n\r\n").await;
    gate.open();
    client.read_until(b": ping\n\n").await;
    gate.open();
    client.read_until(b"event: message_start\n").await;
    gate.open();
    assert!(client.answer().await.whole);
}

#[tokio::test]
async fn small_pieces_do_not_wait_for_acknowledgements() {
    let mut fastest = Duration::MAX;
    for _ in 0..10 {
        let gate = Gate::default();
        let script = vec![
            Piece::Send(STREAM_HEAD.to_vec()),
            Piece::Send(chunk(b"one")),
            Piece::Wait(gate.clone()),
            Piece::Send(chunk(b"two")),
            Piece::Send(chunk(b"three")),
            Piece::Send(LAST_CHUNK.to_vec()),
        ];
        let upstream = Upstream::start(move |_| script.clone()).await;
        let sidecar = Sidecar::start(&upstream.url()).await;
        let mut client = Connection::open(&sidecar.proxy).await;
        client.post("/v1/chat/completions", "", b"{}").await;
        client.read_until(b"one").await;
        let asked = Instant::now();
        gate.open();
        client.read_until(b"three").await;
        fastest = fastest.min(asked.elapsed());
    }
    // Nagle's algorithm against delayed acknowledgements costs 40 ms each time; a busy machine does not.
    assert!(fastest < Duration::from_millis(25), "{fastest:?}");
}

/// How the server ends the connection after its answer.
#[derive(Clone, Copy, Debug, PartialEq)]
enum End {
    Notified,
    /// Without the alert that says that nothing was cut off.
    Silent,
}

/// A server over TLS that sends bytes and closes at once.
async fn closing(authority: &Authority, answer: Vec<u8>, end: End) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let url = format!("https://{}", listener.local_addr().expect("bound"));
    let acceptor = authority.server(&[b"http/1.1"], None);
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let (acceptor, answer) = (acceptor.clone(), answer.clone());
            tokio::spawn(async move {
                let mut tls = acceptor.accept(stream).await.expect("a handshake");
                let mut request = [0; 4096];
                let n = tls.read(&mut request).await.expect("a request");
                assert!(n > 0);
                tls.write_all(&answer).await.expect("it is read");
                tls.flush().await.expect("it is read");
                match end {
                    End::Notified => tls.shutdown().await.expect("it is open"),
                    End::Silent => tls.get_mut().0.shutdown().await.expect("it is open"),
                }
            });
        }
    });
    url
}

/// 16 MiB in one event.
fn huge() -> Vec<u8> {
    [b"data: \"".as_slice(), &vec![b'x'; 16 << 20], b"\"\n\n"].concat()
}

#[tokio::test]
async fn a_huge_event_before_an_immediate_close_arrives_whole() {
    let event = huge();
    let bodies = [
        [STREAM_HEAD, &chunk(&event), LAST_CHUNK].concat(),
        [format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", event.len()).as_bytes(), &event].concat(),
    ];
    let authority = Authority::new();
    let folder = tempfile::tempdir().expect("a temporary directory");
    let ca = folder.path().join("ca.pem");
    authority.write(&ca);
    for body in bodies {
        let script = vec![Piece::Send(body.clone()), Piece::Cut];
        let plain = Upstream::start(move |_| script.clone()).await;
        let notified = closing(&authority, body.clone(), End::Notified).await;
        let silent = closing(&authority, body.clone(), End::Silent).await;
        for url in [plain.url(), notified, silent] {
            let sidecar = Sidecar::configured(&url, |c| c.upstream.ca = Some(ca.clone())).await;
            let answer = sidecar.post("/v1/chat/completions", "", b"{}").await;
            assert!(answer.whole && answer.body == event, "{url}: {} bytes came", answer.body.len());
            assert_eq!(
                sidecar.recorded(1).await[0].response.as_ref().expect("answered").body.length,
                event.len() as u64
            );
        }
    }
}

#[tokio::test]
async fn over_tls_a_body_that_only_the_end_delimits_must_end_with_notice() {
    let authority = Authority::new();
    let folder = tempfile::tempdir().expect("a temporary directory");
    let ca = folder.path().join("ca.pem");
    authority.write(&ca);
    for (end, whole) in [(End::Notified, true), (End::Silent, false)] {
        let url = closing(&authority, b"HTTP/1.1 200 OK\r\n\r\ndata: 1\n\n".to_vec(), end).await;
        let sidecar = Sidecar::configured(&url, |c| c.upstream.ca = Some(ca.clone())).await;
        let answer = sidecar.post("/v1/chat/completions", "", b"{}").await;
        assert_eq!((answer.body.as_slice(), answer.whole), (b"data: 1\n\n".as_slice(), whole), "{end:?}");
        let ended = if whole { Ended::Complete } else { Ended::UpstreamReset };
        assert_eq!(sidecar.recorded(1).await[0].ended, ended, "{end:?}");
    }
}
