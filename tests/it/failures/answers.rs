use remora::model::Ended;
use serde_json::json;

use crate::harness::{Connection, Piece, Sidecar, Upstream, completion, plain};

#[tokio::test]
async fn errors_on_streaming_requests_keep_every_byte() {
    let error = b"{\"error\": {\"message\": \"no\",  \"type\": \"overloaded_error\"}}\n";
    for status in ["400 Bad Request", "429 Too Many Requests", "500 Internal Server Error", "529 Overloaded"]
    {
        let headers = "Content-Type: application/json\r\nRetry-After: 7\r\nX-RateLimit-Remaining: 0\r\n";
        let raw = plain(status, headers, error);
        let upstream = Upstream::always(raw.clone()).await;
        let sidecar = Sidecar::start(&upstream.url()).await;
        let mut client = Connection::open(&sidecar.proxy).await;
        client.post("/v1/chat/completions", "Accept: text/event-stream\r\n", b"{\"stream\":true}").await;
        let got = client.take(raw.len()).await;
        assert_eq!(String::from_utf8_lossy(&got), String::from_utf8_lossy(&raw));
        let recorded = &sidecar.recorded(1).await[0];
        assert_eq!(recorded.ended, Ended::Complete);
        assert_eq!(remora::wire::read(recorded).error.expect("an error").message, "no");
    }
}

#[tokio::test]
async fn odd_json_passes_byte_by_byte() {
    let body =
        b"{\"model\":\"m\",\"model\":\"n\" ,\"seed\":12345678901234567890123,\"x_unknown\":{\"thinking\":\
                 {\"signature\":\"EqQB\\/+==\"}},\"f\":1.0e+02,\"u\":\"\\u00e9\\ud83d\\ude00\"}\r\n";
    let upstream = Upstream::always(plain("200 OK", "", body)).await;
    let sidecar = Sidecar::start(&upstream.url()).await;
    let answer = sidecar.post("/v1/chat/completions", "", body).await;
    assert_eq!((upstream.requests()[0].body.as_slice(), answer.body.as_slice()), (&body[..], &body[..]));
    assert_eq!(sidecar.recorded(1).await[0].request_body.bytes, body.as_slice());
}

#[tokio::test]
async fn every_failed_request_has_a_row() {
    let free = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port").local_addr().expect("bound");
    let mute = Upstream::start(|_| vec![Piece::UntilClosed]).await;
    let refusing = Upstream::always(plain("403 Forbidden", "", b"no")).await;
    let failing = Upstream::always(plain("500 Internal Server Error", "", b"oh")).await;
    let clear = Upstream::start(|_| vec![Piece::Cut]).await;
    for (url, status, ended) in [
        (format!("http://{free}"), 502, Ended::UpstreamReset),
        ("http://no-such-host.invalid".to_owned(), 502, Ended::UpstreamReset),
        // No TLS is spoken there.
        (clear.url().replace("http:", "https:"), 502, Ended::UpstreamReset),
        (mute.url(), 504, Ended::UpstreamTimeout),
        (refusing.url(), 403, Ended::Complete),
        (failing.url(), 500, Ended::Complete),
    ] {
        let sidecar = Sidecar::configured(&url, |c| {
            c.upstream.response_timeout = remora::config::Span::millis(500);
            c.upstream.connect_timeout = remora::config::Span::millis(400);
        })
        .await;
        assert_eq!(sidecar.post("/v1/chat/completions", "", b"{\"n\":1}").await.status, status, "{url}");
        let recorded = &sidecar.recorded(1).await[0];
        assert_eq!(
            (recorded.ended, recorded.request_body.bytes.as_ref()),
            (ended, &b"{\"n\":1}"[..]),
            "{url}"
        );
        assert_eq!(recorded.response.as_ref().map(|r| r.status), Some(status));
        assert_eq!(recorded.detail.is_some(), ended != Ended::Complete, "{url}");
    }
}

#[tokio::test]
async fn an_address_that_is_down_is_passed_over_for_the_next() {
    // `localhost` has an IPv6 address, too, on most machines; only IPv4 listens.
    let upstream = Upstream::always(plain("200 OK", "", b"{}")).await;
    let sidecar = Sidecar::start(&upstream.url().replace("127.0.0.1", "localhost")).await;
    assert_eq!(sidecar.post("/v1/x", "", b"{}").await.status, 200);
}

#[tokio::test]
async fn credentials_in_any_slot_are_stored_nowhere() {
    const SECRET: &str = "canary-5f2a9c1e7b";
    let answer = plain(
        "200 OK",
        &format!(
            "Set-Cookie: s={SECRET}\r\nLocation: https://x/?key={SECRET}\r\nX-New-Api-Key: {SECRET}\r\n"
        ),
        &completion("r1", "hi"),
    );
    let upstream = Upstream::always(answer).await;
    let mut sidecar = Sidecar::start(&upstream.url()).await;
    let slots = [
        "Authorization: Bearer ",
        "Authorization: Basic ",
        "x-api-key: ",
        "api-key: ",
        "X-Goog-Api-Key: ",
        "Cookie: session=",
        "Proxy-Authorization: Basic ",
        "X-Amz-Security-Token: ",
        "Helicone-Auth: Bearer ",
        "OpenAI-Organization-Secret: ",
        "X-Auth-Token: ",
        "Referer: https://x/?api_key=",
        "Sec-WebSocket-Protocol: realtime, openai-insecure-api-key.",
    ];
    let headers: Vec<String> = slots.iter().map(|slot| format!("{slot}{SECRET}\r\n")).collect();
    for parameter in ["key", "api_key", "api-key", "access_token", "sig", "client_secret"] {
        for header in &headers {
            sidecar.post(&format!("/v1/models?x=1&{parameter}={SECRET}"), header, b"{}").await;
        }
    }
    sidecar.recorded(6 * slots.len()).await;
    sidecar.stop().await;
    assert!(upstream.requests()[0].head.contains(SECRET), "the upstream must get them");
    assert!(!super::holds(sidecar.path(), SECRET.as_bytes()));
    let value = json!(sidecar.exchanges()[0].target);
    assert!(value.as_str().is_some_and(|t| t.contains("x=1")));
}
