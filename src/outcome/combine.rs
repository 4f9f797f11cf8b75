use std::collections::HashMap;

use crate::model::{Label, Vote, VoteSource};

/// How often each source is right, 0.5 to 1.
#[derive(Clone, Debug, Default)]
pub struct Accuracies {
    learned: HashMap<String, f64>,
}

impl Accuracies {
    /// What was learned, by the source's name; sources that are not in it keep their seed.
    #[must_use]
    pub fn from_learned(learned: HashMap<String, f64>) -> Self {
        Self { learned }
    }

    /// How often a source is right.
    #[must_use]
    pub fn of(&self, source: &VoteSource) -> f64 {
        match source {
            // Feedback is the yardstick, never judged by the heuristics.
            VoteSource::Feedback(_) => seed(source),
            _ => self.learned.get(&source.to_string()).map_or_else(|| seed(source), |a| clamp(*a)),
        }
    }

    /// Log-odds that a vote adds for its side, never negative: the vote's own confidence, moved by as much as the
    /// source turned out better or worse than its seed.
    pub(super) fn weight(&self, vote: &Vote) -> f64 {
        let moved = logit(self.of(&vote.source)) - logit(seed(&vote.source));
        (logit(clamp(vote.confidence)) + moved).clamp(0.0, logit(MOST))
    }
}

/// Learned and stated accuracies stay within these: a source is at worst useless and never infallible.
const LEAST: f64 = 0.5;
const MOST: f64 = 0.99;

pub(super) fn clamp(accuracy: f64) -> f64 {
    if accuracy.is_nan() { LEAST } else { accuracy.clamp(LEAST, MOST) }
}

pub(super) fn logit(p: f64) -> f64 {
    (p / (1.0 - p)).ln()
}

pub(super) fn sigmoid(x: f64) -> f64 {
    1.0 / (1.0 + (-x).exp())
}

/// Where a source starts, until its own scope has taught better.
pub(super) fn seed(source: &VoteSource) -> f64 {
    match source {
        VoteSource::Feedback(_) => 0.95,
        VoteSource::ToolError | VoteSource::HttpError => 0.75,
        VoteSource::ArgumentsSchema
        | VoteSource::OutputSchema
        | VoteSource::RepeatedCall
        | VoteSource::Truncation
        | VoteSource::Refusal
        | VoteSource::UserCorrection => 0.7,
        VoteSource::Acknowledgement => 0.6,
        VoteSource::Abandonment => 0.55,
    }
}

/// Sources that look at the same thing: their agreement says little.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Group {
    Tools,
    Ending,
    Answer,
    User,
    Content,
}

/// None for feedback, each giver of which is on its own.
pub(super) fn group(source: &VoteSource) -> Option<Group> {
    Some(match source {
        VoteSource::Feedback(_) => return None,
        VoteSource::ToolError | VoteSource::ArgumentsSchema | VoteSource::RepeatedCall => Group::Tools,
        VoteSource::Truncation | VoteSource::HttpError | VoteSource::Abandonment => Group::Ending,
        VoteSource::OutputSchema | VoteSource::Refusal => Group::Answer,
        VoteSource::UserCorrection => Group::User,
        VoteSource::Acknowledgement => Group::Content,
    })
}

/// What each further vote of a group and side adds, relative to the strongest.
const FURTHER: f64 = 0.15;
/// Heuristics alone are never surer than this, in log-odds (p = 0.92) …
const HEURISTICS_AT_MOST: f64 = 2.5;
/// … and beside feedback they only tip the scales: feedback of 0.95 is 2.9.
const BESIDE_FEEDBACK: f64 = 1.0;

/// Log-odds of success by all votes but feedback.
pub(super) fn heuristics(votes: &[Vote], accuracies: &Accuracies) -> f64 {
    const GROUPS: [Group; 5] = [Group::Tools, Group::Ending, Group::Answer, Group::User, Group::Content];
    GROUPS
        .into_iter()
        .map(|g| {
            let side = |positive: bool| {
                let signed = votes
                    .iter()
                    .filter(|v| group(&v.source) == Some(g))
                    .map(|v| lean(v) * accuracies.weight(v));
                let mut weights: Vec<f64> = signed.filter(|w| (*w > 0.0) == positive).map(f64::abs).collect();
                // Sorted, so that the order of votes changes no bit of the sum.
                weights.sort_by(|a, b| b.total_cmp(a));
                weights.iter().enumerate().map(|(i, w)| if i == 0 { *w } else { FURTHER * w }).sum::<f64>()
            };
            side(true) - side(false)
        })
        .sum()
}

/// −1 for failure to 1 for success.
fn lean(vote: &Vote) -> f64 {
    if vote.value.is_nan() { 0.0 } else { 2.0 * vote.value.clamp(0.0, 1.0) - 1.0 }
}

/// Log-odds of success by feedback alone; none where there is none.
pub(super) fn feedback(votes: &[Vote], accuracies: &Accuracies) -> Option<f64> {
    let mut given: Vec<f64> =
        votes.iter().filter(|v| group(&v.source).is_none()).map(|v| lean(v) * accuracies.weight(v)).collect();
    given.sort_by(f64::total_cmp);
    (!given.is_empty()).then(|| given.iter().sum())
}

/// Between these the label model abstains.
const FAILURE_BELOW: f64 = 0.3;
const SUCCESS_ABOVE: f64 = 0.7;
/// One vote of 0.7 is just enough, whatever its way through the logarithm did to the last bit.
const ROUNDING: f64 = 1e-9;

/// The probability of success, and the verdict that it allows.
///
/// Log-odds of the votes are added up from even odds. No base rate is used as a prior: it would turn trajectories on
/// which nothing is known into successes or failures. Of a group of correlated sources the strongest vote counts and
/// the others add little; explicit feedback outweighs all heuristics together.
#[must_use]
pub fn combine(votes: &[Vote], accuracies: &Accuracies) -> (Option<f64>, Label) {
    if votes.is_empty() {
        return (None, Label::Unknown);
    }
    let heuristics = heuristics(votes, accuracies);
    let odds = match feedback(votes, accuracies) {
        Some(feedback) => feedback + heuristics.clamp(-BESIDE_FEEDBACK, BESIDE_FEEDBACK),
        None => heuristics.clamp(-HEURISTICS_AT_MOST, HEURISTICS_AT_MOST),
    };
    let p = sigmoid(odds);
    let label = if is_partial(votes) {
        Label::Partial
    } else if p <= FAILURE_BELOW + ROUNDING {
        Label::Failure
    } else if p >= SUCCESS_ABOVE - ROUNDING {
        Label::Success
    } else {
        Label::Unknown
    };
    (Some(p), label)
}

/// All feedback says something in between. Givers who contradict each other are no partial success.
fn is_partial(votes: &[Vote]) -> bool {
    let mut given = votes.iter().filter(|v| group(&v.source).is_none()).peekable();
    given.peek().is_some() && given.all(|v| v.value > FAILURE_BELOW && v.value < SUCCESS_ABOVE)
}

#[cfg(test)]
#[path = "combine_tests.rs"]
mod tests;
