use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde::Serialize;
use serde_json::Value;

use super::{ClusterId, Ended, ExchangeId, Message, Micros, Outcome, Scope, Tool, TrajectoryId, Usage};

/// The ordered exchanges of one task.
#[derive(Clone, Debug, Serialize)]
pub struct Trajectory {
    pub id: TrajectoryId,
    pub scope: Scope,
    /// The name that the client gave it.
    pub session_id: Option<String>,
    /// The weakest link that holds it together, and how sure it is, 0 to 1.
    pub link: Link,
    pub link_confidence: f64,
    pub started: Micros,
    pub ended: Micros,
    pub exchanges: u32,
    pub model: Option<String>,
    /// The first user message, shortened.
    pub task: String,
    /// None until assessed.
    pub outcome: Option<Outcome>,
    pub cluster_id: Option<ClusterId>,
}

/// How an exchange was joined to its trajectory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Link {
    /// The client named the session.
    Explicit,
    /// `previous_response_id` or `conversation`.
    ResponseId,
    /// The request begins with a recorded request and its answer.
    Prefix,
    /// The same request again after one that was not answered.
    Retry,
    /// A tool result answers a recorded tool call.
    ToolCall,
    /// Nothing to join: it starts a trajectory.
    First,
}

impl Link {
    const NAMES: [(Self, &'static str); 6] = [
        (Self::Explicit, "explicit"),
        (Self::ResponseId, "response_id"),
        (Self::Prefix, "prefix"),
        (Self::Retry, "retry"),
        (Self::ToolCall, "tool_call"),
        (Self::First, "first"),
    ];

    #[must_use]
    pub fn as_str(self) -> &'static str {
        Self::NAMES.iter().find(|(l, _)| *l == self).map_or("first", |(_, n)| n)
    }
}

impl fmt::Display for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Link {
    type Err = ();

    fn from_str(s: &str) -> Result<Self, ()> {
        Self::NAMES.iter().find(|(_, n)| *n == s).map(|(l, _)| *l).ok_or(())
    }
}

impl Serialize for Link {
    fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.serialize_str(self.as_str())
    }
}

/// A trajectory with what was said in it, as outcomes and dreams read it.
#[derive(Clone, Debug)]
pub struct Transcript {
    pub trajectory: TrajectoryId,
    pub scope: Scope,
    /// The longest conversation seen, each answer at its place: of a forked trajectory the branch that ended last.
    pub messages: Vec<Message>,
    /// Model turns in order of time, those of other branches too.
    pub steps: Vec<Step>,
    /// The tools that the last request with tools offered.
    pub tools: Vec<Tool>,
    /// The JSON Schema that the last request asked its answer to follow.
    pub output_schema: Option<Value>,
}

/// One model turn: an exchange, and where its answer stands in the conversation.
#[derive(Clone, Debug)]
pub struct Step {
    pub exchange: ExchangeId,
    pub response_id: Option<String>,
    /// Index into [`Transcript::messages`] of the answer; none when there was none or it is on another branch.
    pub message: Option<usize>,
    pub status: Option<u16>,
    pub ended: Ended,
    pub finish_reason: Option<String>,
    pub model: Option<String>,
    pub usage: Option<Usage>,
    pub started: Micros,
    /// From the request's head to the end of the response.
    pub duration: Duration,
    /// From the request's head to the first byte of the response's body.
    pub time_to_first_byte: Option<Duration>,
}

impl Transcript {
    /// The answer of a step, where it is on the branch in `messages`.
    #[must_use]
    pub fn answer(&self, step: usize) -> Option<&Message> {
        self.messages.get(self.steps.get(step)?.message?)
    }

    /// The step whose answer is the message at `index`.
    #[must_use]
    pub fn step_of(&self, index: usize) -> Option<usize> {
        self.steps.iter().rposition(|s| s.message == Some(index))
    }

    /// The result of a tool call, and its index in `messages`: the first answer to `call_id` after the call.
    #[must_use]
    pub fn result_of(&self, after: usize, call_id: &str) -> Option<(usize, &Message)> {
        self.messages
            .iter()
            .enumerate()
            .skip(after + 1)
            .find(|(_, m)| m.tool_call_id.as_deref() == Some(call_id))
    }
}
