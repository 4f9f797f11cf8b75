//! Text to tokens and back, and chats to prompts.

use serde_json::Value;

/// A token that a text has to be cut at or may not be decoded.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct TextError(pub String);

/// The model's tokenizer, from `tokenizer.json` or GGUF's metadata. Cheap to clone.
#[derive(Clone)]
pub struct Tokenizer {}

impl Tokenizer {
    /// Tokens of a text in which special tokens are recognised (a rendered prompt), none added.
    pub fn encode(&self, _text: &str) -> Result<Vec<u32>, TextError> {
        unimplemented!()
    }

    /// The text of tokens; special tokens are left out.
    pub fn decode(&self, _tokens: &[u32]) -> Result<String, TextError> {
        unimplemented!()
    }

    /// The exact bytes that one token stands for (empty for special tokens), for streaming and grammars.
    #[must_use]
    pub fn bytes(&self, _token: u32) -> &[u8] {
        unimplemented!()
    }

    /// Ends an answer: end of text, end of turn.
    #[must_use]
    pub fn stops(&self) -> &[u32] {
        unimplemented!()
    }

    #[must_use]
    pub fn vocabulary(&self) -> usize {
        unimplemented!()
    }
}

/// The model's chat template (Jinja). Cheap to clone.
#[derive(Clone)]
pub struct ChatTemplate {}

impl ChatTemplate {
    /// The prompt for OpenAI-shaped messages; `tools` as in a request, or `Value::Null`.
    ///
    /// # Errors
    /// What the template itself refuses (`raise_exception`), or fails at.
    pub fn render(
        &self,
        _messages: &[Value],
        _tools: &Value,
        _add_generation_prompt: bool,
    ) -> Result<String, TextError> {
        unimplemented!()
    }
}
