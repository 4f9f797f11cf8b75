//! The family of models that Llama founded: blocks, heads and decoding as graphs.
//!
//! In: an [`Architecture`] and its weights. Out: programs for ONNX Runtime.

mod architecture;
mod attention;
pub mod batch;
pub mod block;
mod frozen;
pub mod heads;
mod mask;
pub mod stack;
#[cfg(test)]
mod tests;
pub mod weights;

pub use architecture::{Architecture, Family};
pub use attention::MOST_CHUNKS;
pub use frozen::Storage;
