//! Votes failure when the last answer declines.

use std::sync::LazyLock;

use regex::Regex;

use super::observe::{last_answer, quote, step_at};
use crate::model::{Transcript, Vote, VoteSource};

const CONFIDENCE: f64 = 0.7;

/// What APIs call an answer that a filter or the model's own policy stopped.
const FILTER_REASONS: [&str; 5] = ["content_filter", "refusal", "safety", "recitation", "prohibited_content"];

/// English, at the beginning of the answer; what is declined must be the request itself ("I can't find the order" is
/// an answer).
static PHRASE: LazyLock<Regex> = LazyLock::new(|| {
    Regex::new(
        r"(?ix)^\W*(?:(?:i(?:'|’)?m|i\ am|we(?:'|’)?re)\ (?:very\ |really\ |so\ )?(?:sorry|afraid)|sorry|apologies|my\ apologies|i\ apologi[sz]e|unfortunately|as\ an\ ai(?:\ [\w-]+){0,3})?
        [,.;:\ ]*(?:but|that|for\ the\ inconvenience)?[,.;:\ ]*(?:but\ )?
        (?:i|we)\ ?(?:can(?:'|’)?t|cannot|can\ not|won(?:'|’)?t|will\ not|(?:'|’)?m\ (?:not\ able|unable)\ to|\ ?(?:am|are)\ (?:not\ able|unable)\ to|(?:'|’)?m\ not\ allowed\ to|must\ decline\ to|do\ not\ feel\ comfortable|don(?:'|’)t\ feel\ comfortable)
        \s+(?:\w+ly\ )?(?:be\ able\ to\ )?(?:help|assist|comply|fulfil|support|discuss|engage|participate|create|generate|provide|share|write|produce|process|complete|do\ that|do\ this|answer|continue|perform|give|offer|proceed)",
    )
    .expect("the pattern is valid")
});

pub(super) fn vote(t: &Transcript) -> Option<Vote> {
    let cast = |step, evidence| {
        Some(Vote { source: VoteSource::Refusal, value: 0.0, confidence: CONFIDENCE, step, evidence })
    };
    if let Some(last) = t.steps.last()
        && let Some(reason) = &last.finish_reason
        && FILTER_REASONS.contains(&reason.to_ascii_lowercase().as_str())
    {
        return cast(Some(t.steps.len() - 1), format!("The last answer was stopped: {}", quote(reason)));
    }
    let (index, answer) = last_answer(t)?;
    let said = match &answer.refusal {
        Some(refusal) if !refusal.trim().is_empty() => refusal,
        // Who calls a tool has not declined.
        _ if answer.tool_calls.is_empty() && PHRASE.is_match(&answer.text) => &answer.text,
        _ => return None,
    };
    cast(step_at(t, index), format!("The last answer declines: {}", quote(said)))
}

#[cfg(test)]
mod tests {
    use super::super::script::Script;
    use super::*;

    fn answered(text: &str) -> Option<Vote> {
        vote(&Script::new().user("x").answer(text).done())
    }

    #[test]
    fn refusals_are_seen() {
        for text in [
            "I'm sorry, but I can't help with that.",
            "I’m sorry, I can’t assist with that request.",
            "Sorry, I cannot provide that.",
            "I cannot assist with this.",
            "Unfortunately, I am unable to process this request.",
            "As an AI language model, I cannot discuss that.",
            "I'm not able to help with that.",
            "I won't help you with this.",
        ] {
            assert!(answered(text).is_some(), "{text}");
        }
    }

    #[test]
    fn answers_that_sound_alike_are_none() {
        for text in [
            "I can't find any problem in this code.",
            "I'm sorry for the delay! Your order has been sent.",
            "If the guard says \"I can't help you\", go left.",
            "Sure. I cannot recommend it enough.",
            "I can help with that.",
            "You cannot provide a default here.",
        ] {
            assert_eq!(answered(text), None, "{text}");
        }
    }

    #[test]
    fn only_the_last_answer_counts() {
        let t = Script::new()
            .answer("I can't help with that.")
            .user("Why? It is legal.")
            .answer("Here it is.")
            .done();
        assert_eq!(vote(&t), None);
    }

    #[test]
    fn the_apis_own_marks_count() {
        let t = Script::new().answer("").last_message(|m| m.refusal = Some("No.".into())).done();
        assert_eq!(vote(&t).expect("a vote").step, Some(0));
        let t =
            Script::new().answer("x").last_step(|s| s.finish_reason = Some("content_filter".into())).done();
        assert!(vote(&t).is_some());
    }
}
