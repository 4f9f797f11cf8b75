//! An OpenAI-compatible server over language models that run here, with adapters that are swapped between tokens.

pub mod engine;
pub mod onnx_engine;
