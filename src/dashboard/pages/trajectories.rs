use std::collections::HashMap;

use askama::Template;
use serde::Serialize;

use super::{Choice, Frame, Section, scope_choices};
use crate::dashboard::error::PageError;
use crate::dashboard::parts::{Verdict, When};
use crate::dashboard::site::View;
use crate::dashboard::text::{self, Text};
use crate::model::{ClusterId, Label, Micros, Scope, Trajectory};
use crate::store::TrajectoryFilter;

/// Trajectories on one page.
pub(super) const A_PAGE: usize = 50;

/// Trajectories, newest first.
#[derive(Template)]
#[template(path = "trajectories.html")]
pub(in crate::dashboard) struct TrajectoriesPage {
    frame: Frame,
    scopes: Vec<Choice>,
    labels: Vec<Choice>,
    session: String,
    cluster: Option<ClusterChip>,
    filtered: bool,
    rows: Vec<TrajectoryRow>,
    newest: Option<String>,
    older: Option<String>,
}

/// The cluster that the list is narrowed to.
struct ClusterChip {
    id: String,
    title: Text,
    href: String,
    without: String,
}

/// A line of a list of trajectories.
#[derive(Debug)]
pub(super) struct TrajectoryRow {
    pub(super) href: String,
    pub(super) task: Text,
    pub(super) verdict: Option<Verdict>,
    pub(super) started: When,
    pub(super) exchanges: u32,
    pub(super) duration: String,
    pub(super) model: Option<Text>,
    pub(super) scope: Text,
    /// The name of the session, and the list of all with it.
    pub(super) session: Option<(Text, String)>,
    /// The failing step and why.
    pub(super) failing: Option<(usize, Text)>,
    pub(super) cluster: Option<(Text, String)>,
}

/// The same for programs.
#[derive(Serialize)]
pub(in crate::dashboard) struct TrajectoriesAnswer {
    trajectories: Vec<Trajectory>,
    /// The `before` to ask for next.
    next: Option<Micros>,
}

struct Loaded {
    scopes: Vec<Scope>,
    scope: Option<Scope>,
    filter: TrajectoryFilter,
    trajectories: Vec<Trajectory>,
    next: Option<Micros>,
}

fn load(view: &View<'_>) -> Result<Loaded, PageError> {
    let params = view.params;
    let scopes = view.store.scopes()?;
    let scope = params.scope(&scopes)?;
    let filter = TrajectoryFilter {
        tenant: scope.as_ref().map(|s| s.tenant.clone()),
        app: scope.as_ref().map(|s| s.app.clone()),
        label: params.read("label", "success, failure, partial or unknown")?,
        cluster: params.read("cluster", "a cluster's id")?,
        session: params.get("session").map(str::to_owned),
        before: before(view)?,
        limit: Some(A_PAGE as u32 + 1),
    };
    let mut trajectories = view.store.trajectories(&filter)?;
    let next = next_before(&mut trajectories, A_PAGE, |t| t.started);
    Ok(Loaded { scopes, scope, filter, trajectories, next })
}

/// The cursor of a list that is ordered by time.
pub(super) fn before(view: &View<'_>) -> Result<Option<Micros>, PageError> {
    Ok(view.params.read("before", "microseconds since 1970")?.map(Micros))
}

/// Cuts a list to one page; the cursor of the next one, where one row more was there.
pub(super) fn next_before<T>(rows: &mut Vec<T>, page: usize, time: impl Fn(&T) -> Micros) -> Option<Micros> {
    if rows.len() <= page {
        return None;
    }
    rows.truncate(page);
    rows.last().map(time)
}

pub(super) fn answer(view: &View<'_>) -> Result<TrajectoriesAnswer, PageError> {
    let Loaded { trajectories, next, .. } = load(view)?;
    Ok(TrajectoriesAnswer { trajectories, next })
}

pub(super) fn page(view: &View<'_>) -> Result<TrajectoriesPage, PageError> {
    let Loaded { scopes, scope, filter, trajectories, next } = load(view)?;
    let params = view.params;
    let here = |changes: &[(&str, Option<&str>)]| params.link("/trajectories", changes);
    let mut clusters: Vec<ClusterId> =
        trajectories.iter().filter_map(|t| t.cluster_id).chain(filter.cluster).collect();
    clusters.sort_unstable();
    clusters.dedup();
    let titles = view.store.view_cluster_titles(&clusters)?;
    let labels = [Label::Success, Label::Failure, Label::Partial, Label::Unknown].map(|l| Choice {
        value: l.to_string(),
        label: Text::of(l.as_str()),
        chosen: filter.label == Some(l),
    });
    Ok(TrajectoriesPage {
        frame: Frame::scoped("Trajectories", Some(Section::Trajectories), params)
            .with_json(params.link("/api/trajectories", &[])),
        filtered: scope.is_some()
            || filter.label.is_some()
            || filter.cluster.is_some()
            || filter.session.is_some(),
        scopes: scope_choices(&scopes, scope.as_ref()),
        labels: labels.into(),
        cluster: filter.cluster.map(|id| ClusterChip {
            id: id.to_string(),
            title: titles.get(&id).map_or_else(|| Text::of(id.to_string()), |t| Text::line(t, 80)),
            href: format!("/clusters/{id}"),
            without: here(&[("cluster", None), ("before", None)]),
        }),
        session: filter.session.unwrap_or_default(),
        rows: trajectories.iter().map(|t| row(t, view, &titles)).collect(),
        newest: filter.before.map(|_| here(&[("before", None)])),
        older: next.map(|b| here(&[("before", Some(&b.0.to_string()))])),
    })
}

/// A line of a list; clusters that `titles` does not know are left out.
pub(super) fn row(t: &Trajectory, view: &View<'_>, titles: &HashMap<ClusterId, String>) -> TrajectoryRow {
    let failing = t.outcome.as_ref().and_then(|o| o.failing_step.as_ref());
    TrajectoryRow {
        href: href(t),
        task: task(t, 160),
        verdict: t.outcome.as_ref().map(|o| Verdict::new(o.label, o.p_success)),
        started: When::new(t.started, view.now),
        exchanges: t.exchanges,
        duration: text::duration(t.started.until(t.ended)),
        model: t.model.as_deref().map(|m| Text::line(m, 60)),
        scope: Text::line(t.scope.to_string(), 80),
        session: t.session_id.as_deref().map(|s| {
            (Text::line(s, 40), crate::dashboard::params::address("/trajectories", [("session", s)]))
        }),
        failing: failing.map(|f| (f.step, Text::line(&f.reason, 160))),
        cluster: t
            .cluster_id
            .and_then(|id| Some((Text::line(titles.get(&id)?, 60), format!("/clusters/{id}")))),
    }
}

/// Opens at the failing step where there is one.
fn href(t: &Trajectory) -> String {
    match t.outcome.as_ref().and_then(|o| o.failing_step.as_ref()) {
        Some(f) => format!("/trajectories/{}?step={n}#step-{n}", t.id, n = f.step),
        None => format!("/trajectories/{}", t.id),
    }
}

pub(super) fn task(t: &Trajectory, limit: usize) -> Text {
    if t.task.trim().is_empty() { Text::of("(no user message)") } else { Text::line(&t.task, limit) }
}
