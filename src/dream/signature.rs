//! What kind of failure it is.

use std::collections::HashMap;

use super::actions::Action;
use super::mask::mask;
use crate::model::{Feedback, Signature, Vote, VoteSource};

/// The class of failures that left no trace but the outcome.
pub(super) const UNEXPLAINED: &str = "unexplained";

/// The action where it went wrong and the signature, from the votes, the errors and where the outcome points.
#[must_use]
pub(super) fn of(
    actions: &[Action],
    votes: &[Vote],
    feedback: &[Feedback],
    failing_step: Option<usize>,
) -> (Option<usize>, Signature) {
    // Feedback says that it failed, not how: the strongest of the others gives the class.
    let strongest = votes
        .iter()
        .filter(|v| {
            v.value < 0.5 && !matches!(v.source, VoteSource::Feedback(_) | VoteSource::Acknowledgement)
        })
        .max_by(|a, b| a.confidence.total_cmp(&b.confidence).then_with(|| b.source.cmp(&a.source)));
    let step = strongest.and_then(|v| v.step).or(failing_step);
    let class = match strongest {
        Some(vote) => vote.source.to_string(),
        None if unrecovered(actions).is_some() => VoteSource::ToolError.to_string(),
        None if repeated(actions).is_some() => VoteSource::RepeatedCall.to_string(),
        None if feedback.iter().any(|f| f.correction.is_some()) => VoteSource::UserCorrection.to_string(),
        None => UNEXPLAINED.to_owned(),
    };
    let at_step = || step.and_then(|s| actions.iter().rposition(|a| a.step == s));
    let last_change = || actions.iter().rposition(Action::changes_something);
    let failing = match class.as_str() {
        "tool_error" => at_step()
            .filter(|i| actions[*i].error.is_some())
            .or_else(|| unrecovered(actions))
            .or_else(at_step),
        "repeated_call" => repeated(actions).or_else(at_step),
        UNEXPLAINED => last_change().or_else(at_step),
        _ => at_step().or_else(last_change),
    };
    let action = failing.map(|i| &actions[i]);
    let text = match action.and_then(|a| a.error.clone()) {
        Some(error) => error,
        None => match (class.as_str(), strongest) {
            // These sentences are about this trajectory alone; the class says what they have in common.
            (UNEXPLAINED | "repeated_call" | "user_correction" | "tool_error" | "abandonment", _)
            | (_, None) => String::new(),
            (_, Some(vote)) => mask(&vote.evidence),
        },
    };
    let signature = Signature {
        class,
        tool: action.map(|a| a.name.clone()),
        text,
        arguments: action.map(|a| a.arguments.clone()).unwrap_or_default(),
    };
    (failing, signature)
}

/// The last action that failed and after which the same tool never worked.
fn unrecovered(actions: &[Action]) -> Option<usize> {
    actions.iter().enumerate().rposition(|(i, a)| {
        a.error.is_some()
            && !actions[i + 1..].iter().any(|later| later.name == a.name && later.error.is_none())
    })
}

/// The third time that the very same call was made.
fn repeated(actions: &[Action]) -> Option<usize> {
    let mut counts: HashMap<u64, u32> = HashMap::new();
    actions.iter().position(|a| {
        let count = counts.entry(a.fingerprint).or_default();
        *count += 1;
        *count >= 3
    })
}
