//! From exchanges to trajectories, without an SDK in the app.
//!
//! In: new rows of the store, by watermark. Out: turns and trajectories in the store, and whole transcripts.

use crate::model::{Transcript, TrajectoryId};
use crate::store::{Store, StoreError};

/// Loads what was said in a trajectory from the recorded bodies; none where there is no such trajectory.
pub fn transcript(_store: &Store, _id: TrajectoryId) -> Result<Option<Transcript>, StoreError> {
    Ok(None)
}
