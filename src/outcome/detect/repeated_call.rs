//! Votes failure when the model goes round in circles.

use std::collections::HashMap;

use super::observe::{ToolResult, quote, step_at};
use crate::model::{Role, Transcript, Vote, VoteSource};
use crate::wire::canonical_json;

/// So many times the same is a circle; twice is often a retry.
const TIMES: usize = 3;
const CONFIDENCE: f64 = 0.7;

/// The same call with the same result, or, of agents that act in text, the same answer, at least three times.
///
/// The result is compared too: polling until something changes is no circle.
pub(super) fn vote(t: &Transcript, results: &[ToolResult<'_>]) -> Option<Vote> {
    let mut seen: HashMap<(&str, String, &str), usize> = HashMap::new();
    for r in results {
        let Some(call) = r.call else { continue };
        let times = seen.entry((r.tool, canonical_json(&call.arguments), r.text.trim())).or_default();
        *times += 1;
        if *times == TIMES {
            let evidence = format!(
                "{} was called {TIMES} times with the same arguments and result: {}",
                r.tool,
                quote(&call.arguments)
            );
            return Some(cast(r.step, evidence));
        }
    }
    let mut said: HashMap<&str, usize> = HashMap::new();
    for (index, m) in t.messages.iter().enumerate() {
        let text = m.text.trim();
        if m.role != Role::Assistant || !m.tool_calls.is_empty() || text.is_empty() {
            continue;
        }
        let times = said.entry(text).or_default();
        *times += 1;
        if *times == TIMES {
            return Some(cast(
                step_at(t, index),
                format!("The same answer was given {TIMES} times: {}", quote(text)),
            ));
        }
    }
    None
}

fn cast(step: Option<usize>, evidence: String) -> Vote {
    Vote { source: VoteSource::RepeatedCall, value: 0.0, confidence: CONFIDENCE, step, evidence }
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
    fn three_equal_calls_are_a_circle_however_written() {
        let s = Script::new()
            .call("f", r#"{"a":1,"b":2}"#)
            .result("x")
            .call("f", r#"{"b": 2, "a": 1}"#)
            .result("x")
            .call("f", r#"{"a":1, "b":2}"#)
            .result("x");
        assert_eq!(vote_on(s).expect("a vote").step, Some(2));
    }

    #[test]
    fn two_equal_calls_or_three_unlike_ones_are_none() {
        assert_eq!(vote_on(Script::new().call("f", "{}").result("x").call("f", "{}").result("x")), None);
        let s =
            Script::new().call("f", "1").result("x").call("f", "2").result("x").call("g", "1").result("x");
        assert_eq!(vote_on(s), None);
    }

    #[test]
    fn polling_that_gets_news_is_no_circle() {
        let s = Script::new()
            .call("f", "{}")
            .result("10 %")
            .call("f", "{}")
            .result("50 %")
            .call("f", "{}")
            .result("done");
        assert_eq!(vote_on(s), None);
    }

    #[test]
    fn three_equal_answers_are_a_circle() {
        let s = Script::new().answer("Go on.").user("a").answer("Go on.").user("b").answer("Go on.");
        assert_eq!(vote_on(s).expect("a vote").step, Some(2));
        assert_eq!(
            vote_on(Script::new().answer("Yes.").user("a").answer("Yes.").user("b").answer("No.")),
            None
        );
    }
}
