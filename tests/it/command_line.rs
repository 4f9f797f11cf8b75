//! The binary, as people and scripts call it.

use serde_json::{Value, json};

use crate::harness::{Sidecar, Upstream, completion, plain, remora, with_data};

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[test]
fn a_wrong_configuration_lists_every_problem_and_exits_with_2() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let file = dir.path().join("remora.yaml");
    std::fs::write(&file, "listen: here\ncapture:\n  ack_timeout: soon\n  colour: red\n").expect("written");
    for verb in [vec!["config", "check"], vec!["run"], vec!["dream"]] {
        let mut arguments = verb.clone();
        arguments.extend(["--config", file.to_str().expect("a plain path")]);
        let output = remora(&arguments);
        assert_eq!(output.status.code(), Some(2), "{verb:?}");
        let said = text(&output.stderr);
        for path in ["listen", "capture.ack_timeout", "capture.colour"] {
            assert!(said.contains(path), "{verb:?} does not name {path}: {said}");
        }
    }
}

#[test]
fn wrong_usage_exits_with_2_and_the_defaults_are_fine() {
    assert_eq!(remora(&["sing"]).status.code(), Some(2));
    assert_eq!(remora(&["config", "check"]).status.code(), Some(0));
    let printed = remora(&["config", "print"]);
    assert!(text(&printed.stdout).contains("127.0.0.1:4141"), "{}", text(&printed.stdout));
}

#[test]
fn a_data_directory_that_cannot_be_used_gives_one_clear_line() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let file = dir.path().join("file");
    std::fs::write(&file, "").expect("written");
    let output = remora(&with_data(&["export", "trajectories"], &file.join("data")));
    let said = text(&output.stderr);
    assert_eq!(output.status.code(), Some(1));
    assert!(said.lines().count() == 1 && said.contains("--data"), "{said}");
}

#[cfg(feature = "onnx")]
#[test]
fn the_doctor_says_where_models_would_train_and_which_are_missing() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let file = dir.path().join("remora.yaml");
    let tiny = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/engine/llama");
    let socket = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let taken = socket.local_addr().expect("it has one");
    let asked = |served: &std::path::Path| {
        let yaml = format!(
            "upstream: {{url: embedded}}\nserve: {{model: {}, listen: \"{taken}\"}}\ntrain: {{model: /nowhere}}\n\
             onnx: {{device: cpu}}\n",
            served.display()
        );
        std::fs::write(&file, yaml).expect("written");
        let config = file.to_str().expect("a plain path");
        let output = remora(&with_data(&["doctor", "--json", "--config", config], dir.path()));
        let said: Value = serde_json::from_slice(&output.stdout).expect("JSON");
        (output.status.code(), said["findings"].as_array().expect("a list").clone())
    };
    let of = |findings: &[Value], what: &str| {
        let found = findings.iter().find(|f| f["what"] == what).expect(what);
        (found["fine"] == true, found["said"].as_str().expect("a sentence").to_owned())
    };

    let (code, findings) = asked(&tiny);
    assert_eq!(code, Some(0), "{findings:?}");
    assert_eq!(of(&findings, "serve.model"), (true, tiny.display().to_string()));
    assert_eq!(of(&findings, "training"), (true, "computing on the CPU, as onnx.device says".into()));
    let (fine, said) = of(&findings, "train.model");
    assert!(!fine && said.contains("/nowhere"), "{said}");
    let (fine, said) = of(&findings, "serve.listen");
    assert!(!fine && said.contains("taken"), "{said}");

    // Requests that are meant for it would fail.
    let (code, findings) = asked(dir.path());
    assert_eq!(code, Some(1), "{findings:?}");
    assert!(!of(&findings, "serve.model").0);
}

#[tokio::test(flavor = "multi_thread")]
async fn export_search_show_and_dream_work_beside_a_running_proxy() {
    let upstream =
        Upstream::always(plain("200 OK", "", &completion("resp-7", "the parcel is in Lisbon"))).await;
    let sidecar = Sidecar::start(&upstream.url()).await;
    let body =
        json!({"model": "m", "messages": [{"role": "user", "content": "where is my parcel"}]}).to_string();
    sidecar.post("/v1/chat/completions", "x-replay-id: tag-1\r\n", body.as_bytes()).await;
    let dir = sidecar.path().to_owned();
    let run = |arguments: &[&str]| {
        let output = remora(&with_data(arguments, &dir));
        assert!(output.status.success(), "{arguments:?}: {}", text(&output.stderr));
        text(&output.stdout)
    };
    let last =
        |said: String| -> Value { serde_json::from_str(said.lines().last().expect("a line")).expect("JSON") };

    let trajectory = last(run(&["export", "trajectories"]));
    assert_eq!(trajectory["response_ids"], json!(["resp-7"]));
    assert_eq!((&trajectory["link"], &trajectory["cluster_id"]), (&json!("first"), &Value::Null));
    let exchange = last(run(&["export", "exchanges"]));
    assert_eq!(
        (&exchange["status"], &exchange["client_tag"], &exchange["ended"]),
        (&json!(200), &json!("tag-1"), &json!("complete"))
    );
    assert_eq!(exchange["usage"]["input_tokens"], 7);
    assert_eq!(exchange["assembled"]["choices"][0]["message"]["content"], "the parcel is in Lisbon");

    // The lexical embedder: this test is about the verb.
    let file = dir.join("lexical.yaml");
    std::fs::write(&file, "search:\n  embedder: lexical\n").expect("written");
    let config = file.to_str().expect("a plain path");
    let found = last(run(&["search", "parcel lisbon", "--json", "--config", config]));
    assert_eq!(found["hits"][0]["trajectory"]["id"], trajectory["trajectory_id"]);
    assert!(run(&["show", "resp-7"]).contains("the parcel is in Lisbon"));
    let nights = last(run(&["dream", "--json", "--config", config]));
    assert_eq!(nights["nights"][0]["phase"], "done");
    assert_eq!(
        last(run(&["dream", "--json", "--config", config]))["nights"][0]["report"]["nothing_new"],
        true
    );
}
