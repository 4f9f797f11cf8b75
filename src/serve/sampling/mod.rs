//! From logits to one token.
//!
//! In: the logits after a sequence, what the request asks for, the tokens that a grammar allows. Out: a token, and how
//! likely the model itself found it.
//!
//! Always true: the same seed gives the same tokens, whatever runs beside the request; at temperature 0 it is the
//! likeliest token, at ties the one with the lowest id; probabilities that are reported are those of the model, before
//! temperature, penalties, biases and grammar.

mod nucleus;
mod random;

use std::collections::HashMap;
use std::sync::Arc;

use llguidance::toktrie::SimpleVob;

use random::Random;

/// What a request asks for; the ranges are checked where it is read.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Sampling {
    /// 0: the likeliest token.
    pub temperature: f64,
    /// Only the likeliest tokens that together have this probability.
    pub top_p: f64,
    pub seed: u64,
    /// Added to logits; −100 or less forbids a token.
    pub bias: Arc<[(u32, f32)]>,
    /// Taken off a token's logit for each time that it was said.
    pub frequency_penalty: f32,
    /// Taken off the logit of a token that was said.
    pub presence_penalty: f32,
    /// Whether to tell how likely tokens were, and those of so many others.
    pub logprobs: Option<usize>,
}

/// A token and how likely the model found it.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Chosen {
    pub token: u32,
    pub likely: Option<Likely>,
}

/// Natural logarithms of probabilities.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Likely {
    pub logprob: f32,
    /// The likeliest, in order.
    pub top: Vec<(u32, f32)>,
}

/// No token can be chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Undecided {
    #[error("the model's output is not a number")]
    NotANumber,
    #[error("no token is allowed here")]
    NothingAllowed,
}

/// Chooses the tokens of one choice of a request.
#[derive(Clone, Debug)]
pub(crate) struct Sampler {
    sampling: Sampling,
    random: Random,
    /// How often tokens were said; only kept where there is a penalty.
    said: HashMap<u32, u32>,
}

/// A bias from here on down forbids.
const FORBIDDEN: f32 = -100.0;

impl Sampler {
    pub(crate) fn new(sampling: Sampling, choice: usize) -> Self {
        let random = Random::new(sampling.seed, choice);
        Self { sampling, random, said: HashMap::new() }
    }

    /// Chooses from `logits` `[vocabulary]`, which are spoiled.
    pub(crate) fn choose(
        &mut self,
        logits: &mut [f32],
        allowed: Option<&SimpleVob>,
    ) -> Result<Chosen, Undecided> {
        let report = self.sampling.logprobs.map(|top| Report::of(logits, top));
        self.shape(logits);
        if let Some(allowed) = allowed {
            for (token, logit) in logits.iter_mut().enumerate() {
                if token >= allowed.len() || !allowed.get(token) {
                    *logit = f32::NEG_INFINITY;
                }
            }
        }
        let best = likeliest(logits)?;
        let token = if self.sampling.temperature == 0.0 {
            best
        } else {
            let (temperature, top_p) = (self.sampling.temperature, self.sampling.top_p);
            nucleus::draw(logits, logits[best as usize], temperature, top_p, self.random.unit())
        };
        if self.sampling.frequency_penalty != 0.0 || self.sampling.presence_penalty != 0.0 {
            *self.said.entry(token).or_default() += 1;
        }
        Ok(Chosen { token, likely: report.map(|report| report.on(token)) })
    }

    /// Biases and penalties.
    fn shape(&self, logits: &mut [f32]) {
        for &(token, bias) in self.sampling.bias.iter() {
            if let Some(logit) = logits.get_mut(token as usize) {
                *logit = if bias <= FORBIDDEN { f32::NEG_INFINITY } else { *logit + bias };
            }
        }
        for (&token, &times) in &self.said {
            logits[token as usize] -=
                self.sampling.frequency_penalty * times as f32 + self.sampling.presence_penalty;
        }
    }
}

/// The token with the highest logit, the lowest id at ties.
fn likeliest(logits: &[f32]) -> Result<u32, Undecided> {
    let mut best = None;
    let mut highest = f32::NEG_INFINITY;
    for (token, &logit) in logits.iter().enumerate() {
        if logit.is_nan() {
            return Err(Undecided::NotANumber);
        }
        if logit > highest {
            (best, highest) = (Some(token), logit);
        }
    }
    best.map(|token| u32::try_from(token).expect("tokens are 32-bit numbers"))
        .ok_or(Undecided::NothingAllowed)
}

/// What is told of the model's own probabilities, taken before logits are shaped.
struct Report {
    raw: Vec<f32>,
    /// The logarithm of the sum of their exponentials.
    total: f64,
    top: Vec<(u32, f32)>,
}

impl Report {
    fn of(logits: &[f32], count: usize) -> Self {
        let highest = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let sum: f64 = logits.iter().map(|&l| f64::from(l - highest).exp()).sum();
        let total = f64::from(highest) + sum.ln();
        let mut order: Vec<u32> =
            (0..u32::try_from(logits.len()).expect("tokens are 32-bit numbers")).collect();
        let first = |a: &u32, b: &u32| logits[*b as usize].total_cmp(&logits[*a as usize]).then(a.cmp(b));
        let count = count.min(order.len());
        if count > 0 && count < order.len() {
            order.select_nth_unstable_by(count - 1, first);
        }
        order.truncate(count);
        order.sort_unstable_by(first);
        let mut report = Self { raw: logits.to_vec(), total, top: Vec::new() };
        report.top = order.into_iter().map(|token| (token, report.logprob(token))).collect();
        report
    }

    fn logprob(&self, token: u32) -> f32 {
        // JSON has no infinity; OpenAI says −9999 for what is out of the question.
        ((f64::from(self.raw[token as usize]) - self.total) as f32).max(-9999.0)
    }

    fn on(self, token: u32) -> Likely {
        Likely { logprob: self.logprob(token), top: self.top }
    }
}

#[cfg(test)]
mod tests;
