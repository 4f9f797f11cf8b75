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

    /// The messages as the model reads them: without weights.
    #[must_use]
    pub fn plain(&self) -> Vec<Value> {
        let mut messages = self.messages.clone();
        for message in &mut messages {
            if let Some(fields) = message.as_object_mut() {
                fields.shift_remove("weight");
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
