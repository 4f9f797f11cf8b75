//! One file a page: what it loads, and what its template (`dashboards/templates/`) shows of it.

mod adapters;
mod cluster;
mod clusters;
mod nights;
mod thread;
mod trajectories;
mod trajectory;

use askama::Template;
use axum::extract::{Path, State};
use axum::http::Uri;
use axum::response::Response;

use super::error::PageError;
use super::params::{Params, address};
use super::site::{Site, error_page};
use super::text::Text;
use crate::model::{Scope, TrajectoryId};

pub(super) async fn clusters(State(site): State<Site>, params: Params) -> Response {
    site.html(params, clusters::page).await
}

pub(super) async fn clusters_json(State(site): State<Site>, params: Params) -> Response {
    site.json(params, clusters::answer).await
}

pub(super) async fn cluster(State(site): State<Site>, Path(id): Path<String>, params: Params) -> Response {
    site.html(params, move |view| cluster::page(view, &id)).await
}

pub(super) async fn trajectories(State(site): State<Site>, params: Params) -> Response {
    site.html(params, trajectories::page).await
}

pub(super) async fn trajectories_json(State(site): State<Site>, params: Params) -> Response {
    site.json(params, trajectories::answer).await
}

pub(super) async fn trajectory(State(site): State<Site>, Path(id): Path<String>, params: Params) -> Response {
    site.html(params, move |view| trajectory::page(view, &id)).await
}

pub(super) async fn trajectory_json(
    State(site): State<Site>,
    Path(id): Path<String>,
    params: Params,
) -> Response {
    site.json(params, move |view| trajectory::answer(view, &id)).await
}

pub(super) async fn nights(State(site): State<Site>, params: Params) -> Response {
    site.html(params, nights::list).await
}

pub(super) async fn night(State(site): State<Site>, Path(id): Path<String>, params: Params) -> Response {
    site.html(params, move |view| nights::page(view, &id)).await
}

pub(super) async fn adapters(State(site): State<Site>, params: Params) -> Response {
    site.html(params, adapters::list).await
}

pub(super) async fn adapters_json(State(site): State<Site>, params: Params) -> Response {
    site.json(params, adapters::answer).await
}

pub(super) async fn adapter(State(site): State<Site>, Path(id): Path<String>, params: Params) -> Response {
    site.html(params, move |view| adapters::page(view, &id)).await
}

pub(super) async fn not_found(uri: Uri) -> Response {
    error_page(&PageError::NotFound { kind: "page", given: uri.path().to_owned() })
}

/// The id in an address. One that cannot be an id names nothing, like one that is not there.
fn id<T: std::str::FromStr>(kind: &'static str, given: &str) -> Result<T, PageError> {
    given.parse().map_err(|_| missing(kind, given))
}

fn missing(kind: &'static str, given: &str) -> PageError {
    PageError::NotFound { kind, given: given.to_owned() }
}

/// Where a page stands in the navigation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Section {
    Failures,
    Trajectories,
    Nights,
    Adapters,
}

/// What the frame around a page needs.
#[derive(Debug)]
pub(super) struct Frame {
    title: Text,
    nav: Vec<NavItem>,
    version: &'static str,
    /// The same as JSON.
    json: Option<String>,
}

#[derive(Debug)]
struct NavItem {
    label: &'static str,
    href: String,
    current: bool,
}

impl Frame {
    pub(super) fn new(title: &str, section: Option<Section>) -> Self {
        Self::scoped(title, section, &Params::default())
    }

    /// The navigation keeps the chosen scope.
    fn scoped(title: &str, section: Option<Section>, params: &Params) -> Self {
        let items = [
            (Section::Failures, "Failures", "/"),
            (Section::Trajectories, "Trajectories", "/trajectories"),
            (Section::Nights, "Nights", "/nights"),
            (Section::Adapters, "Adapters", "/adapters"),
        ];
        let scope = params.get("scope").unwrap_or_default();
        let nav = items
            .map(|(of, label, path)| NavItem {
                label,
                href: address(path, [("scope", scope)]),
                current: section == Some(of),
            })
            .into();
        Self { title: Text::line(title, 80), nav, version: env!("CARGO_PKG_VERSION"), json: None }
    }

    fn with_json(self, href: String) -> Self {
        Self { json: Some(href), ..self }
    }
}

/// One choice of a filter.
#[derive(Debug)]
struct Choice {
    /// As the query has it: exact, only escaped.
    value: String,
    label: Text,
    chosen: bool,
}

fn scope_choices(known: &[Scope], chosen: Option<&Scope>) -> Vec<Choice> {
    // A scope without traffic may stand in an address all the same.
    let unknown = chosen.filter(|c| !known.contains(c));
    known
        .iter()
        .chain(unknown)
        .map(|s| {
            let value = s.to_string();
            Choice { label: Text::line(&value, 80), value, chosen: Some(s) == chosen }
        })
        .collect()
}

/// A trajectory that is named by its id only, as evidence is.
#[derive(Debug)]
struct TrajectoryLink {
    href: String,
    /// The end of the id: the beginning of ids made in one minute is the same.
    short: String,
}

impl TrajectoryLink {
    fn new(id: TrajectoryId) -> Self {
        let id = id.to_string();
        Self { href: format!("/trajectories/{id}"), short: id[id.len() - 8..].to_owned() }
    }
}

/// A page that says why there is no page.
#[derive(Template)]
#[template(path = "error.html")]
pub(super) struct ErrorPage {
    frame: Frame,
    status: u16,
    title: &'static str,
    message: Text,
}

impl ErrorPage {
    pub(super) fn new(frame: Frame, error: &PageError) -> Self {
        let title = match error.status().as_u16() {
            404 => "Not here",
            400 => "Not like this",
            _ => "This page failed",
        };
        let frame = Frame { title: Text::of(title), ..frame };
        Self { frame, status: error.status().as_u16(), title, message: Text::line(error.to_string(), 400) }
    }
}
