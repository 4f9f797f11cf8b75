//! What one training sequence is.

/// What a position is trained towards.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Goal {
    /// The token that follows: cross-entropy.
    Tokens,
    /// What the base model says there: KL divergence to it, which keeps what it knows.
    Base,
}

/// One sequence. `weights[i]` is how much predicting `tokens[i]` from what comes before it counts; 0 for prompts and for
/// the first token.
#[derive(Clone, Debug, PartialEq)]
pub struct Example {
    pub tokens: Vec<u32>,
    /// As many as `tokens`.
    pub weights: Vec<f32>,
    pub goal: Goal,
}
