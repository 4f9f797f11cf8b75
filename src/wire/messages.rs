//! Anthropic's Messages API.

use std::collections::BTreeMap;

use serde_json::Value;

use super::answer::Deltas;
use super::chat::role;
use super::content::{Content, append};
use super::{fields, reported, tools};
use crate::model::{Choice, Message, Reading, Role, ToolCall};

pub(super) fn request(body: &Value, into: &mut Reading) {
    let system = Content::of(&body["system"]).text;
    if !system.is_empty() {
        into.messages.push(Message { role: Role::System, text: system, ..Message::default() });
    }
    for message in fields::list(body, "messages").iter().filter(|m| m.is_object()) {
        read_message(message, &mut into.messages);
    }
    tools::read(fields::list(body, "tools"), &mut into.tools);
    into.output_schema = fields::object(&body["output_config"]["format"], "schema")
        .or_else(|| fields::object(&body["output_format"], "schema"))
        .cloned();
}

/// Tool results are parts of the user's message there, and messages of their own here.
fn read_message(value: &Value, into: &mut Vec<Message>) {
    let empty = Message { role: role(fields::str(value, "role").unwrap_or_default()), ..Message::default() };
    let Value::Array(blocks) = &value["content"] else {
        let mut message = empty;
        Content::of(&value["content"]).put_into(&mut message);
        into.push(message);
        return;
    };
    let (mut message, mut content, mut results) = (empty.clone(), Content::default(), false);
    for block in blocks {
        match fields::str(block, "type").unwrap_or_default() {
            "tool_result" => {
                std::mem::take(&mut content).put_into(&mut message);
                if message != empty {
                    into.push(std::mem::replace(&mut message, empty.clone()));
                }
                into.push(tool_result(block));
                results = true;
            }
            "tool_use" => message.tool_calls.push(tool_use(block)),
            _ => content.add(block),
        }
    }
    content.put_into(&mut message);
    if message != empty || !results {
        into.push(message);
    }
}

fn tool_result(block: &Value) -> Message {
    let mut message = Message {
        role: Role::Tool,
        tool_call_id: fields::string(block, "tool_use_id"),
        tool_failed: block["is_error"].as_bool().unwrap_or(false),
        ..Message::default()
    };
    Content::of(&block["content"]).put_into(&mut message);
    message
}

fn tool_use(block: &Value) -> ToolCall {
    let arguments = fields::text_or_json(block, "input");
    ToolCall {
        id: fields::string(block, "id").unwrap_or_default(),
        name: fields::string(block, "name").unwrap_or_default(),
        arguments: if arguments.is_empty() { "{}".into() } else { arguments },
    }
}

pub(super) fn answer(body: &Value, into: &mut Reading) {
    if let Value::Array(blocks) = &body["content"] {
        let mut message = Message { role: Role::Assistant, ..Message::default() };
        blocks.iter().for_each(|block| read_block(block, &mut message));
        into.choices.push(Choice { index: 0, message, finish_reason: fields::string(body, "stop_reason") });
    }
}

/// A block of an answer. Tools that the provider runs itself are no calls, and their results no text.
fn read_block(block: &Value, message: &mut Message) {
    match fields::str(block, "type").unwrap_or_default() {
        "tool_use" => message.tool_calls.push(tool_use(block)),
        "text" | "thinking" => Content::of(block).put_into(message),
        _ => {}
    }
}

/// The events of a stream.
#[derive(Default)]
pub(super) struct Events {
    seen: bool,
    stop_reason: Option<String>,
    blocks: BTreeMap<u64, Partial>,
}

/// A block while it grows.
#[derive(Default)]
struct Partial {
    /// As announced: with its type, and what is not streamed.
    start: Value,
    text: String,
    thinking: String,
    json: String,
}

impl Events {
    fn block(&mut self, event: &Value) -> &mut Partial {
        let latest = self.blocks.last_key_value().map_or(0, |(index, _)| *index);
        self.blocks.entry(fields::count(event, "index").unwrap_or(latest)).or_default()
    }
}

impl Deltas for Events {
    fn push(&mut self, kind: &str, event: &Value, into: &mut Reading) {
        match kind {
            "message_start" => {
                let message = &event["message"];
                self.seen = true;
                into.response_id = fields::string(message, "id");
                into.response_model = fields::string(message, "model");
                reported::update(&mut into.usage, reported::usage(message));
            }
            "content_block_start" => self.block(event).start = event["content_block"].clone(),
            "content_block_delta" => {
                let (delta, block) = (&event["delta"], self.block(event));
                block.text.push_str(fields::str(delta, "text").unwrap_or_default());
                block.thinking.push_str(fields::str(delta, "thinking").unwrap_or_default());
                block.json.push_str(fields::str(delta, "partial_json").unwrap_or_default());
            }
            "message_delta" => {
                self.stop_reason = fields::string(&event["delta"], "stop_reason").or(self.stop_reason.take());
                reported::update(&mut into.usage, reported::usage(event));
            }
            "message_stop" => into.finished = true,
            // pings, ends of blocks, and what may come
            _ => {}
        }
    }

    fn finish(self, into: &mut Reading) {
        if !self.seen && self.blocks.is_empty() {
            return;
        }
        let mut message = Message { role: Role::Assistant, ..Message::default() };
        self.blocks.into_values().for_each(|block| block.put_into(&mut message));
        into.choices.push(Choice { index: 0, message, finish_reason: self.stop_reason });
    }
}

impl Partial {
    fn put_into(self, message: &mut Message) {
        let calls = message.tool_calls.len();
        read_block(&self.start, message);
        if let Some(call) = message.tool_calls.get_mut(calls)
            && !self.json.is_empty()
        {
            // as the model wrote it, which replaces the empty input that announced it
            call.arguments = self.json;
        }
        message.text.push_str(&self.text);
        append(&mut message.reasoning, &self.thinking);
    }
}
