use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::DeviceChoice;

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
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Onnx {
    /// The shared library; null: look in the environment (`ORT_DYLIB_PATH`), Python's site-packages and the cache,
    /// then fetch the pinned wheel with pip.
    pub library: Option<PathBuf>,
    /// A directory with `model.onnx` and `tokenizer.json` of a sentence embedding model (mean pooling); null:
    /// all-MiniLM-L6-v2 in 8 bits from the cache, or fetched.
    pub embedding_model: Option<PathBuf>,
    /// Whether missing parts may be fetched.
    pub fetch: Fetch,
    /// Where fetched parts are kept; null: the platform's cache directory.
    pub cache: Option<PathBuf>,
    /// Threads for one operation; 0: one a core. One by default: the app that Remora sits beside needs the others.
    pub threads: u16,
    /// Whether threads look for work for a while before they sleep. A model answers a few percent faster with it on a
    /// machine that does nothing else, and a good deal slower on one that does.
    pub spin: bool,
    /// Where language models compute.
    pub device: DeviceChoice,
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

impl Default for Onnx {
    fn default() -> Self {
        Self {
            library: None,
            embedding_model: None,
            fetch: Fetch::Auto,
            cache: None,
            threads: 1,
            spin: false,
            device: DeviceChoice::Auto,
        }
    }
}

impl Onnx {
    /// Where fetched parts are kept: the setting, else `remora` in the platform's cache directory. None where the
    /// platform names none, as for a user without a home.
    #[must_use]
    pub fn cache_dir(&self) -> Option<PathBuf> {
        self.cache.clone().or_else(|| {
            directories::ProjectDirs::from("", "", "remora").map(|dirs| dirs.cache_dir().to_owned())
        })
    }

    /// The shared library that the environment names in `ORT_DYLIB_PATH`, as other users of ONNX Runtime read it.
    #[must_use]
    pub fn library_in_environment() -> Option<PathBuf> {
        super::variable("ORT_DYLIB_PATH").map(PathBuf::from)
    }

    /// The environment variable that forbids ONNX Runtime, from 1.29 on, to send telemetry.
    pub const TELEMETRY_OFF: &str = "ORT_DISABLE_TELEMETRY";

    /// Whether the environment forbids ONNX Runtime to send telemetry.
    #[must_use]
    pub fn telemetry_is_off() -> bool {
        super::variable(Self::TELEMETRY_OFF).is_some_and(|value| value == "1")
    }
}
