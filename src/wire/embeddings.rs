//! Embeddings: what was embedded. The vectors stay in the recorded bytes.

use serde_json::Value;

use crate::model::{Message, Reading};

/// Reads the texts as the user's messages; token lists are left out.
pub(super) fn request(body: &Value, into: &mut Reading) {
    let texts = match &body["input"] {
        Value::Array(inputs) => inputs.as_slice(),
        one => std::slice::from_ref(one),
    };
    into.messages.extend(
        texts.iter().filter_map(Value::as_str).map(|t| Message { text: t.into(), ..Message::default() }),
    );
}
