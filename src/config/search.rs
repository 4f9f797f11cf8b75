use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// `search:` — full text and meaning.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Search {
    /// What turns text into vectors.
    pub embedder: Embedder,
}

/// Where vectors come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Embedder {
    /// ONNX where the runtime and the model can be had, else lexical.
    Auto,
    /// all-MiniLM-L6-v2 on ONNX Runtime; an error where it cannot be had.
    Onnx,
    /// Hashed words and letter groups; needs nothing.
    Lexical,
}

/// `onnx:` — where ONNX Runtime and models come from.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Onnx {
    /// The shared library; null: look in the environment (`ORT_DYLIB_PATH`), Python's site-packages and the cache,
    /// then fetch the pinned wheel with pip.
    pub library: Option<PathBuf>,
    /// Whether missing parts may be fetched.
    pub fetch: Fetch,
    /// Where fetched parts are kept; null: the platform's cache directory.
    pub cache: Option<PathBuf>,
}

/// Whether to fetch what is missing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Fetch {
    #[default]
    Auto,
    Never,
}

impl Default for Search {
    fn default() -> Self {
        Self { embedder: Embedder::Auto }
    }
}
