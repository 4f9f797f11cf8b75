use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::engine::Engine;
use super::server::Model;
use super::text::ModelText;
use crate::config::Config;
use crate::model::Progress;
use crate::onnx::checkpoint::{Checkpoint, CheckpointError};
use crate::onnx::provision::{self, DEFAULT_MODEL, ProvisionError};

/// The model of a configuration cannot be served.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    #[error(transparent)]
    Provision(#[from] ProvisionError),
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    #[error("{path}: {reason}", path = path.display())]
    Engine { path: PathBuf, reason: String },
}

/// Opens the model that `serve.model` names, fetching the default one where it is missing and may be fetched.
///
/// Blocks for seconds, or as long as fetching takes.
///
/// # Errors
/// When the model, or ONNX Runtime, is not there, or cannot be used.
pub fn open(config: &Config, progress: &dyn Progress) -> Result<Model, OpenError> {
    let serve = &config.serve;
    let path = provision::model_path(&config.onnx, &serve.model, progress)?;
    let checkpoint = Checkpoint::open(&path)?;
    let engine = engine(config, &checkpoint, &path, progress)?;
    let names = if serve.names.is_empty() { names(&serve.model, &path) } else { serve.names.clone() };
    let text = Arc::new(ModelText::of(&checkpoint));
    let architecture = Some(checkpoint.architecture.clone());
    let root = path.display().to_string();
    Ok(Model { engine, text, names, root, architecture, load: None })
}

fn engine(
    config: &Config,
    checkpoint: &Checkpoint,
    path: &Path,
    progress: &dyn Progress,
) -> Result<Box<dyn Engine>, OpenError> {
    let _ = (config, checkpoint, progress);
    Err(OpenError::Engine { path: path.to_owned(), reason: "there is no engine".to_owned() })
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
    fn models_are_called_like_their_files() {
        assert_eq!(names("/m/a.Q4_1.gguf", Path::new("/m/a.Q4_1.gguf")), ["a.Q4_1"]);
        assert_eq!(names("/m/Qwen3-0.6B/", Path::new("/m/Qwen3-0.6B/")), ["Qwen3-0.6B"]);
        assert_eq!(names("default", Path::new("/c/Smol.gguf")), ["Smol", "default"]);
    }
}
