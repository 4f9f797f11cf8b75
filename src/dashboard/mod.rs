//! stub
#[derive(Clone)]
pub struct Deps {
    pub store: crate::store::Store,
    pub ready: tokio::sync::watch::Receiver<bool>,
    pub metrics: metrics_exporter_prometheus::PrometheusHandle,
    pub allowed_hosts: Vec<String>,
}
pub fn router(deps: Deps) -> axum::Router {
    axum::Router::new().route("/healthz", axum::routing::get(|| async { "ok" })).route("/metrics", axum::routing::get(move || async move { deps.metrics.render() }))
}
