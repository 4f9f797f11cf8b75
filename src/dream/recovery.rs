//! What runs did after an error that they got over.

use std::collections::BTreeMap;

use super::case::Case;
use super::contrast::token;

/// The step that runs took which got over an error.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Recovery {
    pub next: Next,
    /// Successes that took this step, of those that met the error.
    pub successes: (usize, usize),
    /// Failures that took the same step, of those that met it.
    pub failures: (usize, usize),
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
pub(super) fn recovery(cases: &[&Case], tool: &str, error: &str) -> Option<Recovery> {
    // By step: how many successes and how many failures took it.
    let mut steps: BTreeMap<Next, (usize, usize)> = BTreeMap::new();
    let (mut good, mut bad) = (0, 0);
    for case in cases {
        let Some(next) = after(case, tool, error) else { continue };
        let taken = steps.entry(next).or_default();
        if case.failed {
            bad += 1;
            taken.1 += 1;
        } else {
            good += 1;
            taken.0 += 1;
        }
    }
    let (next, (took, failed_took)) =
        steps.into_iter().max_by(|a, b| a.1.0.cmp(&b.1.0).then(b.0.cmp(&a.0)))?;
    let share = |n: usize, of: usize| n as f64 / of.max(1) as f64;
    let clear =
        took >= LEAST && share(took, good) >= SHARE && share(took, good) >= share(failed_took, bad) + LEAD;
    clear.then_some(Recovery { next, successes: (took, good), failures: (failed_took, bad) })
}

/// What a run did after it first met an error; none where it did not.
#[must_use]
pub(super) fn after(case: &Case, tool: &str, error: &str) -> Option<Next> {
    let met = case.actions.iter().position(|a| a.name == tool && a.error.as_deref() == Some(error))?;
    Some(next(case, met))
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
