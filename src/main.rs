fn main() -> std::process::ExitCode {
    silence_onnx_runtime();
    remora::cli::main()
}

/// Keeps ONNX Runtime from sending telemetry (see `onnx::runtime`). It reads the variable when it is loaded.
#[cfg(feature = "onnx")]
#[expect(unsafe_code, reason = "the environment can only be changed while no other thread may read it")]
fn silence_onnx_runtime() {
    // SAFETY: the first thing that `main` does: there is no other thread yet.
    unsafe { std::env::set_var(remora::config::Onnx::TELEMETRY_OFF, "1") };
}

#[cfg(not(feature = "onnx"))]
fn silence_onnx_runtime() {}
