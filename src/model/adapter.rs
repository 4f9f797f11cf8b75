use std::fmt;

use serde::{Deserialize, Serialize};

use super::{AdapterId, Micros, Scope, TrajectoryId};

/// How far an adapter has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum AdapterState {
    /// Trained, not yet decided on.
    Candidate,
    /// The gate refused it.
    Rejected,
    /// An alias points at it: apps get its answers.
    Active,
    /// Was active; another took its place, or it was taken back.
    Retired,
}

impl AdapterState {
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Candidate => "candidate",
            Self::Rejected => "rejected",
            Self::Active => "active",
            Self::Retired => "retired",
        }
    }
}

impl fmt::Display for AdapterState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Where an adapter comes from. Written once, with its weights.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Lineage {
    pub id: AdapterId,
    pub created: Micros,
    /// Whose traffic it learned from, and who may use it.
    pub scope: Scope,
    pub base: AdapterBase,
    /// What it was trained on.
    pub trajectories: Vec<TrajectoryId>,
    pub examples: AdapterExamples,
    /// The settings of the training run, as it wrote them.
    pub options: serde_json::Value,
    /// Version of Remora that trained it.
    pub code: String,
    /// SHA-256 of `adapter_model.safetensors`, in hex.
    pub weights_sha256: String,
    /// As known when it was registered; later decisions may bring others.
    pub scores: AdapterScores,
}

/// The model that an adapter belongs to.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct AdapterBase {
    /// Name or path.
    pub model: String,
    /// BLAKE3 hash over its weights, in hex.
    pub hash: String,
}

/// How many examples of which kind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct AdapterExamples {
    /// Trained on, all kinds together.
    pub training: u64,
    /// Of these, answers that people corrected.
    pub corrections: u64,
    /// Of these, general text that keeps what the base knows.
    pub replay: u64,
    /// Not trained on: the gate measures on them.
    pub held_out: u64,
}

/// A number for the base and for the base with the adapter, measured alike.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct BeforeAfter {
    pub before: f64,
    pub after: f64,
}

/// What the gate measured; none: not measured.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct AdapterScores {
    /// Mean loss a token on held-out examples, nats.
    pub held_out_loss: Option<BeforeAfter>,
    /// Share of held-out tasks done right, 0 to 1.
    pub task: Option<BeforeAfter>,
    /// Rise of the perplexity on general text as a share: 0.04 is 4 %.
    pub perplexity_rise: Option<f64>,
}
