//! Starting and stopping.

use remora::app::{App, AppError};
use remora::config::Config;
use remora::model::Ended;
use remora::store::StoreError;
use rustix::process::Signal;

use crate::harness::{
    Connection, Gate, LAST_CHUNK, Piece, Process, STREAM_HEAD, Sidecar, Upstream, chunk, plain, until,
};

fn config(data: &std::path::Path) -> Config {
    Config {
        listen: "127.0.0.1:0".into(),
        admin: "127.0.0.1:0".into(),
        data: Some(data.to_owned()),
        ..Config::default()
    }
}

async fn refused(config: &Config) -> AppError {
    match App::start(config, None).await {
        Ok(app) => {
            app.stop().await;
            panic!("it started");
        }
        Err(error) => error,
    }
}

#[tokio::test]
async fn a_running_stream_finishes_before_the_end() {
    let gate = Gate::default();
    let script = vec![
        Piece::Send(STREAM_HEAD.to_vec()),
        Piece::Send(chunk(b"data: one\n\n")),
        Piece::Wait(gate.clone()),
        Piece::Send(chunk(b"data: two\n\n")),
        Piece::Send(LAST_CHUNK.to_vec()),
    ];
    let upstream = Upstream::start(move |_| script.clone()).await;
    let mut sidecar = Sidecar::start(&upstream.url()).await;
    let mut connection = Connection::open(&sidecar.proxy).await;
    connection.post("/v1/chat/completions", "", b"{}").await;
    connection.read_until(b"data: one\n\n").await;
    let client = async {
        gate.open();
        connection.answer().await
    };
    let (answer, ()) = tokio::join!(client, sidecar.stop());
    assert!(answer.whole);
    assert_eq!(answer.body, b"data: one\n\ndata: two\n\n");
    assert_eq!(sidecar.exchanges()[0].ended, Ended::Complete);
}

#[tokio::test]
async fn what_outlasts_the_grace_is_cut_and_recorded_as_interrupted() {
    let script =
        vec![Piece::Send(STREAM_HEAD.to_vec()), Piece::Send(chunk(b"data: one\n\n")), Piece::UntilClosed];
    let upstream = Upstream::start(move |_| script.clone()).await;
    let mut sidecar =
        Sidecar::configured(&upstream.url(), |c| c.shutdown.grace = remora::config::Span::millis(100)).await;
    let mut connection = Connection::open(&sidecar.proxy).await;
    connection.post("/v1/chat/completions", "", b"{}").await;
    connection.read_until(b"data: one\n\n").await;
    sidecar.stop().await;
    let recorded = sidecar.exchanges();
    assert_eq!(recorded[0].ended, Ended::Interrupted);
    assert_eq!(recorded[0].response.as_ref().expect("the head came").body.bytes, "data: one\n\n");
}

#[tokio::test]
async fn readiness_fails_while_running_exchanges_finish() {
    let gate = Gate::default();
    let script = vec![
        Piece::Send(STREAM_HEAD.to_vec()),
        Piece::Send(chunk(b"data: one\n\n")),
        Piece::Wait(gate.clone()),
        Piece::Send(LAST_CHUNK.to_vec()),
    ];
    let upstream = Upstream::start(move |_| script.clone()).await;
    let mut sidecar = Sidecar::start(&upstream.url()).await;
    assert_eq!(sidecar.page("/readyz").await.status, 200);
    let mut stream = Connection::open(&sidecar.proxy).await;
    stream.post("/v1/chat/completions", "", b"{}").await;
    stream.read_until(b"data: one\n\n").await;
    let (admin, proxy) = (sidecar.admin.clone(), sidecar.proxy.clone());
    let watcher = async {
        loop {
            let mut connection = Connection::open(&admin).await;
            connection.send(b"GET /readyz HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n").await;
            if connection.answer().await.status == 503 {
                break;
            }
        }
        // The stream still runs, and nobody else gets in.
        until("it to refuse connections", || {
            let address = proxy.strip_prefix("http://").expect("an http URL");
            std::net::TcpStream::connect(address).err()
        })
        .await;
        gate.open();
        stream.answer().await
    };
    let (answer, ()) = tokio::join!(watcher, sidecar.stop());
    assert!(answer.whole);
}

#[tokio::test]
async fn readiness_depends_neither_on_the_upstream_nor_on_the_database() {
    let nobody = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    let url = format!("http://{}", nobody.local_addr().expect("bound"));
    drop(nobody);
    let sidecar =
        Sidecar::configured(&url, |c| c.capture.ack_timeout = remora::config::Span::millis(50)).await;
    for name in ["record.db", "insight.db"] {
        let db = rusqlite::Connection::open(sidecar.path().join(name)).expect("it opens");
        db.execute_batch("BEGIN IMMEDIATE").expect("it is locked");
        assert_eq!(sidecar.post("/v1/models", "", b"{}").await.status, 502);
        assert_eq!(sidecar.page("/readyz").await.status, 200, "{name} is locked");
    }
    assert_eq!(sidecar.page("/healthz").await.status, 200);
}

#[tokio::test]
async fn an_answer_while_draining_ends_its_connection() {
    let upstream = Upstream::always(plain("200 OK", "", b"{}")).await;
    let mut sidecar =
        Sidecar::configured(&upstream.url(), |c| c.shutdown.idle_grace = remora::config::Span::secs(20))
            .await;
    let mut connection = Connection::open(&sidecar.proxy).await;
    assert!(!connection.try_post("/v1/models", b"{}").await.expect("an answer").closes);
    let proxy = sidecar.proxy.clone();
    let client = async {
        until("it to drain", || {
            let address = proxy.strip_prefix("http://").expect("an http URL");
            std::net::TcpStream::connect(address).err()
        })
        .await;
        connection.try_post("/v1/models", b"{}").await.expect("an answer")
    };
    // Long before connections at rest would be closed.
    let both = async { tokio::join!(client, sidecar.stop()) };
    let (answer, ()) = tokio::time::timeout(std::time::Duration::from_secs(10), both).await.expect("it ends");
    assert!(answer.status == 200 && answer.closes);
}

#[tokio::test]
async fn a_second_signal_ends_it_at_once() {
    let script =
        vec![Piece::Send(STREAM_HEAD.to_vec()), Piece::Send(chunk(b"data: 1\n\n")), Piece::UntilClosed];
    let upstream = Upstream::start(move |_| script.clone()).await;
    let scratch = tempfile::tempdir().expect("a temporary directory");
    let mut process = Process::start(&upstream.url(), &scratch.path().join("data"), scratch.path()).await;
    let mut stream = Connection::open(&process.proxy).await;
    stream.post("/v1/chat/completions", "", b"{}").await;
    stream.read_until(b"data: 1\n\n").await;
    process.signal(Signal::TERM);
    until("it to hear", || process.messages().contains("may finish within 30s").then_some(())).await;
    assert!(process.runs());
    process.signal(Signal::INT);
    process.ended().await;
    assert!(process.messages().contains("a second time"));
}

#[tokio::test]
async fn a_taken_port_is_named_with_what_to_do() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    let dir = tempfile::tempdir().expect("a temporary directory");
    let mut config = config(dir.path());
    config.listen = taken.local_addr().expect("bound").to_string();
    let message = refused(&config).await.to_string();
    assert!(
        message.contains(&config.listen) && message.contains("--listen") && !message.contains('\n'),
        "{message}"
    );
}

#[tokio::test]
async fn a_data_directory_that_cannot_be_made_is_named_with_what_to_do() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let file = dir.path().join("file");
    std::fs::write(&file, "").expect("written");
    let message = refused(&config(&file.join("data"))).await.to_string();
    assert!(message.contains("file") && message.contains("--data") && !message.contains('\n'), "{message}");
}

#[tokio::test]
async fn a_newer_database_is_refused_and_left_alone() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let path = dir.path().join("insight.db");
    let db = rusqlite::Connection::open(&path).expect("made");
    db.pragma_update(None, "user_version", 9999).expect("set");
    drop(db);
    let error = refused(&config(dir.path())).await;
    assert!(matches!(error, AppError::Store(StoreError::Newer { found: 9999, .. })), "{error}");
    assert!(error.to_string().contains("upgrade"));
}
