use std::io::Write;

use serde_json::json;

use super::{CHAT, EVENTS, call, exchange, stream_of, whole};
use crate::model::{Api, Headers};
use crate::wire::read;

#[test]
fn other_apis_stay_other() {
    let ollama = json!({"model": "m", "message": {"role": "assistant", "content": "hi"}, "done": true});
    let request = json!({"model": "m", "messages": [{"role": "user", "content": "hi"}]});
    for path in ["/api/chat", "/somewhere/else"] {
        let reading = whole(path, &request, &ollama);
        assert_eq!((reading.api, reading.messages, reading.choices), (Api::Other, vec![], vec![]), "{path}");
        assert_eq!(reading.model.as_deref(), Some("m"));
    }
}

#[test]
fn an_unknown_path_is_read_by_shape_and_in_doubt_by_the_request() {
    let request = json!({"messages": [{"role": "user", "content": "hi"}]});
    let answer = json!({"choices": [{"message": {"content": "ho"}}]});
    assert_eq!(whole("/invocations", &request, &answer).choices[0].message.text, "ho");
    let failed = whole("/invocations", &request, &json!({"error": "busy"}));
    assert_eq!((failed.api, failed.messages.len()), (Api::ChatCompletions, 1));
}

#[test]
fn the_declared_media_type_says_what_a_stream_is() {
    let body = stream_of(&[json!({"choices": [{"index": 0, "delta": {"content": "x"}}]}), json!("[DONE]")]);
    let read_as =
        |headers: &[(&str, &str)]| read(&exchange("POST", CHAT, b"{}", 200, headers, body.as_bytes()));
    for (headers, stream) in [
        (&[("Content-Type", "Text/Event-Stream")][..], true),
        (&[], true),
        (&[("content-type", "text/plain")], false),
    ] {
        let reading = read_as(headers);
        assert_eq!((reading.stream, &*reading.choices[0].message.text), (stream, "x"), "{headers:?}");
    }
    let whole = json!({"choices": [{"message": {"content": "y"}}]}).to_string();
    let reading = call(CHAT, &json!({}), EVENTS, whole.as_bytes());
    assert_eq!((reading.stream, &*reading.choices[0].message.text), (true, "y"));
}

#[test]
fn compressed_bodies_are_read() {
    let pack = |plain: &str| {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
        encoder.write_all(plain.as_bytes()).unwrap();
        encoder.finish().unwrap()
    };
    let request = pack(&json!({"messages": [{"role": "user", "content": "hi"}]}).to_string());
    let answer = pack(&json!({"choices": [{"message": {"content": "ho"}}]}).to_string());
    let mut exchange = exchange("POST", CHAT, &request, 200, &[("content-encoding", "gzip")], &answer);
    exchange.request_headers = Headers(vec![("Content-Encoding".into(), "gzip".into())]);
    let reading = read(&exchange);
    assert_eq!((&*reading.messages[0].text, &*reading.choices[0].message.text), ("hi", "ho"));
}

#[test]
fn a_gateways_page_is_an_error() {
    let reading =
        read(&exchange("POST", CHAT, b"{}", 502, &[("content-type", "text/html")], b"<h1>Bad Gateway</h1>"));
    assert_eq!(reading.error.map(|e| e.message).as_deref(), Some("<h1>Bad Gateway</h1>"));
    assert!(!reading.finished);
}

#[test]
fn without_a_response_the_request_is_still_read() {
    let mut exchange = exchange(
        "POST",
        CHAT,
        br#"{"model":"m","messages":[{"role":"user","content":"hi"}]}"#,
        200,
        &[],
        b"",
    );
    exchange.response = None;
    let reading = read(&exchange);
    assert_eq!((reading.messages.len(), reading.finished, reading.error), (1, false, None));
}
