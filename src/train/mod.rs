//! Training: examples in, an adapter out; and the nights that select the examples and decide on the adapter.
//!
//! In: tokens with weights ([`Example`]), a model ([`Stack`](crate::onnx::llama::stack::Stack)), settings ([`Options`]).
//! Out: a [`Lora`](crate::onnx::lora::Lora) and what happened on the way.
//!
//! Always true: the same examples, settings and seed give the same adapter on the processor, bit for bit, also when the run
//! was interrupted and resumed; what a run has reached is not lost when it stops, whatever stops it.

pub mod chat;
mod check;
mod draw;
mod error;
pub mod evaluate;
mod example;
pub mod gate;
pub mod general;
pub mod jsonl;
pub mod night;
mod options;
mod pace;
mod pack;
pub mod pass;
mod report;
mod run;
pub mod select;
mod state;
#[cfg(test)]
mod tests;
pub mod tokens;

pub use error::TrainError;
pub use evaluate::{Evaluation, evaluate};
pub use example::{Example, Goal};
pub use options::Options;
pub use report::{Ended, Event, Report, Trained};
pub use run::{Job, run};
pub use state::Place;
