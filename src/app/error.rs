use std::path::PathBuf;

use crate::config::ConfigError;
use crate::proxy::{ForwardProxyError, TlsError};
use crate::store::StoreError;
use crate::upstream::SetupError;

/// Remora cannot start, take over, or reload.
#[derive(Debug, thiserror::Error)]
pub enum AppError {
    #[error("{key}: cannot listen on {address}: {reason}")]
    Listen { key: &'static str, address: String, reason: String },
    #[error(
        "the service manager passed {count} sockets, {reason}; name them listen and admin (FileDescriptorName=)"
    )]
    Passed { count: usize, reason: String },
    #[error(
        "an upstream is `embedded` now, and was not when this process started: opening the model needs a restart"
    )]
    EmbeddedLate,
    #[error("the reload panicked; its message is above")]
    Broke,
    #[error(transparent)]
    Config(#[from] ConfigError),
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("{path}: cannot prepare credential fingerprints: {source}", path = path.display())]
    Fingerprints { path: PathBuf, source: std::io::Error },
    #[error("{path}: cannot begin the journal: {source}", path = path.display())]
    Journal { path: PathBuf, source: std::io::Error },
    #[error(transparent)]
    ForwardProxy(#[from] ForwardProxyError),
    #[error(transparent)]
    Upstream(#[from] SetupError),
    #[error(transparent)]
    Tls(#[from] TlsError),
    #[error("cannot start the recorder's thread: {0}")]
    Thread(std::io::Error),
    #[error("{path}: cannot write the ready file: {source}", path = path.display())]
    ReadyFile { path: PathBuf, source: std::io::Error },
    #[error("cannot take over from the running process: {doing}: {source}")]
    Handover { doing: &'static str, source: std::io::Error },
    #[error("cannot take over: the running process goes on by itself")]
    NotHandedOver,
    #[error("cannot start a successor: {reason}")]
    Successor { reason: String },
}
