use serde_json::Value;

use crate::model::{Message, Role, Tool, ToolCall};
use crate::wire::chat::role;
use crate::wire::content::{Content, append};
use crate::wire::{fields, tools};

/// Input and output items of the Responses API as messages.
///
/// A turn of the model is several items there: reasoning, messages, calls. They become one message, in the output as
/// well as in the input that repeats it later.
#[derive(Default)]
pub(super) struct Items {
    pub messages: Vec<Message>,
    /// Tools that were offered in the middle of the conversation.
    pub tools: Vec<Tool>,
}

impl Items {
    pub fn of(list: &[Value]) -> Self {
        let mut items = Self::default();
        list.iter().for_each(|item| items.add(item));
        items
    }

    /// The one message of an answer's items. Only a compaction's output holds messages of others; they are its text.
    pub fn answer(self) -> Message {
        let mut answer = Message { role: Role::Assistant, ..Message::default() };
        for message in self.messages.into_iter().filter(|m| m.role != Role::Tool) {
            answer.text.push_str(&message.text);
            append(&mut answer.reasoning, message.reasoning.as_deref().unwrap_or_default());
            append(&mut answer.refusal, message.refusal.as_deref().unwrap_or_default());
            answer.tool_calls.extend(message.tool_calls);
        }
        answer
    }

    pub fn add(&mut self, item: &Value) {
        match fields::str(item, "type").unwrap_or("message") {
            "message" => self.add_message(item),
            "reasoning" => {
                let mut content = Content::of(&item["summary"]);
                content.add(&item["content"]);
                self.add_parts("", &(content.reasoning + &content.text), "");
            }
            "additional_tools" | "tool_search_output" => {
                tools::read(fields::list(item, "tools"), &mut self.tools)
            }
            "function_call" => self.add_call(item, "arguments", None),
            "custom_tool_call" => self.add_call(item, "input", None),
            // tools of the provider that the client runs
            kind @ ("local_shell_call" | "shell_call" | "computer_call") => {
                self.add_call(item, "action", Some(kind))
            }
            kind @ "apply_patch_call" => self.add_call(item, "operation", Some(kind)),
            kind if kind.ends_with("_call_output") => self.add_result(item),
            // tools that the provider runs, references, encrypted state
            _ => {}
        }
    }

    /// Appends to the model's turn; nothing where all are empty.
    pub fn add_parts(&mut self, text: &str, reasoning: &str, refusal: &str) {
        if !(text.is_empty() && reasoning.is_empty() && refusal.is_empty()) {
            let message = self.turn();
            message.text.push_str(text);
            append(&mut message.reasoning, reasoning);
            append(&mut message.refusal, refusal);
        }
    }

    fn add_message(&mut self, item: &Value) {
        let Some(role) = fields::str(item, "role").map(role) else { return };
        let content = Content::of(&item["content"]);
        if role == Role::Assistant {
            content.put_into(self.turn());
        } else {
            let mut message = Message { role, ..Message::default() };
            content.put_into(&mut message);
            self.messages.push(message);
        }
    }

    fn add_call(&mut self, item: &Value, arguments: &str, name: Option<&str>) {
        let call = ToolCall {
            id: fields::string(item, "call_id").unwrap_or_default(),
            name: name.map_or_else(|| fields::string(item, "name").unwrap_or_default(), String::from),
            arguments: fields::text_or_json(item, arguments),
        };
        self.turn().tool_calls.push(call);
    }

    fn add_result(&mut self, item: &Value) {
        let output = &item["output"];
        let mut text = Content::of(output).text;
        if text.is_empty() && !output.is_string() {
            // a shell's streams and exit codes
            text = fields::text_or_json(item, "output");
        }
        self.messages.push(Message {
            role: Role::Tool,
            text,
            tool_call_id: fields::string(item, "call_id"),
            tool_failed: fields::str(item, "status") == Some("failed"),
            ..Message::default()
        });
    }

    /// The model's turn that is being added to.
    fn turn(&mut self) -> &mut Message {
        if self.messages.last().is_none_or(|m| m.role != Role::Assistant) {
            self.messages.push(Message { role: Role::Assistant, ..Message::default() });
        }
        self.messages.last_mut().expect("a message was pushed if there was none")
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::Items;
    use crate::model::Role;

    #[test]
    fn the_items_of_a_turn_become_one_message() {
        let items = Items::of(&[
            json!({"role": "user", "content": "hi"}),
            json!({"type": "reasoning", "summary": [{"type": "summary_text", "text": "hm"}]}),
            json!({"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "a"}]}),
            json!({"type": "web_search_call", "id": "ws", "status": "completed"}),
            json!({"type": "function_call", "call_id": "c1", "name": "f", "arguments": "{}"}),
            json!({"type": "custom_tool_call", "call_id": "c2", "name": "g", "input": "x"}),
            json!({"type": "function_call_output", "call_id": "c1", "output": "done"}),
            json!({"type": "custom_tool_call_output", "call_id": "c2", "output": [{"type": "input_text", "text": "t"}, {"type": "input_image"}]}),
        ]);
        insta::assert_json_snapshot!(items.messages, @r#"
        [
          {
            "role": "user",
            "content": "hi"
          },
          {
            "role": "assistant",
            "content": "a",
            "tool_calls": [
              {
                "id": "c1",
                "type": "function",
                "function": {
                  "name": "f",
                  "arguments": "{}"
                }
              },
              {
                "id": "c2",
                "type": "function",
                "function": {
                  "name": "g",
                  "arguments": "x"
                }
              }
            ],
            "reasoning": "hm"
          },
          {
            "role": "tool",
            "content": "done",
            "tool_call_id": "c1"
          },
          {
            "role": "tool",
            "content": "t\n[image]",
            "tool_call_id": "c2"
          }
        ]
        "#);
    }

    #[test]
    fn tools_that_the_client_runs_are_calls() {
        let items = Items::of(&[
            json!({"type": "local_shell_call", "call_id": "c", "action": {"command": ["ls"]}}),
            json!({"type": "shell_call_output", "call_id": "c", "status": "failed", "output": [{"stdout": "", "outcome": 1}]}),
        ]);
        assert_eq!(items.messages[0].tool_calls[0].name, "local_shell_call");
        assert_eq!(items.messages[0].tool_calls[0].arguments, r#"{"command":["ls"]}"#);
        assert_eq!((items.messages[1].role, items.messages[1].tool_failed), (Role::Tool, true));
        assert_eq!(items.messages[1].text, r#"[{"stdout":"","outcome":1}]"#);
    }

    #[test]
    fn tools_offered_later_are_read() {
        let items =
            Items::of(&[json!({"type": "additional_tools", "role": "developer", "tools": [{"name": "f"}]})]);
        assert_eq!(items.tools[0].name, "f");
        assert_eq!(items.messages, []);
    }
}
