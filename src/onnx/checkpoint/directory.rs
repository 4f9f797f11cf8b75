//! A Hugging Face model directory.

use std::collections::HashMap;
use std::fs;
use std::io;
use std::path::Path;

use safetensors::{Dtype, SafeTensors};
use serde_json::Value;

use super::config;
use super::encoding::Encoding;
use super::mapped::Mapped;
use super::parts::Naming;
use super::{CheckpointError, Contents, Stored};
use crate::onnx::text::{ChatTemplate, Tokenizer};

/// Configuration files are some kilobytes; tokenizers of large vocabularies some ten megabytes.
const LARGEST_JSON: u64 = 1 << 28;

/// Reads everything but the weights themselves.
pub(super) fn open(dir: &Path) -> Result<Contents, CheckpointError> {
    let config_path = dir.join("config.json");
    let config = json(&config_path)?;
    let (files, tensors) = tensors(dir)?;
    let has = |name: &str| tensors.contains_key(name);
    let architecture = config::read(&config_path, &config, has)?;
    let (tokenizer, template) = text(dir, &config)?;
    Ok(Contents {
        architecture,
        tokenizer,
        template,
        naming: Naming::HuggingFace,
        files,
        tensors,
        rows_are_sorted: false,
    })
}

fn text(dir: &Path, config: &Value) -> Result<(Tokenizer, ChatTemplate), CheckpointError> {
    let path = dir.join("tokenizer.json");
    let tokenizer_config = optional_json(&dir.join("tokenizer_config.json"))?;
    let generation = optional_json(&dir.join("generation_config.json"))?;
    let special = optional_json(&dir.join("special_tokens_map.json"))?;
    let mut named = crate::onnx::text::named_tokens(&special);
    named.extend(crate::onnx::text::named_tokens(&tokenizer_config));
    let unreadable =
        |e: crate::onnx::text::TextError| CheckpointError::Unreadable { path: path.clone(), reason: e.0 };
    let stops = [config, &generation].map(|c| &c["eos_token_id"]).into_iter().flat_map(ids).collect();
    let tokenizer = match fs::read(&path) {
        Ok(bytes) => Tokenizer::from_json(&bytes, &named, stops).map_err(unreadable)?,
        Err(e) if e.kind() == io::ErrorKind::NotFound => Tokenizer::absent(),
        Err(e) => return Err(CheckpointError::io("read", &path)(e)),
    };
    let beside = fs::read_to_string(dir.join("chat_template.jinja")).ok();
    let within = match &tokenizer_config["chat_template"] {
        Value::Array(templates) => templates
            .iter()
            .find(|template| template["name"] == "default")
            .and_then(|template| template["template"].as_str()),
        template => template.as_str(),
    };
    Ok((tokenizer, ChatTemplate::new(beside.as_deref().or(within), named)))
}

fn ids(value: &Value) -> Vec<u32> {
    let id = |value: &Value| value.as_u64().and_then(|id| u32::try_from(id).ok());
    match value {
        Value::Array(ids) => ids.iter().filter_map(id).collect(),
        one => id(one).into_iter().collect(),
    }
}

type Tensors = (Vec<Mapped>, HashMap<String, Stored>);

/// All tensors of all safetensors files; those that an index names where there is one.
fn tensors(dir: &Path) -> Result<Tensors, CheckpointError> {
    let mut names = match optional_json(&dir.join("model.safetensors.index.json"))? {
        Value::Null => vec!["model.safetensors".to_owned()],
        index => {
            let map = index["weight_map"].as_object();
            map.into_iter().flatten().filter_map(|(_, file)| file.as_str().map(str::to_owned)).collect()
        }
    };
    names.sort();
    names.dedup();
    let mut files = Vec::new();
    let mut tensors = HashMap::new();
    for name in names {
        let path = dir.join(&name);
        let unreadable = |reason: String| CheckpointError::Unreadable { path: path.clone(), reason };
        // An index is data: it may not lead out of the directory.
        if Path::new(&name).components().count() != 1 || name.contains("..") {
            return Err(unreadable("the index names a file outside of the model's directory".into()));
        }
        let mapped = Mapped::open(&path)?;
        let (head, metadata) = SafeTensors::read_metadata(mapped.bytes())
            .map_err(|e| unreadable(format!("it is damaged, or not downloaded whole: {e}")))?;
        for (tensor, info) in metadata.tensors() {
            let encoding = match info.dtype {
                Dtype::F32 => Ok(Encoding::F32),
                Dtype::F16 => Ok(Encoding::F16),
                Dtype::BF16 => Ok(Encoding::Bf16),
                other => Err(format!("{other:?}")),
            };
            let (rows, columns) = match info.shape.as_slice() {
                [columns] => (1, *columns),
                [rows, columns] => (*rows, *columns),
                // None of the parts has such a shape: it is told by its name.
                _ => (0, 0),
            };
            // The crate writes the header's length, eight bytes, before the header.
            let start = 8 + head + info.data_offsets.0;
            let stored = Stored { file: files.len(), start, encoding, rows, columns, turned: None };
            tensors.insert(tensor, stored);
        }
        files.push(mapped);
    }
    Ok((files, tensors))
}

fn json(path: &Path) -> Result<Value, CheckpointError> {
    let length = fs::metadata(path).map_err(CheckpointError::io("read", path))?.len();
    let unreadable = |reason| CheckpointError::Unreadable { path: path.to_owned(), reason };
    if length > LARGEST_JSON {
        return Err(unreadable(format!("{length} bytes are too many for it")));
    }
    let bytes = fs::read(path).map_err(CheckpointError::io("read", path))?;
    serde_json::from_slice(&bytes).map_err(|e| unreadable(format!("it is no JSON: {e}")))
}

/// Null where there is no such file.
fn optional_json(path: &Path) -> Result<Value, CheckpointError> {
    if path.exists() { json(path) } else { Ok(Value::Null) }
}
