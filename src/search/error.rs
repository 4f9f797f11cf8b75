/// Text cannot be turned into vectors.
#[derive(Debug, thiserror::Error)]
pub enum EmbedError {
    #[error("this binary was built without the feature `onnx`: set search.embedder to `auto` or `lexical`")]
    NotBuilt,
}
