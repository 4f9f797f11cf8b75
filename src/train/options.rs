//! The settings of one training run.

use crate::onnx::lora::Projection;

/// How a run trains. The defaults suit a small model and a few hundred examples.
#[derive(Clone, Debug, PartialEq)]
pub struct Options {
    pub rank: usize,
    /// The update is scaled by `alpha / rank`.
    pub alpha: f32,
    pub targets: Vec<Projection>,
    pub epochs: f32,
    /// Peak, reached after `warmup` steps, then falling along a cosine to 0.
    pub learning_rate: f64,
    pub warmup: usize,
    pub weight_decay: f64,
    /// The gradient's norm is cut to this.
    pub clip: f64,
    /// Examples a step.
    pub batch: usize,
    /// Tokens of a packed row at most; longer examples are refused.
    pub context: usize,
    pub seed: u64,
    /// Steps between evaluations on what is held out; 0: only at the end.
    pub evaluate_every: usize,
    /// Evaluations without improvement before the run stops; 0: never.
    pub patience: usize,
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
            batch: 4,
            context: 1024,
            seed: 0,
            evaluate_every: 0,
            patience: 0,
        }
    }
}
