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
    let adapters = names.adapters();
    models.extend(adapters.iter().map(|(name, it)| adapter(&desk, name, &it.root, it.since)));
    reply(StatusCode::OK, &json!({"object": "list", "data": models}))
}

pub(super) async fn one(State(desk): State<Arc<Desk>>, Path(name): Path<String>) -> Result<Response, ApiError> {
    let model = match desk.names.meaning(&name) {
        Some(Meaning::Base) => base(&desk, &name),
        Some(Meaning::Adapter(it)) => adapter(&desk, &name, &it.root, it.since),
        None => return Err(ApiError::no_such_model(&name)),
    };
    Ok(reply(StatusCode::OK, &model))
}

fn base(desk: &Desk, name: &str) -> Value {
    let names: &Names = &desk.names;
    model(desk, name, names.root(), names.since(), None)
}

fn adapter(desk: &Desk, name: &str, root: &str, since: Micros) -> Value {
    model(desk, name, root, since, desk.names.base().first())
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
