//! The state of a run on disk, so that it can go on where it was.

use std::fs::{self, File};
use std::io::Write as _;
use std::path::Path;

use ort::value::DynTensor;
use safetensors::SafeTensors;
use safetensors::tensor::{Dtype, TensorView};
use serde::{Deserialize, Serialize};

use super::run::Job;
use super::{Options, TrainError};
use crate::onnx::adamw::Moments;
use crate::onnx::llama::stack::Stack;
use crate::onnx::program;

const FILE: &str = "state.safetensors";

/// Where the states of a run are.
#[derive(Clone, Copy, Debug)]
pub struct Place<'a> {
    pub dir: &'a Path,
    /// The hash of the base model's weights: a run goes on over those with which it began.
    pub base: &'a str,
}

/// What a run has reached, besides its vectors.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Reached {
    /// Of the examples, the settings and the model: another run's state is not gone on with.
    pub fingerprint: String,
    /// Steps done.
    pub step: u64,
    pub tokens: u64,
    /// Bits of the loss of each step, so that they come back as they were.
    pub losses: Vec<u64>,
    pub best: Option<Best>,
    pub before: Option<u64>,
}

/// The best evaluation so far.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Best {
    /// Bits of the loss.
    pub loss: u64,
    pub step: u64,
    /// Evaluations since then that were not better.
    pub worse: u64,
}

/// Vectors of a layer.
pub(super) struct Vectors<'a> {
    pub now: &'a [Moments],
    /// Those of the best evaluation.
    pub best: &'a [Vec<f32>],
}

/// What a run depends on. How often it is saved may change.
pub(super) fn fingerprint(stack: &Stack, job: &Job<'_>, base: &str) -> String {
    let mut hasher = blake3::Hasher::new();
    let options = Options { save_every: 0, ..job.options.clone() };
    let options = serde_json::to_string(&options).expect("plain data");
    hasher.update(options.as_bytes()).update(base.as_bytes());
    hasher.update(format!("{:?}", stack.architecture()).as_bytes());
    for storage in stack.storage() {
        hasher.update(format!("{storage:?}").as_bytes());
    }
    for example in job.examples.iter().chain(job.held_out) {
        hasher.update(format!("{:?}", example.goal).as_bytes());
        for (token, weight) in example.tokens.iter().zip(&example.weights) {
            hasher.update(&token.to_le_bytes()).update(&weight.to_le_bytes());
        }
    }
    hasher.finalize().to_hex().to_string()
}

/// Writes the state beside the old one and puts it in its place.
pub(super) fn save(dir: &Path, reached: &Reached, vectors: &Vectors<'_>) -> Result<(), TrainError> {
    let io = |operation, path: &Path| {
        let path = path.to_owned();
        move |source| TrainError::Io { operation, path, source }
    };
    fs::create_dir_all(dir).map_err(io("create", dir))?;
    let mut tensors: Vec<(String, Vec<u8>, usize)> = Vec::new();
    let mut push = |name: String, values: &[f32]| {
        let bytes = values.iter().flat_map(|v| v.to_le_bytes()).collect();
        tensors.push((name, bytes, values.len()));
    };
    for (layer, moments) in vectors.now.iter().enumerate() {
        for (name, tensor) in
            [("values", &moments.values), ("first", &moments.first), ("second", &moments.second)]
        {
            push(format!("{layer}.{name}"), &program::read(tensor)?);
        }
    }
    for (layer, best) in vectors.best.iter().enumerate() {
        push(format!("{layer}.best"), best);
    }
    let path = dir.join(FILE);
    let views = tensors.iter().map(|(name, bytes, length)| {
        let view = TensorView::new(Dtype::F32, vec![*length], bytes).expect("bytes of 32-bit floats");
        (name.as_str(), view)
    });
    let meta = serde_json::to_string(reached).expect("plain data");
    let written = safetensors::serialize(views, Some([("reached".to_owned(), meta)].into()))
        .map_err(|e| TrainError::State { path: path.clone(), reason: e.to_string() })?;
    let temporary = dir.join(format!("{FILE}.part"));
    let mut file = File::create(&temporary).map_err(io("write", &temporary))?;
    file.write_all(&written).and_then(|()| file.sync_all()).map_err(io("write", &temporary))?;
    fs::rename(&temporary, &path).map_err(io("put in place", &path))
}

/// A saved run.
pub(super) struct Saved {
    pub reached: Reached,
    pub now: Vec<Moments>,
    pub best: Vec<Vec<f32>>,
}

/// The state of the run that `fingerprint` names, if one was saved.
///
/// # Errors
/// When the state is another run's or damaged: it is left as it is.
pub(super) fn load(dir: &Path, fingerprint: &str, layers: usize) -> Result<Option<Saved>, TrainError> {
    let path = dir.join(FILE);
    let bytes = match fs::read(&path) {
        Ok(bytes) => bytes,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(source) => return Err(TrainError::Io { operation: "read", path, source }),
    };
    let damaged = |reason: String| TrainError::State {
        path: path.clone(),
        reason: format!("{reason}: remove it to begin anew"),
    };
    let (_, header) = SafeTensors::read_metadata(&bytes)
        .map_err(|e| damaged(format!("the saved state is damaged: {e}")))?;
    let meta = header.metadata().as_ref().and_then(|m| m.get("reached"));
    let meta = meta.ok_or_else(|| damaged("this is no saved state".to_owned()))?;
    let reached: Reached =
        serde_json::from_str(meta).map_err(|e| damaged(format!("the saved state is damaged: {e}")))?;
    if reached.fingerprint != fingerprint {
        return Err(damaged(
            "it was saved by a run with other examples, settings or another model".to_owned(),
        ));
    }
    let file =
        SafeTensors::deserialize(&bytes).map_err(|e| damaged(format!("the saved state is damaged: {e}")))?;
    let vector = |name: String| -> Result<Vec<f32>, TrainError> {
        let view = file.tensor(&name).map_err(|e| damaged(format!("{name}: {e}")))?;
        let (floats, _) = view.data().as_chunks::<4>();
        Ok(floats.iter().map(|b| f32::from_le_bytes(*b)).collect())
    };
    let tensor = |name: String| -> Result<DynTensor, TrainError> {
        let values = vector(name)?;
        Ok(program::floats(&[values.len()], values)?)
    };
    let now = (0..layers)
        .map(|layer| {
            Ok(Moments {
                values: tensor(format!("{layer}.values"))?,
                first: tensor(format!("{layer}.first"))?,
                second: tensor(format!("{layer}.second"))?,
            })
        })
        .collect::<Result<_, TrainError>>()?;
    let best = if reached.best.is_some() {
        (0..layers).map(|layer| vector(format!("{layer}.best"))).collect::<Result<_, _>>()?
    } else {
        Vec::new()
    };
    Ok(Some(Saved { reached, now, best }))
}
