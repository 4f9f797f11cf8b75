//! What kind of failure it is: its cause, where the trace shows one, rather than what the user said of it.

use std::collections::HashMap;

use super::actions::Action;
use super::mask::mask;
use crate::model::{Feedback, Role, Signature, Transcript, Vote, VoteSource};
use crate::outcome;

/// The class of failures that left no trace but the outcome.
pub(super) const UNEXPLAINED: &str = "unexplained";

/// The action where it went wrong and the signature, from the votes, the errors and where the outcome points.
#[must_use]
pub(super) fn of(
    t: &Transcript,
    actions: &[Action],
    votes: &[Vote],
    feedback: &[Feedback],
    failing_step: Option<usize>,
) -> (Option<usize>, Signature) {
    let found = cause(t, actions, votes);
    let cause = found.as_ref();
    let step = cause.and_then(|v| v.step).or(failing_step);
    let class = match cause {
        Some(vote) => vote.source.to_string(),
        None if unrecovered(actions).is_some() => VoteSource::ToolError.to_string(),
        None if repeated(actions).is_some() => VoteSource::RepeatedCall.to_string(),
        None if feedback.iter().any(|f| f.correction.is_some()) => VoteSource::UserCorrection.to_string(),
        None => UNEXPLAINED.to_owned(),
    };
    let at_step = || step.and_then(|s| actions.iter().rposition(|a| a.step == s));
    let up_to_step = || step.and_then(|s| actions.iter().rposition(|a| a.step <= s));
    let last_change = || actions.iter().rposition(Action::changes_something);
    let failing = match class.as_str() {
        "tool_error" => at_step()
            .filter(|i| actions[*i].error.is_some())
            .or_else(|| unrecovered(actions))
            .or_else(at_step),
        "repeated_call" => repeated(actions).or_else(at_step),
        // The answer itself is what is wrong: calls before it went well.
        "truncation" | "refusal" | "output_schema" => at_step(),
        "http_error" => up_to_step(),
        UNEXPLAINED => last_change().or_else(at_step),
        _ => at_step().or_else(last_change),
    };
    let action = failing.map(|i| &actions[i]);
    let text = match action.and_then(|a| a.error.clone()) {
        Some(error) if class != "http_error" => error,
        _ => cause.map(|vote| text_of(vote, t)).unwrap_or_default(),
    };
    let signature = Signature {
        class,
        tool: action.map(|a| a.name.clone()),
        text,
        arguments: action.map(|a| a.arguments.clone()).unwrap_or_default(),
    };
    (failing, signature)
}

/// The vote that says what went wrong. That the user corrected or left is what came of it: where the turn that they
/// corrected shows a cause, that is it.
fn cause(t: &Transcript, actions: &[Action], votes: &[Vote]) -> Option<Vote> {
    // Feedback says that it failed, not how.
    let against: Vec<&Vote> = votes
        .iter()
        .filter(|v| {
            v.value < 0.5 && !matches!(v.source, VoteSource::Feedback(_) | VoteSource::Acknowledgement)
        })
        .collect();
    let corrected = against.iter().find(|v| v.source == VoteSource::UserCorrection).and_then(|v| v.step);
    if let Some(step) = corrected {
        let then = votes_before_correction(t, step);
        // What ended a run after the correction is its cause as well.
        let later =
            || strongest(against.iter().copied().filter(|v| mechanical(v) && v.step > Some(step)), actions);
        if let Some(found) = strongest(then.iter(), actions).or_else(later) {
            return Some(found.clone());
        }
    }
    let left = |v: &&Vote| v.source != VoteSource::Abandonment;
    strongest(against.iter().copied().filter(left), actions)
        .or_else(|| strongest(against.iter().copied(), actions))
        .cloned()
}

/// The strongest vote. Of a failing call that was repeated or that broke its schema, this says more than that it failed.
fn strongest<'a>(votes: impl Iterator<Item = &'a Vote>, actions: &[Action]) -> Option<&'a Vote> {
    let votes: Vec<&Vote> = votes.collect();
    let best = votes
        .iter()
        .max_by(|a, b| a.confidence.total_cmp(&b.confidence).then_with(|| b.source.cmp(&a.source)))?;
    if best.source != VoteSource::ToolError {
        return Some(best);
    }
    let tool = |v: &Vote| {
        let at = v.step.and_then(|s| actions.iter().rposition(|a| a.step == s));
        at.map(|i| actions[i].name.as_str())
    };
    let closer = |source: VoteSource| {
        // A schema that the tool itself does not hold to explains nothing.
        votes.iter().find(|v| v.source == source && v.confidence > 0.6 && tool(v) == tool(best))
    };
    Some(closer(VoteSource::RepeatedCall).or_else(|| closer(VoteSource::ArgumentsSchema)).unwrap_or(best))
}

/// Whether a vote names a cause in what was done, rather than what people made of it.
fn mechanical(vote: &Vote) -> bool {
    matches!(
        vote.source,
        VoteSource::ToolError
            | VoteSource::ArgumentsSchema
            | VoteSource::OutputSchema
            | VoteSource::RepeatedCall
            | VoteSource::Truncation
            | VoteSource::Refusal
            | VoteSource::HttpError
    )
}

/// What would have been voted had the conversation ended before the correction, as far as it is about the turn that
/// was corrected: detectors look at how a conversation ends, and this one went on.
fn votes_before_correction(t: &Transcript, step: usize) -> Vec<Vote> {
    let Some(answer) = t.steps.get(step).and_then(|s| s.message) else { return Vec::new() };
    let asks = |i: &usize| t.messages.get(*i).is_some_and(|m| m.role == Role::User);
    let end = (answer + 1..t.messages.len()).find(asks).unwrap_or(t.messages.len());
    let begin = (0..answer).rev().find(asks).unwrap_or(0);
    let before =
        Transcript { messages: t.messages[..end].to_vec(), steps: t.steps[..=step].to_vec(), ..t.clone() };
    let in_turn = |v: &Vote| v.step.and_then(|s| t.steps.get(s)?.message).is_none_or(|m| m >= begin);
    let mut votes = outcome::votes(&before, &[]);
    votes.retain(|v| v.value < 0.5 && mechanical(v) && in_turn(v));
    votes
}

/// What a vote says beyond its class, masked; empty where it is about this trajectory alone.
fn text_of(vote: &Vote, t: &Transcript) -> String {
    let said = vote.evidence.split_once(": ").map_or(vote.evidence.as_str(), |(_, said)| said);
    match vote.source {
        // Status codes tell apart what the masked number would not.
        VoteSource::HttpError => match vote.step.and_then(|s| t.steps.get(s)) {
            Some(step) => {
                step.status.map_or_else(|| step.ended.to_string(), |status| format!("status {status}"))
            }
            None => String::new(),
        },
        VoteSource::OutputSchema if said.starts_with("no JSON") => "no JSON".into(),
        VoteSource::OutputSchema
        | VoteSource::ArgumentsSchema
        | VoteSource::Refusal
        | VoteSource::Truncation => mask(said),
        _ => String::new(),
    }
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

#[cfg(test)]
mod tests {
    use super::super::actions::actions;
    use super::super::tests::world::{call, says, transcript_of, user};
    use super::*;
    use crate::model::{Message, TrajectoryId};

    fn signature(messages: Vec<Message>, change: impl FnOnce(&mut Transcript)) -> Signature {
        let mut t = transcript_of(TrajectoryId::from_bytes([0; 16]), messages);
        change(&mut t);
        let votes = outcome::votes(&t, &[]);
        of(&t, &actions(&t), &votes, &[], None).1
    }

    fn complains() -> [Message; 2] {
        [user("That is not what I asked for."), says("I am sorry about that.")]
    }

    #[test]
    fn a_correction_of_a_tool_error_is_that_error() {
        let mut messages = vec![user("Cancel order 7 please")];
        messages.extend(call("cancel_order", "{}", r#"{"error": "order 7 has already shipped"}"#));
        messages.push(says("I could not do it."));
        messages.extend(complains());
        let found = signature(messages, |_| {});
        assert_eq!((found.class.as_str(), found.tool.as_deref()), ("tool_error", Some("cancel_order")));
        assert_eq!(found.text, "order <number> has already shipped");
    }

    #[test]
    fn a_correction_of_a_cut_off_answer_is_a_truncation() {
        let mut messages = vec![user("How do I return it?"), says("First of all, and")];
        messages.extend(complains());
        let found = signature(messages, |t| t.steps[0].finish_reason = Some("length".into()));
        assert_eq!((found.class.as_str(), found.tool), ("truncation", None));
    }

    #[test]
    fn a_correction_of_an_answer_without_a_fault_stays_a_correction() {
        let mut messages = vec![user("Cancel order 7 please")];
        messages.extend(call("cancel_order", "{}", "cancelled"));
        messages.push(says("It is cancelled."));
        messages.extend(complains());
        let found = signature(messages, |_| {});
        assert_eq!((found.class.as_str(), found.tool.as_deref()), ("user_correction", Some("cancel_order")));
    }

    #[test]
    fn an_error_of_an_earlier_turn_does_not_explain_a_later_correction() {
        let mut messages = vec![user("Find my order")];
        messages.extend(call("find_order", "{}", r#"{"error": "no such order"}"#));
        messages.extend([says("Which one?"), user("Number 7, cancel it")]);
        messages.extend(call("cancel_order", "{}", "cancelled"));
        messages.push(says("It is cancelled."));
        messages.extend(complains());
        assert_eq!(signature(messages, |_| {}).class, "user_correction");
    }

    #[test]
    fn errors_of_the_upstream_keep_their_status() {
        let mut messages = vec![user("List my orders")];
        messages.extend(call("export_history", "{}", "[]"));
        let found = signature(messages, |t| {
            let failed = crate::model::Step {
                message: None,
                status: Some(503),
                finish_reason: None,
                ..t.steps[0].clone()
            };
            t.steps.push(failed);
        });
        assert_eq!((found.class.as_str(), found.text.as_str()), ("http_error", "status 503"));
        assert_eq!(found.tool.as_deref(), Some("export_history"));
    }
}
