use std::collections::{HashMap, HashSet};

use super::{Accuracies, combine, detect, failing_step, learn};
use crate::model::{Label, Micros, Outcome, Scope, TrajectoryId, Transcript, Vote};
use crate::store::{Assessment, Store, StoreError};
use crate::trajectory::transcript;

/// Outcomes cannot be worked out.
#[derive(Debug, thiserror::Error)]
pub enum OutcomeError {
    #[error("cannot assess trajectories: {0}")]
    Store(#[from] StoreError),
}

/// What an assessment did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct AssessReport {
    /// Trajectories with a new outcome.
    pub assessed: u64,
    pub successes: u64,
    pub failures: u64,
    /// Those whose recorded bodies could not be read: only feedback and what is known without bodies votes on them.
    pub unreadable: u64,
}

/// What came of learning a scope's accuracies.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct RelearnReport {
    /// (source, accuracy, votes it was learned from)
    pub learned: Vec<(String, f64, u64)>,
    /// Trajectories whose outcome changed by it.
    pub changed: u64,
}

/// Trajectories a transaction.
const BATCH: u32 = 200;

/// Votes on all trajectories whose last exchange or feedback is not assessed yet and that ended before `quiet_since`.
///
/// # Errors
/// When the store cannot be read or written; what was assessed before stays.
pub fn assess(store: &Store, quiet_since: Micros) -> Result<AssessReport, OutcomeError> {
    assess_while(store, quiet_since, &|| true)
}

/// As [`assess`], as long as `go_on` says so; it is asked between batches.
///
/// # Errors
/// As [`assess`].
pub fn assess_while(
    store: &Store,
    quiet_since: Micros,
    go_on: &dyn Fn() -> bool,
) -> Result<AssessReport, OutcomeError> {
    let mut report = AssessReport::default();
    let mut accuracies: HashMap<Scope, Accuracies> = HashMap::new();
    let mut seen: HashSet<(TrajectoryId, i64)> = HashSet::new();
    loop {
        if !go_on() {
            return Ok(report);
        }
        let due = store.unassessed(quiet_since, BATCH)?;
        // A batch that brings nothing new cannot be got rid of; better to stop than to turn forever.
        let known = seen.len();
        seen.extend(due.iter().copied());
        if seen.len() == known {
            return Ok(report);
        }
        let mut batch = Vec::with_capacity(due.len());
        for (trajectory, revision) in due {
            let transcript = readable(store, trajectory);
            report.unreadable += u64::from(transcript.as_ref().is_none_or(|t| t.messages.is_empty()));
            let feedback = store.feedback(trajectory)?;
            let (votes, scope) = match &transcript {
                Some(t) => (detect::votes(t, &feedback), t.scope.of_app()),
                None => (detect::feedback_votes(&feedback), Scope::default()),
            };
            if !accuracies.contains_key(&scope) {
                let learned = Accuracies::from_learned(store.source_accuracies(&scope)?);
                accuracies.insert(scope.clone(), learned);
            }
            let outcome = outcome(transcript.as_ref(), &votes, &accuracies[&scope]);
            report.assessed += 1;
            report.successes += u64::from(outcome.label == Label::Success);
            report.failures += u64::from(outcome.label == Label::Failure);
            batch.push(Assessment { trajectory, revision, outcome, votes });
        }
        store.assess(&batch)?;
    }
}

/// A body that is gone or damaged must not stop the others.
fn readable(store: &Store, trajectory: TrajectoryId) -> Option<Transcript> {
    transcript(store, trajectory).unwrap_or_else(|error| {
        tracing::warn!(%trajectory, %error, "a trajectory cannot be read and is assessed by feedback alone");
        None
    })
}

fn outcome(t: Option<&Transcript>, votes: &[Vote], accuracies: &Accuracies) -> Outcome {
    let (p_success, label) = combine(votes, accuracies);
    let failing_step = t.filter(|_| label == Label::Failure).and_then(|t| failing_step(t, votes));
    Outcome { p_success, label, failing_step }
}

/// A smaller change of the probability is not worth a write.
const CHANGE: f64 = 0.01;

/// Learns the accuracies of a scope's sources from all its votes, and combines those votes again.
///
/// # Errors
/// When the store cannot be read or written.
pub fn relearn(store: &Store, scope: &Scope) -> Result<RelearnReport, OutcomeError> {
    let scope = scope.of_app();
    let mut votes = store.votes_of_scope(&scope)?;
    let learned = learn(&votes);
    store.keep_source_accuracies(&scope, &learned)?;
    let accuracies = Accuracies::from_learned(learned.iter().map(|(s, a, _)| (s.clone(), *a)).collect());
    let mut changes = Vec::new();
    for (trajectory, revision, before) in store.outcomes_of_scope(&scope)? {
        let votes = votes.remove(&trajectory).unwrap_or_default();
        let (p_success, label) = combine(&votes, &accuracies);
        let moved = match (p_success, before.p_success) {
            (Some(now), Some(then)) => (now - then).abs() > CHANGE,
            (now, then) => now.is_some() != then.is_some(),
        };
        if label == before.label && !moved {
            continue;
        }
        let failing_step = match (label, before.failing_step) {
            (Label::Failure, None) => readable(store, trajectory).and_then(|t| failing_step(&t, &votes)),
            (Label::Failure, known) => known,
            _ => None,
        };
        changes.push(Assessment {
            trajectory,
            revision,
            outcome: Outcome { p_success, label, failing_step },
            votes,
        });
    }
    for batch in changes.chunks(BATCH as usize) {
        store.assess(batch)?;
    }
    Ok(RelearnReport { learned, changed: changes.len() as u64 })
}

#[cfg(test)]
#[path = "assess_tests.rs"]
mod tests;
