use std::io::Write;

use flate2::Compression;
use flate2::write::{GzEncoder, ZlibEncoder};
use serde_json::json;

use crate::harness::{Sidecar, Upstream, completion, plain};

/// `{}` and a stored block of brotli around any short text: nothing here encodes brotli.
fn brotli(plain: &[u8]) -> Vec<u8> {
    // RFC 7932 §9.2: 16-bit window; a meta-block, not last, stored, of 16-bit length; an empty last one.
    let length = plain.len() as u32 - 1;
    assert!(length < 1 << 16);
    // Bits, least first: window 0; ISLAST 0; MNIBBLES 00 (four); MLEN - 1 in 16; ISUNCOMPRESSED 1.
    let bits = (length << 4) | (1 << 20);
    let mut bytes = bits.to_le_bytes()[..3].to_vec();
    bytes.extend_from_slice(plain);
    bytes.push(0b11);
    bytes
}

/// A body in each content encoding.
fn encoded(plain: &[u8]) -> Vec<(&'static str, Vec<u8>)> {
    let mut gzip = GzEncoder::new(Vec::new(), Compression::default());
    gzip.write_all(plain).expect("in memory");
    let mut deflate = ZlibEncoder::new(Vec::new(), Compression::default());
    deflate.write_all(plain).expect("in memory");
    vec![
        ("gzip", gzip.finish().expect("in memory")),
        ("deflate", deflate.finish().expect("in memory")),
        ("zstd", zstd::encode_all(plain, 3).expect("in memory")),
        ("br", brotli(plain)),
    ]
}

fn answer(coding: &str, status: &str, body: &[u8]) -> Vec<u8> {
    plain(status, &format!("Content-Type: application/json\r\nContent-Encoding: {coding}\r\n"), body)
}

#[tokio::test]
async fn compressed_answers_pass_untouched_and_are_read_from_a_copy() {
    for (coding, body) in encoded(&completion("r1", "in Lisbon")) {
        let upstream = Upstream::always(answer(coding, "200 OK", &body)).await;
        let sidecar = Sidecar::start(&upstream.url()).await;
        let got = sidecar.post("/v1/chat/completions", "Accept-Encoding: gzip, br, zstd\r\n", b"{}").await;
        assert_eq!(got.body, body, "{coding}");
        assert!(upstream.requests()[0].head.contains("Accept-Encoding: gzip, br, zstd"));
        let recorded = &sidecar.recorded(1).await[0];
        assert_eq!(recorded.response.as_ref().expect("answered").body.bytes, body, "{coding}");
        let reading = remora::wire::read(recorded);
        assert_eq!(reading.choices[0].message.text, "in Lisbon", "{coding}");
    }
}

#[tokio::test]
async fn compressed_requests_pass_untouched_and_are_read_from_a_copy() {
    let question =
        json!({"model": "m", "messages": [{"role": "user", "content": "where is it?"}]}).to_string();
    for (coding, body) in encoded(question.as_bytes()) {
        let upstream = Upstream::always(plain("200 OK", "", &completion("r1", "hi"))).await;
        let sidecar = Sidecar::start(&upstream.url()).await;
        let headers = format!("Content-Type: application/json\r\nContent-Encoding: {coding}\r\n");
        assert_eq!(sidecar.post("/v1/chat/completions", &headers, &body).await.status, 200);
        let seen = &upstream.requests()[0];
        assert_eq!(seen.body, body, "{coding}");
        assert!(seen.head.contains(&format!("Content-Encoding: {coding}")));
        let reading = remora::wire::read(&sidecar.recorded(1).await[0]);
        assert_eq!(reading.model.as_deref(), Some("m"), "{coding}");
        assert_eq!(reading.messages[0].text, "where is it?", "{coding}");
    }
}

#[tokio::test]
async fn compressed_errors_pass_untouched() {
    let error =
        json!({"error": {"message": "slow down", "type": "requests", "code": "rate_limit"}}).to_string();
    for (coding, body) in encoded(error.as_bytes()) {
        for status in ["400 Bad Request", "429 Too Many Requests", "503 Service Unavailable"] {
            let raw = answer(coding, status, &body);
            let upstream = Upstream::always(raw.clone()).await;
            let sidecar = Sidecar::start(&upstream.url()).await;
            let mut client = crate::harness::Connection::open(&sidecar.proxy).await;
            client.post("/v1/chat/completions", "", b"{\"stream\":true}").await;
            assert_eq!(client.take(raw.len()).await, raw, "{coding} {status}");
            let reading = remora::wire::read(&sidecar.recorded(1).await[0]);
            assert_eq!(reading.error.expect("an error").message, "slow down", "{coding} {status}");
        }
    }
}
