//! What a run says of itself.

use serde::Serialize;

use crate::onnx::lora::Lora;

/// What happens during a run.
#[derive(Clone, Debug, Serialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum Event {
    /// A saved state was found: steps that were done already.
    Resumed { step: u64 },
    Step {
        step: u64,
        steps: u64,
        /// Of this step, in nats a token; what is above `loss_clip` counts as that.
        loss: f64,
        /// Tokens above it.
        cut: usize,
        learning_rate: f64,
        /// Of the gradient, before it is cut.
        norm: f64,
        tokens_per_second: f64,
        seconds_left: f64,
    },
    /// The loss on what is held out.
    Evaluated { step: u64, loss: f64 },
}

/// Why a run ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Ended {
    Finished,
    /// What is held out stopped getting better.
    EarlyStopped,
    Cancelled,
    /// Numbers went wrong; the adapter is that of the best evaluation, where that was better than the base, or else of where
    /// losses were lowest since the run was begun or gone on with.
    Diverged(String),
}

/// What a run did.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Report {
    pub ended: Ended,
    /// Steps done, and planned.
    pub step: u64,
    pub steps: u64,
    /// Steps after which the adapter was as it is: fewer where a later one was worse, or numbers went wrong.
    pub adapter_step: u64,
    /// Tokens that went through the model in training.
    pub tokens: u64,
    pub seconds: f64,
    /// Of each step.
    pub losses: Vec<f64>,
    /// Losses on what is held out: of the base model, and of the adapter.
    pub held_out_before: Option<f64>,
    pub held_out_after: Option<f64>,
}

/// An adapter, and how it came to be.
pub struct Trained {
    pub lora: Lora,
    pub report: Report,
}
