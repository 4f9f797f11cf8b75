//! The night: what went wrong by day becomes clusters, and clusters become lessons.
//!
//! In: trajectories with outcomes, from the store. Out: clusters with identities that last, lessons with evidence, and
//! files in the learned repository.
//!
//! ```text
//! select ▸ cluster ▸ draft ▸ commit ▸ done
//! outcomes  signature  contrast  files, one
//! up to     features   recovery  git commit
//! date      identity   gate
//! ```
//!
//! Always true: the same data give the same clusters, lessons and files. Each phase ends in one transaction, so that a
//! killed night goes on where it was. Without new outcomes nothing is written. No model is needed.

mod actions;
mod answer;
mod case;
mod cluster;
mod contrast;
mod draft;
mod error;
mod features;
mod gate;
mod identity;
mod ledger;
mod mask;
mod near;
mod night;
mod random;
mod recovery;
mod report;
mod select;
mod signature;
mod title;
mod wording;

pub use error::DreamError;
pub use night::{Night, run_all};

#[cfg(test)]
mod tests;
