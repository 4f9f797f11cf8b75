//! `POST /v1/chat/completions`

use std::sync::Arc;

use axum::body::Body;
use axum::extract::State;
use axum::response::Response;
use http::{HeaderMap, Request};
use serde::Deserialize;
use serde_json::{Value, json};

use super::ask::within;
use super::desk::{Desk, Wanted};
use super::error::ApiError;
use super::frame::Shape;
use super::read;
use super::tools::Tools;
use crate::serve::text::Text;

#[derive(Debug, Deserialize)]
struct Chat {
    messages: Option<Vec<serde_json::Map<String, Value>>>,
    logprobs: Option<bool>,
    top_logprobs: Option<usize>,
    tools: Option<Vec<Value>>,
    tool_choice: Option<Value>,
    parallel_tool_calls: Option<bool>,
    add_generation_prompt: Option<bool>,
    chat_template_kwargs: Option<serde_json::Map<String, Value>>,
}

pub(super) async fn complete(
    State(desk): State<Arc<Desk>>,
    headers: HeaderMap,
    request: Request<Body>,
) -> Result<Response, ApiError> {
    let object = read::object(request).await?;
    let asked = read::parameters(&object)?;
    let chat: Chat = read::parameters(&object)?;
    let logprobs = match (chat.logprobs.unwrap_or(false), chat.top_logprobs) {
        (true, top) => Some(top.unwrap_or(0)),
        (false, Some(1..)) => {
            let message = "'top_logprobs' needs 'logprobs' to be true.";
            return Err(ApiError::param("top_logprobs", message));
        }
        (false, _) => None,
    };
    within("top_logprobs", logprobs.unwrap_or(0) as f64, 0.0, 20.0)?;
    let Tools { shown, callable, required } =
        Tools::of(chat.tools, chat.tool_choice.as_ref(), chat.parallel_tool_calls)?;
    let messages = read::required(chat.messages, "messages")?;
    if messages.is_empty() {
        return Err(ApiError::param("messages", "Invalid 'messages': at least one is needed."));
    }
    let messages: Vec<Value> = (0..).zip(messages).map(|(at, m)| message(at, m)).collect::<Result<_, _>>()?;
    let generation_prompt = chat.add_generation_prompt.unwrap_or(true);
    let settings = chat.chat_template_kwargs.unwrap_or_default();
    let prompts = Box::new(move |text: &dyn Text| {
        let failed = |error: crate::onnx::text::TextError| {
            ApiError::param(
                "messages",
                format!("The model's chat template does not take these messages: {error}"),
            )
        };
        let prompt = text.render(&messages, &shown, generation_prompt, &settings).map_err(failed)?;
        Ok(vec![text.encode(&prompt).map_err(failed)?])
    });
    let wanted = Wanted {
        shape: Shape::Chat,
        asked,
        prompts,
        logprobs,
        usual_limit: None,
        param: "messages",
        callable,
        required,
    };
    desk.answer(&headers, wanted).await
}

/// A message as templates expect it: content as one string, arguments of tool calls as objects.
fn message(at: usize, mut message: serde_json::Map<String, Value>) -> Result<Value, ApiError> {
    let wrong = |field: &str, what: &str| {
        let path = format!("messages[{at}]{field}");
        ApiError::param(&path, format!("Invalid value for '{path}': {what}."))
    };
    match message.get("role") {
        // The newer name of the same role, which templates do not know.
        Some(Value::String(role)) if role == "developer" => {
            message.insert("role".into(), "system".into());
        }
        Some(Value::String(_)) => {}
        Some(_) => return Err(wrong(".role", "expected a string")),
        None => return Err(wrong(".role", "it is missing")),
    }
    let content = match message.get("content") {
        Some(Value::String(_)) => None,
        None | Some(Value::Null) if message.get("tool_calls").is_some_and(Value::is_array) => {
            Some(String::new())
        }
        None | Some(Value::Null) => return Err(wrong(".content", "expected a string or a list of parts")),
        Some(Value::Array(parts)) => {
            let mut text = String::new();
            for (part, value) in parts.iter().enumerate() {
                match (value["type"].as_str(), value["text"].as_str()) {
                    (Some("text"), Some(piece)) => text.push_str(piece),
                    (Some("text"), None) => {
                        return Err(wrong(&format!(".content[{part}].text"), "expected a string"));
                    }
                    (Some(kind), _) => {
                        let what = format!("{kind} is not supported, only text is");
                        return Err(wrong(&format!(".content[{part}].type"), &what));
                    }
                    (None, _) => return Err(wrong(&format!(".content[{part}].type"), "it is missing")),
                }
            }
            Some(text)
        }
        Some(_) => return Err(wrong(".content", "expected a string or a list of parts")),
    };
    if let Some(content) = content {
        message.insert("content".into(), content.into());
    }
    if let Some(Value::Array(calls)) = message.get_mut("tool_calls") {
        for call in calls {
            let arguments = call.pointer_mut("/function/arguments");
            if let Some(arguments) = arguments
                && let Some(Ok(object @ Value::Object(_))) = arguments.as_str().map(serde_json::from_str)
            {
                *arguments = object;
            }
        }
    }
    Ok(json!(message))
}
