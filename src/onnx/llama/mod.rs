//! The family of models that Llama founded: blocks, heads and decoding as graphs.
//!
//! In: an [`Architecture`] and its weights. Out: programs for ONNX Runtime.

mod architecture;

pub use architecture::{Architecture, Family};
