use super::File;
use crate::onnx::checkpoint::encoding::Encoding;
use crate::onnx::checkpoint::rope::{self, Scaling};
use crate::onnx::checkpoint::{CheckpointError, sensible, unsupported_family};
use crate::onnx::llama::{Architecture, Family};

/// The architecture that the metadata tells (keys: `docs/gguf.md` of ggml).
pub(super) fn read(file: &File<'_>, bytes: &[u8]) -> Result<Architecture, CheckpointError> {
    let name = file.text("general.architecture")?.unwrap_or("(unnamed)");
    // Mistral's models are converted as llama.
    let family = Family::ALL
        .into_iter()
        .find(|family| family.name() == name && *family != Family::Mistral)
        .ok_or_else(|| unsupported_family(file.path(), name))?;
    let key = |rest: &str| format!("{name}.{rest}");
    let needed = |rest: &str| {
        let key = key(rest);
        match file.count(&key)? {
            Some(count @ 1..) => Ok(count),
            _ => Err(file.unreadable(format!("its metadata lacks {key}"))),
        }
    };
    if file.count(&key("expert_count"))?.unwrap_or(0) > 0 {
        return Err(unsupported_family(file.path(), &format!("{name} with experts")));
    }
    let hidden = needed("embedding_length")?;
    let heads = needed("attention.head_count")?;
    let kv_heads = file.count(&key("attention.head_count_kv"))?.unwrap_or(heads);
    let head_dim = file.count(&key("attention.key_length"))?.unwrap_or(hidden / heads);
    let alike = |rest: &str| Ok(file.count(&key(rest))?.is_none_or(|n| n == head_dim));
    if !(alike("attention.value_length")? && alike("rope.dimension_count")?) {
        return Err(file.unreadable("keys, values and rotation of different widths are not supported"));
    }
    let has = |name: &str| file.tensors.iter().any(|tensor| tensor.name == name);
    let vocabulary = file.tensors.iter().find(|t| t.name == "token_embd.weight").map_or(0, |t| t.rows);
    let theta = file.number(&key("rope.freq_base"))?.unwrap_or(10_000.0);
    let scaling = scaling(file, bytes, &key, head_dim)?;
    let architecture = Architecture {
        family,
        hidden,
        feed_forward: needed("feed_forward_length")?,
        layers: needed("block_count")?,
        heads,
        kv_heads,
        head_dim,
        vocabulary,
        norm_epsilon: file.number(&key("attention.layer_norm_rms_epsilon"))?.unwrap_or(1e-6) as f32,
        rotary_frequencies: Vec::new(),
        context: needed("context_length")?,
        sliding_window: file.count(&key("attention.sliding_window"))?.filter(|window| *window > 0),
        qkv_bias: has("blk.0.attn_q.bias"),
        qk_norm: has("blk.0.attn_q_norm.weight"),
        tied: !has("output.weight"),
    };
    let architecture = sensible(architecture).map_err(|reason| file.unreadable(reason))?;
    Ok(Architecture { rotary_frequencies: rope::frequencies(theta, head_dim, &scaling), ..architecture })
}

fn scaling(
    file: &File<'_>,
    bytes: &[u8],
    key: &impl Fn(&str) -> String,
    head_dim: usize,
) -> Result<Scaling, CheckpointError> {
    if let Some(tensor) = file.tensors.iter().find(|tensor| tensor.name == "rope_freqs.weight") {
        let stored = tensor.columns.checked_mul(4).and_then(|n| bytes.get(tensor.start..)?.get(..n));
        let is_table = tensor.kind == 0 && tensor.rows == 1 && tensor.columns == head_dim / 2;
        let stored = stored.filter(|_| is_table);
        let stored = stored.ok_or_else(|| file.unreadable("its tensor rope_freqs.weight is damaged"))?;
        let mut by = vec![0.0; head_dim / 2];
        Encoding::F32.decode(stored, &mut by);
        return Ok(Scaling::Divided(by));
    }
    match file.text(&key("rope.scaling.type"))? {
        None | Some("none") => {
            // Before there was a type, this key was the factor.
            let linear = file.number(&key("rope.scale_linear"))?.filter(|factor| *factor > 0.0);
            Ok(linear.map_or(Scaling::None, Scaling::Linear))
        }
        Some("linear") => match file.number(&key("rope.scaling.factor"))? {
            Some(factor) if factor > 0.0 => Ok(Scaling::Linear(factor)),
            _ => Err(file.unreadable("its metadata lacks the factor of linear rope scaling")),
        },
        Some(other) => Err(file.unreadable(format!(
            "rope scaling of type {other:?} is not supported; supported are linear and llama3"
        ))),
    }
}
