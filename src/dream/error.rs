use crate::model::{Micros, NightId, Scope};
use crate::outcome::OutcomeError;
use crate::search::EmbedError;
use crate::skills::SkillsError;
use crate::store::StoreError;

/// A night could not run or finish. It is safe to run again.
#[derive(Debug, thiserror::Error)]
pub enum DreamError {
    #[error(
        "a night of {scope} is running since {since} ({night}); wait for it, or until {until}, when it counts as dead"
    )]
    Running { scope: Scope, night: NightId, since: Micros, until: Micros },

    #[error(transparent)]
    Store(#[from] StoreError),

    #[error(transparent)]
    Outcome(#[from] OutcomeError),

    #[error("cannot compare texts: {0}")]
    Embed(#[from] EmbedError),

    #[error(transparent)]
    Skills(#[from] SkillsError),

    /// Only in tests: the process "died" here.
    #[cfg(test)]
    #[error("killed after {0}")]
    Killed(crate::model::NightPhase),
}
