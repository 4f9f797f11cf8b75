//! What an adapter has to show before it is kept.
//!
//! In: a model with and without the adapter, and a paper: conversations that were held out, and general text. Out: a
//! verdict with its numbers and its reasons in words.
//!
//! The base is examined at its plain prompt and with worked examples in the prompt: adapters that learned only what an
//! answer looks like beat the former, not the latter. The adapter has to beat every one of these prompts, on held-out
//! loss and on the task; what it costs on general text is bounded.
//!
//! Always true: what cannot be measured is no reason to keep an adapter; the same numbers give the same verdict.

mod marks;
mod paper;
mod sign;

use serde::{Deserialize, Deserializer, Serialize};

pub use marks::score;
pub use paper::{Paper, Prompting, paper, worked};
pub use sign::chance;

use super::Example;
use crate::config::TrainGate;

/// A model cannot be examined.
#[derive(Debug, thiserror::Error)]
#[error("the model cannot be examined: {0}")]
pub struct ExamError(pub String);

/// A model that is examined: the base, or the base with an adapter.
pub trait Model {
    /// Mean cross-entropy over all weighted tokens of all examples, nats a token.
    ///
    /// # Errors
    /// When the runtime fails.
    fn loss(&mut self, examples: &[Example]) -> Result<f64, ExamError>;

    /// Greedy answers to prompts, of `most` tokens at most; special tokens are left out.
    ///
    /// # Errors
    /// When the runtime fails.
    fn answers(&mut self, prompts: &[Vec<u32>], most: usize) -> Result<Vec<String>, ExamError>;
}

/// How a model did with one way of prompting.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Marks {
    /// How it was prompted, in words.
    pub prompt: String,
    /// Mean over held-out answers, nats a token.
    #[serde(deserialize_with = "nan_if_null")]
    pub loss: f64,
    /// One for each held-out question, 0 to 1.
    pub scores: Vec<f64>,
}

impl Marks {
    /// Mean score, 0 to 1; 0 without questions.
    #[must_use]
    pub fn mean(&self) -> f64 {
        if self.scores.is_empty() { 0.0 } else { self.scores.iter().sum::<f64>() / self.scores.len() as f64 }
    }
}

/// How the base did: at each prompt, the plain one first, and on general text.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct BaseMarks {
    pub prompts: Vec<Marks>,
    /// None where there is no general text.
    pub perplexity: Option<f64>,
}

impl BaseMarks {
    /// The lowest loss and the highest mean score, whichever prompts they come from.
    #[must_use]
    pub fn best(&self) -> (Option<f64>, Option<f64>) {
        let loss = self.prompts.iter().map(|m| m.loss).min_by(f64::total_cmp);
        (loss, self.prompts.iter().map(Marks::mean).max_by(f64::total_cmp))
    }
}

/// How the adapter did, at the prompt that it was trained on.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct CandidateMarks {
    pub marks: Marks,
    pub perplexity: Option<f64>,
}

/// Examines the base; `told` hears how many answers of how many are there.
///
/// # Errors
/// When the model fails.
pub fn examine_base(
    model: &mut dyn Model,
    paper: &Paper,
    most: usize,
    told: &mut dyn FnMut(usize),
) -> Result<BaseMarks, ExamError> {
    let mut prompts = Vec::new();
    for (i, prompting) in paper.promptings.iter().enumerate() {
        prompts.push(mark(model, prompting, &paper.answers, most)?);
        told(i + 1);
    }
    Ok(BaseMarks { prompts, perplexity: perplexity(model, &paper.general)? })
}

/// Examines the base with the adapter.
///
/// # Errors
/// When the model fails.
pub fn examine_candidate(
    model: &mut dyn Model,
    paper: &Paper,
    most: usize,
) -> Result<CandidateMarks, ExamError> {
    let Some(plain) = paper.promptings.first() else { return Err(ExamError("nothing was held out".into())) };
    let marks = mark(model, plain, &paper.answers, most)?;
    Ok(CandidateMarks { marks, perplexity: perplexity(model, &paper.general)? })
}

fn mark(
    model: &mut dyn Model,
    prompting: &Prompting,
    right: &[String],
    most: usize,
) -> Result<Marks, ExamError> {
    let loss = model.loss(&prompting.held_out)?;
    let said = model.answers(&prompting.prompts, most)?;
    if said.len() != right.len() {
        return Err(ExamError(format!("{} prompts got {} answers", right.len(), said.len())));
    }
    let scores = said.iter().zip(right).map(|(said, right)| score(said, right)).collect();
    Ok(Marks { prompt: prompting.name.clone(), loss, scores })
}

fn perplexity(model: &mut dyn Model, general: &[Example]) -> Result<Option<f64>, ExamError> {
    if general.is_empty() { Ok(None) } else { Ok(Some(model.loss(general)?.exp())) }
}

/// What was decided, and why.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Verdict {
    pub kept: bool,
    /// In words: what it did better, and everything that speaks against it.
    pub reasons: Vec<String>,
}

/// Decides on a candidate. Every bound has to hold; each that does not is a reason.
#[must_use]
pub fn decide(base: &BaseMarks, candidate: &CandidateMarks, bounds: &TrainGate) -> Verdict {
    let mut good = Vec::new();
    let mut bad = Vec::new();
    let own = &candidate.marks;
    if own.scores.is_empty() || base.prompts.is_empty() {
        bad.push("nothing was held out, so that nothing can be told".to_owned());
    }
    for prompt in &base.prompts {
        let (said, fine) = lower_loss(prompt, own, bounds.loss);
        if fine { &mut good } else { &mut bad }.push(said);
        let (said, fine) = better_answers(prompt, own, bounds);
        if fine { &mut good } else { &mut bad }.push(said);
    }
    match (base.perplexity, candidate.perplexity) {
        (Some(before), Some(after)) => {
            let rise = after / before - 1.0;
            let said = format!(
                "perplexity on general text went from {before:.2} to {after:.2} ({:+.1} %; at most {:+.1} % is allowed)",
                rise * 100.0,
                bounds.perplexity * 100.0
            );
            if rise <= bounds.perplexity { &mut good } else { &mut bad }.push(said);
        }
        (None, None) => {}
        _ => bad.push("perplexity on general text was measured on one side only".to_owned()),
    }
    let kept = bad.is_empty();
    Verdict { kept, reasons: if kept { good } else { bad } }
}

/// Whether the loss is lower than the base's by the wanted share. Comparisons are written so that NaN fails.
fn lower_loss(base: &Marks, own: &Marks, share: f64) -> (String, bool) {
    let most = base.loss * (1.0 - share);
    let said = format!(
        "held-out loss is {:.4}, with the base at {} {:.4}; at most {most:.4} is wanted",
        own.loss, base.prompt, base.loss
    );
    (said, own.loss <= most)
}

fn better_answers(base: &Marks, own: &Marks, bounds: &TrainGate) -> (String, bool) {
    let (mut won, mut lost) = (0, 0);
    for (before, after) in base.scores.iter().zip(&own.scores) {
        won += u32::from(after - before > TIE);
        lost += u32::from(before - after > TIE);
    }
    let luck = chance(won, lost);
    let gain = own.mean() - base.mean();
    let said = format!(
        "the mean score of {} held-out answers is {:.3}, with the base at {} {:.3}: {won} better, {lost} worse; luck \
         does as well with probability {luck:.4} (a gain of {:.3} and {:.4} are wanted)",
        own.scores.len(),
        own.mean(),
        base.prompt,
        base.mean(),
        bounds.gain,
        bounds.alpha
    );
    let comparable = base.scores.len() == own.scores.len();
    (said, comparable && gain >= bounds.gain && luck <= bounds.alpha)
}

/// JSON has no NaN, and a loss that is none is written as null.
pub(super) fn nan_if_null<'de, D: Deserializer<'de>>(from: D) -> Result<f64, D::Error> {
    Ok(Option::deserialize(from)?.unwrap_or(f64::NAN))
}

/// A smaller difference of scores is none.
const TIE: f64 = 0.05;

#[cfg(test)]
mod tests;
