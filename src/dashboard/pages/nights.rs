use askama::Template;

use super::cluster::LessonRow;
use super::trajectories::{before, next_before};
use super::{Choice, Frame, Section, id, missing, scope_choices};
use crate::dashboard::error::PageError;
use crate::dashboard::parts::When;
use crate::dashboard::site::View;
use crate::dashboard::text::{self, Text};
use crate::model::{Night, NightId, NightPhase};
use crate::store::{LessonsOf, NightFilter};

/// Nights on one page.
const A_PAGE: usize = 30;
/// Refused lessons shown of one night; the rest is a number.
const REJECTED: usize = 200;

/// The nights, latest first.
#[derive(Template)]
#[template(path = "nights.html")]
pub(in crate::dashboard) struct NightsPage {
    frame: Frame,
    scopes: Vec<Choice>,
    filtered: bool,
    rows: Vec<NightRow>,
    newest: Option<String>,
    older: Option<String>,
}

struct NightRow {
    href: String,
    started: When,
    scope: Text,
    phase: NightPhase,
    read: String,
    failures: String,
    clusters_new: u64,
    lessons_new: u64,
    rejected: usize,
    commit: Option<Text>,
    duration: Option<String>,
    error: Option<Text>,
}

/// One night: what was read, made, refused and why.
#[derive(Template)]
#[template(path = "night.html")]
pub(in crate::dashboard) struct NightPage {
    frame: Frame,
    id: String,
    night: NightRow,
    ended: Option<When>,
    /// The phases, and how far each has come: `done`, `now` or `later`.
    phases: Vec<(&'static str, &'static str)>,
    /// What was counted: (what, how many, what that means).
    read: Vec<(&'static str, String, &'static str)>,
    made: Vec<(&'static str, String, &'static str)>,
    watermark: i64,
    commit: Option<Text>,
    rejected: Vec<(Text, Text)>,
    more_rejected: usize,
    lessons: Vec<LessonRow>,
}

pub(super) fn list(view: &View<'_>) -> Result<NightsPage, PageError> {
    let params = view.params;
    let scopes = view.store.scopes()?;
    let scope = params.scope(&scopes)?;
    let before = before(view)?;
    let filter = NightFilter { scope: scope.clone(), before, limit: A_PAGE as u32 + 1 };
    let mut nights = view.store.view_nights(&filter)?;
    let next = next_before(&mut nights, A_PAGE, |n| n.started);
    Ok(NightsPage {
        frame: Frame::scoped("Nights", Some(Section::Nights), params),
        scopes: scope_choices(&scopes, scope.as_ref()),
        filtered: scope.is_some(),
        rows: nights.iter().map(|n| row(n, view)).collect(),
        newest: before.map(|_| params.link("/nights", &[("before", None)])),
        older: next.map(|b| params.link("/nights", &[("before", Some(&b.0.to_string()))])),
    })
}

pub(super) fn page(view: &View<'_>, given: &str) -> Result<NightPage, PageError> {
    let id: NightId = id("night", given)?;
    let night = view.store.view_night(id)?.ok_or_else(|| missing("night", given))?;
    let lessons = view.store.view_lessons(LessonsOf::Night(id))?;
    let report = &night.report;
    let counted = |rows: &[(&'static str, u64, &'static str)]| {
        rows.iter().map(|(name, n, means)| (*name, text::count(*n), *means)).collect()
    };
    Ok(NightPage {
        frame: Frame::new(&format!("Night of {}", night.started.day()), Some(Section::Nights)),
        id: id.to_string(),
        night: row(&night, view),
        ended: night.ended.map(|m| When::new(m, view.now)),
        phases: phases(night.phase),
        read: counted(&[
            ("trajectories", report.trajectories, "read"),
            ("successes", report.successes, "labelled so"),
            ("failures", report.failures, "labelled so"),
        ]),
        made: counted(&[
            ("assigned", report.assigned, "failures put into clusters known before"),
            ("new clusters", report.clusters_new, "found this night"),
            ("clusters", report.clusters_total, "in all"),
            ("unclustered", report.unclustered, "failures like no other, left for later nights"),
            ("new lessons", report.lessons_new, "passed the gate"),
            ("lessons", report.lessons_total, "in all"),
            ("refused", report.rejected.len() as u64, "by the gate"),
        ]),
        watermark: night.watermark,
        commit: night.commit.as_deref().map(|c| Text::line(c, 80)),
        rejected: report
            .rejected
            .iter()
            .take(REJECTED)
            .map(|(lesson, why)| (Text::line(lesson, 400), Text::line(why, 400)))
            .collect(),
        more_rejected: report.rejected.len().saturating_sub(REJECTED),
        lessons: lessons.iter().map(LessonRow::new).collect(),
    })
}

fn row(night: &Night, view: &View<'_>) -> NightRow {
    let report = &night.report;
    NightRow {
        href: format!("/nights/{}", night.id),
        started: When::new(night.started, view.now),
        scope: Text::line(night.scope.to_string(), 80),
        phase: night.phase,
        read: text::count(report.trajectories),
        failures: text::count(report.failures),
        clusters_new: report.clusters_new,
        lessons_new: report.lessons_new,
        rejected: report.rejected.len(),
        commit: night.commit.as_deref().map(|c| Text::line(c.get(..10).unwrap_or(c), 12)),
        duration: night.ended.map(|end| text::duration(night.started.until(end))),
        error: night.error.as_deref().map(|e| Text::line(e, 400)),
    }
}

/// A failed night does not say in which phase: its error does.
fn phases(now: NightPhase) -> Vec<(&'static str, &'static str)> {
    [NightPhase::Select, NightPhase::Cluster, NightPhase::Draft, NightPhase::Commit]
        .into_iter()
        .map(|phase| {
            let how = match now {
                NightPhase::Failed => "unknown",
                now if phase < now => "done",
                now if phase == now => "now",
                _ => "later",
            };
            (phase.as_str(), how)
        })
        .collect()
}
