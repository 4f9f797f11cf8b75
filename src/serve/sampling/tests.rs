use llguidance::toktrie::SimpleVob;
use proptest::prelude::*;

use super::*;

fn greedy() -> Sampling {
    Sampling {
        temperature: 0.0,
        top_p: 1.0,
        seed: 1,
        bias: Arc::from([]),
        frequency_penalty: 0.0,
        presence_penalty: 0.0,
        logprobs: None,
    }
}

fn tokens(sampling: &Sampling, logits: &[f32], count: usize) -> Vec<u32> {
    let mut sampler = Sampler::new(sampling.clone(), 0);
    (0..count).map(|_| sampler.choose(&mut logits.to_vec(), None).unwrap().token).collect()
}

#[test]
fn greedy_takes_the_lowest_of_the_likeliest() {
    assert_eq!(tokens(&greedy(), &[0.0, 3.0, 3.0, 1.0], 2), [1, 1]);
    assert_eq!(tokens(&greedy(), &[f32::NEG_INFINITY, -1e30], 1), [1]);
}

#[test]
fn what_is_no_number_is_an_error_and_so_is_nothing_allowed() {
    let mut sampler = Sampler::new(greedy(), 0);
    assert_eq!(sampler.choose(&mut [0.0, f32::NAN], None), Err(Undecided::NotANumber));
    assert_eq!(sampler.choose(&mut [1.0, 2.0], Some(&SimpleVob::alloc(2))), Err(Undecided::NothingAllowed));
    assert_eq!(sampler.choose(&mut [f32::NEG_INFINITY; 3], None), Err(Undecided::NothingAllowed));
}

#[test]
fn biases_move_and_forbid() {
    let bias: Arc<[(u32, f32)]> = Arc::from([(0, 5.0), (1, -100.0), (99, 100.0)]);
    let sampling = Sampling { bias, ..greedy() };
    assert_eq!(tokens(&sampling, &[0.0, 50.0, 4.0], 1), [0], "a token that is not there is ignored");
}

#[test]
fn penalties_hold_back_what_was_said() {
    let logits = [2.0, 1.5, 1.2];
    let frequency = Sampling { frequency_penalty: 0.4, ..greedy() };
    assert_eq!(tokens(&frequency, &logits, 6), [0, 0, 1, 0, 2, 1]);
    let presence = Sampling { presence_penalty: 1.0, ..greedy() };
    assert_eq!(tokens(&presence, &logits, 5), [0, 1, 2, 0, 0]);
}

#[test]
fn a_mask_leaves_only_what_is_allowed() {
    let mut allowed = SimpleVob::alloc(4);
    allowed.allow_token(2);
    let chosen = Sampler::new(greedy(), 0).choose(&mut [9.0, 8.0, 1.0, 7.0, 99.0], Some(&allowed));
    assert_eq!(chosen.unwrap().token, 2, "tokens beyond the mask are forbidden, too");
}

#[test]
fn the_same_seed_draws_the_same_and_choices_differ() {
    let sampling = Sampling { temperature: 1.0, seed: 42, ..greedy() };
    let logits = [0.0; 64];
    assert_eq!(tokens(&sampling, &logits, 16), tokens(&sampling, &logits, 16));
    let mut other = Sampler::new(sampling.clone(), 1);
    let others: Vec<u32> = (0..16).map(|_| other.choose(&mut logits.to_vec(), None).unwrap().token).collect();
    assert_ne!(tokens(&sampling, &logits, 16), others);
}

#[test]
fn draws_follow_the_distribution() {
    let sampling = Sampling { temperature: 1.0, seed: 3, ..greedy() };
    let logits = [0.5_f32.ln(), 0.3_f32.ln(), 0.2_f32.ln()];
    let drawn = tokens(&sampling, &logits, 20_000);
    for (token, expected) in [(0, 0.5), (1, 0.3), (2, 0.2)] {
        let share = drawn.iter().filter(|t| **t == token).count() as f64 / 20_000.0;
        assert!((share - expected).abs() < 0.015, "{token}: {share}");
    }
    let nucleus = Sampling { top_p: 0.6, ..sampling };
    let drawn = tokens(&nucleus, &logits, 20_000);
    assert!(!drawn.contains(&2), "the first two have 0.8 already");
    let share = drawn.iter().filter(|t| **t == 0).count() as f64 / 20_000.0;
    assert!((share - 0.625).abs() < 0.015, "{share}");
}

#[test]
fn reported_probabilities_are_the_models_own() {
    let bias: Arc<[(u32, f32)]> = Arc::from([(2, 50.0)]);
    let sampling = Sampling { bias, logprobs: Some(2), ..greedy() };
    let logits = [0.5_f32.ln(), 0.3_f32.ln(), 0.2_f32.ln()];
    let chosen = Sampler::new(sampling, 0).choose(&mut logits.clone(), None).unwrap();
    let likely = chosen.likely.unwrap();
    assert_eq!(chosen.token, 2);
    assert!((likely.logprob - 0.2_f32.ln()).abs() < 1e-6, "{}", likely.logprob);
    let top: Vec<u32> = likely.top.iter().map(|(t, _)| *t).collect();
    assert_eq!(top, [0, 1]);
    assert!((likely.top[0].1 - 0.5_f32.ln()).abs() < 1e-6);
}

proptest! {
    /// The pruning before the sort changes nothing.
    #[test]
    fn the_nucleus_is_that_of_a_full_sort(
        logits in prop::collection::vec(-8.0_f32..8.0, 1..40),
        top_p in 0.0_f64..1.0,
        temperature in 0.1_f64..2.0,
        unit in 0.0_f64..1.0,
    ) {
        let highest = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let drawn = nucleus::draw(&logits, highest, temperature, top_p, unit);
        let weight = |l: f32| (f64::from(l - highest) / temperature).exp();
        let sum: f64 = logits.iter().map(|&l| weight(l)).sum();
        let mut order: Vec<usize> = (0..logits.len()).collect();
        order.sort_by(|a, b| weight(logits[*b]).total_cmp(&weight(logits[*a])).then(a.cmp(b)));
        let mut mass = 0.0;
        let mut within = Vec::new();
        for token in order {
            within.push(token);
            mass += weight(logits[token]);
            if mass >= top_p * sum { break }
        }
        prop_assert!(within.contains(&(drawn as usize)));
    }
}
