use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::onnx_engine::{OnnxEngine, OnnxEngineError, Options};
use super::server::{LoadAdapter, Model};
use super::text::ModelText;
use crate::adapters::{AdapterError, Registry, peft};
use crate::config::{self, Config, DeviceChoice};
use crate::model::Progress;
use crate::onnx::checkpoint::{Checkpoint, CheckpointError};
use crate::onnx::llama::Architecture;
use crate::onnx::provision::DEFAULT_MODEL;
use crate::onnx::{self, Opened};
use crate::store::DataDir;

/// The model of a configuration cannot be served.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    #[error(transparent)]
    Model(#[from] onnx::OpenError),
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    #[error(transparent)]
    Engine(#[from] OnnxEngineError),
    #[error(transparent)]
    Registry(#[from] Box<AdapterError>),
}

/// Opens the model that `serve.model` names, fetching the default one where it is missing and may be fetched; its
/// adapters are those that the registry of the data directory has activated for it.
///
/// Computes on the processor, also where there is a GPU and `onnx.device` is `auto`.
///
/// Blocks for seconds, or as long as fetching takes.
///
/// # Errors
/// When the model, or ONNX Runtime, is not there, or cannot be used; before that, when a GPU is asked for.
pub fn open(config: &Config, progress: &dyn Progress) -> Result<Model, OpenError> {
    let why = match config.onnx.device {
        DeviceChoice::Cuda(number) => return Err(OnnxEngineError::Cuda(number).into()),
        DeviceChoice::Cpu => "as onnx.device says",
        DeviceChoice::Auto => "as always when models answer; onnx.device auto is for training",
    };
    let onnx = config::Onnx { device: DeviceChoice::Cpu, ..config.onnx.clone() };
    let opened = onnx::open(&onnx, &config.serve.model, config.serve.threads, progress)?;
    tracing::info!(model = config.serve.model, "a model is opened, computing on the processor, {why}");
    let active = active(&Registry::open(&DataDir::new(config.data_dir())), &opened.checkpoint)?;
    // The secrets of other servers are nothing to this one.
    let aliases = config::Adapters { targets: Vec::new(), ..config.adapters.clone() };
    Ok(Model { active, aliases: Some(aliases), ..over(&opened, &config.serve)? })
}

/// A server's model over one that is open already, without adapters and aliases.
///
/// # Errors
/// When the engine cannot be made of it.
pub fn over(opened: &Opened, serve: &config::Serve) -> Result<Model, OpenError> {
    let checkpoint = &opened.checkpoint;
    let architecture = &checkpoint.architecture;
    let options = Options {
        slots: serve.slots,
        // A model asked for more than it was made for answers nonsense.
        context: serve.context.min(architecture.context),
        precision: serve.quantize.into(),
    };
    let engine = OnnxEngine::new(&opened.runtime, checkpoint, Some(opened.cache()), options)?;
    let path = checkpoint.path();
    Ok(Model {
        engine: Box::new(engine),
        text: Arc::new(ModelText::of(checkpoint)),
        names: if serve.names.is_empty() { names(&serve.model, path) } else { serve.names.clone() },
        root: path.display().to_string(),
        architecture: Some(architecture.clone()),
        load: Some(loader(architecture.clone())),
        active: BTreeMap::new(),
        aliases: None,
    })
}

fn loader(architecture: Architecture) -> LoadAdapter {
    Arc::new(move |path| peft::read(path, &architecture).map_err(|error| error.to_string()))
}

/// What the registry's aliases stand for, as far as it was trained on this model.
fn active(
    registry: &Registry,
    checkpoint: &Checkpoint,
) -> Result<BTreeMap<String, Option<PathBuf>>, OpenError> {
    let mut active = BTreeMap::new();
    for alias in registry.aliases().map_err(Box::new)? {
        let Some(last) = alias.moves.iter().rev().find_map(|step| step.to) else { continue };
        match registry.get(last) {
            // Hashing takes a while for large models: only where something was learned.
            Ok(entry) if entry.lineage.base.hash == checkpoint.hash()? => {
                active.insert(alias.name.clone(), alias.current().map(|id| registry.directory(id)));
            }
            Ok(entry) => {
                tracing::warn!(
                    alias = alias.name,
                    base = entry.lineage.base.model,
                    "is for another base model"
                );
            }
            Err(error) => tracing::error!(alias = alias.name, %error, "is not served"),
        }
    }
    Ok(active)
}

/// The name of the file or directory, without what it says of the format; the default model answers to `default`, too.
fn names(model: &str, path: &Path) -> Vec<String> {
    let path = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    let name = if path.extension().is_some_and(|e| e.eq_ignore_ascii_case("gguf")) {
        path.file_stem()
    } else {
        path.file_name()
    };
    let name = name.map_or_else(|| "model".to_owned(), |name| name.to_string_lossy().into_owned());
    if model == DEFAULT_MODEL { vec![name, DEFAULT_MODEL.to_owned()] } else { vec![name] }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_gpu_that_was_asked_for_is_refused_before_the_model_is_looked_for() {
        let mut config = Config::default();
        config.onnx.device = DeviceChoice::Cuda(1);
        config.serve.model = "/nowhere".into();
        let said = open(&config, &crate::model::Silent).err().expect("refused").to_string();
        assert!(said.contains("cuda:1") && said.contains("Set onnx.device to cpu"), "{said}");
        config.onnx.device = DeviceChoice::Cpu;
        let said = open(&config, &crate::model::Silent).err().expect("no model").to_string();
        assert!(said.contains("/nowhere"), "{said}");
    }

    #[test]
    fn models_are_called_like_their_files() {
        assert_eq!(names("/m/a.Q4_1.gguf", Path::new("/m/a.Q4_1.gguf")), ["a.Q4_1"]);
        assert_eq!(names("/m/Qwen3-0.6B/", Path::new("/m/Qwen3-0.6B/")), ["Qwen3-0.6B"]);
        assert_eq!(names("default", Path::new("/c/Smol.gguf")), ["Smol", "default"]);
    }
}
