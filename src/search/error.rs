/// Text cannot be turned into vectors.
#[derive(Debug, thiserror::Error)]
pub enum EmbedError {
    #[cfg(feature = "onnx")]
    #[error(transparent)]
    Provision(#[from] crate::onnx::ProvisionError),

    #[cfg(feature = "onnx")]
    #[error(transparent)]
    Runtime(#[from] crate::onnx::RuntimeError),

    #[cfg(feature = "onnx")]
    #[error("{path}: cannot read a file of the embedding model: {source}")]
    Read { path: std::path::PathBuf, source: std::io::Error },

    #[cfg(feature = "onnx")]
    #[error("cannot {operation} the embedding model: {source}")]
    Model { operation: &'static str, source: fastembed::Error },

    #[error("this binary was built without the feature `onnx`: set search.embedder to `auto` or `lexical`")]
    NotBuilt,
}
