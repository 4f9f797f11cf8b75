//! Finding trajectories by words and by meaning.
//!
//! In: transcripts of trajectories that changed since they were last indexed. Out: hits, best first, with where they
//! came from.
//!
//! Always true: everything here is derived. The index directory may be deleted at any time and is rebuilt from the
//! store; a trajectory is marked as indexed only after the index is committed, so a crash indexes again and loses
//! nothing. Vectors of two embedders are never compared.

mod catch_up;
mod document;
mod embedder;
mod error;
#[cfg(feature = "onnx")]
mod fast_embed;
mod fusion;
mod index;
mod lexical;
mod query;
#[cfg(test)]
mod tests;
mod words;

pub use catch_up::CaughtUp;
pub use embedder::{Embedder, cosine, embedder};
pub use error::{EmbedError, SearchError};
#[cfg(feature = "onnx")]
pub use fast_embed::FastEmbed;
pub use index::Index;
pub use lexical::Lexical;
pub use query::{Filter, Hit, Why, query};
