use std::sync::Arc;

use askama::Template;
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::response::{Html, IntoResponse, Response};
use serde::Serialize;
use tokio::sync::Semaphore;

use super::error::PageError;
use super::pages::Frame;
use super::params::Params;
use crate::model::{Micros, TrajectoryId, Transcript};
use crate::store::{Store, StoreError};
use crate::tasks;

/// How the transcript of a trajectory is loaded.
pub(super) type LoadTranscript = fn(&Store, TrajectoryId) -> Result<Option<Transcript>, StoreError>;

/// Pages made at the same time. A transcript may take hundreds of megabytes while it is being laid out, and the
/// traffic in the same process comes first; further requests wait.
const AT_ONCE: usize = 2;

/// What pages are made from. Cheap to clone.
#[derive(Clone)]
pub(super) struct Site {
    store: Store,
    transcript: LoadTranscript,
    turns: Arc<Semaphore>,
}

/// One request's view of the site.
pub(super) struct View<'a> {
    pub(super) store: &'a Store,
    pub(super) transcript: LoadTranscript,
    pub(super) params: &'a Params,
    pub(super) now: Micros,
}

impl Site {
    pub(super) fn new(store: Store, transcript: LoadTranscript) -> Self {
        Self { store, transcript, turns: Arc::new(Semaphore::new(AT_ONCE)) }
    }

    /// Reads and renders a page off the async threads.
    pub(super) async fn html<P: Template>(
        self,
        params: Params,
        page: impl FnOnce(&View<'_>) -> Result<P, PageError> + Send + 'static,
    ) -> Response {
        match self.make(params, move |view| Ok(page(view)?.render()?)).await {
            Ok(html) => Html(html).into_response(),
            Err(error) => error_page(&error),
        }
    }

    /// Reads and serializes an answer of the JSON API off the async threads.
    pub(super) async fn json<T: Serialize>(
        self,
        params: Params,
        answer: impl FnOnce(&View<'_>) -> Result<T, PageError> + Send + 'static,
    ) -> Response {
        match self.make(params, move |view| Ok(serde_json::to_string(&answer(view)?)?)).await {
            Ok(text) => json(StatusCode::OK, text),
            Err(error) => json(
                error.status(),
                serde_json::json!({ "error": { "message": error.to_string() } }).to_string(),
            ),
        }
    }

    async fn make(
        self,
        params: Params,
        work: impl FnOnce(&View<'_>) -> Result<String, PageError> + Send + 'static,
    ) -> Result<String, PageError> {
        let turn = self.turns.clone().acquire_owned().await.expect("the semaphore is never closed");
        tasks::blocking(move || {
            // Held by the work, not by the request: a reader who leaves does not stop what was begun.
            let _turn = turn;
            work(&View {
                store: &self.store,
                transcript: self.transcript,
                params: &params,
                now: Micros::now(),
            })
        })
        .await
        .unwrap_or(Err(PageError::Broke))
    }
}

fn json(status: StatusCode, text: String) -> Response {
    (status, [(CONTENT_TYPE, "application/json")], text).into_response()
}

/// A page that says why there is no page.
pub(super) fn error_page(error: &PageError) -> Response {
    if error.status().is_server_error() {
        tracing::error!(%error, "a dashboard page failed");
    }
    let page = super::pages::ErrorPage::new(Frame::new("", None), error);
    match page.render() {
        Ok(html) => (error.status(), Html(html)).into_response(),
        Err(_) => (error.status(), error.to_string()).into_response(),
    }
}
