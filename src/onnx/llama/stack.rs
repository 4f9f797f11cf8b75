//! A whole model: its weights, and the programs that run over its layers one after another.
//!
//! One program serves all layers; the weights are given to it by turns. What a backward pass needs of a layer is kept from
//! the forward pass, see [`Keep`].

use std::borrow::Borrow;
use std::collections::HashMap;

use ort::value::DynTensor;

use super::Architecture;
use super::batch::Batch;
use super::block::{Block, BlockOptions, Keep};
use super::frozen::Storage;
use super::heads::{self, HeadOptions, Loss};
use super::mask::mask;
use super::weights::{Layer, Rotary, Weights};
use crate::onnx::lora::LoraShape;
use crate::onnx::program::{self, Program, ProgramError, Runtime};

/// Rows of a head that are taken at once: their logits are in memory together.
const HEAD_ROWS: usize = 256;

const PREPARED: &str = "prepared for training";

/// Positions of a batch that count, and what they are compared with.
pub struct Targets {
    /// Indices into the batch's `rows · length` positions; the prediction is made there.
    pub rows: Vec<i64>,
    /// What each row's loss is multiplied by.
    pub weights: Vec<f32>,
    pub goal: RowGoal,
    /// A row's loss counts at most this much, in nats; a row above has no gradient.
    pub clip: Option<f32>,
    /// What the rows' texts were sampled from, where that was not the model as it is now.
    pub off_policy: Option<OffPolicy>,
}

/// The truncated importance weight of rows that another model sampled: min(p(token) / p_then(token), most), held fixed.
pub struct OffPolicy {
    /// The token that followed each row.
    pub sampled: Vec<i64>,
    /// The logarithms of the probabilities that they had.
    pub log_p: Vec<f32>,
    pub most: f32,
}

/// What rows are compared with.
#[derive(Clone, Debug)]
pub enum RowGoal {
    /// One token a row.
    Labels(Vec<i64>),
    /// `count` tokens a row with shares that sum to 1: the divergence from them.
    Shares { count: usize, labels: Vec<i64>, shares: Vec<f32> },
    /// A teacher's final rows `[M, D]`, and the divergence from it.
    Teacher { hidden: Vec<f32>, loss: Loss },
}

/// What a batch gave.
pub struct Gradient {
    /// Σ weight · min(loss, clip).
    pub loss: f64,
    /// Losses of the rows, for each of the targets.
    pub losses: Vec<Losses>,
    /// A vector for each layer: what was given before plus this batch's.
    pub lora: Vec<DynTensor>,
    /// The norm of all of `lora`.
    pub norm: f64,
}

/// Losses of the rows of one [`Targets`].
pub struct Losses {
    /// Σ weight · min(loss, clip).
    pub total: f64,
    /// Unweighted and uncut, one a row.
    pub rows: Vec<f32>,
    /// Rows above the clip.
    pub cut: usize,
}

/// A model ready to run, with adapters of one shape.
pub struct Stack {
    weights: Weights,
    runtime: Runtime,
    shape: Option<LoraShape>,
    keep: Keep,
    rotary: Rotary,
    /// For each way in which layers are stored.
    blocks: HashMap<(usize, bool), Vec<BlockPrograms>>,
    heads: Vec<(HeadOptions, Program)>,
    mask: Program,
    embed: Program,
    no_gradient: Program,
    hidden_rows: Program,
    logits: Program,
}

/// Programs of one number of chunks, with or without adapter; the backward ones are made when first needed.
struct BlockPrograms {
    block: Block,
    products: Vec<&'static str>,
    forward: Program,
    training: Option<(Program, Program)>,
}

impl Stack {
    /// # Errors
    /// When ONNX Runtime refuses a graph.
    pub fn new(
        runtime: &Runtime,
        weights: Weights,
        shape: Option<LoraShape>,
        keep: Keep,
    ) -> Result<Self, ProgramError> {
        let model = &weights.architecture;
        let mask = mask(model, runtime)?;
        let no_gradient = heads::no_gradient(model, runtime)?;
        let mut embed = heads::embed(model, weights.embedding.storage, runtime)?;
        let mut hidden_rows = heads::hidden_rows(model, runtime)?;
        let mut logits = heads::logits(model, weights.output().storage, runtime)?;
        weights.embedding.give_to(&mut embed, "embedding")?;
        hidden_rows.give("norm", &weights.norm)?;
        logits.give("norm", &weights.norm)?;
        weights.output().give_to(&mut logits, "output")?;
        Ok(Self {
            runtime: runtime.clone(),
            shape,
            keep,
            rotary: Rotary::default(),
            blocks: HashMap::new(),
            heads: Vec::new(),
            mask,
            embed,
            no_gradient,
            hidden_rows,
            logits,
            weights,
        })
    }

    #[must_use]
    pub fn architecture(&self) -> &Architecture {
        &self.weights.architecture
    }

    /// How each matrix is stored: embedding, output, then those of each layer.
    pub fn storage(&self) -> impl Iterator<Item = Storage> {
        self.weights.storage()
    }

    /// The last block's output `[B, S, D]`. `lora`: a vector for each layer, or the base model.
    ///
    /// # Errors
    /// When the runtime fails.
    pub fn forward(&mut self, batch: &Batch, lora: Option<&[&DynTensor]>) -> Result<DynTensor, ProgramError> {
        let mut h = one(self.embed.run(&[("ids", &batch.ids)])?);
        let mask = self.mask(batch)?;
        let (programs, weights) = self.prepared(batch, &mask, lora.is_some(), false)?;
        for (layer, given) in weights.layers.iter().enumerate() {
            let program = &mut programs[given.kind].forward;
            give_layer(program, given, lora.map(|l| l[layer]))?;
            h = one(program.run(&[("h", &h)])?);
        }
        Ok(h)
    }

    /// Losses of `targets` after a forward pass that gave `h`.
    ///
    /// # Errors
    /// When the runtime fails.
    pub fn losses(
        &mut self,
        batch: &Batch,
        h: &DynTensor,
        targets: &Targets,
    ) -> Result<Losses, ProgramError> {
        let zeros = self.zeros(batch)?;
        Ok(self.head(h, zeros, targets)?.0)
    }

    /// Final rows of `h` after the norm, `[rows, D]`: what a student can be compared with.
    ///
    /// # Errors
    /// When the runtime fails.
    pub fn hidden(&mut self, h: &DynTensor, rows: &[i64]) -> Result<Vec<f32>, ProgramError> {
        let rows = program::integers(&[rows.len()], rows.to_vec())?;
        let x = one(self.hidden_rows.run(&[("h", h), ("rows", &rows)])?);
        Ok(program::read(&x)?.into_owned())
    }

    /// Logits `[rows, V]` of rows of `h`.
    ///
    /// # Errors
    /// When the runtime fails.
    pub fn logits(&mut self, h: &DynTensor, rows: &[i64]) -> Result<Vec<f32>, ProgramError> {
        let rows = program::integers(&[rows.len()], rows.to_vec())?;
        let logits = one(self.logits.run(&[("h", h), ("rows", &rows)])?);
        Ok(program::read(&logits)?.into_owned())
    }

    /// Adds the gradient of `targets` to `before`, a vector for each layer.
    ///
    /// # Errors
    /// When the runtime fails.
    ///
    /// # Panics
    /// When the stack was made without the shape of an adapter.
    pub fn gradient(
        &mut self,
        batch: &Batch,
        lora: &[&DynTensor],
        targets: &[Targets],
        before: &[impl Borrow<DynTensor>],
    ) -> Result<Gradient, ProgramError> {
        let mut h = one(self.embed.run(&[("ids", &batch.ids)])?);
        let mut kept = Vec::with_capacity(lora.len());
        let mask = self.mask(batch)?;
        let (programs, weights) = self.prepared(batch, &mask, true, true)?;
        for (layer, given) in weights.layers.iter().enumerate() {
            let (forward, _) = programs[given.kind].training.as_mut().expect(PREPARED);
            give_layer(forward, given, Some(lora[layer]))?;
            let mut outputs = forward.run(&[("h", &h)])?.into_iter();
            let next = outputs.next().expect("a block has an output");
            kept.push((std::mem::replace(&mut h, next), outputs.collect::<Vec<_>>()));
        }

        let mut dh = self.zeros(batch)?;
        let mut losses = Vec::with_capacity(targets.len());
        for targets in targets {
            let (found, after) = self.head(&h, dh, targets)?;
            losses.push(found);
            dh = after;
        }
        let loss = losses.iter().map(|found| found.total).sum();
        drop(h);

        let (programs, weights) = self.prepared(batch, &mask, true, true)?;
        let mut gradients = Vec::with_capacity(lora.len());
        let mut squares = 0.0;
        for (layer, given) in weights.layers.iter().enumerate().rev() {
            let (h, products) = kept.pop().expect("each layer kept something");
            let BlockPrograms { products: names, training, .. } = &mut programs[given.kind];
            let (_, backward) = training.as_mut().expect(PREPARED);
            give_layer(backward, given, Some(lora[layer]))?;
            for (name, value) in names.iter().zip(&products) {
                backward.give(name, value)?;
            }
            let outputs =
                backward.run(&[("h", &h), ("dh_out", &dh), ("dlora_in", before[layer].borrow())])?;
            let [d_input, d_lora, norm] = <[DynTensor; 3]>::try_from(outputs).expect("three outputs");
            squares += f64::from(program::read(&norm)?[0]);
            dh = d_input;
            gradients.push(d_lora);
        }
        for (_, backward) in programs.iter_mut().filter_map(|programs| programs.training.as_mut()) {
            backward.forget_inputs();
        }
        gradients.reverse();
        Ok(Gradient { loss, losses, lora: gradients, norm: squares.sqrt() })
    }

    fn zeros(&mut self, batch: &Batch) -> Result<DynTensor, ProgramError> {
        Ok(one(self.no_gradient.run(&[("ids", &batch.ids)])?))
    }

    fn mask(&mut self, batch: &Batch) -> Result<DynTensor, ProgramError> {
        Ok(one(self.mask.run(&[("segments", &batch.segments), ("places", &batch.places)])?))
    }

    /// Losses of rows, and `dh` with their gradient added, chunk by chunk.
    fn head(
        &mut self,
        h: &DynTensor,
        mut dh: DynTensor,
        targets: &Targets,
    ) -> Result<(Losses, DynTensor), ProgramError> {
        let loss = match &targets.goal {
            RowGoal::Labels(_) => Loss::Sparse { targets: 1 },
            RowGoal::Shares { count, .. } => Loss::Sparse { targets: *count },
            RowGoal::Teacher { loss, .. } => *loss,
        };
        let width = self.weights.architecture.hidden;
        let program = self.head_program(HeadOptions { loss, off_policy: targets.off_policy.is_some() })?;
        let column = |values: &[f32]| program::floats(&[values.len(), 1], values.to_vec());
        let clip = targets.clip.unwrap_or(f32::INFINITY);
        program.give("clip", &column(&[clip])?)?;
        if let Some(off_policy) = &targets.off_policy {
            program.give("most", &column(&[off_policy.most])?)?;
        }
        let mut found = Losses { total: 0.0, rows: Vec::with_capacity(targets.rows.len()), cut: 0 };
        for start in (0..targets.rows.len()).step_by(HEAD_ROWS) {
            let chunk = start..(start + HEAD_ROWS).min(targets.rows.len());
            let m = chunk.len();
            program.give("rows", &program::integers(&[m], targets.rows[chunk.clone()].to_vec())?)?;
            program.give("weights", &column(&targets.weights[chunk.clone()])?)?;
            if let Some(off_policy) = &targets.off_policy {
                let sampled = off_policy.sampled[chunk.clone()].to_vec();
                program.give("sampled", &program::integers(&[m, 1], sampled)?)?;
                program.give("old", &column(&off_policy.log_p[chunk.clone()])?)?;
            }
            match &targets.goal {
                RowGoal::Labels(labels) => {
                    program.give("labels", &program::integers(&[m, 1], labels[chunk].to_vec())?)?;
                    program.give("shares", &program::floats(&[m, 1], vec![1.0; m])?)?;
                }
                RowGoal::Shares { count, labels, shares } => {
                    let span = chunk.start * count..chunk.end * count;
                    program
                        .give("labels", &program::integers(&[m, *count], labels[span.clone()].to_vec())?)?;
                    program.give("shares", &program::floats(&[m, *count], shares[span].to_vec())?)?;
                }
                RowGoal::Teacher { hidden, .. } => {
                    let span = chunk.start * width..chunk.end * width;
                    program.give("teacher", &program::floats(&[m, width], hidden[span].to_vec())?)?;
                }
            }
            let outputs = program.run(&[("h", h), ("dh_in", &dh)])?;
            let [total, rows, after] = <[DynTensor; 3]>::try_from(outputs).expect("three outputs");
            found.total += f64::from(program::read(&total)?[0]);
            found.rows.extend_from_slice(&program::read(&rows)?);
            dh = after;
        }
        found.cut = found.rows.iter().filter(|loss| **loss > clip).count();
        Ok((found, dh))
    }

    fn head_program(&mut self, options: HeadOptions) -> Result<&mut Program, ProgramError> {
        let index = match self.heads.iter().position(|(o, _)| *o == options) {
            Some(index) => index,
            None => {
                let weights = &self.weights;
                let output = weights.output();
                let mut program = heads::head(&weights.architecture, options, output.storage, &self.runtime)?;
                program.give("norm", &weights.norm)?;
                output.give_to(&mut program, "output")?;
                self.heads.push((options, program));
                self.heads.len() - 1
            }
        };
        Ok(&mut self.heads[index].1)
    }

    /// The programs for a batch, for each way in which layers are stored, given what does not change from layer to layer.
    fn prepared(
        &mut self,
        batch: &Batch,
        mask: &DynTensor,
        with_adapter: bool,
        training: bool,
    ) -> Result<(&mut [BlockPrograms], &Weights), ProgramError> {
        let (runtime, model) = (&self.runtime, &self.weights.architecture);
        let key = (batch.chunks, with_adapter);
        if !self.blocks.contains_key(&key) {
            let shape = self.shape.clone().filter(|_| with_adapter);
            assert!(shape.is_some() == with_adapter, "the stack was made for an adapter");
            let programs = self.weights.kinds.iter().map(|&storage| {
                let options = BlockOptions { lora: shape.clone(), storage, chunks: batch.chunks };
                let mut block = Block::new(model, &options);
                let forward = block.forward(runtime, Keep::Input)?;
                let products = if self.keep == Keep::Products { block.products() } else { Vec::new() };
                Ok(BlockPrograms { block, products, forward, training: None })
            });
            let programs = programs.collect::<Result<_, ProgramError>>()?;
            self.blocks.insert(key, programs);
        }
        let all = self.blocks.get_mut(&key).expect("just made");
        let [cos, sin] = self.rotary.tables(runtime, model, batch.longest)?;
        for programs in all.iter_mut() {
            if training && programs.training.is_none() {
                let forward = programs.block.forward(runtime, self.keep)?;
                let backward = programs.block.backward(runtime, self.keep)?;
                programs.training = Some((forward, backward));
            }
            let trained = programs.training.iter_mut().flat_map(|(forward, backward)| [forward, backward]);
            for program in trained.chain([&mut programs.forward]) {
                for (name, value) in
                    [("positions", &batch.positions), ("mask", mask), ("cos", cos), ("sin", sin)]
                {
                    program.give(name, value)?;
                }
            }
        }
        Ok((all, &self.weights))
    }
}

fn give_layer(program: &mut Program, weights: &Layer, lora: Option<&DynTensor>) -> Result<(), ProgramError> {
    weights.give_to(program)?;
    lora.map_or(Ok(()), |lora| program.give("lora", lora))
}

fn one(outputs: Vec<DynTensor>) -> DynTensor {
    outputs.into_iter().next().expect("the program has an output")
}
