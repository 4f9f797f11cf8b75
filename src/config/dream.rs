use serde::{Deserialize, Serialize};

/// `dream:` — the nightly job.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Dream {
    /// When it runs: 5-field crontab (minute hour day month weekday), local time; null: only by hand.
    pub schedule: Option<String>,
    /// What may be done with lessons that pass the gate.
    pub review: Review,
    /// Failures alike that make a cluster.
    pub min_cluster: u32,
    /// New lessons a night and scope, at most.
    pub max_new_lessons: u32,
}

/// Who accepts lessons.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Review {
    /// Clusters only; no files are written.
    Off,
    /// Lessons are committed on a branch of their own, for review.
    Propose,
    /// Lessons that pass the gate are committed at once.
    Auto,
}

impl Default for Dream {
    fn default() -> Self {
        Self { schedule: Some("30 3 * * *".into()), review: Review::Auto, min_cluster: 3, max_new_lessons: 10 }
    }
}
