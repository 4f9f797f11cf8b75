//! Training: examples in, an adapter out.

pub mod example;
pub mod general;
pub mod options;
