//! A small job for a real model: sorting support messages, which a program can check.
//!
//! In: a seed, and a proxy behind which a model answers. Out: messages to learn from and messages never seen, what the
//! model made of them, and the text that `remora demo --model` prints.
//!
//! A [`Message`] has one right [`Ticket`]: whose desk it belongs on, and the number of the order, if it names one. What
//! is shown of day 1 is the base model at the best [`prompt`](Prompt) that we know for it, not at the one that training
//! makes better.
//!
//! Always true: the same seed gives the same messages; no message of day 2 shares an issue sentence, a phrase for the
//! order, a name, a product or a number with one that was learned from; an answer counts only if it is strict JSON with
//! exactly the two keys, and both values are right.

mod day;
mod message;
mod pools;
mod prompt;
mod report;
mod ticket;

#[cfg(test)]
mod tests;

pub use day::{Asked, Day, Desk, Feedback};
pub use message::{Message, messages, shuffled};
pub use pools::Half;
pub use prompt::Prompt;
pub use report::{Forgotten, Night, Report, json, text};
pub use ticket::{Queue, Ticket, Verdict};
