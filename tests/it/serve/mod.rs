//! The server over local models, with a scripted engine, as clients see it.

mod adapters;
mod answers;
#[cfg(unix)]
mod embedded;
mod errors;
#[cfg(unix)]
mod real;
mod streams;
mod tools;
mod under_load;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use remora::config;
use remora::onnx::lora::Lora;
use remora::serve::scripted::{self, Rule, Scripted, ScriptedText};
use remora::serve::{Model, Server};
use serde_json::{Value, json};

use crate::harness::{Answer, Connection};

/// A server on a port of its own.
pub struct Served {
    pub server: Server,
    pub url: String,
}

/// Its configuration.
fn settings() -> config::Serve {
    config::Serve { listen: "127.0.0.1:0".into(), ..config::Serve::default() }
}

/// Reads an "adapter": a file with a number.
fn load(path: &Path) -> Result<Lora, String> {
    let text = std::fs::read_to_string(path).map_err(|error| error.to_string())?;
    let number = text.trim().parse().map_err(|_| "no number is in it".to_owned())?;
    Ok(scripted::adapter(number))
}

fn model(engine: Scripted) -> Model {
    Model {
        engine: Box::new(engine),
        text: Arc::new(ScriptedText),
        names: vec!["scripted".into(), "default".into()],
        root: "/models/scripted".into(),
        architecture: None,
        load: Some(Arc::new(load)),
        active: std::collections::BTreeMap::new(),
        aliases: None,
    }
}

impl Served {
    pub async fn with(engine: Scripted, settings: &config::Serve) -> Self {
        let server = Server::start(settings, model(engine)).await.expect("it starts");
        Self { url: server.url(), server }
    }

    /// Four slots of 512 tokens.
    pub async fn of(rule: Rule) -> Self {
        Self::with(Scripted::new(4, 512, rule), &settings()).await
    }

    pub async fn stop(self) {
        self.server.stop(Duration::from_secs(20)).await;
    }

    pub async fn connect(&self) -> Connection {
        Connection::open(&self.url).await
    }

    pub async fn post(&self, path: &str, body: &Value) -> Answer {
        let mut connection = self.connect().await;
        connection.post(path, "Content-Type: application/json\r\n", body.to_string().as_bytes()).await;
        connection.answer().await
    }

    pub async fn get(&self, path: &str) -> Answer {
        let mut connection = self.connect().await;
        connection.send(format!("GET {path} HTTP/1.1\r\nHost: remora\r\n\r\n").as_bytes()).await;
        connection.answer().await
    }

    /// A chat's answer, which must be one.
    pub async fn chat(&self, more: Value) -> Value {
        let answer = self.post("/v1/chat/completions", &question(more)).await;
        assert_eq!(answer.status, 200, "{}", String::from_utf8_lossy(&answer.body));
        value(&answer)
    }
}

/// A small chat request with these parameters.
fn question(more: Value) -> Value {
    let mut body = json!({
        "model": "scripted",
        "messages": [{"role": "user", "content": "Where is my order?"}],
        "temperature": 0,
    });
    for (key, value) in more.as_object().expect("an object") {
        body[key] = value.clone();
    }
    body
}

fn value(answer: &Answer) -> Value {
    serde_json::from_slice(&answer.body).expect("JSON")
}

/// The text of the first choice.
fn content(answer: &Value) -> &str {
    answer["choices"][0]["message"]["content"].as_str().expect("a text")
}

/// The events of a stream; the last has to be `[DONE]`.
fn events(body: &[u8]) -> Vec<Value> {
    let text = std::str::from_utf8(body).expect("UTF-8");
    let mut events: Vec<&str> = text
        .split_terminator("\n\n")
        .map(|event| event.strip_prefix("data: ").expect("one line of data an event"))
        .collect();
    assert_eq!(events.pop(), Some("[DONE]"), "{text}");
    events.into_iter().map(|event| serde_json::from_str(event).expect("JSON")).collect()
}
