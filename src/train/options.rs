//! The settings of one training run.

use serde::{Deserialize, Serialize};

use crate::onnx::lora::{LoraShape, Projection};

/// How a run trains. The defaults suit a small model and a few hundred examples.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Options {
    pub rank: usize,
    /// The update is scaled by `alpha / rank`.
    pub alpha: f32,
    pub targets: Vec<Projection>,
    /// Times that each example is seen; parts of an epoch are fine.
    pub epochs: f64,
    /// Peak, reached after `warmup` steps, then falling along a cosine to 0.
    pub learning_rate: f64,
    pub warmup: u64,
    pub weight_decay: f64,
    /// The gradient's norm is cut to this; 0: not.
    pub clip: f64,
    /// What a token of the examples counts at most, in nats; above it teaches nothing more. 0: no bound. A token that the
    /// model thinks impossible costs 10 nats and more, and is rather wrong than new.
    ///
    /// A bound in nats is the same at every step and needs no memory of the losses before, as a multiple of their median
    /// would. Texts that hold the model to its base are not cut: where it has gone furthest they matter most.
    pub loss_clip: f64,
    /// Examples a step.
    pub batch: usize,
    /// Examples a step beside those that hold the model to its base, where there are any.
    pub replay: usize,
    /// What a step's loss on them counts against that on the others.
    pub replay_weight: f64,
    /// Tokens of an example at most; longer ones are refused.
    pub context: usize,
    /// Tokens that go through the model at once; a step with more takes several passes.
    pub pass_tokens: usize,
    pub seed: u64,
    /// Steps between evaluations on what is held out; 0: only at the end.
    pub evaluate_every: u64,
    /// Evaluations without improvement before the run stops; 0: never.
    pub patience: u64,
    /// Steps between saved states; 0: none.
    pub save_every: u64,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            rank: 16,
            alpha: 32.0,
            targets: Projection::ALL.to_vec(),
            epochs: 3.0,
            learning_rate: 1e-3,
            warmup: 10,
            weight_decay: 0.0,
            clip: 1.0,
            loss_clip: 0.0,
            batch: 4,
            replay: 2,
            replay_weight: 1.0,
            context: 2048,
            pass_tokens: 1024,
            seed: 0,
            evaluate_every: 0,
            patience: 0,
            save_every: 0,
        }
    }
}

impl Options {
    /// The adapter that a run with these settings makes.
    #[must_use]
    pub fn shape(&self) -> LoraShape {
        #[expect(clippy::cast_precision_loss, reason = "ranks are small")]
        LoraShape::new(self.rank, self.alpha / self.rank as f32, &self.targets)
    }

    /// What is wrong with a setting, if anything: its name and why.
    #[must_use]
    pub fn problem(&self) -> Option<(&'static str, &'static str)> {
        let positive = |v: f64| v.is_finite() && v > 0.0;
        let at_least_0 = |v: f64| v.is_finite() && v >= 0.0;
        let checks = [
            (self.rank > 0 && self.rank <= 512, "rank", "is between 1 and 512"),
            (positive(self.alpha.into()), "alpha", "is more than 0"),
            (!self.targets.is_empty(), "targets", "names one projection or more"),
            (positive(self.epochs), "epochs", "is more than 0"),
            (positive(self.learning_rate), "learning_rate", "is more than 0"),
            (at_least_0(self.weight_decay), "weight_decay", "is not negative"),
            (at_least_0(self.clip), "clip", "is not negative"),
            (at_least_0(self.loss_clip), "loss_clip", "is not negative"),
            (self.batch > 0, "batch", "is 1 or more"),
            (at_least_0(self.replay_weight), "replay_weight", "is not negative"),
            (self.context >= 2, "context", "is 2 or more"),
            (self.pass_tokens > 0, "pass_tokens", "is 1 or more"),
        ];
        checks.into_iter().find(|(holds, ..)| !holds).map(|(_, name, rule)| (name, rule))
    }
}
