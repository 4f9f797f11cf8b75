//! What a night reads: every labelled trajectory as a [`Case`].

use std::collections::HashMap;

use super::DreamError;
use super::case::Case;
use crate::model::{ClusterId, Label, Scope, Trajectory, TrajectoryId};
use crate::store::{Store, TrajectoryFilter};

/// Failures and successes that are looked at, newest first: bounds a night's time.
const FAILURES: usize = 2_000;
const SUCCESSES: usize = 1_000;

/// A scope's labelled trajectories, oldest first.
pub(super) struct Selection {
    pub cases: Vec<Case>,
    /// The cluster of every failure, those too old to be looked at as well.
    pub membership: HashMap<TrajectoryId, ClusterId>,
    /// Failures too old to be looked at.
    pub passed_over: Vec<TrajectoryId>,
    pub trajectories: u64,
    pub successes: u64,
    pub failures: u64,
}

/// Reads a scope's labelled trajectories; `progress` gets how many of how many were read.
pub(super) fn select(
    store: &Store,
    scope: &Scope,
    progress: &mut dyn FnMut(u64, u64),
) -> Result<Selection, DreamError> {
    let labelled = |label| TrajectoryFilter {
        tenant: Some(scope.tenant.clone()),
        app: Some(scope.app.clone()),
        label: Some(label),
        ..TrajectoryFilter::default()
    };
    let failures = store.trajectories(&labelled(Label::Failure))?;
    let successes = store.trajectories(&labelled(Label::Success))?;
    let (n_failures, n_successes) = (failures.len(), successes.len());
    let membership = failures.iter().filter_map(|t| Some((t.id, t.cluster_id?))).collect();
    let passed_over = failures.iter().skip(FAILURES).map(|t| t.id).collect();
    let wanted: Vec<Trajectory> =
        failures.into_iter().take(FAILURES).chain(successes.into_iter().take(SUCCESSES)).collect();
    let votes = store.votes_of_scope(scope)?;
    let none = Vec::new();
    let mut cases = Vec::with_capacity(wanted.len());
    for (i, t) in wanted.iter().enumerate() {
        if i % 50 == 0 {
            progress(i as u64, wanted.len() as u64);
        }
        let Some(transcript) = transcript(store, t.id)? else { continue };
        let feedback = store.feedback(t.id)?;
        cases.extend(Case::of(t, &transcript, votes.get(&t.id).unwrap_or(&none), &feedback));
    }
    progress(wanted.len() as u64, wanted.len() as u64);
    cases.sort_by_key(|c| (c.ended, c.id));
    let trajectories =
        store.trajectories(&TrajectoryFilter { label: None, ..labelled(Label::Failure) })?.len() as u64;
    Ok(Selection {
        cases,
        membership,
        passed_over,
        trajectories,
        successes: n_successes as u64,
        failures: n_failures as u64,
    })
}

#[cfg(not(test))]
use crate::trajectory::transcript;

/// Tests keep transcripts in a table of their own, so that they need no bodies.
#[cfg(test)]
use super::tests::transcript;
