use remora::model::{Micros, Usage};
use serde_json::{Value, json};

use crate::harness::{LAST_CHUNK, Piece, STREAM_HEAD, Sidecar, Upstream, chunk};

/// What is read from these events after they were streamed through.
async fn read(path: &str, request: Value, events: &[Value]) -> remora::model::Reading {
    let stream: Vec<u8> = events
        .iter()
        .flat_map(|event| {
            let name = event["type"].as_str().map_or(String::new(), |name| format!("event: {name}\n"));
            chunk(format!("{name}data: {event}\n\n").as_bytes())
        })
        .collect();
    let script = vec![Piece::Send([STREAM_HEAD, &stream, LAST_CHUNK].concat())];
    let upstream = Upstream::start(move |_| script.clone()).await;
    let sidecar = Sidecar::start(&upstream.url()).await;
    assert!(sidecar.post(path, "", request.to_string().as_bytes()).await.whole);
    assert_eq!(
        upstream.requests()[0].body,
        request.to_string().as_bytes(),
        "nothing is added to ask for usage"
    );
    remora::wire::read(&sidecar.recorded(1).await[0])
}

const CHAT: &str = "/v1/chat/completions";

fn delta(choice: u64, delta: Value) -> Value {
    json!({"id": "c", "object": "chat.completion.chunk", "model": "m",
        "choices": [{"index": choice, "delta": delta, "finish_reason": null}]})
}

#[tokio::test]
async fn tool_calls_in_pieces_are_joined_by_choice_and_index() {
    let call = |index: u64, rest: Value| {
        let mut call = rest;
        call["index"] = json!(index);
        json!({"tool_calls": [call]})
    };
    let arguments = |text: &str| json!({"function": {"arguments": text}});
    let events = [
        delta(0, json!({"role": "assistant", "content": null})),
        delta(0, call(0, json!({"id": "a", "type": "function", "function": {"name": "f", "arguments": ""}}))),
        delta(1, call(0, json!({"id": "c", "type": "function", "function": {"name": "h", "arguments": ""}}))),
        delta(
            0,
            call(1, json!({"id": "b", "type": "function", "function": {"name": "g", "arguments": "{\"y\""}})),
        ),
        delta(1, call(0, arguments("{\"z\":3}"))),
        delta(0, call(0, arguments("{\"x\":"))),
        delta(0, call(1, arguments(":2}"))),
        delta(0, call(0, arguments("1}"))),
    ];
    let reading = read(CHAT, json!({"model": "m", "n": 2, "stream": true}), &events).await;
    let calls: Vec<Vec<(&str, &str, &str)>> = reading
        .choices
        .iter()
        .map(|choice| {
            let calls = choice.message.tool_calls.iter();
            calls.map(|call| (call.id.as_str(), call.name.as_str(), call.arguments.as_str())).collect()
        })
        .collect();
    assert_eq!(
        calls,
        [vec![("a", "f", "{\"x\":1}"), ("b", "g", "{\"y\":2}")], vec![("c", "h", "{\"z\":3}")]]
    );
}

#[tokio::test]
async fn usage_is_what_the_upstream_says_or_nothing() {
    let ask = || json!({"model": "m", "stream": true, "messages": []});
    let said = delta(0, json!({"role": "assistant", "content": "hello"}));
    assert_eq!(read(CHAT, ask(), std::slice::from_ref(&said)).await.usage, None, "not zero, not a guess");

    let last = json!({"id": "c", "object": "chat.completion.chunk", "choices": [],
        "usage": {"prompt_tokens": 3, "completion_tokens": 4}});
    let usage = read(CHAT, ask(), &[said, last]).await.usage;
    assert_eq!(usage, Some(Usage { input_tokens: Some(3), output_tokens: Some(4), ..Usage::default() }));

    let events = [
        json!({"type": "message_start", "message": {"id": "m", "type": "message", "role": "assistant", "model": "m",
            "content": [], "usage": {"input_tokens": 9, "output_tokens": 1}}}),
        json!({"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}}),
        json!({"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "hi"}}),
        json!({"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": {"output_tokens": 30}}),
        json!({"type": "message_stop"}),
    ];
    let usage = read("/v1/messages", ask(), &events).await.usage;
    assert_eq!(usage, Some(Usage { input_tokens: Some(9), output_tokens: Some(30), ..Usage::default() }));
}

#[test]
fn a_clock_that_jumps_back_gives_no_negative_times() {
    let (before, after) = (Micros(2_000_000), Micros(1_000_000));
    assert_eq!(before.until(after), std::time::Duration::ZERO);
}
