//! The loop: steps, evaluations, saved states, and when to stop.

use std::collections::HashMap;
use std::ops::ControlFlow;
use std::time::{Duration, Instant};

use ort::value::DynTensor;

use super::check::check;
use super::draw::{Order, first_adapter};
use super::evaluate::{evaluate, labels, small};
use super::example::{Example, Goal};
use super::pace::{due, rate, recent, trouble};
use super::pack::{self, Packed};
use super::report::{Ended, Event, Report, Trained};
use super::state::{self, Best, Place, Reached, Vectors};
use super::{Options, TrainError};
use crate::onnx::adamw::{AdamW, Moments, Step};
use crate::onnx::llama::heads::Loss;
use crate::onnx::llama::stack::{RowGoal, Stack, Targets};
use crate::onnx::lora::Lora;
use crate::onnx::program::{self, Runtime};
use crate::onnx::resident::Resident;

/// What to train on.
pub struct Job<'a> {
    pub examples: &'a [Example],
    /// Never trained on; may be empty.
    pub held_out: &'a [Example],
    pub options: &'a Options,
    /// Where states are saved and looked for; `None`: nowhere.
    pub state: Option<Place<'a>>,
}

/// Trains an adapter. `stack` was made with the shape of `options`. `observe` hears what happens and may end the run, which
/// then gives what it has reached.
///
/// # Errors
/// When options or examples are unusable, a saved state belongs to another run, or the runtime fails.
pub fn run(
    stack: &mut Stack,
    runtime: &Runtime,
    job: &Job<'_>,
    observe: &mut dyn FnMut(&Event) -> ControlFlow<()>,
) -> Result<Trained, TrainError> {
    check(stack, job)?;
    let mut run = Run::new(stack, runtime, job)?;
    run.resume(observe)?;
    let ended = run.go(observe)?;
    if ended == Ended::Cancelled && run.reached.step > run.begun {
        run.save()?;
    }
    run.finish(ended)
}

/// A run under way.
struct Run<'a, 'j> {
    stack: &'a mut Stack,
    job: &'a Job<'j>,
    optimiser: AdamW,
    now: Vec<Moments>,
    /// The gradient of a layer before a step: zeros.
    no_gradient: DynTensor,
    reached: Reached,
    /// The vectors of the best evaluation.
    best: Vec<Vec<f32>>,
    /// What the run falls back to when its numbers go wrong.
    good: Option<Good>,
    order: Order,
    replay: Order,
    steps: u64,
    /// Final rows of the base model for examples that hold to it, by index.
    teacher: HashMap<usize, Vec<f32>>,
    started: Instant,
    /// Steps done when this process began.
    begun: u64,
    last_norm: f64,
    /// Tokens of the last step whose loss was cut.
    last_cut: usize,
}

/// Where the losses of late were lowest, as far as this process knows: it is not saved.
struct Good {
    loss: f64,
    /// Steps before.
    step: u64,
    vectors: Vec<DynTensor>,
}

impl<'a, 'j> Run<'a, 'j> {
    fn new(stack: &'a mut Stack, runtime: &Runtime, job: &'a Job<'j>) -> Result<Self, TrainError> {
        let options = job.options;
        let shape = options.shape();
        let length = shape.len(stack.architecture());
        let first = first_adapter(stack.architecture(), &shape, options.seed);
        let mut resident = Resident::on(runtime);
        let mut tensor = |values| resident.put(program::floats(&[length], values)?);
        let zeros = vec![0.0; length];
        let now = first
            .layers
            .into_iter()
            .map(|values| {
                let (first, second) = (tensor(zeros.clone())?, tensor(zeros.clone())?);
                Ok(Moments { values: tensor(values)?, first, second })
            })
            .collect::<Result<Vec<_>, TrainError>>()?;
        let no_gradient = tensor(zeros)?;
        let of = |goal: Goal| -> Vec<usize> {
            let counted = job.examples.iter().enumerate().filter(|(_, e)| e.goal == goal && e.counts());
            counted.map(|(i, _)| i).collect()
        };
        let order = Order::new(of(Goal::Tokens), options.seed, 2);
        let replay = Order::new(of(Goal::Base), options.seed, 3);
        #[expect(clippy::cast_precision_loss, reason = "numbers of examples are far below 2^52")]
        let seen = order.len() as f64 * options.epochs / options.batch as f64;
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "small and positive")]
        let steps = (seen.ceil() as u64).max(1);
        let reached = Reached {
            fingerprint: job
                .state
                .map(|state| state::fingerprint(stack, job, state.base))
                .unwrap_or_default(),
            step: 0,
            tokens: 0,
            losses: Vec::new(),
            best: None,
            before: None,
        };
        Ok(Self {
            stack,
            job,
            optimiser: AdamW::new(length, runtime)?,
            now,
            no_gradient,
            reached,
            best: Vec::new(),
            good: None,
            order,
            replay,
            steps,
            teacher: HashMap::new(),
            started: Instant::now(),
            begun: 0,
            last_norm: 0.0,
            last_cut: 0,
        })
    }

    fn resume(&mut self, observe: &mut dyn FnMut(&Event) -> ControlFlow<()>) -> Result<(), TrainError> {
        let Some(Place { dir, .. }) = self.job.state else { return Ok(()) };
        let Some(saved) = state::load(dir, &self.reached.fingerprint, self.now.len())? else { return Ok(()) };
        (self.reached, self.now, self.best) = (saved.reached, saved.now, saved.best);
        self.begun = self.reached.step;
        // Whoever wants to end the run is heard at the next step.
        let _ = observe(&Event::Resumed { step: self.reached.step });
        Ok(())
    }

    fn go(&mut self, observe: &mut dyn FnMut(&Event) -> ControlFlow<()>) -> Result<Ended, TrainError> {
        let options = self.job.options;
        if self.reached.before.is_none() && self.has_held_out() {
            let before = evaluate(self.stack, None, self.job.held_out, options.pass_tokens)?.loss;
            self.reached.before = Some(before.to_bits());
            if observe(&Event::Evaluated { step: 0, loss: before }).is_break() {
                return Ok(Ended::Cancelled);
            }
        }
        while self.reached.step < self.steps {
            let (loss, rate) = match self.step()? {
                Ok(done) => done,
                Err(reason) => return Ok(Ended::Diverged(reason)),
            };
            let heard = observe(&self.said(loss, rate));
            if due(self.reached.step, options.evaluate_every)
                && self.reached.step < self.steps
                && self.has_held_out()
            {
                let loss = self.evaluate()?;
                if !loss.is_finite() {
                    return Ok(self.went_wrong(loss));
                }
                let heard_too = observe(&Event::Evaluated { step: self.reached.step, loss });
                self.save_when_due()?;
                if self.reached.best.is_some_and(|b| options.patience > 0 && b.worse >= options.patience) {
                    return Ok(Ended::EarlyStopped);
                }
                if heard_too.is_break() {
                    return Ok(Ended::Cancelled);
                }
            } else {
                self.save_when_due()?;
            }
            if heard.is_break() {
                return Ok(Ended::Cancelled);
            }
        }
        Ok(Ended::Finished)
    }

    /// One step: its loss and rate, or why its result was not taken.
    fn step(&mut self) -> Result<Result<(f64, f64), String>, TrainError> {
        let options = self.job.options;
        let number = self.reached.step + 1;
        let batch = options.batch.min(self.order.len());
        let mut chosen = self.order.take(self.reached.step * batch as u64, batch);
        let replayed = options.replay.min(self.replay.len());
        chosen.extend(self.replay.take(self.reached.step * replayed as u64, replayed));
        let sum = |goal: Goal| -> f64 {
            let of_goal = chosen.iter().map(|&i| &self.job.examples[i]).filter(|e| e.goal == goal);
            of_goal.flat_map(Example::counted).map(|(_, w)| f64::from(w)).sum()
        };
        let scale = 1.0 / sum(Goal::Tokens);
        let replay_scale = options.replay_weight / sum(Goal::Base).max(f64::MIN_POSITIVE);

        let named: Vec<(usize, &Example)> = chosen.iter().map(|&i| (i, &self.job.examples[i])).collect();
        let mut gradient: Option<Vec<DynTensor>> = None;
        let (mut loss, mut norm, mut tokens, mut cut_tokens) = (0.0, 0.0, 0, 0);
        for packed in pack::passes(&named, options.pass_tokens)? {
            let targets = self.targets(&packed, scale, replay_scale)?;
            let values: Vec<&DynTensor> = self.now.iter().map(|m| &m.values).collect();
            let before = match &gradient {
                Some(gradient) => gradient.iter().collect(),
                None => vec![&self.no_gradient; values.len()],
            };
            let found = self.stack.gradient(&packed.batch, &values, &targets, &before)?;
            (gradient, norm) = (Some(found.lora), found.norm);
            loss += found.loss;
            cut_tokens += found.losses.iter().map(|losses| losses.cut).sum::<usize>();
            tokens += (packed.batch.rows * packed.batch.length) as u64;
        }
        if let Some(reason) = trouble(&self.reached, loss, norm) {
            return Ok(Err(reason));
        }
        let cut = if options.clip > 0.0 { (options.clip / (norm + 1e-6)).min(1.0) } else { 1.0 };
        let learning_rate = rate(options, number, self.steps);
        let step = Step { number, learning_rate, weight_decay: options.weight_decay, gradient_scale: cut };
        let gradient = gradient.expect("a step has a pass");
        let next = self.optimiser.step(&self.now, &gradient, step)?;
        let before = std::mem::replace(&mut self.now, next);
        self.reached.losses.push(loss.to_bits());
        let loss_of_late = recent(&self.reached.losses);
        if self.good.as_ref().is_none_or(|good| loss <= loss_of_late && loss_of_late <= good.loss) {
            let vectors = before.into_iter().map(|moments| moments.values).collect();
            self.good = Some(Good { loss: loss_of_late, step: self.reached.step, vectors });
        }
        self.reached.step = number;
        self.reached.tokens += tokens;
        (self.last_norm, self.last_cut) = (norm, cut_tokens);
        Ok(Ok((loss, learning_rate)))
    }

    /// The rows of a pass that count: those with labels, and those that are held to the base.
    fn targets(
        &mut self,
        packed: &Packed,
        scale: f64,
        replay_scale: f64,
    ) -> Result<Vec<Targets>, TrainError> {
        let examples = self.job.examples;
        let of = |goal: Goal| -> Vec<(usize, usize)> {
            packed.placed.iter().copied().filter(|&(i, _)| examples[i].goal == goal).collect()
        };
        let (tokens, base) = (of(Goal::Tokens), of(Goal::Base));
        let mut targets = Vec::new();
        if !tokens.is_empty() {
            let most = self.job.options.loss_clip;
            #[expect(clippy::cast_possible_truncation, reason = "set in 64 bits, used in 32")]
            let clip = (most > 0.0).then_some(most as f32);
            targets.push(Targets { clip, ..labels(&tokens, examples, scale) });
        }
        if !base.is_empty() {
            let rows = labels(&base, examples, replay_scale);
            let mut hidden = Vec::new();
            if !base.iter().all(|(i, _)| self.teacher.contains_key(i)) {
                let h = self.stack.forward(&packed.batch, None)?;
                for &(index, start) in &base {
                    let rows: Vec<i64> =
                        examples[index].counted().map(|(at, _)| small(start + at - 1)).collect();
                    let rows = self.stack.hidden(&h, &rows)?;
                    self.teacher.insert(index, rows);
                }
            }
            for (index, _) in &base {
                hidden.extend_from_slice(&self.teacher[index]);
            }
            targets.push(Targets { goal: RowGoal::Teacher { hidden, loss: Loss::ForwardKl }, ..rows });
        }
        Ok(targets)
    }

    /// The loss on what is held out; one that is no number is compared with nothing.
    fn evaluate(&mut self) -> Result<f64, TrainError> {
        let values: Vec<&DynTensor> = self.now.iter().map(|m| &m.values).collect();
        let loss = evaluate(self.stack, Some(&values), self.job.held_out, self.job.options.pass_tokens)?.loss;
        if !loss.is_finite() {
            return Ok(loss);
        }
        let step = self.reached.step;
        match &mut self.reached.best {
            Some(best) if f64::from_bits(best.loss) <= loss => best.worse += 1,
            best => {
                *best = Some(Best { loss: loss.to_bits(), step, worse: 0 });
                self.best = numbers(values)?;
            }
        }
        Ok(loss)
    }

    fn save_when_due(&self) -> Result<(), TrainError> {
        if due(self.reached.step, self.job.options.save_every) { self.save() } else { Ok(()) }
    }

    fn save(&self) -> Result<(), TrainError> {
        let vectors = Vectors { now: &self.now, best: &self.best };
        self.job.state.map_or(Ok(()), |place| state::save(place.dir, &self.reached, &vectors))
    }

    /// The best adapter, or the last where nothing is held out; where numbers went wrong, one from before.
    fn finish(mut self, mut ended: Ended) -> Result<Trained, TrainError> {
        let complete = matches!(ended, Ended::Finished | Ended::EarlyStopped);
        if complete
            && self.reached.step > 0
            && self.has_held_out()
            && self.reached.best.is_none_or(|b| b.step < self.reached.step)
        {
            let loss = self.evaluate()?;
            if !loss.is_finite() {
                ended = self.went_wrong(loss);
            }
        }
        let diverged = matches!(ended, Ended::Diverged(_));
        let best = self.reached.best.filter(|best| !diverged || self.is_better_than_the_base(*best));
        let (adapter_step, layers) = match (best, self.good.as_ref().filter(|_| diverged)) {
            (Some(best), _) => (best.step, std::mem::take(&mut self.best)),
            (None, Some(good)) => (good.step, numbers(&good.vectors)?),
            (None, None) => (self.reached.step, numbers(self.now.iter().map(|m| &m.values))?),
        };
        let report = Report {
            ended,
            step: self.reached.step,
            steps: self.steps,
            adapter_step,
            tokens: self.reached.tokens,
            seconds: self.started.elapsed().as_secs_f64(),
            losses: self.reached.losses.iter().map(|b| f64::from_bits(*b)).collect(),
            held_out_before: self.reached.before.map(f64::from_bits),
            held_out_after: best.map(|b| f64::from_bits(b.loss)),
        };
        Ok(Trained { lora: Lora { shape: self.job.options.shape(), layers }, report })
    }

    fn went_wrong(&self, held_out: f64) -> Ended {
        Ended::Diverged(format!("after step {} the held-out loss was {held_out}", self.reached.step))
    }

    fn is_better_than_the_base(&self, best: Best) -> bool {
        self.reached.before.is_none_or(|before| f64::from_bits(best.loss) <= f64::from_bits(before))
    }

    fn has_held_out(&self) -> bool {
        self.job.held_out.iter().any(|e| e.goal == Goal::Tokens && e.counts())
    }

    #[expect(clippy::cast_precision_loss, reason = "counts are far below 2^52")]
    fn said(&self, loss: f64, learning_rate: f64) -> Event {
        let elapsed = self.started.elapsed().max(Duration::from_millis(1)).as_secs_f64();
        let (done, all) = (self.reached.step - self.begun, self.steps - self.begun);
        let per_step = self.reached.tokens as f64 / self.reached.step as f64;
        Event::Step {
            step: self.reached.step,
            steps: self.steps,
            loss,
            cut: self.last_cut,
            learning_rate,
            norm: self.last_norm,
            tokens_per_second: per_step * done as f64 / elapsed,
            seconds_left: elapsed / done as f64 * (all - done) as f64,
        }
    }
}

fn numbers<'t>(vectors: impl IntoIterator<Item = &'t DynTensor>) -> Result<Vec<Vec<f32>>, TrainError> {
    vectors.into_iter().map(|vector| Ok(program::read(vector)?.into_owned())).collect()
}
