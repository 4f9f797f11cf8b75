use askama::Template;
use serde::Serialize;

use super::{Choice, Frame, Section, scope_choices};
use crate::dashboard::error::PageError;
use crate::dashboard::parts::{Share, Sparkline, When};
use crate::dashboard::site::View;
use crate::dashboard::text::{self, Text};
use crate::model::Scope;
use crate::store::{ClusterFilter, ClusterView, Totals};

/// Clusters on one page.
const A_PAGE: u32 = 50;

/// What goes wrong, most of it first.
#[derive(Template)]
#[template(path = "clusters.html")]
pub(in crate::dashboard) struct ClustersPage {
    frame: Frame,
    scopes: Vec<Choice>,
    filtered: bool,
    totals: TotalsRow,
    rows: Vec<ClusterRow>,
    earlier: Option<String>,
    later: Option<String>,
}

/// The numbers on top, written out, each with where it leads.
struct TotalsRow {
    trajectories: String,
    labels: Vec<(&'static str, String, String)>,
    /// `58 %`, of those with a verdict.
    success_rate: String,
    judged: String,
    exchanges: String,
    exchanges_of: &'static str,
    unclustered: String,
    all: String,
    empty: bool,
}

struct ClusterRow {
    href: String,
    title: Text,
    class: Text,
    tool: Option<Text>,
    scope: Option<Text>,
    state: &'static str,
    size: String,
    share: Share,
    spark: Sparkline,
    first: Option<When>,
    last: When,
    lessons: u64,
}

/// The same for programs.
#[derive(Serialize)]
pub(in crate::dashboard) struct ClustersAnswer {
    totals: Totals,
    clusters: Vec<ClusterView>,
    /// The `page` to ask for next.
    next: Option<u32>,
}

struct Loaded {
    scopes: Vec<Scope>,
    scope: Option<Scope>,
    totals: Totals,
    clusters: Vec<ClusterView>,
    page: u32,
    more: bool,
}

fn load(view: &View<'_>) -> Result<Loaded, PageError> {
    let page = view.params.read("page", "a page number, from 1")?.unwrap_or(1_u32).max(1);
    let scopes = view.store.scopes()?;
    let scope = view.params.scope(&scopes)?;
    let mut clusters = view.store.view_clusters(&ClusterFilter {
        scope: scope.clone(),
        id: None,
        by_day_since: Sparkline::since(view.now),
        offset: (page - 1).saturating_mul(A_PAGE),
        limit: A_PAGE + 1,
    })?;
    let more = clusters.len() > A_PAGE as usize;
    clusters.truncate(A_PAGE as usize);
    let totals = view.store.view_totals(scope.as_ref())?;
    Ok(Loaded { scopes, scope, totals, clusters, page, more })
}

pub(super) fn answer(view: &View<'_>) -> Result<ClustersAnswer, PageError> {
    let Loaded { totals, clusters, page, more, .. } = load(view)?;
    Ok(ClustersAnswer { totals, clusters, next: more.then_some(page + 1) })
}

pub(super) fn page(view: &View<'_>) -> Result<ClustersPage, PageError> {
    let Loaded { scopes, scope, totals, clusters, page, more } = load(view)?;
    let show_scope = scope.is_none() && scopes.len() > 1;
    let turn = |page: u32| view.params.link("/", &[("page", Some(&page.to_string()))]);
    Ok(ClustersPage {
        frame: Frame::scoped("Failures", Some(Section::Failures), view.params)
            .with_json(view.params.link("/api/clusters", &[])),
        scopes: scope_choices(&scopes, scope.as_ref()),
        filtered: scope.is_some(),
        totals: totals_row(view, &totals, scope.is_some()),
        rows: clusters.into_iter().map(|c| row(view, &c, show_scope)).collect(),
        earlier: (page > 1).then(|| turn(page - 1)),
        later: more.then(|| turn(page + 1)),
    })
}

fn totals_row(view: &View<'_>, totals: &Totals, scoped: bool) -> TotalsRow {
    let link = |label: Option<&str>, cluster: Option<&str>| {
        view.params.link("/trajectories", &[("page", None), ("label", label), ("cluster", cluster)])
    };
    let labels = [
        ("success", totals.successes),
        ("failure", totals.failures),
        ("partial", totals.partial),
        ("unknown", totals.unknown),
    ];
    let judged = totals.successes + totals.failures;
    TotalsRow {
        trajectories: text::count(totals.trajectories),
        labels: labels
            .into_iter()
            .filter(|(label, n)| *n > 0 || *label != "partial")
            .map(|(label, n)| (label, text::count(n), link(Some(label), None)))
            .collect(),
        success_rate: text::percent(totals.successes, judged),
        judged: text::count(judged),
        exchanges: text::count(totals.exchanges),
        exchanges_of: if scoped { "exchanges in trajectories" } else { "exchanges recorded" },
        unclustered: text::count(totals.unclustered),
        all: link(None, None),
        empty: totals.trajectories == 0,
    }
}

fn row(view: &View<'_>, of: &ClusterView, show_scope: bool) -> ClusterRow {
    let cluster = &of.cluster;
    ClusterRow {
        href: format!("/clusters/{}", cluster.id),
        title: Text::line(&cluster.title, 160),
        class: Text::line(cluster.signature.class.replace('_', " "), 40),
        tool: cluster.signature.tool.as_deref().map(|t| Text::line(t, 60)),
        scope: show_scope.then(|| Text::line(cluster.scope.to_string(), 60)),
        state: cluster.state.as_str(),
        size: text::count(of.members),
        share: Share::of(of),
        spark: Sparkline::new(&of.by_day, view.now),
        first: of.first_seen.map(|m| When::new(m, view.now)),
        last: When::new(cluster.last_seen, view.now),
        lessons: of.lessons,
    }
}
