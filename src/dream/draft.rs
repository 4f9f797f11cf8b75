//! Lessons for clusters, gated.

use std::collections::HashMap;

use super::case::Case;
use super::{answer, gate, mask, signature, title, wording};
use crate::model::{
    Cluster, ClusterState, Lesson, LessonId, LessonKind, LessonState, NightId, Scope, TrajectoryId,
};
use crate::skills::{skill_name, topic_name};

/// A lesson that a night would write.
#[derive(Clone, Debug)]
pub(super) struct Draft {
    pub lesson: Lesson,
    /// Whether it passed the gate.
    pub passed: bool,
    /// Whether it says something that the cluster's title does not.
    pub telling: bool,
}

/// What drafting works on.
pub(super) struct Ground<'a> {
    pub scope: &'a Scope,
    pub night: NightId,
    /// Oldest first.
    pub cases: &'a [Case],
    /// Embedding of each case's task, norm 1; same order.
    pub tasks: &'a [Vec<f32>],
    pub members: &'a HashMap<TrajectoryId, crate::model::ClusterId>,
}

#[derive(Default)]
pub(super) struct Drafts {
    pub drafts: Vec<Draft>,
    /// (text, reason).
    pub rejected: Vec<(String, String)>,
}

/// Failures of a cluster that are contrasted, the newest.
const MEMBERS: usize = 500;
/// Trajectories cited on each side.
pub(super) const CITED: usize = 8;

/// Drafts lessons for all open clusters, largest first.
pub(super) fn draft(ground: &Ground<'_>, clusters: &[Cluster], progress: &mut dyn FnMut(u64, u64)) -> Drafts {
    let mut out = Drafts::default();
    let mut open: Vec<&Cluster> = clusters
        .iter()
        .filter(|c| c.size > 0 && !matches!(c.state, ClusterState::Closed | ClusterState::Muted))
        .collect();
    open.sort_by_key(|c| (std::cmp::Reverse(c.size), c.id));
    let groups: Vec<Vec<usize>> = open
        .iter()
        .map(|c| {
            let mine = |i: &usize| ground.members.get(&ground.cases[*i].id) == Some(&c.id);
            let all: Vec<usize> = (0..ground.cases.len()).filter(mine).collect();
            all[all.len().saturating_sub(MEMBERS)..].to_vec()
        })
        .collect();
    let terms = title::terms(
        &groups.iter().map(|g| g.iter().map(|i| &ground.cases[*i]).collect()).collect::<Vec<_>>(),
    );
    for (i, (cluster, group)) in open.iter().zip(&groups).enumerate() {
        progress(i as u64, open.len() as u64);
        if !group.is_empty() {
            answer::of_cluster(ground, cluster, group, &terms[i], &mut out);
        }
    }
    corrections(ground, clusters, &mut out);
    progress(open.len() as u64, open.len() as u64);
    out
}

/// What users said, where two or more said the same.
fn corrections(ground: &Ground<'_>, clusters: &[Cluster], out: &mut Drafts) {
    struct Said<'a> {
        text: &'a str,
        words: Vec<String>,
        by: Vec<&'a Case>,
    }
    let mut all: Vec<Said<'_>> = Vec::new();
    for case in ground.cases.iter().filter(|c| c.failed) {
        for text in &case.corrections {
            let words = words(&mask::redact(text));
            match all.iter_mut().find(|s| overlap(&s.words, &words) >= 0.6) {
                Some(said) => said.by.push(case),
                None => all.push(Said { text, words, by: vec![case] }),
            }
        }
    }
    for said in all {
        let tools: Vec<_> = said.by.iter().map(|c| c.signature.tool.as_deref()).collect();
        let tool = tools.iter().all(|t| *t == tools[0]).then_some(tools[0]).flatten();
        let class = said.by[0].signature.class.as_str();
        let class = said.by.iter().all(|c| c.signature.class == class).then_some(class);
        let text = wording::correction(said.text, tool, class);
        let id = said.by.iter().find_map(|c| ground.members.get(&c.id)).copied();
        let evidence: Vec<_> = said.by.iter().rev().take(2 * CITED).map(|c| c.id).collect();
        let support = format!("Said on {} trajectories.", said.by.len());
        let cluster = id.and_then(|id| clusters.iter().find(|c| c.id == id));
        let file = file(tool, class.unwrap_or("user_correction"));
        out.put_in(ground, cluster, file, LessonKind::Correction, text, evidence, support, (true, true));
    }
}

/// Where lessons of a tool, or of failures without one, stand.
fn file(tool: Option<&str>, class: &str) -> String {
    if let Some(tool) = tool {
        return format!("skills/{}/SKILL.md", skill_name(tool));
    }
    let topic = match class {
        "truncation" => "cut-off answers",
        "refusal" => "refusals",
        "output_schema" => "answer format",
        "http_error" => "upstream errors",
        "user_correction" => "corrections",
        "abandonment" => "unfinished conversations",
        signature::UNEXPLAINED => "missing actions",
        other => other,
    };
    format!("memory/{}.md", topic_name(topic))
}

impl Drafts {
    #[expect(clippy::too_many_arguments, reason = "the parts of a lesson")]
    pub(super) fn put(
        &mut self,
        ground: &Ground<'_>,
        cluster: &Cluster,
        kind: LessonKind,
        text: String,
        evidence: Vec<TrajectoryId>,
        support: String,
        (passed, telling): (bool, bool),
    ) {
        let file = file(cluster.signature.tool.as_deref(), &cluster.signature.class);
        self.put_in(ground, Some(cluster), file, kind, text, evidence, support, (passed, telling));
    }

    #[expect(clippy::too_many_arguments, reason = "the parts of a lesson")]
    fn put_in(
        &mut self,
        ground: &Ground<'_>,
        cluster: Option<&Cluster>,
        file: String,
        kind: LessonKind,
        text: String,
        mut evidence: Vec<TrajectoryId>,
        support: String,
        (passed, telling): (bool, bool),
    ) {
        evidence.sort();
        evidence.dedup();
        if let Err(why) = gate::fit_to_print(&text, &evidence) {
            self.rejected.push((text, why));
            return;
        }
        // Several clusters of one tool may teach the same.
        let mine = words(&text);
        let twin = self
            .drafts
            .iter_mut()
            .find(|d| d.lesson.file == file && overlap(&words(&d.lesson.text), &mine) >= 0.85);
        if let Some(twin) = twin {
            if passed && !twin.passed {
                twin.passed = true;
                twin.lesson.support = support;
            }
            twin.lesson.evidence.extend(evidence);
            twin.lesson.evidence.sort();
            twin.lesson.evidence.dedup();
            return;
        }
        let subject = cluster.map_or_else(|| file.clone(), |c| c.id.to_string());
        self.drafts.push(Draft {
            lesson: Lesson {
                id: LessonId::of(&subject, &text),
                scope: ground.scope.of_app(),
                kind,
                state: if passed { LessonState::Active } else { LessonState::Watch },
                text,
                file,
                cluster: cluster.map(|c| c.id),
                evidence,
                support,
                night: ground.night,
            },
            passed,
            telling,
        });
    }
}

/// Sorted distinct words.
pub(super) fn words(text: &str) -> Vec<String> {
    let mut words: Vec<String> = text
        .split(|c: char| !c.is_alphanumeric() && c != '_')
        .filter(|w| !w.is_empty())
        .map(str::to_lowercase)
        .collect();
    words.sort();
    words.dedup();
    words
}

/// Jaccard similarity of two sorted word lists.
pub(super) fn overlap(a: &[String], b: &[String]) -> f64 {
    let both = a.iter().filter(|w| b.binary_search(w).is_ok()).count();
    both as f64 / (a.len() + b.len() - both).max(1) as f64
}
