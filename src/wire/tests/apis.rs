use serde_json::{Value, json};

use super::{CHAT, JSON, exchange, streamed, whole};
use crate::model::{Api, ApiError, Message, Role, ToolCall, Usage};
use crate::wire::read;

const RESPONSES: &str = "/v1/responses";
const MESSAGES: &str = "/v1/messages";

fn said(role: Role, text: &str) -> Message {
    Message { role, text: text.into(), ..Message::default() }
}

fn tool_call(id: &str, name: &str, arguments: &str) -> ToolCall {
    ToolCall { id: id.into(), name: name.into(), arguments: arguments.into() }
}

fn tokens(input: u64, output: u64) -> Usage {
    Usage { input_tokens: Some(input), output_tokens: Some(output), ..Usage::default() }
}

#[test]
fn a_chat_request_is_read() {
    let request = json!({
        "model": "m",
        "messages": [
            {"role": "developer", "content": "be kind"},
            {"role": "user", "name": "ann", "content": [{"type": "text", "text": "hi"}, {"type": "image_url"}]},
            {"role": "assistant", "content": null, "tool_calls": [
                {"id": "c1", "type": "function", "function": {"name": "f", "arguments": "{\"x\": 1}"}}]},
            {"role": "tool", "tool_call_id": "c1", "content": "done"},
            {"role": "assistant", "content": "", "function_call": {"name": "g", "arguments": "{}"}},
            {"role": "function", "name": "g", "content": "old"}
        ],
        "tools": [{"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}],
        "functions": [{"name": "g"}],
        "response_format": {"type": "json_schema", "json_schema": {"name": "n", "schema": {"type": "object"}}},
        "user": "u"
    });
    let reading = whole(CHAT, &request, &json!({}));
    assert_eq!(reading.api, Api::ChatCompletions);
    assert_eq!(reading.model.as_deref(), Some("m"));
    assert_eq!(
        reading.messages,
        [
            said(Role::System, "be kind"),
            Message { name: Some("ann".into()), ..said(Role::User, "hi\n[image]") },
            Message { tool_calls: vec![tool_call("c1", "f", "{\"x\": 1}")], ..said(Role::Assistant, "") },
            Message { tool_call_id: Some("c1".into()), ..said(Role::Tool, "done") },
            Message { tool_calls: vec![tool_call("", "g", "{}")], ..said(Role::Assistant, "") },
            Message { name: Some("g".into()), ..said(Role::Tool, "old") },
        ]
    );
    assert_eq!(reading.tools.iter().map(|t| &*t.name).collect::<Vec<_>>(), ["f", "g"]);
    assert_eq!(reading.output_schema, Some(json!({"type": "object"})));
    assert_eq!(reading.user.as_deref(), Some("u"));
    assert_eq!(reading.choices, []);
}

#[test]
fn a_whole_chat_answer_is_read() {
    let answer = json!({
        "id": "chatcmpl-1", "object": "chat.completion", "model": "m-1",
        "choices": [
            {"index": 1, "message": {"role": "assistant", "content": null, "refusal": "no"}, "finish_reason": "stop"},
            {"index": 0, "message": {"role": "assistant", "content": "a", "reasoning_content": "r", "reasoning": "r"},
             "finish_reason": "length"}
        ],
        "usage": {"prompt_tokens": 3, "completion_tokens": 4}
    });
    let reading = whole(CHAT, &json!({}), &answer);
    assert_eq!(
        (reading.response_id.as_deref(), reading.response_model.as_deref()),
        (Some("chatcmpl-1"), Some("m-1"))
    );
    assert_eq!(
        reading.choices[0].message,
        Message { reasoning: Some("r".into()), ..said(Role::Assistant, "a") }
    );
    assert_eq!(reading.choices[0].finish_reason.as_deref(), Some("length"));
    assert_eq!(
        reading.choices[1].message,
        Message { refusal: Some("no".into()), ..said(Role::Assistant, "") }
    );
    assert_eq!(reading.usage, Some(tokens(3, 4)));
    assert!(reading.finished && !reading.stream);
}

#[test]
fn chat_chunks_without_choices_are_more_than_usage() {
    let reading = streamed(
        CHAT,
        &json!({}),
        &[
            json!({"id": "", "model": "", "choices": [], "prompt_filter_results": []}),
            json!({"id": "chatcmpl-1", "model": "m-1", "choices": [{"index": 0, "delta": {"role": "assistant", "content": ""}}], "usage": null}),
            json!({"id": "chatcmpl-1", "choices": [{"index": 0, "delta": {"content": "hé"}, "finish_reason": null}], "obfuscation": "x"}),
            json!({"id": "chatcmpl-1", "choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]}),
            json!({"id": "chatcmpl-1", "choices": [], "usage": {"prompt_tokens": 3, "completion_tokens": 4}}),
            json!({"id": "chatcmpl-1", "choices": [], "moderation": {}}),
            json!("[DONE]"),
        ],
    );
    assert_eq!(
        (reading.response_id.as_deref(), reading.response_model.as_deref()),
        (Some("chatcmpl-1"), Some("m-1"))
    );
    assert_eq!(reading.choices.len(), 1);
    assert_eq!(reading.choices[0].message, said(Role::Assistant, "hé"));
    assert_eq!(reading.choices[0].finish_reason.as_deref(), Some("stop"));
    assert_eq!(reading.usage, Some(tokens(3, 4)));
    assert!(reading.finished && reading.stream);
}

#[test]
fn an_error_in_the_middle_keeps_what_came_before() {
    let reading = streamed(
        CHAT,
        &json!({}),
        &[
            json!({"choices": [{"index": 0, "delta": {"content": "half"}}]}),
            json!({"error": {"message": "overloaded", "type": "server_error", "code": 503}}),
        ],
    );
    assert_eq!(reading.choices[0].message.text, "half");
    assert_eq!(reading.choices[0].finish_reason, None);
    let error = ApiError {
        kind: Some("server_error".into()),
        code: Some("503".into()),
        message: "overloaded".into(),
    };
    assert_eq!(reading.error, Some(error));
    assert!(!reading.finished);
}

#[test]
fn legacy_function_calls_stream_too() {
    let reading = streamed(
        CHAT,
        &json!({}),
        &[
            json!({"choices": [{"index": 0, "delta": {"content": null, "function_call": {"name": "f", "arguments": ""}}}]}),
            json!({"choices": [{"index": 0, "delta": {"function_call": {"arguments": "{}"}}}]}),
            json!({"choices": [{"index": 0, "delta": {}, "finish_reason": "function_call"}]}),
        ],
    );
    assert_eq!(reading.choices[0].message.tool_calls, [tool_call("", "f", "{}")]);
}

#[test]
fn an_azure_deployment_stands_for_the_model() {
    let reading = whole(
        "/openai/deployments/my-gpt/chat/completions?api-version=1",
        &json!({"messages": []}),
        &json!({}),
    );
    assert_eq!((reading.api, reading.model.as_deref()), (Api::ChatCompletions, Some("my-gpt")));
}

#[test]
fn legacy_completions_are_read() {
    let request = json!({"model": "m", "prompt": ["once", "twice"]});
    let answer = json!({"id": "cmpl-1", "object": "text_completion", "choices": [{"index": 0, "text": " upon", "finish_reason": "length"}]});
    let reading = whole("/v1/completions", &request, &answer);
    assert_eq!(reading.messages, [said(Role::User, "once"), said(Role::User, "twice")]);
    assert_eq!(reading.choices[0].message, said(Role::Assistant, " upon"));
    let chunk = |text: &str, reason: Value| json!({"id": "cmpl-1", "choices": [{"index": 0, "text": text, "finish_reason": reason}]});
    let reading = streamed(
        "/v1/completions",
        &request,
        &[chunk(" up", json!(null)), chunk("on", json!("length")), json!("[DONE]")],
    );
    assert_eq!(reading.choices[0].message, said(Role::Assistant, " upon"));
    assert_eq!(reading.choices[0].finish_reason.as_deref(), Some("length"));
}

#[test]
fn a_stored_prompts_answer_is_a_chat() {
    let answer = json!({"object": "chat.completion", "choices": [{"message": {"content": "hi"}}]});
    let reading = whole("/v1/prompts/p/completions", &json!({}), &answer);
    assert_eq!((reading.api, &*reading.choices[0].message.text), (Api::ChatCompletions, "hi"));
}

#[test]
fn a_responses_request_is_read() {
    let request = json!({
        "model": "m", "instructions": "be kind", "previous_response_id": "resp_0", "prompt_cache_key": "k",
        "conversation": {"id": "conv_1"},
        "input": [
            {"role": "user", "content": [{"type": "input_text", "text": "hi"}]},
            {"type": "function_call", "call_id": "c1", "name": "f", "arguments": "{}"},
            {"type": "function_call_output", "call_id": "c1", "output": "done"}
        ],
        "tools": [{"type": "function", "name": "f", "parameters": {"type": "object"}}, {"type": "web_search"}],
        "text": {"format": {"type": "json_schema", "name": "n", "schema": {"type": "string"}}}
    });
    let reading = whole(RESPONSES, &request, &json!({}));
    assert_eq!(
        reading.messages,
        [
            said(Role::System, "be kind"),
            said(Role::User, "hi"),
            Message { tool_calls: vec![tool_call("c1", "f", "{}")], ..said(Role::Assistant, "") },
            Message { tool_call_id: Some("c1".into()), ..said(Role::Tool, "done") },
        ]
    );
    assert_eq!(reading.tools.len(), 2);
    assert_eq!(reading.output_schema, Some(json!({"type": "string"})));
    assert_eq!(reading.previous_response_id.as_deref(), Some("resp_0"));
    assert_eq!((reading.conversation.as_deref(), reading.cache_key.as_deref()), (Some("conv_1"), Some("k")));
    let short = whole(RESPONSES, &json!({"input": "hi", "conversation": "conv_2"}), &json!({}));
    assert_eq!(
        (short.messages, short.conversation.as_deref()),
        (vec![said(Role::User, "hi")], Some("conv_2"))
    );
}

fn interrupted_response() -> Vec<Value> {
    vec![
        json!({"type": "response.created", "response": {"id": "resp_1", "model": "m-1", "status": "in_progress", "output": []}}),
        json!({"type": "response.output_item.added", "output_index": 0, "item": {"type": "message", "role": "assistant", "content": []}}),
        json!({"type": "response.output_text.delta", "output_index": 0, "content_index": 0, "delta": "he"}),
        json!({"type": "response.output_text.delta", "output_index": 0, "content_index": 0, "delta": "llo"}),
        json!({"type": "response.output_text.done", "output_index": 0, "content_index": 0, "text": "hello"}),
        json!({"type": "response.output_item.added", "output_index": 1, "item": {"type": "function_call", "call_id": "c1", "name": "f", "arguments": ""}}),
        json!({"type": "response.function_call_arguments.delta", "output_index": 1, "delta": "{\"x"}),
    ]
}

#[test]
fn an_interrupted_responses_stream_keeps_its_deltas() {
    let reading = streamed(RESPONSES, &json!({}), &interrupted_response());
    assert_eq!(reading.response_id.as_deref(), Some("resp_1"));
    assert_eq!(
        reading.choices[0].message,
        Message { tool_calls: vec![tool_call("c1", "f", "{\"x")], ..said(Role::Assistant, "hello") }
    );
    assert_eq!(reading.choices[0].finish_reason, None);
    assert!(!reading.finished);
}

#[test]
fn a_last_event_without_output_leaves_it_to_the_deltas() {
    let mut events = interrupted_response();
    events.push(json!({"type": "response.completed", "response": {"id": "resp_1", "status": "completed", "output": [], "usage": {"input_tokens": 3, "output_tokens": 4}}}));
    let reading = streamed(RESPONSES, &json!({}), &events);
    assert_eq!(reading.choices[0].message.text, "hello");
    assert_eq!(reading.choices[0].finish_reason.as_deref(), Some("completed"));
    assert_eq!(reading.usage, Some(tokens(3, 4)));
    assert!(reading.finished);
}

#[test]
fn a_failed_response_says_why() {
    let response = json!({"id": "resp_1", "object": "response", "status": "failed", "output": [], "error": {"code": "server_error", "message": "m"}});
    let want = Some(ApiError { kind: None, code: Some("server_error".into()), message: "m".into() });
    assert_eq!(whole(RESPONSES, &json!({}), &response).error, want);
    let reading =
        streamed(RESPONSES, &json!({}), &[json!({"type": "response.failed", "response": response})]);
    assert_eq!((reading.error, reading.choices[0].finish_reason.as_deref()), (want.clone(), Some("failed")));
    let event =
        json!({"type": "error", "code": "server_error", "message": "m", "param": null, "sequence_number": 1});
    assert_eq!(streamed(RESPONSES, &json!({}), &[event]).error, want);
}

#[test]
fn a_stored_response_is_read_but_is_no_call() {
    let body = json!({"id": "resp_1", "object": "response", "status": "completed", "output": [
        {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "hi"}]}]});
    let reading = read(&exchange(
        "GET",
        "/v1/responses/resp_1",
        b"",
        200,
        &[("content-type", JSON)],
        body.to_string().as_bytes(),
    ));
    assert_eq!((reading.api, &*reading.choices[0].message.text), (Api::Other, "hi"));
}

#[test]
fn a_messages_request_is_read() {
    let request = json!({
        "model": "m", "system": [{"type": "text", "text": "be "}, {"type": "text", "text": "kind"}],
        "metadata": {"user_id": "u"},
        "messages": [
            {"role": "user", "content": "hi"},
            {"role": "assistant", "content": [
                {"type": "thinking", "thinking": "hm", "signature": "s"}, {"type": "text", "text": "wait"},
                {"type": "server_tool_use", "id": "s1", "name": "web_search", "input": {}},
                {"type": "tool_use", "id": "t1", "name": "f", "input": {"x": 1}}]},
            {"role": "user", "content": [
                {"type": "tool_result", "tool_use_id": "t1", "is_error": true, "content": [{"type": "text", "text": "bad"}]},
                {"type": "tool_result", "tool_use_id": "t2", "content": "good"},
                {"type": "text", "text": "go on"}, {"type": "document"}]},
            {"role": "user", "content": []}
        ],
        "tools": [{"name": "f", "input_schema": {"type": "object"}}],
        "output_config": {"format": {"type": "json_schema", "schema": {"type": "object"}}}
    });
    let reading = whole(MESSAGES, &request, &json!({}));
    assert_eq!(
        reading.messages,
        [
            said(Role::System, "be kind"),
            said(Role::User, "hi"),
            Message {
                tool_calls: vec![tool_call("t1", "f", "{\"x\":1}")],
                reasoning: Some("hm".into()),
                ..said(Role::Assistant, "wait")
            },
            Message { tool_call_id: Some("t1".into()), tool_failed: true, ..said(Role::Tool, "bad") },
            Message { tool_call_id: Some("t2".into()), ..said(Role::Tool, "good") },
            said(Role::User, "go on\n[file]"),
            said(Role::User, ""),
        ]
    );
    assert_eq!((reading.api, reading.user.as_deref()), (Api::Messages, Some("u")));
    assert_eq!((reading.tools.len(), reading.output_schema), (1, Some(json!({"type": "object"}))));
}

#[test]
fn a_messages_stream_adds_up() {
    let reading = streamed(
        MESSAGES,
        &json!({}),
        &[
            json!({"type": "message_start", "message": {"id": "msg_1", "model": "m-1", "content": [], "usage": {"input_tokens": 9, "output_tokens": 1, "cache_read_input_tokens": 5}}}),
            json!({"type": "ping"}),
            json!({"type": "content_block_start", "index": 0, "content_block": {"type": "thinking", "thinking": ""}}),
            json!({"type": "content_block_delta", "index": 0, "delta": {"type": "thinking_delta", "thinking": "hm"}}),
            json!({"type": "content_block_delta", "index": 0, "delta": {"type": "signature_delta", "signature": "xx"}}),
            json!({"type": "content_block_start", "index": 1, "content_block": {"type": "tool_use", "id": "t1", "name": "f", "input": {}}}),
            json!({"type": "content_block_delta", "index": 1, "delta": {"type": "input_json_delta", "partial_json": "{\"x\""}}),
            json!({"type": "content_block_delta", "index": 1, "delta": {"type": "input_json_delta", "partial_json": ":1}"}}),
            json!({"type": "content_block_stop", "index": 1}),
            json!({"type": "content_block_start", "index": 2, "content_block": {"type": "tool_use", "id": "t2", "name": "g", "input": {}}}),
            json!({"type": "message_delta", "delta": {"stop_reason": "tool_use", "stop_sequence": null}, "usage": {"output_tokens": 30}}),
            json!({"type": "of_the_future", "delta": {"text": "?"}}),
            json!({"type": "message_stop"}),
        ],
    );
    assert_eq!(
        reading.choices[0].message,
        Message {
            tool_calls: vec![tool_call("t1", "f", "{\"x\":1}"), tool_call("t2", "g", "{}")],
            reasoning: Some("hm".into()),
            ..said(Role::Assistant, "")
        }
    );
    assert_eq!(reading.choices[0].finish_reason.as_deref(), Some("tool_use"));
    assert_eq!(reading.usage, Some(Usage { cached_input_tokens: Some(5), ..tokens(9, 30) }));
    assert!(reading.finished);
}

#[test]
fn an_anthropic_error_is_read_whole_and_streamed() {
    let error = json!({"type": "error", "error": {"type": "overloaded_error", "message": "m"}});
    let want = Some(ApiError { kind: Some("overloaded_error".into()), code: None, message: "m".into() });
    assert_eq!(whole(MESSAGES, &json!({}), &error).error, want);
    assert_eq!(streamed(MESSAGES, &json!({}), &[error]).error, want);
}

#[test]
fn embeddings_have_texts_and_tokens_but_no_choices() {
    let request = json!({"model": "m", "input": ["a", "b", [1, 2]], "encoding_format": "base64"});
    let answer = json!({"object": "list", "data": [{"object": "embedding", "embedding": "AAA="}], "model": "m-1", "usage": {"prompt_tokens": 2, "total_tokens": 2}});
    let reading = whole("/v1/embeddings", &request, &answer);
    assert_eq!(reading.messages, [said(Role::User, "a"), said(Role::User, "b")]);
    assert_eq!(reading.usage, Some(Usage { input_tokens: Some(2), ..Usage::default() }));
    assert_eq!((reading.api, reading.choices), (Api::Embeddings, vec![]));
}
