//! Lessons in words that a person and a model read the same way. Counts stand in the evidence, not in the line: the
//! same lesson with one more case is the same lesson.

use super::contrast::Advice;
use super::mask::{redact, shorten};
use super::recovery::{Next, Recovery};
use super::signature::UNEXPLAINED;
use crate::model::Signature;

/// A rule. `signature` is of the failures that it would have prevented.
#[must_use]
pub(super) fn rule(advice: &Advice, signature: &Signature) -> String {
    let seen = outcome(signature);
    match advice {
        Advice::Before { calls, tool } => {
            format!("Before calling `{tool}`, call {}; runs that skipped it {seen}.", chain(calls))
        }
        Advice::With { tool, argument } => {
            format!("Give `{tool}` its argument `{argument}`; runs that left it out {seen}.")
        }
        Advice::Do { calls } => match &signature.tool {
            Some(tool) if !calls.iter().any(|c| c == tool) => format!(
                "In tasks that lead to `{tool}`, also call {} before the end; runs that never did {seen}.",
                chain(calls)
            ),
            _ => format!("Call {} before the end of such a task; runs that never did {seen}.", chain(calls)),
        },
        Advice::Avoid { call } => {
            format!(
                "Do without `{call}` in tasks like these; runs that called it {seen}, and those that succeeded mostly did not call it."
            )
        }
    }
}

/// Past tense: what happened to the runs.
fn outcome(signature: &Signature) -> String {
    let text = shorten(&signature.text, 100);
    if !text.is_empty() && signature.class != "user_correction" {
        return format!("failed with `{text}`");
    }
    match signature.class.as_str() {
        "repeated_call" => "got stuck repeating one call".into(),
        "truncation" => "were cut off at the token limit".into(),
        "refusal" => "ended in a refusal".into(),
        "output_schema" => "gave answers against the requested schema".into(),
        "arguments_schema" => "called it with arguments its schema refuses".into(),
        "user_correction" => "were corrected by the user".into(),
        "abandonment" => "were abandoned by the user".into(),
        _ => "ended badly".into(),
    }
}

/// `a`, then `b`.
fn chain(calls: &[String]) -> String {
    calls.iter().map(|c| format!("`{c}`")).collect::<Vec<_>>().join(", then ")
}

/// Facts of a cluster beyond its signature.
#[derive(Clone, Debug, Default)]
pub(super) struct Facts {
    /// The call that came right before in most cases.
    pub after: Option<String>,
    /// Median number of times that the failing call was made again unchanged.
    pub repeats: usize,
    pub recovery: Option<Recovery>,
    /// Words that tell its tasks apart.
    pub terms: Vec<String>,
}

/// What goes wrong, where there is no rule; none where there is nothing to say beyond the outcome.
#[must_use]
pub(super) fn pitfall(signature: &Signature, facts: &Facts) -> Option<String> {
    let text = shorten(&signature.text, 100);
    let way_out = facts.recovery.as_ref().map(|r| way_out(r, signature));
    if let (Some(tool), false) = (&signature.tool, text.is_empty()) {
        let after = facts.after.as_ref().map(|a| format!(", mostly right after `{a}`")).unwrap_or_default();
        let then = match way_out {
            Some(way_out) => format!("; {way_out}"),
            None if facts.repeats >= 2 => "; calling it again unchanged did not help: change the arguments or look up what they refer to".into(),
            None => "; no recorded run has a common way out yet: check what the arguments refer to before calling".into(),
        };
        return Some(format!("`{tool}` can fail with `{text}`{after}{then}."));
    }
    let tool = signature.tool.as_ref();
    match (signature.class.as_str(), tool) {
        ("repeated_call", Some(tool)) => Some(format!(
            "Do not call `{tool}` again with the same arguments: runs that did kept getting the same result and failed."
        )),
        ("truncation", _) => Some("Answers ran into the token limit: answer shorter, or in parts.".into()),
        ("output_schema", _) => {
            Some("Answers broke the requested JSON schema: return only the JSON that it describes.".into())
        }
        ("refusal", _) => Some(format!("Requests{} ended in a refusal.", about(facts))),
        ("arguments_schema", Some(tool)) if !signature.arguments.is_empty() => Some(format!(
            "Check the arguments of `{tool}` against its schema: calls with `{}` broke it.",
            shorten(&signature.arguments.join("`, `"), 120)
        )),
        ("user_correction", Some(tool)) => Some(format!(
            "Users corrected the result after `{tool}`{}: confirm what they want before calling it.",
            about(facts)
        )),
        (UNEXPLAINED | "abandonment", Some(tool)) => {
            let arguments = match signature.arguments.as_slice() {
                [] => String::new(),
                given => format!(" (`{}`)", shorten(&given.join("`, `"), 120)),
            };
            Some(format!(
                "`{tool}` went through but the run still failed{}: compare its arguments{arguments} with what was asked before calling it.",
                about(facts)
            ))
        }
        (UNEXPLAINED | "abandonment", None) => Some(format!(
            "Runs{} that ended without any call that changes something mostly failed: check whether an action was asked for.",
            about(facts)
        )),
        _ => None,
    }
}

fn about(facts: &Facts) -> String {
    if facts.terms.is_empty() { String::new() } else { format!(" about {}", facts.terms.join(", ")) }
}

fn way_out(recovery: &Recovery, signature: &Signature) -> String {
    match (&recovery.next, &signature.tool) {
        (Next::Call(call), _) => format!("runs that recovered called `{call}` next"),
        (Next::OtherArguments, Some(tool)) => {
            format!("runs that recovered called `{tool}` again with other arguments")
        }
        (Next::OtherArguments, None) => "runs that recovered tried again with other arguments".into(),
        (Next::Speak, _) => "runs that recovered went back to the user instead of calling again".into(),
    }
}

/// What users said, quoted without ids.
#[must_use]
pub(super) fn correction(said: &str, tool: Option<&str>) -> String {
    let plain = redact(said).replace(['`', '“', '”', '"'], "");
    let quoted = shorten(plain.trim_end_matches('.'), 240);
    match tool {
        Some(tool) => format!("After `{tool}`, users corrected: “{quoted}”."),
        None => format!("Users corrected: “{quoted}”."),
    }
}
