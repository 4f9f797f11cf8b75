//! Tools that a chat offers: what the template shows of them, which calls an answer may have, and what it must be where one is
//! asked for.

use serde_json::{Value, json};

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
        let mut is_named = false;
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
                    ApiError::param("tool_choice", message)
                })?;
                let at = names.iter().position(|name| name == named).ok_or_else(|| {
                    let message = format!("Invalid 'tool_choice': there is no tool {named:?} in 'tools'.");
                    ApiError::param("tool_choice", message)
                })?;
                is_named = true;
                Some(&names[at..=at])
            }
        };
        let required = match wanted {
            None => None,
            Some([]) => {
                let message = "Invalid 'tool_choice': 'required' needs 'tools'.";
                return Err(ApiError::param("tool_choice", message));
            }
            Some(wanted) => Some(call_schema(&tools, &names, wanted)),
        };
        let parallel = parallel.unwrap_or(true);
        let callable = (!names.is_empty()).then(|| Callable { tools: names.into(), parallel, is_named });
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

/// The schema of a call of one of the tools `wanted`.
fn call_schema(tools: &[Value], names: &[String], wanted: &[String]) -> Value {
    let chosen = tools.iter().zip(names).filter(|(_, name)| wanted.contains(name));
    let calls = chosen.enumerate().map(|(at, (tool, name))| {
        let mut arguments = match &tool["function"]["parameters"] {
            Value::Object(parameters) => Value::Object(parameters.clone()),
            _ => json!({}),
        };
        arguments["type"] = "object".into();
        relocate(&mut arguments, &format!("#/anyOf/{at}/properties/arguments"));
        json!({
            "type": "object",
            "properties": {"name": {"const": name}, "arguments": arguments},
            "required": ["name", "arguments"],
            "additionalProperties": false,
        })
    });
    json!({"anyOf": calls.collect::<Vec<_>>()})
}

/// Makes references from the root of a schema ones from `root`, where the schema is put.
fn relocate(schema: &mut Value, root: &str) {
    match schema {
        Value::Object(map) => {
            for (key, value) in map {
                match value {
                    Value::String(to) if key == "$ref" && to.starts_with('#') => {
                        *to = format!("{root}{}", &to[1..])
                    }
                    value => relocate(value, root),
                }
            }
        }
        Value::Array(values) => values.iter_mut().for_each(|value| relocate(value, root)),
        _ => {}
    }
}
