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
        Self {
            schedule: Some("30 3 * * *".into()),
            review: Review::Auto,
            min_cluster: 3,
            max_new_lessons: 10,
        }
    }
}

/// Reads a crontab line: five fields (minute hour day-of-month month day-of-week), or six with seconds first.
///
/// # Errors
/// In words for the user, when it is no such line.
pub fn parse_schedule(text: &str) -> Result<cron::Schedule, String> {
    let fields = text.split_whitespace().count();
    let line = match fields {
        5 => format!("0 {text}"),
        6 | 7 => text.to_owned(),
        _ => {
            return Err(format!(
                "{text:?} is no crontab line: expected 5 fields, such as \"30 3 * * *\", not {fields}"
            ));
        }
    };
    line.parse().map_err(|e| format!("{text:?} is no crontab line: {e}"))
}
