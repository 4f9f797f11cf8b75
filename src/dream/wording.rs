//! Lessons in words that a person and a model read the same way. Counts stand in the evidence, not in the line: the
//! same lesson with one more case is the same lesson.

use super::contrast::Advice;
use super::mask::{redact, shorten};
use super::recovery::Next;
use super::signature::UNEXPLAINED;
use crate::model::Signature;

/// Longest error text and list of arguments in a lesson, in characters.
const QUOTE: usize = 100;

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
        Advice::After { tool, error, next } => {
            let error = shorten(error, QUOTE);
            format!("After `{tool}` fails with `{error}`, {}; runs that recovered did.", step(next, tool))
        }
        Advice::Do { calls } => match &signature.tool {
            Some(tool) => format!(
                "In tasks that lead to `{tool}`, also call {}; runs that never did {seen}.",
                chain(calls)
            ),
            None => {
                format!("Call {} before the end of such a task; runs that never did {seen}.", chain(calls))
            }
        },
        Advice::Avoid { call: token } => match &signature.tool {
            Some(tool) => format!(
                "In tasks that lead to `{tool}`, do without {}; runs that called it {seen}, those that succeeded mostly did not.",
                call(token)
            ),
            None => format!(
                "Do without {} in such tasks; runs that called it {seen}, those that succeeded mostly did not.",
                call(token)
            ),
        },
    }
}

/// Past tense: what happened to the runs.
fn outcome(signature: &Signature) -> String {
    let text = shorten(&signature.text, QUOTE);
    if !text.is_empty() && signature.class != "user_correction" {
        return format!("failed with `{text}`");
    }
    match signature.class.as_str() {
        "repeated_call" => "got stuck repeating one call",
        "truncation" => "were cut off at the token limit",
        "refusal" => "ended in a refusal",
        "output_schema" => "gave answers against the requested schema",
        "arguments_schema" => "called it with arguments its schema refuses",
        "user_correction" => "were corrected by the user",
        "abandonment" => "were abandoned by the user",
        _ => "ended badly",
    }
    .to_owned()
}

fn step(next: &Next, tool: &str) -> String {
    match next {
        Next::Call(token) => format!("call {} next", call(token)),
        Next::OtherArguments => format!("call `{tool}` again with other arguments"),
        Next::Speak => "go back to the user instead of calling on".into(),
    }
}

/// `a`, then `b`.
fn chain(calls: &[String]) -> String {
    calls.iter().map(|c| call(c)).collect::<Vec<_>>().join(", then ")
}

/// `tool`, or `tool` with the first words of its statement.
fn call(token: &str) -> String {
    match token.split_once(' ') {
        Some((tool, head)) => format!("`{tool}` with `{head}`"),
        None => format!("`{token}`"),
    }
}

/// Facts of a cluster beyond its signature.
#[derive(Clone, Debug, Default)]
pub(super) struct Facts {
    /// The call that came right before in most cases.
    pub after: Option<String>,
    /// Median number of times that a call was made again unchanged.
    pub repeats: usize,
    /// A difference to successes that is too weak for a rule.
    pub hint: Option<Advice>,
    /// Words that tell its tasks apart.
    pub terms: Vec<String>,
}

/// What goes wrong, where there is no rule; none where there is nothing to say beyond the title.
#[must_use]
pub(super) fn pitfall(signature: &Signature, facts: &Facts) -> Option<String> {
    let text = shorten(&signature.text, QUOTE);
    let about = about(facts);
    let hint = facts.hint.as_ref().map(hinted);
    let listed = || shorten(&signature.arguments.join(", "), QUOTE);
    if let (Some(tool), false) = (&signature.tool, text.is_empty()) {
        let after =
            facts.after.as_ref().map(|a| format!(", mostly right after {}", call(a))).unwrap_or_default();
        let then = match hint {
            Some(hint) => hint,
            None if facts.repeats >= 2 => {
                "calling it again unchanged did not help: change the arguments or look up what they refer to"
                    .into()
            }
            None => "check what its arguments refer to before calling it".into(),
        };
        return Some(format!("`{tool}` can fail with `{text}`{after}; {then}."));
    }
    Some(match (signature.class.as_str(), &signature.tool, hint) {
        ("repeated_call", Some(tool), _) => format!(
            "Do not call `{tool}` again with the same arguments: runs that did kept getting the same result and failed."
        ),
        ("truncation", ..) => "Answers ran into the token limit: answer shorter, or in parts.".into(),
        ("output_schema", ..) => {
            "Answers broke the requested JSON schema: return only the JSON that it describes.".into()
        }
        ("refusal", ..) => format!("Requests{about} ended in a refusal."),
        ("arguments_schema", Some(tool), _) if !signature.arguments.is_empty() => {
            format!("Check the arguments of `{tool}` against its schema: calls with `{}` broke it.", listed())
        }
        (UNEXPLAINED | "abandonment" | "user_correction", Some(tool), Some(hint)) => {
            format!("Runs{about} that ended with `{tool}` and no error often failed; {hint}.")
        }
        (UNEXPLAINED | "abandonment" | "user_correction", None, Some(hint)) => {
            format!("Runs{about} that changed nothing often failed; {hint}.")
        }
        ("user_correction", Some(tool), _) => {
            format!(
                "Users corrected the result after `{tool}`{about}: confirm what they want before calling it."
            )
        }
        (UNEXPLAINED | "abandonment", Some(tool), _) if !signature.arguments.is_empty() => format!(
            "`{tool}` can go through and still be wrong{about}: compare `{}` with what was asked before calling it.",
            listed()
        ),
        (UNEXPLAINED | "abandonment", None, _) => format!(
            "Runs{about} that ended without any call that changes something mostly failed: check whether an action was asked for."
        ),
        _ => return None,
    })
}

fn about(facts: &Facts) -> String {
    if facts.terms.is_empty() { String::new() } else { format!(" about {}", facts.terms.join(", ")) }
}

/// What runs that went well did more often, as an observation.
fn hinted(hint: &Advice) -> String {
    match hint {
        Advice::Before { calls, .. } => {
            format!("runs that succeeded more often called {} before it", chain(calls))
        }
        Advice::With { argument, .. } => format!("runs that succeeded more often gave it `{argument}`"),
        Advice::Do { calls } => format!("runs that succeeded more often called {}", chain(calls)),
        Advice::Avoid { call: token } => format!("runs that failed more often called {}", call(token)),
        Advice::After { tool, next, .. } => format!("what helped more often: {}", step(next, tool)),
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
