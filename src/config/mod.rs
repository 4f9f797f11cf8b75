//! Settings: one struct a section, defaults in one place.

mod dream;
mod search;

pub use dream::{Dream, Review};
pub use search::{Embedder, Fetch, Onnx, Search};
