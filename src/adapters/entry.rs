use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::AdapterError;
use crate::model::{
    AdapterBase, AdapterExamples, AdapterId, AdapterScores, AdapterState, Lineage, Micros, Scope,
    TrajectoryId,
};

/// What a training run hands over.
#[derive(Clone, Debug)]
pub struct Candidate {
    /// A PEFT directory; it is copied.
    pub files: PathBuf,
    pub scope: Scope,
    pub base: AdapterBase,
    pub trajectories: Vec<TrajectoryId>,
    pub examples: AdapterExamples,
    pub options: serde_json::Value,
    pub scores: AdapterScores,
}

/// What was decided on an adapter after it was registered.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Decision {
    pub at: Micros,
    pub state: AdapterState,
    pub reason: String,
    pub scores: Option<AdapterScores>,
}

/// An adapter, with where it stands now.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Entry {
    pub lineage: Lineage,
    /// The PEFT directory.
    pub directory: PathBuf,
    pub state: AdapterState,
    /// Since when, and why, it is in this state.
    pub since: Micros,
    pub reason: String,
    /// The aliases that point at it.
    pub aliases: Vec<String>,
    /// The latest that are known.
    pub scores: AdapterScores,
    /// Oldest first.
    pub decisions: Vec<Decision>,
}

/// All adapters, latest first; those that cannot be read are not silently left out.
#[derive(Debug, Default)]
pub struct Listing {
    pub entries: Vec<Entry>,
    pub broken: Vec<AdapterError>,
}

/// What a promotion or a rollback did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Moved {
    pub alias: String,
    /// None: the base model.
    pub from: Option<AdapterId>,
    pub to: Option<AdapterId>,
}
