//! ONNX Runtime: where its library and the models come from, the one environment that a process has, and language models
//! as graphs that are built, differentiated and run here.
//!
//! In: the `onnx` section of the configuration, checkpoints. Out: paths of files that were checked, the loaded runtime,
//! programs.
//!
//! Always true: nothing is fetched but pinned versions whose SHA-256 is written here, and only when `onnx.fetch`
//! allows it; a file in the cache is whole or not there; nothing outside of the cache directory is written.

pub mod adamw;
pub mod checkpoint;
pub mod graph;
pub(crate) mod heap;
pub(crate) mod lent;
pub mod llama;
pub mod lora;
mod open;
pub mod program;
pub mod provision;
pub mod resident;
pub mod runtime;
#[cfg(test)]
pub mod testing;
pub mod text;
mod vjp;

pub use open::{OpenError, Opened, open};
pub use provision::{ProvisionError, Provisioned, model_path};
pub use runtime::{Device, RuntimeError, choose_device};
