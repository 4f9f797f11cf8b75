//! The model of `serve` as a part of `remora run`, over a tiny model on ONNX Runtime.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use remora::adapters::{Candidate, Registry};
use remora::config::{Config, DeviceChoice, EMBEDDED, Route};
use remora::model::{AdapterBase, AdapterExamples, AdapterId, AdapterScores, Scope};
use remora::onnx::checkpoint::Checkpoint;
use remora::serve::scripted::{Scripted, chatter};
use remora::serve::{Door, Server};
use remora::store::DataDir;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::sync::watch;

use super::real::{adapter, tiny};
use super::value;
use crate::harness::{Connection, Launch, PATIENCE, Sidecar, Upstream, plain, remora, until};

const ALIAS: &str = "default-default";

fn settings(config: &mut Config) {
    config.serve.model = tiny().to_str().expect("a plain path").to_owned();
    config.serve.listen = "127.0.0.1:0".into();
    (config.serve.slots, config.serve.context, config.serve.threads) = (4, 128, 1);
    config.onnx.device = DeviceChoice::Cpu;
}

fn question(model: &str, tokens: usize) -> Vec<u8> {
    let prompt: Vec<u32> = (0..12).map(|at| 3 + at * 7).collect();
    let body = json!({"model": model, "prompt": prompt, "temperature": 0, "max_tokens": tokens, "ignore_eos": true,
        "logprobs": 0, "return_tokens_as_token_ids": true});
    body.to_string().into_bytes()
}

/// The tokens that a model says, through the proxy.
async fn says(proxy: &str, model: &str) -> Value {
    let mut app = Connection::open(proxy).await;
    app.post("/v1/completions", "", &question(model, 16)).await;
    let answer = app.answer().await;
    assert_eq!(answer.status, 200, "{}", String::from_utf8_lossy(&answer.body));
    value(&answer)["choices"][0]["logprobs"]["tokens"].clone()
}

/// What a night would have made.
fn candidate(data: &Path, scratch: &Path) -> AdapterId {
    let hash = Checkpoint::open(&tiny()).expect("a checkpoint").hash().expect("readable").to_string();
    let candidate = Candidate {
        files: adapter(scratch, 7),
        scope: Scope::default(),
        base: AdapterBase { model: "tiny".into(), hash },
        trajectories: Vec::new(),
        examples: AdapterExamples::default(),
        options: json!({}),
        scores: AdapterScores::default(),
    };
    Registry::open(&DataDir::new(data)).add(candidate).expect("it is added")
}

/// `remora adapters VERB WHAT`: the servers that were told.
fn release(verb: &str, what: &str, config: &Path, data: &Path) -> Value {
    let paths = [config, data].map(|path| path.to_str().expect("a plain path"));
    let output = remora(&["adapters", verb, what, "--json", "--config", paths[0], "--data", paths[1]]);
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{said} {}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_str::<Value>(said.lines().last().expect("a line")).expect("JSON")["servers"].clone()
}

#[tokio::test(flavor = "multi_thread")]
async fn adapters_reach_the_embedded_model_while_it_answers_and_are_there_after_a_restart() {
    let scratch = tempfile::tempdir().expect("a temporary directory");
    let dir = tempfile::tempdir().expect("a temporary directory");
    let mut sidecar = Sidecar::again(dir, EMBEDDED, settings).await;
    let server = sidecar.serve_url().expect("it is embedded");
    // Asked before the model is open; nothing was learned yet.
    let base = says(&sidecar.proxy, ALIAS).await;
    assert_eq!(says(&sidecar.proxy, "qwen3").await, base);
    let recorded = sidecar.recorded(2).await;
    assert_eq!(recorded[0].upstream.trim_end_matches('/'), server);

    // As where only the command line of `remora run` says that a model is embedded.
    let config = scratch.path().join("remora.yaml");
    std::fs::write(&config, "adapters: {targets: []}\n").expect("written");
    let (stop, answered) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
    let mut apps = Vec::new();
    for _ in 0..3 {
        let (stop, answered, proxy) = (stop.clone(), answered.clone(), sidecar.proxy.clone());
        apps.push(tokio::spawn(async move {
            let mut said = Vec::new();
            while !stop.load(Ordering::Relaxed) {
                said.push(says(&proxy, ALIAS).await);
                answered.fetch_add(1, Ordering::Relaxed);
            }
            said
        }));
    }
    let some_more = || async {
        let enough = answered.load(Ordering::Relaxed) + 6;
        until("answers", || (answered.load(Ordering::Relaxed) >= enough).then_some(())).await;
    };
    let data = sidecar.path().to_owned();
    assert_eq!(DataDir::new(&data).embedded().map(|at| format!("http://{at}")), Some(server.clone()));
    let id = candidate(&data, scratch.path()).to_string();
    some_more().await;
    assert_eq!(release("promote", &id, &config, &data), json!([server]));
    let learned = says(&sidecar.proxy, ALIAS).await;
    assert_ne!(learned, base, "the alias answers with the adapter");
    assert_eq!(says(&sidecar.proxy, "qwen3").await, base, "and only the alias");
    some_more().await;
    assert_eq!(release("rollback", ALIAS, &config, &data), json!([server]));
    assert_eq!(says(&sidecar.proxy, ALIAS).await, base);
    some_more().await;
    stop.store(true, Ordering::Relaxed);
    for app in apps {
        let said = app.await.expect("no request failed");
        assert!(said.iter().all(|tokens| *tokens == base || *tokens == learned));
    }

    // A request under way when it stops is answered to its end.
    let mut last = Connection::open(&sidecar.proxy).await;
    let mut streamed: Value = serde_json::from_slice(&question(ALIAS, 100)).expect("JSON");
    streamed["stream"] = json!(true);
    last.post("/v1/completions", "", streamed.to_string().as_bytes()).await;
    last.read_until(b"data: ").await;
    let ((), answer) = tokio::join!(sidecar.stop(), last.rest());
    assert!(String::from_utf8_lossy(&answer).contains("[DONE]"), "it was cut");

    assert!(DataDir::new(&data).embedded().is_none(), "a process that stopped takes back what it told");

    // Nobody is there to be told, and it is served all the same when somebody is.
    assert_eq!(release("promote", &id, &config, &data), json!([]));
    let sidecar = Sidecar::again(sidecar.dir, EMBEDDED, settings).await;
    assert_eq!(says(&sidecar.proxy, ALIAS).await, learned);
}

#[tokio::test]
async fn an_app_that_is_new_uses_its_alias_at_once_and_nobody_elses() {
    let sidecar = Sidecar::again(tempfile::tempdir().expect("a directory"), EMBEDDED, settings).await;
    let base = says(&sidecar.proxy, "qwen3").await;
    for (app, alias, status) in
        [("desk", "acme-desk", 200), ("desk", "acme-shop", 404), ("shop", "acme-shop", 200)]
    {
        let mut client = Connection::open(&sidecar.proxy).await;
        let scope = format!("x-remora-tenant: acme\r\nx-remora-app: {app}\r\n");
        client.post("/v1/completions", &scope, &question(alias, 16)).await;
        let answer = client.answer().await;
        assert_eq!(answer.status, status, "{app} {alias}");
        if status == 200 {
            assert_eq!(value(&answer)["choices"][0]["logprobs"]["tokens"], base);
        }
    }
}

#[tokio::test]
async fn a_model_that_cannot_be_opened_costs_the_requests_that_are_meant_for_it_only() {
    let upstream = Upstream::always(plain("200 OK", "", b"hosted")).await;
    let mut embedded = Route { model: Some("tiny".into()), ..Route::default() };
    embedded.upstream.url = EMBEDDED.into();
    let sidecar = Sidecar::configured(&upstream.url(), |config| {
        settings(config);
        config.serve.model = "/no/such/model".into();
        config.routes = vec![embedded];
    })
    .await;
    for _ in 0..2 {
        let failed = sidecar.post("/v1/completions", "", &question("tiny", 4)).await;
        assert_eq!(failed.status, 502, "{}", String::from_utf8_lossy(&failed.body));
        assert_eq!(sidecar.post("/v1/completions", "", &question("other", 4)).await.status, 200);
    }
}

#[tokio::test]
async fn an_upstream_cannot_become_embedded_while_it_runs() {
    let upstream = Upstream::always(plain("200 OK", "", b"hosted")).await;
    let sidecar = Sidecar::start(&upstream.url()).await;
    sidecar.reload(|config| config.upstream.url = EMBEDDED.into()).await;
    assert_eq!(sidecar.metric("remora_config_reload_failed").await, 1.0);
    assert_eq!(sidecar.post("/v1/completions", "", &question("m", 4)).await.body, b"hosted");
}

#[tokio::test]
async fn the_next_process_takes_the_embedded_model_over_without_a_failed_request() {
    let scratch = tempfile::tempdir().expect("a temporary directory");
    let data = scratch.path().join("data");
    // A port that was free a moment ago: other processes have to know it.
    let free = std::net::TcpListener::bind("127.0.0.1:0").expect("a port").local_addr().expect("it has one");
    let launch = || Launch::new(&data, scratch.path()).with(&["--upstream", EMBEDDED, "--takeover"]);
    launch().configure(&format!(
        "serve: {{model: {}, listen: \"{free}\", slots: 4, context: 128, threads: 1}}\nonnx: {{device: cpu}}\n",
        tiny().display()
    ));
    let mut first = launch().start().await;
    let base = says(&first.proxy, ALIAS).await;
    let (stop, proxy) = (Arc::new(AtomicBool::new(false)), first.proxy.clone());
    let over = stop.clone();
    let app = tokio::spawn(async move {
        let mut said = Vec::new();
        while !over.load(Ordering::Relaxed) {
            said.push(says(&proxy, ALIAS).await);
        }
        said
    });
    let second = launch().start().await;
    assert_eq!(second.proxy, first.proxy);
    first.ended().await;
    assert_eq!(says(&second.proxy, ALIAS).await, base);
    stop.store(true, Ordering::Relaxed);
    assert!(app.await.expect("no request failed").iter().all(|tokens| *tokens == base));
}

#[tokio::test]
async fn a_shut_door_leaves_connections_to_whoever_else_has_the_socket() {
    let socket = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    socket.set_nonblocking(true).expect("it can be set");
    let other = TcpListener::from_std(socket.try_clone().expect("a copy")).expect("a listener");
    let (turn, open) = watch::channel(true);
    let door = Door { listener: TcpListener::from_std(socket).expect("a listener"), local: true, open };
    let scripted = super::model(Scripted::new(1, 64, chatter()));
    let server = Server::behind(door, &super::settings(), scripted).await.expect("it starts");
    let asks = async |url: &str| {
        let mut client = Connection::open(url).await;
        client.send(b"GET /health HTTP/1.1\r\nHost: remora\r\n\r\n").await;
        client.answer().await.status
    };
    let url = server.url();
    for _ in 0..5 {
        assert_eq!(asks(&url).await, 200);
        turn.send_replace(false);
        let client = Connection::open(&url).await;
        let accepted = tokio::time::timeout(PATIENCE, other.accept()).await;
        accepted.expect("it is left in the queue").expect("it is accepted");
        drop(client);
        turn.send_replace(true);
    }
    server.stop(PATIENCE).await;
}
