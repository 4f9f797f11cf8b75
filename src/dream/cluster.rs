//! Groups of near points, without naming how many or how near: the cut is the one that resampling confirms.

use std::collections::HashMap;

use kodama::{Method, linkage};

use super::features::distance;
use super::random::Random;

/// Points that the cut is chosen on; more would cost time and change little.
const SAMPLE: usize = 400;
const RESAMPLES: usize = 12;
/// Cuts that are tried, as quantiles of the heights at which groups merge: absolute distances would depend on the
/// embedder.
const CUTS: [f64; 14] = [0.30, 0.40, 0.50, 0.58, 0.65, 0.71, 0.76, 0.81, 0.85, 0.89, 0.92, 0.95, 0.97, 0.99];

/// The widest gaps between merges are tried besides.
const GAPS: usize = 6;

/// Groups of at least `smallest` rows (indices, ascending), largest first, and the cut's cosine distance. What belongs
/// to no group is left out.
#[must_use]
pub(super) fn groups(rows: &[Vec<f32>], smallest: usize) -> (Vec<Vec<usize>>, f64) {
    if rows.len() < smallest.max(2) {
        return (Vec::new(), 0.0);
    }
    let cut = choose_cut(rows, smallest);
    let labels = Tree::grow(condensed(rows), rows.len()).labels(cut);
    let mut groups: HashMap<usize, Vec<usize>> = HashMap::new();
    for (i, label) in labels.iter().enumerate() {
        groups.entry(*label).or_default().push(i);
    }
    let mut groups: Vec<_> = groups.into_values().filter(|g| g.len() >= smallest).collect();
    groups.sort_by_key(|g| (std::cmp::Reverse(g.len()), g[0]));
    (groups, cut)
}

/// Average linkage over condensed distances: which groups merge, and at what distance.
struct Tree {
    rows: usize,
    merges: Vec<(usize, usize, f64)>,
}

impl Tree {
    fn grow(mut distances: Vec<f64>, rows: usize) -> Self {
        let tree = linkage(&mut distances, rows, Method::Average);
        Self {
            rows,
            merges: tree.steps().iter().map(|s| (s.cluster1, s.cluster2, s.dissimilarity)).collect(),
        }
    }

    /// One label a row: equal labels are one group at this distance.
    fn labels(&self, cut: f64) -> Vec<usize> {
        let mut parent: Vec<usize> = (0..self.rows + self.merges.len()).collect();
        for (i, (a, b, height)) in self.merges.iter().enumerate() {
            if *height <= cut {
                parent[*a] = self.rows + i;
                parent[*b] = self.rows + i;
            }
        }
        let root = |mut i: usize| {
            while parent[i] != i {
                i = parent[i];
            }
            i
        };
        (0..self.rows).map(root).collect()
    }
}

/// The upper triangle of the distances, row by row.
fn condensed(rows: &[Vec<f32>]) -> Vec<f64> {
    let mut distances = Vec::with_capacity(rows.len() * rows.len().saturating_sub(1) / 2);
    for (i, a) in rows.iter().enumerate() {
        distances.extend(rows[i + 1..].iter().map(|b| distance(a, b)));
    }
    distances
}

/// The cut with the best product of stability under resampling (mean adjusted Rand index) and separation.
fn choose_cut(rows: &[Vec<f32>], smallest: usize) -> f64 {
    let mut random = Random::new(rows.len() as u64);
    let sample: Vec<Vec<f32>> =
        random.sample(rows.len(), rows.len().min(SAMPLE)).into_iter().map(|i| rows[i].clone()).collect();
    let n = sample.len();
    // In a sample a group has fewer members.
    let smallest = (smallest * n).div_ceil(rows.len()).max(2);
    let whole = condensed(&sample);
    let at = |i: usize, j: usize| {
        let (i, j) = if i < j { (i, j) } else { (j, i) };
        whole[i * n - i * (i + 1) / 2 + j - i - 1]
    };
    let tree = Tree::grow(whole.clone(), n);
    let mut heights: Vec<f64> = tree.merges.iter().map(|(_, _, height)| *height).collect();
    heights.sort_by(f64::total_cmp);
    // In the middle between two merges: at a merge itself, the next resample would fall on the other side.
    let between = |i: usize| f64::midpoint(heights[i], heights[i + 1]);
    let last = heights.len() - 1;
    let mut wide: Vec<usize> = (0..last).collect();
    wide.sort_by(|a, b| (heights[b + 1] - heights[*b]).total_cmp(&(heights[a + 1] - heights[*a])));
    let quantiles = CUTS.iter().map(|q| (last as f64 * q) as usize).filter(|i| *i < last);
    let mut cuts: Vec<f64> = quantiles.chain(wide.into_iter().take(GAPS)).map(between).collect();
    // All in one group is a possible answer, too.
    cuts.push(heights[last] * 1.05 + 1e-6);
    cuts.sort_by(f64::total_cmp);
    cuts.dedup_by(|a, b| (*a - *b).abs() < 1e-6);

    let resamples: Vec<Vec<usize>> = (0..RESAMPLES).map(|_| random.sample(n, (n * 4).div_ceil(5))).collect();
    let part = |kept: &[usize]| {
        let mut distances = Vec::with_capacity(kept.len() * kept.len() / 2);
        for (x, i) in kept.iter().enumerate() {
            distances.extend(kept[x + 1..].iter().map(|j| at(*i, *j)));
        }
        distances
    };
    let trees: Vec<Tree> = resamples.iter().map(|kept| Tree::grow(part(kept), kept.len())).collect();
    let score = |cut: f64| {
        let full = tree.labels(cut);
        let stable: f64 = resamples
            .iter()
            .zip(&trees)
            .map(|(kept, again)| {
                let again = again.labels(cut);
                let before: Vec<usize> = kept.iter().map(|i| full[*i]).collect();
                adjusted_rand(&before, &again)
            })
            .sum::<f64>()
            / RESAMPLES as f64;
        stable.max(0.0) * separation(&full, &at, smallest)
    };
    let best = cuts
        .into_iter()
        .map(|cut| (score(cut), cut))
        .max_by(|a, b| a.0.total_cmp(&b.0).then(b.1.total_cmp(&a.1)));
    best.map_or(0.0, |(_, cut)| cut)
}

/// How much nearer a row is to its own group than to the next, on average: a simplified silhouette (Rousseeuw 1987).
/// Rows in groups that are too small count 0, so that leaving rows over costs.
fn separation(labels: &[usize], at: &impl Fn(usize, usize) -> f64, smallest: usize) -> f64 {
    let n = labels.len();
    let mut members: HashMap<usize, Vec<usize>> = HashMap::new();
    for (i, l) in labels.iter().enumerate() {
        members.entry(*l).or_default().push(i);
    }
    let mut groups: Vec<_> = members.into_values().filter(|g| g.len() >= smallest).collect();
    groups.sort_unstable_by_key(|g| g[0]);
    // A few members stand for a group: the score is a mean of many.
    let few = |g: &[usize]| g.iter().copied().step_by(g.len().div_ceil(12)).collect::<Vec<_>>();
    let standing: Vec<Vec<usize>> = groups.iter().map(|g| few(g)).collect();
    let mean = |i: usize, group: &[usize]| {
        let others: Vec<f64> = group.iter().filter(|j| **j != i).map(|j| at(i, *j)).collect();
        if others.is_empty() { 0.0 } else { others.iter().sum::<f64>() / others.len() as f64 }
    };
    let mut sum = 0.0;
    for (g, group) in groups.iter().enumerate() {
        for i in &standing[g] {
            let within = mean(*i, &standing[g]);
            let others = standing.iter().enumerate().filter(|(o, _)| *o != g).map(|(_, s)| mean(*i, s));
            // With no other group, "elsewhere" is a row that has nothing in common.
            let next = others.fold(f64::INFINITY, f64::min).min(1.0);
            // And one group for all has to be twice as good as several.
            let doubt = if groups.len() == 1 { 0.5 } else { 1.0 };
            let silhouette = doubt * (next - within) / next.max(within).max(1e-9);
            sum += silhouette.max(0.0) * group.len() as f64 / standing[g].len() as f64;
        }
    }
    sum / n as f64
}

/// The adjusted Rand index (Hubert and Arabie 1985): 1 for equal partitions, about 0 for unrelated ones. Partitions
/// that say nothing (all alone) count 0.
#[must_use]
pub(super) fn adjusted_rand(a: &[usize], b: &[usize]) -> f64 {
    let pairs = |n: u64| (n * n.saturating_sub(1) / 2) as f64;
    let count = |labels: &mut dyn Iterator<Item = (usize, usize)>| {
        let mut counts: HashMap<(usize, usize), u64> = HashMap::new();
        labels.for_each(|l| *counts.entry(l).or_default() += 1);
        // Whole numbers: the sum does not depend on the map's order.
        counts.into_values().map(|n| n * n.saturating_sub(1) / 2).sum::<u64>() as f64
    };
    let both = count(&mut a.iter().copied().zip(b.iter().copied()));
    let first = count(&mut a.iter().map(|x| (*x, 0)));
    let second = count(&mut b.iter().map(|x| (*x, 0)));
    let all = pairs(a.len() as u64);
    if all == 0.0 || (first == 0.0 && second == 0.0) {
        return 0.0;
    }
    let expected = first * second / all;
    let most = f64::midpoint(first, second);
    if (most - expected).abs() < 1e-9 { 1.0 } else { (both - expected) / (most - expected) }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Noisy copies of a few directions.
    fn blobs(sizes: &[usize], noise: f32) -> (Vec<Vec<f32>>, Vec<usize>) {
        let mut random = Random::new(7);
        let mut rows = Vec::new();
        let mut truth = Vec::new();
        for (blob, size) in sizes.iter().enumerate() {
            for _ in 0..*size {
                let mut row: Vec<f32> =
                    (0..24).map(|_| (random.next() % 1000) as f32 / 1000.0 * noise).collect();
                row[blob] += 1.0;
                super::super::features::scale(&mut row, 1.0);
                rows.push(row);
                truth.push(blob);
            }
        }
        (rows, truth)
    }

    #[test]
    fn groups_that_are_there_are_found() {
        let (rows, truth) = blobs(&[30, 20, 10, 6], 0.15);
        let (groups, _) = groups(&rows, 3);
        assert_eq!(groups.iter().map(Vec::len).collect::<Vec<_>>(), [30, 20, 10, 6]);
        assert!(groups.iter().all(|g| g.iter().all(|i| truth[*i] == truth[g[0]])));
    }

    #[test]
    fn one_group_stays_one() {
        let (rows, _) = blobs(&[25], 0.1);
        assert_eq!(groups(&rows, 3).0, [(0..25).collect::<Vec<_>>()]);
    }

    #[test]
    fn too_few_make_no_group() {
        let (rows, _) = blobs(&[2], 0.1);
        assert!(groups(&rows, 3).0.is_empty());
    }
}
