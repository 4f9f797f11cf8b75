//! `POST /v1/completions`

use std::sync::Arc;

use axum::body::Body;
use axum::extract::State;
use axum::response::Response;
use http::{HeaderMap, Request};
use serde::Deserialize;
use serde_json::Value;

use super::ask::{Asked, MOST_ANSWERS, within};
use super::desk::{Desk, Wanted};
use super::error::ApiError;
use super::frame::Shape;
use super::read;
use crate::serve::text::Text;

#[derive(Debug, Deserialize)]
struct Completion {
    prompt: Option<Prompt>,
    logprobs: Option<usize>,
    echo: Option<bool>,
    suffix: Option<Value>,
    best_of: Option<usize>,
}

#[derive(Debug, Deserialize)]
#[serde(
    untagged,
    expecting = "expected a string, a list of strings, a list of tokens or a list of such lists"
)]
enum Prompt {
    Text(String),
    Texts(Vec<String>),
    Tokens(Vec<u32>),
    Lists(Vec<Vec<u32>>),
}

/// OpenAI's default for this API.
const USUAL_LIMIT: usize = 16;

pub(super) async fn complete(
    State(desk): State<Arc<Desk>>,
    headers: HeaderMap,
    request: Request<Body>,
) -> Result<Response, ApiError> {
    let object = read::object(request).await?;
    let asked: Asked = read::parameters(&object)?;
    let completion: Completion = read::parameters(&object)?;
    within("logprobs", completion.logprobs.unwrap_or(0) as f64, 0.0, 20.0)?;
    let unsupported = |param: &str| {
        ApiError::param(param, format!("'{param}' is not supported by this server."))
            .code("unsupported_parameter")
    };
    if completion.echo == Some(true) {
        return Err(unsupported("echo"));
    }
    if completion.suffix.is_some() {
        return Err(unsupported("suffix"));
    }
    if completion.best_of.is_some_and(|best_of| best_of > asked.n.unwrap_or(1)) {
        return Err(unsupported("best_of"));
    }
    let prompt = read::required(completion.prompt, "prompt")?;
    let count = match &prompt {
        Prompt::Text(_) | Prompt::Tokens(_) => 1,
        Prompt::Texts(texts) => texts.len(),
        Prompt::Lists(lists) => lists.len(),
    };
    within("prompt", count as f64 * asked.choices()? as f64, 1.0, MOST_ANSWERS as f64)?;
    let prompts = Box::new(move |text: &dyn Text| {
        let encode = |prompt: &String| {
            text.encode(prompt)
                .map_err(|error| ApiError::param("prompt", format!("Invalid 'prompt': {error}")))
        };
        Ok(match prompt {
            Prompt::Text(prompt) => vec![encode(&prompt)?],
            Prompt::Texts(prompts) => prompts.iter().map(encode).collect::<Result<_, _>>()?,
            Prompt::Tokens(tokens) => vec![tokens],
            Prompt::Lists(lists) => lists,
        })
    });
    let wanted = Wanted {
        shape: Shape::Text,
        asked,
        prompts,
        logprobs: completion.logprobs,
        usual_limit: Some(USUAL_LIMIT),
        param: "prompt",
        callable: None,
        required: None,
    };
    desk.answer(&headers, wanted).await
}
