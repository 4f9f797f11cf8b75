use std::path::Path;
use std::sync::Arc;

use remora::config;
use remora::model::Micros;
use remora::serve::scripted::{self, Scripted, chatter};
use remora::serve::{Adapter, Model, Server};
use serde_json::{Value, json};

use super::{Served, content, model, question, settings, value};

fn adapter(number: u16) -> Arc<Adapter> {
    let lora = Arc::new(scripted::adapter(number));
    Arc::new(Adapter { lora, root: format!("version-{number}"), since: Micros::now(), files: None })
}

/// A file that the tests' loader reads as an adapter.
fn file(dir: &Path, number: u16) -> String {
    let path = dir.join(format!("adapter-{number}"));
    std::fs::write(&path, number.to_string()).expect("written");
    path.to_str().expect("a plain path").to_owned()
}

async fn says(served: &Served, name: &str) -> String {
    content(&served.chat(json!({"model": name, "max_tokens": 12})).await).to_owned()
}

#[tokio::test]
async fn adapters_come_change_and_go_over_vllms_api() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let served = Served::of(chatter()).await;
    let base = says(&served, "scripted").await;
    let load = |body: Value| {
        let served = &served;
        async move { served.post("/v1/load_lora_adapter", &body).await }
    };
    let loaded = load(json!({"lora_name": "desk", "lora_path": file(dir.path(), 1)})).await;
    assert_eq!(
        (loaded.status, String::from_utf8_lossy(&loaded.body).as_ref()),
        (200, "Success: LoRA adapter 'desk' added successfully.")
    );
    let first = says(&served, "desk").await;
    assert_ne!(first, base, "it answers differently");
    assert_eq!(says(&served, "scripted").await, base, "and only under its name");

    let again = json!({"lora_name": "desk", "lora_path": file(dir.path(), 2)});
    let taken = load(again.clone()).await;
    assert_eq!(taken.status, 400);
    assert!(value(&taken)["error"]["message"].as_str().is_some_and(|m| m.contains("load_inplace")));
    assert_eq!(says(&served, "desk").await, first);
    let mut again = again;
    again["load_inplace"] = json!(true);
    assert_eq!(load(again).await.status, 200);
    assert_ne!(says(&served, "desk").await, first, "replaced");

    let one = value(&served.get("/v1/models/desk").await);
    assert_eq!((&one["parent"], &one["root"]), (&json!("scripted"), &json!(file(dir.path(), 2))));
    let unload = json!({"lora_name": "desk"});
    assert_eq!(served.post("/v1/unload_lora_adapter", &unload).await.status, 200);
    assert_eq!(served.post("/v1/unload_lora_adapter", &unload).await.status, 404);
    let gone = served.post("/v1/chat/completions", &question(json!({"model": "desk"}))).await;
    assert_eq!((gone.status, &value(&gone)["error"]["code"]), (404, &json!("model_not_found")));

    for (body, param) in [
        (json!({"lora_path": "/x"}), "lora_name"),
        (json!({"lora_name": "x"}), "lora_path"),
        (json!({"lora_name": "x", "lora_path": "/nowhere"}), "lora_path"),
        (json!({"lora_name": "default", "lora_path": file(dir.path(), 1)}), "lora_name"),
        (json!({"lora_name": 5, "lora_path": "/x"}), "lora_name"),
    ] {
        let refused = load(body.clone()).await;
        assert_eq!((refused.status, &value(&refused)["error"]["param"]), (400, &json!(param)), "{body}");
    }
    served.stop().await;
}

#[tokio::test]
async fn a_request_keeps_the_adapter_with_which_it_began() {
    let served = Served::with(Scripted::new(2, 4096, chatter()), &settings()).await;
    served.server.names().put("desk", adapter(1)).expect("a name");
    let body = question(json!({"model": "desk", "max_tokens": 2000}));
    let before = served.post("/v1/chat/completions", &body).await;
    let mut streamed = body.clone();
    streamed["stream"] = json!(true);
    let mut client = served.connect().await;
    client.post("/v1/chat/completions", "", streamed.to_string().as_bytes()).await;
    client.read_until(b"\"role\":\"assistant\"").await;
    served.server.names().put("desk", adapter(2)).expect("a name");
    served.server.names().remove("desk");
    let answer = client.answer().await;
    let text: String = super::events(&answer.body)
        .iter()
        .filter_map(|event| event["choices"][0]["delta"]["content"].as_str())
        .collect();
    assert_eq!(text, content(&value(&before)));
    served.stop().await;
}

#[tokio::test]
async fn one_adapter_may_have_several_names() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let path = std::path::PathBuf::from(file(dir.path(), 3));
    let adapters = [("support", &path), ("support-3", &path)].map(|(n, p)| (n.to_owned(), p.clone()));
    let served = Served::with(
        Scripted::new(1, 256, chatter()),
        &config::Serve { adapters: adapters.into(), ..settings() },
    )
    .await;
    let said = says(&served, "support").await;
    assert_eq!(says(&served, "support-3").await, said);
    let list = value(&served.get("/v1/models").await);
    assert_eq!(list["data"].as_array().map(Vec::len), Some(4));
    served.stop().await;

    let missing = [("support".to_owned(), dir.path().join("nothing"))];
    let settings = config::Serve { adapters: missing.into(), ..settings() };
    let Err(error) = Server::start(&settings, model(Scripted::new(1, 64, chatter()))).await else {
        panic!("it started")
    };
    assert!(error.to_string().starts_with("serve.adapters.support: "), "{error}");
}

#[tokio::test]
async fn what_is_active_is_served_from_the_start_and_what_cannot_be_read_by_the_base() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let active = [
        ("desk".to_owned(), Some(file(dir.path(), 5).into())),
        ("reverted".to_owned(), None),
        ("damaged".to_owned(), Some(dir.path().join("nothing"))),
    ];
    let model = Model { active: active.into(), ..model(Scripted::new(1, 256, chatter())) };
    let server = Server::start(&settings(), model).await.expect("it starts");
    let served = Served { url: server.url(), server };
    let base = says(&served, "scripted").await;
    assert_ne!(says(&served, "desk").await, base);
    assert_eq!(says(&served, "reverted").await, base);
    assert_eq!(says(&served, "damaged").await, base);
    let one = value(&served.get("/v1/models/reverted").await);
    assert_eq!((&one["parent"], &one["root"]), (&json!("scripted"), &json!("/models/scripted")));
    let path = file(dir.path(), 6);
    let load = json!({"lora_name": "reverted", "lora_path": path, "load_inplace": true});
    assert_eq!(served.post("/v1/load_lora_adapter", &load).await.status, 200);
    assert_ne!(says(&served, "reverted").await, base);
    served.stop().await;
}

#[tokio::test]
async fn a_key_is_asked_for_where_there_is_one() {
    let yaml = "serve:\n  api_key: sesame\n";
    let keyed = config::Config::from_yaml(yaml, "test", |_| None).expect("settings").serve;
    let settings = config::Serve { listen: "127.0.0.1:0".into(), ..keyed };
    let served = Served::with(Scripted::new(1, 256, chatter()), &settings).await;
    let ask = |header: &'static str| {
        let served = &served;
        async move {
            let mut client = served.connect().await;
            client.post("/v1/unload_lora_adapter", header, b"{\"lora_name\": \"x\"}").await;
            client.answer().await.status
        }
    };
    assert_eq!(ask("").await, 401);
    assert_eq!(ask("Authorization: Bearer wrong\r\n").await, 401);
    assert_eq!(ask("Authorization: Basic sesame\r\n").await, 401);
    assert_eq!(ask("Authorization: Bearer sesame\r\n").await, 404, "there is no such adapter");
    assert_eq!(served.get("/v1/models").await.status, 401);
    assert_eq!(served.get("/health").await.status, 200);
    served.stop().await;
}

#[tokio::test]
async fn no_web_page_changes_what_is_served() {
    let served = Served::of(chatter()).await;
    let mut client = served.connect().await;
    let body = b"{\"lora_name\": \"x\", \"lora_path\": \"/etc/passwd\"}";
    client.post("/v1/load_lora_adapter", "Origin: https://example.com\r\n", body).await;
    let answer = client.answer().await;
    assert_eq!((answer.status, &value(&answer)["error"]["code"]), (403, &json!("forbidden")));
    served.stop().await;
}
