//! Every accepted request gets a row, whatever became of it; what breaks in recording never reaches the client.

use remora::model::Ended;
use sha2::{Digest, Sha256};

use crate::harness::{Piece, Sidecar, Upstream, completion, plain, until};

#[tokio::test]
async fn an_upstream_that_is_down_gives_an_openai_error_that_names_it() {
    // Bound and dropped: nothing listens there any more.
    let free = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port").local_addr().expect("bound");
    let sidecar = Sidecar::start(&format!("http://{free}")).await;
    let answer = sidecar.post("/v1/chat/completions", "", b"{\"model\":\"m\"}").await;
    assert_eq!(answer.status, 502);
    let error: serde_json::Value = serde_json::from_slice(&answer.body).expect("JSON");
    assert_eq!(error["error"]["code"], "upstream_unreachable");
    assert!(error["error"]["message"].as_str().is_some_and(|m| m.contains(&free.to_string())), "{error}");
    let recorded = sidecar.recorded(1).await;
    assert_eq!(
        (recorded[0].ended, recorded[0].request_body.bytes.as_ref()),
        (Ended::UpstreamReset, b"{\"model\":\"m\"}".as_ref())
    );
    assert!(recorded[0].detail.as_ref().is_some_and(|d| d.contains("refused")), "{:?}", recorded[0].detail);
}

#[tokio::test]
async fn an_upstream_that_never_answers_gives_504() {
    let upstream = Upstream::start(|_| vec![Piece::UntilClosed]).await;
    let sidecar = Sidecar::configured(&upstream.url(), |c| {
        c.upstream.response_timeout = remora::config::Span::millis(100);
    })
    .await;
    let answer = sidecar.post("/v1/chat/completions", "", b"{}").await;
    assert_eq!(answer.status, 504);
    assert_eq!(sidecar.recorded(1).await[0].ended, Ended::UpstreamTimeout);
}

#[tokio::test]
async fn malformed_json_is_forwarded_and_recorded_as_it_is() {
    let upstream = Upstream::always(plain("400 Bad Request", "", b"no")).await;
    let sidecar = Sidecar::start(&upstream.url()).await;
    let body = b"{\"model\": \"m\", messages: [}\xff";
    assert_eq!(sidecar.post("/v1/chat/completions", "", body).await.status, 400);
    assert_eq!(upstream.requests()[0].body, body);
    assert_eq!(sidecar.exchanges()[0].request_body.bytes.as_ref(), body);
}

#[tokio::test]
async fn the_record_is_there_when_the_client_has_the_whole_answer() {
    let upstream = Upstream::always(plain("200 OK", "", &completion("r1", "hi"))).await;
    let sidecar = Sidecar::start(&upstream.url()).await;
    for n in 1..=50 {
        sidecar.post("/v1/chat/completions", "", b"{}").await;
        // No waiting here: that is the promise.
        assert_eq!(sidecar.exchanges().len(), n);
    }
}

#[tokio::test]
async fn credentials_are_stored_nowhere() {
    const SECRET: &str = "sk-live-abcdefghijklmnop";
    let upstream = Upstream::always(plain("200 OK", &format!("Set-Cookie: sid={SECRET}\r\n"), b"{}")).await;
    let mut sidecar = Sidecar::start(&upstream.url()).await;
    let headers = format!("Authorization: Bearer {SECRET}\r\nCookie: a={SECRET}\r\napi-key: {SECRET}\r\n");
    sidecar.post(&format!("/v1/models?api_key={SECRET}&x=1"), &headers, b"{}").await;
    assert!(upstream.requests()[0].head.contains(SECRET), "the upstream must get them");
    sidecar.stop().await;
    let mut files = 0;
    let mut folders = vec![sidecar.path().to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).expect("readable").flatten() {
            if entry.path().is_dir() {
                folders.push(entry.path());
                continue;
            }
            files += 1;
            let bytes = std::fs::read(entry.path()).expect("readable");
            let found = bytes.windows(SECRET.len()).any(|w| w == SECRET.as_bytes());
            assert!(!found, "{} holds the credential", entry.path().display());
        }
    }
    assert!(files >= 4, "the databases were looked at");
    let recorded = &sidecar.exchanges()[0];
    assert!(recorded.client_key.is_some() && recorded.target.contains("x=1"));
}

#[tokio::test]
async fn a_body_past_the_limit_is_recorded_cut_with_its_true_length_and_hash() {
    let body: Vec<u8> = (0..300_000u32).map(|i| (i % 251) as u8).collect();
    let upstream = Upstream::always(plain("200 OK", "", &body)).await;
    let sidecar =
        Sidecar::configured(&upstream.url(), |c| c.capture.max_body = bytesize::ByteSize::kib(64)).await;
    let answer = sidecar.post("/v1/files", "", &body).await;
    assert_eq!(answer.body, body, "the client gets all of it");
    let recorded = &sidecar.exchanges()[0];
    let expected: [u8; 32] = Sha256::digest(&body).into();
    for kept in [&recorded.request_body, &recorded.response.as_ref().expect("answered").body] {
        assert!(kept.truncated);
        assert_eq!((kept.bytes.len(), kept.length, kept.sha256), (64 << 10, 300_000, expected));
    }
    assert_eq!(recorded.ended, Ended::TruncatedByLimit);
}

#[tokio::test]
async fn when_the_journal_is_full_traffic_flows_and_the_loss_is_counted() {
    let upstream = Upstream::always(plain("200 OK", "", &completion("r1", "hi"))).await;
    let sidecar =
        Sidecar::configured(&upstream.url(), |c| c.capture.journal = bytesize::ByteSize::b(0)).await;
    for _ in 0..5 {
        let answer = sidecar.post("/v1/chat/completions", "", b"{}").await;
        assert_eq!((answer.status, answer.whole), (200, true));
        assert_eq!(answer.body, completion("r1", "hi"));
    }
    assert_eq!(sidecar.metric("remora_exchanges_lost_total{reason=\"journal_full\"}").await, 5.0);
    assert_eq!(sidecar.metric("remora_exchanges_recorded_total").await, 0.0);
}

#[tokio::test]
async fn what_the_database_cannot_take_waits_in_the_journal() {
    let upstream = Upstream::always(plain("200 OK", "", b"{}")).await;
    let sidecar = Sidecar::start(&upstream.url()).await;
    // The record's table disappears, and comes back.
    let db = rusqlite::Connection::open(sidecar.path().join("record.db")).expect("it opens");
    db.execute_batch("ALTER TABLE exchange RENAME TO elsewhere").expect("renamed");
    for _ in 0..5 {
        assert!(sidecar.post("/v1/x", "", b"{}").await.whole);
    }
    let mut failures = 0.0;
    while failures == 0.0 {
        failures = sidecar.metric("remora_settle_failures_total").await;
    }
    assert_eq!(sidecar.metric("remora_exchanges_recorded_total").await, 5.0, "safe, if not settled");
    db.execute_batch("ALTER TABLE elsewhere RENAME TO exchange").expect("renamed back");
    assert_eq!(sidecar.recorded(5).await.len(), 5);
}

#[tokio::test]
async fn nobody_waits_for_a_database_that_another_process_holds() {
    let upstream = Upstream::always(plain("200 OK", "", b"{}")).await;
    let sidecar = Sidecar::start(&upstream.url()).await;
    let db = rusqlite::Connection::open(sidecar.path().join("record.db")).expect("it opens");
    db.execute_batch("BEGIN IMMEDIATE").expect("the lock is taken");
    for _ in 0..20 {
        // With an ack timeout of 20 s the test would not end in time if one of them waited.
        assert!(sidecar.post("/v1/x", "", b"{}").await.whole);
    }
    assert_eq!(sidecar.metric("remora_ack_timeouts_total").await, 0.0);
    db.execute_batch("ROLLBACK").expect("the lock is given back");
    assert_eq!(sidecar.exchanges().len(), 20, "nothing is lost once the lock is free");
}

#[tokio::test]
async fn capture_can_be_switched_off_whole_or_by_path() {
    let upstream = Upstream::always(plain("200 OK", "", b"{}")).await;
    let off = Sidecar::configured(&upstream.url(), |c| c.capture.enabled = false).await;
    assert_eq!(off.post("/v1/x", "", b"{}").await.status, 200);
    assert!(off.exchanges().is_empty());
    let partly =
        Sidecar::configured(&upstream.url(), |c| c.capture.skip_paths = vec!["/v1/audio".into()]).await;
    partly.post("/v1/audio/speech", "", b"{}").await;
    partly.post("/v1/chat/completions", "", b"{}").await;
    assert_eq!(partly.exchanges().len(), 1);
}

#[tokio::test]
async fn a_record_that_cannot_be_kept_does_not_take_its_neighbours_along() {
    let upstream = Upstream::always(plain("200 OK", "", b"{}")).await;
    let sidecar = Sidecar::start(&upstream.url()).await;
    let db = rusqlite::Connection::open(sidecar.path().join("record.db")).expect("it opens");
    db.execute_batch(
        "CREATE TRIGGER refuse BEFORE INSERT ON exchange WHEN NEW.target = '/bad' \
         BEGIN SELECT RAISE(FAIL, 'not this one'); END",
    )
    .expect("the trigger is made");
    // While the lock is held all of them queue up, so that they are written together.
    db.execute_batch("BEGIN IMMEDIATE").expect("the lock is taken");
    let release = async {
        until("all requests to arrive", || (upstream.requests().len() == 5).then_some(())).await;
        db.execute_batch("ROLLBACK").expect("the lock is given back");
    };
    let post = |path| sidecar.post(path, "", b"{}");
    let answers = tokio::join!(post("/a"), post("/b"), post("/bad"), post("/c"), post("/d"), release);
    for answer in [answers.0, answers.1, answers.2, answers.3, answers.4] {
        assert!(answer.whole);
    }
    while sidecar.metric("remora_exchanges_lost_total{reason=\"refused\"}").await < 1.0 {}
    let mut kept: Vec<String> = sidecar.exchanges().into_iter().map(|e| e.target).collect();
    kept.sort();
    assert_eq!(kept, ["/a", "/b", "/c", "/d"]);
    assert_eq!(sidecar.metric("remora_exchanges_lost_total{reason=\"refused\"}").await, 1.0);
}
