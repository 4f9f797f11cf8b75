use std::fmt;

use serde::{Deserialize, Serialize};
use serde_json::Value;

/// One message of a conversation, in one form for every API.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Message {
    pub role: Role,
    /// The text parts, joined; null and absent are empty.
    #[serde(rename = "content")]
    pub text: String,
    /// Who speaks, where several agents share a conversation.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tool_calls: Vec<ToolCall>,
    /// On tool results: the call that is answered.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tool_call_id: Option<String>,
    /// On tool results: the API's own mark that the tool failed.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub tool_failed: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refusal: Option<String>,
    /// Visible reasoning (`reasoning_content`, thinking blocks); never part of a prefix.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reasoning: Option<String>,
}

/// Who speaks. `Developer` is read as `System`, `Function` as `Tool`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    System,
    #[default]
    User,
    Assistant,
    Tool,
}

impl Role {
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::System => "system",
            Self::User => "user",
            Self::Assistant => "assistant",
            Self::Tool => "tool",
        }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A model's request to run a tool.
///
/// In JSON it has OpenAI's shape: `{"id", "type": "function", "function": {"name", "arguments"}}`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ToolCall {
    pub id: String,
    pub name: String,
    /// JSON text as the model wrote it; not always valid.
    pub arguments: String,
}

#[derive(Serialize, Deserialize)]
struct ToolCallJson {
    #[serde(default)]
    id: String,
    #[serde(rename = "type", default)]
    kind: String,
    function: FunctionJson,
}

#[derive(Serialize, Deserialize)]
struct FunctionJson {
    name: String,
    arguments: String,
}

impl Serialize for ToolCall {
    fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        ToolCallJson {
            id: self.id.clone(),
            kind: "function".into(),
            function: FunctionJson { name: self.name.clone(), arguments: self.arguments.clone() },
        }
        .serialize(s)
    }
}

impl<'de> Deserialize<'de> for ToolCall {
    fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        let ToolCallJson { id, function, .. } = ToolCallJson::deserialize(d)?;
        Ok(Self { id, name: function.name, arguments: function.arguments })
    }
}

/// A tool that the request offered.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tool {
    pub name: String,
    pub description: String,
    /// JSON Schema of the arguments; null where none was given.
    pub parameters: Value,
}
