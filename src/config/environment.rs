//! The only reader of environment variables, and the only place that sets one.

/// The value of a variable; none where it is unset, empty or no Unicode.
#[must_use]
#[expect(clippy::disallowed_methods, reason = "this is the one place that reads the environment")]
pub fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}

/// Keeps ONNX Runtime from sending telemetry (see `onnx::runtime`), which reads a variable when it is loaded. To be called
/// first of all in `main`: later, other threads may be reading the environment.
#[expect(unsafe_code, reason = "the environment can only be changed while no other thread may read it")]
#[expect(clippy::disallowed_methods, reason = "ONNX Runtime listens to nothing else before its environment exists")]
pub fn prepare_environment() {
    // SAFETY: the first thing that `main` does: there is no other thread yet.
    unsafe { std::env::set_var(super::Onnx::TELEMETRY_OFF, "1") };
}
