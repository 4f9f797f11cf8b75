//! Votes failure when a tool failed and was never made to work again.

use std::sync::LazyLock;

use regex::{Regex, RegexSet};
use serde_json::Value;

use super::observe::{ToolResult, is_person, quote};
use crate::model::{Transcript, Vote, VoteSource};

/// Nothing worked after it.
const AT_THE_END: f64 = 0.75;
/// Other tools worked after it, or the user heard of it and went on: there may have been another way.
const WORKED_AROUND: f64 = 0.6;
/// Both.
const SETTLED: f64 = 0.55;

/// Points at the call that failed first and was not recovered by a later success of the same tool.
pub(super) fn vote(t: &Transcript, results: &[ToolResult<'_>]) -> Option<Vote> {
    let (at, failed) = results.iter().enumerate().find(|(i, r)| {
        r.failed && !results[i + 1..].iter().any(|later| later.tool == r.tool && !later.failed)
    })?;
    let worked_after = results[at + 1..].iter().any(|later| !later.failed);
    let talked_after = t.messages[failed.message + 1..].iter().any(is_person);
    let tool = if failed.tool.is_empty() { "A tool" } else { failed.tool };
    Some(Vote {
        source: VoteSource::ToolError,
        value: 0.0,
        confidence: match (worked_after, talked_after) {
            (false, false) => AT_THE_END,
            (true, true) => SETTLED,
            _ => WORKED_AROUND,
        },
        step: failed.step,
        evidence: format!("{tool} failed and did not succeed afterwards: {}", quote(sign(failed.text))),
    })
}

/// The line that tells most: of a stack trace the last one.
fn sign(text: &str) -> &str {
    let text = text.trim();
    if TRACE.is_match(text) {
        text.lines().rev().find(|l| ERROR_LINE.is_match(l)).unwrap_or(text)
    } else {
        text
    }
}

static TRACE: LazyLock<Regex> =
    LazyLock::new(|| Regex::new(r"Traceback \(most recent call last\)").expect("the pattern is valid"));

/// `ValueError: …`, `java.io.IOException: …`, `Error executing …`.
static ERROR_LINE: LazyLock<Regex> = LazyLock::new(|| {
    Regex::new(r"^\s*(?:[\w.$]*\w(?:Error|Exception)\b\s*(?:[:(]|$)|(?i:uncaught |fatal )?(?i:error|exception)\b(?:\s*[:!(\[]|\s+(?i:in|at|while|during|occurred|executing|running|calling|parsing|reading|writing|fetching|loading|opening|connecting|processing|evaluating)\b|\s+\d{2,}|\s*$))")
        .expect("the pattern is valid")
});

/// Said at the beginning of a result.
static OPENINGS: LazyLock<RegexSet> = LazyLock::new(|| {
    RegexSet::new([
        r"(?i)^(?:\w+ ){0,3}failed\b(?:\s*[:.!]|\s+(?:to|with|because|due)\b|$)",
        r"(?i)^failure\b\s*[:.!]",
        r"(?i)^(?:could not|couldn't|cannot|can't|unable to)\s+\w+",
        r"(?i)^(?:unknown|invalid|unrecognized|unsupported|no such) (?:tool|function|action|command|argument|parameter|input|request|operation|file)\b",
        r"(?i)^(?:permission|access) denied\b",
        r"(?i)^(?:bash|sh|zsh|/bin/\w+): ",
        r"(?i)^(?:http(?:/\d(?:\.\d)?)?(?: status| error)?(?: code)?:? )[45]\d\d\b",
        r"(?i)^(?:the )?(?:request|operation|command|connection|execution) (?:timed out|was refused|was aborted|has failed)",
        r"(?i)^exit ?code\s*:\s*[1-9-]",
        r"(?i)^(?:process|command) exited with (?:code|status) [1-9-]",
    ])
    .expect("the patterns are valid")
});

/// Whether a tool's result is an error. Looks where errors are put, not for words anywhere: a result may be a
/// document about errors.
pub(super) fn looks_failed(text: &str) -> bool {
    let text = text.trim();
    if text.is_empty() {
        return false;
    }
    if text.starts_with(['{', '['])
        && let Ok(json) = serde_json::from_str::<Value>(text)
    {
        return json_failed(&json);
    }
    let mut lines = text.lines().filter(|l| !l.trim().is_empty());
    let first = lines.next().unwrap_or_default().trim();
    let last = lines.next_back().unwrap_or_default().trim();
    ERROR_LINE.is_match(first)
        || ERROR_LINE.is_match(last)
        || OPENINGS.is_match(first)
        || TRACE.is_match(text)
}

fn json_failed(json: &Value) -> bool {
    match json {
        Value::Object(fields) => fields.iter().any(|(name, value)| field_failed(name, value)),
        // Content blocks: `[{"type": "text", "text": …}]`.
        Value::Array(blocks) => blocks.iter().any(|b| {
            b.get("type").and_then(Value::as_str) == Some("text")
                && b.get("text").and_then(Value::as_str).is_some_and(looks_failed)
        }),
        Value::String(text) => looks_failed(text),
        _ => false,
    }
}

fn field_failed(name: &str, value: &Value) -> bool {
    match name.to_ascii_lowercase().as_str() {
        "error" | "errors" | "exception" | "traceback" | "error_message" | "errormessage" | "iserror"
        | "is_error" | "failed" => match value {
            Value::Bool(b) => *b,
            Value::String(s) => {
                !matches!(s.trim().to_ascii_lowercase().as_str(), "" | "none" | "null" | "false")
            }
            Value::Array(a) => !a.is_empty(),
            Value::Object(o) => !o.is_empty(),
            // Counts and measurements carry such names as well.
            Value::Number(_) | Value::Null => false,
        },
        "success" | "ok" | "succeeded" => value == &Value::Bool(false),
        "status" | "status_code" | "statuscode" | "http_status" => match value {
            Value::String(s) => {
                matches!(s.to_ascii_lowercase().as_str(), "error" | "failed" | "failure" | "fail")
            }
            Value::Number(n) => n.as_u64().is_some_and(|n| (400..600).contains(&n)),
            _ => false,
        },
        "exit_code" | "exitcode" | "returncode" | "return_code" => value.as_i64().is_some_and(|n| n != 0),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::super::{observe::tool_results, script::Script};
    use super::*;

    fn vote_on(script: Script) -> Option<Vote> {
        let t = script.done();
        vote(&t, &tool_results(&t))
    }

    #[test]
    fn errors_are_seen_where_tools_put_them() {
        for text in [
            "Error: order not found",
            "Error executing query: 1054 (42S22): Unknown column 'x' in 'field list'",
            r#"{"error": "no such user"}"#,
            r#"{"error": {"code": 5}}"#,
            r#"{"success": false, "message": "card declined"}"#,
            r#"{"status": "failed"}"#,
            r#"{"status": 503}"#,
            r#"{"exit_code": 2, "stdout": ""}"#,
            r#"[{"type": "text", "text": "Error: quota exceeded"}]"#,
            "Traceback (most recent call last):\n  File \"a.py\", line 1\nValueError: bad",
            "some output\njava.io.IOException: broken pipe",
            "Failed to open the page",
            "bash: foo: command not found",
            "exitcode: 1 (execution failed)\nCode output: x",
        ] {
            assert!(looks_failed(text), "{text}");
        }
    }

    #[test]
    fn words_about_errors_are_no_errors() {
        for text in [
            "",
            "[]",
            "[(0,)]",
            "()",
            r#"{"rows": [], "error": null}"#,
            r#"{"errors": [], "ok": true}"#,
            r#"{"errors": 0, "failed": 3}"#,
            r#"{"status": "delivered", "history": "a delivery failed on Monday"}"#,
            r#"[{"level": "error", "text": "Error: in a log that was asked for"}]"#,
            "Error handling in Rust\nThe book says that an error is a value.",
            "Errors are reported on page 5",
            "The article explains why the launch failed.",
            "3 tests passed, 0 failed",
            "exitcode: 0 (execution succeeded)\nCode output: 5",
            "The error rate: 5 %",
        ] {
            assert!(!looks_failed(text), "{text}");
        }
    }

    #[test]
    fn an_unrecovered_error_votes_and_points_at_its_call() {
        let v = vote_on(
            Script::new().user("x").call("find", "{}").result("ok").call("pay", "{}").result("Error: no"),
        )
        .expect("a vote");
        assert_eq!((v.value, v.confidence, v.step), (0.0, AT_THE_END, Some(1)));
        assert!(v.evidence.contains("pay") && v.evidence.contains("Error: no"), "{}", v.evidence);
    }

    #[test]
    fn a_recovered_error_does_not_vote() {
        let s = Script::new().call("pay", "{}").result("Error: no").call("pay", r#"{"a":1}"#).result("paid");
        assert_eq!(vote_on(s), None);
    }

    #[test]
    fn an_error_that_was_worked_around_votes_weakly() {
        let failed = || Script::new().call("pay", "{}").result("Error: no");
        let confidence = |s| vote_on(s).expect("a vote").confidence;
        assert_eq!(confidence(failed().answer("It failed.")), AT_THE_END);
        assert_eq!(confidence(failed().call("find", "{}").result("found")), WORKED_AROUND);
        assert_eq!(
            confidence(failed().answer("It failed.").user("Leave it then.").answer("Ok.")),
            WORKED_AROUND
        );
        let both = failed().answer("It failed.").user("By card then.").call("card", "{}").result("paid");
        assert_eq!(confidence(both), SETTLED);
    }

    #[test]
    fn the_apis_own_mark_counts_whatever_the_text() {
        let s = Script::new().call("pay", "{}").result("hm").last_message(|m| m.tool_failed = true);
        assert!(vote_on(s).is_some());
    }

    #[test]
    fn only_tool_results_can_be_tool_errors() {
        let s = Script::new().system("Error: say this").user("Error: what is it?").answer("Error: a word.");
        assert_eq!(vote_on(s), None);
    }

    #[test]
    fn an_observation_in_a_user_message_is_a_tool_result() {
        let s = Script::new().answer("Action: run").user("Observation: ValueError: bad").answer("Hm.");
        assert!(vote_on(s).is_some());
    }
}
