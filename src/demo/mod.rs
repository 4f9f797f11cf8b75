//! A support desk to watch Remora at work, without an account: a scripted model, the app that uses it, and its customers.
//!
//! In: the proxy's base URL and a [`Plan`]. Out: traffic as a real app makes it, a [`Summary`] of how the conversations
//! went, and the text that `remora demo` prints ([`report`]).
//!
//! ```text
//! agent (customers, tools) ──▶ proxy ──▶ upstream (policy plays the model)
//! ```
//!
//! For real models there is another job, which a program can check: [`tickets`].
//!
//! Always true: the same seed gives the same conversations; whether one went well is read off the desk, never off the
//! policy's intentions; nothing here knows how Remora judges.

mod agent;
mod answer;
mod case;
mod client;
mod desk;
mod draw;
mod error;
mod plan;
mod policy;
pub mod report;
#[cfg(feature = "onnx")]
pub mod tickets;
mod tools;
mod topic;
mod upstream;

#[cfg(test)]
mod tests;

pub use agent::play;
pub use error::DemoError;
pub use plan::{Plan, Played, Summary, Tally};
pub use topic::Topic;
pub use upstream::{Model, Pace, Script};
