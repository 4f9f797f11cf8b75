use std::collections::BTreeMap;

use serde_json::Value;

use super::{arguments, function};
use crate::model::ToolCall;
use crate::wire::fields;

/// How far back a delta without an index looks for the call with its id.
const LOOK_BACK: usize = 64;

/// Adds up the tool calls of one choice.
///
/// By the protocol a delta names its call by `index`; id and name come with the first one, and the arguments are
/// concatenated. Servers differ: whole calls in one chunk, no index, the same index for every call, the id repeated,
/// empty or a fresh one each time, the name in pieces or repeated.
#[derive(Default)]
pub(super) struct CallDeltas {
    calls: Vec<(u64, ToolCall)>,
    /// Where in `calls` the latest call of an index is.
    by_index: BTreeMap<u64, usize>,
}

impl CallDeltas {
    pub fn add(&mut self, delta: &Value) {
        let inner = function(delta);
        let id = fields::str(delta, "id").unwrap_or_default();
        let name = fields::str(inner, "name").unwrap_or_default();
        let arguments = arguments(inner);
        let index = fields::count(delta, "index");

        let known = match index {
            Some(index) => self.by_index.get(&index).copied(),
            None => self.without_index(id),
        };
        let at = match known {
            Some(at) if !begins_another(&self.calls[at].1, id, name, index.is_none()) => at,
            _ => self.begin(index),
        };
        let call = &mut self.calls[at].1;
        if call.id.is_empty() {
            id.clone_into(&mut call.id);
        }
        // pieces of a name come before any arguments; what comes later, or comes twice, repeats it
        if call.arguments.is_empty() && call.name != name {
            call.name.push_str(name);
        }
        call.arguments.push_str(&arguments);
    }

    /// The call with this id, or the latest one where the delta has no id.
    fn without_index(&self, id: &str) -> Option<usize> {
        let last = self.calls.len().checked_sub(1)?;
        if id.is_empty() {
            return Some(last);
        }
        let recent = self.calls.iter().enumerate().rev().take(LOOK_BACK);
        recent.into_iter().find(|(_, (_, call))| call.id == id).map(|(at, _)| at)
    }

    fn begin(&mut self, index: Option<u64>) -> usize {
        let at = self.calls.len();
        let index = index.unwrap_or(at as u64);
        self.calls.push((index, ToolCall::default()));
        self.by_index.insert(index, at);
        at
    }

    /// The calls in order of their indexes.
    pub fn finish(mut self) -> Vec<ToolCall> {
        self.calls.sort_by_key(|(index, _)| *index);
        self.calls.into_iter().map(|(_, call)| call).collect()
    }
}

/// Whether a delta that seems to belong to a call begins a new one after all: it is named although the call already
/// has its arguments, and its id is another one, or none where nothing else tells them apart.
fn begins_another(call: &ToolCall, id: &str, name: &str, nothing_else: bool) -> bool {
    let other_id = if id.is_empty() || call.id.is_empty() { nothing_else } else { id != call.id };
    !name.is_empty() && !call.arguments.is_empty() && other_id
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::CallDeltas;

    fn added_up(deltas: &[Value]) -> Vec<(String, String, String)> {
        let mut calls = CallDeltas::default();
        deltas.iter().for_each(|d| calls.add(d));
        calls.finish().into_iter().map(|c| (c.id, c.name, c.arguments)).collect()
    }

    fn call(id: &str, name: &str, arguments: &str) -> (String, String, String) {
        (id.into(), name.into(), arguments.into())
    }

    #[test]
    fn interleaved_indexes_are_kept_apart() {
        let deltas = [
            json!({"index": 1, "id": "b", "type": "function", "function": {"name": "g", "arguments": ""}}),
            json!({"index": 0, "id": "a", "type": "function", "function": {"name": "f", "arguments": ""}}),
            json!({"index": 1, "function": {"arguments": "{\"y\""}}),
            json!({"index": 0, "function": {"arguments": "{}"}}),
            json!({"index": 1, "function": {"arguments": ":2}"}}),
        ];
        assert_eq!(added_up(&deltas), [call("a", "f", "{}"), call("b", "g", "{\"y\":2}")]);
    }

    #[test]
    fn whole_calls_need_no_index() {
        let deltas = [
            json!({"id": "a", "function": {"name": "f", "arguments": "{}"}}),
            json!({"id": "b", "function": {"name": "f", "arguments": {"x": 1}}}),
        ];
        assert_eq!(added_up(&deltas), [call("a", "f", "{}"), call("b", "f", "{\"x\":1}")]);
        let nameless = [
            json!({"function": {"name": "f", "arguments": "{}"}}),
            json!({"function": {"name": "g", "arguments": "{}"}}),
        ];
        assert_eq!(added_up(&nameless), [call("", "f", "{}"), call("", "g", "{}")]);
    }

    #[test]
    fn without_index_the_id_or_the_order_tells() {
        let deltas = [
            json!({"id": "a", "function": {"name": "f", "arguments": "{\"x\""}}),
            json!({"function": {"arguments": ":1"}}),
            json!({"id": "a", "function": {"name": null, "arguments": "}"}}),
        ];
        assert_eq!(added_up(&deltas), [call("a", "f", "{\"x\":1}")]);
    }

    #[test]
    fn one_index_for_every_call_still_gives_every_call() {
        let deltas = [
            json!({"index": 0, "id": "a", "function": {"name": "f", "arguments": "{}"}}),
            json!({"index": 0, "id": "b", "function": {"name": "f", "arguments": "{}"}}),
        ];
        assert_eq!(added_up(&deltas), [call("a", "f", "{}"), call("b", "f", "{}")]);
    }

    #[test]
    fn ids_that_are_repeated_empty_or_fresh_do_not_split_a_call() {
        for later in ["a", "", "fresh"] {
            let deltas = [
                json!({"index": 0, "id": "a", "function": {"name": "f", "arguments": "{"}}),
                json!({"index": 0, "id": later, "function": {"name": "", "arguments": "}"}}),
            ];
            assert_eq!(added_up(&deltas), [call("a", "f", "{}")], "{later:?}");
        }
    }

    #[test]
    fn a_name_may_come_in_pieces_or_again() {
        let pieces = [
            json!({"index": 0, "id": "a", "function": {"name": "get_", "arguments": ""}}),
            json!({"index": 0, "function": {"name": "weather"}}),
            json!({"index": 0, "function": {"arguments": "{}"}}),
        ];
        assert_eq!(added_up(&pieces), [call("a", "get_weather", "{}")]);
        let again = [
            json!({"index": 0, "id": "a", "function": {"name": "f", "arguments": "{"}}),
            json!({"index": 0, "id": "a", "function": {"name": "f", "arguments": "}"}}),
        ];
        assert_eq!(added_up(&again), [call("a", "f", "{}")]);
    }

    #[test]
    fn a_custom_tools_input_is_its_argument() {
        let deltas = [
            json!({"index": 0, "id": "a", "type": "custom", "custom": {"name": "f", "input": "free "}}),
            json!({"index": 0, "custom": {"input": "text"}}),
        ];
        assert_eq!(added_up(&deltas), [call("a", "f", "free text")]);
    }
}
