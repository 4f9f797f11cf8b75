use serde_json::{Value, json};

/// One answer of the model, as chat completions carry it: written plainly or as a stream, and read back from both.
/// <https://platform.openai.com/docs/api-reference/chat>
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Answer {
    pub id: String,
    pub content: Option<String>,
    pub calls: Vec<Call>,
    /// `stop`, `length` or `tool_calls`.
    pub finish: String,
}

/// A tool call that the model asks for.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Call {
    pub id: String,
    pub name: String,
    /// JSON text, or what the model takes for it.
    pub arguments: String,
}

/// What stands beside an answer in a response.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Frame {
    pub model: String,
    /// Unix seconds.
    pub created: i64,
    pub prompt_tokens: usize,
    pub completion_tokens: usize,
}

impl Frame {
    fn usage(&self) -> Value {
        let total = self.prompt_tokens + self.completion_tokens;
        json!({
            "prompt_tokens": self.prompt_tokens, "completion_tokens": self.completion_tokens, "total_tokens": total,
        })
    }
}

/// Letters of a tool call's arguments that come in one event.
const ARGUMENT_PIECE: usize = 9;

impl Answer {
    /// The assistant's message, as the history repeats it.
    pub(super) fn message(&self) -> Value {
        let mut message = json!({"role": "assistant", "content": self.content});
        if !self.calls.is_empty() {
            let call = |c: &Call| json!({"id": c.id, "type": "function", "function": {"name": c.name, "arguments": c.arguments}});
            message["tool_calls"] = self.calls.iter().map(call).collect();
        }
        message
    }

    /// The body of a plain response.
    pub(super) fn plain(&self, frame: &Frame) -> Value {
        json!({
            "id": self.id, "object": "chat.completion", "created": frame.created, "model": frame.model,
            "choices": [{"index": 0, "message": self.message(), "logprobs": null, "finish_reason": self.finish}],
            "usage": frame.usage(), "system_fingerprint": null,
        })
    }

    /// The events of a streamed response, in the order of sending; `with_usage` as `stream_options.include_usage` asks.
    pub(super) fn events(&self, frame: &Frame, with_usage: bool) -> Vec<String> {
        let mut events = Vec::new();
        let mut send = |choices: Value, usage: Option<Value>| {
            let mut chunk = json!({
                "id": self.id, "object": "chat.completion.chunk", "created": frame.created, "model": frame.model,
                "system_fingerprint": null, "choices": choices,
            });
            if with_usage {
                chunk["usage"] = usage.unwrap_or(Value::Null);
            }
            events.push(format!("data: {chunk}\n\n"));
        };
        let delta = |delta: Value, finish: Option<&str>| json!([{"index": 0, "delta": delta, "logprobs": null, "finish_reason": finish}]);
        let first = if self.calls.is_empty() { json!("") } else { Value::Null };
        send(delta(json!({"role": "assistant", "content": first}), None), None);
        for word in self.content.as_deref().unwrap_or_default().split_inclusive(' ') {
            send(delta(json!({"content": word}), None), None);
        }
        for (index, call) in self.calls.iter().enumerate() {
            let head = json!({"index": index, "id": call.id, "type": "function",
                "function": {"name": call.name, "arguments": ""}});
            send(delta(json!({"tool_calls": [head]}), None), None);
            let letters: Vec<char> = call.arguments.chars().collect();
            for piece in letters.chunks(ARGUMENT_PIECE) {
                let piece: String = piece.iter().collect();
                let more = json!({"index": index, "function": {"arguments": piece}});
                send(delta(json!({"tool_calls": [more]}), None), None);
            }
        }
        send(delta(json!({}), Some(&self.finish)), None);
        if with_usage {
            send(json!([]), Some(frame.usage()));
        }
        events.push("data: [DONE]\n\n".to_owned());
        events
    }

    /// Reads a plain response; none where it is no chat completion.
    pub(super) fn of_plain(body: &Value) -> Option<Self> {
        let choice = &body["choices"][0];
        let message = choice["message"].as_object()?;
        let calls = message.get("tool_calls").and_then(Value::as_array);
        let call = |c: &Value| {
            Some(Call {
                id: c["id"].as_str()?.to_owned(),
                name: c["function"]["name"].as_str()?.to_owned(),
                arguments: c["function"]["arguments"].as_str()?.to_owned(),
            })
        };
        Some(Self {
            id: body["id"].as_str()?.to_owned(),
            content: message.get("content").and_then(Value::as_str).map(str::to_owned),
            calls: calls.into_iter().flatten().map(call).collect::<Option<_>>()?,
            finish: choice["finish_reason"].as_str()?.to_owned(),
        })
    }

    /// Reads a whole streamed response; none where it is no stream of a chat completion, or has no end.
    pub(super) fn of_events(body: &str) -> Option<Self> {
        let mut answer = Self::default();
        let mut done = false;
        for data in body.lines().filter_map(|line| line.strip_prefix("data: ")) {
            if data == "[DONE]" {
                done = true;
                break;
            }
            let chunk: Value = serde_json::from_str(data).ok()?;
            answer.id = chunk["id"].as_str()?.to_owned();
            let choice = &chunk["choices"][0];
            if let Some(text) = choice["delta"]["content"].as_str() {
                answer.content.get_or_insert_default().push_str(text);
            }
            for part in choice["delta"]["tool_calls"].as_array().into_iter().flatten() {
                answer.add(part)?;
            }
            if let Some(finish) = choice["finish_reason"].as_str() {
                answer.finish = finish.to_owned();
            }
        }
        done.then_some(answer)
    }

    /// Adds a piece of a tool call to the call that it belongs to.
    fn add(&mut self, part: &Value) -> Option<()> {
        let index = usize::try_from(part["index"].as_u64()?).ok()?;
        if index == self.calls.len() {
            self.calls.push(Call::default());
        }
        let call = self.calls.get_mut(index)?;
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        call.id.push_str(&text(&part["id"]));
        call.name.push_str(&text(&part["function"]["name"]));
        call.arguments.push_str(&text(&part["function"]["arguments"]));
        Some(())
    }
}
