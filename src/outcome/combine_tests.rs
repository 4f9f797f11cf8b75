use proptest::prelude::*;

use super::*;

const NAMED: [VoteSource; 10] = [
    VoteSource::ToolError,
    VoteSource::ArgumentsSchema,
    VoteSource::OutputSchema,
    VoteSource::RepeatedCall,
    VoteSource::Truncation,
    VoteSource::Refusal,
    VoteSource::HttpError,
    VoteSource::UserCorrection,
    VoteSource::Acknowledgement,
    VoteSource::Abandonment,
];

fn vote(source: VoteSource, value: f64, confidence: f64) -> Vote {
    Vote { source, value, confidence, step: None, evidence: String::new() }
}

fn sure(source: VoteSource, value: f64) -> Vote {
    let confidence = seed(&source);
    vote(source, value, confidence)
}

fn user(value: f64) -> Vote {
    sure(VoteSource::Feedback("user".into()), value)
}

fn p(votes: &[Vote]) -> f64 {
    combine(votes, &Accuracies::default()).0.expect("there are votes")
}

#[test]
fn without_votes_nothing_is_known() {
    assert_eq!(combine(&[], &Accuracies::default()), (None, Label::Unknown));
}

#[test]
fn one_vote_is_as_sure_as_its_confidence() {
    assert!((p(&[vote(VoteSource::ToolError, 0.0, 0.75)]) - 0.25).abs() < 1e-12);
    assert!((p(&[user(1.0)]) - 0.95).abs() < 1e-12);
}

#[test]
fn divided_or_weak_votes_abstain() {
    let divided = [sure(VoteSource::ToolError, 0.0), sure(VoteSource::Acknowledgement, 1.0)];
    assert_eq!(combine(&divided, &Accuracies::default()).1, Label::Unknown);
    assert_eq!(combine(&[sure(VoteSource::Abandonment, 0.0)], &Accuracies::default()).1, Label::Unknown);
    assert_eq!(combine(&[sure(VoteSource::ToolError, 0.0)], &Accuracies::default()).1, Label::Failure);
    for (value, label) in [(0.0, Label::Failure), (1.0, Label::Success)] {
        let bound = [vote(VoteSource::UserCorrection, value, 0.7)];
        assert_eq!(combine(&bound, &Accuracies::default()).1, label);
    }
}

#[test]
fn sources_of_one_group_count_less_than_independent_ones() {
    let alike = p(&[sure(VoteSource::ToolError, 0.0), sure(VoteSource::RepeatedCall, 0.0)]);
    let apart = p(&[sure(VoteSource::ToolError, 0.0), sure(VoteSource::UserCorrection, 0.0)]);
    assert!(apart < alike && alike < p(&[sure(VoteSource::ToolError, 0.0)]));
}

#[test]
fn feedback_outweighs_all_heuristics() {
    let mut votes = vec![user(1.0)];
    votes.extend(NAMED.iter().map(|s| vote(s.clone(), 0.0, 0.99)));
    assert_eq!(combine(&votes, &Accuracies::default()).1, Label::Success);
}

#[test]
fn only_feedback_makes_a_partial() {
    let label = |votes: &[Vote]| combine(votes, &Accuracies::default()).1;
    assert_eq!(label(&[user(0.5), sure(VoteSource::ToolError, 0.0)]), Label::Partial);
    assert_eq!(label(&[user(1.0), sure(VoteSource::Feedback("crm".into()), 0.0)]), Label::Unknown);
    assert_eq!(label(&[user(0.9)]), Label::Success);
    assert_eq!(label(&[vote(VoteSource::ToolError, 0.5, 0.9)]), Label::Unknown);
}

#[test]
fn a_source_that_proved_useless_counts_nothing_and_a_better_one_more() {
    let learned = |a| Accuracies::from_learned(HashMap::from([("tool_error".to_owned(), a)]));
    let p = |a| combine(&[sure(VoteSource::ToolError, 0.0)], &learned(a)).0.expect("a vote");
    assert!((p(0.5) - 0.5).abs() < 1e-12);
    assert!((p(0.9) - 0.1).abs() < 1e-9);
    assert!(p(f64::NAN).is_finite());
}

fn any_vote() -> impl Strategy<Value = Vote> {
    let source = prop_oneof![
        proptest::sample::select(NAMED.to_vec()),
        proptest::sample::select(vec![
            VoteSource::Feedback("user".into()),
            VoteSource::Feedback("crm".into())
        ]),
    ];
    (source, prop_oneof![Just(0.0), Just(1.0), 0.0..=1.0], 0.5..=1.0)
        .prop_map(|(source, value, confidence)| vote(source, value, confidence))
}

proptest! {
    #[test]
    fn another_success_never_lowers_p_and_another_failure_never_raises_it(
        votes in proptest::collection::vec(any_vote(), 0..8),
        source in proptest::sample::select(NAMED.to_vec()),
        confidence in 0.5..=1.0,
    ) {
        let p = |votes: &[Vote]| combine(votes, &Accuracies::default()).0.unwrap_or(0.5);
        let before = p(&votes);
        for (source, value) in [(source.clone(), 1.0), (source, 0.0)] {
            let mut more = votes.clone();
            more.push(vote(source, value, confidence));
            let after = p(&more);
            let moved = if value == 1.0 { after - before } else { before - after };
            prop_assert!(moved >= -1e-12, "{before} became {after}");
        }
    }

    #[test]
    fn first_feedback_never_moves_p_against_itself(
        source in proptest::sample::select(NAMED.to_vec()), value in prop_oneof![Just(0.0), Just(1.0)],
    ) {
        let heuristics = vec![vote(source, value, 0.99); 4];
        let mut more = heuristics.clone();
        more.push(user(value));
        prop_assert!((p(&more) - value).abs() <= (p(&heuristics) - value).abs() + 1e-12);
    }

    #[test]
    fn the_order_of_votes_changes_nothing(
        (votes, shuffled) in proptest::collection::vec(any_vote(), 0..10)
            .prop_flat_map(|v| (Just(v.clone()), Just(v).prop_shuffle())),
    ) {
        prop_assert_eq!(combine(&votes, &Accuracies::default()), combine(&shuffled, &Accuracies::default()));
    }
}
