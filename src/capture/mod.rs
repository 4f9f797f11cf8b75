//! Copies what crosses the proxy and hands it to the recorder, without holding the traffic back.
//!
//! In: bodies as they stream ([`RequestTee`], [`ResponseTee`]) and how they ended. Out: [`Exchange`](crate::model::Exchange)
//! rows in the store, written by one thread ([`Recorder`]), credentials replaced by fingerprints before that.
//!
//! Always true: frames go on untouched and are never waited for; memory held is bounded; a record that cannot be kept
//! is dropped and counted; every flight ends in exactly one record or one counted loss.

mod copy;
mod files;
mod flight;
mod memory;
mod recorder;
mod redact;
mod tee;

pub use flight::{Flight, Head};
pub use memory::Memory;
pub use recorder::{Recorder, RecorderWorker};
pub use redact::Redactor;
pub use tee::{RequestTee, ResponseTee};
