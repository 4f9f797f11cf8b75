#[cfg(feature = "onnx")]
mod files;
mod registry;
