use std::path::Path;

use serde_json::{Value, json};

use crate::adapters::{AdapterError, CONFIG};
use crate::onnx::lora::{LoraShape, Projection};

/// What `adapter_config.json` says of an adapter that Remora can use.
///
/// Format: PEFT's `LoraConfig`, <https://huggingface.co/docs/peft/package_reference/lora>.
#[derive(Clone, Debug, PartialEq)]
pub struct PeftConfig {
    pub rank: usize,
    /// What `B·A` is multiplied by.
    pub scale: f32,
    /// The layers that have matrices; none: all.
    pub layers: Option<Vec<usize>>,
    /// As `base_model_name_or_path` names it.
    pub base_model: Option<String>,
}

/// Far beyond any use; a damaged number must not become a request for all memory.
const RANKS: std::ops::RangeInclusive<usize> = 1..=1 << 16;

/// Keys that change what an adapter computes in ways that Remora's does not, and when they are harmless.
const REFUSED: [(&str, &str); 14] = [
    ("use_dora", "weight-decomposed adapters (DoRA) scale the base's columns as well"),
    ("rank_pattern", "all matrices must have one rank"),
    ("alpha_pattern", "all matrices must have one scale"),
    ("modules_to_save", "whole modules were trained beside the adapter"),
    ("trainable_token_indices", "embeddings were trained beside the adapter"),
    ("target_parameters", "parameters outside the seven projections were trained"),
    ("lora_bias", "biases were trained beside the matrices"),
    ("fan_in_fan_out", "its matrices are transposed"),
    ("layer_replication", "it changes the number of layers"),
    ("alora_invocation_tokens", "it is active after certain tokens only (aLoRA)"),
    ("use_qalora", "its inputs are pooled (QA-LoRA)"),
    ("use_bdlora", "its matrices are block-diagonal (BD-LoRA)"),
    ("arrow_config", "it routes between several adapters (Arrow)"),
    ("megatron_config", "it was made for Megatron's layers"),
];

/// Beginnings of `init_lora_weights` that change the base's weights: the adapter alone is then only half of the change.
const CHANGES_BASE: [&str; 5] = ["pissa", "olora", "corda", "loftq", "lora_ga"];

impl PeftConfig {
    /// Reads and checks the file of a PEFT directory.
    ///
    /// # Errors
    /// When it is missing or damaged, or asks for what Remora's adapters are not; the key is named.
    pub fn read(directory: &Path) -> Result<Self, AdapterError> {
        let path = directory.join(CONFIG);
        let bytes = std::fs::read(&path).map_err(AdapterError::file("read", &path))?;
        let damaged = |reason: String| AdapterError::Damaged { path: path.clone(), reason };
        let config: Value = serde_json::from_slice(&bytes).map_err(|e| damaged(e.to_string()))?;
        let unsupported = |key: &str, why| AdapterError::Unsupported {
            path: path.clone(),
            key: key.to_owned(),
            value: config[key].to_string(),
            why,
        };
        for (key, only) in [("peft_type", "LORA"), ("task_type", "CAUSAL_LM"), ("bias", "none")] {
            if config.get(key).is_some_and(|value| !value.is_null() && value != only) {
                return Err(unsupported(
                    key,
                    "only LoRA adapters of causal language models without biases are",
                ));
            }
        }
        for (key, why) in REFUSED {
            if config.get(key).is_some_and(|value| !is_off(value)) {
                return Err(unsupported(key, why));
            }
        }
        let init = config["init_lora_weights"].as_str().unwrap_or_default();
        if CHANGES_BASE.iter().any(|begin| init.starts_with(begin)) {
            return Err(unsupported(
                "init_lora_weights",
                "the base's weights were changed, too; convert it first",
            ));
        }
        for module in config["target_modules"].as_array().into_iter().flatten() {
            let name = module.as_str().unwrap_or_default().rsplit('.').next().unwrap_or_default();
            if !Projection::ALL.iter().any(|p| p.module() == name) {
                return Err(AdapterError::Unsupported {
                    path,
                    key: "target_modules".to_owned(),
                    value: module.to_string(),
                    why: "it is none of the projections of attention and feed-forward",
                });
            }
        }
        let rank = config["r"].as_u64().and_then(|r| usize::try_from(r).ok()).filter(|r| RANKS.contains(r));
        let rank = rank.ok_or_else(|| damaged("r is missing, or no rank".to_owned()))?;
        let alpha = config["lora_alpha"].as_f64();
        let alpha = alpha.ok_or_else(|| damaged("lora_alpha is missing, or no number".to_owned()))?;
        let stable = config["use_rslora"].as_bool().unwrap_or(false);
        // Rank-stabilised: Kalajdzievski 2023, https://arxiv.org/abs/2312.03732.
        let scale = alpha / if stable { (rank as f64).sqrt() } else { rank as f64 };
        let index = |value: &Value| value.as_u64().and_then(|i| usize::try_from(i).ok());
        let layers = match &config["layers_to_transform"] {
            Value::Null => None,
            Value::Array(list) => Some(list.iter().filter_map(index).collect()),
            one => Some(index(one).into_iter().collect()),
        };
        let base_model = config["base_model_name_or_path"].as_str().map(str::to_owned);
        Ok(Self { rank, scale: scale as f32, layers, base_model })
    }
}

/// Null, false, nothing in it.
fn is_off(value: &Value) -> bool {
    match value {
        Value::Null | Value::Bool(false) => true,
        Value::Array(list) => list.is_empty(),
        Value::Object(map) => map.is_empty(),
        _ => false,
    }
}

/// The text of `adapter_config.json` for a shape. Keys are those that PEFT itself cannot do without, and those that
/// other readers (vLLM, SGLang) look at.
pub(super) fn text(shape: &LoraShape, base_model: &str) -> Vec<u8> {
    let alpha = f64::from(shape.scale) * shape.rank as f64;
    // Readers declare it as an integer.
    let alpha = if alpha.fract() == 0.0 { json!(alpha as i64) } else { json!(alpha) };
    let targets: Vec<&str> = shape.targets().iter().map(|p| p.module()).collect();
    let config = json!({
        "alpha_pattern": {},
        "base_model_name_or_path": base_model,
        "bias": "none",
        "fan_in_fan_out": false,
        "inference_mode": true,
        "init_lora_weights": true,
        "layers_pattern": null,
        "layers_to_transform": null,
        "lora_alpha": alpha,
        "lora_dropout": 0.0,
        "modules_to_save": null,
        "peft_type": "LORA",
        "r": shape.rank,
        "rank_pattern": {},
        "revision": null,
        "target_modules": targets,
        "task_type": "CAUSAL_LM",
        "use_dora": false,
        "use_rslora": false,
    });
    serde_json::to_vec_pretty(&config).expect("a configuration is plain data")
}
