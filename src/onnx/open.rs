//! From a model's name to something that can be computed with.

use std::path::PathBuf;

use super::checkpoint::{Checkpoint, CheckpointError, Precision};
use super::llama::weights::Weights;
use super::program::{ProgramError, Runtime};
use super::provision::{self, ProvisionError};
use super::runtime::{self, Device, RuntimeError};
use crate::config;
use crate::model::Progress;

/// A model cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    #[error(transparent)]
    Provision(#[from] ProvisionError),

    #[error(transparent)]
    Runtime(#[from] RuntimeError),

    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),

    #[error(transparent)]
    Program(#[from] ProgramError),

    #[error("there is no cache directory for the model's weights (no home?): set onnx.cache")]
    NoCache,
}

/// A model and what it computes on.
pub struct Opened {
    pub checkpoint: Checkpoint,
    pub runtime: Runtime,
    /// A sentence on the device, and why it was chosen.
    pub device: String,
    cache: PathBuf,
}

/// Opens `model`: `default`, or the path of a GGUF file or of a directory. `threads` compute (0: one a core); where the
/// process has loaded ONNX Runtime before, it stays as it was. Fetches what is missing, where that is allowed.
///
/// # Errors
/// When the runtime or the model cannot be had or used.
pub fn open(
    config: &config::Onnx,
    model: &str,
    threads: u16,
    progress: &dyn Progress,
) -> Result<Opened, OpenError> {
    let path = provision::model_path(config, model, progress)?;
    let library = provision::library(config, progress)?.path;
    let environment = runtime::environment(&library, threads, config.spin)?;
    let (device, said) = runtime::choose_device(&environment, config.device)?;
    let cache = config.cache_dir().ok_or(OpenError::NoCache)?.join("weights");
    let checkpoint = Checkpoint::open(&path)?;
    Ok(Opened { checkpoint, runtime: Runtime::on(environment, device), device: said, cache })
}

impl Opened {
    /// How matrices are held for training: where they are not to be quantised, in 32-bit floats on the processor and in 16 bits
    /// on a GPU, whose products of those are several times as fast.
    #[must_use]
    pub fn precision(&self, quantize: config::Quantize) -> Precision {
        match (quantize, self.runtime.device()) {
            (config::Quantize::None, Device::Cuda(_)) => Precision::Bf16,
            _ => quantize.into(),
        }
    }

    /// The weights. As 32-bit floats they lie in memory that other processes share; others are this process's own.
    ///
    /// # Errors
    /// When the shared file cannot be written (4 bytes a parameter, once for each model).
    pub fn weights(&self, precision: Precision) -> Result<Weights, OpenError> {
        let (checkpoint, model) = (&self.checkpoint, self.checkpoint.architecture.clone());
        if precision == Precision::F32 {
            let prepared = checkpoint.prepared(&self.cache)?;
            return Ok(Weights::mapped(&self.runtime, model, prepared)?);
        }
        Weights::held(&self.runtime, model, |part, _| Ok(checkpoint.held(part, precision)?))
    }

    /// Where prepared weights are kept.
    #[must_use]
    pub fn cache(&self) -> &std::path::Path {
        &self.cache
    }
}
