use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::{Micros, NightId, Scope};

/// One run of the dream job.
#[derive(Clone, Debug, Serialize)]
pub struct Night {
    pub id: NightId,
    pub scope: Scope,
    pub started: Micros,
    pub ended: Option<Micros>,
    pub phase: NightPhase,
    /// Trajectories up to this store sequence were read.
    pub watermark: i64,
    pub report: NightReport,
    /// Hash of the git commit; none when nothing changed.
    pub commit: Option<String>,
    /// Why it stopped, when it failed.
    pub error: Option<String>,
}

/// Where a night is. A killed night resumes at its phase.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum NightPhase {
    /// Catch up with the store, assess outcomes.
    Select,
    /// Failing steps, signatures, clusters with identities.
    Cluster,
    /// Lessons by contrast with successes, gated.
    Draft,
    /// Files written, one commit.
    Commit,
    Done,
    Failed,
}

impl NightPhase {
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Select => "select",
            Self::Cluster => "cluster",
            Self::Draft => "draft",
            Self::Commit => "commit",
            Self::Done => "done",
            Self::Failed => "failed",
        }
    }
}

impl fmt::Display for NightPhase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for NightPhase {
    type Err = ();

    fn from_str(s: &str) -> Result<Self, ()> {
        [Self::Select, Self::Cluster, Self::Draft, Self::Commit, Self::Done, Self::Failed]
            .into_iter()
            .find(|p| p.as_str() == s)
            .ok_or(())
    }
}

/// What a night read, made and refused.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct NightReport {
    pub trajectories: u64,
    pub successes: u64,
    pub failures: u64,
    /// Failures put into clusters known before.
    pub assigned: u64,
    pub clusters_new: u64,
    pub clusters_total: u64,
    /// Failures like no other, left for later nights.
    pub unclustered: u64,
    pub lessons_new: u64,
    pub lessons_total: u64,
    /// Lessons that the gate refused: (text, reason).
    pub rejected: Vec<(String, String)>,
    pub seconds: f64,
    /// No outcome had changed since the night before: nothing was done.
    pub nothing_new: bool,
}
