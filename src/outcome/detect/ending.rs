//! Votes failure on how the last exchanges ended: cut off, refused by the upstream, left unanswered.

use super::observe::{is_person, quote};
use crate::model::{Ended, Role, Step, Transcript, Vote, VoteSource};

const TRUNCATED: f64 = 0.7;
/// The client may have seen enough.
const CANCELLED: f64 = 0.6;
const HTTP_ERROR: f64 = 0.75;
const ABANDONED: f64 = 0.55;

/// What APIs call an answer that hit its limit.
const LIMIT_REASONS: [&str; 5] = ["length", "max_tokens", "max_output_tokens", "incomplete", "model_length"];

/// The last answer is not whole.
pub(super) fn truncation_vote(t: &Transcript) -> Option<Vote> {
    let at = t.steps.len().checked_sub(1)?;
    let step = &t.steps[at];
    if went_wrong(step) {
        return None;
    }
    let vote = |confidence, evidence| {
        Some(Vote { source: VoteSource::Truncation, value: 0.0, confidence, step: Some(at), evidence })
    };
    match &step.finish_reason {
        Some(reason) if LIMIT_REASONS.contains(&reason.to_ascii_lowercase().as_str()) => {
            vote(TRUNCATED, format!("The last answer stopped at a limit: {}", quote(reason)))
        }
        // The model had finished, whatever became of the connection after.
        Some(_) => None,
        None => match step.ended {
            Ended::UpstreamReset | Ended::UpstreamTimeout | Ended::Interrupted => {
                vote(TRUNCATED, format!("The last answer broke off: {}", step.ended))
            }
            Ended::ClientCancelled => {
                vote(CANCELLED, "The client went away before the last answer was whole".into())
            }
            // Only the record of such an exchange is cut, not what the client got.
            Ended::Complete | Ended::TruncatedByLimit => None,
        },
    }
}

/// Whether an exchange gave an error instead of an answer.
fn went_wrong(step: &Step) -> bool {
    match step.status {
        Some(status) => status >= 400,
        None => matches!(step.ended, Ended::UpstreamReset | Ended::UpstreamTimeout),
    }
}

/// The trajectory ends in errors of the upstream; points at the first of them.
pub(super) fn http_error_vote(t: &Transcript) -> Option<Vote> {
    let errors = t.steps.iter().rev().take_while(|s| went_wrong(s)).count();
    let first = t.steps.get(t.steps.len() - errors)?;
    let what = match first.status {
        Some(status) => format!("status {status}"),
        None => first.ended.to_string(),
    };
    let evidence = match errors {
        1 => format!("The last request got no answer: {what}"),
        n => format!("The last {n} requests got no answer, the first of them: {what}"),
    };
    let step = Some(t.steps.len() - errors);
    Some(Vote { source: VoteSource::HttpError, value: 0.0, confidence: HTTP_ERROR, step, evidence })
}

/// Somebody waits for an answer that never came. Calls without a result at the very end do not count: agents end
/// with a call of a tool such as `submit`.
pub(super) fn abandonment_vote(t: &Transcript) -> Option<Vote> {
    let last = t.messages.last()?;
    let who = match last.role {
        Role::Tool => "A tool's result",
        Role::User if is_person(last) => "The user's last message",
        Role::User => "An observation",
        Role::System | Role::Assistant => return None,
    };
    let step = t.steps.len().checked_sub(1);
    let evidence = format!("{who} was never answered: {}", quote(&last.text));
    Some(Vote { source: VoteSource::Abandonment, value: 0.0, confidence: ABANDONED, step, evidence })
}

#[cfg(test)]
mod tests {
    use super::super::script::Script;
    use super::*;

    fn answered() -> Script {
        Script::new().user("Hello?").answer("Hello.")
    }

    fn finished(reason: Option<&str>, ended: Ended) -> Transcript {
        let reason = reason.map(str::to_owned);
        answered()
            .last_step(|s| {
                s.finish_reason = reason;
                s.ended = ended;
            })
            .done()
    }

    #[test]
    fn an_answer_that_hit_its_limit_or_broke_off_is_truncated() {
        for (reason, ended) in [
            (Some("length"), Ended::Complete),
            (Some("max_tokens"), Ended::Complete),
            (Some("MAX_TOKENS"), Ended::Complete),
            (Some("incomplete"), Ended::Complete),
            (None, Ended::UpstreamReset),
            (None, Ended::UpstreamTimeout),
            (None, Ended::ClientCancelled),
        ] {
            assert_eq!(
                truncation_vote(&finished(reason, ended)).expect("a vote").step,
                Some(0),
                "{reason:?} {ended}"
            );
        }
    }

    #[test]
    fn a_whole_answer_is_not_truncated() {
        for (reason, ended) in [
            (Some("stop"), Ended::Complete),
            (Some("stop"), Ended::ClientCancelled),
            (Some("tool_calls"), Ended::Complete),
            (None, Ended::Complete),
            (None, Ended::TruncatedByLimit),
        ] {
            assert_eq!(truncation_vote(&finished(reason, ended)), None, "{reason:?} {ended}");
        }
        assert_eq!(truncation_vote(&Script::new().done()), None);
    }

    #[test]
    fn only_the_last_answer_can_be_truncated() {
        let t = answered()
            .last_step(|s| s.finish_reason = Some("length".into()))
            .user("Go on")
            .answer("Done.")
            .done();
        assert_eq!(truncation_vote(&t), None);
    }

    #[test]
    fn errors_at_the_end_vote_and_point_at_the_first() {
        let t = answered()
            .failed_request(Some(429), Ended::Complete)
            .failed_request(None, Ended::UpstreamReset)
            .done();
        let v = http_error_vote(&t).expect("a vote");
        assert_eq!(v.step, Some(1));
        assert!(v.evidence.contains("429"));
        assert_eq!(truncation_vote(&t), None);
    }

    #[test]
    fn an_error_with_a_success_after_is_recovered() {
        let t = Script::new().failed_request(Some(500), Ended::Complete).user("x").answer("y").done();
        assert_eq!(http_error_vote(&t), None);
        assert_eq!(http_error_vote(&Script::new().done()), None);
    }

    #[test]
    fn unanswered_messages_are_abandoned() {
        assert!(abandonment_vote(&answered().user("And?").done()).is_some());
        assert!(abandonment_vote(&Script::new().call("f", "{}").result("ok").done()).is_some());
        assert_eq!(abandonment_vote(&answered().done()), None);
        assert_eq!(abandonment_vote(&Script::new().user("x").call("submit", "{}").done()), None);
    }
}
