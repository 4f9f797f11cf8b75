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

impl Example {
    /// Positions of tokens that count, with their weights. The first token is predicted from nothing and never counts.
    pub fn counted(&self) -> impl Iterator<Item = (usize, f32)> + '_ {
        self.weights.iter().copied().enumerate().skip(1).filter(|(_, weight)| *weight > 0.0)
    }

    /// Whether any token counts.
    #[must_use]
    pub fn counts(&self) -> bool {
        self.counted().next().is_some()
    }
}
