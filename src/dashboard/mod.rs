//! Looks at all of it and changes nothing: pages, the same as JSON, metrics, health.
//!
//! In: HTTP requests on the admin listener. Out: server-rendered pages that need no JavaScript and no other origin.
//!
//! Always true: every trace is hostile input. What was recorded reaches a page only as [`Text`](text::Text), which
//! makes invisible characters visible, and through the templates' escaping, which no template switches off; only the
//! values of form fields, which must come back exactly, are escaped but otherwise as they were. Every
//! answer carries the headers of [`guard`], and requests under a foreign host name are refused.
//!
//! The JSON under `/api` is a thin serialization of the same models: it changes when they change.

mod assets;
mod error;
mod guard;
mod ops;
mod pages;
mod params;
mod parts;
mod site;
mod text;
mod waterfall;

#[cfg(test)]
mod tests;

use axum::Router;
use axum::routing::get;
use metrics_exporter_prometheus::PrometheusHandle;
use tokio::sync::watch;

use crate::store::Store;
use site::{LoadTranscript, Site};

/// What the dashboard looks at. Cheap to clone.
#[derive(Clone)]
pub struct Deps {
    pub store: Store,
    /// Whether this process wants traffic; false while it starts or drains.
    pub ready: watch::Receiver<bool>,
    pub metrics: PrometheusHandle,
    /// Host names, without port, that the dashboard is reached under besides `localhost` and IP addresses.
    pub allowed_hosts: Vec<String>,
}

/// The admin listener's routes: all are `GET` (and `HEAD`) only.
pub fn router(deps: Deps) -> Router {
    router_over(deps, crate::trajectory::transcript)
}

/// The same over another way to load transcripts, so that pages can be tested without recorded bodies.
fn router_over(deps: Deps, transcript: LoadTranscript) -> Router {
    let Deps { store, ready, metrics, allowed_hosts } = deps;
    let pages = Router::new()
        .route("/", get(pages::clusters))
        .route("/clusters/{id}", get(pages::cluster))
        .route("/trajectories", get(pages::trajectories))
        .route("/trajectories/{id}", get(pages::trajectory))
        .route("/nights", get(pages::nights))
        .route("/nights/{id}", get(pages::night))
        .route("/adapters", get(pages::adapters))
        .route("/adapters/{id}", get(pages::adapter))
        .route("/api/adapters", get(pages::adapters_json))
        .route("/api/clusters", get(pages::clusters_json))
        .route("/api/trajectories", get(pages::trajectories_json))
        .route("/api/trajectories/{id}", get(pages::trajectory_json))
        .with_state(Site::new(store, transcript));
    Router::new()
        .merge(pages)
        .merge(assets::routes())
        .merge(ops::routes(ready, metrics))
        .fallback(pages::not_found)
        .layer(axum::middleware::from_fn_with_state(guard::Hosts::new(allowed_hosts), guard::guard))
}
