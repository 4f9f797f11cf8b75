//! `GET /v1/models`, `GET /v1/models/{id}`

use std::sync::Arc;

use axum::extract::{Path, State};
use axum::response::Response;
use http::StatusCode;
use serde_json::{Value, json};

use super::desk::Desk;
use super::error::{ApiError, reply};
use crate::model::Micros;
use crate::serve::names::{Meaning, Names};

pub(super) async fn list(State(desk): State<Arc<Desk>>) -> Response {
    let names = &desk.names;
    let mut models: Vec<Value> = names.base().iter().map(|name| base(&desk, name)).collect();
    let others = names.others();
    models.extend(others.iter().map(|(name, meaning)| other(&desk, name, meaning)));
    reply(StatusCode::OK, &json!({"object": "list", "data": models}))
}

pub(super) async fn one(
    State(desk): State<Arc<Desk>>,
    Path(name): Path<String>,
) -> Result<Response, ApiError> {
    if desk.names.base().contains(&name) {
        return Ok(reply(StatusCode::OK, &base(&desk, &name)));
    }
    let meaning = desk.names.meaning(&name).ok_or_else(|| ApiError::no_such_model(&name))?;
    Ok(reply(StatusCode::OK, &other(&desk, &name, &meaning)))
}

fn base(desk: &Desk, name: &str) -> Value {
    let names: &Names = &desk.names;
    model(desk, name, names.root(), names.since(), None)
}

fn other(desk: &Desk, name: &str, meaning: &Meaning) -> Value {
    let names = &desk.names;
    let (root, since) = match meaning {
        Meaning::Base => (names.root(), names.since()),
        Meaning::Adapter(adapter) => (adapter.root.as_str(), adapter.since),
    };
    model(desk, name, root, since, names.base().first())
}

/// As vLLM describes models: adapters have the base for a parent.
fn model(desk: &Desk, name: &str, root: &str, since: Micros, parent: Option<&String>) -> Value {
    json!({
        "id": name,
        "object": "model",
        "created": since.0 / 1_000_000,
        "owned_by": "remora",
        "root": root,
        "parent": parent,
        "max_model_len": desk.context,
    })
}
