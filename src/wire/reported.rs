//! What an upstream reports besides the answer: tokens and errors.

use serde_json::Value;

use super::fields::{count, str, string, text_or_json};
use crate::model::{ApiError, Usage};

/// The longest error text that is kept of a body that is no JSON, in characters; proxies send whole web pages.
const MAX_ERROR_TEXT: usize = 500;

/// A `usage` object under either naming; none where there is no object.
pub(super) fn usage(of: &Value) -> Option<Usage> {
    let usage = of.get("usage").filter(|u| u.is_object())?;
    let first = |keys: &[&str]| keys.iter().find_map(|k| count(usage, k));
    let detail = |parents: &[&str], key| parents.iter().find_map(|p| count(&usage[*p], key));
    Some(Usage {
        input_tokens: first(&["prompt_tokens", "input_tokens"]),
        output_tokens: first(&["completion_tokens", "output_tokens"]),
        cached_input_tokens: detail(&["prompt_tokens_details", "input_tokens_details"], "cached_tokens")
            // Anthropic; DeepSeek; Moonshot and Mistral
            .or_else(|| {
                first(&[
                    "cache_read_input_tokens",
                    "prompt_cache_hit_tokens",
                    "cached_tokens",
                    "num_cached_tokens",
                ])
            }),
        reasoning_tokens: detail(&["completion_tokens_details", "output_tokens_details"], "reasoning_tokens")
            .or_else(|| first(&["reasoning_tokens"])),
    })
}

/// Takes over what a later report of the same answer says. Reports are cumulative, and may leave numbers out.
pub(super) fn update(usage: &mut Option<Usage>, later: Option<Usage>) {
    let Some(later) = later else { return };
    let earlier = usage.unwrap_or_default();
    *usage = Some(Usage {
        input_tokens: later.input_tokens.or(earlier.input_tokens),
        output_tokens: later.output_tokens.or(earlier.output_tokens),
        cached_input_tokens: later.cached_input_tokens.or(earlier.cached_input_tokens),
        reasoning_tokens: later.reasoning_tokens.or(earlier.reasoning_tokens),
    });
}

/// The error in a body or in a stream's event. `failed` says that something is known to have gone wrong, so that
/// also less telling shapes count.
pub(super) fn error(of: &Value, failed: bool) -> Option<ApiError> {
    match of.get("error") {
        Some(Value::String(message)) if !message.is_empty() => {
            return Some(ApiError { message: message.clone(), ..ApiError::default() });
        }
        Some(inner @ Value::Object(fields)) if !fields.is_empty() => {
            return Some(described(inner, string(inner, "type")));
        }
        _ => {}
    }
    let named = str(of, "object") == Some("error") || str(of, "type") == Some("error");
    if named || (failed && str(of, "message").is_some()) {
        return Some(described(of, string(of, "type").filter(|t| t != "error")));
    }
    // FastAPI's form, and those that say nothing we know
    let detail = text_or_json(of, "detail");
    (failed && !detail.is_empty()).then(|| ApiError { message: detail, ..ApiError::default() })
}

fn described(error: &Value, kind: Option<String>) -> ApiError {
    let code = text_or_json(error, "code");
    let message = text_or_json(error, "message");
    ApiError {
        kind,
        code: Some(code).filter(|c| !c.is_empty()),
        message: if message.is_empty() { error.to_string() } else { message },
    }
}

/// The error of a failed answer whose body is no JSON object; none where it is empty.
pub(super) fn error_text(body: &[u8]) -> Option<ApiError> {
    let text = String::from_utf8_lossy(&body[..body.len().min(4 * MAX_ERROR_TEXT)]);
    let message: String = text.trim().chars().take(MAX_ERROR_TEXT).collect();
    (!message.is_empty()).then(|| ApiError { message, ..ApiError::default() })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::{error, error_text, update, usage};
    use crate::model::{ApiError, Usage};

    #[test]
    fn both_namings_of_tokens_are_read() {
        let want = Usage {
            input_tokens: Some(10),
            output_tokens: Some(7),
            cached_input_tokens: Some(4),
            reasoning_tokens: Some(2),
        };
        let chat = json!({"usage": {"prompt_tokens": 10, "completion_tokens": 7.0,
            "prompt_tokens_details": {"cached_tokens": 4}, "completion_tokens_details": {"reasoning_tokens": 2}}});
        let responses = json!({"usage": {"input_tokens": 10, "output_tokens": 7,
            "input_tokens_details": {"cached_tokens": 4}, "output_tokens_details": {"reasoning_tokens": 2}}});
        assert_eq!(usage(&chat), Some(want));
        assert_eq!(usage(&responses), Some(want));
    }

    #[test]
    fn an_absent_count_stays_absent() {
        assert_eq!(usage(&json!({"usage": null})), None);
        assert_eq!(usage(&json!({})), None);
        assert_eq!(
            usage(&json!({"usage": {"prompt_tokens": 3, "completion_tokens": null, "cached_tokens": -1}})),
            Some(Usage { input_tokens: Some(3), ..Usage::default() })
        );
    }

    #[test]
    fn a_later_report_keeps_what_it_does_not_mention() {
        let mut sum = Some(Usage { input_tokens: Some(9), output_tokens: Some(1), ..Usage::default() });
        update(&mut sum, Some(Usage { output_tokens: Some(30), ..Usage::default() }));
        update(&mut sum, None);
        assert_eq!(sum, Some(Usage { input_tokens: Some(9), output_tokens: Some(30), ..Usage::default() }));
    }

    fn found(kind: Option<&str>, code: Option<&str>, message: &str) -> Option<ApiError> {
        Some(ApiError { kind: kind.map(Into::into), code: code.map(Into::into), message: message.into() })
    }

    #[test]
    fn errors_of_every_shape_are_read() {
        let openai = json!({"error": {"message": "m", "type": "t", "param": null, "code": "c"}});
        assert_eq!(error(&openai, true), found(Some("t"), Some("c"), "m"));
        let anthropic = json!({"type": "error", "error": {"type": "overloaded_error", "message": "m"}});
        assert_eq!(error(&anthropic, false), found(Some("overloaded_error"), None, "m"));
        let responses_event = json!({"type": "error", "code": "c", "message": "m", "param": null});
        assert_eq!(error(&responses_event, false), found(None, Some("c"), "m"));
        let vllm = json!({"object": "error", "message": "m", "type": "BadRequest", "code": 400});
        assert_eq!(error(&vllm, false), found(Some("BadRequest"), Some("400"), "m"));
        assert_eq!(error(&json!({"error": "gone"}), false), found(None, None, "gone"));
        assert_eq!(error(&json!({"detail": [1]}), true), found(None, None, "[1]"));
        assert_eq!(error_text(b" <h1>502</h1>\n"), found(None, None, "<h1>502</h1>"));
    }

    #[test]
    fn what_is_no_error_is_none() {
        assert_eq!(error(&json!({"error": null, "message": "hi", "detail": "x"}), false), None);
        assert_eq!(error(&json!({"error": {}}), true), None);
        assert_eq!(error_text(b" "), None);
    }
}
