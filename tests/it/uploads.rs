//! Files on their way to an API: streamed through, recorded as length and hash.

use bytesize::ByteSize;
use remora::model::Ended;
use sha2::{Digest, Sha256};

use crate::harness::{Connection, Gate, LAST_CHUNK, Piece, Sidecar, Upstream, chunk, plain, until};

const FORM: &str = "Content-Type: multipart/form-data; boundary=xxBOUNDARYxx\r\n";

fn form(file: &[u8]) -> Vec<u8> {
    let mut body =
        b"--xxBOUNDARYxx\r\nContent-Disposition: form-data; name=\"purpose\"\r\n\r\nassistants\r\n\
                     --xxBOUNDARYxx\r\nContent-Disposition: form-data; name=\"file\"; filename=\"a.wav\"\r\n\
                     Content-Type: audio/wav\r\n\r\n"
            .to_vec();
    body.extend_from_slice(file);
    body.extend_from_slice(b"\r\n--xxBOUNDARYxx--\r\n");
    body
}

#[tokio::test]
async fn an_upload_arrives_byte_by_byte_and_only_its_length_and_hash_are_recorded() {
    let upstream = Upstream::always(plain("200 OK", "", b"{\"id\":\"file-1\"}")).await;
    let sidecar = Sidecar::start(&upstream.url()).await;
    let body = form(&(0..200_000u32).map(|i| (i % 251) as u8).collect::<Vec<_>>());
    assert_eq!(sidecar.post("/v1/audio/transcriptions", FORM, &body).await.status, 200);
    assert_eq!(upstream.requests()[0].body, body);
    let recorded = &sidecar.recorded(1).await[0];
    let kept = &recorded.request_body;
    let expected: [u8; 32] = Sha256::digest(&body).into();
    assert_eq!((kept.bytes.len(), kept.length, kept.sha256), (0, body.len() as u64, expected));
    assert!(kept.truncated);
    assert_eq!(recorded.ended, Ended::Complete, "nothing is missing that should be there");
    assert_eq!(recorded.response.as_ref().expect("answered").body.bytes, "{\"id\":\"file-1\"}");
}

#[tokio::test]
async fn an_upload_streams_through_before_it_ends() {
    let (gate, arrived) = (Gate::default(), Gate::default());
    let _ = &arrived;
    let script = vec![Piece::Send(plain("200 OK", "", b"{}"))];
    let upstream = Upstream::start(move |_| script.clone()).await;
    let sidecar = Sidecar::start(&upstream.url()).await;
    let mut client = Connection::open(&sidecar.proxy).await;
    client
        .send(
            format!("POST /v1/files HTTP/1.1\r\nHost: x\r\n{FORM}Transfer-Encoding: chunked\r\n\r\n")
                .as_bytes(),
        )
        .await;
    let body = form(b"one two three");
    for piece in body.chunks(7) {
        client.send(&chunk(piece)).await;
    }
    gate.open();
    client.send(LAST_CHUNK).await;
    assert_eq!(client.answer().await.status, 200);
    let recorded = &sidecar.recorded(1).await[0];
    assert_eq!((recorded.request_body.length, recorded.request_body.bytes.len()), (body.len() as u64, 0));
}

#[tokio::test]
async fn a_file_in_an_answer_is_not_kept_either() {
    let file: Vec<u8> = vec![7; 100_000];
    let raw = plain("200 OK", "Content-Type: audio/mpeg\r\n", &file);
    let upstream = Upstream::always(raw).await;
    let sidecar = Sidecar::start(&upstream.url()).await;
    let answer =
        sidecar.post("/v1/audio/speech", "Content-Type: application/json\r\n", b"{\"input\":\"hi\"}").await;
    assert_eq!(answer.body, file);
    let recorded = &sidecar.recorded(1).await[0];
    assert_eq!(recorded.request_body.bytes, "{\"input\":\"hi\"}");
    let kept = &recorded.response.as_ref().expect("answered").body;
    assert_eq!((kept.bytes.len(), kept.length), (0, 100_000));
    assert_eq!(recorded.ended, Ended::Complete);
}

#[tokio::test]
async fn uploads_are_kept_where_that_is_asked_for() {
    let upstream = Upstream::always(plain("200 OK", "", b"{}")).await;
    let sidecar = Sidecar::configured(&upstream.url(), |c| c.capture.keep_uploads = true).await;
    let body = form(b"bytes");
    sidecar.post("/v1/files", FORM, &body).await;
    assert_eq!(sidecar.recorded(1).await[0].request_body.bytes, body);
}

#[tokio::test]
async fn an_upload_takes_no_memory_of_the_captures() {
    let upstream = Upstream::start(|_| vec![Piece::UntilClosed]).await;
    let sidecar = Sidecar::configured(&upstream.url(), |c| {
        c.capture.memory = ByteSize::kib(64);
        c.capture.max_body = ByteSize::kib(64);
    })
    .await;
    let mut client = Connection::open(&sidecar.proxy).await;
    client.post("/v1/files", FORM, &form(&[1; 1 << 20])).await;
    until("the upload to arrive", || (upstream.requests().len() == 1).then_some(())).await;
    drop(client);
    let recorded = &sidecar.recorded(1).await[0];
    assert_eq!(recorded.request_body.length, form(&[1; 1 << 20]).len() as u64);
    assert_eq!(sidecar.metric("remora_bodies_truncated_total{reason=\"memory\"}").await, 0.0);
}
