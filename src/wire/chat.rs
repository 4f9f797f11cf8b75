//! OpenAI chat completions, and the many servers that speak the same.

mod calls;

use std::collections::BTreeMap;

use serde_json::Value;

use self::calls::CallDeltas;
use super::answer::Deltas;
use super::completions::{index, name_answer};
use super::content::{Content, append};
use super::{fields, tools};
use crate::model::{Choice, Message, Reading, Role, ToolCall};

pub(super) fn request(body: &Value, into: &mut Reading) {
    into.messages.extend(fields::list(body, "messages").iter().filter(|m| m.is_object()).map(message));
    tools::read(fields::list(body, "tools"), &mut into.tools);
    tools::read(fields::list(body, "functions"), &mut into.tools);
    into.output_schema = fields::object(&body["response_format"]["json_schema"], "schema").cloned();
}

pub(super) fn answer(body: &Value, into: &mut Reading) {
    for (at, choice) in fields::list(body, "choices").iter().enumerate() {
        let Some(index) = index(choice, at) else { continue };
        into.choices.push(Choice {
            index,
            message: Message { role: Role::Assistant, ..message(&choice["message"]) },
            finish_reason: choice["finish_reason"].as_str().map(String::from),
        });
    }
}

/// A role under any of its names; unknown ones count as the user.
pub(super) fn role(name: &str) -> Role {
    match name {
        "system" | "developer" => Role::System,
        "assistant" | "model" => Role::Assistant,
        "tool" | "function" => Role::Tool,
        _ => Role::User,
    }
}

fn message(value: &Value) -> Message {
    let mut message = Message {
        role: role(fields::str(value, "role").unwrap_or_default()),
        name: fields::string(value, "name"),
        tool_call_id: fields::string(value, "tool_call_id"),
        tool_calls: fields::list(value, "tool_calls").iter().map(call).collect(),
        refusal: fields::string(value, "refusal"),
        reasoning: reasoning(value).map(String::from),
        ..Message::default()
    };
    if let Some(legacy) = fields::object(value, "function_call").filter(|f| fields::str(f, "name").is_some())
    {
        message.tool_calls.push(call(legacy));
    }
    Content::of(&value["content"]).put_into(&mut message);
    message
}

fn call(value: &Value) -> ToolCall {
    let inner = function(value);
    ToolCall {
        id: fields::string(value, "id").unwrap_or_default(),
        name: fields::string(inner, "name").unwrap_or_default(),
        arguments: arguments(inner),
    }
}

/// Where a tool call keeps name and arguments: under its type, or directly.
fn function(call: &Value) -> &Value {
    fields::object(call, "function").or_else(|| fields::object(call, "custom")).unwrap_or(call)
}

/// A function's arguments, or a custom tool's free input; objects, which some servers send, as JSON.
fn arguments(function: &Value) -> String {
    fields::text_or_json(function, if function.get("arguments").is_some() { "arguments" } else { "input" })
}

/// DeepSeek's name or OpenRouter's; servers that send both repeat the text.
fn reasoning(message: &Value) -> Option<&str> {
    fields::str(message, "reasoning_content").or_else(|| fields::str(message, "reasoning"))
}

/// The chunks of a stream.
#[derive(Default)]
pub(super) struct Chunks {
    choices: BTreeMap<u32, Partial>,
}

#[derive(Default)]
struct Partial {
    message: Message,
    calls: CallDeltas,
    legacy: CallDeltas,
    finish_reason: Option<String>,
}

impl Partial {
    fn add(&mut self, delta: &Value) {
        append(&mut self.message.reasoning, reasoning(delta).unwrap_or_default());
        append(&mut self.message.refusal, fields::str(delta, "refusal").unwrap_or_default());
        Content::of(&delta["content"]).put_into(&mut self.message);
        fields::list(delta, "tool_calls").iter().for_each(|call| self.calls.add(call));
        if let Some(call) = fields::object(delta, "function_call") {
            self.legacy.add(call);
        }
    }

    fn whole(self, index: u32) -> Choice {
        let mut tool_calls = self.calls.finish();
        tool_calls.extend(self.legacy.finish().into_iter().filter(|c| !c.name.is_empty()));
        let message = Message { role: Role::Assistant, tool_calls, ..self.message };
        Choice { index, message, finish_reason: self.finish_reason }
    }
}

impl Deltas for Chunks {
    fn push(&mut self, _: &str, chunk: &Value, into: &mut Reading) {
        name_answer(chunk, into);
        for (at, choice) in fields::list(chunk, "choices").iter().enumerate() {
            let Some(index) = index(choice, at) else { continue };
            let partial = self.choices.entry(index).or_default();
            // servers that do not really stream send a `message`; those that send both repeat all of it each time
            if let Some(delta) = fields::object(choice, "delta").or_else(|| fields::object(choice, "message"))
            {
                partial.add(delta);
            }
            if let Some(reason) = fields::string(choice, "finish_reason") {
                partial.finish_reason = Some(reason);
            }
        }
    }

    fn finish(self, into: &mut Reading) {
        into.choices.extend(self.choices.into_iter().map(|(index, partial)| partial.whole(index)));
    }
}
