//! OpenAI's legacy text completions.

use std::collections::BTreeMap;

use serde_json::Value;

use super::answer::Deltas;
use super::{fields, reported};
use crate::model::{Choice, Message, Reading, Role};

/// Reads prompts as the user's messages; token lists are left out.
pub(super) fn request(body: &Value, into: &mut Reading) {
    let prompts = match &body["prompt"] {
        Value::Array(prompts) => prompts.as_slice(),
        one => std::slice::from_ref(one),
    };
    into.messages.extend(
        prompts.iter().filter_map(Value::as_str).map(|t| Message { text: t.into(), ..Message::default() }),
    );
}

pub(super) fn answer(body: &Value, into: &mut Reading) {
    let mut chunks = Chunks::default();
    chunks.add(body);
    chunks.finish(into);
}

/// The chunks of a stream; a whole answer is one chunk.
#[derive(Default)]
pub(super) struct Chunks {
    choices: BTreeMap<u32, Choice>,
}

impl Chunks {
    fn add(&mut self, chunk: &Value) {
        for (at, part) in fields::list(chunk, "choices").iter().enumerate() {
            let Some(index) = index(part, at) else { continue };
            let choice = self.choices.entry(index).or_insert_with(|| Choice {
                index,
                message: Message { role: Role::Assistant, ..Message::default() },
                finish_reason: None,
            });
            choice.message.text.push_str(fields::str(part, "text").unwrap_or_default());
            choice.finish_reason = fields::string(part, "finish_reason").or(choice.finish_reason.take());
        }
    }
}

impl Deltas for Chunks {
    fn push(&mut self, _: &str, chunk: &Value, into: &mut Reading) {
        name_answer(chunk, into);
        self.add(chunk);
    }

    fn finish(self, into: &mut Reading) {
        into.choices.extend(self.choices.into_values());
    }
}

/// A choice's own index, or else its position.
pub(super) fn index(choice: &Value, position: usize) -> Option<u32> {
    fields::count(choice, "index").map_or(u32::try_from(position).ok(), |i| u32::try_from(i).ok())
}

/// Takes id, model and usage from a chunk of a stream. The first id and model count: later chunks repeat them.
pub(super) fn name_answer(chunk: &Value, into: &mut Reading) {
    if into.response_id.is_none() {
        into.response_id = fields::string(chunk, "id");
    }
    if into.response_model.is_none() {
        into.response_model = fields::string(chunk, "model");
    }
    reported::update(&mut into.usage, reported::usage(chunk));
}
