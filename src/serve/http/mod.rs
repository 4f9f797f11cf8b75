//! The HTTP side: OpenAI's chat completions, completions and models, and vLLM's way to load adapters.
//!
//! In: requests. Out: orders for the scheduler, and its events as JSON, whole or streamed.
//!
//! Always true: every refusal has the form of OpenAI's errors and names the parameter; parameters that are not known are ignored,
//! also such as would change the answer, but for `echo`, `suffix` and a `best_of` beyond `n`, which are refused; a client that goes
//! away cancels its request.

mod ask;
mod chat;
mod completions;
mod desk;
mod error;
mod frame;
mod listener;
mod lora;
mod models;
mod plain;
mod read;
mod stream;
mod tools;

use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::extract::State;
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use http::{HeaderName, HeaderValue, Method, Request, StatusCode, Uri, header};
use serde_json::json;
use uuid::Uuid;

use error::{ApiError, reply};

pub(super) use desk::Desk;
pub use desk::LoadAdapter;
pub(super) use listener::Listener;

const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

pub(super) fn router(desk: Arc<Desk>) -> Router {
    Router::new()
        .route("/v1/chat/completions", post(chat::complete))
        .route("/v1/completions", post(completions::complete))
        .route("/v1/models", get(models::list))
        .route("/v1/models/{*id}", get(models::one))
        .route("/v1/load_lora_adapter", post(lora::load))
        .route("/v1/unload_lora_adapter", post(lora::unload))
        .layer(axum::middleware::from_fn_with_state(desk.clone(), authorized))
        .route("/health", get(health))
        .fallback(unknown)
        .method_not_allowed_fallback(wrong_method)
        .with_state(desk)
        .layer(axum::middleware::from_fn(identified))
}

async fn health(State(desk): State<Arc<Desk>>) -> Response {
    let load = desk.scheduler.load();
    reply(
        StatusCode::OK,
        &json!({"status": "ok", "running": load.running, "waiting": load.waiting, "slots": load.slots}),
    )
}

async fn unknown(method: Method, uri: Uri) -> ApiError {
    ApiError::invalid(format!("Invalid URL ({method} {})", uri.path()))
        .code("unknown_url")
        .status(StatusCode::NOT_FOUND)
}

async fn wrong_method(method: Method, uri: Uri) -> ApiError {
    ApiError::invalid(format!("Not allowed to {method} on {}.", uri.path()))
        .status(StatusCode::METHOD_NOT_ALLOWED)
}

/// Asks for the key, where there is one.
async fn authorized(State(desk): State<Arc<Desk>>, request: Request<Body>, next: Next) -> Response {
    if let Some(key) = &desk.key {
        let given = request.headers().get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
        let given = given
            .and_then(|value| value.split_once(' '))
            .filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer"));
        if !given.is_some_and(|(_, given)| same(given.trim(), key)) {
            let refusal = ApiError::invalid("Incorrect API key provided, or none.").code("invalid_api_key");
            return refusal.status(StatusCode::UNAUTHORIZED).into_response();
        }
    }
    next.run(request).await
}

/// Whether two keys are the same, in a time that does not tell where they differ.
fn same(a: &str, b: &str) -> bool {
    let digest = |text: &str| blake3::hash(text.as_bytes());
    // Comparison of these hashes takes constant time.
    digest(a) == digest(b)
}

/// Gives each answer an id: the client's own, where it sent a sensible one.
async fn identified(request: Request<Body>, next: Next) -> Response {
    let given = request.headers().get(REQUEST_ID).filter(|id| {
        let bytes = id.as_bytes();
        (1..=128).contains(&bytes.len()) && bytes.iter().all(u8::is_ascii_graphic)
    });
    let id = given.cloned().unwrap_or_else(|| {
        HeaderValue::from_str(&format!("req_{}", Uuid::now_v7().simple())).expect("it is ASCII")
    });
    let mut response = next.run(request).await;
    response.headers_mut().insert(REQUEST_ID, id);
    response
}
