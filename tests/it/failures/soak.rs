//! Long runs, in a short form unless a variable asks for the long one.

use std::time::{Duration, Instant};

use super::scale;
use crate::harness::{
    Connection, LAST_CHUNK, Piece, Process, STREAM_HEAD, Upstream, chunk, completion, plain,
};

/// Growth that allocators and caches may show after warming up.
const SLACK: u64 = 24 << 20;

struct Bench {
    process: Process,
    data: tempfile::TempDir,
    _scratch: tempfile::TempDir,
}

async fn bench(upstream: &Upstream) -> Bench {
    let (data, scratch) =
        (tempfile::tempdir().expect("a directory"), tempfile::tempdir().expect("a directory"));
    let process = Process::start(&upstream.url(), data.path(), scratch.path()).await;
    Bench { process, data, _scratch: scratch }
}

/// `REMORA_SOAK_REQUESTS=1000000` is the long form.
#[cfg(target_os = "linux")]
#[tokio::test]
async fn memory_stays_flat_over_many_requests() {
    let requests = scale("REMORA_SOAK_REQUESTS", 3000);
    let stream = [STREAM_HEAD, &chunk(b"data: {}\n\n").repeat(20), LAST_CHUNK].concat();
    let whole = plain("200 OK", "", &completion("r", "hi"));
    let upstream = Upstream::start(move |request| {
        let streams = request.head.starts_with("POST /v1/streamed");
        vec![Piece::Send(if streams { stream.clone() } else { whole.clone() })]
    })
    .await;
    let bench = bench(&upstream).await;
    let mut warm = 0;
    let mut client = Connection::open(&bench.process.proxy).await;
    for n in 0..requests {
        let path = if n % 2 == 0 { "/v1/streamed" } else { "/v1/chat/completions" };
        let body = format!("{{\"model\":\"m\",\"n\":{n}}}");
        client.try_post(path, body.as_bytes()).await.expect("an answer");
        if n % 100 == 99 {
            client = Connection::open(&bench.process.proxy).await;
        }
        if n == requests / 3 {
            warm = bench.process.memory();
        }
    }
    let grown = bench.process.memory().saturating_sub(warm);
    // 1 MiB for each 100,000 requests, beyond what is warmed up in between.
    let allowed = SLACK + (requests as u64 / 100_000) * (1 << 20);
    assert!(grown < allowed, "{grown} bytes more after {requests} requests");
}

/// An hour of speech is 170 MB of base64 each way; `REMORA_SOAK_SPEECH_MB=170` is the long form.
#[cfg(target_os = "linux")]
#[tokio::test]
async fn memory_stays_flat_over_a_long_websocket() {
    let megabytes = scale("REMORA_SOAK_SPEECH_MB", 8);
    let switched = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n";
    let upstream = Upstream::start(move |_| vec![Piece::Send(switched.into()), Piece::Echo]).await;
    let bench = bench(&upstream).await;
    let mut client = Connection::open(&bench.process.proxy).await;
    let ask = "GET /v1/realtime HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n";
    client.send(ask.as_bytes()).await;
    client.head().await;
    let speech = format!("{{\"type\":\"input_audio_buffer.append\",\"audio\":\"{}\"}}", "UklG".repeat(8000));
    // Unmasked, and echoed: what is read is the same both ways.
    let mut message = vec![0x81, 126];
    message.extend_from_slice(&u16::try_from(speech.len()).expect("below 64 KiB").to_be_bytes());
    message.extend_from_slice(speech.as_bytes());
    let rounds = (megabytes << 20) / message.len();
    let mut warm = 0;
    for n in 0..rounds {
        client.send(&message).await;
        assert_eq!(client.take(message.len()).await, message);
        if n == rounds / 3 {
            warm = bench.process.memory();
        }
    }
    let grown = bench.process.memory().saturating_sub(warm);
    assert!(grown < SLACK, "{grown} bytes more after {megabytes} MiB of speech");
}

/// `REMORA_SOAK_ROWS=10000000` is the long form.
#[tokio::test]
async fn a_large_record_does_not_slow_requests() {
    let rows = scale("REMORA_SOAK_ROWS", 20_000);
    let upstream = Upstream::always(plain("200 OK", "", &completion("r", "hi"))).await;
    let bench = bench(&upstream).await;
    let mut client = Connection::open(&bench.process.proxy).await;
    let fastest = |times: usize| {
        let proxy = bench.process.proxy.clone();
        async move {
            let mut client = Connection::open(&proxy).await;
            let mut fastest = Duration::MAX;
            for _ in 0..times {
                let asked = Instant::now();
                client.try_post("/v1/chat/completions", b"{}").await.expect("an answer");
                fastest = fastest.min(asked.elapsed());
            }
            fastest
        }
    };
    client.try_post("/v1/chat/completions", b"{}").await.expect("an answer");
    let before = fastest(50).await;
    let path = bench.data.path().join("record.db");
    let db = rusqlite::Connection::open(&path).expect("it opens");
    db.busy_timeout(Duration::from_secs(20)).expect("set");
    let wait = crate::harness::until("a row", || {
        db.query_row("SELECT count(*) FROM exchange", [], |r| r.get::<_, i64>(0)).ok().filter(|n| *n > 0)
    });
    wait.await;
    let columns: Vec<String> = db
        .prepare("SELECT name FROM pragma_table_info('exchange') WHERE name NOT IN ('seq', 'id')")
        .and_then(|mut s| s.query_map([], |r| r.get(0))?.collect())
        .expect("the table has columns");
    let columns = columns.join(", ");
    db.execute(
        &format!(
            "INSERT INTO exchange (id, {columns}) WITH RECURSIVE n(i) AS \
             (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < ?1) \
             SELECT randomblob(16), {columns} FROM n, (SELECT * FROM exchange LIMIT 1)"
        ),
        [rows as i64],
    )
    .expect("rows are made");
    // Somebody reads all of it meanwhile.
    let reader = std::thread::spawn(move || {
        let db = rusqlite::Connection::open(path).expect("it opens");
        for _ in 0..20 {
            let sql =
                "SELECT count(*) FROM exchange WHERE request_headers LIKE '%nowhere%' OR target LIKE '%x%y%'";
            db.query_row(sql, [], |r| r.get::<_, i64>(0)).expect("it can be read");
        }
    });
    let after = fastest(50).await;
    reader.join().expect("it read");
    assert!(after < before * 3 + Duration::from_millis(5), "{before:?} before, {after:?} with {rows} rows");
}
