//! Tools that a chat offers: what the template shows of them, which calls an answer may have, and what it must be where one is
//! asked for.

use serde_json::{Map, Value, json};

use super::error::ApiError;
use crate::serve::calls::Callable;

/// The tools of a request.
pub(super) struct Tools {
    /// As the template shows them; null: none.
    pub shown: Value,
    /// None: whatever the answer says is text.
    pub callable: Option<Callable>,
    /// The schema of an answer that has to be a call; none: it need not be.
    pub required: Option<Value>,
}

impl Tools {
    /// From the parameters `tools`, `tool_choice` and `parallel_tool_calls`.
    ///
    /// # Errors
    /// What is wrong with them, by its path.
    pub(super) fn of(
        tools: Option<Vec<Value>>,
        choice: Option<&Value>,
        parallel: Option<bool>,
    ) -> Result<Self, ApiError> {
        let tools = tools.unwrap_or_default();
        let names: Vec<String> = tools.iter().enumerate().map(name).collect::<Result<_, _>>()?;
        let wanted = match choice.unwrap_or(&Value::Null) {
            Value::Null => None,
            Value::String(choice) if choice == "auto" => None,
            Value::String(choice) if choice == "none" => {
                return Ok(Self { shown: Value::Null, callable: None, required: None });
            }
            Value::String(choice) if choice == "required" => Some(&names[..]),
            choice => {
                let named = choice.pointer("/function/name").and_then(Value::as_str).ok_or_else(|| {
                    let message =
                        "Invalid 'tool_choice': expected 'none', 'auto', 'required' or {\"type\": \"function\", \"function\": {\"name\": …}}.";
                    ApiError::param("tool_choice", message).code("invalid_value")
                })?;
                let at = names.iter().position(|name| name == named).ok_or_else(|| {
                    let message = format!("Invalid 'tool_choice': there is no tool {named:?} in 'tools'.");
                    ApiError::param("tool_choice", message).code("invalid_value")
                })?;
                Some(&names[at..=at])
            }
        };
        let required = match wanted {
            None => None,
            Some([]) => {
                let message = "Invalid 'tool_choice': 'required' needs 'tools'.";
                return Err(ApiError::param("tool_choice", message).code("invalid_value"));
            }
            Some(wanted) => Some(call_schema(&tools, &names, wanted)?),
        };
        let callable =
            (!names.is_empty()).then(|| Callable { tools: names.into(), parallel: parallel.unwrap_or(true) });
        let shown = if tools.is_empty() { Value::Null } else { Value::Array(tools) };
        Ok(Self { shown, callable, required })
    }
}

fn name((at, tool): (usize, &Value)) -> Result<String, ApiError> {
    let path = format!("tools[{at}].function.name");
    tool.pointer("/function/name").and_then(Value::as_str).map(str::to_owned).ok_or_else(|| {
        ApiError::param(&path, format!("Missing required parameter: '{path}'."))
            .code("missing_required_parameter")
    })
}

/// Where schemas keep what they refer to by its path from the root.
const DEFINITIONS: [&str; 2] = ["$defs", "definitions"];

/// The schema of a call of one of the tools `wanted`.
fn call_schema(tools: &[Value], names: &[String], wanted: &[String]) -> Result<Value, ApiError> {
    let mut root = Map::new();
    let mut calls = Vec::new();
    for (at, tool) in tools.iter().enumerate().filter(|(at, _)| wanted.contains(&names[*at])) {
        let mut arguments = match &tool["function"]["parameters"] {
            Value::Null => json!({"type": "object"}),
            parameters => parameters.clone(),
        };
        for kind in DEFINITIONS {
            let Some(Value::Object(own)) = arguments.as_object_mut().and_then(|a| a.remove(kind)) else {
                continue;
            };
            let shared = root.entry(kind).or_insert_with(|| json!({}));
            for (name, definition) in own {
                if shared.get(&name).is_some_and(|other| *other != definition) {
                    let path = format!("tools[{at}].function.parameters.{kind}.{name}");
                    let message = format!(
                        "Invalid '{path}': another tool means something else by it, and 'tool_choice' asks for either."
                    );
                    return Err(ApiError::param(&path, message).code("invalid_value"));
                }
                shared[name] = definition;
            }
        }
        calls.push(json!({
            "type": "object",
            "properties": {"name": {"const": names[at]}, "arguments": arguments},
            "required": ["name", "arguments"],
            "additionalProperties": false,
        }));
    }
    root.insert("anyOf".to_owned(), Value::Array(calls));
    Ok(Value::Object(root))
}
