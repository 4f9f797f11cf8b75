use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{Message, Tool};

/// What could be read from the two bodies of an exchange. Every part may be missing: readers are lenient, and what
/// cannot be read stays recorded raw.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Reading {
    pub api: Api,
    /// The model that was asked for.
    pub model: Option<String>,
    /// The model that says it answered.
    pub response_model: Option<String>,
    /// The upstream's id of the answer.
    pub response_id: Option<String>,
    /// Whether the answer is an event stream.
    pub stream: bool,
    /// The conversation that was sent: system instructions first.
    pub messages: Vec<Message>,
    pub tools: Vec<Tool>,
    /// JSON Schema that the answer was asked to follow.
    pub output_schema: Option<Value>,
    /// `previous_response_id` of the Responses API.
    pub previous_response_id: Option<String>,
    /// `conversation` of the Responses API.
    pub conversation: Option<String>,
    /// A session named in the body: (key it was found under, value).
    pub session: Option<(String, String)>,
    /// A weak hint of a session (`prompt_cache_key`): many sessions may share one.
    pub cache_key: Option<String>,
    /// The end user named in the body.
    pub user: Option<String>,
    /// The answers, by index; mostly one.
    pub choices: Vec<Choice>,
    /// As the upstream reported it; never a guess.
    pub usage: Option<Usage>,
    pub error: Option<ApiError>,
    /// Whether the answer's own end mark was seen (`[DONE]`, `message_stop`, `response.completed`, a whole JSON).
    pub finished: bool,
}

/// Which API an exchange speaks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Api {
    ChatCompletions,
    Completions,
    Responses,
    Embeddings,
    Messages,
    #[default]
    Other,
}

impl FromStr for Api {
    type Err = ();

    fn from_str(s: &str) -> Result<Self, ()> {
        [
            Self::ChatCompletions,
            Self::Completions,
            Self::Responses,
            Self::Embeddings,
            Self::Messages,
            Self::Other,
        ]
        .into_iter()
        .find(|api| api.as_str() == s)
        .ok_or(())
    }
}

impl Api {
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::ChatCompletions => "chat_completions",
            Self::Completions => "completions",
            Self::Responses => "responses",
            Self::Embeddings => "embeddings",
            Self::Messages => "messages",
            Self::Other => "other",
        }
    }

    /// Whether an answer is a model's turn in a conversation.
    #[must_use]
    pub fn converses(self) -> bool {
        matches!(self, Self::ChatCompletions | Self::Completions | Self::Responses | Self::Messages)
    }
}

impl fmt::Display for Api {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// One answer of a response.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Choice {
    pub index: u32,
    pub message: Message,
    /// The API's own word: `finish_reason`, `stop_reason`, or the Responses API's `status`.
    pub finish_reason: Option<String>,
}

/// Tokens as the upstream counted them; absent is none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Usage {
    pub input_tokens: Option<u64>,
    pub output_tokens: Option<u64>,
    /// The part of `input_tokens` that came from a prompt cache.
    pub cached_input_tokens: Option<u64>,
    /// The part of `output_tokens` spent on reasoning.
    pub reasoning_tokens: Option<u64>,
}

/// An error that the upstream reported in a body or in a stream.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct ApiError {
    pub kind: Option<String>,
    pub code: Option<String>,
    pub message: String,
}
