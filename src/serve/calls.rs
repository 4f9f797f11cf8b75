//! Tool calls within an answer's text.
//!
//! In: text as it is generated. Out: text that is for people, and calls of the tools that were offered. Models write a call
//! as an object with `name` and `arguments` (Llama: `parameters`), either between `<tool_call>` and `</tool_call>` (Qwen,
//! SmolLM, Hermes), which may come after text and more than once, or as the whole of the answer, alone or in a list (Llama,
//! Mistral).
//!
//! Always true: what is no such call of an offered tool is text, as it was written, but for white space around calls; a call's
//! arguments are those that were written; it is the same however the text was cut into pieces.

use std::borrow::Cow;
use std::sync::Arc;

use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::value::RawValue;
use serde_json::{Map, Value};

use super::scheduler::Finish;

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
    /// Whether the client named the function that is to be called.
    pub is_named: bool,
}

/// Takes the calls out of one answer.
#[derive(Clone, Debug)]
pub(crate) struct Calls {
    /// None: everything is text.
    callable: Option<Callable>,
    /// Text that may belong to a call.
    held: String,
    /// Bytes at the beginning of `held` in which no closing tag begins.
    searched: usize,
    state: State,
    /// Calls that were found.
    found: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Nothing but white space came yet.
    Start,
    /// The answer begins as a call does: it may be one as a whole.
    Whole,
    Text,
    /// A call ended, and nothing but white space came since.
    Between,
}

/// What the text that is held may be.
enum Guess {
    /// More has to come before that can be told.
    Unknown,
    Text,
    Whole,
    /// A tag after so many bytes of white space.
    Tag(usize),
}

impl Calls {
    pub(crate) fn of(callable: Option<Callable>) -> Self {
        Self { callable, held: String::new(), searched: 0, state: State::Start, found: 0 }
    }

    /// Why an answer ended, as OpenAI's API says it: of a function that the client named, that it stopped.
    pub(crate) fn reason(&self, finish: Finish) -> &'static str {
        let is_named = self.callable.as_ref().is_some_and(|callable| callable.is_named);
        if finish == Finish::Stop && self.found > 0 && !is_named { "tool_calls" } else { finish.name() }
    }

    /// Reads on; what is known for certain comes out.
    pub(crate) fn read(&mut self, text: &str) -> Vec<Part> {
        if self.callable.is_none() {
            return vec![Part::Text(text.to_owned())];
        }
        self.held.push_str(text);
        let mut parts = Vec::new();
        while self.state != State::Whole {
            match self.guess() {
                Guess::Unknown => break,
                Guess::Whole => self.state = State::Whole,
                Guess::Tag(blanks) => {
                    if !self.tagged(blanks, &mut parts) {
                        break;
                    }
                }
                Guess::Text => {
                    let tag = self.held.find(OPEN);
                    let end = tag.unwrap_or_else(|| self.held.len() - begun_of(&self.held, OPEN));
                    self.say(end, &mut parts);
                    if tag.is_none() {
                        break;
                    }
                }
            }
        }
        parts
    }

    /// What is left when the answer is over.
    pub(crate) fn end(&mut self) -> Vec<Part> {
        let held = std::mem::take(&mut self.held);
        let calls = match self.state {
            State::Whole => self.whole(&held),
            State::Between if held.trim().is_empty() => Some(Vec::new()),
            // The token that ends an answer may come in place of the closing tag.
            _ => held.trim_start().strip_prefix(OPEN).and_then(|text| self.call(text)).map(|call| vec![call]),
        };
        let mut parts = Vec::new();
        match calls {
            Some(calls) => calls.into_iter().for_each(|call| self.make(call, &mut parts)),
            None if held.is_empty() => {}
            None => parts.push(Part::Text(held)),
        }
        parts
    }

    fn guess(&self) -> Guess {
        let begun = self.held.trim_start();
        match self.state {
            State::Text if self.held.starts_with(OPEN) => Guess::Tag(0),
            State::Start | State::Between if begun.starts_with(OPEN) => {
                Guess::Tag(self.held.len() - begun.len())
            }
            State::Start | State::Between if OPEN.starts_with(begun) => Guess::Unknown,
            State::Start if begun.starts_with(['{', '[']) => {
                let expected = if begun.starts_with('{') { '"' } else { '{' };
                match begun[1..].trim_start().chars().next() {
                    None => Guess::Unknown,
                    Some(first) if first == expected => Guess::Whole,
                    Some(_) => Guess::Text,
                }
            }
            _ => Guess::Text,
        }
    }

    /// Reads a tag and what comes after; false: more has to come first.
    fn tagged(&mut self, blanks: usize, parts: &mut Vec<Part>) -> bool {
        let start = blanks + OPEN.len();
        match self.held[start..].trim_start().chars().next() {
            None => return false,
            Some('{') => {}
            Some(_) => {
                self.say(start, parts);
                return true;
            }
        }
        loop {
            let from = self.searched.max(start);
            let close = self.held.as_bytes()[from..].windows(CLOSE.len()).position(|w| w == CLOSE.as_bytes());
            let Some(close) = close.map(|at| from + at) else {
                self.searched = from.max((self.held.len() + 1).saturating_sub(CLOSE.len()));
                return false;
            };
            let text = &self.held[start..close];
            match self.call(text) {
                Some(call) => {
                    self.held.drain(..close + CLOSE.len());
                    self.searched = 0;
                    self.state = State::Between;
                    self.make(call, parts);
                    return true;
                }
                // An argument may quote the closing tag.
                None if is_cut(text) => self.searched = close + CLOSE.len(),
                // This tag is none; another one may come after it.
                None => {
                    self.say(start, parts);
                    return true;
                }
            }
        }
    }

    /// Says the beginning of what is held.
    fn say(&mut self, length: usize, parts: &mut Vec<Part>) {
        if length > 0 {
            let rest = self.held.split_off(length);
            parts.push(Part::Text(std::mem::replace(&mut self.held, rest)));
            self.searched = 0;
            self.state = State::Text;
        }
    }

    fn whole(&self, text: &str) -> Option<Vec<Call>> {
        if text.trim_start().starts_with('{') {
            return Some(vec![self.call(text)?]);
        }
        let written: Vec<Written<'_>> = serde_json::from_str(text).ok()?;
        written.into_iter().map(|written| self.offered(written)).collect()
    }

    /// The call that a model wrote, if it is one; not numbered yet.
    fn call(&self, text: &str) -> Option<Call> {
        self.offered(serde_json::from_str(text).ok()?)
    }

    fn offered(&self, Written { name, arguments, parameters }: Written<'_>) -> Option<Call> {
        let arguments = match arguments.or(parameters)?.get() {
            text if text.starts_with('{') => text.to_owned(),
            // Some models write the arguments as OpenAI's API does: as JSON in a string.
            text => {
                let text: String = serde_json::from_str(text).ok()?;
                serde_json::from_str::<Map<String, Value>>(&text).ok()?;
                text
            }
        };
        let is_offered = self.callable.as_ref()?.tools.iter().any(|tool| *tool == name);
        is_offered.then(|| Call { at: 0, name: name.into_owned(), arguments })
    }

    fn make(&mut self, call: Call, parts: &mut Vec<Part>) {
        if self.found == 0 || self.callable.as_ref().is_some_and(|callable| callable.parallel) {
            parts.push(Part::Call(Call { at: self.found, ..call }));
            self.found += 1;
        }
    }
}

/// A call as models write it.
#[derive(Deserialize)]
struct Written<'a> {
    #[serde(borrow)]
    name: Cow<'a, str>,
    #[serde(borrow)]
    arguments: Option<&'a RawValue>,
    #[serde(borrow)]
    parameters: Option<&'a RawValue>,
}

/// Whether a text is the beginning of JSON.
fn is_cut(text: &str) -> bool {
    serde_json::from_str::<IgnoredAny>(text).is_err_and(|error| error.is_eof())
}

/// Bytes at the end of `text` that `what` may begin with.
fn begun_of(text: &str, what: &str) -> usize {
    (1..what.len()).rev().find(|&length| text.ends_with(&what[..length])).unwrap_or(0)
}

#[cfg(test)]
mod tests;
