//! Votes success when the user is content, or when the last tool confirms that it did what was asked.

use std::sync::LazyLock;

use regex::Regex;
use serde_json::Value;

use super::observe::{ToolResult, is_person, quote, step_at};
use crate::model::{Transcript, Vote, VoteSource};

/// Thanks are often only manners.
const THANKS: f64 = 0.6;
/// Says that it worked.
const WORKS: f64 = 0.7;
const CONFIRMED: f64 = 0.6;
/// Thanks in advance, with consent to what the model proposed; or a tool that only says that it ran.
const HALF_SAID: f64 = 0.55;

static THANKED: LazyLock<Regex> = LazyLock::new(|| {
    Regex::new(r"(?i)\b(?:thanks|thank you|thx|much appreciated|i appreciate (?:it|your|the))\b")
        .expect("the pattern is valid")
});
static WORKED: LazyLock<Regex> = LazyLock::new(|| {
    Regex::new(r"(?im)(?:^|[.!,;]\s*)\W*(?:(?:great|ok|okay|yes|yep|ah|oh)[,.!]* )?(?:that|it|this)(?:'s|’s| is|) ?(?:now )?(?:works?\b|worked\b|working\b|perfect|exactly (?:what|it|right)|solved|fixed|(?:did|does) (?:it|the trick))|^\W*(?:perfect|excellent|awesome|you(?:'re|’re| are) right|problem solved)\b")
        .expect("the pattern is valid")
});
/// What takes thanks and praise back.
static BUT: LazyLock<Regex> = LazyLock::new(|| {
    Regex::new(r"(?i)\b(?:but|however|although|except|still|wrong|incorrect|not (?:work|right|correct|what)|doesn(?:'|’)?t|didn(?:'|’)?t|never\s?mind|no thanks)\b|\bno,? thank|\bthank(?:s| you) (?:for (?:nothing|trying)|anyway)")
        .expect("the pattern is valid")
});

/// A further request: thanks for it are none for what was done.
static ASKS: LazyLock<Regex> = LazyLock::new(|| {
    Regex::new(r"(?i)\?|\b(?:can|could|would|will) you\b|\bi (?:also )?(?:want|need|(?:would|'d|’d) like)\b")
        .expect("the pattern is valid")
});
static CONSENTS: LazyLock<Regex> = LazyLock::new(|| {
    Regex::new(r"(?i)\bplease\b|^\W*(?:yes|yeah|yep|sure|go ahead|i confirm|confirmed)\b")
        .expect("the pattern is valid")
});
static RAN: LazyLock<Regex> = LazyLock::new(|| {
    Regex::new(r"(?i)\bno output\b|\bexecut(?:ed|ion)\b|\bran\b").expect("the pattern is valid")
});

/// Whether a user message says thanks, or that it worked, and nothing against it.
pub(super) fn is_thanks(text: &str) -> bool {
    (THANKED.is_match(text) || WORKED.is_match(text)) && !BUT.is_match(text)
}

pub(super) fn vote(t: &Transcript, results: &[ToolResult<'_>]) -> Option<Vote> {
    let said = t.messages.iter().enumerate().rev().find(|(_, m)| is_person(m));
    if let Some((index, m)) = said
        && m.text.chars().count() <= LONG
        && is_thanks(&m.text)
        && !ASKS.is_match(&m.text)
        && !handed_over(t)
        && let Some(step) = step_at(t, index)
    {
        let confidence = match (CONSENTS.is_match(&m.text), WORKED.is_match(&m.text)) {
            (true, _) => HALF_SAID,
            (false, true) => WORKS,
            (false, false) => THANKS,
        };
        return Some(cast(confidence, Some(step), format!("The user is content: {}", quote(&m.text))));
    }
    let last = results.last().filter(|r| confirms(r))?;
    let evidence = format!("The last tool confirms: {}", quote(last.text));
    let confidence = if RAN.is_match(last.text) { HALF_SAID } else { CONFIRMED };
    Some(cast(confidence, last.step, evidence))
}

/// Longer messages are new tasks that end in thanks.
const LONG: usize = 400;

fn cast(confidence: f64, step: Option<usize>, evidence: String) -> Vote {
    Vote { source: VoteSource::Acknowledgement, value: 1.0, confidence, step, evidence }
}

/// Handing over to somebody else succeeds when the task did not.
static HAND_OVER: LazyLock<Regex> = LazyLock::new(|| {
    Regex::new(r"(?i)transfer|escalat|hand_?-?(?:off|over)|human").expect("the pattern is valid")
});

fn handed_over(t: &Transcript) -> bool {
    t.messages.iter().rev().find_map(|m| m.tool_calls.last()).is_some_and(|c| HAND_OVER.is_match(&c.name))
}

static CONFIRMS: LazyLock<Regex> = LazyLock::new(|| {
    Regex::new(r"(?i)^\W*(?:ok(?:ay)?|success|done|completed|passed|(?:all )?(?:\d+ )?tests? passed)\W*$|^.{0,120}\b(?:successfully|(?:all|\d+) tests? passed|(?:is|was) successful|has been (?:completed|confirmed|created|updated|saved|sent|cancel+ed|booked))\b|\b(?:answer|solution) is (?:correct|right)\b")
        .expect("the pattern is valid")
});

fn confirms(result: &ToolResult<'_>) -> bool {
    if result.failed || HAND_OVER.is_match(result.tool) {
        return false;
    }
    let text = result.text.trim();
    match serde_json::from_str::<Value>(text) {
        Ok(Value::Object(fields)) => {
            fields.iter().any(|(name, value)| match name.to_ascii_lowercase().as_str() {
                "success" | "ok" | "succeeded" | "confirmed" => value == &Value::Bool(true),
                "status" | "result" => value.as_str().is_some_and(|s| {
                    matches!(
                        s.to_ascii_lowercase().as_str(),
                        "ok" | "success" | "succeeded" | "completed" | "confirmed" | "done"
                    )
                }),
                _ => false,
            })
        }
        Ok(Value::String(text)) => CONFIRMS.is_match(&text),
        Ok(_) => false,
        Err(_) => text.chars().count() <= LONG && CONFIRMS.is_match(text) && !BUT.is_match(text),
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

    fn said(text: &str) -> Option<Vote> {
        vote_on(Script::new().user("Do it").answer("Done.").user(text).answer("Welcome."))
    }

    #[test]
    fn content_users_vote_success() {
        for (text, confidence) in [
            ("Thanks!", THANKS),
            ("Great, thank you so much.", THANKS),
            ("That works.", WORKS),
            ("Perfect", WORKS),
            ("Yes, do it. Thank you!", HALF_SAID),
        ] {
            let v = said(text).unwrap_or_else(|| panic!("{text}"));
            assert_eq!((v.value, v.confidence, v.step), (1.0, confidence, Some(0)), "{text}");
        }
    }

    #[test]
    fn thanks_with_a_but_are_none() {
        for text in [
            "Thanks, but it still fails.",
            "Thanks for nothing",
            "No, thank you.",
            "Does that work?",
            "Next: the tests",
            "Thanks. I also need a taxi.",
        ] {
            assert_eq!(said(text), None, "{text}");
        }
    }

    #[test]
    fn thanks_after_a_hand_over_are_manners() {
        let s = Script::new()
            .user("Refund me")
            .call("transfer_to_human", "{}")
            .result("ok")
            .answer("Somebody comes.");
        assert_eq!(vote_on(s.user("Thank you.").answer("Bye.")), None);
    }

    #[test]
    fn thanks_before_anything_was_done_are_none() {
        assert_eq!(vote_on(Script::new().user("Find my order, thanks!").answer("Which?")), None);
    }

    #[test]
    fn a_tool_that_confirms_votes_success() {
        for text in [
            r#"{"success": true}"#,
            r#"{"status": "ok"}"#,
            "The order was successfully cancelled.",
            "5 tests passed",
        ] {
            assert_eq!(vote_on(Script::new().call("f", "{}").result(text)).expect(text).value, 1.0);
        }
    }

    #[test]
    fn a_tool_that_only_ran_confirms_little() {
        let s = Script::new().call("f", "{}").result("[Executed Successfully with No Output]");
        assert_eq!(vote_on(s).expect("a vote").confidence, HALF_SAID);
    }

    #[test]
    fn data_errors_and_hand_overs_confirm_nothing() {
        for text in [
            "[]",
            r#"{"status": "pending"}"#,
            r#"{"success": false}"#,
            "Error: the login was successful but expired",
        ] {
            assert_eq!(vote_on(Script::new().call("f", "{}").result(text)), None, "{text}");
        }
        assert_eq!(
            vote_on(Script::new().call("transfer_to_human", "{}").result(r#"{"success": true}"#)),
            None
        );
    }
}
