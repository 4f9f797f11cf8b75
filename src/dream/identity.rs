//! Which cluster is which: failures find the clusters of earlier nights, new groups are told from old ones.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use pathfinding::prelude::{Matrix, kuhn_munkres};
use sha2::{Digest, Sha256};

use super::case::Case;
use super::cluster::groups;
use super::features::{distance, mean};
use super::title;
use crate::model::{Cluster, ClusterId, ClusterState, Micros, Scope, Signature, TrajectoryId};

/// What earlier nights know.
pub(super) struct Known {
    pub clusters: Vec<Cluster>,
    /// Clusters whose centroid is of tonight's feature space.
    pub comparable: HashSet<ClusterId>,
    pub membership: HashMap<TrajectoryId, ClusterId>,
}

/// Where everything is after a night.
pub(super) struct Placement {
    pub clusters: Vec<Cluster>,
    pub members: Vec<(TrajectoryId, ClusterId)>,
    pub assigned: u64,
    pub new: u64,
    pub unclustered: u64,
}

/// A failure joins a cluster only if the second nearest is this much farther than the nearest.
const MARGIN: f64 = 1.1;
/// Share of failures in no cluster from which all are grouped anew: the old groups do not describe them any more.
const REGROUP: f64 = 0.3;
/// Agreement from which a group is the cluster of an earlier night.
const SAME: f64 = 0.6;
const EXEMPLARS: usize = 5;
/// A cluster is closed after this long without a member, in spite of …
const QUIET: Duration = Duration::from_secs(14 * 24 * 3600);
/// … this many trajectories since its last.
const EXPOSURE: usize = 30;
/// New members that reopen a closed cluster.
const REOPEN: usize = 2;

/// Places failures (`failures[i]` is at `rows[i]`) of a scope.
pub(super) fn place(
    failures: &[&Case],
    rows: &[Vec<f32>],
    known: &Known,
    smallest: usize,
    scope: &Scope,
    now: Micros,
    all: &[Case],
) -> Placement {
    let index: HashMap<ClusterId, usize> =
        known.clusters.iter().enumerate().map(|(i, c)| (c.id, i)).collect();
    // Which known cluster each failure is in.
    let mut home: Vec<Option<usize>> = failures
        .iter()
        .map(|f| {
            known
                .membership
                .get(&f.id)
                .filter(|c| known.comparable.contains(c))
                .and_then(|c| index.get(c).copied())
        })
        .collect();
    let before = home.clone();
    for (i, case) in failures.iter().enumerate() {
        if home[i].is_none() {
            home[i] = nearest(case, &rows[i], known);
        }
    }
    let left: Vec<usize> = (0..failures.len()).filter(|i| home[*i].is_none()).collect();
    let again = known.clusters.iter().any(|c| c.size > 0 && !known.comparable.contains(&c.id))
        || (left.len() >= smallest && left.len() as f64 >= REGROUP * failures.len() as f64);
    let subjects: Vec<usize> = if again { (0..failures.len()).collect() } else { left };
    if again {
        home.iter_mut().for_each(|h| *h = None);
    }

    let picked: Vec<Vec<f32>> = subjects.iter().map(|i| rows[*i].clone()).collect();
    let (found, cut) = groups(&picked, smallest);
    let found: Vec<Vec<usize>> =
        found.into_iter().map(|g| g.into_iter().map(|i| subjects[i]).collect()).collect();
    let identities = identify(&found, failures, rows, known);
    let mut clusters = known.clusters.clone();
    let mut new = 0;
    for (group, identity) in found.iter().zip(identities) {
        let at = identity.unwrap_or_else(|| {
            new += 1;
            clusters.push(blank(group, failures, scope, now));
            clusters.len() - 1
        });
        group.iter().for_each(|i| home[*i] = Some(at));
    }
    refresh_all(&mut clusters, &home, failures, rows, cut, all, &before, now);

    let placed = |i: usize| home[i].map(|h| (failures[i].id, clusters[h].id));
    let members: Vec<_> = (0..failures.len()).filter_map(placed).collect();
    let fresh = |i: &usize| home[*i].is_some_and(|h| h < known.clusters.len()) && before[*i].is_none();
    let assigned = (0..failures.len()).filter(|i| fresh(i)).count() as u64;
    let unclustered = (failures.len() - members.len()) as u64;
    Placement { clusters, members, assigned, new, unclustered }
}

/// Same masked signature: by definition the same failure. An empty text says too little for that.
fn alike(a: &Signature, b: &Signature) -> bool {
    !a.text.is_empty() && a.text == b.text && a.class == b.class && a.tool == b.tool
}

fn nearest(case: &Case, row: &[f32], known: &Known) -> Option<usize> {
    let mut near: Vec<(f64, usize)> = known
        .clusters
        .iter()
        .enumerate()
        .filter(|(_, c)| known.comparable.contains(&c.id) && c.size > 0)
        .map(|(i, c)| (distance(row, &c.centroid), i))
        .collect();
    near.sort_by(|a, b| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1)));
    if let Some((_, i)) = near.iter().find(|(_, i)| alike(&known.clusters[*i].signature, &case.signature)) {
        return Some(*i);
    }
    let (d, i) = *near.first()?;
    let clear = near.get(1).is_none_or(|(second, _)| *second >= MARGIN * d);
    (d <= known.clusters[i].radius && clear).then_some(i)
}

/// For each group the known cluster that it is, if any: the best one-to-one match (Kuhn 1955) on half the cosine of
/// centres and half shared members. Where a group swallowed several clusters, the oldest id survives.
fn identify(
    groups: &[Vec<usize>],
    failures: &[&Case],
    rows: &[Vec<f32>],
    known: &Known,
) -> Vec<Option<usize>> {
    if groups.is_empty() || known.clusters.is_empty() {
        return vec![None; groups.len()];
    }
    let mut old_size: HashMap<ClusterId, usize> = HashMap::new();
    failures
        .iter()
        .filter_map(|f| known.membership.get(&f.id))
        .for_each(|c| *old_size.entry(*c).or_default() += 1);
    let shared = |group: &[usize], cluster: &Cluster| {
        let inside =
            group.iter().filter(|i| known.membership.get(&failures[**i].id) == Some(&cluster.id)).count();
        inside as f64 / (*old_size.get(&cluster.id).unwrap_or(&0)).max(1) as f64
    };
    let score = |group: &[usize], cluster: &Cluster| {
        let shared = shared(group, cluster);
        let same = if alike(&modal(group, failures), &cluster.signature) { 1.0 } else { 0.0 };
        if !known.comparable.contains(&cluster.id) {
            return f64::midpoint(shared, shared.max(same));
        }
        let near = 1.0 - distance(&mean(group.iter().map(|i| &rows[*i])), &cluster.centroid);
        0.5 * near + 0.5 * shared.max(same)
    };
    let scores: Vec<Vec<f64>> =
        groups.iter().map(|g| known.clusters.iter().map(|c| score(g, c)).collect()).collect();
    // One column more a group, worth nothing: no group must match.
    let weights = scores.iter().map(|row| {
        let worth = row.iter().map(|s| if *s >= SAME { (s * 1e6) as i64 } else { 0 });
        worth.chain(std::iter::repeat_n(0, groups.len())).collect::<Vec<_>>()
    });
    let weights = Matrix::from_rows(weights).expect("rows are equally long");
    let (_, matched) = kuhn_munkres(&weights);
    let mut matched: Vec<Option<usize>> = matched
        .iter()
        .zip(&scores)
        .map(|(column, row)| row.get(*column).filter(|s| **s >= SAME).map(|_| *column))
        .collect();
    for g in 0..groups.len() {
        let swallowed = (0..known.clusters.len())
            .filter(|c| !matched.contains(&Some(*c)) && shared(&groups[g], &known.clusters[*c]) > 0.5);
        let oldest =
            swallowed.chain(matched[g]).min_by_key(|c| (known.clusters[*c].born, known.clusters[*c].id));
        matched[g] = oldest;
    }
    matched
}

/// The signature that most of a group have; the earliest wins a tie.
fn modal(group: &[usize], failures: &[&Case]) -> Signature {
    let mut counts: Vec<(&Signature, usize)> = Vec::new();
    for i in group {
        let signature = &failures[*i].signature;
        match counts.iter_mut().find(|(s, _)| *s == signature) {
            Some((_, n)) => *n += 1,
            None => counts.push((signature, 1)),
        }
    }
    counts.iter().rev().max_by_key(|(_, n)| *n).map(|(s, _)| (*s).clone()).unwrap_or_default()
}

/// A cluster with an id that the same night gives again: a UUIDv7 of its time and its first members.
fn blank(group: &[usize], failures: &[&Case], scope: &Scope, now: Micros) -> Cluster {
    let mut hash = Sha256::new().chain_update(&scope.tenant).chain_update([0]).chain_update(&scope.app);
    group.iter().for_each(|i| hash.update(failures[*i].id.as_bytes()));
    let mut bytes: [u8; 16] = hash.finalize()[..16].try_into().expect("a digest has 32 bytes");
    bytes[..6].copy_from_slice(&(now.0 / 1000).to_be_bytes()[2..]);
    bytes[6] = bytes[6] & 0x0f | 0x70;
    bytes[8] = bytes[8] & 0x3f | 0x80;
    Cluster {
        id: ClusterId::from_bytes(bytes),
        scope: scope.of_app(),
        title: String::new(),
        signature: Signature::default(),
        state: ClusterState::Open,
        size: 0,
        exemplars: Vec::new(),
        centroid: Vec::new(),
        radius: 0.0,
        born: now,
        last_seen: Micros(0),
    }
}

#[expect(clippy::too_many_arguments, reason = "one call, all of it local to the night")]
fn refresh_all(
    clusters: &mut [Cluster],
    home: &[Option<usize>],
    failures: &[&Case],
    rows: &[Vec<f32>],
    cut: f64,
    all: &[Case],
    before: &[Option<usize>],
    now: Micros,
) {
    let members: Vec<Vec<usize>> =
        (0..clusters.len()).map(|c| (0..home.len()).filter(|i| home[*i] == Some(c)).collect()).collect();
    for (c, (cluster, members)) in clusters.iter_mut().zip(&members).enumerate() {
        cluster.size = u32::try_from(members.len()).unwrap_or(u32::MAX);
        if members.is_empty() {
            if cluster.state != ClusterState::Muted {
                cluster.state = ClusterState::Closed;
            }
            cluster.exemplars.clear();
            continue;
        }
        cluster.centroid = mean(members.iter().map(|i| &rows[*i]));
        let mut far: Vec<(f64, usize)> =
            members.iter().map(|i| (distance(&rows[*i], &cluster.centroid), *i)).collect();
        far.sort_by(|a, b| a.0.total_cmp(&b.0).then(failures[a.1].id.cmp(&failures[b.1].id)));
        let within = far[(far.len() * 9).div_ceil(10) - 1].0;
        // Members that are all equal would let nobody else in: at least half of the distance that made the group, or
        // most of what it was.
        cluster.radius = within.max(cut / 2.0).max(cluster.radius * 0.8);
        cluster.exemplars = far.iter().take(EXEMPLARS).map(|(_, i)| failures[*i].id).collect();
        cluster.signature = modal(members, failures);
        let seen = members.iter().map(|i| failures[*i].ended).max().unwrap_or(cluster.last_seen);
        let came = members.iter().filter(|i| before[**i] != Some(c)).count();
        cluster.state = match cluster.state {
            ClusterState::Muted => ClusterState::Muted,
            ClusterState::Closed if came >= REOPEN => ClusterState::Reopened,
            ClusterState::Closed => ClusterState::Closed,
            open => {
                let since = all.iter().filter(|t| t.ended > seen).count();
                // One that was found tonight in old traffic is news all the same.
                let known = cluster.born < now;
                if known && seen.until(now) >= QUIET && since >= EXPOSURE {
                    ClusterState::Closed
                } else {
                    open
                }
            }
        };
        cluster.last_seen = seen;
    }
    let groups: Vec<Vec<&Case>> = members.iter().map(|m| m.iter().map(|i| failures[*i]).collect()).collect();
    let terms = title::terms(&groups);
    let mut used: HashMap<String, usize> = HashMap::new();
    for (cluster, terms) in clusters.iter_mut().zip(&terms).filter(|(c, _)| c.size > 0) {
        cluster.title = title::title(&cluster.signature, terms);
        *used.entry(cluster.title.clone()).or_default() += 1;
    }
    // Twice the same title: what the tasks are about tells them apart.
    for (cluster, terms) in clusters.iter_mut().zip(&terms).filter(|(c, _)| c.size > 0) {
        if used[&cluster.title] > 1 && !terms.is_empty() && !cluster.title.contains(&terms.join(", ")) {
            cluster.title = format!("{} ({})", cluster.title, terms.join(", "));
        }
    }
}
