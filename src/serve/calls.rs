//! Tool calls within an answer's text.
//!
//! In: text as it is generated. Out: text that is for people, and calls of the tools that were offered. Models write a call
//! as an object with `name` and `arguments` (Llama: `parameters`), either between `<tool_call>` and `</tool_call>` (Qwen,
//! SmolLM, Hermes), which may come after text and more than once, or as the whole of the answer, alone or in a list (Llama,
//! Mistral).
//!
//! Always true: what is no such call of an offered tool is text, as it was written; however the text was cut into pieces.

use std::sync::Arc;

use serde_json::Value;

const OPEN: &str = "<tool_call>";
const CLOSE: &str = "</tool_call>";

/// A call that a model wants made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Call {
    /// Its number among those of its answer, from 0.
    pub at: usize,
    pub name: String,
    /// A JSON object.
    pub arguments: String,
}

/// What an answer is made of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Part {
    Text(String),
    Call(Call),
}

/// The calls that may be made.
#[derive(Clone, Debug)]
pub(crate) struct Callable {
    pub tools: Arc<[String]>,
    /// Whether an answer may make more than one call; further ones are left out.
    pub parallel: bool,
}

/// Takes the calls out of one answer.
#[derive(Clone, Debug)]
pub(crate) struct Calls {
    /// None: everything is text.
    callable: Option<Callable>,
    /// Text that may belong to a call.
    held: String,
    state: State,
    /// Calls that were found.
    found: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Nothing but white space came yet.
    Start,
    /// The answer begins as JSON does: it may be a call as a whole.
    Whole,
    Text,
    /// A call ended, and nothing but white space came since.
    Between,
}

impl Calls {
    pub(crate) fn of(callable: Option<Callable>) -> Self {
        Self { callable, held: String::new(), state: State::Start, found: 0 }
    }

    /// Calls that were found so far.
    pub(crate) fn found(&self) -> usize {
        self.found
    }

    /// Reads on; what is known for certain comes out.
    pub(crate) fn read(&mut self, text: &str) -> Vec<Part> {
        if self.callable.is_none() {
            return vec![Part::Text(text.to_owned())];
        }
        self.held.push_str(text);
        let mut parts = Vec::new();
        loop {
            let begun = self.held.trim_start();
            match self.state {
                State::Whole => return parts,
                State::Start if begun.starts_with(['{', '[']) => {
                    self.state = State::Whole;
                    return parts;
                }
                // White space around calls is theirs, but in front of text it is text.
                State::Start | State::Between if begun.starts_with(OPEN) => self.held = begun.to_owned(),
                State::Start | State::Between if OPEN.starts_with(begun) => return parts,
                State::Start | State::Between | State::Text => {}
            }
            let Some(open) = self.held.find(OPEN) else {
                let rest = self.held.split_off(self.held.len() - begun_of(&self.held, OPEN));
                let text = std::mem::replace(&mut self.held, rest);
                if !text.is_empty() {
                    self.state = State::Text;
                    parts.push(Part::Text(text));
                }
                return parts;
            };
            if open > 0 {
                let rest = self.held.split_off(open);
                parts.push(Part::Text(std::mem::replace(&mut self.held, rest)));
                self.state = State::Text;
            }
            let Some(close) = self.held.find(CLOSE) else { return parts };
            let rest = self.held.split_off(close + CLOSE.len());
            let tagged = std::mem::replace(&mut self.held, rest);
            self.tagged(tagged, &mut parts);
        }
    }

    /// What is left when the answer is over.
    pub(crate) fn end(&mut self) -> Vec<Part> {
        let held = std::mem::take(&mut self.held);
        let mut parts = Vec::new();
        match self.state {
            State::Whole => self.whole(held, &mut parts),
            // The token that ends an answer may come in place of the closing tag.
            _ if held.starts_with(OPEN) => self.tagged(held, &mut parts),
            State::Between if held.trim().is_empty() => {}
            _ if held.is_empty() => {}
            _ => parts.push(Part::Text(held)),
        }
        parts
    }

    /// `text` begins with the opening tag.
    fn tagged(&mut self, text: String, parts: &mut Vec<Part>) {
        let within = text[OPEN.len()..].trim_end_matches(CLOSE);
        match serde_json::from_str(within).ok().and_then(|value| self.call(&value)) {
            Some(call) => {
                self.state = State::Between;
                self.make(call, parts);
            }
            None => {
                self.state = State::Text;
                parts.push(Part::Text(text));
            }
        }
    }

    fn whole(&mut self, text: String, parts: &mut Vec<Part>) {
        let calls = serde_json::from_str(&text).ok().and_then(|value: Value| match &value {
            Value::Array(values) if !values.is_empty() => {
                values.iter().map(|value| self.call(value)).collect()
            }
            value => Some(vec![self.call(value)?]),
        });
        match calls {
            Some(calls) => calls.into_iter().for_each(|call| self.make(call, parts)),
            None => parts.push(Part::Text(text)),
        }
    }

    fn make(&mut self, call: Call, parts: &mut Vec<Part>) {
        if self.found == 0 || self.callable.as_ref().is_some_and(|callable| callable.parallel) {
            parts.push(Part::Call(Call { at: self.found, ..call }));
            self.found += 1;
        }
    }

    /// The call that a model wrote, if it is one; not numbered yet.
    fn call(&self, value: &Value) -> Option<Call> {
        let name = value.get("name")?.as_str()?;
        let arguments = value.get("arguments").or_else(|| value.get("parameters"))?;
        let arguments = match arguments {
            Value::Object(_) => arguments.to_string(),
            // Some models write the arguments as OpenAI's API does: as JSON in a string.
            Value::String(text) if matches!(serde_json::from_str(text), Ok(Value::Object(_))) => text.clone(),
            _ => return None,
        };
        let offered = self.callable.as_ref()?.tools.iter().any(|tool| tool == name);
        offered.then(|| Call { at: 0, name: name.to_owned(), arguments })
    }
}

/// Bytes at the end of `text` that `what` may begin with.
fn begun_of(text: &str, what: &str) -> usize {
    (1..what.len()).rev().find(|&length| text.ends_with(&what[..length])).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn calls(parallel: bool) -> Calls {
        let tools = ["look", "book"].map(str::to_owned).into();
        Calls::of(Some(Callable { tools, parallel }))
    }

    /// What an answer is made of, adjacent text as one.
    fn read<'a>(mut calls: Calls, pieces: impl IntoIterator<Item = &'a str>) -> (Vec<Part>, usize) {
        let mut parts: Vec<Part> = Vec::new();
        let mut found: Vec<Part> = pieces.into_iter().flat_map(|piece| calls.read(piece)).collect();
        found.extend(calls.end());
        for part in found {
            match (parts.last_mut(), part) {
                (Some(Part::Text(before)), Part::Text(text)) => before.push_str(&text),
                (_, part) => parts.push(part),
            }
        }
        (parts, calls.found())
    }

    fn text(text: &str) -> Part {
        Part::Text(text.to_owned())
    }

    fn call(at: usize, name: &str, arguments: &str) -> Part {
        Part::Call(Call { at, name: name.to_owned(), arguments: arguments.to_owned() })
    }

    const TWO: &str = "Let me see.\n<tool_call>\n{\"name\": \"look\", \"arguments\": {\"at\": \"é\"}}\n</tool_call>\n\
                       <tool_call>{\"name\": \"book\", \"arguments\": {}}</tool_call>\n";

    #[test]
    fn calls_in_tags_come_after_text_and_more_than_once() {
        let expected = [text("Let me see.\n"), call(0, "look", r#"{"at":"é"}"#), call(1, "book", "{}")];
        assert_eq!(read(calls(true), [TWO]), (expected.to_vec(), 2));
        assert_eq!(read(calls(false), [TWO]), (expected[..2].to_vec(), 1));
        let unclosed = "<tool_call>{\"name\": \"book\", \"arguments\": \"{\\\"a\\\": 1}\"}";
        assert_eq!(read(calls(true), [unclosed]).0, [call(0, "book", r#"{"a": 1}"#)]);
        let said = "<tool_call>{\"name\": \"book\", \"arguments\": {}}</tool_call>\n\nDone.";
        assert_eq!(read(calls(true), [said]).0, [call(0, "book", "{}"), text("\n\nDone.")]);
    }

    #[test]
    fn an_answer_may_be_a_call_as_a_whole() {
        let one = " {\"name\": \"look\", \"parameters\": {\"at\": 1}} ";
        assert_eq!(read(calls(true), [one]).0, [call(0, "look", r#"{"at":1}"#)]);
        let list = "[{\"name\": \"look\", \"arguments\": {}}, {\"name\": \"book\", \"arguments\": {}}]";
        assert_eq!(read(calls(true), [list]).0, [call(0, "look", "{}"), call(1, "book", "{}")]);
    }

    #[test]
    fn everything_else_is_text_as_it_was_written() {
        for said in [
            "",
            " \n",
            "a < b <tool",
            "{\"name\": \"delete\", \"arguments\": {}}",
            "{\"name\": \"look\"}",
            "[]",
            "[{\"name\": \"look\", \"arguments\": {}}, 1]",
            "{\"total\": 3}",
            "<tool_call>look()</tool_call> and on",
            "<tool_call>{\"name\": \"look\", \"arguments\": [1]}</tool_call>",
            "<tool_call>{\"name\": \"look\", \"argu",
        ] {
            let expected = if said.is_empty() { Vec::new() } else { vec![text(said)] };
            assert_eq!(read(calls(true), [said]), (expected, 0), "{said}");
        }
        assert_eq!(Calls::of(None).read(TWO), [text(TWO)]);
    }

    proptest! {
        #[test]
        fn cuts_change_nothing(
            words in proptest::collection::vec(prop_oneof![
                Just("<tool_call>"), Just("</tool_call>"), Just("{\"name\": \"look\", \"arguments\": {}}"), Just("\n"), Just("é"),
                Just("<"), Just("["), Just("]"), Just("a b"),
            ], 0..8),
            every in 1_usize..7,
        ) {
            let whole = words.concat();
            let letters: Vec<char> = whole.chars().collect();
            let pieces: Vec<String> = letters.chunks(every).map(|piece| piece.iter().collect()).collect();
            let cut = read(calls(true), pieces.iter().map(String::as_str));
            prop_assert_eq!(cut, read(calls(true), [whole.as_str()]));
        }

        #[test]
        fn without_a_call_nothing_is_lost(said in "[<>/a-z_\\[{ \n]{0,40}") {
            let expected = if said.is_empty() { Vec::new() } else { vec![text(&said)] };
            prop_assert_eq!(read(calls(true), [said.as_str()]).0, expected);
        }
    }
}
