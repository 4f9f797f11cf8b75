//! Programs: compiled graphs, run over values that stay where they are.
//!
//! In: a session of ONNX Runtime. Out: values on the device, given by name and got back in order.

use std::borrow::Cow;
use std::collections::HashSet;
use std::path::PathBuf;

use ort::AsPointer as _;
use ort::environment::Environment;
use ort::ep;
use ort::memory::{AllocationDevice, AllocatorType, MemoryInfo, MemoryType};
use ort::session::builder::{GraphOptimizationLevel, PrepackedWeights, SessionBuilder};
use ort::session::{IoBinding, Session};
use ort::value::{DynTensor, Tensor};

use super::runtime::Device;

/// ONNX Runtime refuses a graph, or fails to run it.
#[derive(Debug, thiserror::Error)]
pub enum ProgramError {
    #[error("ONNX Runtime: {0}")]
    Runtime(#[from] ort::Error),

    #[error("the program has no input {0}")]
    NoInput(String),

    #[error("the program's input {0} is not given")]
    Missing(String),
}

impl From<ort::Error<SessionBuilder>> for ProgramError {
    fn from(error: ort::Error<SessionBuilder>) -> Self {
        Self::Runtime(error.into())
    }
}

/// Where programs run.
#[derive(Clone, Debug)]
pub struct Runtime {
    environment: Environment,
    device: Device,
    profile: Option<PathBuf>,
    packed: Option<PrepackedWeights>,
}

impl Runtime {
    #[must_use]
    pub fn on(environment: Environment, device: Device) -> Self {
        Self { environment, device, profile: None, packed: None }
    }

    /// Programs made from here on write what each of their nodes took into files in `dir`.
    #[must_use]
    pub fn profiled(self, dir: PathBuf) -> Self {
        Self { profile: Some(dir), ..self }
    }

    /// Programs made from here on share one packed copy of each initializer that they have in common. They take only
    /// initializers over memory of others ([`lent`](super::lent)).
    #[must_use]
    pub fn packing_once(self) -> Self {
        Self { packed: Some(PrepackedWeights::new()), ..self }
    }

    #[must_use]
    pub fn environment(&self) -> &Environment {
        &self.environment
    }

    #[must_use]
    pub fn device(&self) -> Device {
        self.device
    }

    /// Where programs leave what they compute.
    fn memory(&self) -> Result<MemoryInfo<'static>, ProgramError> {
        let (device, number) = match self.device {
            Device::Cpu => (AllocationDevice::CPU, 0),
            Device::Cuda(number) => (AllocationDevice::CUDA, number),
        };
        Ok(MemoryInfo::new(device, number.into(), AllocatorType::Device, MemoryType::Default)?)
    }

    pub(super) fn packed(&self) -> Option<&PrepackedWeights> {
        self.packed.as_ref()
    }

    /// Settings of a session. The graphs are built fused, so that little is left to optimise; what is done must be done in
    /// the same order each time, since a resumed run has to equal one that was never interrupted.
    pub(super) fn session_options(&self) -> Result<SessionBuilder, ProgramError> {
        let mut options = SessionBuilder::new(&self.environment)?
            .with_optimization_level(GraphOptimizationLevel::Level1)?
            .with_deterministic_compute(true)?
            // What is there for quantised activations also has each use of a matrix in blocks make floats of it anew.
            .with_quant_qdq(false)?;
        if let Device::Cuda(number) = self.device {
            // Without `error_on_failure` everything would silently be computed on the processor.
            let cuda = ep::CUDA::default()
                .with_device_id(number.into())
                .with_arena_extend_strategy(ep::ArenaExtendStrategy::SameAsRequested);
            options = options.with_execution_providers([cuda.build().error_on_failure()])?;
        }
        if let Some(dir) = &self.profile {
            options = options.with_profiling(dir.join("profile"))?;
        }
        share_threads(&options)?;
        Ok(options)
    }
}

/// Makes a session of these settings use the environment's threads. `ort` does so for models that are read, but not for
/// graphs that are built: each of those would start threads of its own.
#[expect(unsafe_code, reason = "there is no other way to this setting")]
fn share_threads(options: &SessionBuilder) -> Result<(), ProgramError> {
    // SAFETY: the address is that of live settings which nobody else uses meanwhile, since they were just made.
    unsafe {
        let status = (ort::api().DisablePerSessionThreads)(options.ptr().cast_mut());
        ort::Error::result_from_status(status)?;
    }
    Ok(())
}

/// A compiled graph.
#[derive(Debug)]
pub struct Program {
    session: Session,
    binding: IoBinding,
    memory: MemoryInfo<'static>,
    inputs: Vec<String>,
    outputs: Vec<String>,
    /// Outputs that are written where they were placed.
    placed: HashSet<String>,
}

impl Program {
    pub(super) fn new(
        session: Session,
        runtime: &Runtime,
        inputs: Vec<String>,
        outputs: Vec<String>,
    ) -> Result<Self, ProgramError> {
        let binding = session.create_binding()?;
        let memory = runtime.memory()?;
        Ok(Self { session, binding, memory, inputs, outputs, placed: HashSet::new() })
    }

    /// Names of the inputs that the outputs depend on.
    #[must_use]
    pub fn inputs(&self) -> &[String] {
        &self.inputs
    }

    /// Gives an input that stays until it is given again. Names that the program does not need are passed over, so that
    /// programs of one graph can be given the same values.
    ///
    /// # Errors
    /// When the runtime refuses the value.
    pub fn give(&mut self, name: &str, value: &DynTensor) -> Result<(), ProgramError> {
        if self.inputs.iter().any(|n| n == name) {
            self.binding.bind_input(name, value)?;
        }
        Ok(())
    }

    /// Has an output written into `value` at every run until it is placed again; [`Program::run`] no longer returns it. An
    /// input may lie in the same memory where the operation that reads it allows that.
    ///
    /// # Errors
    /// When the program has no such output, or the runtime refuses the value.
    pub fn place(&mut self, name: &str, value: DynTensor) -> Result<(), ProgramError> {
        if !self.outputs.iter().any(|n| n == name) {
            return Err(ProgramError::Missing(name.to_owned()));
        }
        self.binding.bind_output(name, value)?;
        self.placed.insert(name.to_owned());
        Ok(())
    }

    /// Gives inputs, runs, and returns the outputs that were not placed, in the order in which they were named.
    ///
    /// # Errors
    /// When an input was never given, or the runtime fails.
    pub fn run(&mut self, inputs: &[(&str, &DynTensor)]) -> Result<Vec<DynTensor>, ProgramError> {
        for (name, value) in inputs {
            self.give(name, value)?;
        }
        // Binding anew makes the runtime put out new values; otherwise it would write over those of the last run.
        let returned = || self.outputs.iter().filter(|name| !self.placed.contains(*name));
        for name in returned() {
            self.binding.bind_output_to_device(name, &self.memory)?;
        }
        let mut found = self.session.run_binding(&self.binding)?;
        returned()
            .map(|name| {
                let value = found.remove(name).ok_or_else(|| ProgramError::Missing(name.clone()))?;
                Ok(value.downcast()?)
            })
            .collect()
    }

    /// Lets go of all inputs, so that their memory can be freed.
    pub fn forget_inputs(&mut self) {
        self.binding.clear_inputs();
    }
}

/// A tensor of floats in the processor's memory.
///
/// # Errors
/// When `values` do not fill `shape`, or memory is short.
pub fn floats(shape: &[usize], values: Vec<f32>) -> Result<DynTensor, ProgramError> {
    Ok(Tensor::from_array((shape.to_vec(), values))?.upcast())
}

/// A tensor of 64-bit integers in the processor's memory.
///
/// # Errors
/// As [`floats`].
pub fn integers(shape: &[usize], values: Vec<i64>) -> Result<DynTensor, ProgramError> {
    Ok(Tensor::from_array((shape.to_vec(), values))?.upcast())
}

/// The floats of a tensor: copied where it lies in the memory of another device.
///
/// # Errors
/// When it holds something else.
pub fn read(tensor: &DynTensor) -> Result<Cow<'_, [f32]>, ProgramError> {
    if tensor.memory_info().is_cpu_accessible() {
        return Ok(Cow::Borrowed(tensor.try_extract_tensor()?.1));
    }
    let copy = tensor.to(AllocationDevice::CPU, 0)?;
    Ok(Cow::Owned(copy.try_extract_tensor()?.1.to_vec()))
}
