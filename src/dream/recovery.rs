//! What runs did after an error that they got over.

use std::collections::BTreeMap;

use super::case::Case;
use super::contrast::token;
use crate::model::TrajectoryId;

/// The step that runs took which got over an error.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Recovery {
    pub next: Next,
    /// Successes that met the error, and those of them that took this step.
    pub recovered: usize,
    pub took: usize,
    /// Failures that met it, and those of them that took the same step.
    pub failed: usize,
    pub failed_took: usize,
    pub evidence: Vec<TrajectoryId>,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Next {
    /// Another tool, or the same with another kind of statement.
    Call(String),
    /// The same tool with other arguments.
    OtherArguments,
    /// No call: asked or answered.
    Speak,
}

/// Share of the recovered that must have taken the step, and by how much more often than the failed.
const SHARE: f64 = 0.5;
const LEAD: f64 = 0.2;
const LEAST: usize = 3;

/// What got runs over `error` of `tool`, where most that recovered did the same and those that failed did not.
#[must_use]
pub(super) fn recovery(cases: &[Case], tool: &str, error: &str) -> Option<Recovery> {
    let mut steps: BTreeMap<Next, (Vec<TrajectoryId>, usize)> = BTreeMap::new();
    let (mut recovered, mut failed) = (0, 0);
    for case in cases {
        let met = case.actions.iter().position(|a| a.name == tool && a.error.as_deref() == Some(error));
        let Some(met) = met else { continue };
        let next = next(case, met);
        let entry = steps.entry(next).or_default();
        if case.failed {
            failed += 1;
            entry.1 += 1;
        } else {
            recovered += 1;
            entry.0.push(case.id);
        }
    }
    let (next, (evidence, failed_took)) =
        steps.into_iter().max_by_key(|(next, (took, _))| (took.len(), std::cmp::Reverse(next.clone())))?;
    let took = evidence.len();
    let share = |n: usize, of: usize| n as f64 / of.max(1) as f64;
    let clear = took >= LEAST
        && share(took, recovered) >= SHARE
        && share(took, recovered) >= share(failed_took, failed) + LEAD;
    clear.then_some(Recovery { next, recovered, took, failed, failed_took, evidence })
}

fn next(case: &Case, met: usize) -> Next {
    let was = &case.actions[met];
    match case.actions.get(met + 1) {
        // More than one model turn between: it spoke to the user first.
        Some(then) if then.step <= was.step + 1 => {
            if token(then) == token(was) {
                Next::OtherArguments
            } else {
                Next::Call(token(then))
            }
        }
        _ => Next::Speak,
    }
}
