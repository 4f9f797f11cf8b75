use std::sync::mpsc;

use remora::serve::scripted::{Rule, Scripted, chatter, reciting};
use serde_json::{Value, json};

use super::{Served, content, events, question, settings, value};
use crate::harness::until;

/// The pieces of the first choice's text.
fn pieces(events: &[Value]) -> Vec<&str> {
    events.iter().filter_map(|event| event["choices"][0]["delta"]["content"].as_str()).collect()
}

#[tokio::test]
async fn a_stream_says_the_same_as_a_plain_answer() {
    let served = Served::of(reciting("Grüße: 🦀!")).await;
    let answer = served.post("/v1/chat/completions", &question(json!({"stream": true}))).await;
    assert!(answer.whole);
    let events = events(&answer.body);
    assert_eq!(pieces(&events).concat(), "Grüße: 🦀!");
    assert_eq!(pieces(&events).len(), 9, "a character a piece, none halved");
    assert_eq!(events[0]["object"], "chat.completion.chunk");
    assert_eq!(events[0]["choices"][0]["delta"], json!({"role": "assistant", "content": "G"}));
    assert_eq!(events[1]["choices"][0]["delta"], json!({"content": "r"}));
    let last = &events[events.len() - 1]["choices"][0];
    assert_eq!((&last["delta"], &last["finish_reason"]), (&json!({}), &json!("stop")));
    assert!(events.iter().all(|event| event["id"] == events[0]["id"] && event.get("usage").is_none()));
    served.stop().await;
}

#[tokio::test]
async fn usage_comes_last_where_it_is_asked_for() {
    let served = Served::of(reciting("ok")).await;
    let asked = question(json!({"stream": true, "n": 2, "stream_options": {"include_usage": true}}));
    let answer = served.post("/v1/chat/completions", &asked).await;
    let mut events = events(&answer.body);
    let last = events.pop().expect("an event");
    assert_eq!((&last["choices"], &last["usage"]["completion_tokens"]), (&json!([]), &json!(6)));
    assert!(events.iter().all(|event| event["usage"].is_null() && event.get("usage").is_some()));
    for choice in 0..2 {
        let of = |event: &&Value| event["choices"][0]["index"] == choice;
        let of: Vec<&Value> = events.iter().filter(of).collect();
        assert_eq!(of[0]["choices"][0]["delta"]["role"], "assistant");
        assert_eq!(of[of.len() - 1]["choices"][0]["finish_reason"], "stop");
    }
    served.stop().await;
}

#[tokio::test]
async fn completions_stream_text_with_its_probabilities() {
    let served = Served::of(reciting("abc STOP d")).await;
    let body = json!({"model": "scripted", "prompt": "<|assistant|>", "stream": true, "stop": "STOP",
        "logprobs": 0, "temperature": 0});
    let events = events(&served.post("/v1/completions", &body).await.body);
    let text: String = events.iter().filter_map(|event| event["choices"][0]["text"].as_str()).collect();
    assert_eq!(text, "abc ");
    let tokens: Vec<&str> = events
        .iter()
        .filter_map(|event| event["choices"][0]["logprobs"]["tokens"].as_array())
        .flatten()
        .filter_map(Value::as_str)
        .collect();
    assert_eq!(tokens.concat(), "abc ", "nothing of the stop string is told");
    assert!(events.iter().all(|event| event["object"] == "text_completion"));
    served.stop().await;
}

#[tokio::test]
async fn tokens_are_sent_as_they_come() {
    let (go, wait) = mpsc::channel::<()>();
    let mut inner = reciting("ab");
    let rule: Rule = Box::new(move |tokens, adapter| {
        let _ = wait.recv();
        inner(tokens, adapter)
    });
    let served = Served::of(rule).await;
    let mut client = served.connect().await;
    client.post("/v1/chat/completions", "", question(json!({"stream": true})).to_string().as_bytes()).await;
    go.send(()).expect("the engine waits");
    client.read_until(b"\"content\":\"a\"").await;
    assert!(!client.so_far().windows(13).any(|w| w == b"\"content\":\"b\""), "its turn has not come");
    go.send(()).expect("the engine waits");
    client.read_until(b"\"content\":\"b\"").await;
    go.send(()).expect("the engine waits");
    client.read_until(b"[DONE]").await;
    drop(go);
    served.stop().await;
}

#[tokio::test]
async fn a_client_that_goes_away_ends_its_request() {
    let engine = Scripted::new(1, 1_000_000, chatter());
    let served = Served::with(engine, &settings()).await;
    for stream in [true, false] {
        let mut client = served.connect().await;
        let body = question(json!({"stream": stream, "max_tokens": 900_000})).to_string();
        client.post("/v1/chat/completions", "", body.as_bytes()).await;
        let mut looking = served.connect().await;
        loop {
            looking.send(b"GET /health HTTP/1.1\r\nHost: remora\r\n\r\n").await;
            if value(&looking.answer().await)["running"] == 1 {
                break;
            }
        }
        drop(client);
        // The only slot is free again.
        assert_eq!(served.chat(json!({"max_tokens": 3})).await["usage"]["completion_tokens"], 3);
    }
    served.stop().await;
}

#[tokio::test]
async fn stopping_lets_answers_finish() {
    let (go, wait) = mpsc::channel::<()>();
    let mut inner = reciting("to the end");
    let rule: Rule = Box::new(move |tokens, adapter| {
        let _ = wait.recv();
        inner(tokens, adapter)
    });
    let served = Served::of(rule).await;
    let mut streams = served.connect().await;
    streams.post("/v1/chat/completions", "", question(json!({"stream": true})).to_string().as_bytes()).await;
    go.send(()).expect("the engine waits");
    streams.read_until(b"\"content\":\"t\"").await;
    let url = served.url.clone();
    let stopping = tokio::spawn(served.stop());
    until("no more connections", || std::net::TcpStream::connect(&url[7..]).is_err().then_some(())).await;
    drop(go);
    let answer = streams.answer().await;
    assert_eq!(pieces(&events(&answer.body)).concat(), "to the end");
    stopping.await.expect("it stops");
}

#[tokio::test]
async fn every_cut_into_tokens_gives_the_same_text() {
    // Chatter says words that begin and end within characters.
    let served = Served::of(chatter()).await;
    for seed in 0..20 {
        let more = json!({"max_tokens": 60, "seed": seed, "temperature": 1, "stop": ["th", "zq"]});
        let plain = served.chat(more.clone()).await;
        let mut streamed = question(more);
        streamed["stream"] = json!(true);
        let streamed = served.post("/v1/chat/completions", &streamed).await;
        assert_eq!(pieces(&events(&streamed.body)).concat(), content(&plain));
    }
    served.stop().await;
}
