//! How well a model says what examples say.

use ort::value::DynTensor;

use super::TrainError;
use super::example::{Example, Goal};
use super::pack;
use crate::onnx::llama::stack::{RowGoal, Stack, Targets};

/// The mean loss over examples.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Evaluation {
    /// Σ weight · (−log p) / Σ weight, in nats a token.
    pub loss: f64,
    /// Tokens that counted.
    pub tokens: usize,
}

impl Evaluation {
    #[must_use]
    pub fn perplexity(&self) -> f64 {
        self.loss.exp()
    }
}

/// The loss of `examples` with an adapter (a vector for each layer), or of the base model. Examples that have another goal
/// than their tokens are left out. `pass_tokens`: tokens that go through the model at once.
///
/// # Errors
/// When no token counts, or the runtime fails.
pub fn evaluate(
    stack: &mut Stack,
    lora: Option<&[&DynTensor]>,
    examples: &[Example],
    pass_tokens: usize,
) -> Result<Evaluation, TrainError> {
    let counted: Vec<(usize, &Example)> =
        examples.iter().enumerate().filter(|(_, e)| e.goal == Goal::Tokens && e.counts()).collect();
    let mut found = Evaluation { loss: 0.0, tokens: 0 };
    let mut weight = 0.0;
    for packed in pack::passes(&counted, pass_tokens)? {
        let targets = labels(&packed.placed, examples, 1.0);
        weight += targets.weights.iter().map(|w| f64::from(*w)).sum::<f64>();
        found.tokens += targets.rows.len();
        let h = stack.forward(&packed.batch, lora)?;
        found.loss += stack.losses(&packed.batch, &h, &targets)?.total;
    }
    if weight <= 0.0 {
        return Err(TrainError::NoExamples);
    }
    found.loss /= weight;
    Ok(found)
}

/// Rows that predict the counted tokens of the packed examples, with their weights times `scale`.
pub(super) fn labels(placed: &[(usize, usize)], examples: &[Example], scale: f64) -> Targets {
    let (mut rows, mut weights, mut labels) = (Vec::new(), Vec::new(), Vec::new());
    for &(index, start) in placed {
        let example = &examples[index];
        for (at, weight) in example.counted() {
            rows.push(small(start + at - 1));
            #[expect(clippy::cast_possible_truncation, reason = "computed in 64 bits, used in 32")]
            weights.push((f64::from(weight) * scale) as f32);
            labels.push(i64::from(example.tokens[at]));
        }
    }
    Targets { rows, weights, goal: RowGoal::Labels(labels), clip: None, off_policy: None }
}

pub(super) fn small(position: usize) -> i64 {
    i64::try_from(position).expect("batches fit into memory")
}
