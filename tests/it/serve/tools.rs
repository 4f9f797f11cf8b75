//! Tool calls in chats.

use remora::serve::scripted::{Scripted, reciting};
use serde_json::{Value, json};

use super::{Served, content, events, question, settings, value};

const SAID: &str = "Let me see.\n<tool_call>\n{\"name\": \"track\", \"arguments\": {\"order\": 7}}\n</tool_call>\n\
                    <tool_call>{\"name\": \"notify\", \"arguments\": {}}</tool_call>";

fn tools() -> Value {
    let order = json!({"type": "object", "properties": {"order": {"$ref": "#/$defs/order"}}, "required": ["order"],
        "additionalProperties": false, "$defs": {"order": {"type": "integer", "minimum": 1, "maximum": 99}}});
    json!([
        {"type": "function", "function": {"name": "track", "parameters": order}},
        {"type": "function", "function": {"name": "notify"}},
    ])
}

fn offered(more: &Value) -> Value {
    let mut body = json!({"tools": tools(), "max_tokens": 300});
    for (key, value) in more.as_object().expect("an object") {
        body[key] = value.clone();
    }
    body
}

/// A server whose model recites a text.
async fn served(text: &str) -> Served {
    Served::with(Scripted::new(4, 1024, reciting(text)), &settings()).await
}

/// Names and arguments of a choice's calls.
fn calls(message: &Value) -> Vec<(String, Value)> {
    let calls = message["tool_calls"].as_array().map_or(&[][..], Vec::as_slice);
    let one = |call: &Value| {
        assert_eq!(call["type"], "function");
        assert!(
            call["id"]
                .as_str()
                .is_some_and(|id| id.len() == 9 && id.chars().all(|c| c.is_ascii_alphanumeric())),
            "{call}"
        );
        let arguments = call["function"]["arguments"].as_str().expect("a text");
        let name = call["function"]["name"].as_str().expect("a text").to_owned();
        (name, serde_json::from_str(arguments).expect("JSON"))
    };
    calls.iter().map(one).collect()
}

#[tokio::test]
async fn calls_are_taken_out_of_what_the_model_says() {
    let served = served(SAID).await;
    let answer = served.chat(offered(&json!({}))).await;
    assert_eq!(content(&answer), "Let me see.\n");
    let both = [("track".to_owned(), json!({"order": 7})), ("notify".to_owned(), json!({}))];
    let message = &answer["choices"][0]["message"];
    assert_eq!(calls(message), both);
    assert_ne!(message["tool_calls"][0]["id"], message["tool_calls"][1]["id"]);
    assert_eq!(answer["choices"][0]["finish_reason"], "tool_calls");

    let one = served.chat(offered(&json!({"parallel_tool_calls": false}))).await;
    assert_eq!(calls(&one["choices"][0]["message"]), both[..1]);
    // An answer that was cut off is not one that waits for a tool.
    let cut = served.chat(offered(&json!({"max_tokens": 90}))).await;
    assert_eq!(
        (cut["choices"][0]["finish_reason"].as_str(), calls(&cut["choices"][0]["message"]).len()),
        (Some("length"), 1)
    );
    for text in [json!({"max_tokens": 300}), offered(&json!({"tool_choice": "none"}))] {
        let answer = served.chat(text).await;
        assert_eq!((content(&answer), &answer["choices"][0]["finish_reason"]), (SAID, &json!("stop")));
        assert!(answer["choices"][0]["message"].get("tool_calls").is_none());
    }
    served.stop().await;
}

#[tokio::test]
async fn a_stream_has_the_same_calls_as_a_whole_answer() {
    let served = served(SAID).await;
    for (more, text, made) in
        [(offered(&json!({"logprobs": true})), "Let me see.\n", 2), (json!({"max_tokens": 300}), SAID, 0)]
    {
        let mut body = question(more);
        body["stream"] = json!(true);
        let answer = served.post("/v1/chat/completions", &body).await;
        let (mut said, mut found, mut told, mut finish) = (String::new(), Vec::new(), 0, Value::Null);
        for event in events(&answer.body) {
            let choice = &event["choices"][0];
            said.push_str(choice["delta"]["content"].as_str().unwrap_or_default());
            told += choice["logprobs"]["content"].as_array().map_or(0, Vec::len);
            for call in choice["delta"]["tool_calls"].as_array().unwrap_or(&Vec::new()) {
                assert_eq!(call["index"], found.len());
                found.extend(calls(&choice["delta"]));
            }
            if !choice["finish_reason"].is_null() {
                finish = choice["finish_reason"].clone();
            }
        }
        assert_eq!((said.as_str(), found.len()), (text, made));
        assert_eq!(finish, if made > 0 { "tool_calls" } else { "stop" });
        assert_eq!(told, if made > 0 { SAID.len() } else { 0 }, "each token is told once");
    }
    served.stop().await;
}

#[tokio::test]
async fn an_answer_can_be_made_to_be_a_call() {
    // What the model would say of its own accord, and what comes of it.
    let (track, notify) = (
        "{\"name\": \"track\", \"arguments\": {\"order\": 42}}",
        "{\"name\": \"notify\", \"arguments\": {}}",
    );
    let named = json!({"type": "function", "function": {"name": "track"}});
    let other = json!({"type": "function", "function": {"name": "notify"}});
    for (said, choice, expected) in [
        (track, json!("required"), Some(("track", json!({"order": 42})))),
        (notify, json!("required"), Some(("notify", json!({})))),
        (notify, other, Some(("notify", json!({})))),
        (notify, named.clone(), None),
        ("{\"name\": \"track\", \"arguments\": {\"order\": -1234}}", named, None),
    ] {
        let served = served(said).await;
        let reason = if choice == "required" { "tool_calls" } else { "stop" };
        let answer = served.chat(offered(&json!({"tool_choice": choice}))).await;
        let choice = &answer["choices"][0];
        assert_eq!(
            (&choice["finish_reason"], &choice["message"]["content"]),
            (&json!(reason), &Value::Null),
            "{answer}"
        );
        let calls = calls(&choice["message"]);
        assert_eq!(calls.len(), 1);
        match expected {
            Some((name, arguments)) => assert_eq!(calls, [(name.to_owned(), arguments)]),
            None => assert!(
                calls[0].0 == "track"
                    && calls[0].1["order"].as_u64().is_some_and(|order| (1..100).contains(&order)),
                "{calls:?}"
            ),
        }
        served.stop().await;
    }
}

#[tokio::test]
async fn schemas_of_arguments_mean_where_they_are_put_what_they_meant_alone() {
    let tree = json!({"properties": {"name": {"type": "integer"}, "child": {"$ref": "#"}, "twin": {"$ref": "#/properties/name"}},
        "required": ["name"], "additionalProperties": false});
    for (parameters, said, expected) in [
        (json!({}), "{\"name\": \"f\", \"arguments\": 5}", None),
        (json!(true), "{\"name\": \"f\", \"arguments\": {}}", Some(json!({}))),
        (
            tree,
            "{\"name\": \"f\", \"arguments\": {\"name\": 1, \"child\": {\"name\": 2}, \"twin\": 3}}",
            Some(json!({"name": 1, "child": {"name": 2}, "twin": 3})),
        ),
    ] {
        let served = served(said).await;
        let tools = json!([{"type": "function", "function": {"name": "f", "parameters": parameters}}]);
        let answer = served.chat(json!({"tools": tools, "tool_choice": "required", "max_tokens": 300})).await;
        let message = &answer["choices"][0]["message"];
        match expected {
            Some(arguments) => assert_eq!(calls(message), [("f".to_owned(), arguments)], "{answer}"),
            None => assert!(!answer.to_string().contains(": 5"), "a number is no object: {answer}"),
        }
        served.stop().await;
    }
}

#[tokio::test]
async fn an_answer_in_a_format_is_no_call() {
    let said = "{\"name\": \"notify\", \"arguments\": {}}";
    let served = served(said).await;
    let answer = served.chat(offered(&json!({"response_format": {"type": "json_object"}}))).await;
    assert_eq!((content(&answer), &answer["choices"][0]["finish_reason"]), (said, &json!("stop")));
    let answer = served.chat(offered(&json!({"response_format": {"type": "text"}}))).await;
    assert_eq!(calls(&answer["choices"][0]["message"]), [("notify".to_owned(), json!({}))]);
    served.stop().await;
}

#[tokio::test]
async fn tools_that_cannot_be_are_refused_by_their_path() {
    let served = served("ok").await;
    for (more, param) in [
        (
            json!({"tools": [{"type": "function", "function": {"description": "?"}}]}),
            "tools[0].function.name",
        ),
        (json!({"tool_choice": "any"}), "tool_choice"),
        (json!({"tool_choice": {"type": "function", "function": {"name": "fly"}}}), "tool_choice"),
        (json!({"tool_choice": "required", "response_format": {"type": "json_object"}}), "tool_choice"),
    ] {
        let answer = served.post("/v1/chat/completions", &question(offered(&more))).await;
        assert_eq!((answer.status, &value(&answer)["error"]["param"]), (400, &json!(param)), "{more}");
    }
    served.stop().await;
}
