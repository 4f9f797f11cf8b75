//! What detectors share: tool results with their calls, who really speaks, short quotes.

use std::collections::HashMap;
use std::sync::LazyLock;

use regex::Regex;

use crate::model::{Message, Role, ToolCall, Transcript};

/// What came back from a tool, and the call that asked for it.
pub(super) struct ToolResult<'a> {
    /// Empty where the conversation does not name it.
    pub tool: &'a str,
    /// None where the result belongs to no call that is in the conversation.
    pub call: Option<&'a ToolCall>,
    /// Index into the transcript's messages.
    pub message: usize,
    pub step: Option<usize>,
    pub text: &'a str,
    pub failed: bool,
}

/// Tool results in order: messages of role `tool`, and observations written as user messages, as agents do that keep
/// their actions in text (ReAct, <https://arxiv.org/abs/2210.03629>).
pub(super) fn tool_results(t: &Transcript) -> Vec<ToolResult<'_>> {
    let mut calls: HashMap<&str, (usize, &ToolCall)> = HashMap::new();
    let mut results = Vec::new();
    for (index, m) in t.messages.iter().enumerate() {
        // Ids may be used again by a later turn, so the latest call of an id is the one that is answered.
        calls.extend(m.tool_calls.iter().filter(|c| !c.id.is_empty()).map(|c| (c.id.as_str(), (index, c))));
        let text = match m.role {
            Role::Tool => m.text.as_str(),
            Role::User => match observation(m) {
                Some(text) => text,
                None => continue,
            },
            Role::System | Role::Assistant => continue,
        };
        let asked = m.tool_call_id.as_deref().and_then(|id| calls.get(id)).copied();
        let call = asked.map(|(_, call)| call);
        results.push(ToolResult {
            tool: call.map_or(m.name.as_deref().unwrap_or_default(), |c| c.name.as_str()),
            call,
            message: index,
            step: step_at(t, asked.map_or(index, |(asked, _)| asked)),
            text,
            failed: m.tool_failed || super::tool_error::looks_failed(text),
        });
    }
    results
}

/// The text of a user message that is an environment's, not a person's.
pub(super) fn observation(m: &Message) -> Option<&str> {
    static MARK: LazyLock<Regex> = LazyLock::new(|| {
        Regex::new(r"(?i)^\s*(?:\[?(?:observation|tool (?:result|output|response)|function result|execution (?:result|output)|code output)\]?\s*:|exit ?code\s*:)")
            .expect("the pattern is valid")
    });
    let mark = MARK.find(&m.text)?;
    // An exit code is itself the result; the other marks only announce one.
    Some(if mark.as_str().trim_start().to_ascii_lowercase().starts_with("exit") {
        &m.text
    } else {
        &m.text[mark.end()..]
    })
}

/// Whether a person speaks, as far as one can tell.
pub(super) fn is_person(m: &Message) -> bool {
    m.role == Role::User && observation(m).is_none() && !m.text.trim().is_empty()
}

/// The last model turn at or before a message.
pub(super) fn step_at(t: &Transcript, index: usize) -> Option<usize> {
    t.steps.iter().rposition(|s| s.message.is_some_and(|m| m <= index))
}

/// The last answer of the conversation, with its index.
pub(super) fn last_answer(t: &Transcript) -> Option<(usize, &Message)> {
    t.messages.iter().enumerate().rev().find(|(_, m)| m.role == Role::Assistant)
}

/// At most this many characters of a text are quoted as evidence.
const QUOTE: usize = 120;

/// A text on one line, shortened.
pub(super) fn quote(text: &str) -> String {
    let mut line = String::new();
    let mut length = 0;
    for word in text.split_whitespace() {
        for c in (!line.is_empty()).then_some(' ').into_iter().chain(word.chars()) {
            if length == QUOTE - 1 {
                line.push('…');
                return line;
            }
            line.push(c);
            length += 1;
        }
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::outcome::detect::script::{Script, user};

    #[test]
    fn quotes_are_short_and_on_one_line() {
        assert_eq!(quote("a\n  b"), "a b");
        assert_eq!(quote(&"ä ".repeat(500)).chars().count(), QUOTE);
        assert_eq!(quote(&"x".repeat(5_000)).chars().count(), QUOTE);
    }

    #[test]
    fn observations_are_not_persons() {
        assert!(!is_person(&user("Observation:\n3 rows")));
        assert!(!is_person(&user("exitcode: 1 (execution failed)")));
        assert!(is_person(&user("My observation: it rains")));
    }

    #[test]
    fn a_reused_call_id_belongs_to_the_latest_call() {
        let t = Script::new().call("a", "{}").result("1").call("b", "{}").result("2").same_ids().done();
        let tools: Vec<_> = tool_results(&t).iter().map(|r| (r.tool.to_owned(), r.step)).collect();
        assert_eq!(tools, [("a".to_owned(), Some(0)), ("b".to_owned(), Some(1))]);
    }
}
