//! Samples that say the same, or contradict each other.

use std::collections::{HashMap, HashSet};

use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::super::chat::Chat;
use super::{Kind, Sample, Skipped};
use crate::wire::canonical_json;

/// A hash of all that stands before the answer: messages and tools, however they were printed.
pub(super) fn prompt_of(chat: &Chat) -> [u8; 32] {
    let mut before = chat.plain();
    before.pop();
    hash(&json!([before, chat.tools]))
}

fn answer_of(chat: &Chat) -> [u8; 32] {
    let answer = chat.messages.last().unwrap_or(&Value::Null);
    let text = answer["content"].as_str().unwrap_or_default();
    hash(&json!([canonical_json(text), answer["tool_calls"]]))
}

fn hash(value: &Value) -> [u8; 32] {
    Sha256::digest(canonical_json(&value.to_string())).into()
}

/// Of the corrections of a prompt the latest stands, and overrules successes that say something else; of equal prompts
/// with equal answers one is enough, the latest. `samples` are oldest first, and so is what is left.
pub(super) fn merge(samples: Vec<Sample>, skip: &mut dyn FnMut(Skipped)) -> Vec<Sample> {
    let mut corrected: HashMap<[u8; 32], [u8; 32]> = HashMap::new();
    for sample in samples.iter().filter(|s| s.kind == Kind::Correction) {
        corrected.insert(sample.prompt, answer_of(&sample.chat));
    }
    let mut seen = HashSet::new();
    let mut kept = Vec::with_capacity(samples.len());
    for sample in samples.into_iter().rev() {
        let answer = answer_of(&sample.chat);
        let right = corrected.get(&sample.prompt);
        if right.is_some_and(|right| *right != answer) {
            skip(Skipped::Overruled);
        } else if (right.is_some() && sample.kind == Kind::Success) || !seen.insert((sample.prompt, answer)) {
            skip(Skipped::Duplicate);
        } else {
            kept.push(sample);
        }
    }
    kept.reverse();
    kept
}
