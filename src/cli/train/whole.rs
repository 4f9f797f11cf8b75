//! Sequences read anew from their beginning for each token: slow, and needs nothing but the model that trains.

use std::sync::Arc;

use ort::value::DynTensor;

use crate::onnx::llama::batch::{Batch, Slot};
use crate::onnx::llama::stack::Stack;
use crate::onnx::lora::Lora;
use crate::onnx::program::ProgramError;
use crate::serve::engine::{Engine, EngineError, Row};

/// All sequences have the adapter that it was made with.
pub(super) struct Whole<'a> {
    stack: &'a mut Stack,
    lora: Option<&'a [DynTensor]>,
    slots: Vec<Vec<u32>>,
}

impl<'a> Whole<'a> {
    pub fn new(stack: &'a mut Stack, lora: Option<&'a [DynTensor]>, slots: usize) -> Self {
        Self { stack, lora, slots: vec![Vec::new(); slots] }
    }

    /// Logits after the last token of each of these slots.
    fn logits(&mut self, of: &[usize]) -> Result<Vec<f32>, ProgramError> {
        let longest = of.iter().map(|slot| self.slots[*slot].len()).max().unwrap_or_default();
        let length = Batch::padded(longest);
        let mut tokens = Vec::with_capacity(of.len() * length);
        let mut rows = Vec::with_capacity(of.len());
        for (row, slot) in of.iter().enumerate() {
            let said = &self.slots[*slot];
            let small = |n: usize| u32::try_from(n).expect("contexts are small");
            tokens.extend(said.iter().enumerate().map(|(i, token)| Slot {
                token: *token,
                position: small(i),
                segment: 1,
            }));
            tokens.resize((row + 1) * length, Slot::default());
            rows.push(i64::try_from(row * length + said.len() - 1).expect("batches are small"));
        }
        let batch = Batch::new(self.stack.architecture(), &tokens, length)?;
        let lora: Option<Vec<&DynTensor>> = self.lora.map(|layers| layers.iter().collect());
        let h = self.stack.forward(&batch, lora.as_deref())?;
        self.stack.logits(&h, &rows)
    }
}

fn failed(error: ProgramError) -> EngineError {
    EngineError(error.to_string())
}

impl Engine for Whole<'_> {
    fn slots(&self) -> usize {
        self.slots.len()
    }

    fn context(&self) -> usize {
        self.stack.architecture().context
    }

    fn vocabulary(&self) -> usize {
        self.stack.architecture().vocabulary
    }

    fn prefill(
        &mut self,
        slot: usize,
        tokens: &[u32],
        _: Option<&Arc<Lora>>,
    ) -> Result<Vec<f32>, EngineError> {
        self.slots[slot].extend(tokens);
        self.logits(&[slot]).map_err(failed)
    }

    fn step(&mut self, rows: &[Row]) -> Result<Vec<f32>, EngineError> {
        for row in rows {
            self.slots[row.slot].push(row.token);
        }
        let slots: Vec<usize> = rows.iter().map(|row| row.slot).collect();
        self.logits(&slots).map_err(failed)
    }

    fn truncate(&mut self, slot: usize, length: usize) {
        self.slots[slot].truncate(length);
    }
}
