use super::combine::Accuracies;
use crate::model::{FailingStep, Transcript, Vote, VoteSource};

/// The step of a failed trajectory to look at first; none where it has no steps.
///
/// In this order: the first unrecovered tool error, the step before the user's correction, the step that the strongest
/// vote for failure points at, the last step. Only meaningful for failures.
#[must_use]
pub fn failing_step(t: &Transcript, votes: &[Vote]) -> Option<FailingStep> {
    let last = t.steps.len().checked_sub(1)?;
    let against = |v: &&Vote| v.value < 0.5 && v.step.is_some_and(|s| s <= last);
    let by = |source: VoteSource| votes.iter().filter(against).find(|v| v.source == source);
    let accuracies = Accuracies::default();
    let found = by(VoteSource::ToolError).or_else(|| by(VoteSource::UserCorrection)).or_else(|| {
        votes
            .iter()
            .filter(against)
            // The first of equals: votes come in a fixed order.
            .rev()
            .max_by(|a, b| accuracies.weight(a).total_cmp(&accuracies.weight(b)))
    });
    Some(match found {
        Some(vote) => FailingStep { step: vote.step.unwrap_or(last), reason: vote.evidence.clone() },
        None => FailingStep { step: last, reason: "The last step: no sign points at an earlier one".into() },
    })
}

#[cfg(test)]
mod tests {
    use super::super::detect::script::Script;
    use super::*;

    fn vote(source: VoteSource, value: f64, confidence: f64, step: Option<usize>) -> Vote {
        Vote { evidence: source.to_string(), source, value, confidence, step }
    }

    fn three_steps() -> Transcript {
        Script::new().answer("a").answer("b").answer("c").done()
    }

    fn step(votes: &[Vote]) -> usize {
        failing_step(&three_steps(), votes).expect("there are steps").step
    }

    #[test]
    fn tool_errors_come_before_corrections_before_the_strongest_vote_before_the_last_step() {
        let last = vote(VoteSource::Abandonment, 0.0, 0.55, None);
        let strong = vote(VoteSource::HttpError, 0.0, 0.99, Some(2));
        let weak = vote(VoteSource::RepeatedCall, 0.0, 0.7, Some(1));
        let correction = vote(VoteSource::UserCorrection, 0.0, 0.55, Some(1));
        let error = vote(VoteSource::ToolError, 0.0, 0.6, Some(0));
        let mut votes = vec![last];
        assert_eq!(step(&votes), 2);
        votes.push(weak);
        assert_eq!(step(&votes), 1);
        votes.push(strong);
        assert_eq!(step(&votes), 2);
        votes.push(correction);
        assert_eq!(step(&votes), 1);
        votes.push(error);
        assert_eq!(step(&votes), 0);
    }

    #[test]
    fn votes_for_success_or_beyond_the_end_point_nowhere() {
        assert_eq!(step(&[vote(VoteSource::Acknowledgement, 1.0, 0.9, Some(0))]), 2);
        assert_eq!(step(&[vote(VoteSource::ToolError, 0.0, 0.9, Some(9))]), 2);
    }

    #[test]
    fn without_steps_there_is_none() {
        assert_eq!(failing_step(&Script::new().user("x").done(), &[]), None);
    }
}
