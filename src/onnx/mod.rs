//! ONNX Runtime: where its library and the models come from, and the one environment that a process has.
//!
//! In: the `onnx` section of the configuration. Out: paths of files that were checked, and the loaded runtime.
//!
//! Always true: nothing is fetched but pinned versions whose SHA-256 is written here, and only when `onnx.fetch`
//! allows it; a file in the cache is whole or not there; nothing outside of the cache directory is written.

pub mod provision;
pub mod runtime;

pub use provision::{ProvisionError, Provisioned};
pub use runtime::RuntimeError;
