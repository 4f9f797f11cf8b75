//! The JSON of answers: what chat completions and completions say in different words.

use std::sync::Arc;

use serde_json::{Map, Value, json};
use uuid::Uuid;

use crate::model::Micros;
use crate::serve::calls::Call;
use crate::serve::scheduler::Order;
use crate::serve::text::Text;
use crate::serve::voice::Told;

/// Which API asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Shape {
    Chat,
    Text,
}

/// How tokens are told where their probabilities are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Tell {
    Text,
    /// `token_id:7`
    Numbers,
}

/// What all parts of one answer share.
pub(super) struct Frame {
    shape: Shape,
    id: String,
    created: i64,
    /// As the request names it.
    model: String,
    /// Whether probabilities were asked for.
    tell: Option<Tell>,
    text: Arc<dyn Text>,
    prompt_tokens: usize,
    /// Answers a prompt.
    choices: usize,
    /// Answers in all.
    pub answers: usize,
}

/// Tokens counted over an answer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Usage {
    completion: usize,
    cached: usize,
    pub ended: usize,
}

impl Usage {
    /// An answer ended.
    pub(super) fn ended(&mut self, frame: &Frame, choice: usize, tokens: usize, cached: usize) {
        self.ended += 1;
        self.completion += tokens;
        // A prompt counts once, however many answers it has.
        if choice.is_multiple_of(frame.choices) {
            self.cached += cached;
        }
    }
}

impl Frame {
    pub(super) fn new(
        shape: Shape,
        model: String,
        order: &Order,
        tell: Option<Tell>,
        text: Arc<dyn Text>,
    ) -> Self {
        let prefix = match shape {
            Shape::Chat => "chatcmpl",
            Shape::Text => "cmpl",
        };
        Self {
            shape,
            id: format!("{prefix}-{}", Uuid::now_v7().simple()),
            created: Micros::now().0 / 1_000_000,
            model,
            tell,
            text,
            prompt_tokens: order.prompts.iter().map(Vec::len).sum(),
            choices: order.choices,
            answers: order.answers(),
        }
    }

    pub(super) fn usage(&self, usage: Usage) -> Value {
        json!({
            "prompt_tokens": self.prompt_tokens,
            "completion_tokens": usage.completion,
            "total_tokens": self.prompt_tokens + usage.completion,
            "prompt_tokens_details": {"cached_tokens": usage.cached},
        })
    }

    /// The whole of an answer, not streamed.
    pub(super) fn whole(&self, choices: Vec<Value>, usage: Usage) -> Value {
        let object = match self.shape {
            Shape::Chat => "chat.completion",
            Shape::Text => "text_completion",
        };
        let mut whole = self.head(object, choices);
        whole.insert("usage".into(), self.usage(usage));
        Value::Object(whole)
    }

    pub(super) fn choice(
        &self,
        index: usize,
        text: &str,
        calls: &[Call],
        told: &[Told],
        reason: &str,
    ) -> Value {
        let logprobs = self.logprobs(told);
        match self.shape {
            Shape::Chat => {
                let mut message = json!({"role": "assistant", "content": text, "refusal": null});
                if !calls.is_empty() {
                    if text.is_empty() {
                        message["content"] = Value::Null;
                    }
                    message["tool_calls"] = calls.iter().map(call).collect();
                }
                json!({
                    "index": index,
                    "message": message,
                    "logprobs": logprobs,
                    "finish_reason": reason,
                })
            }
            Shape::Text => {
                json!({"index": index, "text": text, "logprobs": logprobs, "finish_reason": reason})
            }
        }
    }

    /// One event of a stream; `choices` are of [`delta`](Self::delta) and its sisters.
    pub(super) fn chunk(&self, choices: Vec<Value>) -> Map<String, Value> {
        let object = match self.shape {
            Shape::Chat => "chat.completion.chunk",
            Shape::Text => "text_completion",
        };
        self.head(object, choices)
    }

    /// A piece of an answer. `first`: nothing of this answer came before.
    pub(super) fn delta(&self, index: usize, text: &str, told: &[Told], first: bool) -> Value {
        self.delta_or_end(index, text, told, None, first)
    }

    /// The end of an answer.
    pub(super) fn end(&self, index: usize, reason: &str, first: bool) -> Value {
        self.delta_or_end(index, "", &[], Some(reason), first)
    }

    /// A call, whole, in a chat that has begun.
    pub(super) fn call_delta(index: usize, made: &Call) -> Value {
        let mut delta = call(made);
        delta["index"] = made.at.into();
        json!({"index": index, "delta": {"tool_calls": [delta]}, "logprobs": null, "finish_reason": null})
    }

    fn delta_or_end(
        &self,
        index: usize,
        text: &str,
        told: &[Told],
        finish: Option<&str>,
        first: bool,
    ) -> Value {
        let logprobs = if told.is_empty() { Value::Null } else { self.logprobs(told) };
        match self.shape {
            Shape::Chat => {
                let mut delta = Map::new();
                if first {
                    delta.insert("role".into(), "assistant".into());
                }
                if first || !text.is_empty() {
                    delta.insert("content".into(), text.into());
                }
                json!({"index": index, "delta": delta, "logprobs": logprobs, "finish_reason": finish})
            }
            Shape::Text => {
                json!({"index": index, "text": text, "logprobs": logprobs, "finish_reason": finish})
            }
        }
    }

    fn head(&self, object: &str, choices: Vec<Value>) -> Map<String, Value> {
        let head = json!({
            "id": self.id, "object": object, "created": self.created, "model": self.model, "choices": choices,
        });
        match head {
            Value::Object(map) => map,
            _ => unreachable!("an object was written"),
        }
    }

    fn logprobs(&self, told: &[Told]) -> Value {
        if self.tell.is_none() {
            return Value::Null;
        }
        match self.shape {
            Shape::Chat => {
                let content: Vec<Value> = told.iter().map(|told| self.chat_logprob(told)).collect();
                json!({"content": content, "refusal": null})
            }
            Shape::Text => {
                let top = |told: &Told| {
                    let mut top = Map::new();
                    for (token, logprob) in &told.likely.top {
                        // Tokens that are written alike: the likeliest counts.
                        top.entry(self.token(*token)).or_insert_with(|| json!(logprob));
                    }
                    top.entry(self.token(told.token)).or_insert_with(|| json!(told.likely.logprob));
                    Value::Object(top)
                };
                json!({
                    "tokens": told.iter().map(|told| self.token(told.token)).collect::<Vec<_>>(),
                    "token_logprobs": told.iter().map(|told| told.likely.logprob).collect::<Vec<_>>(),
                    "top_logprobs": told.iter().map(top).collect::<Vec<_>>(),
                    "text_offset": told.iter().map(|told| told.start).collect::<Vec<_>>(),
                })
            }
        }
    }

    fn chat_logprob(&self, told: &Told) -> Value {
        let one = |token: u32, logprob: f32| json!({"token": self.token(token), "logprob": logprob, "bytes": self.text.bytes(token)});
        let top: Vec<Value> = told.likely.top.iter().map(|(token, logprob)| one(*token, *logprob)).collect();
        let mut all = one(told.token, told.likely.logprob);
        all["top_logprobs"] = Value::Array(top);
        all
    }

    fn token(&self, token: u32) -> String {
        match self.tell {
            Some(Tell::Numbers) => format!("token_id:{token}"),
            _ => String::from_utf8_lossy(self.text.bytes(token)).into_owned(),
        }
    }
}

fn call(call: &Call) -> Value {
    // The templates of Mistral take no other ids than of nine letters and digits. The lower half of a UUID is random.
    let mut random = Uuid::now_v7().as_u64_pair().1 & (u64::MAX >> 2);
    let mut letter = || {
        let digits = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";
        let at = random % digits.len() as u64;
        random /= digits.len() as u64;
        char::from(digits[at as usize])
    };
    let id: String = std::iter::repeat_with(&mut letter).take(9).collect();
    json!({"id": id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}})
}
