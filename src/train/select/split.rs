//! Which samples are held out.

use std::collections::HashMap;

use sha2::{Digest, Sha256};

use super::{Sample, Selection, Skipped};
use crate::config::TrainExamples;
use crate::model::{Micros, TrajectoryId};

/// The number changes when the recipe does.
const RECIPE: &[u8] = b"held out v1";

/// Whether a group is held out. It hangs on the group and the share alone, so that what was trained on is never tested
/// on later.
pub(super) fn is_held_out(group: &[u8; 32], share: f64) -> bool {
    let digest = Sha256::new().chain_update(RECIPE).chain_update(group).finalize();
    let number = digest[..8].iter().fold(0_u64, |sum, byte| sum << 8 | u64::from(*byte));
    (number as f64) < share * 2_f64.powi(64)
}

/// Puts samples, oldest first, on their sides. A prompt that two groups share stays with the older trajectory. Beyond
/// the most that are wanted the oldest are left out.
pub(super) fn split(
    samples: Vec<Sample>,
    started: &HashMap<TrajectoryId, Micros>,
    settings: &TrainExamples,
    into: &mut Selection,
) {
    let age = |s: &Sample| (started.get(&s.trajectory).copied().unwrap_or_default(), s.trajectory);
    let mut sides: HashMap<[u8; 32], bool> = HashMap::new();
    let mut by_age: Vec<&Sample> = samples.iter().collect();
    by_age.sort_by_key(|s| age(s));
    for sample in by_age {
        sides.entry(sample.prompt).or_insert_with(|| is_held_out(&sample.group, settings.held_out));
    }
    let surplus = samples.len().saturating_sub(settings.most);
    for (i, sample) in samples.into_iter().enumerate() {
        let held_out = is_held_out(&sample.group, settings.held_out);
        if i < surplus {
            into.skip(Skipped::TooMany);
        } else if sides[&sample.prompt] != held_out {
            into.skip(Skipped::BothSides);
        } else if held_out {
            into.held_out.push(sample);
        } else {
            into.training.push(sample);
        }
    }
}
