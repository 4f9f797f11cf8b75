//! OpenAI's Responses API.

mod items;

use std::collections::BTreeMap;

use serde_json::Value;

use self::items::Items;
use super::answer::Deltas;
use super::{fields, reported, tools};
use crate::model::{Choice, Message, Reading, Role};

pub(super) fn request(body: &Value, into: &mut Reading) {
    let mut items = Items::default();
    if let Some(text) = fields::string(body, "instructions") {
        items.messages.push(Message { role: Role::System, text, ..Message::default() });
    }
    tools::read(fields::list(body, "tools"), &mut items.tools);
    match &body["input"] {
        Value::String(text) => items.messages.push(Message { text: text.clone(), ..Message::default() }),
        Value::Array(input) => input.iter().for_each(|item| items.add(item)),
        _ => {}
    }
    into.messages = items.messages;
    into.tools = items.tools;
    into.output_schema = fields::object(&body["text"]["format"], "schema").cloned();
    into.previous_response_id = fields::string(body, "previous_response_id");
    into.conversation =
        fields::string(body, "conversation").or_else(|| fields::string(&body["conversation"], "id"));
}

pub(super) fn answer(body: &Value, into: &mut Reading) {
    if body["output"].is_array() {
        into.choices.push(choice(Items::of(fields::list(body, "output")), fields::string(body, "status")));
    }
}

fn choice(items: Items, finish_reason: Option<String>) -> Choice {
    Choice { index: 0, message: items.answer(), finish_reason }
}

/// The events of a stream. The last one holds the whole response; the others matter when it never came.
#[derive(Default)]
pub(super) struct Events {
    seen: bool,
    /// The response of the last event, once that came.
    last: Option<Value>,
    status: Option<String>,
    items: BTreeMap<u64, Partial>,
}

/// An item of the output while it grows.
#[derive(Default)]
struct Partial {
    /// As announced, then as completed.
    item: Value,
    complete: bool,
    text: String,
    refusal: String,
    reasoning: String,
    /// Arguments of a function, or input of a custom tool.
    arguments: String,
}

impl Events {
    fn item(&mut self, event: &Value) -> &mut Partial {
        let latest = self.items.last_key_value().map_or(0, |(index, _)| *index);
        self.items.entry(fields::count(event, "output_index").unwrap_or(latest)).or_default()
    }

    fn end(&mut self, kind: &str, response: &Value, into: &mut Reading) {
        into.finished = true;
        into.error = into.error.take().or_else(|| reported::error(response, false));
        self.status =
            fields::string(response, "status").or_else(|| kind.rsplit('.').next().map(String::from));
        self.last = Some(response.clone());
    }
}

impl Deltas for Events {
    fn push(&mut self, kind: &str, event: &Value, into: &mut Reading) {
        if let Some(response) = fields::object(event, "response") {
            self.seen = true;
            into.response_id = fields::string(response, "id").or(into.response_id.take());
            into.response_model = fields::string(response, "model").or(into.response_model.take());
            reported::update(&mut into.usage, reported::usage(response));
            if matches!(kind.rsplit('.').next(), Some("completed" | "incomplete" | "failed" | "cancelled")) {
                self.end(kind, response, into);
            }
            return;
        }
        let delta = fields::str(event, "delta").unwrap_or_default();
        match kind {
            "response.output_item.added" => self.item(event).item = event["item"].clone(),
            "response.output_item.done" => {
                let partial = self.item(event);
                partial.item = event["item"].clone();
                partial.complete = true;
            }
            "response.output_text.delta" => self.item(event).text.push_str(delta),
            "response.refusal.delta" => self.item(event).refusal.push_str(delta),
            "response.reasoning_text.delta" | "response.reasoning_summary_text.delta" => {
                self.item(event).reasoning.push_str(delta);
            }
            "response.function_call_arguments.delta" | "response.custom_tool_call_input.delta" => {
                self.item(event).arguments.push_str(delta);
            }
            _ => {}
        }
    }

    fn finish(self, into: &mut Reading) {
        let output = self.last.as_ref().map_or(&[][..], |response| fields::list(response, "output"));
        let items = if output.is_empty() {
            // interrupted, or a server that leaves the output out of its last event
            let mut items = Items::default();
            self.items.into_values().for_each(|partial| partial.put_into(&mut items));
            items
        } else {
            Items::of(output)
        };
        if self.seen || !items.messages.is_empty() {
            into.choices.push(choice(items, self.status));
        }
    }
}

impl Partial {
    fn put_into(mut self, items: &mut Items) {
        if !self.complete
            && let Some(fields) = self.item.as_object_mut()
            && !self.arguments.is_empty()
        {
            let key = if fields.contains_key("input") { "input" } else { "arguments" };
            fields.insert(key.into(), std::mem::take(&mut self.arguments).into());
        }
        items.add(&self.item);
        if !self.complete {
            items.add_parts(&self.text, &self.reasoning, &self.refusal);
        }
    }
}
