//! The engine of [`Engine`] over ONNX Runtime: one program for the whole forward pass, a cache of keys and values, adapters
//! side by side.
//!
//! In: a checkpoint, sequences of tokens in slots, adapters. Out: logits.
//!
//! Always true: a slot's length counts what its cache holds; a call that fails leaves all lengths as they were; a row's
//! logits depend on its own sequence and adapter alone, up to the order in which sums are taken.

mod cache;
mod forward;
mod lanes;
mod linear;
mod table;
#[cfg(test)]
mod tests;

use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use ort::value::Tensor;

use super::engine::{Engine, EngineError, Row};
pub use crate::onnx::checkpoint::Precision;
use crate::onnx::checkpoint::{Checkpoint, CheckpointError, Prepared};
use crate::onnx::heap;
use crate::onnx::lora::Lora;
use crate::onnx::program::{self, Program, ProgramError, Runtime};
use crate::onnx::runtime::Device;
use cache::Cache;
use forward::With;
use lanes::Lanes;
use linear::Source;
use table::Table;

/// What an engine is made for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Options {
    /// Sequences under way at once, at least 1.
    pub slots: usize,
    /// Tokens that a sequence holds at most; no more than the model's context.
    pub context: usize,
    pub precision: Precision,
}

/// A model cannot be decoded with.
#[derive(Debug, thiserror::Error)]
pub enum OnnxEngineError {
    #[error(
        "onnx.device is cuda:{0}, but models answer on the processor only: their cache of keys and values and their adapters lie in its memory. Set onnx.device to cpu, or to auto, which takes a GPU for training and the processor for answers"
    )]
    Cuda(u16),

    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),

    #[error(transparent)]
    Program(#[from] ProgramError),

    #[error("the adapter was made for another model: its matrices have other sizes")]
    AnotherModel,

    #[error("the adapter holds numbers that are not finite")]
    NotFinite,

    #[error("{held} tokens are held and {more} more were given, but a sequence has room for {context}")]
    Full { held: usize, more: usize, context: usize },

    #[error("there are {slots} slots, numbered from 0; slot {slot} is not one of them, or is given twice")]
    Slot { slot: usize, slots: usize },

    #[error("token {token} is not in the vocabulary of {vocabulary}")]
    Token { token: u32, vocabulary: usize },

    #[error("no tokens were given")]
    Nothing,
}

impl From<OnnxEngineError> for EngineError {
    fn from(error: OnnxEngineError) -> Self {
        Self(error.to_string())
    }
}

/// Tokens of a prompt that are run at once: the scores of attention, `[heads, tokens, context]`, stay small.
const CHUNK: usize = 256;

/// A program of the forward pass, and what it was last given: ranges of what may move in memory, with the count of its
/// moves.
struct Pass {
    program: Program,
    cache: Option<(u64, Range<usize>)>,
    lanes: Option<(u64, Range<usize>)>,
}

impl Pass {
    fn new(program: Program) -> Self {
        Self { program, cache: None, lanes: None }
    }
}

/// A model that decodes on ONNX Runtime.
pub struct OnnxEngine {
    // The programs go first: they have tensors over the memory of what follows.
    /// For steps in which nobody has an adapter, where it costs no second copy of the weights.
    plain: Option<Pass>,
    adapted: Pass,
    cache: Cache,
    lanes: Lanes,
    table: Table,
    vocabulary: usize,
    hidden: usize,
    _floats: Option<Prepared>,
}

impl OnnxEngine {
    /// Builds the programs and hands them the weights; takes seconds for a billion parameters. With [`Precision::F32`] and
    /// `weights_dir`, weights are read from a file there that is memory to all processes that do so (and made where it is
    /// missing, 4 bytes a parameter).
    ///
    /// Threads are those of the runtime's environment.
    ///
    /// # Errors
    /// When the runtime computes on a GPU, before anything is read; when the checkpoint cannot be read or the runtime
    /// refuses the graph.
    ///
    /// # Panics
    /// Without slots, or for a context of 0 or beyond the model's.
    pub fn new(
        runtime: &Runtime,
        checkpoint: &Checkpoint,
        weights_dir: Option<&Path>,
        options: Options,
    ) -> Result<Self, OnnxEngineError> {
        if let Device::Cuda(number) = runtime.device() {
            return Err(OnnxEngineError::Cuda(number));
        }
        let model = &checkpoint.architecture;
        assert!(options.slots > 0, "an engine has slots");
        assert!((1..=model.context).contains(&options.context), "1 to {} tokens", model.context);
        let is_mapped = options.precision == Precision::F32;
        let floats = weights_dir.filter(|_| is_mapped).map(|dir| checkpoint.prepared(dir)).transpose()?;
        let source = Source { checkpoint, floats: floats.as_ref(), precision: options.precision };
        let is_shared = floats.is_some();
        let runtime = if is_shared { runtime.clone().packing_once() } else { runtime.clone() };
        let pass = |with| forward::program(&runtime, &source, options.context, with).map(Pass::new);
        let plain = is_shared.then(|| pass(With::Nothing)).transpose()?;
        let adapted = pass(With::Adapters)?;
        heap::give_back();
        Ok(Self {
            plain,
            adapted,
            cache: Cache::new(model, options.slots, options.context),
            lanes: Lanes::new(model.clone()),
            table: Table::read(&source)?,
            vocabulary: model.vocabulary,
            hidden: model.hidden,
            _floats: floats,
        })
    }

    /// Appends `more` tokens to each of the slots, in the order of `tokens`, and returns the logits after the last token of
    /// each, `[slots, vocabulary]`. Several tokens only for one slot.
    fn run(
        &mut self,
        slots: &[usize],
        tokens: &[u32],
        adapters: &[Option<&Arc<Lora>>],
    ) -> Result<Vec<f32>, OnnxEngineError> {
        let more = tokens.len() / slots.len();
        let is_adapted = self.plain.is_none() || adapters.iter().any(Option::is_some);
        let pass = match &mut self.plain {
            Some(plain) if !is_adapted => plain,
            _ => &mut self.adapted,
        };
        let places = self.cache.give(pass, slots, more)?;
        let count = slots.len();
        let mut order = vec![0; count];
        for (index, &place) in places.iter().enumerate() {
            order[place] = index;
        }
        let mut x = Vec::with_capacity(tokens.len() * self.hidden);
        for &index in &order {
            for &token in &tokens[index * more..(index + 1) * more] {
                self.table.append(token as usize, &mut x);
            }
        }
        if is_adapted {
            let adapters: Vec<_> = order.iter().map(|&index| adapters[index]).collect();
            self.lanes.give(pass, &adapters)?;
        }
        let small = |n: usize| i32::try_from(n).expect("contexts are small");
        let last: Vec<i32> =
            order.iter().map(|&index| small(self.cache.length(slots[index]) + more - 1)).collect();
        let position = |index: usize| {
            let held = self.cache.length(slots[index]);
            (held..held + more).map(|p| i64::try_from(p).expect("contexts are small"))
        };
        let positions = order.iter().flat_map(|&index| position(index)).collect();
        let longest = last.iter().max().expect("there are rows") + 1;
        let picked = places.iter().map(|&p| i64::try_from((p + 1) * more - 1).expect("rows are few"));
        let x = program::floats(&[count, more, self.hidden], x)?;
        let last = Tensor::from_array(([count], last)).map_err(ProgramError::from)?.upcast();
        let longest = Tensor::from_array(([1], vec![longest])).map_err(ProgramError::from)?.upcast();
        let positions = program::integers(&[count, more], positions)?;
        let picked = program::integers(&[count], picked.collect())?;
        let outputs = pass.program.run(&[
            (forward::STREAM, &x),
            (forward::LAST, &last),
            (forward::TOTAL, &longest),
            (forward::POSITIONS, &positions),
            (forward::PICKED, &picked),
        ])?;
        let logits = program::read(&outputs[0])?.into_owned();
        for &slot in slots {
            self.cache.extend(slot, more);
        }
        Ok(logits)
    }

    fn check(&self, slot: usize, tokens: &[u32]) -> Result<(), OnnxEngineError> {
        let slots = self.cache.slots();
        if slot >= slots {
            return Err(OnnxEngineError::Slot { slot, slots });
        }
        if let Some(&token) = tokens.iter().find(|&&token| token as usize >= self.vocabulary) {
            return Err(OnnxEngineError::Token { token, vocabulary: self.vocabulary });
        }
        let (held, more, context) = (self.cache.length(slot), tokens.len(), self.cache.context());
        if held + more > context {
            return Err(OnnxEngineError::Full { held, more, context });
        }
        if more == 0 { Err(OnnxEngineError::Nothing) } else { Ok(()) }
    }

    fn append(
        &mut self,
        slot: usize,
        tokens: &[u32],
        adapter: Option<&Arc<Lora>>,
    ) -> Result<Vec<f32>, OnnxEngineError> {
        self.check(slot, tokens)?;
        let before = self.cache.length(slot);
        let mut logits = Vec::new();
        for chunk in tokens.chunks(CHUNK) {
            match self.run(&[slot], chunk, &[adapter]) {
                Ok(found) => logits = found,
                Err(error) => {
                    self.cache.truncate(slot, before);
                    return Err(error);
                }
            }
        }
        Ok(logits)
    }

    fn advance(&mut self, rows: &[Row]) -> Result<Vec<f32>, OnnxEngineError> {
        let slots: Vec<usize> = rows.iter().map(|row| row.slot).collect();
        for (index, row) in rows.iter().enumerate() {
            self.check(row.slot, &[row.token])?;
            if slots[..index].contains(&row.slot) {
                return Err(OnnxEngineError::Slot { slot: row.slot, slots: self.cache.slots() });
            }
        }
        if rows.is_empty() {
            return Ok(Vec::new());
        }
        let tokens: Vec<u32> = rows.iter().map(|row| row.token).collect();
        let adapters: Vec<_> = rows.iter().map(|row| row.adapter.as_ref()).collect();
        self.run(&slots, &tokens, &adapters)
    }
}

impl Engine for OnnxEngine {
    fn slots(&self) -> usize {
        self.cache.slots()
    }

    fn context(&self) -> usize {
        self.cache.context()
    }

    fn vocabulary(&self) -> usize {
        self.vocabulary
    }

    fn prefill(
        &mut self,
        slot: usize,
        tokens: &[u32],
        adapter: Option<&Arc<Lora>>,
    ) -> Result<Vec<f32>, EngineError> {
        Ok(self.append(slot, tokens, adapter)?)
    }

    fn step(&mut self, rows: &[Row]) -> Result<Vec<f32>, EngineError> {
        Ok(self.advance(rows)?)
    }

    fn truncate(&mut self, slot: usize, length: usize) {
        self.cache.truncate(slot, length);
    }

    fn copy(&mut self, from: usize, to: usize, length: usize) -> bool {
        self.cache.copy(from, to, length)
    }
}
