//! What runs that succeeded did and runs that failed did not, or the other way round.
//!
//! Log-odds with an informative Dirichlet prior, after Monroe, Colaresi and Quinn 2008 ("Fightin' Words", eq. 15–22),
//! in its two-outcome form: a trajectory does a thing or does not. Counting each trajectory once keeps long ones from
//! speaking louder.

use std::collections::{BTreeMap, BTreeSet};

use super::actions::Action;
use super::case::Case;
use super::recovery::{Next, after};

/// Something a lesson may advise.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Advice {
    /// Make these calls before the first call of a tool.
    Before { calls: Vec<String>, tool: String },
    /// Give a tool this argument.
    With { tool: String, argument: String },
    /// Make these calls at some point.
    Do { calls: Vec<String> },
    /// Do not make this call.
    Avoid { call: String },
    /// Take this step after an error.
    After { tool: String, error: String, next: Next },
}

impl Advice {
    /// Whether a run is one that the advice is for: it calls the tool at all.
    #[must_use]
    pub(super) fn concerns(&self, case: &Case) -> bool {
        match self {
            Self::Before { tool, .. } | Self::With { tool, .. } => {
                case.actions.iter().any(|a| a.name == *tool)
            }
            Self::Do { .. } | Self::Avoid { .. } => true,
            Self::After { tool, error, .. } => after(case, tool, error).is_some(),
        }
    }

    /// Whether a run goes against it.
    #[must_use]
    pub(super) fn fires(&self, case: &Case) -> bool {
        match self {
            Self::Before { calls, tool } => {
                let end = turning_point(case, tool);
                end.is_some_and(|end| !grams(&case.actions[..end]).contains(calls))
            }
            Self::With { tool, argument } => {
                turning_point(case, tool).is_some_and(|i| !case.actions[i].arguments.contains(argument))
            }
            Self::Do { calls } => !grams(&case.actions).contains(calls),
            Self::Avoid { call } => grams(&case.actions).contains(std::slice::from_ref(call)),
            Self::After { tool, error, next } => after(case, tool, error).is_some_and(|did| did != *next),
        }
    }

    /// The calls that it names.
    fn calls(&self) -> Vec<String> {
        match self {
            Self::Before { calls, .. } | Self::Do { calls } => calls.clone(),
            Self::With { tool, .. } | Self::After { tool, .. } => vec![tool.clone()],
            Self::Avoid { call } => vec![call.clone()],
        }
    }
}

/// Advice with the counts behind it.
#[derive(Clone, Debug)]
pub(super) struct Finding {
    pub advice: Advice,
    /// Successes that follow it, of how many.
    pub successes: (usize, usize),
    /// Failures that follow it, of how many.
    pub failures: (usize, usize),
    pub z: f64,
}

/// Longest chain of calls that is looked at.
const GRAM: usize = 3;
/// Bars for a finding: in at least so many successes, in this share of them, in at most this share of failures.
const SUPPORT: usize = 3;
const COMMON: f64 = 0.6;
const RARE: f64 = 0.2;
const Z: f64 = 2.0;
/// Bars for a hint: difference of the shares, and z.
const HINT: f64 = 0.25;
const HINT_Z: f64 = 1.3;
/// Weight of the prior in trajectories.
const PRIOR: f64 = 2.0;

/// The call that failed, or the first of that tool.
fn turning_point(case: &Case, tool: &str) -> Option<usize> {
    let failing = case.failing.filter(|i| case.actions[*i].name == tool);
    failing.or_else(|| case.actions.iter().position(|a| a.name == tool))
}

/// Chains of one to three calls that went well, each once. The same call several times in a row is one.
fn grams(actions: &[Action]) -> BTreeSet<Vec<String>> {
    let mut tokens: Vec<String> = actions.iter().filter(|a| a.error.is_none()).map(token).collect();
    tokens.dedup();
    (1..=GRAM).flat_map(|n| tokens.windows(n).map(<[String]>::to_vec)).collect()
}

/// A call as lessons name it: `execute_sql SHOW TABLES`, `get_order`.
#[must_use]
pub(super) fn token(action: &Action) -> String {
    action.head.as_ref().map_or_else(|| action.name.clone(), |head| format!("{} {head}", action.name))
}

/// What a contrast gave.
#[derive(Clone, Debug, Default)]
pub(super) struct Contrast {
    /// What is over the bars, strongest first; no two name the same call.
    pub findings: Vec<Finding>,
    /// The strongest difference below them, for people to look at.
    pub hint: Option<Finding>,
    /// How many things were looked at.
    pub candidates: usize,
}

/// Failures against successes.
///
/// `tool` is where the failures went wrong; `with_tool` are successes that call it too, `near` those with like tasks.
#[must_use]
pub(super) fn contrast(
    failures: &[&Case],
    with_tool: &[&Case],
    near: &[&Case],
    tool: Option<&str>,
) -> Contrast {
    let mut candidates = 0;
    let (mut found, mut weak): (Vec<Finding>, Vec<Finding>) = Default::default();
    let mut weigh =
        |successes: &[&Case], failures: &[&Case], features: &dyn Fn(&Case) -> BTreeSet<Advice>| {
            if successes.len() < SUPPORT || failures.is_empty() {
                return;
            }
            let mut counts: BTreeMap<Advice, (usize, usize)> = BTreeMap::new();
            for case in successes {
                features(case).into_iter().for_each(|a| counts.entry(a).or_default().0 += 1);
            }
            for case in failures {
                features(case).into_iter().for_each(|a| counts.entry(a).or_default().1 += 1);
            }
            candidates += counts.len();
            for (advice, (s, f)) in counts {
                match judge(advice, (s, successes.len()), (f, failures.len())) {
                    Some((finding, true)) => found.push(finding),
                    Some((finding, false)) => weak.push(finding),
                    None => {}
                }
            }
        };
    if let Some(tool) = tool {
        let calling: Vec<&Case> =
            failures.iter().copied().filter(|f| turning_point(f, tool).is_some()).collect();
        let before = |case: &Case| {
            let end = turning_point(case, tool).unwrap_or(0);
            let chains = grams(&case.actions[..end]).into_iter();
            chains.map(|calls| Advice::Before { calls, tool: tool.to_owned() }).collect()
        };
        weigh(with_tool, &calling, &before);
        let with = |case: &Case| {
            let at = turning_point(case, tool).map(|i| &case.actions[i]);
            let named = at.into_iter().flat_map(|a| a.arguments.iter());
            named.map(|a| Advice::With { tool: tool.to_owned(), argument: a.clone() }).collect()
        };
        weigh(with_tool, &calling, &with);
    }
    // That the failing tool worked is what success means, no advice.
    let named =
        |calls: &Vec<String>| tool.is_some_and(|t| calls.iter().any(|c| c.split(' ').next() == Some(t)));
    let done = |case: &Case| {
        let chains = grams(&case.actions).into_iter().filter(|calls| !named(calls));
        chains.map(|calls| Advice::Do { calls }).collect()
    };
    weigh(near, failures, &done);

    let mut findings: Vec<Finding> = Vec::new();
    for finding in strongest_first(found) {
        // Chains that share a call say nearly the same.
        let mine = finding.advice.calls();
        if !findings.iter().any(|k| k.advice.calls().iter().any(|c| mine.contains(c))) {
            findings.push(finding);
        }
    }
    Contrast { findings, hint: strongest_first(weak).into_iter().next(), candidates }
}

/// The stronger first; of equals the longest chain of calls that each tell by themselves, then the shortest, then by
/// name.
fn strongest_first(mut found: Vec<Finding>) -> Vec<Finding> {
    let telling: BTreeSet<String> =
        found.iter().map(|f| f.advice.calls()).filter(|c| c.len() == 1).flatten().collect();
    let order = |advice: &Advice| {
        let calls = advice.calls();
        let all = calls.len() > 1 && calls.iter().all(|c| telling.contains(c));
        if all { (0, GRAM - calls.len()) } else { (1, calls.len()) }
    };
    found.sort_by(|a, b| {
        let strength = (b.z.abs() * 8.0).round().total_cmp(&(a.z.abs() * 8.0).round());
        strength.then(order(&a.advice).cmp(&order(&b.advice))).then(a.advice.cmp(&b.advice))
    });
    found
}

/// Whether a thing done by so many of the successes and of the failures makes advice (true), or at least a hint.
fn judge(advice: Advice, successes: (usize, usize), failures: (usize, usize)) -> Option<(Finding, bool)> {
    let share = |(n, of): (usize, usize)| n as f64 / of.max(1) as f64;
    let (s, f, z) = (share(successes), share(failures), log_odds_z(successes, failures));
    if z > 0.0 {
        let strong = successes.0 >= SUPPORT && s >= COMMON && f <= RARE && z >= Z;
        let weak = successes.0 >= SUPPORT && s - f >= HINT && z >= HINT_Z;
        return (strong || weak).then_some((Finding { advice, successes, failures, z }, strong));
    }
    // What failures do and successes leave; reading does no harm.
    let Advice::Do { mut calls } = advice else { return None };
    let call = calls.pop().filter(|c| calls.is_empty() && changes_something(c))?;
    let strong = failures.0 >= SUPPORT && f >= COMMON && s <= RARE && z <= -Z;
    let weak = failures.0 >= SUPPORT && f - s >= HINT && z <= -HINT_Z;
    let left = |(n, of): (usize, usize)| (of - n, of);
    let advice = Advice::Avoid { call };
    (strong || weak)
        .then_some((Finding { advice, successes: left(successes), failures: left(failures), z }, strong))
}

pub(super) fn changes_something(token: &str) -> bool {
    let (name, head) = token.split_once(' ').map_or((token, None), |(n, h)| (n, Some(h.to_owned())));
    Action { name: name.to_owned(), head, ..Action::default() }.changes_something()
}

/// z of the difference in log-odds between (doing, of all) in two groups, with the pooled rate as prior.
#[must_use]
pub(super) fn log_odds_z(a: (usize, usize), b: (usize, usize)) -> f64 {
    let rate = ((a.0 + b.0) as f64 + 0.5) / ((a.1 + b.1) as f64 + 1.0);
    let side = |(n, of): (usize, usize)| {
        let (yes, no) = (n as f64 + PRIOR * rate, (of - n) as f64 + PRIOR * (1.0 - rate));
        ((yes / no).ln(), 1.0 / yes + 1.0 / no)
    };
    let ((a, var_a), (b, var_b)) = (side(a), side(b));
    (a - b) / (var_a + var_b).sqrt()
}

/// The z that the best of `candidates` unrelated things reaches with a chance of about 1 in 20, and at least 2.
#[must_use]
pub(super) fn threshold(candidates: usize) -> f64 {
    let chance = 0.05 / candidates.max(1) as f64;
    // Upper bound of the normal distribution's upper tail, tight to a few per cent (Szarek and Werner 1999).
    let tail = |z: f64| {
        let density = (-z * z / 2.0).exp() / std::f64::consts::TAU.sqrt();
        4.0 * density / (3.0 * z + (z * z + 8.0).sqrt())
    };
    let (mut low, mut high) = (Z, 8.0);
    for _ in 0..40 {
        let middle = f64::midpoint(low, high);
        if tail(middle) > chance { low = middle } else { high = middle }
    }
    high
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_difference_counts_for_more_with_more_cases() {
        let (few, many) = (log_odds_z((4, 5), (1, 5)), log_odds_z((40, 50), (10, 50)));
        assert!(few > 0.5 && many > 5.0 && many > few, "{few} {many}");
        assert!(log_odds_z((5, 10), (5, 10)).abs() < 1e-9);
        assert!((log_odds_z((9, 10), (2, 10)) + log_odds_z((2, 10), (9, 10))).abs() < 1e-9);
    }

    #[test]
    fn more_candidates_need_more_evidence() {
        assert!(
            threshold(1) >= 2.0
                && threshold(1) < 2.01
                && threshold(1) < threshold(10)
                && threshold(10) < threshold(1000)
        );
        // Known quantiles: 0.05 / 10 and 0.05 / 1000, one-sided.
        assert!((threshold(10) - 2.576).abs() < 0.02 && (threshold(1000) - 3.891).abs() < 0.02);
    }
}
