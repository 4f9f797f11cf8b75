//! A conversation to learn from, in the shape of OpenAI's fine-tuning files.

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

/// Messages as a request has them, and the tools that it offers. What is learned are the assistant's messages, but for
/// those with `"weight": 0`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Chat {
    pub messages: Vec<Value>,
    /// An array, or null.
    #[serde(default, skip_serializing_if = "Value::is_null")]
    pub tools: Value,
}

impl Chat {
    /// Indexes of the messages that are learned.
    #[must_use]
    pub fn learned(&self) -> Vec<usize> {
        let learned =
            |m: &Value| m["role"] == "assistant" && m.get("weight").is_none_or(|w| w.as_f64() != Some(0.0));
        (0..self.messages.len()).filter(|i| learned(&self.messages[*i])).collect()
    }

    /// The messages as templates expect them, and as `serve` gives them to one: without weights, arguments
    /// of tool calls as objects, `developer` under its older name; answers without what was thought aloud before them, which
    /// models are told not to do.
    #[must_use]
    pub fn plain(&self) -> Vec<Value> {
        let mut messages = self.messages.clone();
        for message in messages.iter_mut().filter_map(Value::as_object_mut) {
            message.shift_remove("weight");
            if message.get("role").is_some_and(|role| role == "developer") {
                message.insert("role".into(), json!("system"));
            }
            let is_answer = message.get("role").is_some_and(|role| role == "assistant");
            if let Some(Value::String(text)) = message.get_mut("content").filter(|_| is_answer)
                && let Some(("", thought)) =
                    text.split_once("<think>").map(|(before, after)| (before.trim(), after))
                && let Some((_, answer)) = thought.split_once("</think>")
            {
                *text = answer.trim_start().to_owned();
            }
            let calls = message.get_mut("tool_calls").and_then(Value::as_array_mut);
            for arguments in calls.into_iter().flatten().filter_map(|c| c.pointer_mut("/function/arguments"))
            {
                if let Some(Ok(object @ Value::Object(_))) = arguments.as_str().map(serde_json::from_str) {
                    *arguments = object;
                }
            }
        }
        messages
    }
}

/// Makes a message's content plain text, so that every chat template can print it: text parts are joined with nothing
/// between them, null is nothing.
///
/// # Errors
/// The index of the first part that is not text, or none where the content is neither text nor parts.
pub fn flatten(message: &mut Value) -> Result<(), Option<usize>> {
    let content = match &message["content"] {
        Value::String(_) => return Ok(()),
        Value::Null => String::new(),
        Value::Array(parts) => {
            let mut text = String::new();
            for (i, part) in parts.iter().enumerate() {
                let is_text = matches!(part["type"].as_str(), Some("text" | "input_text" | "output_text"));
                match part["text"].as_str().filter(|_| is_text).or(part.as_str()) {
                    Some(part) => text.push_str(part),
                    None => return Err(Some(i)),
                }
            }
            text
        }
        _ => return Err(None),
    };
    if let Some(fields) = message.as_object_mut() {
        fields.insert("content".into(), json!(content));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_thought_aloud_is_no_part_of_an_answer() {
        let said = |role: &str, text: &str| json!({"role": role, "content": text});
        let messages = vec![
            said("user", "<think>me</think>too"),
            said("assistant", "\n<think>\nwell\n</think>\n\nYes."),
            said("assistant", "I <think> so </think>."),
            said("assistant", "<think>cut off"),
        ];
        let plain = Chat { messages: messages.clone(), tools: Value::Null }.plain();
        assert_eq!(plain[1]["content"], "Yes.");
        assert_eq!([&plain[0], &plain[2], &plain[3]], [&messages[0], &messages[2], &messages[3]]);
    }

    #[test]
    fn templates_get_arguments_as_objects_and_no_weights() {
        let call = json!({"type": "function", "function": {"name": "f", "arguments": "{\"a\": 1}"}});
        let broken = json!({"type": "function", "function": {"name": "f", "arguments": "{a"}});
        let messages = vec![
            json!({"role": "developer", "content": "d"}),
            json!({"role": "assistant", "content": "", "weight": 0, "tool_calls": [call, broken]}),
        ];
        let plain = Chat { messages, tools: Value::Null }.plain();
        assert_eq!(plain[0]["role"], "system");
        assert_eq!(plain[1]["tool_calls"][0]["function"]["arguments"], json!({"a": 1}));
        assert_eq!(plain[1]["tool_calls"][1]["function"]["arguments"], "{a");
        assert!(plain[1].get("weight").is_none());
    }
}
