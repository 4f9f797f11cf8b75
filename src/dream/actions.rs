//! What an agent did, call by call, read from a transcript.

use std::collections::BTreeSet;
use std::sync::LazyLock;

use regex::Regex;
use serde_json::Value;
use sha2::{Digest, Sha256};

use super::mask::mask;
use crate::model::{Message, Role, Transcript};

/// One tool call with how it went; or one tagged block (`<execute>…</execute>`) of agents that act in text.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Action {
    pub name: String,
    /// Names of its arguments, sorted.
    pub arguments: Vec<String>,
    /// First words of a command or query argument (`SHOW TABLES`), where it has one.
    pub head: Option<String>,
    /// The masked error text, where it failed.
    pub error: Option<String>,
    /// Index into the transcript's steps.
    pub step: usize,
    /// Name and arguments as they were, hashed: equal calls are equal here.
    pub fingerprint: u64,
}

impl Action {
    /// Whether it may change something. Judged by the name's first word: reading is the named exception.
    #[must_use]
    pub(super) fn changes_something(&self) -> bool {
        const READS: [&str; 14] = [
            "get",
            "list",
            "find",
            "search",
            "read",
            "lookup",
            "look",
            "calculate",
            "think",
            "thought",
            "fetch",
            "show",
            "check",
            "describe",
        ];
        let words = self.name.rsplit('.').next().unwrap_or(&self.name).to_ascii_lowercase();
        !READS.contains(&words.split(['_', '-']).next().unwrap_or_default())
            && !READS.iter().any(|r| camel(&self.name, r))
            && !self.head.as_deref().is_some_and(reads_only)
    }
}

fn camel(name: &str, verb: &str) -> bool {
    name.strip_prefix(verb).is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_uppercase()))
}

fn reads_only(head: &str) -> bool {
    ["SELECT", "SHOW", "DESCRIBE", "DESC", "EXPLAIN", "ls", "cat", "grep", "find", "head"]
        .contains(&head.split(' ').next().unwrap_or_default())
}

/// What an agent did, in order.
#[must_use]
pub(super) fn actions(t: &Transcript) -> Vec<Action> {
    let mut actions = Vec::new();
    let mut step = 0;
    for (i, message) in t.messages.iter().enumerate() {
        if message.role != Role::Assistant {
            continue;
        }
        step = t.step_of(i).unwrap_or(step);
        for call in &message.tool_calls {
            let result = t.result_of(i, &call.id).map(|(_, m)| m);
            let arguments: Value = serde_json::from_str(&call.arguments).unwrap_or_default();
            let names: BTreeSet<String> =
                arguments.as_object().into_iter().flatten().map(|(k, _)| safe_name(k)).collect();
            actions.push(Action {
                name: safe_name(&call.name),
                arguments: names.into_iter().take(12).collect(),
                head: head(&arguments),
                error: result.and_then(error_in),
                step,
                fingerprint: fingerprint(&call.name, &call.arguments),
            });
        }
        if message.tool_calls.is_empty() {
            let reply = t.messages.get(i + 1).filter(|m| m.role == Role::User);
            for (tag, body) in blocks(&message.text) {
                actions.push(Action {
                    name: safe_name(tag),
                    error: reply.and_then(|m| error_in_reply(&m.text)),
                    step,
                    fingerprint: fingerprint(tag, body),
                    ..Action::default()
                });
            }
        }
    }
    actions
}

fn fingerprint(name: &str, arguments: &str) -> u64 {
    let digest = Sha256::new().chain_update(name).chain_update([0]).chain_update(arguments).finalize();
    u64::from_le_bytes(digest[..8].try_into().expect("a digest is longer than 8 bytes"))
}

/// A tool's or argument's name as it may stand in a lesson; names that models or attackers make up are kept out.
fn safe_name(name: &str) -> String {
    let plain = (1..=64).contains(&name.len())
        && name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
        && name.chars().all(|c| c.is_ascii_alphanumeric() || "_-.".contains(c));
    if plain { name.to_owned() } else { "unnamed".to_owned() }
}

/// `<execute>…</execute>` and the like; thoughts are no actions.
fn blocks(text: &str) -> impl Iterator<Item = (&str, &str)> {
    static OPEN: LazyLock<Regex> =
        LazyLock::new(|| Regex::new(r"<([a-z][a-z_]{1,30})>").expect("a constant pattern compiles"));
    const THOUGHTS: [&str; 6] = ["thought", "thoughts", "think", "thinking", "reasoning", "scratchpad"];
    OPEN.captures_iter(text).filter_map(move |c| {
        let (whole, tag) = (c.get(0)?, c.get(1)?.as_str());
        let rest = &text[whole.end()..];
        let end = rest.find(&format!("</{tag}>"))?;
        (!THOUGHTS.contains(&tag)).then_some((tag, &rest[..end]))
    })
}

/// The first words of a query or command, where they are keywords.
fn head(arguments: &Value) -> Option<String> {
    const KEYS: [&str; 6] = ["query", "sql", "command", "cmd", "statement", "code"];
    let text = KEYS.iter().find_map(|k| arguments.get(k)?.as_str())?;
    let word = |w: &&str| (2..=12).contains(&w.len()) && w.chars().all(|c| c.is_ascii_alphabetic());
    let mut words = text.split_whitespace();
    let first = words.next().filter(word)?;
    if first.chars().all(|c| c.is_ascii_uppercase()) {
        // `SHOW TABLES`, but only `SELECT`: what is selected differs each time.
        let second = words.next().map(|w| w.trim_end_matches(';')).filter(|w| word(w));
        let second = second
            .filter(|w| matches!(first, "SHOW" | "CREATE" | "DROP" | "INSERT") && *w == w.to_uppercase());
        return Some(second.map_or_else(|| first.to_owned(), |s| format!("{first} {s}")));
    }
    first.chars().all(|c| c.is_ascii_lowercase()).then(|| first.to_owned())
}

static FAILED: LazyLock<Regex> = LazyLock::new(|| {
    Regex::new(
        r"(?i)^\W{0,3}(?:\w+\.)*\w*(?:error|exception)\b|^\W{0,3}(?:traceback|failed|failure|fatal|unable to|could not|cannot|invalid|permission denied|access denied|not found|unauthorized|forbidden|timed? ?out|no such)\b",
    )
    .expect("a constant pattern compiles")
});

/// The masked error of a tool result; none where it went well.
#[must_use]
pub(super) fn error_in(result: &Message) -> Option<String> {
    let text = result.text.trim();
    if let Ok(Value::Object(fields)) = serde_json::from_str::<Value>(text) {
        let said = fields.get("error").or_else(|| fields.get("errors")).filter(|e| match e {
            Value::Null | Value::Bool(false) => false,
            Value::String(s) => !s.is_empty(),
            Value::Array(a) => !a.is_empty(),
            _ => true,
        });
        let said = said.map(|e| match e {
            Value::String(s) => s.clone(),
            Value::Object(o) => {
                o.get("message").and_then(Value::as_str).map_or_else(|| e.to_string(), str::to_owned)
            }
            Value::Bool(true) => fields.get("message").and_then(Value::as_str).unwrap_or("error").to_owned(),
            other => other.to_string(),
        });
        let bad = |k: &str, v: &[Value]| fields.get(k).is_some_and(|x| v.contains(x));
        let flagged = bad("success", &[false.into()])
            || bad("ok", &[false.into()])
            || bad("is_error", &[true.into()])
            || bad("status", &["error".into(), "failed".into(), "failure".into()]);
        let message = || {
            ["message", "detail", "reason"].iter().find_map(|k| fields.get(*k)?.as_str()).map(str::to_owned)
        };
        let said = said.or_else(|| flagged.then(|| message().unwrap_or_else(|| "error".into())));
        if said.is_some() || !result.tool_failed {
            return said.map(|s| clean(&s));
        }
    }
    if result.tool_failed || FAILED.is_match(text) || text.contains("Traceback (most recent call last)") {
        return Some(clean(text));
    }
    None
}

/// The masked error in a user message that answers a tagged block: stricter, because people write it too.
fn error_in_reply(text: &str) -> Option<String> {
    static LINE: LazyLock<Regex> = LazyLock::new(|| {
        Regex::new(r"(?m)^(?:\w+\.)*\w*(?:Error|Exception)\b.*$").expect("a constant pattern compiles")
    });
    let text = text.trim().trim_start_matches("Observation:").trim_start();
    let found = text.contains("Traceback (most recent call last)").then_some(text);
    found.or_else(|| LINE.find(text).map(|m| m.as_str())).map(clean)
}

/// The part of an error text that says what is wrong, masked.
fn clean(text: &str) -> String {
    static PREFIX: LazyLock<Regex> = LazyLock::new(|| {
        Regex::new(r"(?i)^\W{0,3}(?:error|exception|failed|failure)(?: [a-z ]{1,30})?:\s+")
            .expect("a constant pattern compiles")
    });
    let mut lines = text.lines().map(str::trim).filter(|l| !l.is_empty());
    let line = if text.contains("Traceback (most recent call last)") {
        lines.rfind(|l| FAILED.is_match(l)).or_else(|| text.lines().rfind(|l| !l.trim().is_empty()))
    } else {
        lines.next()
    };
    let line = line.unwrap_or("error");
    let masked = mask(&PREFIX.replace(line, "").replace(['`', '\u{0}'], ""));
    masked.trim_end_matches([':', ' ']).to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn result(text: &str) -> Message {
        Message { role: Role::Tool, text: text.into(), ..Message::default() }
    }

    #[test]
    fn errors_are_told_from_results() {
        for (text, error) in [
            (
                "Error: Non-delivered order cannot be exchanged",
                Some("Non-delivered order cannot be exchanged"),
            ),
            ("Error executing query: Table 'a.b' doesn't exist", Some("Table <name> doesn't exist")),
            (r#"{"error": {"message": "no seat on HAT290"}}"#, Some("no seat on <id>")),
            (r#"{"status": "error", "message": "late"}"#, Some("late")),
            ("Traceback (most recent call last):\n  File \"x\"\nKeyError: 'a'", Some("KeyError: <name>")),
            (r#"{"error": null, "rows": []}"#, None),
            ("[]", None),
            ("The error rate fell to 2 %", None),
        ] {
            assert_eq!(error_in(&result(text)).as_deref(), error, "{text}");
        }
    }

    #[test]
    fn reading_is_told_from_changing() {
        let named = |name: &str| Action { name: name.into(), ..Action::default() };
        for read in ["get_order", "search_flights", "getUser", "think", "functions.list_items"] {
            assert!(!named(read).changes_something(), "{read}");
        }
        for write in ["cancel_order", "book_flight", "update_listing", "getaway_book"] {
            assert!(named(write).changes_something(), "{write}");
        }
    }
}
