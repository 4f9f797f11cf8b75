use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::{Request, Response};
use hyper::body::{Frame, Incoming};
use hyper_util::rt::{TokioExecutor, TokioIo};
use remora::config::Http2;
use remora::model::Ended;
use tokio::sync::mpsc;

use crate::harness::{Connection, LAST_CHUNK, Piece, STREAM_HEAD, Sidecar, Upstream, chunk};

fn half(head: &[u8], rest: &[u8]) -> Vec<u8> {
    [head, rest].concat()
}

#[tokio::test]
async fn an_upstream_that_breaks_off_in_its_body_is_seen_to() {
    let known: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n";
    let (one, torn) = (chunk(b"data: one\n\n"), b"b\r\ndata:".as_slice());
    let answers = [
        ("a short length", half(known, b"half"), b"half".as_slice()),
        ("no last chunk", half(STREAM_HEAD, &one), b"data: one\n\n"),
        ("within a chunk", half(STREAM_HEAD, &half(&one, torn)), b"data: one\n\n"),
    ];
    for (what, bytes, came) in answers {
        for end in [Piece::Cut, Piece::Reset] {
            let reset = matches!(end, Piece::Reset);
            let script = vec![Piece::Send(bytes.clone()), end];
            let upstream = Upstream::start(move |_| script.clone()).await;
            let sidecar = Sidecar::start(&upstream.url()).await;
            let answer = sidecar.post("/v1/chat/completions", "", b"{\"stream\":true}").await;
            assert_eq!((answer.status, answer.whole), (200, false), "{what}, reset: {reset}");
            assert!(answer.body.starts_with(came), "{what}, reset: {reset}: {:?}", answer.body);
            let recorded = &sidecar.recorded(1).await[0];
            assert_eq!(recorded.ended, Ended::UpstreamReset, "{what}, reset: {reset}");
            assert_eq!(recorded.response.as_ref().expect("a head came").body.bytes, answer.body);
        }
    }
}

#[tokio::test]
async fn an_upstream_that_breaks_off_before_its_answer_is_a_502_that_says_so() {
    for bytes in [b"".as_slice(), b"HTTP/1.1 200 OK\r\nContent-Le"] {
        for end in [Piece::Cut, Piece::Reset] {
            let script = vec![Piece::Send(bytes.to_vec()), end];
            let upstream = Upstream::start(move |_| script.clone()).await;
            let sidecar = Sidecar::start(&upstream.url()).await;
            let answer = sidecar.post("/v1/chat/completions", "", b"{\"n\":1}").await;
            assert_eq!((answer.status, answer.whole), (502, true));
            let error: serde_json::Value = serde_json::from_slice(&answer.body).expect("JSON");
            assert_eq!(error["error"]["code"], "upstream_broke_off");
            let recorded = &sidecar.recorded(1).await[0];
            assert_eq!(recorded.ended, Ended::UpstreamReset);
            assert_eq!(recorded.request_body.bytes, "{\"n\":1}");
            assert_eq!(upstream.requests().len(), 1, "what may have been acted on is not sent again");
        }
    }
}

#[tokio::test]
async fn a_reset_after_the_last_chunk_breaks_nothing() {
    let script = vec![Piece::Send([STREAM_HEAD, &chunk(b"all"), LAST_CHUNK].concat()), Piece::Reset];
    let upstream = Upstream::start(move |_| script.clone()).await;
    let sidecar = Sidecar::start(&upstream.url()).await;
    for n in 1..=3 {
        let answer = sidecar.post("/v1/chat/completions", "", b"{}").await;
        assert_eq!((answer.body.as_slice(), answer.whole), (b"all".as_slice(), true));
        assert_eq!(sidecar.recorded(n).await[n - 1].ended, Ended::Complete);
    }
}

#[tokio::test]
async fn a_body_that_only_the_connections_end_delimits_passes_whole() {
    let script = vec![Piece::Send(b"HTTP/1.1 200 OK\r\n\r\nall of it".to_vec()), Piece::Cut];
    let upstream = Upstream::start(move |_| script.clone()).await;
    let sidecar = Sidecar::start(&upstream.url()).await;
    let answer = sidecar.post("/v1/x", "", b"{}").await;
    assert_eq!((answer.body.as_slice(), answer.whole), (b"all of it".as_slice(), true));
    assert_eq!(sidecar.recorded(1).await[0].ended, Ended::Complete);
}

#[tokio::test]
async fn what_is_no_http_is_a_502_and_a_row() {
    for bytes in
        [b"SSH-2.0-OpenSSH_9.2\r\n".as_slice(), b"\x16\x03\x01\x02\x00", b"HTTP/1.1 two hundred\r\n\r\n"]
    {
        let script = vec![Piece::Send(bytes.to_vec()), Piece::Cut];
        let upstream = Upstream::start(move |_| script.clone()).await;
        let sidecar = Sidecar::start(&upstream.url()).await;
        assert_eq!(sidecar.post("/v1/x", "", b"{}").await.status, 502);
        let recorded = &sidecar.recorded(1).await[0];
        assert_eq!(recorded.ended, Ended::UpstreamReset);
        assert!(recorded.detail.is_some());
    }
}

/// A body that gives what it is sent, and fails where that is nothing: over HTTP/2 its stream is reset.
struct Torn(mpsc::Receiver<Option<Bytes>>);

impl hyper::body::Body for Torn {
    type Data = Bytes;
    type Error = std::io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, std::io::Error>>> {
        let piece = ready!(self.0.poll_recv(cx)).flatten();
        Poll::Ready(Some(piece.map(Frame::data).ok_or_else(|| std::io::Error::other("torn"))))
    }
}

#[tokio::test]
async fn an_http2_stream_that_is_reset_is_seen_as_a_break() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = listener.local_addr().expect("bound");
    let (pieces, body) = mpsc::channel(2);
    let body = std::sync::Mutex::new(Some(Torn(body)));
    tokio::spawn(async move {
        let (stream, _) = listener.accept().await.expect("a connection");
        let service = hyper::service::service_fn(|_: Request<Incoming>| {
            let body = body.lock().expect("no test panics here").take().expect("one request");
            async { Ok::<_, std::convert::Infallible>(Response::new(body)) }
        });
        let server = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
        drop(server.serve_connection(TokioIo::new(stream), service).await);
    });
    let sidecar =
        Sidecar::configured(&format!("http://{address}"), |c| c.upstream.http2 = Http2::Always).await;
    let mut client = Connection::open(&sidecar.proxy).await;
    client.post("/v1/chat/completions", "", b"{}").await;
    pieces.send(Some(Bytes::from_static(b"half"))).await.expect("it is read");
    client.read_until(b"half").await;
    pieces.send(None).await.expect("it is read");
    let answer = client.answer().await;
    assert_eq!((answer.status, answer.whole, answer.body.as_slice()), (200, false, b"half".as_slice()));
    let recorded = &sidecar.recorded(1).await[0];
    assert_eq!(recorded.ended, Ended::UpstreamReset);
    assert_eq!(recorded.response.as_ref().expect("a head came").body.bytes, "half");
}
