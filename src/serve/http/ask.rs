//! The parameters that chat completions and completions share.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::Deserialize;
use serde_json::{Value, json};

use super::error::ApiError;
use crate::serve::sampling::Sampling;
use crate::serve::text::Text;

/// As a client sends them. Null means the same as nothing.
#[derive(Debug, Deserialize)]
pub(super) struct Asked {
    pub model: Option<String>,
    pub stream: Option<bool>,
    pub stream_options: Option<StreamOptions>,
    pub n: Option<usize>,
    max_tokens: Option<usize>,
    max_completion_tokens: Option<usize>,
    temperature: Option<f64>,
    top_p: Option<f64>,
    seed: Option<i64>,
    stop: Option<OneOrMore>,
    stop_token_ids: Option<Vec<u32>>,
    ignore_eos: Option<bool>,
    logit_bias: Option<BTreeMap<String, f32>>,
    frequency_penalty: Option<f32>,
    presence_penalty: Option<f32>,
    pub response_format: Option<Value>,
    /// As vLLM has it: tokens are told by their numbers, `token_id:7`, not by their text.
    pub return_tokens_as_token_ids: Option<bool>,
}

#[derive(Debug, Deserialize)]
pub(super) struct StreamOptions {
    pub include_usage: Option<bool>,
}

#[derive(Debug, Deserialize)]
#[serde(untagged, expecting = "expected a string or a list of strings")]
enum OneOrMore {
    One(String),
    More(Vec<String>),
}

/// Answers that one request may ask for.
pub(super) const MOST_ANSWERS: usize = 128;
const MOST_STOPS: usize = 16;
const LONGEST_STOP: usize = 1024;

impl Asked {
    pub(super) fn streams(&self) -> bool {
        self.stream.unwrap_or(false)
    }

    pub(super) fn with_usage(&self) -> bool {
        self.stream_options.as_ref().and_then(|options| options.include_usage).unwrap_or(false)
    }

    pub(super) fn choices(&self) -> Result<usize, ApiError> {
        let n = self.n.unwrap_or(1);
        within("n", n as f64, 1.0, MOST_ANSWERS as f64)?;
        Ok(n)
    }

    /// The tokens that an answer may have, and the parameter that said so.
    pub(super) fn limit(&self) -> Result<Option<(usize, &'static str)>, ApiError> {
        let newer = self.max_completion_tokens.map(|limit| (limit, "max_completion_tokens"));
        let limit = newer.or(self.max_tokens.map(|limit| (limit, "max_tokens")));
        if let Some((0, name)) = limit {
            return Err(ApiError::param(name, format!("Invalid '{name}': it has to be at least 1.")));
        }
        Ok(limit)
    }

    /// `logprobs`: as the two APIs say it in their own ways.
    pub(super) fn sampling(&self, logprobs: Option<usize>) -> Result<Sampling, ApiError> {
        let temperature = self.temperature.unwrap_or(1.0);
        let top_p = self.top_p.unwrap_or(1.0);
        within("temperature", temperature, 0.0, 2.0)?;
        within("top_p", top_p, 0.0, 1.0)?;
        let frequency_penalty = self.frequency_penalty.unwrap_or(0.0);
        let presence_penalty = self.presence_penalty.unwrap_or(0.0);
        within("frequency_penalty", frequency_penalty.into(), -2.0, 2.0)?;
        within("presence_penalty", presence_penalty.into(), -2.0, 2.0)?;
        let seed = match self.seed {
            Some(seed) => u64::from_ne_bytes(seed.to_ne_bytes()),
            None => {
                getrandom::u64().map_err(|error| ApiError::ours(format!("no random numbers: {error}")))?
            }
        };
        Ok(Sampling {
            temperature,
            top_p,
            seed,
            bias: self.bias()?,
            frequency_penalty,
            presence_penalty,
            logprobs,
        })
    }

    fn bias(&self) -> Result<Arc<[(u32, f32)]>, ApiError> {
        let mut bias = Vec::new();
        for (key, &value) in self.logit_bias.iter().flatten() {
            let path = format!("logit_bias.{key}");
            within(&path, value.into(), -100.0, 100.0)?;
            let token = key.parse().map_err(|_| {
                ApiError::param("logit_bias", format!("Invalid key in 'logit_bias': {key:?} is no token id."))
            })?;
            bias.push((token, value));
        }
        Ok(bias.into())
    }

    pub(super) fn stops(&self) -> Result<Vec<String>, ApiError> {
        let stops = match &self.stop {
            None => Vec::new(),
            Some(OneOrMore::One(stop)) => vec![stop.clone()],
            Some(OneOrMore::More(stops)) => stops.clone(),
        };
        if stops.len() > MOST_STOPS {
            return Err(ApiError::param(
                "stop",
                format!("Invalid 'stop': at most {MOST_STOPS} strings are taken."),
            ));
        }
        if let Some(at) = stops.iter().position(|stop| stop.is_empty() || stop.len() > LONGEST_STOP) {
            let message = format!("Invalid 'stop[{at}]': a stop string has 1 to {LONGEST_STOP} bytes.");
            return Err(ApiError::param(format!("stop[{at}]"), message));
        }
        Ok(stops)
    }

    /// The model's own and those that were asked for.
    pub(super) fn stop_tokens(&self, text: &dyn Text) -> Vec<u32> {
        let own = if self.ignore_eos == Some(true) { &[] } else { text.stops() };
        own.iter().chain(self.stop_token_ids.iter().flatten()).copied().collect()
    }

    /// The schema that answers must follow.
    pub(super) fn schema(&self) -> Result<Option<Value>, ApiError> {
        let Some(format) = &self.response_format else { return Ok(None) };
        match format["type"].as_str() {
            Some("text") => Ok(None),
            Some("json_object") => Ok(Some(json!({"type": "object"}))),
            Some("json_schema") => match &format["json_schema"]["schema"] {
                Value::Null => Err(ApiError::param(
                    "response_format.json_schema.schema",
                    "Missing required parameter: 'response_format.json_schema.schema'.",
                )
                .code("missing_required_parameter")),
                schema => Ok(Some(schema.clone())),
            },
            _ => Err(ApiError::param(
                "response_format.type",
                "Invalid 'response_format.type': expected 'text', 'json_object' or 'json_schema'.",
            )),
        }
    }
}

/// Checks a number's range.
pub(super) fn within(param: &str, given: f64, least: f64, most: f64) -> Result<(), ApiError> {
    if (least..=most).contains(&given) {
        return Ok(());
    }
    let message = format!("Invalid '{param}': {given} is not within {least} and {most}.");
    Err(ApiError::param(param, message))
}

/// The request needs more tokens than the model has room for; all the numbers are in the message.
pub(super) fn fits(prompt: usize, asked: Option<usize>, context: usize, param: &str) -> Result<(), ApiError> {
    let wanted = prompt.saturating_add(asked.unwrap_or(1));
    if wanted <= context {
        return Ok(());
    }
    let message = match asked {
        Some(asked) => format!(
            "This model's maximum context length is {context} tokens. However, you requested {wanted} tokens \
             ({prompt} in the {param}, {asked} in the completion). Please reduce the length of the {param} or \
             completion."
        ),
        None => format!(
            "This model's maximum context length is {context} tokens. However, your {param} resulted in {prompt} \
             tokens, which leaves no room for an answer. Please reduce the length of the {param}."
        ),
    };
    Err(ApiError::param(param, message).code("context_length_exceeded"))
}
