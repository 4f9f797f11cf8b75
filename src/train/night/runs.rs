//! What nights did, a file each.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::super::pass::{PassError, Report, failed, write_whole};
use super::super::select::{Kind, Selection};
use crate::model::{AdapterId, Micros, Scope};
use crate::store::{DataDir, file_name};

/// One scope's part of a night.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Run {
    pub scope: Scope,
    pub started: Micros,
    pub ended: Micros,
    /// The base, as it was named.
    pub model: String,
    pub outcome: Ended,
    /// In words: what speaks for the adapter where it was kept, else what speaks against it, or went wrong.
    pub reasons: Vec<String>,
    pub selected: Selected,
    /// What was trained, whether or not it was kept; where nothing is new, what was kept before and is not in use yet.
    pub adapter: Option<AdapterId>,
    pub pass: Option<Report>,
    /// Fingerprint of all that the result depends on.
    pub material: String,
}

/// How a run ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Ended {
    /// Too little to learn from, or to test with.
    TooFew,
    /// All is as it was when the last run was decided.
    NothingNew,
    /// The gate kept the adapter.
    Kept,
    /// The gate refused it.
    Refused,
    /// Training did not come to an end.
    Failed,
}

impl Ended {
    /// Whether the same would come of the same material again.
    #[must_use]
    pub fn is_decided(self) -> bool {
        matches!(self, Self::Kept | Self::Refused)
    }
}

/// What was there to learn from.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Selected {
    /// Trajectories of the scope.
    pub trajectories: u64,
    pub training: u64,
    /// Of `training`, what somebody said the answer should have been.
    pub corrections: u64,
    pub held_out: u64,
    /// Why others teach nothing, and how many.
    pub skipped: BTreeMap<String, u64>,
}

impl Selected {
    pub(super) fn of(selection: &Selection) -> Self {
        let corrections = selection.training.iter().filter(|s| s.kind == Kind::Correction);
        Self {
            trajectories: selection.trajectories,
            training: selection.training.len() as u64,
            corrections: corrections.count() as u64,
            held_out: selection.held_out.len() as u64,
            skipped: selection.skipped.iter().map(|(why, n)| (why.to_string(), *n)).collect(),
        }
    }
}

/// Older ones are deleted.
const KEPT: usize = 200;

impl Run {
    /// Writes it where [`runs`] finds it.
    pub(super) fn keep(&self, dir: &DataDir) -> Result<(), PassError> {
        let folder = folder(dir);
        std::fs::create_dir_all(&folder).map_err(failed(&folder))?;
        let scope = file_name(&self.scope.to_string());
        write_whole(&folder.join(format!("{:020}-{scope}.json", self.started.0)), self)?;
        for old in files(dir)?.into_iter().skip(KEPT) {
            std::fs::remove_file(&old).map_err(failed(&old))?;
        }
        Ok(())
    }
}

/// What nights did on a data directory, the latest first. What cannot be read is passed over.
///
/// # Errors
/// When the folder cannot be read.
pub fn runs(dir: &DataDir) -> Result<Vec<Run>, PassError> {
    let read = |path: PathBuf| {
        let run = std::fs::read(&path).ok().and_then(|bytes| serde_json::from_slice(&bytes).ok());
        if run.is_none() {
            tracing::warn!(path = %path.display(), "no report of a training that can be read");
        }
        run
    };
    Ok(files(dir)?.into_iter().filter_map(read).collect())
}

/// The latest first.
fn files(dir: &DataDir) -> Result<Vec<PathBuf>, PassError> {
    let folder = folder(dir);
    let entries = match std::fs::read_dir(&folder) {
        Ok(entries) => entries,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(e) => return Err(failed(&folder)(e)),
    };
    let mut files = Vec::new();
    for entry in entries {
        let path = entry.map_err(failed(&folder))?.path();
        if path.extension().is_some_and(|e| e == "json") {
            files.push(path);
        }
    }
    files.sort_unstable();
    files.reverse();
    Ok(files)
}

fn folder(dir: &DataDir) -> PathBuf {
    dir.training().join("runs")
}
