//! `POST /v1/load_lora_adapter`, `POST /v1/unload_lora_adapter`, as vLLM has them.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use axum::body::Body;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use http::{HeaderMap, Request, StatusCode, header};
use serde::Deserialize;

use super::desk::Desk;
use super::error::ApiError;
use super::read;
use crate::serve::files;
use crate::serve::names::NameError;

#[derive(Debug, Deserialize)]
struct Load {
    lora_name: Option<String>,
    lora_path: Option<PathBuf>,
    load_inplace: Option<bool>,
}

#[derive(Debug, Deserialize)]
struct Unload {
    lora_name: Option<String>,
}

pub(super) async fn load(
    State(desk): State<Arc<Desk>>,
    request: Request<Body>,
) -> Result<Response, ApiError> {
    allowed(&desk, request.headers())?;
    let Load { lora_name, lora_path, load_inplace } = read::parameters(&read::object(request).await?)?;
    let (name, path) = (read::required(lora_name, "lora_name")?, read::required(lora_path, "lora_path")?);
    let load = desk.load.clone().ok_or_else(|| {
        ApiError::invalid("This server does not load adapters from files.")
            .status(StatusCode::NOT_IMPLEMENTED)
    })?;
    let replace = load_inplace.unwrap_or(false);
    if !replace && desk.names.others().contains_key(&name) {
        return Err(refused(&NameError::Taken(name)));
    }
    let began = Instant::now();
    let adapter = files::adapter(&path, &load, &desk.names).await.map_err(|reason| {
        ApiError::param("lora_path", format!("{}: {reason}", path.display())).code("invalid_adapter")
    })?;
    let read = Instant::now();
    let done = if replace { desk.names.put(&name, adapter) } else { desk.names.add(&name, adapter) };
    done.map_err(|error| refused(&error))?;
    let milliseconds = |from: Instant, to: Instant| to.duration_since(from).as_secs_f64() * 1e3;
    tracing::info!(
        name,
        path = %path.display(),
        read_ms = milliseconds(began, read),
        switch_ms = milliseconds(read, Instant::now()),
        "adapter loaded"
    );
    Ok(format!("Success: LoRA adapter '{name}' added successfully.").into_response())
}

pub(super) async fn unload(
    State(desk): State<Arc<Desk>>,
    request: Request<Body>,
) -> Result<Response, ApiError> {
    allowed(&desk, request.headers())?;
    let Unload { lora_name } = read::parameters(&read::object(request).await?)?;
    let name = read::required(lora_name, "lora_name")?;
    if !desk.names.remove(&name) {
        let message = format!("The lora adapter '{name}' cannot be found.");
        return Err(ApiError::param("lora_name", message)
            .code("model_not_found")
            .status(StatusCode::NOT_FOUND));
    }
    tracing::info!(name, "adapter unloaded");
    Ok(format!("Success: LoRA adapter '{name}' removed successfully.").into_response())
}

/// Whoever has the key may change what is served. Where there is none, programs of this machine may, but no web page
/// that a browser here shows: only browsers send `Origin`.
fn allowed(desk: &Desk, headers: &HeaderMap) -> Result<(), ApiError> {
    if desk.key.is_some() || (desk.local && !headers.contains_key(header::ORIGIN)) {
        return Ok(());
    }
    let message =
        "Adapters are changed only by programs of this machine, or with the key that serve.api_key sets.";
    Err(ApiError::invalid(message).code("forbidden").status(StatusCode::FORBIDDEN))
}

fn refused(error: &NameError) -> ApiError {
    let more = match error {
        NameError::Taken(_) => " To replace it, set 'load_inplace' to true.",
        _ => "",
    };
    ApiError::param("lora_name", format!("{error}{more}")).code("invalid_adapter")
}
