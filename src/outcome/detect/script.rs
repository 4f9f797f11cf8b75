//! Transcripts for tests, written as they happen.

use std::time::Duration;

use crate::model::{
    Ended, ExchangeId, Message, Micros, Role, Scope, Step, Tool, ToolCall, TrajectoryId, Transcript,
};

pub(in crate::outcome) struct Script(Transcript);

fn says(role: Role, text: &str) -> Message {
    Message { role, text: text.into(), ..Message::default() }
}

pub(in crate::outcome) fn user(text: &str) -> Message {
    says(Role::User, text)
}

impl Script {
    pub fn new() -> Self {
        Self(Transcript {
            trajectory: TrajectoryId::new(),
            scope: Scope::default(),
            messages: Vec::new(),
            steps: Vec::new(),
            tools: Vec::new(),
            output_schema: None,
        })
    }

    fn push(mut self, m: Message) -> Self {
        self.0.messages.push(m);
        self
    }

    fn step(&mut self, message: Option<usize>) {
        self.0.steps.push(Step {
            exchange: ExchangeId::new(),
            response_id: None,
            message,
            status: Some(200),
            ended: Ended::Complete,
            finish_reason: Some("stop".into()),
            model: None,
            usage: None,
            started: Micros::now(),
            duration: Duration::from_millis(10),
            time_to_first_byte: None,
        });
    }

    pub fn system(self, text: &str) -> Self {
        self.push(says(Role::System, text))
    }

    pub fn user(self, text: &str) -> Self {
        self.push(user(text))
    }

    pub fn answer(mut self, text: &str) -> Self {
        let index = self.0.messages.len();
        self.step(Some(index));
        self.push(says(Role::Assistant, text))
    }

    pub fn call(mut self, tool: &str, arguments: &str) -> Self {
        let index = self.0.messages.len();
        self.step(Some(index));
        let call = ToolCall { id: format!("call_{index}"), name: tool.into(), arguments: arguments.into() };
        self.push(Message { tool_calls: vec![call], ..says(Role::Assistant, "") })
    }

    /// The result of the latest call.
    pub fn result(self, text: &str) -> Self {
        let id = self.0.messages.iter().rev().find_map(|m| m.tool_calls.first()).map(|c| c.id.clone());
        self.push(Message { tool_call_id: id, ..says(Role::Tool, text) })
    }

    pub fn same_ids(mut self) -> Self {
        for m in &mut self.0.messages {
            m.tool_calls.iter_mut().for_each(|c| c.id = "call".into());
            m.tool_call_id = m.tool_call_id.take().map(|_| "call".into());
        }
        self
    }

    /// A request that was not answered.
    pub fn failed_request(mut self, status: Option<u16>, ended: Ended) -> Self {
        self.step(None);
        self.last_step(|s| {
            s.status = status;
            s.ended = ended;
            s.finish_reason = None;
        })
    }

    pub fn last_step(mut self, change: impl FnOnce(&mut Step)) -> Self {
        change(self.0.steps.last_mut().expect("the script has a step"));
        self
    }

    pub fn last_message(mut self, change: impl FnOnce(&mut Message)) -> Self {
        change(self.0.messages.last_mut().expect("the script has a message"));
        self
    }

    pub fn tool(mut self, name: &str, parameters: serde_json::Value) -> Self {
        self.0.tools.push(Tool { name: name.into(), description: String::new(), parameters });
        self
    }

    pub fn schema(mut self, schema: serde_json::Value) -> Self {
        self.0.output_schema = Some(schema);
        self
    }

    pub fn done(self) -> Transcript {
        self.0
    }
}
