//! Tonight's drafts against the lessons of earlier nights: what is new, what changes, what goes.

use std::collections::{HashMap, HashSet};

use super::draft::{Draft, overlap, words};
use crate::model::{Cluster, ClusterId, ClusterState, Lesson, LessonId, LessonKind, LessonState};

/// Of the lines that stand, at most this share goes in one night: a bad night must not empty the files.
const LOSS: f64 = 0.25;

/// What earlier nights and the owner left.
pub(super) struct Past<'a> {
    pub lessons: &'a [Lesson],
    pub passed: &'a HashSet<LessonId>,
    /// Changed or taken out by the owner.
    pub held: &'a HashSet<LessonId>,
}

/// Lessons to be kept with whether they passed, and how many of them are new.
pub(super) fn settle(
    past: &Past<'_>,
    drafts: Vec<Draft>,
    clusters: &[Cluster],
    most_new: usize,
    accept: bool,
) -> (Vec<(Lesson, bool)>, u64) {
    let known: HashMap<&LessonId, &Lesson> = past.lessons.iter().map(|l| (&l.id, l)).collect();
    let standing = past.lessons.iter().filter(|l| l.state != LessonState::Retired).count();
    let state = |passed: bool| if passed && accept { LessonState::Active } else { LessonState::Watch };
    // What the owner accepted stays accepted while it passes.
    let again = |passed: bool, old: &Lesson| match old.state {
        LessonState::Active if passed => LessonState::Active,
        _ => state(passed),
    };
    let mut kept: Vec<(Lesson, bool)> = Vec::new();
    let mut fresh: Vec<Draft> = Vec::new();
    for draft in drafts {
        if past.held.contains(&draft.lesson.id) {
            continue;
        }
        match known.get(&draft.lesson.id).copied().or_else(|| same_line(&draft.lesson, past)) {
            // Its words stay, so that the line stays the same line.
            Some(old) if old.id != draft.lesson.id => kept.push((
                Lesson {
                    state: again(draft.passed, old),
                    evidence: draft.lesson.evidence,
                    support: draft.lesson.support,
                    ..old.clone()
                },
                draft.passed,
            )),
            Some(old) => kept.push((
                Lesson { state: again(draft.passed, old), night: old.night, ..draft.lesson },
                draft.passed,
            )),
            None if says_again(&draft.lesson, past) => {}
            None => fresh.push(draft),
        }
    }
    fresh = best_of_each(fresh);
    fresh.truncate(most_new);
    let new = fresh.len() as u64;
    kept.extend(fresh.into_iter().map(|d| (Lesson { state: state(d.passed), ..d.lesson }, d.passed)));

    let tonight: HashSet<LessonId> = kept.iter().map(|(l, _)| l.id.clone()).collect();
    let replaced: HashSet<(Option<ClusterId>, LessonKind)> = kept
        .iter()
        .filter(|(l, _)| l.kind != LessonKind::Correction)
        .map(|(l, _)| (l.cluster, l.kind))
        .collect();
    let gone = |l: &Lesson| {
        let cluster = l.cluster.and_then(|id| clusters.iter().find(|c| c.id == id));
        l.kind != LessonKind::Correction
            && cluster
                .is_none_or(|c| matches!(c.state, ClusterState::Closed | ClusterState::Muted) || c.size == 0)
    };
    let mut leaving: Vec<&Lesson> = past
        .lessons
        .iter()
        .filter(|l| l.state != LessonState::Retired && !tonight.contains(&l.id) && !past.held.contains(&l.id))
        .filter(|l| gone(l) || replaced.contains(&(l.cluster, l.kind)))
        .collect();
    // The least supported leave first; the rest wait for another night.
    leaving.sort_by_key(|l| (l.state == LessonState::Active, l.evidence.len(), l.id.clone()));
    leaving.truncate(((standing as f64 * LOSS) as usize).max(1));
    kept.extend(
        leaving
            .into_iter()
            .map(|l| (Lesson { state: LessonState::Retired, ..l.clone() }, past.passed.contains(&l.id))),
    );
    (kept, new)
}

/// The best draft of every cluster first, then every cluster's second: a night's limit must not silence a cluster for
/// the third line of another. Within a round, what passed, then what tells something; drafts come by size of their
/// cluster.
fn best_of_each(mut drafts: Vec<Draft>) -> Vec<Draft> {
    drafts.sort_by_key(|d| (!d.passed, !d.telling));
    let mut rounds: HashMap<Option<ClusterId>, usize> = HashMap::new();
    let mut ranked: Vec<(usize, Draft)> = drafts
        .into_iter()
        .map(|d| {
            let round = rounds.entry(d.lesson.cluster).or_default();
            *round += 1;
            (*round, d)
        })
        .collect();
    ranked.sort_by_key(|(round, _)| *round);
    ranked.into_iter().map(|(_, d)| d).collect()
}

/// The standing line of the same cluster about the same: a pitfall's call and error, a rule's calls. The rest of such a
/// line (words about its tasks, hints) would change from night to night.
fn same_line<'a>(lesson: &Lesson, past: &Past<'a>) -> Option<&'a Lesson> {
    if lesson.kind == LessonKind::Correction {
        return None;
    }
    let same =
        |l: &&Lesson| l.kind == lesson.kind && l.cluster == lesson.cluster && subject(l) == subject(lesson);
    let standing = |l: &&Lesson| l.state != LessonState::Retired && !past.held.contains(&l.id);
    past.lessons.iter().filter(standing).find(same)
}

/// What a line is about: of a pitfall the call, and its error where it names one; of a rule all calls that it names.
fn subject(lesson: &Lesson) -> (bool, Vec<&str>) {
    let text = lesson.text.as_str();
    let named = match lesson.kind {
        LessonKind::Pitfall if text.contains("` can fail with `") => 2,
        LessonKind::Pitfall => 1,
        LessonKind::Rule | LessonKind::Correction => usize::MAX,
    };
    // To do it, or to leave it.
    (text.contains("o without `"), text.split('`').skip(1).step_by(2).take(named).collect())
}

/// Nearly the words of a lesson in the same file that the owner decided on: their decision stands for this one too.
fn says_again(lesson: &Lesson, past: &Past<'_>) -> bool {
    let mine = words(&lesson.text);
    past.lessons
        .iter()
        .filter(|l| past.held.contains(&l.id) && l.file == lesson.file)
        .any(|l| overlap(&words(&l.text), &mine) >= 0.85)
}
