//! The process's one ONNX Runtime environment, and the device that models compute on.

use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use ort::environment::{Environment, GlobalThreadPoolOptions};
use ort::ep::{self, ExecutionProvider};
use ort::session::builder::SessionBuilder;

use crate::config::{DeviceChoice, Onnx};

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

    #[error(
        "onnx.device is cuda:{number}, but {reason}. Install onnxruntime-gpu with the CUDA and cuDNN it is built for, or set onnx.device to cpu or auto"
    )]
    NoCuda { number: u16, reason: String },
}

/// What models compute on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Device {
    Cpu,
    /// By CUDA's number.
    Cuda(u16),
}

#[derive(Debug)]
struct Loaded {
    library: PathBuf,
    environment: Environment,
}

/// ONNX Runtime allows one environment a process and frees it with its last handle; this one is kept for good.
static LOADED: Mutex<Option<Loaded>> = Mutex::new(None);

/// The environment, loaded from `library` on the first call. Sessions share one pool of `threads` threads (0: one a
/// core), which sleep when idle unless they are to `spin`: then they take the cores of the app that Remora sits beside.
///
/// Later calls get the environment that is there, whatever they ask for; another library is logged.
///
/// # Errors
/// When the library is not ONNX Runtime 1.24 or newer, or does not start. A later call may try another one.
pub fn environment(library: &Path, threads: u16, spin: bool) -> Result<Environment, RuntimeError> {
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
    let environment = load(library, threads, spin)?;
    *loaded = Some(Loaded { library: library.to_owned(), environment: environment.clone() });
    Ok(environment)
}

/// Loads the library and starts its environment.
///
/// From 1.29 on, the stock library reports the machine, the program's path and a device id it keeps in the user's cache
/// to its maker, from the moment an environment is created: switching that off afterwards is too late. Only the
/// variable prevents it. `main` sets it before there are threads; where that was skipped, nothing is loaded.
fn load(library: &Path, threads: u16, spin: bool) -> Result<Environment, RuntimeError> {
    if !Onnx::telemetry_is_off() {
        return Err(RuntimeError::Telemetry { library: library.to_owned(), variable: Onnx::TELEMETRY_OFF });
    }
    let start = |source| RuntimeError::Start { library: library.to_owned(), source };
    let builder = ort::init_from(library)
        .map_err(|source| RuntimeError::Load { library: library.to_owned(), source })?;
    let pool = GlobalThreadPoolOptions::default()
        .with_intra_threads(usize::from(threads))
        .and_then(|pool| pool.with_inter_threads(1))
        .and_then(|pool| pool.with_spin_control(spin))
        .map_err(start)?;
    builder.with_name("remora").with_telemetry(false).with_global_thread_pool(pool).build().map_err(start)
}

/// The device to use, and a sentence for people on why it is this one.
///
/// A CUDA device counts as there when a small model ran on it: the library may be built for CUDA on a machine without, or
/// with another version of it. ONNX Runtime would then compute on the CPU without a word.
///
/// # Errors
/// When a CUDA device is asked for by number and does not work. There is no falling back then.
pub fn choose_device(
    environment: &Environment,
    wish: DeviceChoice,
) -> Result<(Device, String), RuntimeError> {
    match wish {
        DeviceChoice::Cpu => Ok((Device::Cpu, "computing on the CPU, as onnx.device says".to_owned())),
        DeviceChoice::Cuda(number) => match try_cuda(environment, number) {
            Ok(()) => {
                Ok((Device::Cuda(number), format!("computing on CUDA device {number}, as onnx.device says")))
            }
            Err(reason) => Err(RuntimeError::NoCuda { number, reason }),
        },
        DeviceChoice::Auto => Ok(match try_cuda(environment, 0) {
            Ok(()) => (Device::Cuda(0), "computing on CUDA device 0, which works".to_owned()),
            Err(reason) => (Device::Cpu, format!("computing on the CPU: {reason}")),
        }),
    }
}

/// `y = Relu(x)` for one f32, as a serialised ONNX `ModelProto` (IR 8, opset 13).
const SMALL_MODEL: &[u8] = b"\x08\x08\x3a\x33\x0a\x0c\x0a\x01x\x12\x01y\x22\x04Relu\x12\x01g\
    \x5a\x0f\x0a\x01x\x12\x0a\x0a\x08\x08\x01\x12\x04\x0a\x02\x08\x01\
    \x62\x0f\x0a\x01y\x12\x0a\x0a\x08\x08\x01\x12\x04\x0a\x02\x08\x01\x42\x02\x10\x0d";

/// Runs something on a CUDA device, or says why that is not possible.
fn try_cuda(environment: &Environment, number: u16) -> Result<(), String> {
    if !ep::CUDA::is_available().unwrap_or(false) {
        return Err("this ONNX Runtime is built without CUDA".to_owned());
    }
    let device = ep::CUDA::default().with_device_id(i32::from(number)).build().error_on_failure();
    run_small_model(environment, Some(device))
        .map_err(|e| format!("CUDA device {number} does not work: {}", e.to_string().replace('\n', " ")))
}

fn run_small_model(environment: &Environment, on: Option<ep::ExecutionProviderDispatch>) -> ort::Result<()> {
    let mut session = SessionBuilder::new(environment)?
        .with_execution_providers(on.as_slice())?
        .commit_from_memory(SMALL_MODEL)?;
    let x = ort::value::Tensor::from_array(([1usize], vec![-1.0f32]))?;
    session.run(ort::inputs!["x" => x])?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_device_is_chosen_in_words_and_never_silently() {
        let library = crate::onnx::provision::library(&Onnx::default(), &crate::model::Silent).unwrap();
        let environment = environment(&library.path, 1, false).unwrap();
        run_small_model(&environment, None).unwrap();
        let (cpu, why) = choose_device(&environment, DeviceChoice::Cpu).unwrap();
        assert!(cpu == Device::Cpu && why.contains("onnx.device"), "{why}");
        match choose_device(&environment, DeviceChoice::Auto).unwrap() {
            (Device::Cuda(number), why) => assert!(why.contains(&number.to_string()), "{why}"),
            (Device::Cpu, why) => {
                assert!(why.contains("CUDA"), "{why}");
                let refused = choose_device(&environment, DeviceChoice::Cuda(0)).unwrap_err().to_string();
                assert!(refused.contains("cuda:0") && refused.contains("onnxruntime-gpu"), "{refused}");
                assert_eq!(refused.lines().count(), 1);
            }
        }
    }

    /// A process can load one library only, and other tests of this one load the right one.
    #[test]
    fn a_file_that_is_no_library_is_refused_by_name() {
        let name = "onnx::runtime::tests::refuses_what_is_no_library";
        let tests = std::env::current_exe().unwrap();
        let run = std::process::Command::new(tests).args(["--exact", name, "--ignored"]).output().unwrap();
        let said = String::from_utf8_lossy(&run.stdout);
        assert!(run.status.success() && said.contains("1 passed"), "{said}");
    }

    #[test]
    #[ignore = "run in a process of its own by the test above"]
    fn refuses_what_is_no_library() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("libonnxruntime.so.1.31.1");
        std::fs::write(&path, b"not a library").unwrap();
        let error = load(&path, 1, false).unwrap_err().to_string();
        assert!(error.contains("libonnxruntime.so.1.31.1") && error.contains("onnx.library"), "{error}");
    }
}
