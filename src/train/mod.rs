//! Training: examples in, an adapter out.
//!
//! In: tokens with weights ([`Example`]), a model ([`Stack`](crate::onnx::llama::stack::Stack)), settings ([`Options`]).
//! Out: a [`Lora`](crate::onnx::lora::Lora) and what happened on the way.
//!
//! Always true: the same examples, settings and seed give the same adapter on the processor, bit for bit, also when the run
//! was interrupted and resumed; what a run has reached is not lost when it stops, whatever stops it.

mod draw;
mod error;
pub mod evaluate;
mod example;
mod options;
mod pack;
mod run;
mod state;
#[cfg(test)]
mod tests;

pub use error::TrainError;
pub use evaluate::{Evaluation, evaluate};
pub use example::{Example, Goal};
pub use options::Options;
pub use run::{Ended, Event, Job, Report, Trained, run};
