//! Adapters: their files, the registry of what was trained, and the servers they are swapped into.
//!
//! In: the weights of a training run with its lineage. Out: an immutable PEFT directory an adapter, an alias that apps
//! use as the model's name, and servers that answer under it.
//!
//! Always true: a registered adapter's files are never written again; an alias moves in one step, and a rollback brings
//! back exactly what it pointed at before; a server that refuses an adapter keeps the one it has; an alias is used by one
//! scope only. What cannot be read is named and left alone.
//!
//! Files of adapters for other programs need the model's [`Architecture`](crate::onnx::llama::Architecture), and so the
//! cargo feature `onnx`; registry and swaps do not.

mod aliases;
mod blank;
mod disk;
mod entry;
mod error;
#[cfg(feature = "onnx")]
pub mod gguf;
#[cfg(feature = "onnx")]
pub mod ort_file;
#[cfg(feature = "onnx")]
pub mod peft;
mod registry;
mod release;
mod swap;
mod targets;

pub use aliases::{Alias, Move, MoveKind};
pub use entry::{Candidate, Decision, Entry, Listing, Moved};
pub use error::{AdapterError, SwapError};
pub use registry::Registry;
pub use release::{Released, promote, rollback};
pub use swap::{ServedModel, Server, Swap};
pub use targets::targets;

#[cfg(test)]
mod tests;

/// The weights, in a PEFT directory.
pub const WEIGHTS: &str = "adapter_model.safetensors";
/// Their shape and scale, in a PEFT directory.
pub const CONFIG: &str = "adapter_config.json";
