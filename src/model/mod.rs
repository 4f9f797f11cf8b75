//! Plain data: what the other rooms pass to each other. No I/O, no clocks but [`Micros::now`].
//!
//! The words are those of the glossary in `docs/ARCHITECTURE.md`.

mod adapter;
mod cluster;
mod exchange;
mod ids;
mod lesson;
mod message;
mod night;
mod outcome;
mod progress;
mod reading;
mod scope;
mod time;
mod trajectory;

pub use adapter::{AdapterBase, AdapterExamples, AdapterScores, AdapterState, BeforeAfter, Lineage};
pub use cluster::{Cluster, ClusterState, Signature};
pub use exchange::{Body, BodyHash, Ended, Exchange, Headers, Response, Timing};
pub use ids::{AdapterId, ClusterId, ExchangeId, IdError, LessonId, NightId, TrajectoryId};
pub use lesson::{Lesson, LessonKind, LessonState};
pub use message::{Message, Role, Tool, ToolCall};
pub use night::{Night, NightPhase, NightReport};
pub use outcome::{FailingStep, Feedback, Label, Outcome, Vote, VoteSource};
pub use progress::{Progress, Silent};
pub use reading::{Api, ApiError, Choice, Reading, Usage};
pub use scope::Scope;
pub use time::Micros;
pub use trajectory::{Link, Step, Trajectory, Transcript};
