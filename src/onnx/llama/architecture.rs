//! What distinguishes one model of the family from another.

/// The families whose blocks this engine can build.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    /// Llama 2 and 3, SmolLM2.
    Llama,
    Mistral,
    /// Biases on query, key and value.
    Qwen2,
    /// RMS norms over the heads of query and key.
    Qwen3,
}

impl Family {
    /// All that are supported, for messages.
    pub const ALL: [Self; 4] = [Self::Llama, Self::Mistral, Self::Qwen2, Self::Qwen3];

    /// As `model_type` in `config.json` and `general.architecture` in GGUF name it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Llama => "llama",
            Self::Mistral => "mistral",
            Self::Qwen2 => "qwen2",
            Self::Qwen3 => "qwen3",
        }
    }
}

/// The shape of a decoder-only transformer: RMS norm, rotary positions, grouped-query attention, gated SiLU.
#[derive(Clone, Debug, PartialEq)]
pub struct Architecture {
    pub family: Family,
    /// Width of the residual stream, D.
    pub hidden: usize,
    /// Width within the feed-forward part, F.
    pub feed_forward: usize,
    pub layers: usize,
    /// Query heads, H; a multiple of `kv_heads`.
    pub heads: usize,
    /// Key and value heads, KV.
    pub kv_heads: usize,
    /// Width of a head; not always `hidden / heads`.
    pub head_dim: usize,
    pub vocabulary: usize,
    /// The epsilon of every RMS norm.
    pub norm_epsilon: f32,
    /// Radians a position, one for each pair of a head's dimensions: `[head_dim / 2]`, scaling included.
    pub rotary_frequencies: Vec<f64>,
    /// Tokens that the model was made for.
    pub context: usize,
    /// A position sees this many before it, itself included; `None`: all.
    pub sliding_window: Option<usize>,
    /// Biases on query, key and value projections.
    pub qkv_bias: bool,
    /// RMS norms with weights `[head_dim]` on query and key heads, before the rotation.
    pub qk_norm: bool,
    /// The output projection is the embedding.
    pub tied: bool,
}

impl Architecture {
    /// Columns of all query heads.
    #[must_use]
    pub fn query_width(&self) -> usize {
        self.heads * self.head_dim
    }

    /// Columns of all key heads, and of all value heads.
    #[must_use]
    pub fn kv_width(&self) -> usize {
        self.kv_heads * self.head_dim
    }
}
