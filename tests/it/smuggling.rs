//! Messages that two parties could read differently: refused, or forwarded so that they can be read in one way only.

use crate::harness::{Connection, PATIENCE, Sidecar, Upstream, plain};

/// What becomes of a payload.
enum Outcome {
    /// Answered with this status, then closed; the upstream sees nothing.
    Refused(u16),
    /// Closed, with or without an answer; the upstream sees no whole request.
    Cut,
    /// The upstream sees these: request line, and the body without its framing.
    Forwarded(&'static [(&'static str, &'static [u8])]),
}

use Outcome::{Cut, Forwarded, Refused};

const AFTER: &str = "GET /smuggled HTTP/1.1\r\nHost: x\r\n\r\n";

/// Name, headers beside `POST /first` and `Host`, body, outcome.
const HEADERS: &[(&str, &[u8], &str, Outcome)] = &[
    ("length and chunks", b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n", "0\r\n\r\n", Refused(400)),
    ("chunks and length", b"Transfer-Encoding: chunked\r\nContent-Length: 5\r\n", "0\r\n\r\n", Refused(400)),
    ("equal lengths", b"Content-Length: 5\r\nContent-Length: 5\r\n", "hello", Refused(400)),
    ("different lengths", b"Content-Length: 5\r\nContent-Length: 0\r\n", "hello", Refused(400)),
    ("a list of lengths", b"Content-Length: 5, 5\r\n", "hello", Refused(400)),
    ("a negative length", b"Content-Length: -1\r\n", "", Refused(400)),
    ("a length with plus", b"Content-Length: +5\r\n", "hello", Refused(400)),
    ("a hexadecimal length", b"Content-Length: 0x5\r\n", "hello", Refused(400)),
    ("a fractional length", b"Content-Length: 5.0\r\n", "hello", Refused(400)),
    ("no length", b"Content-Length: \r\n", "hello", Refused(400)),
    ("an endless length", b"Content-Length: 18446744073709551616\r\n", "hello", Refused(400)),
    ("a length that is nearly endless", b"Content-Length: 18446744073709551615\r\n", "hello", Refused(431)),
    ("a length in disguise", b"Content_Length: 5\r\n", "", Refused(400)),
    ("xchunked", b"Transfer-Encoding: xchunked\r\n", "0\r\n\r\n", Refused(400)),
    ("chunked, identity", b"Transfer-Encoding: chunked, identity\r\n", "0\r\n\r\n", Refused(400)),
    ("identity, chunked", b"Transfer-Encoding: identity, chunked\r\n", "0\r\n\r\n", Refused(501)),
    ("gzip, chunked", b"Transfer-Encoding: gzip, chunked\r\n", "0\r\n\r\n", Refused(501)),
    (
        "chunked twice",
        b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n",
        "0\r\n\r\n",
        Refused(501),
    ),
    (
        "chunked after identity",
        b"Transfer-Encoding: identity\r\nTransfer-Encoding: chunked\r\n",
        "0\r\n\r\n",
        Refused(501),
    ),
    ("quoted chunked", b"Transfer-Encoding: \"chunked\"\r\n", "0\r\n\r\n", Refused(400)),
    ("chunked with a parameter", b"Transfer-Encoding: chunked;a=b\r\n", "0\r\n\r\n", Refused(400)),
    ("chunked behind a control", b"Transfer-Encoding: \x0bchunked\r\n", "0\r\n\r\n", Refused(400)),
    ("chunked behind a foreign space", b"Transfer-Encoding: \xa0chunked\r\n", "0\r\n\r\n", Refused(400)),
    ("a coding in disguise", b"Transfer_Encoding: chunked\r\n", "", Refused(400)),
    ("a space before the colon", b"Transfer-Encoding : chunked\r\n", "0\r\n\r\n", Refused(400)),
    ("a tab before the colon", b"Content-Length\t: 5\r\n", "hello", Refused(400)),
    ("a space before the name", b" Content-Length: 5\r\n", "hello", Refused(400)),
    ("a folded coding", b"Transfer-Encoding:\r\n chunked\r\n", "0\r\n\r\n", Refused(400)),
    ("a folded header", b"X-A: one\r\n two\r\n", "", Refused(400)),
    ("a bare LF", b"X-A: one\nContent-Length: 5\r\n", "hello", Refused(400)),
    ("a bare CR", b"X-A: one\rContent-Length: 5\r\n", "", Refused(400)),
    ("NUL in a value", b"X-A: o\0ne\r\n", "", Refused(400)),
    ("NUL in a name", b"X\0A: one\r\n", "", Refused(400)),
    ("a control in a value", b"X-A: o\x01ne\r\n", "", Refused(400)),
    ("a control in a name", b"X\x01A: one\r\n", "", Refused(400)),
    ("a line without a colon", b"nothing\r\n", "", Refused(400)),
    ("a header without a name", b": value\r\n", "", Refused(400)),
    ("a second host", b"Host: other\r\n", "", Refused(400)),
    (
        "chunked in capitals",
        b"Transfer-Encoding: CHUNKED\r\n",
        "5\r\nhello\r\n0\r\n\r\n",
        Forwarded(&[("POST /first HTTP/1.1", b"hello")]),
    ),
    (
        "spaces around the coding",
        b"Transfer-Encoding: \t chunked \t\r\n",
        "5\r\nhello\r\n0\r\n\r\n",
        Forwarded(&[("POST /first HTTP/1.1", b"hello")]),
    ),
    (
        "an extension of a chunk",
        b"Transfer-Encoding: chunked\r\n",
        "5;a=\"b\"\r\nhello\r\n0;c\r\n\r\n",
        Forwarded(&[("POST /first HTTP/1.1", b"hello")]),
    ),
    (
        "zeros before a size",
        b"Transfer-Encoding: chunked\r\n",
        "0005\r\nhello\r\n000\r\n\r\n",
        Forwarded(&[("POST /first HTTP/1.1", b"hello")]),
    ),
    (
        "a length with spaces",
        b"Content-Length: \t5 \r\n",
        "hello",
        Forwarded(&[("POST /first HTTP/1.1", b"hello")]),
    ),
    (
        "bytes beyond ASCII in a value",
        b"X-A: \xc3\xa9\xff\r\nContent-Length: 5\r\n",
        "hello",
        Forwarded(&[("POST /first HTTP/1.1", b"hello")]),
    ),
    ("no size", b"Transfer-Encoding: chunked\r\n", "\r\nhello\r\n0\r\n\r\n", Cut),
    ("a size that is none", b"Transfer-Encoding: chunked\r\n", "5x\r\nhello\r\n0\r\n\r\n", Cut),
    ("a negative size", b"Transfer-Encoding: chunked\r\n", "-5\r\nhello\r\n0\r\n\r\n", Cut),
    ("a size in C", b"Transfer-Encoding: chunked\r\n", "0x5\r\nhello\r\n0\r\n\r\n", Cut),
    ("an endless size", b"Transfer-Encoding: chunked\r\n", "10000000000000005\r\nhello\r\n0\r\n\r\n", Cut),
    ("a size ended by LF", b"Transfer-Encoding: chunked\r\n", "5\nhello\r\n0\r\n\r\n", Cut),
    ("an extension ended by LF", b"Transfer-Encoding: chunked\r\n", "5;\nhello\r\n0\r\n\r\n", Cut),
    ("a chunk ended by LF", b"Transfer-Encoding: chunked\r\n", "5\r\nhello\n0\r\n\r\n", Cut),
    ("a chunk longer than its size", b"Transfer-Encoding: chunked\r\n", "5\r\nhello world\r\n0\r\n\r\n", Cut),
    ("a last chunk ended by LF", b"Transfer-Encoding: chunked\r\n", "0\n\n", Cut),
];

/// Name, a whole request, outcome.
const REQUESTS: &[(&str, &[u8], Outcome)] = &[
    ("no host", b"GET /first HTTP/1.1\r\n\r\n", Refused(400)),
    ("an empty host", b"GET /first HTTP/1.1\r\nHost:\r\n\r\n", Refused(400)),
    ("a host with a path", b"GET /first HTTP/1.1\r\nHost: x/y\r\n\r\n", Refused(400)),
    ("a host with a user", b"GET /first HTTP/1.1\r\nHost: y@x\r\n\r\n", Refused(400)),
    ("two hosts in one", b"GET /first HTTP/1.1\r\nHost: x, y\r\n\r\n", Refused(400)),
    ("lines that end with LF", b"GET /first HTTP/1.1\nHost: x\n\n", Refused(400)),
    ("a head that ends with LF", b"GET /first HTTP/1.1\r\nHost: x\r\n\n", Refused(400)),
    ("another host in the target", b"GET http://other/first HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", Refused(405)),
    ("two spaces", b"GET  /first HTTP/1.1\r\nHost: x\r\n\r\n", Refused(400)),
    ("a space in the target", b"GET /first second HTTP/1.1\r\nHost: x\r\n\r\n", Refused(400)),
    ("a tab for a space", b"GET\t/first HTTP/1.1\r\nHost: x\r\n\r\n", Refused(400)),
    ("no method", b" /first HTTP/1.1\r\nHost: x\r\n\r\n", Refused(400)),
    ("a method with a control", b"GE\x01T /first HTTP/1.1\r\nHost: x\r\n\r\n", Refused(400)),
    ("NUL in the target", b"GET /fir\0st HTTP/1.1\r\nHost: x\r\n\r\n", Refused(400)),
    ("HTTP/0.9", b"GET /first\r\n\r\n", Refused(400)),
    ("HTTP/1.2", b"GET /first HTTP/1.2\r\nHost: x\r\n\r\n", Refused(400)),
    ("HTTP/2 in words", b"GET /first HTTP/2.0\r\nHost: x\r\n\r\n", Refused(400)),
    ("the protocol in small letters", b"GET /first http/1.1\r\nHost: x\r\n\r\n", Refused(400)),
    (
        "chunks in HTTP/1.0",
        b"POST /first HTTP/1.0\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        Refused(400),
    ),
    (
        "HTTP/1.0 without a host",
        b"GET /first HTTP/1.0\r\n\r\n",
        Forwarded(&[("GET /first HTTP/1.1", b"")]),
    ),
    (
        "HTTP/1.0 that keeps the connection",
        b"GET /first HTTP/1.0\r\nHost: x\r\nConnection: keep-alive\r\n\r\nGET /second HTTP/1.0\r\nHost: x\r\n\r\n",
        Forwarded(&[("GET /first HTTP/1.1", b""), ("GET /second HTTP/1.1", b"")]),
    ),
    (
        "empty lines before",
        b"\r\n\r\nGET /first HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
        Forwarded(&[("GET /first HTTP/1.1", b"")]),
    ),
    (
        "UTF-8 in the target",
        "GET /caf\u{e9} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".as_bytes(),
        Forwarded(&[("GET /caf\u{e9} HTTP/1.1", b"")]),
    ),
    (
        "one after the other in one piece",
        b"POST /first HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nhelloGET /second HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
        Forwarded(&[("POST /first HTTP/1.1", b"hello"), ("GET /second HTTP/1.1", b"")]),
    ),
    (
        "a sound one before an ambiguous one",
        b"GET /first HTTP/1.1\r\nHost: x\r\n\r\nPOST /second HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        Forwarded(&[("GET /first HTTP/1.1", b"")]),
    ),
];

/// What the upstream saw: request lines, and bodies without their framing.
fn seen(upstream: &Upstream) -> Vec<(String, Vec<u8>)> {
    upstream
        .requests()
        .into_iter()
        .map(|request| {
            let head = request.head.to_lowercase();
            let lengths = head.matches("\r\ncontent-length:").count();
            let codings = head.matches("\r\ntransfer-encoding:").count();
            assert!(lengths + codings <= 1, "forwarded ambiguous: {}", request.head);
            let body = if codings == 1 { dechunked(&request.body) } else { request.body };
            (request.head.lines().next().unwrap_or_default().to_owned(), body)
        })
        .collect()
}

fn dechunked(mut chunks: &[u8]) -> Vec<u8> {
    let mut body = Vec::new();
    loop {
        let end = chunks.windows(2).position(|w| w == b"\r\n").expect("a size");
        let size = std::str::from_utf8(&chunks[..end]).expect("digits");
        let size = usize::from_str_radix(size, 16).expect("nothing but a size");
        if size == 0 {
            return body;
        }
        body.extend_from_slice(&chunks[end + 2..end + 2 + size]);
        chunks = &chunks[end + 2 + size + 2..];
    }
}

async fn check(name: &str, payload: &[u8], outcome: &Outcome, proxy: &str, upstream: &Upstream) {
    let before = upstream.requests().len();
    let mut connection = Connection::open(proxy).await;
    connection.send(payload).await;
    let answer = match outcome {
        // Nothing says that it closes.
        Forwarded(requests) if !String::from_utf8_lossy(payload).contains("close") => {
            for _ in *requests {
                assert_eq!(connection.answer().await.status, 200, "{name}");
            }
            Vec::new()
        }
        _ => match tokio::time::timeout(PATIENCE / 2, connection.rest()).await {
            Ok(answer) => answer,
            Err(_) => panic!("{name}: it does not close; the upstream saw {:?}", upstream.requests()),
        },
    };
    let answer = String::from_utf8_lossy(&answer);
    let status = answer.split(' ').nth(1).and_then(|s| s.parse::<u16>().ok());
    let new = seen(upstream).split_off(before);
    match outcome {
        Refused(expected) => {
            assert_eq!(status, Some(*expected), "{name}: {answer}");
            assert_eq!(answer.matches("HTTP/1.1 ").count(), 1, "{name}: {answer}");
            assert!(new.is_empty(), "{name}: {new:?}");
        }
        Cut => {
            assert!(status.is_none_or(|s| s >= 400), "{name}: {answer}");
            assert!(new.is_empty(), "{name}: {new:?}");
        }
        Forwarded(expected) => {
            let new: Vec<(&str, &[u8])> = new.iter().map(|(l, b)| (l.as_str(), b.as_slice())).collect();
            assert_eq!(new, *expected, "{name}");
        }
    }
}

#[tokio::test]
async fn no_request_is_forwarded_that_can_be_read_in_two_ways() {
    let upstream = Upstream::always(plain("200 OK", "", b"{}")).await;
    let sidecar = Sidecar::start(&upstream.url()).await;
    for (name, headers, body, outcome) in HEADERS {
        let mut payload = b"POST /first HTTP/1.1\r\nHost: x\r\n".to_vec();
        payload.extend_from_slice(headers);
        payload.extend_from_slice(b"\r\n");
        payload.extend_from_slice(body.as_bytes());
        // What an attacker would have answered to somebody else.
        if !matches!(outcome, Forwarded(_)) {
            payload.extend_from_slice(AFTER.as_bytes());
        }
        check(name, &payload, outcome, &sidecar.proxy, &upstream).await;
    }
    for (name, payload, outcome) in REQUESTS {
        let mut payload = payload.to_vec();
        if !matches!(outcome, Forwarded(_)) {
            payload.extend_from_slice(AFTER.as_bytes());
        }
        check(name, &payload, outcome, &sidecar.proxy, &upstream).await;
    }
    assert!(sidecar.metric("remora_requests_refused_total{reason=\"ambiguous\"}").await > 0.0);
    assert!(sidecar.metric("remora_requests_refused_total{reason=\"malformed\"}").await > 0.0);
}

/// The same payloads cut into single bytes: what is refused must not depend on how it arrives.
#[tokio::test]
async fn it_does_not_matter_how_a_request_is_cut() {
    let upstream = Upstream::always(plain("200 OK", "", b"{}")).await;
    let sidecar = Sidecar::start(&upstream.url()).await;
    for (name, headers, body, outcome) in HEADERS.iter().take(6) {
        let Refused(expected) = outcome else { unreachable!("the first ones are refused") };
        let mut payload = b"POST /first HTTP/1.1\r\nHost: x\r\n".to_vec();
        payload.extend_from_slice(headers);
        payload.extend_from_slice(b"\r\n");
        payload.extend_from_slice(body.as_bytes());
        let mut connection = Connection::open(&sidecar.proxy).await;
        for byte in &payload {
            // It may have made up its mind.
            if !connection.try_send(&[*byte]).await {
                break;
            }
            tokio::task::yield_now().await;
        }
        let answer = String::from_utf8_lossy(&connection.rest().await).into_owned();
        assert!(answer.starts_with(&format!("HTTP/1.1 {expected} ")), "{name}: {answer}");
        assert!(upstream.requests().is_empty(), "{name}");
    }
}

/// Name, an answer, whether the client is told at once by a 502.
const ANSWERS: &[(&str, &[u8], bool)] = &[
    (
        "length and chunks",
        b"Content-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
        true,
    ),
    ("equal lengths", b"Content-Length: 2\r\nContent-Length: 2\r\n\r\nok", true),
    ("different lengths", b"Content-Length: 2\r\nContent-Length: 4\r\n\r\nokay", true),
    ("a list of lengths", b"Content-Length: 2, 2\r\n\r\nok", true),
    ("a negative length", b"Content-Length: -2\r\n\r\nok", true),
    ("a length that is none", b"Content-Length: two\r\n\r\nok", true),
    ("gzip, chunked", b"Transfer-Encoding: gzip, chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n", true),
    ("chunked, gzip", b"Transfer-Encoding: chunked, gzip\r\n\r\n2\r\nok\r\n0\r\n\r\n", true),
    ("a folded header", b"X-A: one\r\n two\r\nContent-Length: 2\r\n\r\nok", true),
    ("NUL in a value", b"X-A: o\0ne\r\nContent-Length: 2\r\n\r\nok", true),
    ("a space before the colon", b"Content-Length : 2\r\n\r\nok", true),
    ("a size that is none", b"Transfer-Encoding: chunked\r\n\r\nxx\r\nok\r\n0\r\n\r\n", false),
    ("an endless size", b"Transfer-Encoding: chunked\r\n\r\nfffffffffffffffff\r\nok\r\n0\r\n\r\n", false),
    ("a chunk longer than its size", b"Transfer-Encoding: chunked\r\n\r\n2\r\nokay\r\n0\r\n\r\n", false),
    ("a size ended by LF", b"Transfer-Encoding: chunked\r\n\r\n2\nok\r\n0\r\n\r\n", false),
];

#[tokio::test]
async fn no_answer_is_passed_on_that_can_be_read_in_two_ways() {
    for (name, rest, at_once) in ANSWERS {
        let raw = [b"HTTP/1.1 200 OK\r\n", *rest].concat();
        let upstream = Upstream::always(raw).await;
        let sidecar = Sidecar::start(&upstream.url()).await;
        let answer = sidecar.post("/v1/x", "", b"{}").await;
        if *at_once {
            assert_eq!(answer.status, 502, "{name}");
        } else {
            assert!(!answer.whole, "{name}: {answer:?}");
        }
        let recorded = sidecar.recorded(1).await;
        assert_eq!(recorded[0].ended, remora::model::Ended::UpstreamReset, "{name}");
    }
}

#[tokio::test]
async fn what_an_upstream_sends_beyond_an_answer_answers_nobody() {
    let upstream = Upstream::start(|request| {
        let path = request.head.split(' ').nth(1).unwrap_or_default().to_owned();
        let mut raw = plain("200 OK", "", path.as_bytes());
        raw.extend(plain("200 OK", "", b"poison"));
        vec![crate::harness::Piece::Send(raw)]
    })
    .await;
    let sidecar = Sidecar::start(&upstream.url()).await;
    let mut connection = Connection::open(&sidecar.proxy).await;
    for path in ["/1", "/2", "/3"] {
        connection.post(path, "", b"{}").await;
        assert_eq!(connection.answer().await.body, path.as_bytes());
    }
}
