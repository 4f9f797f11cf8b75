//! Finding trajectories by words and by meaning.

/// Turns text into vectors whose direction is its meaning.
pub trait Embedder: Send + Sync {
    /// Name and version. Vectors of two names don't compare.
    fn name(&self) -> &str;

    /// Length of every vector.
    fn dimensions(&self) -> usize;

    /// One row a text, of L2 norm 1.
    ///
    /// # Errors
    /// When the model fails.
    fn embed(&self, texts: &[&str]) -> Result<Vec<Vec<f32>>, EmbedError>;
}

/// Text could not be turned into vectors.
#[derive(Debug, thiserror::Error)]
#[error("embedding failed")]
pub struct EmbedError;
