//! One training, from a work directory to an adapter and a verdict: what the child process of a night does.
//!
//! In: a [`Work`] directory with conversations and settings, and a [`Learner`]. Out: a [`Report`] in it, and where something
//! was trained, the adapter.
//!
//! Always true: the report is written last, so that a directory without one is a pass that did not end; progress that
//! nobody reads any more ends the pass.

mod work;

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::path::Path;
use std::time::Instant;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::Example;
use super::Options;
use super::chat::Chat;
use super::gate::{self, BaseMarks, CandidateMarks, ExamError, Model, Verdict};
use super::general;
use super::tokens::{Language, LeftOut, example};
use crate::config::{Train, TrainLora};
use crate::onnx::text::TextError;

pub use work::{Order, Work};
pub(super) use work::{failed, write_whole};

/// What trains and is examined: a model, or what stands for one in tests.
pub trait Learner {
    /// Template and tokenizer.
    fn language(&self) -> &dyn Language;

    /// BLAKE3 hash of the base model's weights, in hex.
    ///
    /// # Errors
    /// When they cannot be read.
    fn base_hash(&self) -> Result<String, PassError>;

    /// Trains a candidate; `told` hears of each step and may end it.
    ///
    /// # Errors
    /// When the runtime fails, the loss diverges, or `told` says to end.
    fn train(
        &mut self,
        examples: &[Example],
        options: &Options,
        told: &mut dyn FnMut(&Step) -> ControlFlow<()>,
    ) -> Result<(), PassError>;

    /// The base, or the base with the candidate.
    ///
    /// # Errors
    /// When it cannot be loaded, or nothing was trained.
    fn model(&mut self, who: Who) -> Result<Box<dyn Model + '_>, PassError>;

    /// Writes the candidate as a PEFT directory.
    ///
    /// # Errors
    /// When the disk fails, or nothing was trained.
    fn save(&self, to: &Path) -> Result<(), PassError>;
}

/// Whom [`Learner::model`] gives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Who {
    Base,
    Candidate,
}

/// A training step.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Step {
    /// From 1.
    pub step: u64,
    pub steps: u64,
    #[serde(deserialize_with = "gate::nan_if_null")]
    pub loss: f64,
    pub tokens_per_second: f64,
    pub seconds_left: f64,
}

/// General text: what is replayed in training, and what perplexity is measured on.
#[derive(Clone, Debug, Default)]
pub struct General {
    pub replay: Vec<Example>,
    pub measured: Vec<Example>,
}

impl General {
    /// The texts that come with Remora, as a model reads them.
    ///
    /// # Errors
    /// When template or tokenizer fail.
    pub fn of(language: &dyn Language) -> Result<Self, PassError> {
        let encode = |text: &str| language.encode(text);
        let chat = |question: &str, answer: &str| {
            let said = |role: &str, text: &str| json!({"role": role, "content": text});
            language.render(&[said("user", question), said("assistant", answer)], &Value::Null, false)
        };
        let failed = |e: TextError| PassError::Model(e.to_string());
        Ok(Self {
            replay: general::replay(1.0, encode, chat).map_err(failed)?,
            measured: general::perplexity(encode).map_err(failed)?,
        })
    }

    /// What is replayed where examples have at most `context` tokens.
    #[must_use]
    pub fn replay_within(&self, context: usize) -> Vec<Example> {
        self.replay.iter().filter(|example| example.tokens.len() <= context).cloned().collect()
    }
}

/// What a pass is at.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Phase {
    /// Conversations become tokens.
    Read,
    /// The base answers what was held out.
    Base,
    Train,
    /// The candidate answers.
    Gate,
}

/// A line of progress: one JSON object on the child's standard output.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Line {
    pub phase: Phase,
    pub done: u64,
    pub total: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub step: Option<Step>,
}

/// A pass could not come to an end.
#[derive(Debug, thiserror::Error)]
pub enum PassError {
    #[error("{path}: {source}", path = path.display())]
    File { path: std::path::PathBuf, source: std::io::Error },

    #[error("{path}: it is not what Remora writes there: {source}", path = path.display())]
    Order { path: std::path::PathBuf, source: serde_json::Error },

    #[error(transparent)]
    Examples(#[from] super::jsonl::JsonlError),

    #[error(
        "of {given} conversations to learn from {fit} can be learned ({why}), at least {least} are wanted"
    )]
    TooFew { given: usize, fit: usize, least: usize, why: String },

    #[error("{fit} conversations are held out ({why}); with less than {least} the gate cannot tell")]
    TooFewHeldOut { fit: usize, least: usize, why: String },

    #[error(transparent)]
    Exam(#[from] ExamError),

    #[error("{0}")]
    Model(String),

    #[error("it was cancelled")]
    Cancelled,
}

/// What came of a pass.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Report {
    pub base_hash: String,
    /// Of them `replay` are general text.
    pub training: u64,
    pub replay: u64,
    pub held_out: u64,
    /// Of all examples.
    pub tokens: u64,
    /// Places of the conversations that were learned from, in `training.jsonl`.
    #[serde(default)]
    pub learned: Vec<usize>,
    /// Conversations that made no example: why, and how many.
    pub left_out: BTreeMap<String, u64>,
    pub base: BaseMarks,
    /// None where nothing was trained, because the base is right already.
    pub candidate: Option<CandidateMarks>,
    /// The last step.
    pub trained: Option<Step>,
    pub verdict: Verdict,
    pub seconds: f64,
}

/// What the trainer is told.
#[must_use]
pub fn options(lora: &TrainLora) -> Options {
    Options {
        rank: lora.rank,
        alpha: lora.alpha,
        epochs: lora.epochs,
        learning_rate: lora.learning_rate,
        warmup: lora.warmup,
        batch: lora.batch,
        replay: lora.replay,
        replay_weight: lora.replay_weight,
        loss_clip: lora.loss_clip,
        context: lora.context,
        seed: lora.seed,
        // What is held out is the gate's: a run that stopped where it does best there would be tested on what it chose.
        evaluate_every: 0,
        patience: 0,
        ..Options::default()
    }
}

/// Runs a pass to its report, which is also written into the directory.
///
/// # Errors
/// When it cannot come to an end; then there is no report.
pub fn run(
    work: &Work,
    learner: &mut dyn Learner,
    general: &General,
    told: &mut dyn FnMut(&Line) -> ControlFlow<()>,
) -> Result<Report, PassError> {
    let began = Instant::now();
    let mut tell = |phase, done: usize, total: usize, step: Option<&Step>| {
        let line = Line { phase, done: done as u64, total: total as u64, step: step.cloned() };
        told(&line)
    };
    let mut go_on = |phase, done, total, step: Option<&Step>| match tell(phase, done, total, step) {
        ControlFlow::Continue(()) => Ok(()),
        ControlFlow::Break(()) => Err(PassError::Cancelled),
    };
    let order = work.order()?;
    let settings = &order.settings;
    let (context, most) = (settings.lora.context, settings.gate.answer);
    let (training, held_out) = (work.training()?, work.held_out()?);
    go_on(Phase::Read, 0, training.len() + held_out.len(), None)?;

    let mut left_out = LeftOuts::default();
    let (learned, examples) = encode(learner.language(), &training, settings, &mut left_out);
    if examples.len() < settings.examples.least {
        let (given, fit) = (training.len(), examples.len());
        return Err(PassError::TooFew { given, fit, least: settings.examples.least, why: left_out.words() });
    }
    // The newest, which come last: what the app is asked today.
    let asked = &held_out[held_out.len().saturating_sub(settings.gate.prompts)..];
    let worked = gate::worked(&training, settings.gate.worked);
    let (mut paper, refused) = gate::paper(learner.language(), asked, &worked, context, most);
    refused.iter().for_each(|why| left_out.count(why));
    paper.general.clone_from(&general.measured);
    let least = least_held_out(settings.gate.alpha);
    if paper.answers.len() < least {
        return Err(PassError::TooFewHeldOut { fit: paper.answers.len(), least, why: left_out.words() });
    }
    let replay = if settings.lora.replay > 0 { general.replay_within(context) } else { Vec::new() };
    let mut report = Report {
        base_hash: learner.base_hash()?,
        training: (examples.len() + replay.len()) as u64,
        replay: replay.len() as u64,
        held_out: paper.answers.len() as u64,
        tokens: examples.iter().chain(&replay).map(|e| e.tokens.len() as u64).sum(),
        learned,
        left_out: left_out.0,
        base: BaseMarks { prompts: Vec::new(), perplexity: None },
        candidate: None,
        trained: None,
        verdict: Verdict { kept: false, reasons: Vec::new() },
        seconds: 0.0,
    };

    let ways = paper.promptings.len();
    go_on(Phase::Base, 0, ways, None)?;
    let mut heard = Ok(());
    let mut examined = |done| {
        if heard.is_ok() {
            heard = go_on(Phase::Base, done, ways, None);
        }
    };
    report.base = gate::examine_base(&mut *learner.model(Who::Base)?, &paper, most, &mut examined)?;
    heard?;

    if let Some(reason) = no_room(&report.base, settings.gate.gain) {
        report.verdict.reasons.push(reason);
    } else {
        let all: Vec<Example> = examples.into_iter().chain(replay).collect();
        let mut last = Step::default();
        learner.train(&all, &options(&settings.lora), &mut |step| {
            last = step.clone();
            let (done, total) = (step.step as usize, step.steps as usize);
            if go_on(Phase::Train, done, total, Some(step)).is_ok() {
                ControlFlow::Continue(())
            } else {
                ControlFlow::Break(())
            }
        })?;
        report.trained = Some(last);
        go_on(Phase::Gate, 0, 1, None)?;
        let candidate = gate::examine_candidate(&mut *learner.model(Who::Candidate)?, &paper, most)?;
        report.verdict = gate::decide(&report.base, &candidate, &settings.gate);
        report.candidate = Some(candidate);
        go_on(Phase::Gate, 1, 1, None)?;
        learner.save(&work.adapter())?;
    }
    report.seconds = began.elapsed().as_secs_f64();
    work.report(&report)?;
    Ok(report)
}

/// The fewest comparisons that can be significant at all: all of them won.
#[must_use]
pub fn least_held_out(alpha: f64) -> usize {
    (1..=64).find(|n| gate::chance(*n, 0) <= alpha).unwrap_or(64) as usize
}

/// Why no adapter could pass, where the base is right already.
fn no_room(base: &BaseMarks, gain: f64) -> Option<String> {
    let best = base.prompts.iter().max_by(|a, b| a.mean().total_cmp(&b.mean()))?;
    (best.mean() + gain > 1.0).then(|| {
        format!(
            "nothing was trained: the base at {} has a mean score of {:.3} already, which leaves no room for a gain of \
             {gain:.3}",
            best.prompt,
            best.mean()
        )
    })
}

/// Why conversations made no example, and how many.
#[derive(Debug, Default)]
struct LeftOuts(BTreeMap<String, u64>);

impl LeftOuts {
    fn count(&mut self, why: &LeftOut) {
        // Numbers differ from one to the next; the reason is the same.
        let why = match why {
            LeftOut::TooLong { context, .. } => format!("it has more than {context} tokens"),
            why => why.to_string(),
        };
        *self.0.entry(why).or_default() += 1;
    }

    fn words(&self) -> String {
        if self.0.is_empty() {
            return "none was left out".into();
        }
        self.0.iter().map(|(why, n)| format!("{n}: {why}")).collect::<Vec<_>>().join("; ")
    }
}

/// Examples within the night's tokens, the newest first served; in the order of the conversations, with their places.
fn encode(
    language: &dyn Language,
    chats: &[Chat],
    settings: &Train,
    left_out: &mut LeftOuts,
) -> (Vec<usize>, Vec<Example>) {
    let mut examples = Vec::new();
    let mut left = settings.examples.tokens;
    for (place, chat) in chats.iter().enumerate().rev() {
        match example(language, chat, settings.lora.context) {
            Ok(example) if example.tokens.len() <= left => {
                left -= example.tokens.len();
                examples.push((place, example));
            }
            Ok(_) => *left_out.0.entry("more than train.examples.tokens".into()).or_default() += 1,
            Err(why) => left_out.count(&why),
        }
    }
    examples.reverse();
    examples.into_iter().unzip()
}

#[cfg(test)]
pub(super) mod tests;
