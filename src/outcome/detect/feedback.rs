//! What people and downstream systems said outright.

use super::observe::quote;
use crate::model::{Feedback, Label, Vote, VoteSource};

const CONFIDENCE: f64 = 0.95;
/// Whoever only says what the answer should have been was not served, but does not say how badly.
const CORRECTION_ONLY: f64 = 0.85;

/// One vote for each source: its latest word.
pub(in crate::outcome) fn votes(feedback: &[Feedback]) -> Vec<Vote> {
    let mut votes: Vec<Vote> = Vec::new();
    for vote in feedback.iter().filter_map(vote) {
        match votes.iter_mut().find(|v| v.source == vote.source) {
            Some(earlier) => *earlier = vote,
            None => votes.push(vote),
        }
    }
    votes
}

fn vote(f: &Feedback) -> Option<Vote> {
    let reward = f.reward.filter(|r| r.is_finite()).map(|r| r.clamp(0.0, 1.0));
    let (value, confidence) = match (f.label, reward) {
        (Some(Label::Success), _) => (1.0, CONFIDENCE),
        (Some(Label::Failure), _) => (0.0, CONFIDENCE),
        (Some(Label::Partial), _) => (0.5, CONFIDENCE),
        (None | Some(Label::Unknown), Some(reward)) => (reward, CONFIDENCE),
        (None | Some(Label::Unknown), None) if f.correction.is_some() => (0.0, CORRECTION_ONLY),
        (None | Some(Label::Unknown), None) => return None,
    };
    let said = match (f.label, reward) {
        (Some(label), Some(reward)) => format!("{label}, reward {reward}"),
        (Some(label), None) => label.to_string(),
        (None, Some(reward)) => format!("reward {reward}"),
        (None, None) => "a correction".into(),
    };
    let words = f.comment.as_deref().or(f.correction.as_deref()).map(quote).filter(|q| !q.is_empty());
    let evidence = match words {
        Some(words) => format!("{} gave {said}: {words}", f.source),
        None => format!("{} gave {said}", f.source),
    };
    Some(Vote { source: VoteSource::Feedback(f.source.clone()), value, confidence, step: None, evidence })
}

#[cfg(test)]
pub(in crate::outcome) mod tests {
    use super::*;
    use crate::model::Micros;

    pub(in crate::outcome) fn says(source: &str, label: Option<Label>, reward: Option<f64>) -> Feedback {
        Feedback {
            label,
            reward,
            correction: None,
            comment: None,
            source: source.into(),
            given: Micros::now(),
        }
    }

    #[test]
    fn labels_and_rewards_become_values() {
        for (label, reward, value) in [
            (Some(Label::Success), None, 1.0),
            (Some(Label::Failure), Some(0.9), 0.0),
            (Some(Label::Partial), None, 0.5),
            (None, Some(0.25), 0.25),
            (None, Some(7.0), 1.0),
        ] {
            let v = votes(&[says("user", label, reward)]);
            assert_eq!((v[0].value, v[0].confidence), (value, CONFIDENCE), "{label:?} {reward:?}");
            assert_eq!(v[0].source, VoteSource::Feedback("user".into()));
        }
    }

    #[test]
    fn a_comment_alone_or_a_broken_reward_does_not_vote() {
        assert_eq!(votes(&[Feedback { comment: Some("hm".into()), ..says("user", None, None) }]), []);
        assert_eq!(votes(&[says("user", None, Some(f64::NAN))]), []);
    }

    #[test]
    fn a_correction_alone_is_a_failure() {
        let f = Feedback { correction: Some("Berlin".into()), ..says("user", None, None) };
        assert_eq!(votes(&[f])[0].value, 0.0);
    }

    #[test]
    fn the_latest_word_of_each_source_counts() {
        let v = votes(&[
            says("user", Some(Label::Failure), None),
            says("crm", Some(Label::Failure), None),
            says("user", Some(Label::Success), None),
        ]);
        assert_eq!(v.iter().map(|v| v.value).collect::<Vec<_>>(), [1.0, 0.0]);
    }
}
