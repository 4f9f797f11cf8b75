use axum::http::StatusCode;

use crate::adapters::AdapterError;
use crate::store::StoreError;

/// Why there is no page.
#[derive(Debug, thiserror::Error)]
pub(super) enum PageError {
    /// The reader's: there is no such thing (any more).
    #[error("There is no {kind} {given}.")]
    NotFound { kind: &'static str, given: String },

    /// The reader's: the address asks for something that cannot be.
    #[error("{name}={given} cannot be used: expected {expected}.")]
    Parameter { name: &'static str, given: String, expected: &'static str },

    #[error("The store cannot be read: {0}.")]
    Store(#[from] StoreError),

    #[error("The adapters cannot be read: {0}.")]
    Adapters(#[from] AdapterError),

    #[error("The page cannot be written: {0}.")]
    Render(#[from] askama::Error),

    #[error("The answer cannot be written as JSON: {0}.")]
    Json(#[from] serde_json::Error),

    /// A bug.
    #[error("The work for this page broke off; the log says where.")]
    Broke,
}

impl PageError {
    pub(super) fn status(&self) -> StatusCode {
        match self {
            Self::NotFound { .. } => StatusCode::NOT_FOUND,
            Self::Parameter { .. } => StatusCode::BAD_REQUEST,
            Self::Store(_) | Self::Adapters(_) | Self::Render(_) | Self::Json(_) | Self::Broke => {
                StatusCode::INTERNAL_SERVER_ERROR
            }
        }
    }
}
