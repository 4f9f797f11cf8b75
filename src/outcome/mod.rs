//! How a trajectory ended, without asking anybody: votes, their combination, the failing step.
//!
//! In: transcripts, feedback. Out: for each trajectory its votes, a probability of success, a verdict, and for
//! failures the step to look at, all kept in the store.
//!
//! Always true: the same transcript and feedback give the same votes in the same order; votes only ever look at the
//! transcript, never at other trajectories; the order of votes changes no probability; where the votes are few or
//! divided the verdict is [`Label::Unknown`](crate::model::Label::Unknown).

mod assess;
mod combine;
mod detect;
mod failing_step;
mod learn;

pub use assess::{AssessReport, OutcomeError, RelearnReport, assess, assess_while, relearn};
pub use combine::{Accuracies, combine};
pub use detect::votes;
pub use failing_step::failing_step;
pub use learn::learn;
