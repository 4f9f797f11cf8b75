//! What a cluster teaches: rules that its failures break and successes keep, or at least what goes wrong.

use std::collections::BTreeMap;

use super::case::Case;
use super::contrast::{Advice, Finding, changes_something, contrast, log_odds_z, threshold, token};
use super::draft::{CITED, Drafts, Ground};
use super::features;
use super::gate::{Trial, association, leave_time_out};
use super::near::{CONTRAST, closest, nearest_successes};
use super::recovery::recovery;
use super::wording::{self, Facts};
use crate::model::{Cluster, LessonKind, Signature, TrajectoryId};

/// Rules drafted for a cluster.
const RULES: usize = 2;
/// From so many successes that call the failing tool, only those are compared with.
const ENOUGH: usize = 5;
/// Steps after an error that a recovery is the best of: for the bar that it must pass.
const STEPS: usize = 10;

/// The runs that a cluster is compared with: of the same agent only.
struct Field<'a> {
    failures: Vec<&'a Case>,
    /// Successes and failures of all clusters that call the failing tool.
    with_tool: Vec<&'a Case>,
    failed_with_tool: Vec<&'a Case>,
    /// The same by likeness of the task.
    near: Vec<&'a Case>,
    failed_near: Vec<&'a Case>,
    signature: &'a Signature,
}

impl<'a> Field<'a> {
    fn of(ground: &Ground<'a>, cluster: &'a Cluster, group: &[usize]) -> Self {
        let failures: Vec<&Case> = group.iter().map(|i| &ground.cases[*i]).collect();
        let family = usual_family(&failures);
        let pool: Vec<usize> =
            (0..ground.cases.len()).filter(|i| ground.cases[*i].family == family).collect();
        let centre = features::mean(group.iter().map(|i| &ground.tasks[*i]));
        let tool = cluster.signature.tool.as_deref();
        let calls = |c: &Case| tool.is_some_and(|t| c.actions.iter().any(|a| a.name == t));
        let with_tool = closest(ground, &centre, &pool, |c| !c.failed && calls(c), CONTRAST);
        let failed_with_tool = closest(ground, &centre, &pool, |c| c.failed && calls(c), usize::MAX);
        let (near, failed_near) = if with_tool.len() >= ENOUGH {
            (with_tool.clone(), failed_with_tool.clone())
        } else {
            let near = nearest_successes(ground, group, &pool);
            let most = near.len().max(failures.len());
            (near, closest(ground, &centre, &pool, |c| c.failed, most))
        };
        Self { failures, with_tool, failed_with_tool, near, failed_near, signature: &cluster.signature }
    }

    /// All findings of this field, or of its part up to a moment, and how many candidates there were.
    fn look(&self, part: impl Fn(&Case) -> bool) -> (Vec<Finding>, Option<Finding>, usize) {
        let of = |cases: &[&'a Case]| cases.iter().copied().filter(|c| part(c)).collect::<Vec<_>>();
        let (failures, with_tool, near) = (of(&self.failures), of(&self.with_tool), of(&self.near));
        let tool = self.signature.tool.as_deref();
        let found = contrast(&failures, &with_tool, &near, tool);
        let (mut findings, mut candidates) = (found.findings, found.candidates);
        if let (Some(tool), false) = (tool, self.signature.text.is_empty()) {
            let mut met = with_tool;
            met.extend(of(&self.failed_with_tool));
            let error = &self.signature.text;
            candidates += STEPS;
            if let Some(r) = recovery(&met, tool, error) {
                let advice = Advice::After { tool: tool.to_owned(), error: error.clone(), next: r.next };
                let z = log_odds_z(r.successes, r.failures);
                findings.insert(0, Finding { advice, successes: r.successes, failures: r.failures, z });
            }
        }
        (findings, found.hint, candidates)
    }

    /// Successes and failures that an advice is judged on.
    fn sides(&self, advice: &Advice) -> (&[&'a Case], &[&'a Case]) {
        match advice {
            Advice::Do { .. } | Advice::Avoid { .. } => (&self.near, &self.failed_near),
            _ => (&self.with_tool, &self.failed_with_tool),
        }
    }
}

fn usual_family(cases: &[&Case]) -> u64 {
    let mut counts: BTreeMap<u64, usize> = BTreeMap::new();
    cases.iter().for_each(|c| *counts.entry(c.family).or_default() += 1);
    counts.into_iter().max_by_key(|(_, n)| *n).map_or(0, |(f, _)| f)
}

/// Drafts what a cluster teaches; `group` are its failures as indices into the ground's cases, oldest first.
pub(super) fn of_cluster(
    ground: &Ground<'_>,
    cluster: &Cluster,
    group: &[usize],
    terms: &[String],
    out: &mut Drafts,
) {
    let field = Field::of(ground, cluster, group);
    let (found, hint, candidates) = field.look(|_| true);
    // Made again from the older part, for the test on the later part.
    let cut = (field.failures.len() * 2).div_ceil(3);
    let last = field.failures[cut - 1];
    let early = |c: &Case| (c.ended, c.id) <= (last.ended, last.id);
    let (found_early, ..) = field.look(early);
    let (mut ruled, bar) = (false, threshold(candidates));
    let mut facts = Facts {
        terms: terms.to_vec(),
        hint: hint.map(|h| h.advice),
        elsewhere: field.with_tool.is_empty(),
        ..Facts::default()
    };
    // Rules that are only to be watched.
    let mut unproven = Vec::new();
    for finding in found.into_iter().take(RULES) {
        let (successes, failures) = field.sides(&finding.advice);
        let later: Vec<&Case> = successes.iter().copied().filter(|c| !early(c)).collect();
        let trial = if found_early.iter().any(|e| e.advice == finding.advice) {
            leave_time_out(&finding.advice, &field.failures[cut..], &later)
        } else {
            Trial::Untested
        };
        let around: Vec<&Case> = successes.iter().chain(failures).copied().collect();
        let z = association(&finding.advice, &around);
        let text = wording::rule(&finding.advice, &cluster.signature, &facts);
        // Strong over all but not in the later part: worth watching, no more.
        let refused = match &trial {
            _ if z < 2.0 => Some(format!("runs outside the cluster do not bear it out (z {z:.1})")),
            Trial::Failed(why) if z < bar => Some(why.clone()),
            _ => None,
        };
        if let Some(why) = refused {
            out.rejected.push((text, why));
            continue;
        }
        let passed = matches!(trial, Trial::Passed { .. }) && z >= bar;
        ruled |= passed || matches!(finding.advice, Advice::After { .. });
        let evidence = cite(&finding.advice, &field.failures, successes);
        let support = support(&finding, &trial, z);
        if passed || ruled {
            out.put(ground, cluster, LessonKind::Rule, text, evidence, support, (passed, true));
        } else {
            unproven.push((finding.advice, text, evidence, support));
        }
    }
    if !ruled {
        if let Some((advice, ..)) = unproven.first() {
            (facts.hint, facts.clear) = (Some(advice.clone()), true);
        }
        // What a pitfall that passed says with it need not be said again.
        match pitfall(ground, cluster, &field, facts, unproven.is_empty(), out) {
            Said::WithHint if !unproven.is_empty() => drop(unproven.remove(0)),
            _ => {}
        }
    }
    for (_, text, evidence, support) in unproven {
        out.put(ground, cluster, LessonKind::Rule, text, evidence, support, (false, true));
    }
}

fn support(finding: &Finding, trial: &Trial, z: f64) -> String {
    let ((s, s_of), (f, f_of)) = (finding.successes, finding.failures);
    let trial = match trial {
        Trial::Passed { coverage, false_fire } => format!(
            "made from the older part it was for {:.0} % of later failures and against {:.0} % of later successes",
            coverage * 100.0,
            false_fire * 100.0
        ),
        Trial::Untested => "not yet tested on later cases".into(),
        Trial::Failed(why) => why.clone(),
    };
    format!(
        "{s} of {s_of} successes and {f} of {f_of} failures went by it (z {z:.1} over all runs concerned); {trial}."
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

/// Whether a pitfall was drafted that passed and carries its hint.
#[derive(PartialEq)]
enum Said {
    WithHint,
    No,
}

/// What goes wrong, where no rule says it better; `alone` where there is no rule to watch, either.
fn pitfall(
    ground: &Ground<'_>,
    cluster: &Cluster,
    field: &Field<'_>,
    mut facts: Facts,
    alone: bool,
    out: &mut Drafts,
) -> Said {
    let (signature, failures) = (&cluster.signature, &field.failures);
    let (tool, error) = (signature.tool.as_deref(), signature.text.as_str());
    let has_error = |c: &Case| {
        c.actions.iter().any(|a| Some(a.name.as_str()) == tool && a.error.as_deref() == Some(error))
    };
    let by_error = tool.is_some() && failures.iter().any(|f| has_error(f));
    let repeating = signature.class == "repeated_call";
    if by_error {
        let same: Vec<&Case> =
            failures.iter().copied().filter(|f| f.signature.text == signature.text).collect();
        facts.after = usual_before(&same);
        let mut repeats: Vec<usize> = same.iter().map(|f| f.repeats()).collect();
        repeats.sort_unstable();
        facts.repeats = repeats.get(repeats.len() / 2).copied().unwrap_or(0);
    }
    if by_error && matches!(facts.hint, Some(Advice::Avoid { .. })) {
        // What else was called says little about an error.
        facts.hint = None;
    }
    // What runs do once they are over an error follows from success rather than leading to it; a look may lead to it.
    if (by_error || repeating)
        && !facts.clear
        && matches!(&facts.hint, Some(Advice::Do { calls }) if calls.iter().any(|c| changes_something(c)))
    {
        facts.hint = None;
    }
    let hinted = facts.hint.is_some();
    let telling = by_error || repeating || hinted;
    if !by_error && !repeating && !alone {
        return Said::No;
    }
    let Some(text) = wording::pitfall(signature, &facts) else { return Said::No };
    let shows = |c: &Case| if by_error { has_error(c) } else { repeating && c.repeats() >= 2 };
    let showing = |cases: &[&Case]| (cases.iter().filter(|c| shows(c)).count(), cases.len());
    let (bad, good) = (showing(&field.failed_with_tool), showing(&field.with_tool));
    let z = log_odds_z(bad, good);
    // In the later third, too, it must be what these failures show, and few later successes.
    let cut = (failures.len() * 2).div_ceil(3);
    let last = failures[cut - 1];
    let late = |c: &&&Case| (c.ended, c.id) > (last.ended, last.id);
    let later = showing(&failures[cut..]);
    let later_good = showing(&field.with_tool.iter().filter(late).copied().collect::<Vec<_>>());
    let passed = (by_error || repeating)
        && later.1 >= 2
        && later.0 * 10 >= later.1 * 3
        && later_good.0 * 10 <= later_good.1
        && z >= threshold(STEPS);
    let evidence: Vec<TrajectoryId> = failures.iter().rev().take(CITED).map(|c| c.id).collect();
    let mut support = format!("{} failures in the cluster", failures.len());
    if by_error || repeating {
        support += &match good.1 {
            0 => format!(
                "; seen in {} of {} failures that call it, with no success to compare with",
                bad.0, bad.1
            ),
            _ => format!(
                "; seen in {} of {} failures and {} of {} successes that call it (z {z:.1})",
                bad.0, bad.1, good.0, good.1
            ),
        };
    }
    out.put(ground, cluster, LessonKind::Pitfall, text, evidence, support + ".", (passed, telling));
    if passed && hinted { Said::WithHint } else { Said::No }
}

/// The call right before the failing one, where it is the same in most cases.
fn usual_before(cases: &[&Case]) -> Option<String> {
    let mut counts: BTreeMap<String, usize> = BTreeMap::new();
    for case in cases {
        let Some(at) = case.failing.filter(|at| *at > 0) else { continue };
        let before = &case.actions[at - 1];
        if before.name != case.actions[at].name {
            *counts.entry(token(before)).or_default() += 1;
        }
    }
    let (call, n) = counts.into_iter().max_by(|a, b| a.1.cmp(&b.1).then(b.0.cmp(&a.0)))?;
    (n >= 3 && n * 10 >= cases.len() * 6).then_some(call)
}
