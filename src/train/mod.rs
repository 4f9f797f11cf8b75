//! Training: what was recorded becomes examples, examples an adapter, and the gate decides whether it is kept.

pub mod chat;
pub mod example;
pub mod gate;
pub mod jsonl;
pub mod night;
pub mod options;
pub mod pass;
pub mod select;
pub mod tokens;

pub use example::{Example, Goal};
pub use options::Options;
