//! What a scope's adapter is trained on.
//!
//! In: trajectories with outcomes and feedback, from the store. Out: conversations to learn from, in two parts, and a
//! count of all that was left out, with the reason.
//!
//! Always true: what is learned was judged a success with confidence, or is what somebody said the answer should have
//! been; a trajectory, and a session, is on one side of the split only, and stays there on later nights; the same prompt
//! is never on both sides; trajectories whose exchanges were joined on a guess teach nothing.

mod conversation;
mod merge;
mod split;

use std::collections::{BTreeMap, HashMap};
use std::fmt;

use serde::Serialize;

use super::chat::Chat;
use crate::config::TrainExamples;
use crate::model::{Label, Micros, Scope, Trajectory, TrajectoryId};
use crate::store::{Correction, Store, StoreError, TrajectoryFilter};
use conversation::{Source, corrected, opening, succeeded};

/// Exchanges joined less surely than this teach nothing: what a session or response id names, or an equal prefix, is
/// above it.
const SURE: f64 = 0.9;

/// Where a target comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// The model's own answers, in a trajectory that went well.
    Success,
    /// What somebody said the answer should have been.
    Correction,
}

/// One conversation to learn from.
#[derive(Clone, Debug, PartialEq)]
pub struct Sample {
    pub chat: Chat,
    pub kind: Kind,
    pub trajectory: TrajectoryId,
    /// When the correction was given, or the trajectory ended.
    pub when: Micros,
    /// What the side of the split hangs on.
    group: [u8; 32],
    prompt: [u8; 32],
}

/// Why something recorded teaches nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Skipped {
    UnsureLink,
    Unconfident,
    Corrected,
    Gone,
    Unfinished,
    NotText,
    Empty,
    Duplicate,
    Overruled,
    BothSides,
    TooMany,
}

impl fmt::Display for Skipped {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::UnsureLink => "its exchanges were joined on a guess",
            Self::Unconfident => "a success, but not surely enough",
            Self::Corrected => "a success with a correction in it: only the correction is learned",
            Self::Gone => "its bodies are no longer recorded, or were never recorded whole",
            Self::Unfinished => "its last answer was cut off or refused",
            Self::NotText => "it holds more than text",
            Self::Empty => "there is nothing in it to learn",
            Self::Duplicate => "the same prompt with the same answer again",
            Self::Overruled => "a later correction of the same prompt says something else",
            Self::BothSides => "its prompt stands on the other side of the split",
            Self::TooMany => "more than train.examples.most",
        })
    }
}

/// What a night has to learn from.
#[derive(Clone, Debug, Default)]
pub struct Selection {
    /// Oldest first.
    pub training: Vec<Sample>,
    /// Oldest first.
    pub held_out: Vec<Sample>,
    pub skipped: BTreeMap<Skipped, u64>,
    /// Trajectories of the scope.
    pub trajectories: u64,
}

impl Selection {
    fn skip(&mut self, why: Skipped) {
        *self.skipped.entry(why).or_default() += 1;
    }
}

/// Selects from a scope's trajectories, whose outcomes are taken as they are.
///
/// # Errors
/// When the store cannot be read.
pub fn select(store: &Store, scope: &Scope, settings: &TrainExamples) -> Result<Selection, StoreError> {
    let mut corrections: HashMap<TrajectoryId, Vec<Correction>> = HashMap::new();
    let given = if settings.corrections { store.corrections(scope)? } else { Vec::new() };
    for correction in given {
        corrections.entry(correction.trajectory).or_default().push(correction);
    }
    let all = store.trajectories(&TrajectoryFilter {
        tenant: Some(scope.tenant.clone()),
        app: Some(scope.app.clone()),
        ..TrajectoryFilter::default()
    })?;
    let groups = Groups::of(&all);
    let mut selection = Selection { trajectories: all.len() as u64, ..Selection::default() };
    let mut found = Vec::new();
    for trajectory in &all {
        let corrections = corrections.remove(&trajectory.id).unwrap_or_default();
        let sources = match sources(trajectory, corrections, settings.confidence) {
            Ok(sources) => sources,
            Err(why) => {
                why.iter().for_each(|why| selection.skip(*why));
                continue;
            }
        };
        if is_success(trajectory) && sources.iter().any(Source::is_correction) {
            selection.skip(Skipped::Corrected);
        }
        let mut group = None;
        for source in sources {
            let read = match &source {
                Source::Success => succeeded(store, trajectory)?,
                Source::Correction(correction) => corrected(store, trajectory, correction)?,
            };
            let (chat, own) = match read {
                Ok(read) => read,
                Err(why) => {
                    selection.skip(why);
                    continue;
                }
            };
            let group = match group {
                Some(group) => group,
                None => *group.insert(opening(store, groups.first(trajectory))?.unwrap_or(own)),
            };
            let (kind, when) = match source {
                Source::Success => (Kind::Success, trajectory.ended),
                Source::Correction(correction) => (Kind::Correction, correction.given),
            };
            let prompt = merge::prompt_of(&chat);
            found.push(Sample { chat, kind, trajectory: trajectory.id, when, group, prompt });
        }
    }
    found.sort_by_key(|sample| (sample.when, sample.trajectory));
    let kept = merge::merge(found, &mut |why| selection.skip(why));
    let started: HashMap<TrajectoryId, Micros> = all.iter().map(|t| (t.id, t.started)).collect();
    split::split(kept, &started, settings, &mut selection);
    Ok(selection)
}

fn is_success(trajectory: &Trajectory) -> bool {
    trajectory.outcome.as_ref().is_some_and(|o| o.label == Label::Success)
}

/// What a trajectory can teach; the error is why it does not, or none where nothing spoke for it.
fn sources(
    trajectory: &Trajectory,
    corrections: Vec<Correction>,
    confidence: f64,
) -> Result<Vec<Source>, Option<Skipped>> {
    let taught = !corrections.is_empty();
    if !taught && !is_success(trajectory) {
        return Err(None);
    }
    if trajectory.link_confidence < SURE {
        return Err(Some(Skipped::UnsureLink));
    }
    if taught {
        return Ok(corrections.into_iter().map(Source::Correction).collect());
    }
    let p = trajectory.outcome.as_ref().and_then(|o| o.p_success);
    if p.is_some_and(|p| p >= confidence) {
        Ok(vec![Source::Success])
    } else {
        Err(Some(Skipped::Unconfident))
    }
}

/// Trajectories of one session belong together: the first of them stands for all.
struct Groups<'a>(HashMap<&'a str, &'a Trajectory>);

impl<'a> Groups<'a> {
    fn of(all: &'a [Trajectory]) -> Self {
        let mut first: HashMap<&str, &Trajectory> = HashMap::new();
        for trajectory in all {
            if let Some(session) = &trajectory.session_id {
                let known = first.entry(session).or_insert(trajectory);
                if (trajectory.started, trajectory.id) < (known.started, known.id) {
                    *known = trajectory;
                }
            }
        }
        Self(first)
    }

    fn first(&self, of: &Trajectory) -> TrajectoryId {
        of.session_id.as_deref().and_then(|session| self.0.get(session)).map_or(of.id, |first| first.id)
    }
}

#[cfg(test)]
pub(super) mod tests;
