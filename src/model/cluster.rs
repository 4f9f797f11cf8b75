use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::{ClusterId, Micros, Scope, TrajectoryId};

/// What a failure looks like once names and numbers are masked.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Signature {
    /// What kind of thing went wrong: `tool_error`, `arguments_schema`, … or `unexplained`.
    pub class: String,
    /// The tool at the failing step.
    pub tool: Option<String>,
    /// The error text with names, numbers, ids and quoted strings masked; shortened.
    pub text: String,
    /// Names of the arguments of the failing call, sorted.
    pub arguments: Vec<String>,
}

/// Failures with one signature, with an identity that lasts over nights.
#[derive(Clone, Debug, Serialize)]
pub struct Cluster {
    pub id: ClusterId,
    /// Without the user.
    pub scope: Scope,
    pub title: String,
    pub signature: Signature,
    pub state: ClusterState,
    /// Members now.
    pub size: u32,
    /// Members closest to the middle, at most five.
    pub exemplars: Vec<TrajectoryId>,
    /// Centre in the feature space of `dream::features`; its layout is versioned there.
    #[serde(skip)]
    pub centroid: Vec<f32>,
    /// Within it lie 90 % of the members: cosine distance, 0 to 2.
    pub radius: f64,
    pub born: Micros,
    /// Time of the latest member.
    pub last_seen: Micros,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ClusterState {
    Open,
    /// No new member although there was comparable traffic.
    Closed,
    /// Was closed and came back.
    Reopened,
    /// The owner does not want to hear of it.
    Muted,
}

impl ClusterState {
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Open => "open",
            Self::Closed => "closed",
            Self::Reopened => "reopened",
            Self::Muted => "muted",
        }
    }
}

impl fmt::Display for ClusterState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for ClusterState {
    type Err = ();

    fn from_str(s: &str) -> Result<Self, ()> {
        [Self::Open, Self::Closed, Self::Reopened, Self::Muted]
            .into_iter()
            .find(|c| c.as_str() == s)
            .ok_or(())
    }
}
