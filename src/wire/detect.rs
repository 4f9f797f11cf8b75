//! Which API an exchange speaks: by its path, and where that says nothing by the shape of its bodies.

use serde_json::Value;

use super::fields;
use crate::model::Api;

/// Path segments of APIs that are no conversation with a model, or that keep one on the server.
const OTHER_SEGMENTS: [&str; 6] =
    ["threads", "files", "batches", "assistants", "vector_stores", "fine_tuning"];

/// The API that a path ends with, whatever gateways, versions and deployments it begins with. None where the path
/// is unknown; `Other` where it is known to be no call of a model.
pub(super) fn by_path(method: &str, target: &str) -> Option<Api> {
    if !method.eq_ignore_ascii_case("POST") {
        return Some(Api::Other);
    }
    let path = target.split(['?', '#']).next().unwrap_or_default();
    let mut segments = path.split('/').filter(|s| !s.is_empty()).rev();
    let (last, before) = (segments.next().unwrap_or_default(), segments.next().unwrap_or_default());
    let within = |names: &[&str]| path.split('/').any(|s| names.contains(&s));
    if within(&OTHER_SEGMENTS) {
        return Some(Api::Other);
    }
    match (before, last) {
        ("chat", "completions") => Some(Api::ChatCompletions),
        (_, "completions") => Some(Api::Completions),
        (_, "responses") => Some(Api::Responses),
        (_, "embeddings") => Some(Api::Embeddings),
        (_, "messages") => Some(Api::Messages),
        // Ollama's own API
        ("api", "chat" | "generate" | "embed" | "show" | "pull") => Some(Api::Other),
        // below a stored object, or an operation that is no call: counting tokens, compaction, cancelling
        _ if within(&["completions", "responses", "messages"]) => Some(Api::Other),
        _ => None,
    }
}

/// The deployment that an Azure path names: there, bodies need no model.
pub(super) fn deployment(target: &str) -> Option<&str> {
    let path = target.split(['?', '#']).next()?;
    let (_, rest) = path.split_once("/deployments/")?;
    rest.split('/').next().filter(|name| !name.is_empty())
}

/// The API of a whole answer or of an event of a stream.
pub(super) fn by_answer(answer: &Value) -> Option<Api> {
    match fields::str(answer, "object").unwrap_or_default() {
        "chat.completion" | "chat.completion.chunk" => return Some(Api::ChatCompletions),
        "text_completion" => return Some(Api::Completions),
        "response" | "response.compaction" => return Some(Api::Responses),
        "list" if fields::str(&answer["data"][0], "object") == Some("embedding") => {
            return Some(Api::Embeddings);
        }
        _ => {}
    }
    match fields::str(answer, "type").unwrap_or_default() {
        "message" if answer["content"].is_array() => return Some(Api::Messages),
        "message_start" => return Some(Api::Messages),
        event if event.starts_with("response.") => return Some(Api::Responses),
        _ => {}
    }
    let choice = &answer["choices"][0];
    if choice["message"].is_object() || choice["delta"].is_object() {
        Some(Api::ChatCompletions)
    } else {
        choice["text"].is_string().then_some(Api::Completions)
    }
}

/// The API that a request's shape speaks for, where no answer tells.
pub(super) fn by_request(request: &Value) -> Option<Api> {
    if request["messages"].is_array() {
        let anthropic = request.get("anthropic_version").is_some() || request.get("system").is_some();
        return Some(if anthropic { Api::Messages } else { Api::ChatCompletions });
    }
    let items = fields::list(request, "input").first().is_some_and(Value::is_object);
    (items && request.get("model").is_some()).then_some(Api::Responses)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::{by_answer, by_path, by_request, deployment};
    use crate::model::Api;

    #[test]
    fn a_path_is_known_by_its_end() {
        for (path, api) in [
            ("/v1/chat/completions", Api::ChatCompletions),
            ("/openai/deployments/my-gpt/chat/completions?api-version=2024-10-21", Api::ChatCompletions),
            ("/api/v2/cortex/v1/chat/completions/", Api::ChatCompletions),
            ("/v1/completions", Api::Completions),
            ("/openai/v1/responses", Api::Responses),
            ("/responses", Api::Responses),
            ("/v1/embeddings", Api::Embeddings),
            ("/anthropic/v1/messages?beta=true", Api::Messages),
        ] {
            assert_eq!(by_path("POST", path), Some(api), "{path}");
        }
    }

    #[test]
    fn what_is_no_call_of_a_model_is_other() {
        for path in [
            "/v1/messages/count_tokens",
            "/v1/responses/compact",
            "/v1/responses/resp_1/cancel",
            "/api/chat",
            "/v1/chat/completions/chatcmpl-1",
            "/v1/threads/thread_1/messages",
            "/v1/files",
            "/v1/messages/batches",
        ] {
            assert_eq!(by_path("POST", path), Some(Api::Other), "{path}");
        }
        assert_eq!(by_path("GET", "/v1/chat/completions"), Some(Api::Other));
        for path in ["", "/", "/invocations", "*", "/v1/models/x:generateContent"] {
            assert_eq!(by_path("POST", path), None, "{path}");
        }
    }

    #[test]
    fn an_unknown_path_is_known_by_its_bodies() {
        assert_eq!(by_answer(&json!({"object": "chat.completion"})), Some(Api::ChatCompletions));
        assert_eq!(by_answer(&json!({"choices": [{"delta": {}}]})), Some(Api::ChatCompletions));
        assert_eq!(by_answer(&json!({"choices": [{"text": ""}]})), Some(Api::Completions));
        assert_eq!(by_answer(&json!({"type": "response.created", "response": {}})), Some(Api::Responses));
        assert_eq!(by_answer(&json!({"type": "message", "content": []})), Some(Api::Messages));
        assert_eq!(
            by_answer(&json!({"object": "list", "data": [{"object": "embedding"}]})),
            Some(Api::Embeddings)
        );
        assert_eq!(by_answer(&json!({"object": "thread.message", "content": [], "role": "user"})), None);
        assert_eq!(by_request(&json!({"messages": []})), Some(Api::ChatCompletions));
        assert_eq!(by_request(&json!({"messages": [], "anthropic_version": "x"})), Some(Api::Messages));
        assert_eq!(by_request(&json!({"model": "m", "input": [{"role": "user"}]})), Some(Api::Responses));
        assert_eq!(by_request(&json!({"model": "tts", "input": "say this"})), None);
    }

    #[test]
    fn an_azure_deployment_is_the_model() {
        assert_eq!(deployment("/openai/deployments/my-gpt/chat/completions?x=1"), Some("my-gpt"));
        assert_eq!(deployment("/openai/v1/responses"), None);
    }
}
