use remora::config;
use remora::serve::engine::EngineError;
use remora::serve::scripted::{Rule, Scripted, chatter, reciting};
use serde_json::{Value, json};

use super::{Served, question, settings, value};

/// Status and error of a chat request.
async fn refused(served: &Served, more: Value) -> (u16, Value) {
    let answer = served.post("/v1/chat/completions", &question(more)).await;
    (answer.status, value(&answer)["error"].clone())
}

#[tokio::test]
async fn what_is_wrong_is_named_by_its_path() {
    let served = Served::of(reciting("ok")).await;
    let cases = [
        (json!({"temperature": "hot"}), "temperature"),
        (json!({"temperature": 2.5}), "temperature"),
        (json!({"top_p": -0.1}), "top_p"),
        (json!({"n": 0}), "n"),
        (json!({"n": 1.5}), "n"),
        (json!({"max_tokens": 0}), "max_tokens"),
        (json!({"max_completion_tokens": -1}), "max_completion_tokens"),
        (json!({"seed": "x"}), "seed"),
        (json!({"stop": 7}), "stop"),
        (json!({"stop": ["a", ""]}), "stop[1]"),
        (json!({"stream": "yes"}), "stream"),
        (json!({"stream_options": {"include_usage": 1}}), "stream_options.include_usage"),
        (json!({"logit_bias": {"a": 1}}), "logit_bias"),
        (json!({"logit_bias": {"7": 101}}), "logit_bias.7"),
        (json!({"frequency_penalty": 3}), "frequency_penalty"),
        (json!({"top_logprobs": 3}), "top_logprobs"),
        (json!({"logprobs": true, "top_logprobs": 21}), "top_logprobs"),
        (json!({"messages": null}), "messages"),
        (json!({"messages": []}), "messages"),
        (json!({"messages": ["hello"]}), "messages[0]"),
        (json!({"messages": [{"content": "x"}]}), "messages[0].role"),
        (json!({"messages": [{"role": "user"}]}), "messages[0].content"),
        (
            json!({"messages": [{"role": "user", "content": "x"}, {"role": "user", "content": 5}]}),
            "messages[1].content",
        ),
        (
            json!({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}),
            "messages[0].content[0].type",
        ),
        (json!({"messages": [{"role": "robot", "content": "x"}]}), "messages"),
        (json!({"tool_choice": "required"}), "tool_choice"),
        (json!({"response_format": {"type": "yaml"}}), "response_format.type"),
        (json!({"response_format": {"type": "json_schema"}}), "response_format.json_schema.schema"),
        (
            json!({"response_format": {"type": "json_schema", "json_schema": {"schema": {"type": "wish"}}}}),
            "response_format",
        ),
        (json!({"model": null}), "model"),
        (json!({"model": 5}), "model"),
    ];
    for (more, param) in cases {
        let (status, error) = refused(&served, more.clone()).await;
        assert_eq!((status, &error["param"]), (400, &json!(param)), "{more}: {error}");
        assert_eq!(error["type"], "invalid_request_error");
        assert!(
            ["invalid_value", "missing_required_parameter"]
                .contains(&error["code"].as_str().unwrap_or_default()),
            "{error}"
        );
        assert!(error["message"].as_str().is_some_and(|m| m.len() > 10), "{error}");
    }
    let wish =
        json!({"response_format": {"type": "json_schema", "json_schema": {"schema": {"type": "wish"}}}});
    assert!(refused(&served, wish).await.1["message"].as_str().is_some_and(|m| m.contains("wish")));
    for (more, param) in [
        (json!({}), "prompt"),
        (json!({"prompt": ""}), "prompt"),
        (json!({"prompt": [[1], "x"]}), "prompt"),
        (json!({"prompt": [100_000]}), "prompt"),
        (json!({"prompt": "x", "echo": true}), "echo"),
        (json!({"prompt": "x", "suffix": "y"}), "suffix"),
    ] {
        let mut body = json!({"model": "scripted"});
        body.as_object_mut().expect("an object").extend(more.as_object().expect("an object").clone());
        let answer = served.post("/v1/completions", &body).await;
        assert_eq!((answer.status, &value(&answer)["error"]["param"]), (400, &json!(param)), "{more}");
    }
    served.stop().await;
}

#[tokio::test]
async fn requests_that_are_none_are_told_so() {
    let served = Served::of(reciting("ok")).await;
    let mut client = served.connect().await;
    client.post("/v1/chat/completions", "", b"{\"model\":").await;
    let answer = client.answer().await;
    assert_eq!(answer.status, 400);
    assert!(value(&answer)["error"]["message"].as_str().is_some_and(|m| m.contains("JSON")));
    assert_eq!(served.post("/v1/chat/completions", &json!([1])).await.status, 400);
    let unknown = served.get("/v2/nothing").await;
    assert_eq!((unknown.status, &value(&unknown)["error"]["code"]), (404, &json!("unknown_url")));
    let wrong = served.get("/v1/chat/completions").await;
    assert_eq!((wrong.status, &value(&wrong)["error"]["type"]), (405, &json!("invalid_request_error")));
    let (status, error) = refused(&served, json!({"model": "nobody"})).await;
    assert_eq!((status, &error["code"], &error["param"]), (404, &json!("model_not_found"), &json!("model")));
    assert_eq!(served.get("/v1/models/nobody").await.status, 404);
    let long = served.post("/v1/chat/completions", &json!({"x": "y".repeat(17 << 20)})).await;
    assert_eq!(long.status, 413);
    served.stop().await;
}

#[tokio::test]
async fn a_context_that_overflows_is_told_with_its_numbers() {
    let served = Served::of(reciting("ok")).await;
    let long = json!([{"role": "user", "content": "x".repeat(600)}]);
    let (status, error) = refused(&served, json!({"messages": long})).await;
    assert_eq!((status, &error["code"]), (400, &json!("context_length_exceeded")));
    let message = error["message"].as_str().expect("a message");
    assert!(message.contains("512 tokens") && message.contains("603"), "{message}");
    let (status, error) = refused(&served, json!({"max_tokens": 500})).await;
    assert_eq!((status, &error["code"]), (400, &json!("context_length_exceeded")));
    let message = error["message"].as_str().expect("a message");
    assert!(message.contains("512") && message.contains("521") && message.contains("21 in"), "{message}");
    assert_eq!(
        served.chat(json!({"max_tokens": 491})).await["usage"]["completion_tokens"],
        3,
        "it just fits"
    );
    served.stop().await;
}

#[tokio::test]
async fn a_full_queue_says_when_to_come_back() {
    let (go, wait) = std::sync::mpsc::channel::<()>();
    let mut inner = reciting("ok");
    let rule: Rule = Box::new(move |tokens, adapter| {
        let _ = wait.recv();
        inner(tokens, adapter)
    });
    let settings = config::Serve { queue: 1, ..settings() };
    let served = Served::with(Scripted::new(1, 128, rule), &settings).await;
    let body = question(json!({})).to_string();
    let (mut first, mut second) = (served.connect().await, served.connect().await);
    let mut looking = served.connect().await;
    for (client, expected) in [(&mut first, [1, 0]), (&mut second, [1, 1])] {
        client.post("/v1/chat/completions", "", body.as_bytes()).await;
        loop {
            looking.send(b"GET /health HTTP/1.1\r\nHost: remora\r\n\r\n").await;
            let health = value(&looking.answer().await);
            if [&health["running"], &health["waiting"]] == expected.map(|n| json!(n)).each_ref() {
                break;
            }
        }
    }
    let mut third = served.connect().await;
    third.post("/v1/chat/completions", "", body.as_bytes()).await;
    let head = third.head().await.to_ascii_lowercase();
    assert!(head.starts_with("http/1.1 429") && head.contains("retry-after: "), "{head}");
    drop(go);
    assert_eq!((first.answer().await.status, second.answer().await.status), (200, 200));
    served.stop().await;
}

#[tokio::test]
async fn an_engine_that_fails_is_told_and_the_server_lives_on() {
    let mut inner = chatter();
    let rule: Rule = Box::new(move |tokens, adapter| {
        // After the seventh character of a question that begins with an exclamation mark, or at once with two.
        let marks = tokens.iter().skip(1).take_while(|token| **token == u32::from(b'!')).count();
        let prompt = tokens.iter().position(|token| *token == 259).unwrap_or(0);
        if marks == 2 || (marks == 1 && tokens.len() > prompt + 7) {
            return Err(EngineError("it is out of memory".into()));
        }
        inner(tokens, adapter)
    });
    let served = Served::of(rule).await;
    let ask = |text: &str, stream: bool| {
        question(json!({"stream": stream, "max_tokens": 20,
        "messages": [{"role": "user", "content": text}]}))
    };
    for (text, stream) in [("!!", false), ("!!", true), ("!", false)] {
        let answer = served.post("/v1/chat/completions", &ask(text, stream)).await;
        let error = &value(&answer)["error"];
        assert_eq!((answer.status, &error["type"]), (500, &json!("server_error")), "{text} {stream}");
        assert!(error["message"].as_str().is_some_and(|m| m.contains("out of memory")));
    }
    let broken = served.post("/v1/chat/completions", &ask("!", true)).await;
    let text = String::from_utf8(broken.body).expect("text");
    assert_eq!(broken.status, 200, "its first tokens had been sent");
    assert!(
        !text.contains("[DONE]") && text.contains("\"error\":{\"message\":\"the engine failed"),
        "{text}"
    );
    assert_eq!(served.chat(json!({"max_tokens": 5})).await["usage"]["completion_tokens"], 5);
    served.stop().await;
}

#[tokio::test]
async fn requests_have_ids() {
    let served = Served::of(reciting("ok")).await;
    let mut client = served.connect().await;
    client.send(b"GET /health HTTP/1.1\r\nHost: remora\r\nx-request-id: mine-1\r\n\r\n").await;
    assert!(client.head().await.contains("x-request-id: mine-1"));
    let mut client = served.connect().await;
    client.send(b"GET /nowhere HTTP/1.1\r\nHost: remora\r\n\r\n").await;
    assert!(client.head().await.contains("x-request-id: req_"));
    served.stop().await;
}
