use super::{EmbedError, Lexical};
use crate::config;
use crate::model::Progress;

/// Turns text into vectors whose direction is its meaning.
pub trait Embedder: Send + Sync {
    /// Name and version. Vectors of two names don't compare.
    fn name(&self) -> &str;

    /// Length of every vector.
    fn dimensions(&self) -> usize;

    /// One row a text, `[texts, dimensions]`, f32, each of L2 norm 1; all zeros where a text has nothing to go by.
    ///
    /// Long texts are cut. Blocks for as long as it takes: call it off the async threads.
    ///
    /// # Errors
    /// When the model fails; no row is returned then.
    fn embed(&self, texts: &[&str]) -> Result<Vec<Vec<f32>>, EmbedError>;
}

/// Cosine of two rows of one embedder, -1 to 1; 0 where the lengths differ.
#[must_use]
pub fn cosine(a: &[f32], b: &[f32]) -> f32 {
    if a.len() != b.len() {
        return 0.0;
    }
    // Rows are normalised, so that the product is the cosine.
    a.iter().zip(b).map(|(x, y)| x * y).sum()
}

/// The embedder that the settings ask for. May fetch ONNX Runtime and the model, which takes seconds to minutes.
///
/// # Errors
/// Only where ONNX is asked for by name; `auto` falls back to [`Lexical`] and logs why.
pub fn embedder(
    config: &config::Search,
    onnx: &config::Onnx,
    progress: &dyn Progress,
) -> Result<Box<dyn Embedder>, EmbedError> {
    match config.embedder {
        config::Embedder::Lexical => Ok(Box::new(Lexical)),
        config::Embedder::Onnx => with_onnx(onnx, progress),
        config::Embedder::Auto => with_onnx(onnx, progress).or_else(|reason| {
            tracing::warn!(%reason, "no ONNX embeddings: comparing texts by words and letter groups instead");
            Ok(Box::new(Lexical))
        }),
    }
}

#[cfg(feature = "onnx")]
fn with_onnx(onnx: &config::Onnx, progress: &dyn Progress) -> Result<Box<dyn Embedder>, EmbedError> {
    let provisioned = crate::onnx::provision::locate_or_fetch(onnx, progress)?;
    Ok(Box::new(super::FastEmbed::load(&provisioned, onnx)?))
}

#[cfg(not(feature = "onnx"))]
fn with_onnx(_: &config::Onnx, _: &dyn Progress) -> Result<Box<dyn Embedder>, EmbedError> {
    Err(EmbedError::NotBuilt)
}
