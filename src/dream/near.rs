//! Runs with like tasks, to compare failures with.

use std::cmp::Ordering;
use std::collections::HashMap;

use super::case::Case;
use super::draft::Ground;
use super::features::distance;

/// Successes compared with a cluster, at most, and how many are taken near each failure.
pub(super) const CONTRAST: usize = 200;
const NEAR_EACH: usize = 5;

/// The successes (of `pool`, indices) with the likest tasks: a few near each failure.
pub(super) fn nearest_successes<'a>(ground: &Ground<'a>, group: &[usize], pool: &[usize]) -> Vec<&'a Case> {
    let successes: Vec<usize> = pool.iter().copied().filter(|i| !ground.cases[*i].failed).collect();
    let mut best: HashMap<usize, f64> = HashMap::new();
    // Evenly over time where the cluster is large.
    for f in group.iter().step_by(group.len().div_ceil(CONTRAST)) {
        let of = |s: &usize| (distance(&ground.tasks[*f], &ground.tasks[*s]), *s);
        let mut near: Vec<(f64, usize)> = successes.iter().map(of).collect();
        near.sort_by(by_distance);
        for (d, s) in near.into_iter().take(NEAR_EACH) {
            let known = best.entry(s).or_insert(d);
            *known = known.min(d);
        }
    }
    take(ground, best.into_iter().map(|(s, d)| (d, s)).collect(), CONTRAST)
}

/// The runs of `pool` that are wanted, those with tasks nearest to a centre.
pub(super) fn closest<'a>(
    ground: &Ground<'a>,
    centre: &[f32],
    pool: &[usize],
    wanted: impl Fn(&Case) -> bool,
    most: usize,
) -> Vec<&'a Case> {
    let wanted = pool.iter().copied().filter(|i| wanted(&ground.cases[*i]));
    take(ground, wanted.map(|i| (distance(centre, &ground.tasks[i]), i)).collect(), most)
}

fn take<'a>(ground: &Ground<'a>, mut near: Vec<(f64, usize)>, most: usize) -> Vec<&'a Case> {
    near.sort_by(by_distance);
    near.truncate(most);
    near.iter().map(|(_, i)| &ground.cases[*i]).collect()
}

fn by_distance(a: &(f64, usize), b: &(f64, usize)) -> Ordering {
    a.0.total_cmp(&b.0).then(a.1.cmp(&b.1))
}
