//! What the parts of a model are called in files, and their shapes.

use super::{LayerPart, Part};
use crate::onnx::llama::Architecture;

/// How a kind of file names tensors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Naming {
    HuggingFace,
    Gguf,
}

impl Naming {
    pub fn name(self, part: Part) -> String {
        match self {
            Self::HuggingFace => match part {
                Part::Embedding => "model.embed_tokens.weight".to_owned(),
                Part::Norm => "model.norm.weight".to_owned(),
                Part::Output => "lm_head.weight".to_owned(),
                Part::Layer(i, part) => format!("model.layers.{i}.{}", hugging_face(part)),
            },
            Self::Gguf => match part {
                Part::Embedding => "token_embd.weight".to_owned(),
                Part::Norm => "output_norm.weight".to_owned(),
                Part::Output => "output.weight".to_owned(),
                Part::Layer(i, part) => format!("blk.{i}.{}", gguf(part)),
            },
        }
    }

    /// A tensor that is no weight: tables that follow from the architecture.
    pub fn is_derived(self, name: &str) -> bool {
        match self {
            Self::HuggingFace => name.ends_with(".rotary_emb.inv_freq"),
            Self::Gguf => name == "rope_freqs.weight",
        }
    }
}

fn hugging_face(part: LayerPart) -> &'static str {
    match part {
        LayerPart::AttentionNorm => "input_layernorm.weight",
        LayerPart::Query => "self_attn.q_proj.weight",
        LayerPart::Key => "self_attn.k_proj.weight",
        LayerPart::Value => "self_attn.v_proj.weight",
        LayerPart::AttentionOutput => "self_attn.o_proj.weight",
        LayerPart::QueryBias => "self_attn.q_proj.bias",
        LayerPart::KeyBias => "self_attn.k_proj.bias",
        LayerPart::ValueBias => "self_attn.v_proj.bias",
        LayerPart::QueryNorm => "self_attn.q_norm.weight",
        LayerPart::KeyNorm => "self_attn.k_norm.weight",
        LayerPart::FeedForwardNorm => "post_attention_layernorm.weight",
        LayerPart::Gate => "mlp.gate_proj.weight",
        LayerPart::Up => "mlp.up_proj.weight",
        LayerPart::Down => "mlp.down_proj.weight",
    }
}

fn gguf(part: LayerPart) -> &'static str {
    match part {
        LayerPart::AttentionNorm => "attn_norm.weight",
        LayerPart::Query => "attn_q.weight",
        LayerPart::Key => "attn_k.weight",
        LayerPart::Value => "attn_v.weight",
        LayerPart::AttentionOutput => "attn_output.weight",
        LayerPart::QueryBias => "attn_q.bias",
        LayerPart::KeyBias => "attn_k.bias",
        LayerPart::ValueBias => "attn_v.bias",
        LayerPart::QueryNorm => "attn_q_norm.weight",
        LayerPart::KeyNorm => "attn_k_norm.weight",
        LayerPart::FeedForwardNorm => "ffn_norm.weight",
        LayerPart::Gate => "ffn_gate.weight",
        LayerPart::Up => "ffn_up.weight",
        LayerPart::Down => "ffn_down.weight",
    }
}

/// All parts that a model of this architecture has, in the order of its computation, with rows and columns.
pub(super) fn of(a: &Architecture) -> impl Iterator<Item = (Part, (usize, usize))> {
    let (hidden, query, kv) = (a.hidden, a.query_width(), a.kv_width());
    let mut layer = vec![
        (LayerPart::AttentionNorm, (1, hidden)),
        (LayerPart::Query, (query, hidden)),
        (LayerPart::Key, (kv, hidden)),
        (LayerPart::Value, (kv, hidden)),
    ];
    if a.qkv_bias {
        layer.extend([
            (LayerPart::QueryBias, (1, query)),
            (LayerPart::KeyBias, (1, kv)),
            (LayerPart::ValueBias, (1, kv)),
        ]);
    }
    if a.qk_norm {
        layer.extend([(LayerPart::QueryNorm, (1, a.head_dim)), (LayerPart::KeyNorm, (1, a.head_dim))]);
    }
    layer.extend([
        (LayerPart::AttentionOutput, (hidden, query)),
        (LayerPart::FeedForwardNorm, (1, hidden)),
        (LayerPart::Gate, (a.feed_forward, hidden)),
        (LayerPart::Up, (a.feed_forward, hidden)),
        (LayerPart::Down, (hidden, a.feed_forward)),
    ]);
    let layers = (0..a.layers)
        .flat_map(move |i| layer.clone().into_iter().map(move |(part, shape)| (Part::Layer(i, part), shape)));
    let output = (!a.tied).then_some((Part::Output, (a.vocabulary, hidden)));
    std::iter::once((Part::Embedding, (a.vocabulary, hidden)))
        .chain(layers)
        .chain([(Part::Norm, (1, hidden))])
        .chain(output)
}
