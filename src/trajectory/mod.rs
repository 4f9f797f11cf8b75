//! From exchanges to trajectories, without an SDK in the app.
//!
//! In: new rows of the record, by watermark. Out: turns and trajectories in the store, and whole transcripts.
//!
//! Always true: an exchange is placed once, in order of recording; what the client named wins over what its messages
//! suggest; the same record gives the same trajectories, up to their ids.

mod assemble;
mod chain;
mod session;
mod transcript;

pub use assemble::{Caught, catch_up, catch_up_while};
pub use transcript::transcript;
