//! The process's one ONNX Runtime environment.

use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use ort::environment::{Environment, GlobalThreadPoolOptions};

use crate::config::Onnx;

/// ONNX Runtime cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum RuntimeError {
    #[error(
        "{library}: cannot load ONNX Runtime: {source}. Point onnx.library at another libonnxruntime, 1.24 or newer"
    )]
    Load { library: PathBuf, source: ort::LoadDynamicError },

    #[error(
        "{library}: not loaded, since it would send telemetry: start Remora with {variable}=1 in the environment"
    )]
    Telemetry { library: PathBuf, variable: &'static str },

    #[error("{library}: ONNX Runtime was loaded but does not start: {source}")]
    Start { library: PathBuf, source: ort::Error },
}

#[derive(Debug)]
struct Loaded {
    library: PathBuf,
    environment: Environment,
}

/// ONNX Runtime allows one environment a process and frees it with its last handle; this one is kept for good.
static LOADED: Mutex<Option<Loaded>> = Mutex::new(None);

/// The environment, loaded from `library` on the first call. Sessions share one pool of `threads` threads (0: one a
/// core) that sleep when idle: spinning ones would take the cores of the app that Remora sits beside.
///
/// Later calls get the environment that is there, whatever they ask for; another library is logged.
///
/// # Errors
/// When the library is not ONNX Runtime 1.24 or newer, or does not start. A later call may try another one.
pub fn environment(library: &Path, threads: u16) -> Result<Environment, RuntimeError> {
    let mut loaded = LOADED.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(there) = &*loaded {
        if there.library != library {
            tracing::warn!(
                loaded = %there.library.display(), wanted = %library.display(),
                "ONNX Runtime is loaded already: a process can only have one"
            );
        }
        return Ok(there.environment.clone());
    }
    let environment = load(library, threads)?;
    *loaded = Some(Loaded { library: library.to_owned(), environment: environment.clone() });
    Ok(environment)
}

/// Loads the library and starts its environment.
///
/// From 1.29 on, the stock library reports the machine, the program's path and a device id it keeps in the user's cache
/// to its maker, from the moment an environment is created: switching that off afterwards is too late. Only the
/// variable prevents it. `main` sets it before there are threads; where that was skipped, nothing is loaded.
fn load(library: &Path, threads: u16) -> Result<Environment, RuntimeError> {
    if !Onnx::telemetry_is_off() {
        return Err(RuntimeError::Telemetry { library: library.to_owned(), variable: Onnx::TELEMETRY_OFF });
    }
    let start = |source| RuntimeError::Start { library: library.to_owned(), source };
    let builder = ort::init_from(library)
        .map_err(|source| RuntimeError::Load { library: library.to_owned(), source })?;
    let pool = GlobalThreadPoolOptions::default()
        .with_intra_threads(usize::from(threads))
        .and_then(|pool| pool.with_inter_threads(1))
        .and_then(|pool| pool.with_spin_control(false))
        .map_err(start)?;
    builder.with_name("remora").with_telemetry(false).with_global_thread_pool(pool).build().map_err(start)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_is_no_library_is_refused_by_name() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("libonnxruntime.so.1.31.1");
        std::fs::write(&path, b"not a library").unwrap();
        let error = load(&path, 1).unwrap_err().to_string();
        assert!(error.contains("libonnxruntime.so.1.31.1") && error.contains("onnx.library"), "{error}");
    }
}
