//! WebSockets, and any other change of protocol: a tunnel, with a record of the messages.

use std::io::Write;

use bytesize::ByteSize;
use remora::config::Span;
use remora::model::{Ended, Exchange};
use serde_json::{Value, json};

use crate::harness::{Connection, Gate, Piece, Sidecar, Upstream, plain, until};

const ASK: &str = "GET /v1/realtime?model=m HTTP/1.1\r\nHost: remora\r\nUpgrade: websocket\r\nConnection: keep-alive, \
                   Upgrade\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: \
                   13\r\nSec-WebSocket-Extensions: permessage-deflate\r\nX-Odd-Case: 1\r\n\r\n";

const SWITCHED: &str = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
                        Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\nX-TeA: 1\r\n\r\n";

/// A frame with its last bit set; a client's are masked.
fn frame(opcode: u8, payload: &[u8], masked: bool) -> Vec<u8> {
    const MASK: [u8; 4] = [7, 77, 177, 3];
    let bit = if masked { 0x80 } else { 0 };
    let mut bytes = vec![0x80 | opcode];
    if let Ok(short) = u8::try_from(payload.len()).map_or(Err(()), |n| if n < 126 { Ok(n) } else { Err(()) })
    {
        bytes.push(bit | short);
    } else {
        bytes.push(bit | 127);
        bytes.extend_from_slice(&(payload.len() as u64).to_be_bytes());
    }
    if masked {
        bytes.extend_from_slice(&MASK);
    }
    bytes.extend(payload.iter().enumerate().map(|(i, b)| if masked { b ^ MASK[i % 4] } else { *b }));
    bytes
}

fn text(payload: &str, masked: bool) -> Vec<u8> {
    frame(1, payload.as_bytes(), masked)
}

fn close(masked: bool) -> Vec<u8> {
    frame(8, &[0x03, 0xe8], masked)
}

/// The recorded messages of both directions, without their times.
fn messages(exchange: &Exchange) -> [Vec<Value>; 2] {
    let response = exchange.response.as_ref().expect("it was answered");
    [&exchange.request_body.bytes, &response.body.bytes].map(|body| {
        let text = std::str::from_utf8(body).expect("lines of JSON are text");
        let line = |line: &str| {
            let mut value: Value = serde_json::from_str(line).expect("JSON");
            assert!(value["at"].as_i64().is_some_and(|at| at > 0), "{line}");
            value.as_object_mut().expect("an object").remove("at");
            value
        };
        text.lines().map(line).collect()
    })
}

/// An upstream that changes the protocol and then goes on as told.
async fn switching(pieces: Vec<Piece>) -> Upstream {
    Upstream::start(move |_| [vec![Piece::Send(SWITCHED.into())], pieces.clone()].concat()).await
}

/// A client of `sidecar` whose protocol was changed.
async fn switched(sidecar: &Sidecar) -> Connection {
    let mut client = Connection::open(&sidecar.proxy).await;
    client.send(ASK.as_bytes()).await;
    assert_eq!(client.head().await, SWITCHED);
    client
}

#[tokio::test]
async fn a_handshake_passes_byte_by_byte_and_messages_pass_and_are_recorded() {
    let hello = text("{\"type\":\"session.update\"}", true);
    let reply = [text("{\"type\":\"session.updated\"}", false), frame(2, b"\x00\xff", false)].concat();
    let upstream = switching(vec![
        Piece::Take(hello.clone()),
        Piece::Send(reply.clone()),
        Piece::Take(close(true)),
        Piece::Send(close(false)),
        Piece::End,
        Piece::UntilClosed,
    ])
    .await;
    let sidecar = Sidecar::start(&upstream.url()).await;
    let mut client = switched(&sidecar).await;
    client.send(&hello).await;
    assert_eq!(client.take(reply.len()).await, reply);
    client.send(&close(true)).await;
    assert_eq!(client.rest().await, close(false));
    drop(client);

    let seen = upstream.requests()[0].head.clone();
    let host = upstream.url().replace("http://", "");
    assert_eq!(seen, ASK.replace("Host: remora", &format!("Host: {host}")).trim_end());

    let recorded = &sidecar.recorded(1).await[0];
    assert_eq!((recorded.ended, recorded.detail.as_deref()), (Ended::Complete, None));
    assert_eq!(recorded.target, "/v1/realtime?model=m");
    let response = recorded.response.as_ref().expect("answered");
    assert_eq!((response.status, response.headers.get("upgrade")), (101, Some("websocket")));
    let [sent, received] = messages(recorded);
    let closing = json!({"type": "close", "code": 1000, "reason": ""});
    assert_eq!(sent, [json!({"type": "text", "text": "{\"type\":\"session.update\"}"}), closing.clone()]);
    assert_eq!(
        received,
        [
            json!({"type": "text", "text": "{\"type\":\"session.updated\"}"}),
            json!({"type": "binary", "base64": "AP8=", "bytes": 2}),
            closing
        ]
    );
    let reading = remora::wire::read(recorded);
    assert!(reading.choices.is_empty(), "messages are no call");
}

#[tokio::test]
async fn frames_sent_at_once_with_the_handshake_are_not_lost() {
    let early = text("early", true);
    let greeting = text("welcome", false);
    let answer = [SWITCHED.as_bytes(), &greeting].concat();
    let script = vec![Piece::Send(answer), Piece::Take(early.clone()), Piece::Cut];
    let upstream = Upstream::start(move |_| script.clone()).await;
    let sidecar = Sidecar::start(&upstream.url()).await;
    let mut client = Connection::open(&sidecar.proxy).await;
    client.send(&[ASK.as_bytes(), &early].concat()).await;
    assert_eq!(client.head().await, SWITCHED);
    assert_eq!(client.rest().await, greeting);
    drop(client);
    let [sent, received] = messages(&sidecar.recorded(1).await[0]);
    assert_eq!((sent[0]["text"].as_str(), received[0]["text"].as_str()), (Some("early"), Some("welcome")));
}

#[tokio::test]
async fn compressed_messages_pass_untouched_and_are_read() {
    let mut encoder = flate2::write::DeflateEncoder::new(Vec::new(), flate2::Compression::default());
    encoder.write_all(b"{\"type\":\"response.create\"}").expect("in memory");
    encoder.flush().expect("in memory");
    let body = encoder.get_ref().strip_suffix(&[0, 0, 0xff, 0xff]).expect("flushed").to_vec();
    let mut message = frame(1, &body, true);
    message[0] |= 0x40;
    let answer = SWITCHED.replace("X-TeA: 1", "Sec-WebSocket-Extensions: permessage-deflate");
    let script = vec![Piece::Send(answer.clone().into()), Piece::Take(message.clone()), Piece::Cut];
    let upstream = Upstream::start(move |_| script.clone()).await;
    let sidecar = Sidecar::start(&upstream.url()).await;
    let mut client = Connection::open(&sidecar.proxy).await;
    client.send(ASK.as_bytes()).await;
    assert_eq!(client.head().await, answer);
    client.send(&message).await;
    client.rest().await;
    drop(client);
    let [sent, _] = messages(&sidecar.recorded(1).await[0]);
    assert_eq!(sent, [json!({"type": "text", "text": "{\"type\":\"response.create\"}"})]);
}

#[tokio::test]
async fn an_upstream_that_does_not_switch_answers_as_always() {
    for (status, headers) in [
        ("426 Upgrade Required", "Upgrade: other\r\nConnection: Upgrade\r\n"),
        ("401 Unauthorized", "X-Why: key\r\n"),
        ("200 OK", ""),
    ] {
        let raw = plain(status, headers, b"{\"error\":1}");
        let upstream = Upstream::always(raw.clone()).await;
        let sidecar = Sidecar::start(&upstream.url()).await;
        let mut client = Connection::open(&sidecar.proxy).await;
        for _ in 0..2 {
            client.send(ASK.as_bytes()).await;
            let got = client.take(raw.len()).await;
            assert_eq!(String::from_utf8_lossy(&got), String::from_utf8_lossy(&raw));
        }
        let recorded = sidecar.recorded(2).await;
        assert_eq!(recorded[0].ended, Ended::Complete);
        assert_eq!(recorded[0].response.as_ref().expect("answered").body.bytes, "{\"error\":1}");
    }
}

#[tokio::test]
async fn each_sides_end_reaches_the_other_and_the_other_may_go_on() {
    // Not a WebSocket: bytes are recorded as they are.
    let ask = ASK.replace("websocket", "shell/2");
    let answer = SWITCHED.replace("websocket", "shell/2");
    let (told, script) = (Gate::default(), |told: &Gate, answer: &str| {
        vec![
            Piece::Send(answer.into()),
            Piece::Send(b"prompt> ".to_vec()),
            Piece::End,
            Piece::Wait(told.clone()),
            Piece::Take(b"still here".to_vec()),
            Piece::UntilClosed,
        ]
    });
    let pieces = script(&told, &answer);
    let upstream = Upstream::start(move |_| pieces.clone()).await;
    let sidecar = Sidecar::start(&upstream.url()).await;
    let mut client = Connection::open(&sidecar.proxy).await;
    client.send(ask.as_bytes()).await;
    assert_eq!(client.head().await, answer);
    assert_eq!(client.rest().await, b"prompt> ");
    told.open();
    client.send(b"still here").await;
    client.end().await;
    until("the upstream to see the end", || (upstream.cancelled() == 1).then_some(())).await;
    let recorded = &sidecar.recorded(1).await[0];
    assert_eq!(recorded.ended, Ended::Complete);
    assert_eq!(recorded.request_body.bytes, "still here");
    assert_eq!(recorded.response.as_ref().expect("answered").body.bytes, "prompt> ");
}

#[tokio::test]
async fn an_abort_of_either_side_reaches_the_other_and_is_recorded_as_whose_it_was() {
    let upstream = switching(vec![Piece::Echo]).await;
    let sidecar = Sidecar::start(&upstream.url()).await;
    let mut client = switched(&sidecar).await;
    let hello = text("hello", true);
    client.send(&hello).await;
    client.take(hello.len()).await;
    client.reset();
    until("the upstream to see it", || (upstream.cancelled() == 1).then_some(())).await;
    assert_eq!(sidecar.recorded(1).await[0].ended, Ended::ClientCancelled);

    let upstream = switching(vec![Piece::Take(hello.clone()), Piece::Reset]).await;
    let sidecar = Sidecar::start(&upstream.url()).await;
    let mut client = switched(&sidecar).await;
    client.send(&hello).await;
    assert!(client.rest().await.is_empty());
    let recorded = &sidecar.recorded(1).await[0];
    assert_eq!(recorded.ended, Ended::UpstreamReset);
    assert!(recorded.detail.is_some());
    assert_eq!(messages(recorded)[0][0]["text"], "hello");
}

#[tokio::test]
async fn a_side_that_leaves_without_a_closing_frame_is_named() {
    for client_first in [true, false] {
        let upstream = switching(vec![if client_first { Piece::UntilClosed } else { Piece::Cut }]).await;
        let sidecar = Sidecar::start(&upstream.url()).await;
        let mut client = switched(&sidecar).await;
        if client_first {
            client.end().await;
        }
        client.rest().await;
        drop(client);
        let recorded = &sidecar.recorded(1).await[0];
        let expected = if client_first { Ended::ClientCancelled } else { Ended::UpstreamReset };
        assert_eq!(recorded.ended, expected);
        assert!(recorded.detail.as_ref().is_some_and(|d| d.contains("closing frame")), "{recorded:?}");
    }
}

#[tokio::test]
async fn a_stream_that_cannot_be_read_passes_all_the_same() {
    let garbage: Vec<u8> = [&text("fine", true)[..], &[0xff; 1000]].concat();
    let upstream = switching(vec![Piece::Take(garbage[..10].to_vec()), Piece::Echo]).await;
    let sidecar = Sidecar::start(&upstream.url()).await;
    let mut client = switched(&sidecar).await;
    client.send(&garbage).await;
    assert_eq!(client.take(1000).await, [0xff; 1000]);
    client.end().await;
    client.rest().await;
    let recorded = &sidecar.recorded(1).await[0];
    let [sent, received] = messages(recorded);
    assert_eq!(sent[0]["text"], "fine");
    assert_eq!((&sent[1]["type"], &received[0]["type"]), (&json!("opaque"), &json!("opaque")));
    assert_eq!(recorded.ended, Ended::Complete, "what cannot be read cannot be missed");
}

#[tokio::test]
async fn a_slow_side_holds_the_other_back() {
    const HUGE: usize = 128 << 20;
    let flood = frame(2, &vec![1; 1 << 20], false);
    let upstream = switching(vec![Piece::Send(flood.repeat(HUGE >> 20))]).await;
    let sidecar = Sidecar::configured(&upstream.url(), |c| c.capture.max_body = ByteSize::kib(64)).await;
    let client = switched(&sidecar).await;
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
    drop(client);
}

#[tokio::test]
async fn a_tunnel_may_finish_while_remora_drains() {
    let upstream = switching(vec![Piece::Echo]).await;
    let mut sidecar = Sidecar::start(&upstream.url()).await;
    let mut client = switched(&sidecar).await;
    let hello = text("late", true);
    let session = async {
        client.send(&hello).await;
        assert_eq!(client.take(hello.len()).await, hello);
        client.send(&close(true)).await;
        client.end().await;
        client.rest().await;
    };
    tokio::join!(sidecar.stop(), session);
    let recorded = sidecar.exchanges();
    assert_eq!(recorded[0].ended, Ended::Complete);
    assert_eq!(messages(&recorded[0])[1][0]["text"], "late");
}

#[tokio::test]
async fn a_tunnel_that_outlasts_the_grace_is_cut_and_recorded_as_interrupted() {
    let upstream = switching(vec![Piece::Echo]).await;
    let mut sidecar = Sidecar::configured(&upstream.url(), |c| c.shutdown.grace = Span::millis(100)).await;
    let mut client = switched(&sidecar).await;
    let hello = text("hello", true);
    client.send(&hello).await;
    client.take(hello.len()).await;
    sidecar.stop().await;
    client.rest().await;
    let recorded = sidecar.exchanges();
    assert_eq!(recorded[0].ended, Ended::Interrupted);
    assert_eq!(messages(&recorded[0])[1][0]["text"], "hello");
}

#[tokio::test]
async fn a_switch_that_nobody_asked_for_is_an_error_of_the_upstreams() {
    let upstream = switching(vec![Piece::UntilClosed]).await;
    let sidecar = Sidecar::start(&upstream.url()).await;
    assert_eq!(sidecar.post("/v1/chat/completions", "", b"{}").await.status, 502);
    assert_eq!(sidecar.recorded(1).await[0].ended, Ended::UpstreamReset);
}

#[tokio::test]
async fn http2_in_clear_is_not_upgraded_to_so_that_its_requests_stay_seen() {
    let upstream = Upstream::always(plain("200 OK", "", b"{}")).await;
    let sidecar = Sidecar::start(&upstream.url()).await;
    let headers = "Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABk\r\n";
    assert_eq!(sidecar.post("/v1/x", headers, b"{}").await.status, 200);
    let head = upstream.requests()[0].head.to_lowercase();
    assert!(!head.contains("upgrade") && !head.contains("http2-settings"), "{head}");
}

#[tokio::test]
async fn a_key_in_the_subprotocol_is_stored_nowhere() {
    const KEY: &str = "sk-live-abcdefghijklmnop";
    let upstream = switching(vec![Piece::Cut]).await;
    let mut sidecar = Sidecar::start(&upstream.url()).await;
    let mut client = Connection::open(&sidecar.proxy).await;
    let protocols = format!("Sec-WebSocket-Protocol: realtime, openai-insecure-api-key.{KEY}\r\nX-Odd-Case");
    client.send(ASK.replace("X-Odd-Case", &protocols).as_bytes()).await;
    client.head().await;
    client.rest().await;
    drop(client);
    assert!(upstream.requests()[0].head.contains(KEY), "the upstream must get it");
    sidecar.recorded(1).await;
    sidecar.stop().await;
    assert!(!crate::failures::holds(sidecar.path(), KEY.as_bytes()));
}
