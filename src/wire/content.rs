//! What a message's content says, whichever way it is written: text, null, or a list of parts.

use serde_json::Value;

use super::fields;
use crate::model::Message;

/// Text, visible reasoning and refusal of a content.
#[derive(Debug, Default)]
pub(super) struct Content {
    pub text: String,
    pub reasoning: String,
    pub refusal: String,
    after_marker: bool,
}

impl Content {
    pub fn of(content: &Value) -> Self {
        let mut read = Self::default();
        read.add(content);
        read
    }

    /// Appends a part, a list of parts, or plain text.
    pub fn add(&mut self, part: &Value) {
        match part {
            Value::String(text) => self.add_text(text),
            Value::Array(parts) => parts.iter().for_each(|p| self.add_part(p)),
            other => self.add_part(other),
        }
    }

    fn add_part(&mut self, part: &Value) {
        if let Some(text) = part.as_str() {
            return self.add_text(text);
        }
        match fields::str(part, "type").unwrap_or_default() {
            "refusal" => self.refusal.push_str(fields::str(part, "refusal").unwrap_or_default()),
            // Anthropic has text here, Mistral a list of text parts
            "thinking" => self.reasoning.push_str(&Self::of(&part["thinking"]).text),
            "reasoning_text" | "summary_text" => {
                self.reasoning.push_str(fields::str(part, "text").unwrap_or_default())
            }
            kind => match (fields::str(part, "text"), marker(kind)) {
                (Some(text), _) => self.add_text(text),
                (None, Some(marker)) => self.add_marker(marker),
                (None, None) => {}
            },
        }
    }

    fn add_text(&mut self, text: &str) {
        if std::mem::take(&mut self.after_marker) && !text.is_empty() {
            self.text.push('\n');
        }
        self.text.push_str(text);
    }

    /// Markers stand on lines of their own, so that they do not run into the text.
    fn add_marker(&mut self, marker: &str) {
        if !self.text.is_empty() && !self.text.ends_with('\n') {
            self.text.push('\n');
        }
        self.text.push_str(marker);
        self.after_marker = true;
    }

    /// Appends everything to a message.
    pub fn put_into(self, message: &mut Message) {
        message.text.push_str(&self.text);
        append(&mut message.reasoning, &self.reasoning);
        append(&mut message.refusal, &self.refusal);
    }
}

/// Appends to a text that stays absent while there is nothing to say.
pub(super) fn append(to: &mut Option<String>, text: &str) {
    if !text.is_empty() {
        to.get_or_insert_default().push_str(text);
    }
}

/// What stands for a part that is no text.
fn marker(kind: &str) -> Option<&'static str> {
    Some(match kind {
        "image" | "image_url" | "input_image" | "image_file" | "computer_screenshot" => "[image]",
        "audio" | "audio_url" | "input_audio" | "output_audio" => "[audio]",
        "video" | "video_url" | "input_video" => "[video]",
        "file" | "file_url" | "input_file" | "document" | "document_url" | "container_upload" => "[file]",
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::Content;

    #[test]
    fn text_is_the_same_however_it_is_written() {
        for content in [
            json!("one two"),
            json!(["one ", "two"]),
            json!([{"type": "text", "text": "one "}, {"type": "output_text", "text": "two"}]),
            json!({"type": "input_text", "text": "one two"}),
        ] {
            assert_eq!(Content::of(&content).text, "one two");
        }
        assert_eq!(Content::of(&Value::Null).text, "");
    }

    #[test]
    fn what_is_no_text_leaves_a_marker() {
        let content = json!([
            {"type": "text", "text": "look:"}, {"type": "image_url", "image_url": {"url": "data:"}},
            {"type": "input_audio"}, {"type": "text", "text": "and?"}, {"type": "unheard_of"}
        ]);
        assert_eq!(Content::of(&content).text, "look:\n[image]\n[audio]\nand?");
    }

    #[test]
    fn reasoning_and_refusals_are_kept_apart() {
        let content = json!([
            {"type": "thinking", "thinking": [{"type": "text", "text": "hm"}]},
            {"type": "thinking", "thinking": "!"},
            {"type": "text", "text": "4"},
            {"type": "refusal", "refusal": "no"}
        ]);
        let Content { text, reasoning, refusal, .. } = Content::of(&content);
        assert_eq!((&*text, &*reasoning, &*refusal), ("4", "hm!", "no"));
    }
}
