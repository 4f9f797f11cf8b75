//! What a night says of itself: in the diary and in its commit.

use super::{gate, title};
use crate::model::{Cluster, Lesson, LessonState, Night, Signature, TrajectoryId};

/// What the diary says beyond the counts: titles and lessons that passed, nothing that the gate refused.
pub(super) fn diary(night: &Night, lessons: &[Lesson], clusters: &[Cluster]) -> Vec<String> {
    let mine = lessons.iter().filter(|l| l.night == night.id && l.state != LessonState::Retired);
    let new = clusters.iter().filter(|c| c.born == night.started && c.size > 0);
    new.map(|c| format!("New cluster of {}: {} ({})", c.size, c.title, c.id))
        .chain(mine.map(|l| format!("New {} in `{}`: {}", name(l), l.file, l.text)))
        .take(40)
        .collect()
}

fn name(lesson: &Lesson) -> String {
    match lesson.state {
        LessonState::Active => lesson.kind.to_string(),
        state => format!("{} ({state})", lesson.kind),
    }
}

/// A cluster's title as it may stand in files. It comes from masked traces: what the gate would refuse in a lesson
/// gives way to a title without the error's text.
pub(super) fn printable(cluster: &Cluster) -> String {
    let nobody = [TrajectoryId::from_bytes([0; 16]), TrajectoryId::from_bytes([1; 16])];
    if gate::fit_to_print(&cluster.title, &nobody).is_ok() {
        return cluster.title.clone();
    }
    title::title(&Signature { text: String::new(), ..cluster.signature.clone() }, &[])
}

/// The commit's message: which clusters, how much evidence, what the gate said.
pub(super) fn message(night: &Night, lessons: &[Lesson], clusters: &[Cluster]) -> String {
    let r = &night.report;
    let mut out = format!(
        "Night of {}: {} new lessons, {} in all\n\n{} failures in {} clusters, {} successes; the gate refused {}.\n",
        night.started.day(),
        r.lessons_new,
        r.lessons_total,
        r.failures,
        r.clusters_total,
        r.successes,
        r.rejected.len()
    );
    for lesson in lessons.iter().filter(|l| l.night == night.id && l.state != LessonState::Retired) {
        let cluster = lesson.cluster.and_then(|id| clusters.iter().find(|c| c.id == id));
        let cluster = cluster.map(|c| format!(", {} of {}", c.id, c.size)).unwrap_or_default();
        out += &format!(
            "\n{} {} from {} trajectories{cluster}: {}",
            lesson.id,
            name(lesson),
            lesson.evidence.len(),
            lesson.support
        );
    }
    out
}
