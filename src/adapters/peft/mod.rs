//! PEFT directories: `adapter_config.json` and `adapter_model.safetensors`, what trainers and servers exchange.
//!
//! Tensors are called `base_model.model.model.layers.{i}.self_attn.q_proj.lora_A.weight`, A `[rank, in]` and B
//! `[out, rank]`. Format: <https://huggingface.co/docs/peft/developer_guides/checkpoint>.

mod config;
mod tensors;

use std::collections::{BTreeSet, HashMap};
use std::path::Path;

use safetensors::Dtype;
use safetensors::tensor::{TensorInfo, TensorView};

pub use config::PeftConfig;
use tensors::Tensors;

use super::{AdapterError, CONFIG, WEIGHTS, disk};
use crate::onnx::llama::Architecture;
use crate::onnx::lora::{Factor, Lora, LoraShape, Projection};

type Result<T> = std::result::Result<T, AdapterError>;

/// Writes an adapter into a new directory, which appears whole or not at all. Weights are f32.
///
/// `base_model` is what readers that look for the base themselves (`AutoPeftModel`) would load it from. Callers pass the model as it
/// was configured, so only a directory can be found by it; others have to be given the base.
///
/// # Errors
/// When something is at `directory` already, the adapter is none of this model, or the disk fails.
pub fn write(directory: &Path, lora: &Lora, model: &Architecture, base_model: &str) -> Result<()> {
    check(lora, model)?;
    if directory.symlink_metadata().is_ok() {
        return Err(AdapterError::Exists { path: directory.to_owned() });
    }
    let directory =
        std::path::absolute(directory).map_err(AdapterError::file("find the directory", directory))?;
    let parent = directory.parent().unwrap_or(&directory);
    std::fs::create_dir_all(parent).map_err(AdapterError::file("create the directory", parent))?;
    let new = tempfile::Builder::new()
        .prefix(".new-")
        .tempdir_in(parent)
        .map_err(AdapterError::file("create a directory in", parent))?;
    disk::write(&new.path().join(WEIGHTS), &tensors(lora, model))?;
    disk::write(&new.path().join(CONFIG), &config::text(&lora.shape, base_model))?;
    disk::sync_directory(new.path())?;
    disk::rename(new.path(), &directory)?;
    // It has its name now: nothing is left to be cleared away.
    drop(new.keep());
    Ok(())
}

/// Reads an adapter for a model; F16, BF16 and F32 weights.
///
/// Layers that `layers_to_transform` leaves out get zeros, which change nothing.
///
/// # Errors
/// When files are missing or damaged, ask for what Remora's adapters are not, or do not fit the model. The file, and the
/// key or the tensor are named.
pub fn read(directory: &Path, model: &Architecture) -> Result<Lora> {
    let config = PeftConfig::read(directory)?;
    let path = directory.join(WEIGHTS);
    let mut file = Tensors::open(&path)?;

    let mut matrices: HashMap<(usize, Projection, Factor), TensorInfo> = HashMap::new();
    for (name, tensor) in file.infos() {
        let Some(place) = parse(&name).filter(|(layer, ..)| *layer < model.layers) else {
            let known = Projection::ALL.map(Projection::module).join(", ");
            return Err(AdapterError::ForeignTensor { path, tensor: name, known });
        };
        matrices.insert(place, tensor);
    }
    let targets: BTreeSet<Projection> = matrices.keys().map(|(_, projection, _)| *projection).collect();
    let targets: Vec<Projection> = targets.into_iter().collect();
    let shape = LoraShape::new(config.rank, config.scale, &targets);
    let (pieces, length) = (shape.pieces(model), shape.len(model));
    let mut layers = Vec::with_capacity(model.layers);
    for layer in 0..model.layers {
        let is_left_out = config.layers.as_ref().is_some_and(|layers| !layers.contains(&layer));
        // Not zeroed first: memory is what takes the time here.
        let mut vector = Vec::with_capacity(length);
        for piece in &pieces {
            let tensor = name(layer, piece.projection, piece.factor);
            match matrices.get(&(layer, piece.projection, piece.factor)) {
                None if is_left_out => vector.resize(piece.range().end, 0.0),
                None => return Err(AdapterError::MissingTensor { path, tensor }),
                Some(found) if found.shape != [piece.rows, piece.columns] => {
                    let (found, expected) = (found.shape.clone(), [piece.rows, piece.columns]);
                    return Err(AdapterError::Shape { path, tensor, found, expected });
                }
                Some(found) => file.append(&tensor, found, &mut vector)?,
            }
        }
        layers.push(vector);
    }
    Ok(Lora { shape, layers })
}

/// Whether an adapter's vectors are those of a model.
pub(super) fn check(lora: &Lora, model: &Architecture) -> Result<()> {
    let expected = lora.shape.len(model);
    match lora.layers.iter().find(|layer| layer.len() != expected) {
        None if lora.layers.len() == model.layers => Ok(()),
        odd => Err(AdapterError::Model {
            found: lora.layers.len(),
            len: odd.map_or(expected, Vec::len),
            layers: model.layers,
            expected,
        }),
    }
}

/// The name of a matrix in PEFT's files.
pub(super) fn name(layer: usize, projection: Projection, factor: Factor) -> String {
    let letter = match factor {
        Factor::A => 'A',
        Factor::B => 'B',
    };
    let (parent, module) = (projection.parent(), projection.module());
    format!("base_model.model.model.layers.{layer}.{parent}.{module}.lora_{letter}.weight")
}

/// The matrix that a name stands for. Adapters of a bare model have one `model.` less.
fn parse(name: &str) -> Option<(usize, Projection, Factor)> {
    let rest = name.strip_prefix("base_model.model.")?;
    let rest = rest.strip_prefix("model.").unwrap_or(rest).strip_prefix("layers.")?;
    let (layer, rest) = rest.split_once('.')?;
    let (module, factor) = rest.rsplit_once(".lora_")?;
    let factor = match factor {
        "A.weight" => Factor::A,
        "B.weight" => Factor::B,
        _ => return None,
    };
    let (parent, module) = module.split_once('.')?;
    let projection = Projection::ALL.into_iter().find(|p| p.module() == module && p.parent() == parent)?;
    Some((layer.parse().ok()?, projection, factor))
}

/// The bytes of `adapter_model.safetensors`.
fn tensors(lora: &Lora, model: &Architecture) -> Vec<u8> {
    let pieces = lora.shape.pieces(model);
    let mut matrices = Vec::new();
    for (layer, vector) in lora.layers.iter().enumerate() {
        for piece in &pieces {
            let data: Vec<u8> = vector[piece.range()].iter().flat_map(|x| x.to_le_bytes()).collect();
            matrices.push((
                name(layer, piece.projection, piece.factor),
                vec![piece.rows, piece.columns],
                data,
            ));
        }
    }
    let views = matrices.iter().map(|(name, shape, data)| {
        let view = TensorView::new(Dtype::F32, shape.clone(), data).expect("as many bytes as the shape says");
        (name.as_str(), view)
    });
    let metadata = HashMap::from([("format".to_owned(), "pt".to_owned())]);
    safetensors::serialize(views, Some(metadata)).expect("names differ and shapes fit")
}
