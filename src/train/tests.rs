//! Runs on a tiny model.

use std::ops::ControlFlow;
use std::path::Path;

use ort::value::DynTensor;

use super::draw::first_adapter;
use super::*;
use crate::onnx::llama::block::Keep;
use crate::onnx::llama::stack::{Gradient, Stack, Targets};
use crate::onnx::program;
use crate::onnx::testing::{Noise, runtime, tiny_weights};

/// Sequences that count upwards from different starts, modulo 40: easy to learn, hard to guess.
fn counting(starts: std::ops::Range<u32>, goal: Goal) -> Vec<Example> {
    let one = |start: u32| {
        let length = 6 + start % 5;
        let tokens: Vec<u32> = (0..length).map(|i| (start * 3 + i * 2) % 40 + 5).collect();
        let weights = (0..length).map(|i| if i < 2 { 0.0 } else { 1.0 }).collect();
        Example { tokens, weights, goal }
    };
    starts.map(one).collect()
}

fn options() -> Options {
    Options {
        rank: 4,
        alpha: 8.0,
        epochs: 4.0,
        learning_rate: 1e-2,
        warmup: 3,
        batch: 4,
        pass_tokens: 48,
        evaluate_every: 5,
        save_every: 5,
        ..Options::default()
    }
}

fn stack(options: &Options) -> Stack {
    let runtime = runtime();
    Stack::new(&runtime, tiny_weights(&runtime, 11), Some(options.shape()), Keep::Products).unwrap()
}

struct Play<'a> {
    examples: &'a [Example],
    held_out: &'a [Example],
    options: &'a Options,
    state: Option<&'a Path>,
    /// Ends the run at this step.
    until: Option<u64>,
}

impl Play<'_> {
    fn run(&self) -> (Trained, Vec<Event>) {
        self.run_with(|_| ())
    }

    /// `heard` is told of each step before the run may save or end.
    fn run_with(&self, mut heard: impl FnMut(u64)) -> (Trained, Vec<Event>) {
        let mut events = Vec::new();
        let job = Job {
            examples: self.examples,
            held_out: self.held_out,
            options: self.options,
            state: self.state.map(|dir| Place { dir, base: "tiny" }),
        };
        let trained = run(&mut stack(self.options), &runtime(), &job, &mut |event| {
            events.push(event.clone());
            if let Event::Step { step, .. } = event {
                heard(*step);
            }
            match event {
                Event::Step { step, .. } if Some(*step) == self.until => ControlFlow::Break(()),
                _ => ControlFlow::Continue(()),
            }
        });
        (trained.unwrap(), events)
    }
}

#[test]
fn what_was_trained_on_is_learned_and_a_run_is_the_same_each_time() {
    let (examples, options) = (counting(0..16, Goal::Tokens), options());
    let play = Play { examples: &examples, held_out: &[], options: &options, state: None, until: None };
    let (first, events) = play.run();
    let losses = &first.report.losses;
    assert_eq!((first.report.step, first.report.steps, losses.len()), (16, 16, 16));
    assert!(losses[15] < 0.8 * losses[0], "{losses:?}");
    assert_eq!(events.len(), 16);
    assert_eq!(first.report.ended, Ended::Finished);
    let (second, _) = play.run();
    assert_eq!(first.lora, second.lora);
}

#[test]
fn a_resumed_run_equals_the_uninterrupted_one_bit_for_bit() {
    let (examples, held_out) = (counting(0..13, Goal::Tokens), counting(20..24, Goal::Tokens));
    let replay = counting(30..33, Goal::Base);
    let examples = [examples, replay].concat();
    let options = options();
    let whole =
        Play { examples: &examples, held_out: &held_out, options: &options, state: None, until: None };
    let (whole, _) = whole.run();
    let dir = tempfile::tempdir().unwrap();
    // Ended after step 6; the state of step 5 was saved on the way, and is what a kill would have left.
    let play = |until| Play {
        examples: &examples,
        held_out: &held_out,
        options: &options,
        state: Some(dir.path()),
        until,
    };
    let state = dir.path().join("state.safetensors");
    let mut killed = Vec::new();
    let (part, _) = play(Some(6)).run_with(|step| {
        if step == 6 {
            killed = std::fs::read(&state).unwrap();
        }
    });
    assert_eq!((part.report.ended, part.report.step), (Ended::Cancelled, 6));
    let (part, events) = play(Some(8)).run();
    assert!(matches!(events[0], Event::Resumed { step: 6 }), "{:?}", events[0]);
    assert_eq!(part.report.step, 8);
    std::fs::write(&state, killed).unwrap();
    let (resumed, events) = play(None).run();
    assert!(matches!(events[0], Event::Resumed { step: 5 }), "{:?}", events[0]);
    assert_eq!(resumed.lora, whole.lora);
    let (a, b) = (&resumed.report, &whole.report);
    assert_eq!(
        (&a.losses, a.held_out_before, a.held_out_after),
        (&b.losses, b.held_out_before, b.held_out_after)
    );
}

#[test]
fn a_state_of_another_run_or_a_damaged_one_is_refused_and_stays() {
    let (examples, options) = (counting(0..8, Goal::Tokens), options());
    let dir = tempfile::tempdir().unwrap();
    Play { examples: &examples, held_out: &[], options: &options, state: Some(dir.path()), until: Some(5) }
        .run();
    let attempt = |options: &Options, base: &str| {
        let place = Place { dir: dir.path(), base };
        let job = Job { examples: &examples, held_out: &[], options, state: Some(place) };
        run(&mut stack(options), &runtime(), &job, &mut |_| ControlFlow::Continue(()))
            .err()
            .map(|e| e.to_string())
    };
    let other = Options { learning_rate: 2e-2, ..options.clone() };
    assert!(attempt(&other, "tiny").unwrap().contains("other examples, settings"));
    assert!(attempt(&options, "of the same shape").unwrap().contains("another model"));
    let path = dir.path().join("state.safetensors");
    let mut bytes = std::fs::read(&path).unwrap();
    let whole = bytes.clone();
    bytes.truncate(bytes.len() / 2);
    std::fs::write(&path, &bytes).unwrap();
    assert!(attempt(&options, "tiny").unwrap().contains("damaged"));
    assert_eq!(std::fs::read(&path).unwrap(), bytes);
    std::fs::write(&path, whole).unwrap();
    let rarely = Options { save_every: 100, ..options };
    assert_eq!(attempt(&rarely, "tiny"), None, "how often it is saved changes nothing");
}

#[test]
fn examples_that_hold_to_the_base_keep_the_model_near_it() {
    let options = Options { replay: 0, epochs: 6.0, ..options() };
    let mut examples = counting(0..12, Goal::Tokens);
    let mut noise = Noise::new(3);
    let general: Vec<Example> = (0..6)
        .map(|_| {
            #[expect(
                clippy::cast_possible_truncation,
                clippy::cast_sign_loss,
                reason = "tokens are small and positive"
            )]
            let tokens: Vec<u32> = noise.uniform(5.0, 90.0, 12).into_iter().map(|t| t as u32).collect();
            Example { tokens, weights: vec![1.0; 12], goal: Goal::Base }
        })
        .collect();
    examples.extend(general.iter().cloned());
    let drift = |options: &Options| {
        let play = Play { examples: &examples, held_out: &[], options, state: None, until: None };
        let (trained, _) = play.run();
        let mut stack = stack(options);
        let vectors: Vec<_> =
            trained.lora.layers.iter().map(|v| program::floats(&[v.len()], v.clone()).unwrap()).collect();
        let vectors: Vec<_> = vectors.iter().collect();
        let read: Vec<Example> =
            general.iter().map(|e| Example { goal: Goal::Tokens, ..e.clone() }).collect();
        let base = evaluate(&mut stack, None, &read, 64).unwrap();
        let now = evaluate(&mut stack, Some(&vectors), &read, 64).unwrap();
        assert_eq!(base.tokens, 6 * 11);
        (now.loss - base.loss, trained.report.losses.last().copied().unwrap())
    };
    let (free, _) = drift(&options);
    let (held, _) = drift(&Options { replay: 6, replay_weight: 4.0, ..options.clone() });
    assert!(held < 0.5 * free, "without replay the loss on other text rose by {free}, with it by {held}");
}

#[test]
fn one_wrong_token_dominates_a_gradient_unless_its_loss_is_bounded() {
    let right = counting(0..4, Goal::Tokens);
    let options = Options { epochs: 60.0, learning_rate: 3e-2, ..options() };
    let (trained, _) =
        Play { examples: &right, held_out: &[], options: &options, state: None, until: None }.run();
    let mut wrong = right.clone();
    *wrong[3].tokens.last_mut().unwrap() = 90;

    let mut stack = stack(&options);
    let of_layers = |layers: &[Vec<f32>]| -> Vec<_> {
        layers.iter().map(|v| program::floats(&[v.len()], v.clone()).unwrap()).collect()
    };
    let vectors = of_layers(&trained.lora.layers);
    let vectors: Vec<_> = vectors.iter().collect();
    let zeros = of_layers(&trained.lora.layers.iter().map(|v| vec![0.0; v.len()]).collect::<Vec<_>>());
    let mut gradient = |examples: &[Example], clip: Option<f32>| {
        let named: Vec<_> = examples.iter().enumerate().collect();
        let passes = pack::passes(&named, 64).unwrap();
        assert_eq!(passes.len(), 1);
        let targets = Targets { clip, ..evaluate::labels(&passes[0].placed, examples, 1.0) };
        stack.gradient(&passes[0].batch, &vectors, &[targets], &zeros).unwrap()
    };
    let dearest = |found: &Gradient| found.losses[0].rows.iter().copied().fold(0.0, f32::max);
    let (clean, free) = (gradient(&right, None), gradient(&wrong, None));
    // The wrong token is far dearer than any other, so that there is a bound between.
    let clip = dearest(&free) / 2.0;
    assert!(dearest(&clean) < clip, "{} and {clip}", dearest(&clean));
    let bounded = gradient(&wrong, Some(clip));
    let norms = [clean.norm, free.norm, bounded.norm];
    assert!(free.norm > 5.0 * clean.norm, "{norms:?}");
    assert!(bounded.norm < 1.5 * clean.norm, "{norms:?}");
    // What it costs is told all the same.
    assert_eq!(dearest(&bounded).to_bits(), dearest(&free).to_bits());
    assert_eq!((free.losses[0].cut, bounded.losses[0].cut), (0, 1));
    assert!(bounded.loss < free.loss - 0.9 * f64::from(clip), "{} and {}", bounded.loss, free.loss);
}

#[test]
fn the_bound_on_a_token_is_that_of_the_options_and_what_it_cuts_is_told() {
    let examples = counting(0..8, Goal::Tokens);
    let first = |loss_clip: f64| {
        let options = Options { loss_clip, ..options() };
        let play =
            Play { examples: &examples, held_out: &[], options: &options, state: None, until: Some(1) };
        match play.run().1[0] {
            Event::Step { loss, cut, .. } => (loss, cut),
            ref other => panic!("{other:?}"),
        }
    };
    let (whole, none) = first(0.0);
    let (bounded, some) = first(whole);
    assert_eq!(none, 0);
    assert!(some > 0 && bounded < whole, "{some} tokens, {bounded} and {whole} nats");
}

#[test]
fn a_run_stops_early_when_what_is_held_out_gets_worse_and_gives_the_best_adapter() {
    let examples = counting(0..4, Goal::Tokens);
    // The same beginnings with other ends: whoever learns the examples by heart gets these wrong.
    let mut held_out = examples.clone();
    for example in &mut held_out {
        example.tokens[2..].reverse();
    }
    let options = Options { epochs: 60.0, learning_rate: 3e-2, evaluate_every: 2, patience: 2, ..options() };
    let play = Play { examples: &examples, held_out: &held_out, options: &options, state: None, until: None };
    let (trained, events) = play.run();
    assert_eq!(trained.report.ended, Ended::EarlyStopped);
    assert!(trained.report.step < trained.report.steps);
    let best = events
        .iter()
        .filter_map(|e| if let Event::Evaluated { step: 1.., loss } = e { Some(*loss) } else { None });
    let best = best.fold(f64::INFINITY, f64::min);
    assert_eq!(trained.report.held_out_after, Some(best));
}

#[test]
fn numbers_that_go_wrong_stop_the_run_with_a_reason_and_keep_the_last_good_adapter() {
    let examples = counting(0..8, Goal::Tokens);
    let begun = |options: &Options| {
        let architecture = stack(options).architecture().clone();
        first_adapter(&architecture, &options.shape(), options.seed)
    };
    let some = &examples[..2];
    for (held_out, evaluate_every, batch, said) in [
        (&[][..], 0, 4, "at step 2"),
        (some, 1, 4, "after step 1 the held-out"),
        // One step, and the evaluation at the end.
        (some, 0, 8, "after step 1 the held-out"),
    ] {
        let epochs = if batch == 8 { 1.0 } else { 4.0 };
        let options =
            Options { learning_rate: 1e30, clip: 0.0, warmup: 0, evaluate_every, batch, epochs, ..options() };
        let play = Play { examples: &examples, held_out, options: &options, state: None, until: None };
        let (trained, _) = play.run();
        let Ended::Diverged(reason) = &trained.report.ended else { panic!("{:?}", trained.report.ended) };
        assert!(reason.contains(said), "{reason}");
        assert_eq!(trained.report.adapter_step, 0, "one step ruined it");
        assert!(trained.lora == begun(&options), "the adapter is that of the beginning");
    }
}

#[test]
fn a_run_that_goes_wrong_late_gives_back_what_it_had_learned() {
    let good = counting(0..15, Goal::Tokens);
    let mut examples = good.clone();
    examples.push(Example { weights: vec![f32::INFINITY; good[0].tokens.len()], ..good[0].clone() });
    // With some seed the bad example comes in the last step of an epoch.
    let (options, trained) = (0..32)
        .find_map(|seed| {
            let options = Options { seed, warmup: 0, epochs: 1.0, learning_rate: 3e-2, ..options() };
            let play =
                Play { examples: &examples, held_out: &[], options: &options, state: None, until: None };
            let (trained, _) = play.run();
            (trained.report.step == 3).then_some((options, trained))
        })
        .expect("one of so many");
    let Report { ended, adapter_step, losses, .. } = &trained.report;
    assert!(matches!(ended, Ended::Diverged(reason) if reason.contains("at step 4")), "{ended:?}");
    assert!((1..3).contains(adapter_step), "where losses were lowest: {adapter_step}, {losses:?}");
    let vectors: Vec<DynTensor> =
        trained.lora.layers.iter().map(|v| program::floats(&[v.len()], v.clone()).unwrap()).collect();
    let vectors: Vec<&DynTensor> = vectors.iter().collect();
    let loss = evaluate(&mut stack(&options), Some(&vectors), &good, 64).unwrap().loss;
    assert!(loss < losses[0], "{loss} of {losses:?}");
}

#[test]
fn unusable_examples_and_options_are_named() {
    let attempt = |examples: &[Example], options: &Options| {
        let job = Job { examples, held_out: &[], options, state: None };
        run(&mut stack(&Options::default()), &runtime(), &job, &mut |_| ControlFlow::Continue(()))
            .err()
            .unwrap()
            .to_string()
    };
    let good = counting(0..2, Goal::Tokens);
    let mut strange = good.clone();
    strange[1].tokens[2] = 4000;
    assert!(attempt(&strange, &options()).contains("example 1: token 4000"));
    assert!(attempt(&good, &Options { context: 5, ..options() }).contains("example 0 has 6 tokens"));
    assert!(attempt(&good, &Options { batch: 0, ..options() }).contains("batch is 1 or more"));
    assert!(attempt(&good, &Options { loss_clip: -1.0, ..options() }).contains("loss_clip is not negative"));
    assert!(attempt(&good, &Options { loss_clip: f64::NAN, ..options() }).contains("loss_clip"));
    assert!(attempt(&counting(0..2, Goal::Base), &options()).contains("nothing to train on"));
    assert!(attempt(&good, &Options { targets: vec![], ..options() }).contains("targets"));
}
