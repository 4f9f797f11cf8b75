//! Lessons in words that a person and a model read the same way. Counts stand in the evidence, not in the line: the
//! same lesson with one more case is the same lesson.

use super::contrast::Advice;
use super::mask::{readable, redact, shorten};
use super::recovery::Next;
use super::signature::UNEXPLAINED;
use super::title::without_name;
use crate::model::Signature;

/// Longest error text and list of arguments in a lesson, in characters.
const QUOTE: usize = 100;

/// A rule. `signature` is of the failures that it would have prevented.
#[must_use]
pub(super) fn rule(advice: &Advice, signature: &Signature, facts: &Facts) -> String {
    let seen = outcome(signature);
    match advice {
        Advice::Before { calls, tool } => {
            format!("Before calling `{tool}`, call {}; runs that skipped it {seen}.", chain(calls))
        }
        Advice::With { tool, argument } => {
            format!("Give `{tool}` its argument `{argument}`; runs that left it out {seen}.")
        }
        Advice::After { tool, error, next } => {
            let error = readable(error, QUOTE);
            let when = if error.is_empty() { "fails".into() } else { format!("fails with `{error}`") };
            format!("After `{tool}` {when}, {}; runs that recovered did.", step(next, tool))
        }
        Advice::Do { calls } => match &signature.tool {
            Some(tool) if facts.elsewhere => {
                format!(
                    "Instead of `{tool}`{}, call {}; runs that never did {seen}.",
                    in_tasks(facts),
                    chain(calls)
                )
            }
            Some(tool) => format!(
                "In tasks that lead to `{tool}`, also call {}; runs that never did {seen}.",
                chain(calls)
            ),
            None if facts.terms.is_empty() => {
                format!("Call {} before the end of such a task; runs that never did {seen}.", chain(calls))
            }
            None => {
                format!("In tasks{}, call {}; runs that never did {seen}.", about(facts), chain(calls))
            }
        },
        Advice::Avoid { call: token } => match &signature.tool {
            Some(tool) => format!(
                "In tasks that lead to `{tool}`, do without {}; runs that called it {seen}, those that succeeded mostly did not.",
                call(token)
            ),
            None => format!(
                "Do without {}{}; runs that called it {seen}, those that succeeded mostly did not.",
                call(token),
                if facts.terms.is_empty() { " in such tasks".into() } else { in_tasks(facts) }
            ),
        },
    }
}

fn in_tasks(facts: &Facts) -> String {
    if facts.terms.is_empty() { String::new() } else { format!(" in tasks{}", about(facts)) }
}

/// Past tense: what happened to the runs.
fn outcome(signature: &Signature) -> String {
    match signature.class.as_str() {
        "truncation" => "were cut off at the token limit".into(),
        "refusal" => "ended in a refusal".into(),
        "output_schema" if signature.text == "no JSON" => "answered with something else than JSON".into(),
        "output_schema" => "gave answers against the requested schema".into(),
        "user_correction" => "were corrected by the user".into(),
        "abandonment" => "were abandoned by the user".into(),
        "http_error" => match signature.text.strip_prefix("status ") {
            Some(status) => format!("ended with status {status} from the upstream"),
            None => "got no answer from the upstream".into(),
        },
        class => match (error(signature), class) {
            (Some(text), _) => format!("failed with `{text}`"),
            (None, "repeated_call") => "got stuck repeating one call".into(),
            (None, "arguments_schema") => "called it with arguments its schema refuses".into(),
            (None, _) => "ended badly".into(),
        },
    }
}

/// The error of the failing call as a person reads it.
fn error(signature: &Signature) -> Option<String> {
    let text = readable(without_name(&signature.text, signature.tool.as_deref()), QUOTE);
    (!text.is_empty()).then_some(text)
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
    /// A difference to successes that makes no rule, …
    pub hint: Option<Advice>,
    /// … because it is not proven yet, rather than weak.
    pub clear: bool,
    /// No success with a like task calls the failing tool at all.
    pub elsewhere: bool,
    /// Words that tell its tasks apart.
    pub terms: Vec<String>,
}

/// What goes wrong, where there is no rule; none where there is nothing to say beyond the title.
#[must_use]
pub(super) fn pitfall(signature: &Signature, facts: &Facts) -> Option<String> {
    let about = about(facts);
    let hint = facts.hint.as_ref().map(|h| hinted(h, facts.clear));
    let and = hint.as_ref().map(|h| format!("; {h}")).unwrap_or_default();
    let listed = || {
        let names: Vec<String> = signature.arguments.iter().take(5).map(|a| format!("`{a}`")).collect();
        names.join(", ")
    };
    // Of calls that can fail; elsewhere the text is not an error of the call.
    let failing =
        matches!(signature.class.as_str(), "tool_error" | "arguments_schema" | "repeated_call" | UNEXPLAINED);
    if let (Some(tool), Some(text), true) = (&signature.tool, error(signature), failing) {
        let after =
            facts.after.as_ref().map(|a| format!(", mostly right after {}", call(a))).unwrap_or_default();
        let then = match hint {
            Some(hint) => hint,
            None if facts.repeats >= 2 => {
                "calling it again unchanged did not help: change the arguments or look up what they refer to"
                    .into()
            }
            None if signature.arguments.is_empty() => "read what it says before going on".into(),
            None => "check what its arguments refer to before calling it".into(),
        };
        return Some(format!("`{tool}` can fail with `{text}`{after}; {then}."));
    }
    Some(match (signature.class.as_str(), &signature.tool, hint) {
        ("repeated_call", Some(tool), _) => format!(
            "Do not call `{tool}` again with the same arguments: runs that did kept getting the same result and failed{and}."
        ),
        ("truncation", _, None) => {
            format!("Answers{about} ran into the token limit: answer shorter, or in parts.")
        }
        ("truncation", ..) => format!("Answers{about} ran into the token limit{and}."),
        ("output_schema", _, None) => {
            format!("Answers{about} broke the requested JSON schema: return only the JSON that it describes.")
        }
        ("output_schema", ..) => format!("Answers{about} broke the requested JSON schema{and}."),
        ("refusal", ..) => format!("Requests{about} ended in a refusal{and}."),
        ("http_error", tool, _) => {
            let after = tool.as_ref().map(|t| format!(" after `{t}`")).unwrap_or_default();
            let what = match signature.text.strip_prefix("status ") {
                Some(status) => format!("status {status} from the upstream"),
                None => "no answer from the upstream".into(),
            };
            format!("Requests{about} ended with {what}{after}{and}.")
        }
        ("arguments_schema", Some(tool), _) if !signature.arguments.is_empty() => {
            format!(
                "Check the arguments of `{tool}` against its schema: calls with {} broke it{and}.",
                listed()
            )
        }
        (UNEXPLAINED | "abandonment" | "user_correction", Some(tool), Some(hint)) => {
            format!("Runs{about} that ended with `{tool}` and no error often failed; {hint}.")
        }
        (UNEXPLAINED | "abandonment" | "user_correction", None, Some(hint)) => {
            format!("Runs{about} that changed nothing often failed; {hint}.")
        }
        ("user_correction", Some(tool), _) => {
            format!(
                "The result after `{tool}`{about} was often corrected: check it against what was asked before it is given."
            )
        }
        (UNEXPLAINED | "abandonment", Some(tool), _) if !signature.arguments.is_empty() => format!(
            "`{tool}` can go through and still be wrong{about}: compare {} with what was asked before calling it.",
            listed()
        ),
        (UNEXPLAINED | "abandonment", None, _) => format!(
            "Runs{about} that ended without any call that changes something mostly failed: check whether an action was asked for."
        ),
        _ => return None,
    })
}

fn about(facts: &Facts) -> String {
    match facts.terms.as_slice() {
        [] => String::new(),
        [one] => format!(" about {one}"),
        [more @ .., last] => format!(" about {} and {last}", more.join(", ")),
    }
}

/// What runs that went well did more often, as an observation.
fn hinted(hint: &Advice, clear: bool) -> String {
    let often = if clear { "mostly" } else { "more often" };
    match hint {
        Advice::Before { calls, .. } => {
            format!("runs that succeeded {often} called {} before it", chain(calls))
        }
        Advice::With { argument, .. } => format!("runs that succeeded {often} gave it `{argument}`"),
        Advice::Do { calls } => format!("runs that succeeded {often} called {}", chain(calls)),
        Advice::Avoid { call: token } => format!("runs that failed {often} called {}", call(token)),
        Advice::After { tool, next, .. } => format!("what {often} helped: {}", step(next, tool)),
    }
}

/// What users said, quoted without ids; `class` is what went wrong, where no tool says when.
#[must_use]
pub(super) fn correction(said: &str, tool: Option<&str>, class: Option<&str>) -> String {
    let plain = redact(said).replace(['`', '“', '”', '"'], "");
    let quoted = shorten(plain.trim_end_matches('.'), 240);
    let when = match (tool, class) {
        (Some(tool), _) => format!("After `{tool}`, users corrected"),
        (None, Some("truncation")) => "Where answers were cut off, users corrected".into(),
        (None, Some("refusal")) => "Where it was refused, users corrected".into(),
        (None, Some("output_schema")) => "Where answers broke the schema, users corrected".into(),
        _ => "Users corrected".into(),
    };
    format!("{when}: “{quoted}”.")
}
