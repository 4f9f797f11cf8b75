use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Instant;

use remora::config;
use remora::model::Micros;
use remora::serve::Adapter;
use remora::serve::scripted::{self, Scripted, chatter};
use serde_json::{Value, json};

use super::{Served, content, question, settings, value};

fn adapter(number: u16) -> Arc<Adapter> {
    let lora = Arc::new(scripted::adapter(number));
    Arc::new(Adapter { lora, root: number.to_string(), since: Micros::now(), files: None })
}

/// A question of many, for a model.
fn ask(model: &str, at: usize) -> Value {
    let text = format!("Question {} of many", at % 5);
    question(json!({"model": model, "messages": [{"role": "user", "content": text}],
        "max_tokens": 24, "temperature": if at.is_multiple_of(2) { 0 } else { 1 }, "seed": at % 5}))
}

#[tokio::test]
async fn eight_requests_with_four_adapters_say_what_each_says_alone() {
    let served = Served::with(Scripted::new(8, 512, chatter()).copying(), &settings()).await;
    let models = ["scripted", "a", "b", "c"];
    for (number, name) in (1..).zip(&models[1..]) {
        served.server.names().put(name, adapter(number)).expect("a name");
    }
    let mut alone = BTreeMap::new();
    for at in 0..40 {
        let model = models[at % 4];
        let answer = served.post("/v1/chat/completions", &ask(model, at)).await;
        alone.insert(at, content(&value(&answer)).to_owned());
    }
    let served = Arc::new(served);
    let clients: Vec<_> = (0..8)
        .map(|client| {
            let served = served.clone();
            tokio::spawn(async move {
                let mut said = Vec::new();
                for at in (client..40).step_by(8) {
                    let answer = served.post("/v1/chat/completions", &ask(models[at % 4], at)).await;
                    said.push((at, content(&value(&answer)).to_owned()));
                }
                said
            })
        })
        .collect();
    for client in clients {
        for (at, said) in client.await.expect("a client") {
            assert_eq!(said, alone[&at], "request {at}");
        }
    }
    Arc::into_inner(served).expect("no client is left").stop().await;
}

#[tokio::test]
async fn adapters_are_swapped_under_load_without_a_failure() {
    let settings = config::Serve { queue: 64, ..settings() };
    let served = Arc::new(Served::with(Scripted::new(4, 512, chatter()), &settings).await);
    served.server.names().put("desk", adapter(1)).expect("a name");
    let mut versions = Vec::new();
    for number in 1..=2 {
        served.server.names().put("desk", adapter(number)).expect("a name");
        for at in 0..10 {
            let answer = served.post("/v1/chat/completions", &ask("desk", at)).await;
            versions.push(content(&value(&answer)).to_owned());
        }
    }
    let (over, answered) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
    let clients: Vec<_> = (0..6)
        .map(|client| {
            let (served, over, answered) = (served.clone(), over.clone(), answered.clone());
            tokio::spawn(async move {
                let mut at = client;
                let mut said = Vec::new();
                while !over.load(Ordering::Relaxed) {
                    let answer = served.post("/v1/chat/completions", &ask("desk", at)).await;
                    assert_eq!(answer.status, 200, "{}", String::from_utf8_lossy(&answer.body));
                    said.push((at % 10, content(&value(&answer)).to_owned()));
                    answered.fetch_add(1, Ordering::Relaxed);
                    at += 1;
                }
                said
            })
        })
        .collect();
    let mut slowest = std::time::Duration::ZERO;
    for swap in 0..50_u16 {
        // Between any two swaps somebody is served.
        let before = answered.load(Ordering::Relaxed);
        while answered.load(Ordering::Relaxed) == before {
            tokio::task::yield_now().await;
        }
        let next = adapter(1 + swap % 2);
        let since = Instant::now();
        served.server.names().put("desk", next).expect("a name");
        slowest = slowest.max(since.elapsed());
    }
    over.store(true, Ordering::Relaxed);
    let mut both = [0, 0];
    for client in clients {
        for (at, said) in client.await.expect("no request failed") {
            // Each answer is one version's, from its first token to its last.
            let version = [0, 1].into_iter().find(|version| versions[version * 10 + at] == said);
            both[version.expect("a mixture of two adapters")] += 1;
        }
    }
    assert!(both[0] > 0 && both[1] > 0, "{both:?}");
    assert!(slowest.as_millis() < 50, "a swap took {slowest:?}");
    Arc::into_inner(served).expect("no client is left").stop().await;
}
