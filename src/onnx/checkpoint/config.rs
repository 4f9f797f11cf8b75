//! `config.json` of Hugging Face's transformers (`configuration_{llama,mistral,qwen2,qwen3}.py`).

use std::path::Path;

use serde::Deserialize;
use serde_json::Value;

use super::rope::{self, Scaling};
use super::{CheckpointError, sensible, unsupported_family};
use crate::onnx::llama::{Architecture, Family};

/// The keys that matter to us; others do not change what is computed.
#[derive(Debug, Deserialize)]
struct Config {
    hidden_size: usize,
    intermediate_size: usize,
    num_hidden_layers: usize,
    num_attention_heads: usize,
    num_key_value_heads: Option<usize>,
    head_dim: Option<usize>,
    vocab_size: usize,
    #[serde(default = "default_epsilon")]
    rms_norm_eps: f32,
    #[serde(default = "default_context")]
    max_position_embeddings: usize,
    #[serde(default)]
    tie_word_embeddings: bool,
    hidden_act: Option<String>,
    rope_theta: Option<f64>,
    rope_scaling: Option<Rope>,
    /// Both of the above, as transformers 5 writes them.
    rope_parameters: Option<Rope>,
    partial_rotary_factor: Option<f64>,
    sliding_window: Option<usize>,
    use_sliding_window: Option<bool>,
    max_window_layers: Option<usize>,
    layer_types: Option<Vec<String>>,
    attention_bias: Option<bool>,
    mlp_bias: Option<bool>,
}

#[derive(Debug, Default, Deserialize)]
struct Rope {
    #[serde(alias = "type")]
    rope_type: Option<String>,
    rope_theta: Option<f64>,
    factor: Option<f64>,
    low_freq_factor: Option<f64>,
    high_freq_factor: Option<f64>,
    original_max_position_embeddings: Option<f64>,
    partial_rotary_factor: Option<f64>,
}

fn default_epsilon() -> f32 {
    1e-6
}

fn default_context() -> usize {
    2048
}

/// `has` tells whether the checkpoint has a tensor of a name.
pub(super) fn read(
    path: &Path,
    config: &Value,
    has: impl Fn(&str) -> bool,
) -> Result<Architecture, CheckpointError> {
    let name = config["model_type"].as_str().unwrap_or("(unnamed)");
    let family = Family::ALL.into_iter().find(|family| family.name() == name);
    let family = family.ok_or_else(|| unsupported_family(path, name))?;
    let unreadable = |reason| CheckpointError::Unreadable { path: path.to_owned(), reason };
    let config = Config::deserialize(config).map_err(|e| unreadable(e.to_string()))?;
    config.architecture(family, has).map_err(unreadable)
}

impl Config {
    fn architecture(&self, family: Family, has: impl Fn(&str) -> bool) -> Result<Architecture, String> {
        if let Some(act) = self.hidden_act.as_deref().filter(|act| *act != "silu") {
            return Err(format!("hidden_act {act:?} is not supported; supported is silu"));
        }
        if self.mlp_bias == Some(true) {
            return Err("mlp_bias is not supported".into());
        }
        // Llama's attention_bias is on the output projection too; that tensor is then refused by its name.
        let qkv_bias = self.attention_bias.unwrap_or(family == Family::Qwen2)
            || has("model.layers.0.self_attn.q_proj.bias");
        let default_head = match family {
            Family::Qwen3 => 128,
            _ => self.hidden_size.checked_div(self.num_attention_heads).unwrap_or(0),
        };
        let head_dim = self.head_dim.unwrap_or(default_head);
        let architecture = sensible(Architecture {
            family,
            hidden: self.hidden_size,
            feed_forward: self.intermediate_size,
            layers: self.num_hidden_layers,
            heads: self.num_attention_heads,
            kv_heads: self.num_key_value_heads.unwrap_or(self.num_attention_heads),
            head_dim,
            vocabulary: self.vocab_size,
            norm_epsilon: self.rms_norm_eps,
            rotary_frequencies: Vec::new(),
            context: self.max_position_embeddings,
            sliding_window: self.window(family)?,
            qkv_bias,
            qk_norm: family == Family::Qwen3,
            tied: self.tie_word_embeddings,
        })?;
        let (theta, scaling) = self.rotation()?;
        Ok(Architecture { rotary_frequencies: rope::frequencies(theta, head_dim, &scaling), ..architecture })
    }

    fn rotation(&self) -> Result<(f64, Scaling), String> {
        let none = Rope::default();
        let rope = self.rope_parameters.as_ref().or(self.rope_scaling.as_ref()).unwrap_or(&none);
        let theta = rope.rope_theta.or(self.rope_theta).unwrap_or(10_000.0);
        let partial = rope.partial_rotary_factor.or(self.partial_rotary_factor);
        if partial.is_some_and(|part| part != 1.0) {
            return Err("a rotation of only a part of each head is not supported".into());
        }
        let lacks = |key: &str| format!("its rope scaling lacks {key}");
        let positive = |value: Option<f64>, key| value.filter(|v| *v > 0.0).ok_or_else(|| lacks(key));
        let scaling = match rope.rope_type.as_deref() {
            None | Some("default") => Scaling::None,
            Some("linear") => Scaling::Linear(positive(rope.factor, "factor")?),
            Some("llama3") => Scaling::Llama3 {
                factor: positive(rope.factor, "factor")?,
                low: positive(rope.low_freq_factor, "low_freq_factor")?,
                high: positive(rope.high_freq_factor, "high_freq_factor")?,
                original_context: positive(
                    rope.original_max_position_embeddings,
                    "original_max_position_embeddings",
                )?,
            },
            Some(other) => {
                return Err(format!(
                    "rope scaling of type {other:?} is not supported; supported are linear and llama3"
                ));
            }
        };
        Ok((theta, scaling))
    }

    /// The window, where all layers have one. Llama has none; Qwen only where it says so, and only in upper layers.
    fn window(&self, family: Family) -> Result<Option<usize>, String> {
        let mixed = || "layers with and without a sliding window in one model are not supported".to_owned();
        let is_qwen = matches!(family, Family::Qwen2 | Family::Qwen3);
        let Some(window) = self.sliding_window.filter(|window| *window > 0) else { return Ok(None) };
        if family == Family::Llama || is_qwen && self.use_sliding_window != Some(true) {
            return Ok(None);
        }
        let windowed = match &self.layer_types {
            Some(types) => types.iter().filter(|kind| *kind == "sliding_attention").count(),
            // Transformers' default, which configurations without the key were made under.
            None if is_qwen => self.num_hidden_layers.saturating_sub(self.max_window_layers.unwrap_or(28)),
            None => self.num_hidden_layers,
        };
        match windowed {
            0 => Ok(None),
            all if all == self.num_hidden_layers => Ok(Some(window)),
            _ => Err(mixed()),
        }
    }
}
