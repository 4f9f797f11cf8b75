//! Starting and stopping.

use remora::app::{App, AppError};
use remora::config::Config;
use remora::model::Ended;
use remora::store::StoreError;

use crate::harness::{Connection, Gate, LAST_CHUNK, Piece, STREAM_HEAD, Sidecar, Upstream, chunk};

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
