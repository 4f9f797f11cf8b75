use proptest::prelude::*;
use serde_json::{Value, json};

use super::{EVENTS, JSON, call, exchange, stream_of, streamed, whole};
use crate::model::{Message, Reading};
use crate::wire::read;

/// One answer of a model, to be told in every API's way.
#[derive(Clone, Debug)]
struct Told {
    text: String,
    reasoning: String,
    /// (name, arguments)
    calls: Vec<(String, String)>,
    /// Where texts are cut for streaming.
    cuts: Vec<usize>,
    usage: Option<(u32, u32)>,
}

fn told() -> impl Strategy<Value = Told> {
    let arguments =
        prop::collection::btree_map("[a-z]{1,4}", any::<i32>(), 0..3).prop_map(|map| json!(map).to_string());
    (
        "\\PC{0,30}",
        prop_oneof![Just(String::new()), "\\PC{1,10}"],
        prop::collection::vec(("[a-z_]{1,10}", arguments), 0..3),
        prop::collection::vec(0usize..40, 0..5),
        any::<Option<(u32, u32)>>(),
    )
        .prop_map(|(text, reasoning, calls, cuts, usage)| Told { text, reasoning, calls, cuts, usage })
}

impl Told {
    /// A text in pieces, as a stream has it.
    fn pieces(&self, text: &str) -> Vec<String> {
        let chars: Vec<char> = text.chars().collect();
        let mut cuts: Vec<usize> = self.cuts.iter().map(|c| (*c).min(chars.len())).collect();
        cuts.extend([0, chars.len()]);
        cuts.sort_unstable();
        cuts.windows(2).map(|pair| chars[pair[0]..pair[1]].iter().collect()).collect()
    }

    fn usage(&self, input: &str, output: &str) -> Value {
        self.usage.map_or(Value::Null, |(i, o)| json!({input: i, output: o}))
    }

    fn chat(&self) -> Value {
        let calls: Vec<Value> = self.calls.iter().enumerate()
            .map(|(i, (name, arguments))| json!({"id": format!("c{i}"), "type": "function", "function": {"name": name, "arguments": arguments}}))
            .collect();
        let message = json!({"role": "assistant", "content": self.text, "reasoning_content": self.reasoning, "tool_calls": calls});
        json!({"id": "x", "object": "chat.completion", "model": "m", "usage": self.usage("prompt_tokens", "completion_tokens"),
            "choices": [{"index": 0, "message": message, "finish_reason": "stop"}]})
    }

    fn chat_stream(&self) -> Vec<Value> {
        let mut deltas = vec![json!({"role": "assistant", "content": ""})];
        deltas.extend(self.pieces(&self.reasoning).iter().map(|p| json!({"reasoning_content": p})));
        deltas.extend(self.pieces(&self.text).iter().map(|p| json!({"content": p})));
        for (i, (name, arguments)) in self.calls.iter().enumerate() {
            deltas.push(json!({"tool_calls": [{"index": i, "id": format!("c{i}"), "type": "function", "function": {"name": name, "arguments": ""}}]}));
            deltas.extend(
                self.pieces(arguments)
                    .iter()
                    .map(|p| json!({"tool_calls": [{"index": i, "function": {"arguments": p}}]})),
            );
        }
        let chunk = |choices: Value, usage: Value| json!({"id": "x", "object": "chat.completion.chunk", "model": "m", "choices": choices, "usage": usage});
        let mut events: Vec<Value> = deltas
            .iter()
            .map(|d| chunk(json!([{"index": 0, "delta": d, "finish_reason": null}]), Value::Null))
            .collect();
        events.push(chunk(json!([{"index": 0, "delta": {}, "finish_reason": "stop"}]), Value::Null));
        events.push(chunk(json!([]), self.usage("prompt_tokens", "completion_tokens")));
        events.push(json!("[DONE]"));
        events
    }

    fn response_items(&self) -> Vec<Value> {
        let mut items = vec![
            json!({"type": "reasoning", "summary": [{"type": "summary_text", "text": self.reasoning}]}),
            json!({"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": self.text}]}),
        ];
        items.extend(self.calls.iter().enumerate().map(|(i, (name, arguments))|
            json!({"type": "function_call", "call_id": format!("c{i}"), "name": name, "arguments": arguments})));
        items
    }

    fn response(&self) -> Value {
        json!({"id": "x", "object": "response", "model": "m", "status": "completed", "output": self.response_items(),
            "usage": self.usage("input_tokens", "output_tokens")})
    }

    /// A Responses stream up to its last event.
    fn response_deltas(&self) -> Vec<Value> {
        let mut events = vec![
            json!({"type": "response.created", "response": {"id": "x", "model": "m", "status": "in_progress", "output": []}}),
        ];
        for (i, item) in self.response_items().iter().enumerate() {
            let (empty, event, text) = match item["type"].as_str() {
                Some("reasoning") => {
                    (json!({"type": "reasoning", "summary": []}), "reasoning_summary_text", &self.reasoning)
                }
                Some("message") => (
                    json!({"type": "message", "role": "assistant", "content": []}),
                    "output_text",
                    &self.text,
                ),
                _ => {
                    let mut empty = item.clone();
                    empty["arguments"] = json!("");
                    (empty, "function_call_arguments", &self.calls[i - 2].1)
                }
            };
            events.push(json!({"type": "response.output_item.added", "output_index": i, "item": empty}));
            events.extend(
                self.pieces(text).iter().map(
                    |p| json!({"type": format!("response.{event}.delta"), "output_index": i, "delta": p}),
                ),
            );
        }
        events
    }

    fn response_stream(&self) -> Vec<Value> {
        let mut events = self.response_deltas();
        events.push(json!({"type": "response.completed", "response": self.response()}));
        events
    }

    fn message_blocks(&self) -> Vec<Value> {
        let mut blocks = vec![
            json!({"type": "thinking", "thinking": self.reasoning}),
            json!({"type": "text", "text": self.text}),
        ];
        blocks.extend(self.calls.iter().enumerate().map(|(i, (name, arguments))| {
            let input: Value = serde_json::from_str(arguments).unwrap();
            json!({"type": "tool_use", "id": format!("c{i}"), "name": name, "input": input})
        }));
        blocks
    }

    fn message(&self) -> Value {
        json!({"id": "x", "type": "message", "role": "assistant", "model": "m", "content": self.message_blocks(),
            "stop_reason": "end_turn", "usage": self.usage("input_tokens", "output_tokens")})
    }

    fn message_stream(&self) -> Vec<Value> {
        let mut events = vec![
            json!({"type": "message_start", "message": {"id": "x", "type": "message", "model": "m", "content": [], "usage": self.usage("input_tokens", "_")}}),
        ];
        for (i, block) in self.message_blocks().iter().enumerate() {
            let (mut start, key, text) = match i {
                0 => (json!({"type": "thinking", "thinking": ""}), "thinking", self.reasoning.clone()),
                1 => (json!({"type": "text", "text": ""}), "text", self.text.clone()),
                _ => (block.clone(), "partial_json", block["input"].to_string()),
            };
            if i > 1 {
                start["input"] = json!({});
            }
            events.push(json!({"type": "content_block_start", "index": i, "content_block": start}));
            events.extend(
                self.pieces(&text)
                    .iter()
                    .map(|p| json!({"type": "content_block_delta", "index": i, "delta": {key: p}})),
            );
            events.push(json!({"type": "content_block_stop", "index": i}));
        }
        events.push(json!({"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": self.usage("_", "output_tokens")}));
        events.push(json!({"type": "message_stop"}));
        events
    }

    /// (path, whole answer, its stream) under every API.
    fn in_every_api(&self) -> [(&'static str, Value, Vec<Value>); 3] {
        [
            ("/v1/chat/completions", self.chat(), self.chat_stream()),
            ("/v1/responses", self.response(), self.response_stream()),
            ("/v1/messages", self.message(), self.message_stream()),
        ]
    }
}

/// The message that a client sends back as history, and the request around it.
fn history(path: &str, answer: &Value) -> Value {
    match path {
        "/v1/chat/completions" => json!({"messages": [answer["choices"][0]["message"]]}),
        "/v1/responses" => json!({"input": answer["output"]}),
        _ => json!({"messages": [{"role": "assistant", "content": answer["content"]}]}),
    }
}

fn is_beginning_of(part: &Message, of: &Message) -> bool {
    let begins = |part: &Option<String>, of: &Option<String>| {
        of.as_deref().unwrap_or_default().starts_with(part.as_deref().unwrap_or_default())
    };
    of.text.starts_with(&part.text)
        && begins(&part.reasoning, &of.reasoning)
        && part.tool_calls.len() <= of.tool_calls.len()
        // an empty input is announced before it is streamed
        && part.tool_calls.iter().zip(&of.tool_calls).all(|(p, o)| p.id == o.id && (o.arguments.starts_with(&p.arguments) || p.arguments == "{}"))
}

/// Values in which the fields that readers look for have any type.
fn odd_json() -> impl Strategy<Value = Value> {
    let key = prop::sample::select(vec![
        "messages",
        "role",
        "content",
        "type",
        "text",
        "choices",
        "index",
        "delta",
        "message",
        "tool_calls",
        "function",
        "name",
        "arguments",
        "id",
        "usage",
        "error",
        "output",
        "input",
        "output_index",
        "item",
        "response",
        "status",
        "metadata",
        "user_id",
        "tools",
        "content_block",
        "prompt_tokens",
        "thinking",
        "object",
        "custom",
        "system",
    ]);
    let word = prop::sample::select(vec![
        "assistant",
        "user",
        "tool_use",
        "tool_result",
        "text",
        "function_call",
        "message_start",
        "response.completed",
        "content_block_start",
        "content_block_delta",
        "response.output_item.done",
        "chat.completion",
        "response",
        "",
        "message",
        "response.created",
        "response.output_text.delta",
        "error",
        "thinking",
        "reasoning",
    ]);
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        word.prop_map(Value::from),
    ];
    leaf.prop_recursive(5, 60, 6, move |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::vec((key.clone(), inner), 0..6)
                .prop_map(|pairs| Value::Object(pairs.into_iter().map(|(k, v)| (k.to_owned(), v)).collect())),
        ]
    })
}

fn any_path() -> impl Strategy<Value = &'static str> {
    prop::sample::select(vec![
        "/v1/chat/completions",
        "/v1/completions",
        "/v1/responses",
        "/v1/messages",
        "/v1/embeddings",
        "/x",
        "",
    ])
}

proptest! {
    #[test]
    fn a_stream_adds_up_to_the_whole_answer(told in told()) {
        for (path, answer, events) in told.in_every_api() {
            let want = Reading { stream: true, ..whole(path, &json!({}), &answer) };
            prop_assert_eq!(streamed(path, &json!({}), &events), want, "{}", path);
        }
    }

    #[test]
    fn an_answer_reads_like_the_history_that_repeats_it(told in told()) {
        for (path, answer, _) in told.in_every_api() {
            let reading = whole(path, &history(path, &answer), &answer);
            prop_assert_eq!(&reading.messages[0], &reading.choices[0].message, "{}", path);
        }
    }

    #[test]
    fn every_api_tells_the_same(told in told()) {
        let [chat, responses, messages] = told.in_every_api().map(|(path, answer, _)| whole(path, &json!({}), &answer));
        prop_assert_eq!(&chat.choices[0].message, &responses.choices[0].message);
        prop_assert_eq!(&chat.choices[0].message, &messages.choices[0].message);
        prop_assert_eq!(chat.usage, messages.usage);
    }

    #[test]
    fn a_torn_stream_is_a_beginning_of_the_whole(told in told(), at in 0.0..1.0f64) {
        for (path, answer, events) in told.in_every_api() {
            let body = stream_of(&events).into_bytes();
            let torn = call(path, &json!({}), EVENTS, &body[..(body.len() as f64 * at) as usize]);
            let want = whole(path, &json!({}), &answer);
            if let Some(choice) = torn.choices.first() {
                prop_assert!(is_beginning_of(&choice.message, &want.choices[0].message), "{} {:?}", path, choice);
            }
        }
    }

    #[test]
    fn the_deltas_of_a_response_are_enough(told in told()) {
        let torn = streamed("/v1/responses", &json!({}), &told.response_deltas());
        prop_assert_eq!(&torn.choices[0].message, &whole("/v1/responses", &json!({}), &told.response()).choices[0].message);
    }

    #[test]
    fn any_bytes_do_no_harm(request in prop::collection::vec(any::<u8>(), 0..200), body in prop::collection::vec(any::<u8>(), 0..400),
        path in any_path(), coding in prop::sample::select(vec!["", "gzip", "deflate", "br", "zstd"]), status in 100u16..600) {
        for media in [JSON, EVENTS, ""] {
            let _ = read(&exchange("POST", path, &request, status, &[("content-type", media), ("content-encoding", coding)], &body));
        }
    }

    #[test]
    fn any_json_does_no_harm(request in odd_json(), answers in prop::collection::vec(odd_json(), 1..6), path in any_path()) {
        whole(path, &request, &answers[0]);
        streamed(path, &request, &answers);
    }
}
