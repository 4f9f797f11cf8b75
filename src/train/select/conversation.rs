//! One conversation as the upstream saw it.

use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::super::chat::{Chat, flatten};
use super::Skipped;
use crate::model::{Api, Ended, Exchange, Message, Reading, Step, Trajectory, TrajectoryId, Transcript};
use crate::store::{Correction, Store, StoreError};
use crate::trajectory::transcript;
use crate::wire;

/// What teaches.
pub(super) enum Source {
    Success,
    Correction(Correction),
}

impl Source {
    pub(super) fn is_correction(&self) -> bool {
        matches!(self, Self::Correction(_))
    }
}

type Read<T> = Result<Result<T, Skipped>, StoreError>;

/// For `let … else`-like early ends within a [`Read`].
macro_rules! some {
    ($value:expr, $why:expr) => {
        match $value {
            Some(value) => value,
            None => return Ok(Err($why)),
        }
    };
}

/// All answers that the model gave on the branch that ended last; with what the request's first messages hash to.
pub(super) fn succeeded(store: &Store, trajectory: &Trajectory) -> Read<(Chat, [u8; 32])> {
    let transcript = some!(transcript(store, trajectory.id)?, Skipped::Gone);
    let tip = transcript.steps.iter().filter(|s| s.message.is_some()).max_by_key(|s| s.message);
    let step = some!(tip, if transcript.messages.is_empty() { Skipped::Gone } else { Skipped::Unfinished });
    let at = step.message.unwrap_or_default();
    let Asked { mut messages, tools, group } = match asked(store, &transcript, step)? {
        Ok(asked) => asked,
        Err(why) => return Ok(Err(why)),
    };
    let answer = &transcript.messages[at];
    let whole = step.ended == Ended::Complete
        && !step.finish_reason.as_deref().is_some_and(is_cut)
        && answer.refusal.is_none()
        && at + 1 == transcript.messages.len();
    if !whole {
        return Ok(Err(Skipped::Unfinished));
    }
    if answer.text.trim().is_empty() && answer.tool_calls.is_empty() {
        return Ok(Err(Skipped::Empty));
    }
    let own: Vec<usize> = transcript.steps.iter().filter_map(|s| s.message).collect();
    // Indexes of `messages` are those of the transcript only where the request carried all of it.
    let aligned = messages.len() == at;
    for (i, message) in messages.iter_mut().enumerate() {
        if message["role"] == "assistant" && !(aligned && own.contains(&i)) {
            message["weight"] = json!(0);
        }
    }
    messages.push(printed(answer));
    Ok(Ok((Chat { messages, tools }, group)))
}

/// The request that was answered wrongly, with the answer that it should have got.
pub(super) fn corrected(
    store: &Store,
    trajectory: &Trajectory,
    correction: &Correction,
) -> Read<(Chat, [u8; 32])> {
    let transcript = some!(transcript(store, trajectory.id)?, Skipped::Gone);
    let step = match correction.exchange {
        Some(id) => transcript.steps.iter().find(|s| s.exchange == id),
        None => transcript.steps.iter().filter(|s| s.message.is_some()).max_by_key(|s| s.message),
    };
    let step = some!(step, Skipped::Gone);
    let text = correction.text.trim();
    if text.is_empty() {
        return Ok(Err(Skipped::Empty));
    }
    let Asked { mut messages, tools, group } = match asked(store, &transcript, step)? {
        Ok(asked) => asked,
        Err(why) => return Ok(Err(why)),
    };
    for message in messages.iter_mut().filter(|m| m["role"] == "assistant") {
        message["weight"] = json!(0);
    }
    messages.push(json!({"role": "assistant", "content": text}));
    Ok(Ok((Chat { messages, tools }, group)))
}

/// The side of the split hangs on the whole of the first request of a trajectory: it never changes, and equal
/// conversations have the same. None where it is not recorded any more.
pub(super) fn opening(store: &Store, first: TrajectoryId) -> Result<Option<[u8; 32]>, StoreError> {
    let Some(turn) = store.turns(first)?.into_iter().next() else { return Ok(None) };
    let Some(exchange) = store.exchange(turn.step.exchange)? else { return Ok(None) };
    if exchange.request_body.truncated {
        return Ok(None);
    }
    Ok(Some(hash_of(&wire::read(&exchange))))
}

fn hash_of(reading: &Reading) -> [u8; 32] {
    let messages = serde_json::to_string(&reading.messages).expect("messages are plain data");
    Sha256::digest(messages).into()
}

struct Asked {
    messages: Vec<Value>,
    tools: Value,
    group: [u8; 32],
}

/// What the upstream was asked in a step: of a chat completion the very messages; of other APIs the same in that shape.
fn asked(store: &Store, transcript: &Transcript, step: &Step) -> Read<Asked> {
    let exchange = some!(store.exchange(step.exchange)?, Skipped::Gone);
    let cut =
        |e: &Exchange| e.request_body.truncated || e.response.as_ref().is_some_and(|r| r.body.truncated);
    if cut(&exchange) {
        return Ok(Err(Skipped::Gone));
    }
    let reading = wire::read(&exchange);
    let sent = (reading.api == Api::ChatCompletions).then(|| sent(&exchange)).flatten();
    let (mut messages, tools) = match sent {
        Some(sent) => sent,
        None => {
            // A request that names the one before it carries only what is new.
            let at = some!(step.message, Skipped::Gone);
            let messages = transcript.messages[..at].iter().map(printed).collect();
            (messages, tools_of(&reading))
        }
    };
    for message in &mut messages {
        if flatten(message).is_err() {
            return Ok(Err(Skipped::NotText));
        }
        if let Some(fields) = message.as_object_mut() {
            fields.shift_remove("weight");
        }
    }
    if messages.is_empty() {
        return Ok(Err(Skipped::Empty));
    }
    Ok(Ok(Asked { messages, tools, group: hash_of(&reading) }))
}

/// Messages and tools of a chat completion's request, as they were sent.
fn sent(exchange: &Exchange) -> Option<(Vec<Value>, Value)> {
    let body = wire::encoding::decode(&exchange.request_body.bytes, &exchange.request_headers);
    let mut body: Value = serde_json::from_slice(&body).ok()?;
    let Value::Array(messages) = body["messages"].take() else { return None };
    if !messages.iter().all(Value::is_object) || body["functions"].is_array() {
        return None;
    }
    let tools = body["tools"].take();
    let offered = tools.as_array().is_some_and(|list| !list.is_empty());
    Some((messages, if offered { tools } else { Value::Null }))
}

fn tools_of(reading: &Reading) -> Value {
    if reading.tools.is_empty() {
        return Value::Null;
    }
    let function = |tool| json!({"type": "function", "function": tool});
    reading.tools.iter().map(function).collect()
}

/// A message in the shape of a chat completion, without what is only Remora's.
fn printed(message: &Message) -> Value {
    let bare = Message { reasoning: None, refusal: None, tool_failed: false, ..message.clone() };
    serde_json::to_value(bare).expect("a message is plain data")
}

/// Whether a finish reason, in the words of any API, says that an answer is not whole.
fn is_cut(reason: &str) -> bool {
    matches!(
        reason,
        "length" | "max_tokens" | "content_filter" | "refusal" | "incomplete" | "failed" | "cancelled"
    )
}
