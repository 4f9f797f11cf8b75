use std::collections::HashMap;

use askama::Template;

use super::trajectories::{A_PAGE, TrajectoryRow, before, next_before, row};
use super::{Frame, Section, TrajectoryLink, id, missing};
use crate::dashboard::error::PageError;
use crate::dashboard::parts::{Block, Share, Sparkline, When};
use crate::dashboard::site::View;
use crate::dashboard::text::{self, Text};
use crate::model::{ClusterId, Lesson, TrajectoryId};
use crate::store::{ClusterFilter, LessonsOf, TrajectoryFilter};

/// Evidence shown of one lesson; the rest is a number.
const EVIDENCE: usize = 12;

/// One failure cluster: what it is, what was learned from it, who is in it.
#[derive(Template)]
#[template(path = "cluster.html")]
pub(in crate::dashboard) struct ClusterPage {
    frame: Frame,
    id: String,
    title: Text,
    state: &'static str,
    scope: Text,
    scope_href: String,
    class: Text,
    tool: Option<Text>,
    arguments: Vec<Text>,
    /// The masked text of the failure.
    signature: Option<Block>,
    size: String,
    share: Share,
    radius: String,
    spark: Sparkline,
    first: Option<When>,
    last: When,
    born: When,
    lessons: Vec<LessonRow>,
    exemplars: Vec<TrajectoryRow>,
    /// Exemplars whose record is gone.
    gone: usize,
    members: Vec<TrajectoryRow>,
    members_href: String,
    newest: Option<String>,
    older: Option<String>,
}

/// A lesson with where it stands and what it rests on.
#[derive(Debug)]
pub(super) struct LessonRow {
    pub(super) id: Text,
    pub(super) kind: &'static str,
    pub(super) state: &'static str,
    pub(super) text: Text,
    pub(super) file: Text,
    pub(super) support: Text,
    pub(super) evidence: Vec<TrajectoryLink>,
    pub(super) more_evidence: usize,
    pub(super) night: String,
    pub(super) cluster: Option<String>,
}

impl LessonRow {
    pub(super) fn new(lesson: &Lesson) -> Self {
        Self {
            id: Text::of(lesson.id.as_str()),
            kind: lesson.kind.as_str(),
            state: lesson.state.as_str(),
            text: Text::line(&lesson.text, 1000),
            file: Text::line(&lesson.file, 200),
            support: Text::line(&lesson.support, 400),
            evidence: lesson.evidence.iter().take(EVIDENCE).map(|t| TrajectoryLink::new(*t)).collect(),
            more_evidence: lesson.evidence.len().saturating_sub(EVIDENCE),
            night: format!("/nights/{}", lesson.night),
            cluster: lesson.cluster.map(|c| format!("/clusters/{c}")),
        }
    }
}

pub(super) fn page(view: &View<'_>, given: &str) -> Result<ClusterPage, PageError> {
    let id: ClusterId = id("cluster", given)?;
    let filter = ClusterFilter {
        id: Some(id),
        by_day_since: Sparkline::since(view.now),
        limit: 1,
        ..ClusterFilter::default()
    };
    let of = view.store.view_clusters(&filter)?.pop().ok_or_else(|| missing("cluster", given))?;
    let cluster = &of.cluster;

    let before = before(view)?;
    let mut members = view.store.trajectories(&TrajectoryFilter {
        cluster: Some(id),
        before,
        limit: Some(A_PAGE as u32 + 1),
        ..TrajectoryFilter::default()
    })?;
    let next = next_before(&mut members, A_PAGE, |t| t.started);
    let exemplars = if before.is_none() { exemplars(view, &cluster.exemplars)? } else { Vec::new() };
    let gone = if before.is_none() { cluster.exemplars.len() - exemplars.len() } else { 0 };
    let lessons = view.store.view_lessons(LessonsOf::Cluster(id))?;

    let path = format!("/clusters/{id}");
    let scope = cluster.scope.to_string();
    Ok(ClusterPage {
        frame: Frame::new(&cluster.title, Some(Section::Failures)),
        id: id.to_string(),
        title: Text::line(&cluster.title, 300),
        state: cluster.state.as_str(),
        scope: Text::line(&scope, 80),
        scope_href: crate::dashboard::params::address("/", [("scope", scope.as_str())]),
        class: Text::line(cluster.signature.class.replace('_', " "), 60),
        tool: cluster.signature.tool.as_deref().map(|t| Text::line(t, 80)),
        arguments: cluster.signature.arguments.iter().take(40).map(|a| Text::line(a, 60)).collect(),
        signature: (!cluster.signature.text.is_empty()).then(|| Block::mono(&cluster.signature.text)),
        size: text::count(of.members),
        share: Share::of(&of),
        radius: format!("{:.2}", cluster.radius),
        spark: Sparkline::new(&of.by_day, view.now),
        first: of.first_seen.map(|m| When::new(m, view.now)),
        last: When::new(cluster.last_seen, view.now),
        born: When::new(cluster.born, view.now),
        lessons: lessons.iter().map(LessonRow::new).collect(),
        exemplars,
        gone,
        members: members.iter().map(|t| row(t, view, &HashMap::new())).collect(),
        members_href: format!("/trajectories?cluster={id}"),
        newest: before.map(|_| view.params.link(&path, &[("before", None)])),
        older: next.map(|b| view.params.link(&path, &[("before", Some(&b.0.to_string()))])),
    })
}

fn exemplars(view: &View<'_>, ids: &[TrajectoryId]) -> Result<Vec<TrajectoryRow>, PageError> {
    let mut rows = Vec::new();
    for id in ids {
        if let Some(t) = view.store.trajectory(*id)? {
            rows.push(row(&t, view, &HashMap::new()));
        }
    }
    Ok(rows)
}
