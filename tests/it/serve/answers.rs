use remora::serve::scripted::{chatter, reciting};
use serde_json::json;

use super::{Served, content, value};

#[tokio::test]
async fn a_chat_is_answered_in_the_form_of_the_api() {
    let served = Served::of(reciting("On its way. 🦀")).await;
    let answer =
        served.chat(json!({"max_tokens": 100, "user": "someone", "unknown": {"is": "ignored"}})).await;
    assert_eq!(answer["object"], "chat.completion");
    assert_eq!(answer["model"], "scripted");
    assert!(answer["id"].as_str().is_some_and(|id| id.starts_with("chatcmpl-")));
    assert_eq!(
        answer["choices"],
        json!([{
            "index": 0,
            "message": {"role": "assistant", "content": "On its way. 🦀", "refusal": null},
            "logprobs": null,
            "finish_reason": "stop",
        }])
    );
    // <|user|>, the question, <|end|>, <|assistant|>; 16 bytes and the end.
    assert_eq!(
        answer["usage"],
        json!({
            "prompt_tokens": 21, "completion_tokens": 17, "total_tokens": 38,
            "prompt_tokens_details": {"cached_tokens": 0},
        })
    );
    let again = served.chat(json!({"max_completion_tokens": 5})).await;
    assert_eq!((content(&again), &again["choices"][0]["finish_reason"]), ("On it", &json!("length")));
    assert_eq!(again["usage"]["prompt_tokens_details"]["cached_tokens"], 20, "read before");
    served.stop().await;
}

#[tokio::test]
async fn messages_are_taken_in_all_their_forms() {
    let served = Served::of(reciting("ok")).await;
    let messages = json!([
        {"role": "developer", "content": "Be brief."},
        {"role": "user", "content": [{"type": "text", "text": "What "}, {"type": "text", "text": "is it?"}]},
        {"role": "assistant", "content": null, "tool_calls": [
            {"id": "1", "type": "function", "function": {"name": "f", "arguments": "{\"x\": 1}"}},
        ]},
        {"role": "tool", "tool_call_id": "1", "content": "42"},
    ]);
    let plain = json!({"messages": messages, "tools": [], "tool_choice": "auto", "stop": null, "n": null});
    let bare = served.chat(plain.clone()).await;
    // system, user, assistant, tool: three tokens each with their text, the last without an end.
    assert_eq!(bare["usage"]["prompt_tokens"], (2 + 9) + (2 + 11) + 2 + (2 + 2) + 1);
    let mut with_tools = plain;
    with_tools["tools"] = json!([{"type": "function", "function": {"name": "f"}}]);
    let told = served.chat(with_tools.clone()).await;
    assert!(told["usage"]["prompt_tokens"].as_u64() > bare["usage"]["prompt_tokens"].as_u64());
    with_tools["tool_choice"] = json!("none");
    assert_eq!(
        served.chat(with_tools.clone()).await["usage"]["prompt_tokens"],
        bare["usage"]["prompt_tokens"]
    );
    with_tools["chat_template_kwargs"] = json!({"preface": "12345", "unknown": 1});
    let prefaced = served.chat(with_tools).await["usage"]["prompt_tokens"].as_u64();
    assert_eq!(prefaced, bare["usage"]["prompt_tokens"].as_u64().map(|tokens| tokens + 5));
    served.stop().await;
}

#[tokio::test]
async fn the_same_seed_gives_the_same_answers_and_choices_differ() {
    let served = Served::of(chatter()).await;
    let ask = |seed: i64| {
        let served = &served;
        async move {
            let answer =
                served.chat(json!({"temperature": 1.5, "seed": seed, "n": 3, "max_tokens": 20})).await;
            let text = |at: usize| answer["choices"][at]["message"]["content"].as_str().map(str::to_owned);
            assert_eq!(answer["choices"][2]["index"], 2);
            [text(0), text(1), text(2)]
        }
    };
    let first = ask(-7).await;
    assert_eq!(first, ask(-7).await);
    assert_ne!(first, ask(8).await);
    assert_ne!(first[0], first[1]);
    served.stop().await;
}

#[tokio::test]
async fn probabilities_are_told_token_by_token() {
    let served = Served::of(reciting("aé")).await;
    let answer = served.chat(json!({"logprobs": true, "top_logprobs": 2})).await;
    let content = answer["choices"][0]["logprobs"]["content"].as_array().expect("tokens");
    assert_eq!(content.len(), 3, "the end is no part of the text");
    assert_eq!((&content[0]["token"], &content[0]["bytes"]), (&json!("a"), &json!([97])));
    assert_eq!((&content[1]["token"], &content[1]["bytes"]), (&json!("\u{fffd}"), &json!([0xc3])));
    // One token at 10, the other 267 at 0.
    let expected = 10.0 - (10.0_f64.exp() + 267.0).ln();
    assert!((content[0]["logprob"].as_f64().expect("a number") - expected).abs() < 1e-5);
    assert_eq!(content[0]["top_logprobs"].as_array().map(Vec::len), Some(2));
    assert_eq!(content[0]["top_logprobs"][0]["token"], "a");

    let body = json!({"model": "default", "prompt": "<|assistant|>", "logprobs": 1, "max_tokens": 2, "temperature": 0});
    let answer = value(&served.post("/v1/completions", &body).await);
    let logprobs = &answer["choices"][0]["logprobs"];
    assert_eq!(logprobs["tokens"], json!(["a", "\u{fffd}"]));
    assert_eq!(logprobs["text_offset"], json!([0, 1]));
    assert_eq!(logprobs["top_logprobs"][0].as_object().map(serde_json::Map::len), Some(1));
    served.stop().await;
}

#[tokio::test]
async fn completions_take_one_prompt_or_many_as_text_or_tokens() {
    let served = Served::of(reciting("one two")).await;
    let ask = |prompt| json!({"model": "scripted", "prompt": prompt, "temperature": 0, "stop": [" t"]});
    let answer = value(&served.post("/v1/completions", &ask(json!("<|assistant|>"))).await);
    assert_eq!(
        (&answer["object"], &answer["choices"][0]["text"]),
        (&json!("text_completion"), &json!("one"))
    );
    for prompts in [json!(["<|assistant|>", "x<|assistant|>"]), json!([[259], [120, 259]])] {
        let mut body = ask(prompts);
        body["n"] = json!(2);
        let answer = value(&served.post("/v1/completions", &body).await);
        let texts: Vec<_> =
            answer["choices"].as_array().expect("choices").iter().map(|c| &c["text"]).collect();
        assert_eq!(texts, [&json!("one"); 4]);
        assert_eq!(answer["usage"]["prompt_tokens"], 3, "a prompt counts once");
        assert_eq!(answer["usage"]["completion_tokens"], 4 * 5);
    }
    let usual = json!({"model": "scripted", "prompt": [259], "temperature": 0, "ignore_eos": true});
    let usual = value(&served.post("/v1/completions", &usual).await);
    assert_eq!(usual["usage"]["completion_tokens"], 16, "as OpenAI's API");
    served.stop().await;
}

#[tokio::test]
async fn answers_follow_the_schema() {
    let served = Served::of(chatter()).await;
    let schema = json!({"type": "object", "properties": {"kind": {"enum": ["ab", "cd"]}},
        "required": ["kind"], "additionalProperties": false});
    let format =
        json!({"type": "json_schema", "json_schema": {"name": "x", "strict": true, "schema": schema}});
    // Chatter says letters only; the bias makes the rest possible.
    let bias: serde_json::Map<_, _> =
        (32..127).map(|token| (token.to_string(), json!(0))).chain([("34".to_owned(), json!(5))]).collect();
    let impossible =
        super::question(json!({"response_format": format, "logit_bias": bias, "max_tokens": 60}));
    let answer = served.post("/v1/chat/completions", &impossible).await;
    // What is impossible for the model stays impossible: the request fails, and only it.
    assert_eq!(answer.status, 500);
    assert_eq!(value(&answer)["error"]["code"], "generation_stuck");
    served.stop().await;

    let served = Served::of(reciting(" {  \"kind\":\n\"zz cd\"}")).await;
    let answer = served.chat(json!({"response_format": format, "max_tokens": 60})).await;
    let said: serde_json::Value = serde_json::from_str(content(&answer)).expect("JSON");
    assert!(said == json!({"kind": "ab"}) || said == json!({"kind": "cd"}), "{said}");
    let any = served.chat(json!({"response_format": {"type": "json_object"}, "max_tokens": 400})).await;
    assert!(content(&any).trim_start().starts_with('{'));
    served.stop().await;
}

#[tokio::test]
async fn models_are_listed_with_where_they_come_from() {
    let served = Served::of(reciting("ok")).await;
    let list = value(&served.get("/v1/models").await);
    let ids: Vec<_> = list["data"].as_array().expect("models").iter().map(|m| &m["id"]).collect();
    assert_eq!(ids, ["scripted", "default"]);
    let one = value(&served.get("/v1/models/default").await);
    assert_eq!((&one["root"], &one["parent"]), (&json!("/models/scripted"), &json!(null)));
    assert_eq!(one["max_model_len"], 512);
    let health = value(&served.get("/health").await);
    assert_eq!(health, json!({"status": "ok", "running": 0, "waiting": 0, "slots": 4}));
    served.stop().await;
}
