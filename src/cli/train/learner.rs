//! A model on this machine that trains and is examined.

use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;

use anyhow::Context;
use ort::value::DynTensor;

use super::answers::greedy;
use crate::adapters::peft;
use crate::config::Config;
use crate::model::Progress;
use crate::onnx::llama::block::Keep;
use crate::onnx::llama::stack::Stack;
use crate::onnx::lora::Lora;
use crate::onnx::program::{self, Runtime};
use crate::onnx::runtime::Device;
use crate::onnx::{self, Opened};
use crate::serve::onnx_engine::{self, OnnxEngine, Precision};
use crate::train::gate::{ExamError, Model};
use crate::train::pass::{self, Learner, Order, PassError, Step, Who};
use crate::train::tokens::Language;
use crate::train::{Ended, Event, Example, Job, Options, evaluate, run};

/// A checkpoint, its weights in memory once, and what was trained on it.
pub(super) struct Local {
    /// As the order names it.
    name: String,
    opened: Opened,
    stack: Stack,
    /// Made when it is first asked.
    engine: Option<OnnxEngine>,
    /// Tokens of a question and its answer, at most.
    context: usize,
    /// Of the weights in the gate: as in training, but for 32-bit floats where a GPU trains over 16.
    precision: Precision,
    pass_tokens: usize,
    trained: Option<Arc<Lora>>,
}

impl Local {
    /// Opens what an order asks for.
    pub fn open(config: &Config, order: &Order, progress: &dyn Progress) -> anyhow::Result<Self> {
        let opened = onnx::open(&config.onnx, &order.model, order.settings.threads, progress)?;
        tracing::info!("{}", opened.device);
        let quantize = order.settings.lora.quantize;
        let weights = opened.weights(opened.precision(quantize))?;
        let options = pass::options(&order.settings.lora);
        let stack = Stack::new(&opened.runtime, weights, Some(options.shape()), Keep::Products)
            .context("the model's graphs")?;
        Ok(Self {
            name: order.model.clone(),
            context: options.context.min(opened.checkpoint.architecture.context),
            opened,
            stack,
            engine: None,
            precision: quantize.into(),
            pass_tokens: options.pass_tokens,
            trained: None,
        })
    }

    /// What answers: the model as it was trained. It packs weights of its own, in floats out of the file that is mapped for
    /// training.
    fn engine(&mut self) -> Result<&mut OnnxEngine, ExamError> {
        if self.engine.is_none() {
            let options =
                onnx_engine::Options { slots: SLOTS, context: self.context, precision: self.precision };
            let Opened { checkpoint, runtime, .. } = &self.opened;
            // Also where a GPU trained: the engine that answers is the processor's.
            let runtime = Runtime::on(runtime.environment().clone(), Device::Cpu);
            let engine = OnnxEngine::new(&runtime, checkpoint, Some(self.opened.cache()), options);
            self.engine = Some(engine.map_err(exam_failed)?);
        }
        Ok(self.engine.as_mut().expect("just made"))
    }
}

fn failed(error: impl std::fmt::Display) -> PassError {
    PassError::Model(error.to_string())
}

impl Learner for Local {
    fn language(&self) -> &dyn Language {
        &self.opened.checkpoint
    }

    fn base_hash(&self) -> Result<String, PassError> {
        self.opened.checkpoint.hash().map_err(failed)
    }

    fn train(
        &mut self,
        examples: &[Example],
        options: &Options,
        told: &mut dyn FnMut(&Step) -> ControlFlow<()>,
    ) -> Result<(), PassError> {
        let job = Job { examples, held_out: &[], options, state: None };
        let mut observe = |event: &Event| match *event {
            Event::Step { step, steps, loss, tokens_per_second, seconds_left, .. } => {
                told(&Step { step, steps, loss, tokens_per_second, seconds_left })
            }
            Event::Resumed { .. } | Event::Evaluated { .. } => ControlFlow::Continue(()),
        };
        let trained = run(&mut self.stack, &self.opened.runtime, &job, &mut observe).map_err(failed)?;
        match trained.report.ended {
            Ended::Finished | Ended::EarlyStopped => {}
            Ended::Cancelled => return Err(PassError::Cancelled),
            Ended::Diverged(why) => return Err(failed(format!("the training diverged: {why}"))),
        }
        self.trained = Some(Arc::new(trained.lora));
        Ok(())
    }

    fn model(&mut self, who: Who) -> Result<Box<dyn Model + '_>, PassError> {
        let adapter = match who {
            Who::Base => None,
            Who::Candidate => Some(
                self.trained.clone().ok_or_else(|| failed("nothing was trained, so that it can be asked"))?,
            ),
        };
        Ok(Box::new(Asked { of: self, adapter }))
    }

    fn save(&self, to: &Path) -> Result<(), PassError> {
        let lora =
            self.trained.as_ref().ok_or_else(|| failed("nothing was trained, so that it can be kept"))?;
        peft::write(to, lora, &self.opened.checkpoint.architecture, &self.name).map_err(failed)
    }
}

/// The model, with the adapter or without.
struct Asked<'a> {
    of: &'a mut Local,
    adapter: Option<Arc<Lora>>,
}

impl Asked<'_> {
    /// A vector for each layer.
    fn tensors(&self) -> Result<Option<Vec<DynTensor>>, ExamError> {
        let Some(lora) = &self.adapter else { return Ok(None) };
        let tensors = lora.layers.iter().map(|layer| program::floats(&[layer.len()], layer.clone()));
        tensors.collect::<Result<_, _>>().map(Some).map_err(exam_failed)
    }
}

fn exam_failed(error: impl std::fmt::Display) -> ExamError {
    ExamError(error.to_string())
}

impl Model for Asked<'_> {
    fn loss(&mut self, examples: &[Example]) -> Result<f64, ExamError> {
        let tensors = self.tensors()?;
        let lora: Option<Vec<&DynTensor>> = tensors.as_ref().map(|layers| layers.iter().collect());
        let found = evaluate(&mut self.of.stack, lora.as_deref(), examples, self.of.pass_tokens);
        Ok(found.map_err(exam_failed)?.loss)
    }

    fn answers(&mut self, prompts: &[Vec<u32>], most: usize) -> Result<Vec<String>, ExamError> {
        let stops = self.of.opened.checkpoint.tokenizer.stops().to_vec();
        let engine = self.of.engine()?;
        let answers = greedy(engine, self.adapter.as_ref(), prompts, &stops, most).map_err(exam_failed)?;
        let tokenizer = &self.of.opened.checkpoint.tokenizer;
        answers.iter().map(|answer| tokenizer.decode(answer).map_err(exam_failed)).collect()
    }
}

/// Answers under way at once.
const SLOTS: usize = 16;
