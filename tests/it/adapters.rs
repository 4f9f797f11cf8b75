//! Adapters on their way into servers, and the verbs that send them there.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Mutex};

use remora::adapters::{self, AdapterError, Candidate, Registry, Server};
use remora::config::{Secret, Span, SwapTarget, TargetKind};
use remora::model::{AdapterBase, AdapterExamples, AdapterId, AdapterScores, AdapterState, Scope};
use remora::store::DataDir;
use remora::upstream::Setup;
use serde_json::{Value, json};

use crate::harness::{Piece, Request, Upstream, plain, remora};

const ALIAS: &str = "default-desk";

/// A server that speaks vLLM's API for adapters, and can be made to fail.
struct Vllm {
    upstream: Upstream,
    desk: Arc<Mutex<Desk>>,
}

#[derive(Default)]
struct Desk {
    loaded: BTreeMap<String, String>,
    /// In order: `load NAME`, `load NAME in place`, `unload NAME`.
    said: Vec<String>,
    /// Paths with this in them are refused.
    refuses: Option<String>,
    /// Paths with this in them are said to be loaded under the alias, and are not.
    forgets: Option<String>,
    /// Loads of paths with this in them are never answered.
    hangs: Option<String>,
}

impl Vllm {
    async fn start() -> Self {
        let desk: Arc<Mutex<Desk>> = Arc::default();
        let behind = desk.clone();
        let upstream =
            Upstream::start(move |request| behind.lock().expect("no test panics here").answer(request)).await;
        Self { upstream, desk }
    }

    fn desk(&self) -> std::sync::MutexGuard<'_, Desk> {
        self.desk.lock().expect("no test panics here")
    }

    /// What a name stands for: the last part of its path.
    fn serves(&self, name: &str) -> Option<String> {
        let path = self.desk().loaded.get(name)?.clone();
        Some(path.rsplit('/').next().expect("a path").to_owned())
    }

    fn target(&self) -> SwapTarget {
        SwapTarget {
            kind: TargetKind::Vllm,
            url: self.upstream.url(),
            scope: None,
            api_key: None,
            directory: None,
            timeout: Span::secs(20),
        }
    }

    fn server(&self) -> Server {
        Server::build(&self.target(), "test", &Setup::default()).expect("it can be set up")
    }
}

impl Desk {
    fn answer(&mut self, request: &Request) -> Vec<Piece> {
        let json =
            |status: &str, body: Value| vec![Piece::Send(plain(status, "", body.to_string().as_bytes()))];
        let error = |status: &str, said: &str| json(status, json!({"error": {"message": said}}));
        let body: Value = serde_json::from_slice(&request.body).unwrap_or_default();
        let name = body["lora_name"].as_str().unwrap_or_default().to_owned();
        let path = body["lora_path"].as_str().unwrap_or_default().to_owned();
        let holds = |what: &Option<String>| what.as_ref().is_some_and(|what| path.contains(what));
        match request.head.split(' ').nth(1).expect("a path") {
            "/v1/models" => {
                let base = json!({"id": "base", "root": "/models/base"});
                let loras =
                    self.loaded.iter().map(|(id, root)| json!({"id": id, "root": root, "parent": "base"}));
                json("200 OK", json!({"data": std::iter::once(base).chain(loras).collect::<Vec<_>>()}))
            }
            "/v1/load_lora_adapter" => {
                let in_place = body["load_inplace"] == true;
                self.said.push(format!("load {name}{}", if in_place { " in place" } else { "" }));
                if holds(&self.hangs) {
                    return vec![Piece::UntilClosed];
                }
                if holds(&self.refuses) {
                    return error("400 Bad Request", "r 16 is greater than max_lora_rank 8");
                }
                if self.loaded.contains_key(&name) && !in_place {
                    return error("400 Bad Request", "has already been loaded");
                }
                if !(holds(&self.forgets) && name == ALIAS) {
                    self.loaded.insert(name, path);
                }
                vec![Piece::Send(plain("200 OK", "", b"Success"))]
            }
            "/v1/unload_lora_adapter" => {
                self.said.push(format!("unload {name}"));
                match self.loaded.remove(&name) {
                    Some(_) => vec![Piece::Send(plain("200 OK", "", b"Success"))],
                    None => error("404 Not Found", "The lora adapter cannot be found."),
                }
            }
            _ => error("404 Not Found", "Not Found"),
        }
    }
}

fn registry(data: &Path) -> Registry {
    Registry::open(&DataDir::new(data))
}

fn add(data: &Path) -> AdapterId {
    let files = tempfile::tempdir().expect("a temporary directory");
    std::fs::write(files.path().join(adapters::WEIGHTS), b"\0\0\0\0\0\0\0\0").expect("written");
    std::fs::write(files.path().join(adapters::CONFIG), r#"{"r": 16}"#).expect("written");
    let candidate = Candidate {
        files: files.path().to_owned(),
        scope: Scope { app: "desk".into(), ..Scope::default() },
        base: AdapterBase { model: "tiny".into(), hash: "00".into() },
        trajectories: Vec::new(),
        examples: AdapterExamples::default(),
        options: json!({}),
        scores: AdapterScores::default(),
    };
    registry(data).add(candidate).expect("it is added")
}

fn current(data: &Path) -> Option<AdapterId> {
    registry(data).alias(ALIAS).expect("readable").and_then(|alias| alias.current())
}

/// A server that answers with the first of two adapters, and the second.
async fn promoted(data: &Path) -> (Vllm, AdapterId, AdapterId) {
    let vllm = Vllm::start().await;
    let (a, b) = (add(data), add(data));
    adapters::promote(&registry(data), &[vllm.server()], a, ALIAS, "").await.expect("promoted");
    vllm.desk().said.clear();
    (vllm, a, b)
}

#[tokio::test]
async fn an_adapter_is_tried_under_its_own_name_before_the_alias_moves_in_place() {
    let data = tempfile::tempdir().expect("a temporary directory");
    let vllm = Vllm::start().await;
    let (a, b) = (add(data.path()), add(data.path()));
    for (id, last) in [(a, format!("load {ALIAS}")), (b, format!("load {ALIAS} in place"))] {
        vllm.desk().said.clear();
        let done = adapters::promote(&registry(data.path()), &[vllm.server()], id, ALIAS, "")
            .await
            .expect("promoted");
        assert_eq!(done.servers, [vllm.upstream.url()]);
        assert_eq!(vllm.desk().said, [format!("load {id}"), last, format!("unload {id}")]);
        assert_eq!((vllm.serves(ALIAS), current(data.path())), (Some(id.to_string()), Some(id)));
    }
    assert_eq!(vllm.desk().loaded.len(), 1, "nothing else stays loaded");
}

#[tokio::test]
async fn a_server_that_refuses_the_files_keeps_the_former_and_says_why() {
    let data = tempfile::tempdir().expect("a temporary directory");
    let (vllm, a, b) = promoted(data.path()).await;
    vllm.desk().refuses = Some(b.to_string());
    let error =
        adapters::promote(&registry(data.path()), &[vllm.server()], b, ALIAS, "").await.expect_err("refused");
    assert!(error.to_string().contains("max_lora_rank 8"), "{error}");
    assert_eq!((vllm.serves(ALIAS), current(data.path())), (Some(a.to_string()), Some(a)));
    assert_eq!(vllm.desk().said, [format!("load {b}")], "the alias was not touched");
    assert_eq!(registry(data.path()).get(b).expect("there").state, AdapterState::Candidate);
}

#[tokio::test]
async fn a_server_that_does_not_do_what_it_says_gets_the_former_back() {
    let data = tempfile::tempdir().expect("a temporary directory");
    let (vllm, a, b) = promoted(data.path()).await;
    vllm.desk().forgets = Some(b.to_string());
    let error = adapters::promote(&registry(data.path()), &[vllm.server()], b, ALIAS, "")
        .await
        .expect_err("not there");
    assert!(error.to_string().contains("/v1/models shows it from"), "{error}");
    assert_eq!((vllm.serves(ALIAS), current(data.path())), (Some(a.to_string()), Some(a)));
    assert_eq!(vllm.desk().loaded.len(), 1, "the version's name is gone");
}

#[tokio::test]
async fn a_server_that_does_not_answer_is_given_up_and_nothing_moves() {
    let data = tempfile::tempdir().expect("a temporary directory");
    let (vllm, a, b) = promoted(data.path()).await;
    vllm.desk().hangs = Some(b.to_string());
    let target = SwapTarget { timeout: Span::millis(300), ..vllm.target() };
    let server = Server::build(&target, "test", &Setup::default()).expect("it can be set up");
    let error =
        adapters::promote(&registry(data.path()), &[server], b, ALIAS, "").await.expect_err("no answer");
    assert!(
        error.to_string().contains("300ms") && error.to_string().contains(&vllm.upstream.url()),
        "{error}"
    );
    assert_eq!((vllm.serves(ALIAS), current(data.path())), (Some(a.to_string()), Some(a)));
}

#[tokio::test]
async fn where_one_of_two_servers_refuses_the_other_goes_back() {
    let data = tempfile::tempdir().expect("a temporary directory");
    let (one, two) = (Vllm::start().await, Vllm::start().await);
    let servers = [one.server(), two.server()];
    let (a, b) = (add(data.path()), add(data.path()));
    adapters::promote(&registry(data.path()), &servers, a, ALIAS, "").await.expect("promoted");
    two.desk().refuses = Some(b.to_string());
    let error = adapters::promote(&registry(data.path()), &servers, b, ALIAS, "").await.expect_err("refused");
    assert!(error.to_string().contains(&two.upstream.url()), "{error}");
    for vllm in [&one, &two] {
        assert_eq!(vllm.serves(ALIAS), Some(a.to_string()));
    }
    assert_eq!(current(data.path()), Some(a));
}

#[tokio::test]
async fn going_back_to_the_base_keeps_the_alias_answering() {
    let data = tempfile::tempdir().expect("a temporary directory");
    let (vllm, a, b) = promoted(data.path()).await;
    let (registry, servers) = (registry(data.path()), [vllm.server()]);
    adapters::promote(&registry, &servers, b, ALIAS, "").await.expect("promoted");
    let back = adapters::rollback(&registry, &servers, ALIAS, "worse").await.expect("rolled back");
    assert_eq!((back.moved.to, vllm.serves(ALIAS)), (Some(a), Some(a.to_string())));
    let back = adapters::rollback(&registry, &servers, ALIAS, "worse").await.expect("rolled back");
    assert_eq!((back.moved.to, vllm.serves(ALIAS)), (None, Some(format!("base-for-{a}"))));
    let error = adapters::rollback(&registry, &servers, ALIAS, "").await.expect_err("nothing before");
    assert!(matches!(error, AdapterError::NothingBefore { .. }), "{error}");
}

#[tokio::test]
async fn a_server_elsewhere_gets_its_own_path_and_the_key() {
    let data = tempfile::tempdir().expect("a temporary directory");
    let vllm = Vllm::start().await;
    let key: Secret = serde_json::from_value(json!("sesame")).expect("a key");
    let target = SwapTarget { directory: Some("/mnt/adapters".into()), api_key: Some(key), ..vllm.target() };
    let server = Server::build(&target, "test", &Setup::default()).expect("it can be set up");
    let id = add(data.path());
    adapters::promote(&registry(data.path()), &[server], id, ALIAS, "").await.expect("promoted");
    assert_eq!(vllm.desk().loaded[ALIAS], format!("/mnt/adapters/{id}"));
    for request in vllm.upstream.requests() {
        assert!(request.head.to_lowercase().contains("authorization: bearer sesame"), "{}", request.head);
    }
}

#[test]
fn promotions_at_the_same_time_lose_none() {
    const EACH: usize = 8;
    let data = tempfile::tempdir().expect("a temporary directory");
    let ids = [add(data.path()), add(data.path())];
    std::thread::scope(|scope| {
        for id in ids {
            let data = data.path();
            scope.spawn(move || {
                for n in 0..EACH {
                    // An alias of its own each time, and one that both want.
                    registry(data)
                        .promote(id, &format!("{id}-{n}").replace("ad_", "own-"), "")
                        .expect("promoted");
                    registry(data).promote(id, ALIAS, "").expect("promoted");
                }
            });
        }
    });
    let aliases = registry(data.path()).aliases().expect("readable");
    assert_eq!(aliases.len(), 2 * EACH + 1);
    assert!(current(data.path()).is_some_and(|id| ids.contains(&id)));
}

/// The server of local models, with a scripted one that answers differently with different weights.
#[cfg(feature = "onnx")]
#[tokio::test(flavor = "multi_thread")]
async fn the_embedded_server_is_swapped_back_and_forth_without_a_failed_request() {
    use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

    use remora::serve::scripted::{self, Scripted, ScriptedText, chatter};
    use remora::serve::{Model, Server as Serving};

    use crate::harness::until;
    use crate::serve::Served;

    let data = tempfile::tempdir().expect("a temporary directory");
    let ids = [add(data.path()), add(data.path())];
    let (registry, second) = (registry(data.path()), ids[1].to_string());
    let load = move |path: &Path| -> Result<_, String> {
        let number = if path.ends_with(&second) { 2 } else { 1 };
        Ok(scripted::adapter(number))
    };
    let model = Model {
        engine: Box::new(Scripted::new(4, 512, chatter())),
        text: Arc::new(ScriptedText),
        names: vec!["scripted".into()],
        root: "/models/scripted".into(),
        architecture: None,
        load: Some(Arc::new(load)),
        active: std::collections::BTreeMap::new(),
        aliases: None,
    };
    let settings = remora::config::Serve { listen: "127.0.0.1:0".into(), queue: 64, ..Default::default() };
    let server = Serving::start(&settings, model).await.expect("it starts");
    let served = Arc::new(Served { url: server.url(), server });
    let target =
        SwapTarget { kind: TargetKind::Serve, url: served.url.clone(), ..Vllm::start().await.target() };
    let servers = [Server::build(&target, "test", &Setup::default()).expect("it can be set up")];
    adapters::promote(&registry, &servers, ids[0], ALIAS, "").await.expect("promoted");

    let (over, answered) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
    let clients: Vec<_> = (0..4)
        .map(|_| {
            let (served, over, answered) = (served.clone(), over.clone(), answered.clone());
            tokio::spawn(async move {
                while !over.load(Ordering::Relaxed) {
                    served.chat(json!({"model": ALIAS, "max_tokens": 12})).await;
                    answered.fetch_add(1, Ordering::Relaxed);
                }
            })
        })
        .collect();
    let mut slowest = std::time::Duration::ZERO;
    for n in 0..10 {
        let before = answered.load(Ordering::Relaxed);
        until("an answer between two swaps", || (answered.load(Ordering::Relaxed) > before).then_some(()))
            .await;
        let since = std::time::Instant::now();
        if n % 2 == 0 {
            adapters::promote(&registry, &servers, ids[1], ALIAS, "").await.expect("promoted");
        } else {
            adapters::rollback(&registry, &servers, ALIAS, "").await.expect("rolled back");
        }
        slowest = slowest.max(since.elapsed());
    }
    over.store(true, Ordering::Relaxed);
    for client in clients {
        client.await.expect("no request failed");
    }
    println!("the slowest of ten swaps, record included: {slowest:?}");
    let listed: Value = serde_json::from_slice(&served.get("/v1/models").await.body).expect("JSON");
    assert_eq!(listed["data"].as_array().map(Vec::len), Some(2), "the base and the alias: {listed}");
    Arc::into_inner(served).expect("no client is left").stop().await;
}

/// Runs `remora adapters …`; exit code, standard output, standard error.
fn verb(data: &Path, config: &Path, arguments: &[&str]) -> (Option<i32>, String, String) {
    let text = |path: &Path| path.to_str().expect("a plain path").to_owned();
    let (data, config) = (text(data), text(config));
    let mut all = vec!["adapters"];
    all.extend(arguments);
    all.extend(["--data", &data, "--config", &config]);
    let output = remora(&all);
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (output.status.code(), text(&output.stdout), text(&output.stderr))
}

#[tokio::test(flavor = "multi_thread")]
async fn the_verbs_list_show_promote_and_roll_back() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let (data, config) = (dir.path().join("data"), dir.path().join("remora.yaml"));
    let vllm = Vllm::start().await;
    let target = format!("adapters:\n  targets:\n  - {{kind: vllm, url: '{}'}}\n", vllm.upstream.url());
    std::fs::write(&config, target).expect("written");
    let run = |arguments: &[&str]| {
        let (code, out, said) = verb(&data, &config, arguments);
        assert_eq!(code, Some(0), "{arguments:?}: {said}");
        out
    };
    let last =
        |out: &str| -> Value { serde_json::from_str(out.lines().last().expect("a line")).expect("JSON") };

    assert!(run(&["list"]).contains("nothing was trained yet"));
    let (a, b) = (add(&data), add(&data));
    let short = b.to_string()[25..].to_owned();
    let moved = last(&run(&["promote", &short, "--json"]));
    assert_eq!(moved, json!({"alias": ALIAS, "from": null, "to": b, "servers": [vllm.upstream.url()]}));
    assert_eq!(vllm.serves(ALIAS), Some(b.to_string()));

    let listed = last(&run(&["list", "--json"]));
    assert_eq!(listed["adapters"][0]["id"], json!(b), "the latest first");
    assert_eq!(
        (&listed["adapters"][0]["state"], &listed["adapters"][1]["state"]),
        (&json!("active"), &json!("candidate"))
    );
    assert_eq!(listed["aliases"][0]["adapter"], json!(b));
    assert!(run(&["list"]).contains(&format!("{ALIAS} → {b}")));
    assert_eq!(last(&run(&["show", ALIAS, "--json"]))["id"], json!(b));
    assert!(run(&["show", &a.to_string()]).contains("candidate"));

    let back = run(&["rollback", "--reason", "worse"]);
    assert!(back.contains(&format!("{ALIAS} is the base model now; it was {b}")), "{back}");
    assert_eq!(current(&data), None);
    let shown = last(&run(&["show", &short, "--json"]));
    assert_eq!((&shown["state"], &shown["reason"]), (&json!("retired"), &json!("worse")));

    registry(&data).record_decision(a, AdapterState::Rejected, "no better", None).expect("recorded");
    let (code, _, said) = verb(&data, &config, &["promote", &a.to_string()]);
    assert!(code == Some(1) && said.contains("no better") && said.contains("--anyway"), "{said}");
    run(&["promote", &a.to_string(), "--anyway"]);
    assert_eq!(current(&data), Some(a));
}

#[test]
fn what_cannot_be_done_exits_with_1_and_wrong_usage_with_2() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let (data, config) = (dir.path().join("data"), dir.path().join("remora.yaml"));
    std::fs::write(&config, "adapters:\n  targets:\n  - {kind: vllm, url: 'http://127.0.0.1:1'}\n")
        .expect("written");
    let id = add(&data).to_string();
    for (arguments, expected, says) in [
        (&["show", "ffff"][..], 1, "no adapter \"ffff\""),
        (&["rollback", "nothing"], 1, "nothing was promoted yet"),
        (&["promote", &id], 1, "http://127.0.0.1:1"),
        (&["promote", &id, "--alias", "a b"], 1, "no name for an alias"),
        (&["promote"], 2, "Usage"),
        (&["dance"], 2, "Usage"),
    ] {
        let (code, _, said) = verb(&data, &config, arguments);
        assert_eq!(code, Some(expected), "{arguments:?}: {said}");
        assert!(said.contains(says), "{arguments:?}: {said}");
    }
    assert_eq!(current(&data), None, "a server that is not there leaves the record as it was");
    std::fs::write(&config, "adapters: {targets: [{kind: x}]}\n").expect("written");
    assert_eq!(verb(&data, &config, &["list"]).0, Some(2));
}
