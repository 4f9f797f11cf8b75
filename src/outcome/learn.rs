use std::collections::{BTreeMap, HashMap, HashSet};

use super::combine::{Accuracies, clamp, feedback, group, heuristics, logit, seed, sigmoid};
use crate::model::{TrajectoryId, Vote, VoteSource};

/// A source is judged by at least so many votes that can be compared with others.
const ENOUGH: u64 = 5;
/// The seed weighs as much as so many votes.
const SEED_VOTES: f64 = 10.0;
const ROUNDS: usize = 100;
/// Rounds stop when no accuracy moves by more than this.
const STILL: f64 = 1e-7;

/// Learns how often each source is right from how the sources agree: (source, accuracy, votes it was learned from),
/// sorted by source.
///
/// Expectation-maximisation for the one-coin model of Dawid and Skene ("Maximum Likelihood Estimation of Observer
/// Error-Rates Using the EM Algorithm", Applied Statistics 28(1), 1979): each source is right with one probability,
/// whatever the truth, and even odds are the prior of each trajectory. The seed counts as ten votes.
///
/// Who judges: feedback, held at its seed, and sources that have voted for both sides. Two sources that only ever vote
/// for one side each agree or disagree by construction wherever they meet, which says nothing of either. Neither do
/// sources of one group judge each other, since they share their mistakes. Votes that nobody judges are left out.
#[must_use]
pub fn learn(votes: &HashMap<TrajectoryId, Vec<Vote>>) -> Vec<(String, f64, u64)> {
    // In order of ids: sums in floating point depend on the order.
    let trajectories: BTreeMap<_, _> = votes.iter().collect();
    let mut sources: BTreeMap<VoteSource, u64> = BTreeMap::new();
    let mut cases: Vec<(&Vote, Vec<Vote>)> = Vec::new();
    let two_sided = two_sided(votes);
    for (_, votes) in trajectories {
        for vote in votes.iter().filter(|v| group(&v.source).is_some()) {
            let own = group(&vote.source);
            let judges = |v: &&Vote| group(&v.source) != own && two_sided.contains(&v.source);
            let judges: Vec<Vote> = votes.iter().filter(judges).cloned().collect();
            let count = sources.entry(vote.source.clone()).or_default();
            if !judges.is_empty() {
                *count += 1;
                cases.push((vote, judges));
            }
        }
    }
    let mut accuracies: BTreeMap<&VoteSource, f64> = sources.keys().map(|s| (s, seed(s))).collect();
    for _ in 0..ROUNDS {
        let names = accuracies.iter().map(|(s, a)| (s.to_string(), *a)).collect();
        let current = Accuracies::from_learned(names);
        let mut right: BTreeMap<&VoteSource, f64> = BTreeMap::new();
        for (vote, judges) in &cases {
            let others = heuristics(judges, &current) + feedback(judges, &current).unwrap_or(0.0);
            // Responsibility: the truth is on this vote's side, given the others and the source's own accuracy.
            let agrees = if vote.value >= 0.5 { others } else { -others };
            let own = logit(clamp(accuracies[&vote.source]));
            *right.entry(&vote.source).or_default() += sigmoid(agrees + own);
        }
        let mut moved: f64 = 0.0;
        for (source, accuracy) in &mut accuracies {
            let n = sources[*source];
            if n < ENOUGH {
                continue;
            }
            let right = right.get(*source).copied().unwrap_or_default();
            let next = clamp((SEED_VOTES * seed(source) + right) / (SEED_VOTES + n as f64));
            moved = moved.max((next - *accuracy).abs());
            *accuracy = next;
        }
        if moved < STILL {
            break;
        }
    }
    accuracies.into_iter().map(|(source, accuracy)| (source.to_string(), accuracy, sources[source])).collect()
}

/// Feedback, and the sources that have voted for success as well as for failure.
fn two_sided(votes: &HashMap<TrajectoryId, Vec<Vote>>) -> HashSet<VoteSource> {
    let mut sides: HashMap<&VoteSource, (bool, bool)> = HashMap::new();
    for vote in votes.values().flatten() {
        let (success, failure) = sides.entry(&vote.source).or_default();
        *success |= vote.value > 0.5;
        *failure |= vote.value < 0.5;
    }
    let both = |(source, (success, failure)): (&VoteSource, (bool, bool))| {
        (group(source).is_none() || (success && failure)).then(|| source.clone())
    };
    sides.into_iter().filter_map(both).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Numerical Recipes' quick generator; good enough to draw votes.
    struct Lcg(u64);

    impl Lcg {
        fn unit(&mut self) -> f64 {
            self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (self.0 >> 11) as f64 / (1u64 << 53) as f64
        }
    }

    fn vote(source: VoteSource, right: bool, truth: bool) -> Vote {
        let confidence = seed(&source);
        let value = if right == truth { 1.0 } else { 0.0 };
        Vote { source, value, confidence, step: None, evidence: String::new() }
    }

    /// `n` trajectories, each source voting on most of them with its accuracy; a share of them with feedback.
    fn simulated(
        n: usize,
        sources: &[(VoteSource, f64)],
        with_feedback: f64,
    ) -> HashMap<TrajectoryId, Vec<Vote>> {
        let mut rng = Lcg(7);
        (0..n)
            .map(|_| {
                let truth = rng.unit() < 0.5;
                let mut votes = Vec::new();
                for (source, accuracy) in sources {
                    if rng.unit() < 0.9 {
                        votes.push(vote(source.clone(), rng.unit() < *accuracy, truth));
                    }
                }
                if rng.unit() < with_feedback {
                    votes.push(vote(VoteSource::Feedback("user".into()), true, truth));
                }
                (TrajectoryId::new(), votes)
            })
            .collect()
    }

    /// One of each group.
    fn sources() -> [(VoteSource, f64); 5] {
        [
            (VoteSource::ToolError, 0.9),
            (VoteSource::Truncation, 0.6),
            (VoteSource::Refusal, 0.8),
            (VoteSource::UserCorrection, 0.85),
            (VoteSource::Acknowledgement, 0.7),
        ]
    }

    fn assert_recovered(learned: &[(String, f64, u64)], tolerance: f64) {
        for (source, truth) in sources() {
            let (_, found, _) = learned.iter().find(|(s, ..)| *s == source.to_string()).expect("it voted");
            assert!((found - truth).abs() < tolerance, "{source}: {found} for {truth}");
        }
    }

    #[test]
    fn known_accuracies_are_recovered_from_agreement_alone() {
        assert_recovered(&learn(&simulated(3_000, &sources(), 0.0)), 0.04);
    }

    #[test]
    fn known_accuracies_are_recovered_with_feedback() {
        assert_recovered(&learn(&simulated(1_500, &sources(), 0.5)), 0.04);
    }

    #[test]
    fn a_source_of_one_side_is_measured_against_feedback() {
        let mut rng = Lcg(3);
        let votes = (0..600)
            .map(|_| {
                let truth = rng.unit() < 0.6;
                let error = vote(VoteSource::ToolError, !truth, truth);
                (TrajectoryId::new(), vec![error, vote(VoteSource::Feedback("user".into()), true, truth)])
            })
            .collect();
        let learned = learn(&votes);
        assert!(learned[0].1 < 0.55, "right in 40 %: useless, not the opposite: {learned:?}");
    }

    #[test]
    fn few_votes_stay_at_the_seed_and_some_near_it() {
        let few = learn(&simulated(4, &sources(), 1.0));
        assert!(few.iter().all(|(s, a, _)| *a == seed(&s.parse().expect("a source"))), "{few:?}");
        let some = learn(&simulated(12, &[(VoteSource::ToolError, 1.0)], 1.0));
        assert!((0.75..0.9).contains(&some[0].1) && some[0].2 >= ENOUGH, "{some:?}");
    }

    #[test]
    fn sources_of_one_side_each_do_not_judge_each_other() {
        let votes = (0..100)
            .map(|_| {
                let votes = vec![
                    vote(VoteSource::ToolError, true, false),
                    vote(VoteSource::UserCorrection, true, false),
                    vote(VoteSource::Acknowledgement, true, true),
                ];
                (TrajectoryId::new(), votes)
            })
            .collect();
        for (source, accuracy, n) in learn(&votes) {
            assert_eq!((accuracy, n), (seed(&source.parse().expect("a source")), 0), "{source}");
        }
    }

    #[test]
    fn lone_votes_teach_nothing() {
        let votes = simulated(500, &[(VoteSource::ToolError, 0.5)], 0.0);
        assert_eq!(learn(&votes), [("tool_error".to_owned(), 0.75, 0)]);
    }

    #[test]
    fn the_same_votes_teach_the_same() {
        let votes = simulated(300, &sources(), 0.2);
        let again: HashMap<_, _> = votes.iter().map(|(k, v)| (*k, v.clone())).collect();
        assert_eq!(learn(&votes), learn(&again));
        assert_eq!(learn(&HashMap::new()), []);
    }
}
