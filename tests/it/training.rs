//! Nights that train: what was corrected by day, a process of their own, and what is left where it fails.

use std::path::Path;
use std::process::Output;
use std::sync::atomic::{AtomicUsize, Ordering};

use remora::store::DataDir;
use remora::train::night::{Ended, runs};
use serde_json::{Value, json};

use crate::harness::{Connection, Launch, Sidecar, Upstream, completion, plain, remora, until, with_data};

/// Corrections of as many answers.
async fn corrected(sidecar: &Sidecar, count: usize) {
    for n in 0..count {
        let body = json!({"model": "m", "messages": [{"role": "user", "content": format!("number {n}")}]});
        sidecar.post("/v1/chat/completions", "", body.to_string().as_bytes()).await;
        let said = json!({"response_id": format!("r-{n}"), "label": "failure", "correction": format!("{n}")});
        let headers = "Content-Type: application/json\r\n";
        let answer = sidecar.post("/remora/v1/feedback", headers, said.to_string().as_bytes()).await;
        assert_eq!(answer.status, 202);
    }
}

/// Answers each request under an id of its own.
async fn counting() -> Upstream {
    let count = AtomicUsize::new(0);
    Upstream::start(move |_| {
        let id = format!("r-{}", count.fetch_add(1, Ordering::Relaxed));
        vec![crate::harness::Piece::Send(plain("200 OK", "", &completion(&id, "no idea")))]
    })
    .await
}

fn train(arguments: &[&str], data: &Path) -> (Output, Value) {
    let output = remora(&with_data(&[&["train", "--json"], arguments].concat(), data));
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    let last = said.lines().last().and_then(|line| serde_json::from_str(line).ok());
    (output, last.unwrap_or(Value::Null))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_training_that_fails_says_why_and_leaves_nothing_but_its_record() {
    let upstream = counting().await;
    let sidecar = Sidecar::start(&upstream.url()).await;
    corrected(&sidecar, 44).await;
    let data = sidecar.path();
    for attempt in 1..=2 {
        let (output, said) = train(&["--model", "/no/such/model.gguf"], data);
        let run = &said["runs"][0];
        assert_eq!(output.status.code(), Some(1), "{said}");
        assert_eq!((&run["outcome"], &run["adapter"]), (&json!("failed"), &Value::Null), "{said}");
        assert!(run["reasons"][0].as_str().is_some_and(|r| r.contains("/no/such/model.gguf")), "{said}");
        assert_eq!(runs(&DataDir::new(data)).expect("readable").len(), attempt);
        assert!(!data.join("training/work").exists(), "the conversations are gone");
        assert!(!data.join("adapters").exists(), "nothing is registered");
    }
    // Traffic goes on.
    let body = json!({"model": "m", "messages": [{"role": "user", "content": "still there?"}]}).to_string();
    assert_eq!(sidecar.post("/v1/chat/completions", "", body.as_bytes()).await.status, 200);
}

#[test]
fn training_needs_a_model_and_a_scope_that_can_be_one() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    for arguments in [&[][..], &["--model", "m", "--scope", "mine"]] {
        let (output, _) = train(arguments, dir.path());
        assert_eq!(output.status.code(), Some(2), "{arguments:?}");
    }
    let (output, said) = train(&["--model", "m", "--scope", "a/b"], dir.path());
    assert_eq!((output.status.code(), &said["runs"][0]["outcome"]), (Some(0), &json!("too_few")), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_schedule_starts_a_training_beside_the_traffic() {
    let upstream = Upstream::always(plain("200 OK", "", &completion("r", "hi"))).await;
    let scratch = tempfile::tempdir().expect("a temporary directory");
    let data = scratch.path().join("data");
    let launch = Launch::new(&data, scratch.path()).with(&["--upstream", &upstream.url()]);
    launch.configure(
        "train:\n  schedule: '* * * * * *'\n  model: /no/such/model\n  scopes: [default/default]\n",
    );
    let process = launch.start().await;
    let dir = DataDir::new(&data);
    let run = until("a training", || runs(&dir).ok()?.into_iter().next()).await;
    assert_eq!((run.outcome, run.model.as_str()), (Ended::TooFew, "/no/such/model"));
    let mut app = Connection::open(&process.proxy).await;
    let body = json!({"model": "m", "messages": [{"role": "user", "content": "hello"}]}).to_string();
    assert!(app.try_post("/v1/chat/completions", body.as_bytes()).await.is_some());
}
