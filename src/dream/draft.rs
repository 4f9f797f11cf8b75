//! Lessons for clusters, gated.

use std::cmp::Ordering;
use std::collections::{BTreeMap, HashMap};

use super::case::Case;
use super::contrast::{self, Advice, Finding};
use super::gate::{self, Trial};
use super::recovery::recovery;
use super::wording::{self, Facts};
use super::{features, mask, title};
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

/// Successes compared with a cluster, and how many are taken near each failure.
const CONTRAST: usize = 200;
const NEAR_EACH: usize = 5;
/// Failures of a cluster that are contrasted, the newest.
const MEMBERS: usize = 500;
/// Rules drafted for a cluster.
const RULES: usize = 2;
/// Trajectories cited on each side.
const CITED: usize = 8;

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
            of_cluster(ground, cluster, group, &terms[i], &mut out);
        }
    }
    corrections(ground, clusters, &mut out);
    progress(open.len() as u64, open.len() as u64);
    out
}

fn of_cluster(ground: &Ground<'_>, cluster: &Cluster, group: &[usize], terms: &[String], out: &mut Drafts) {
    let failures: Vec<&Case> = group.iter().map(|i| &ground.cases[*i]).collect();
    let centre = features::mean(group.iter().map(|i| &ground.tasks[*i]));
    let tool = cluster.signature.tool.as_deref();
    let near = nearest_successes(ground, group);
    let calls = |i: &usize| tool.is_some_and(|t| ground.cases[*i].actions.iter().any(|a| a.name == t));
    let with_tool = closest(ground, &centre, |i| !ground.cases[*i].failed && calls(i), CONTRAST);
    let like_failures = closest(ground, &centre, |i| ground.cases[*i].failed, near.len().max(failures.len()));
    let calling_failures = closest(ground, &centre, |i| ground.cases[*i].failed && calls(i), usize::MAX);

    let (found, candidates) = contrast::findings(&failures, &with_tool, &near, tool);
    // Made again from the older part, for the test on the later part.
    let cut = (failures.len() * 2).div_ceil(3);
    let until = (failures[cut - 1].ended, failures[cut - 1].id);
    let split = |cases: &[&'_ Case]| -> (Vec<usize>, Vec<usize>) {
        (0..cases.len()).partition(|i| (cases[*i].ended, cases[*i].id) <= until)
    };
    let ((near_old, near_new), (tool_old, tool_new)) = (split(&near), split(&with_tool));
    let (early, _) =
        contrast::findings(&failures[..cut], &sub(&with_tool, &tool_old), &sub(&near, &near_old), tool);
    let mut ruled = false;
    for finding in found.into_iter().take(RULES) {
        let on_tool = matches!(finding.advice, Advice::Before { .. } | Advice::With { .. });
        let later = if on_tool { sub(&with_tool, &tool_new) } else { sub(&near, &near_new) };
        let trial = if early.iter().any(|e| e.advice == finding.advice) {
            gate::leave_time_out(&finding.advice, &failures[cut..], &later)
        } else {
            Trial::Untested
        };
        let around: Vec<&Case> = if on_tool {
            with_tool.iter().chain(&calling_failures).copied().collect()
        } else {
            near.iter().chain(&like_failures).copied().collect()
        };
        let z = gate::association(&finding.advice, &around);
        let text = wording::rule(&finding.advice, &cluster.signature);
        if let Trial::Failed(why) = &trial {
            out.rejected.push((text, why.clone()));
            continue;
        }
        if z < 2.0 {
            out.rejected.push((text, format!("runs outside the cluster do not bear it out (z {z:.1})")));
            continue;
        }
        let passed = matches!(trial, Trial::Passed { .. }) && z >= contrast::threshold(candidates);
        ruled |= passed;
        let evidence = cite(&finding.advice, &failures, if on_tool { &with_tool } else { &near });
        let support = support(&finding, &trial, z);
        out.put(ground, cluster, LessonKind::Rule, text, evidence, support, passed);
    }
    pitfall(ground, cluster, &failures, terms, ruled, out);
}

fn sub<'a>(cases: &[&'a Case], at: &[usize]) -> Vec<&'a Case> {
    at.iter().map(|i| cases[*i]).collect()
}

fn support(finding: &Finding, trial: &Trial, z: f64) -> String {
    let ((s, s_of), (f, f_of)) = (finding.successes, finding.failures);
    let trial = match trial {
        Trial::Passed { coverage, false_fire } => format!(
            "made from the older part it was for {:.0} % of later failures and against {:.0} % of later successes",
            coverage * 100.0,
            false_fire * 100.0
        ),
        Trial::Untested | Trial::Failed(_) => "not yet tested on later cases".into(),
    };
    format!(
        "{s} of {s_of} successes and {f} of {f_of} failures went by it (z {:.1}; over all runs concerned z {z:.1}); {trial}.",
        finding.z.abs()
    )
}

/// Failures that went against it and successes that went by it, newest first.
fn cite(advice: &Advice, failures: &[&Case], successes: &[&Case]) -> Vec<TrajectoryId> {
    let mut newest: Vec<&&Case> =
        successes.iter().filter(|c| advice.concerns(c) && !advice.fires(c)).collect();
    newest.sort_by_key(|c| std::cmp::Reverse((c.ended, c.id)));
    let against = failures.iter().rev().filter(|c| advice.fires(c)).take(CITED);
    against.chain(newest.into_iter().take(CITED)).map(|c| c.id).collect()
}

fn pitfall(
    ground: &Ground<'_>,
    cluster: &Cluster,
    failures: &[&Case],
    terms: &[String],
    ruled: bool,
    out: &mut Drafts,
) {
    let signature = &cluster.signature;
    let mut facts = Facts { terms: terms.to_vec(), ..Facts::default() };
    let same: Vec<&&Case> = failures.iter().filter(|f| f.signature.text == signature.text).collect();
    let (tool, error) = (signature.tool.as_deref(), signature.text.as_str());
    let has_error = |c: &Case| {
        c.actions.iter().any(|a| Some(a.name.as_str()) == tool && a.error.as_deref() == Some(error))
    };
    let by_error = tool.is_some() && failures.iter().any(|f| has_error(f));
    if by_error {
        facts.after = usual_before(&same);
        let mut repeats: Vec<usize> = same.iter().map(|f| f.repeats()).collect();
        repeats.sort_unstable();
        facts.repeats = repeats.get(repeats.len() / 2).copied().unwrap_or(0);
        facts.recovery = recovery(ground.cases, tool.unwrap_or_default(), error);
    }
    // A rule says it better, unless runs are known that got over it.
    if ruled && facts.recovery.is_none() {
        return;
    }
    let Some(text) = wording::pitfall(signature, &facts) else { return };
    let shows = |c: &Case| {
        if by_error { has_error(c) } else { signature.class == "repeated_call" && c.repeats() >= 2 }
    };
    let calling = |c: &&Case| tool.is_none_or(|t| c.actions.iter().any(|a| a.name == t));
    let count = |failed: bool, wanted: bool| {
        ground.cases.iter().filter(calling).filter(|c| c.failed == failed && (!wanted || shows(c))).count()
    };
    let (bad, bad_of, good, good_of) =
        (count(true, true), count(true, false), count(false, true), count(false, false));
    let z = contrast::log_odds_z((bad, bad_of.max(bad)), (good, good_of.max(good)));
    // In the later third, too, it must be what these failures show, and runs that show it must mostly fail.
    let later = &failures[(failures.len() * 2).div_ceil(3)..];
    let seen_later = later.iter().filter(|c| shows(c)).count();
    let mostly_fails = bad as f64 >= 2.0 * good as f64 * (bad_of as f64 / good_of.max(1) as f64).min(1.0);
    let passed = later.len() >= 2
        && seen_later * 10 >= later.len() * 3
        && mostly_fails
        && z >= contrast::threshold(20);
    let mut evidence: Vec<TrajectoryId> = failures.iter().rev().take(CITED).map(|c| c.id).collect();
    let mut support = format!("{} failures in the cluster", failures.len());
    if by_error || signature.class == "repeated_call" {
        support += &format!(
            "; seen in {bad} of {bad_of} failures and {good} of {good_of} successes that call it (z {z:.1})"
        );
    }
    if let Some(r) = &facts.recovery {
        support += &format!(
            "; {} of {} successes that met it took the way out, {} of {} failures did",
            r.took, r.recovered, r.failed_took, r.failed
        );
        evidence.extend(r.evidence.iter().take(CITED));
    }
    out.put(ground, cluster, LessonKind::Pitfall, text, evidence, support + ".", passed);
}

/// The call right before the failing one, where it is the same in most cases.
fn usual_before(cases: &[&&Case]) -> Option<String> {
    let mut counts: BTreeMap<String, usize> = BTreeMap::new();
    for case in cases {
        let Some(at) = case.failing.filter(|at| *at > 0) else { continue };
        let before = &case.actions[at - 1];
        if before.name != case.actions[at].name {
            *counts.entry(contrast::token(before)).or_default() += 1;
        }
    }
    let (call, n) = counts.into_iter().max_by(|a, b| a.1.cmp(&b.1).then(b.0.cmp(&a.0)))?;
    (n >= 3 && n * 10 >= cases.len() * 6).then_some(call)
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
        let text = wording::correction(said.text, tool);
        let id = said.by.iter().find_map(|c| ground.members.get(&c.id)).copied();
        let evidence: Vec<_> = said.by.iter().rev().take(2 * CITED).map(|c| c.id).collect();
        let support = format!("Said on {} trajectories.", said.by.len());
        let cluster = id.and_then(|id| clusters.iter().find(|c| c.id == id));
        let file = tool
            .map_or_else(|| "memory/corrections.md".into(), |t| format!("skills/{}/SKILL.md", skill_name(t)));
        out.put_in(ground, cluster, file, LessonKind::Correction, text, evidence, support, true);
    }
}

impl Drafts {
    #[expect(clippy::too_many_arguments, reason = "the parts of a lesson")]
    fn put(
        &mut self,
        ground: &Ground<'_>,
        cluster: &Cluster,
        kind: LessonKind,
        text: String,
        evidence: Vec<TrajectoryId>,
        support: String,
        passed: bool,
    ) {
        let file = match &cluster.signature.tool {
            Some(tool) => format!("skills/{}/SKILL.md", skill_name(tool)),
            None => format!("memory/{}.md", topic_name(&cluster.signature.class)),
        };
        self.put_in(ground, Some(cluster), file, kind, text, evidence, support, passed);
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
        passed: bool,
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

/// The successes with the likest tasks: a few near each failure, [`CONTRAST`] at most.
fn nearest_successes<'a>(ground: &Ground<'a>, group: &[usize]) -> Vec<&'a Case> {
    let successes: Vec<usize> = (0..ground.cases.len()).filter(|i| !ground.cases[*i].failed).collect();
    let mut best: HashMap<usize, f64> = HashMap::new();
    // Evenly over time where the cluster is large.
    for f in group.iter().step_by(group.len().div_ceil(CONTRAST)) {
        let mut near: Vec<(f64, usize)> = successes
            .iter()
            .map(|s| (features::distance(&ground.tasks[*f], &ground.tasks[*s]), *s))
            .collect();
        near.sort_by(by_distance);
        for (d, s) in near.into_iter().take(NEAR_EACH) {
            let known = best.entry(s).or_insert(d);
            *known = known.min(d);
        }
    }
    let mut near: Vec<(f64, usize)> = best.into_iter().map(|(s, d)| (d, s)).collect();
    near.sort_by(by_distance);
    near.truncate(CONTRAST);
    near.iter().map(|(_, s)| &ground.cases[*s]).collect()
}

fn closest<'a>(
    ground: &Ground<'a>,
    centre: &[f32],
    wanted: impl Fn(&usize) -> bool,
    most: usize,
) -> Vec<&'a Case> {
    let wanted = (0..ground.cases.len()).filter(|i| wanted(i));
    let mut near: Vec<(f64, usize)> =
        wanted.map(|i| (features::distance(centre, &ground.tasks[i]), i)).collect();
    near.sort_by(by_distance);
    near.truncate(most);
    near.iter().map(|(_, i)| &ground.cases[*i]).collect()
}

fn by_distance(a: &(f64, usize), b: &(f64, usize)) -> Ordering {
    a.0.total_cmp(&b.0).then(a.1.cmp(&b.1))
}
