//! The stylesheet and the icon, embedded in the binary.

use axum::Router;
use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE};
use axum::response::IntoResponse;
use axum::routing::get;

const STYLE: &str = include_str!("../../dashboards/assets/style.css");
const ICON: &[u8] = include_bytes!("../../dashboards/assets/favicon.svg");

/// Short, so that another version's stylesheet does not outlive an upgrade by much.
const CACHED: &str = "max-age=60";

pub(super) fn routes() -> Router {
    Router::new()
        .route(
            "/assets/style.css",
            get(async || {
                ([(CONTENT_TYPE, "text/css; charset=utf-8"), (CACHE_CONTROL, CACHED)], STYLE).into_response()
            }),
        )
        .route(
            "/assets/favicon.svg",
            get(async || ([(CONTENT_TYPE, "image/svg+xml"), (CACHE_CONTROL, CACHED)], ICON).into_response()),
        )
}
