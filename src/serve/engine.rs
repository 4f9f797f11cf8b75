//! What the scheduler needs of a model: sequences in slots, one token a step for each of them.

use std::sync::Arc;

use crate::onnx::lora::Lora;

/// One row of a step: feed `token` to the sequence in `slot`.
#[derive(Clone, Debug)]
pub struct Row {
    pub slot: usize,
    pub token: u32,
    /// `None`: the base model.
    pub adapter: Option<Arc<Lora>>,
}

/// The model cannot go on with this request; others are not affected unless it is said.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct EngineError(pub String);

/// A model with a cache of `slots` sequences. Blocks; driven by one thread.
///
/// Adapters are told apart by the pointer of their `Arc`. A slot's cache was written under one adapter: continuing it
/// under another is the caller's decision.
pub trait Engine: Send {
    /// Sequences that can be under way at once; slots are `0..slots`.
    fn slots(&self) -> usize;

    /// Tokens that a slot holds at most.
    fn context(&self) -> usize;

    fn vocabulary(&self) -> usize;

    /// Appends `tokens` to the slot and returns the logits `[vocabulary]` after the last of them.
    ///
    /// # Errors
    /// When the slot would hold more than [`Engine::context`] tokens, or the runtime fails.
    fn prefill(
        &mut self,
        slot: usize,
        tokens: &[u32],
        adapter: Option<&Arc<Lora>>,
    ) -> Result<Vec<f32>, EngineError>;

    /// Appends one token to each row's slot; logits `[rows, vocabulary]` in the order of `rows`. Slots are distinct.
    ///
    /// # Errors
    /// When the runtime fails; the slots' contents are then lost.
    fn step(&mut self, rows: &[Row]) -> Result<Vec<f32>, EngineError>;

    /// Keeps the first `length` tokens of a slot (0 empties it).
    fn truncate(&mut self, slot: usize, length: usize);

    /// Makes `to` hold the first `length` tokens of `from`, written under the same adapter, in place of what it held; false,
    /// and nothing changes, where the engine cannot. Saves reading a prompt again that another slot has read.
    fn copy(&mut self, from: usize, to: usize, length: usize) -> bool {
        let _ = (from, to, length);
        false
    }
}
