use serde_json::{Map, Value};

use crate::onnx::checkpoint::Checkpoint;
use crate::onnx::text::{ChatTemplate, TextError, Tokenizer};

/// What the server needs to know of a model's language.
pub trait Text: Send + Sync {
    /// Tokens of a rendered prompt, special tokens recognised, none added.
    ///
    /// # Errors
    /// When the tokenizer cannot take the text.
    fn encode(&self, text: &str) -> Result<Vec<u32>, TextError>;

    /// The bytes that a token stands for; empty for special ones.
    fn bytes(&self, token: u32) -> &[u8];

    /// The tokens that end an answer.
    fn stops(&self) -> &[u32];

    fn vocabulary(&self) -> usize;

    /// The prompt for OpenAI-shaped messages; `tools` as in a request, or null; `settings` that the template knows by name.
    ///
    /// # Errors
    /// What the template refuses, in its own words.
    fn render(
        &self,
        messages: &[Value],
        tools: &Value,
        generation_prompt: bool,
        settings: &Map<String, Value>,
    ) -> Result<String, TextError>;
}

/// The text side of a checkpoint.
#[derive(Clone)]
pub struct ModelText {
    tokenizer: Tokenizer,
    template: ChatTemplate,
    vocabulary: usize,
}

impl ModelText {
    #[must_use]
    pub fn of(checkpoint: &Checkpoint) -> Self {
        let tokenizer = checkpoint.tokenizer.clone();
        // A model without a tokenizer takes and says tokens by their numbers.
        let vocabulary = match tokenizer.vocabulary() {
            0 => checkpoint.architecture.vocabulary,
            size => size,
        };
        Self { tokenizer, template: checkpoint.template.clone(), vocabulary }
    }
}

impl Text for ModelText {
    fn encode(&self, text: &str) -> Result<Vec<u32>, TextError> {
        self.tokenizer.encode(text)
    }

    fn bytes(&self, token: u32) -> &[u8] {
        self.tokenizer.bytes(token)
    }

    fn stops(&self) -> &[u32] {
        self.tokenizer.stops()
    }

    fn vocabulary(&self) -> usize {
        self.vocabulary
    }

    fn render(
        &self,
        messages: &[Value],
        tools: &Value,
        generation_prompt: bool,
        settings: &Map<String, Value>,
    ) -> Result<String, TextError> {
        self.template.render_with(messages, tools, generation_prompt, settings)
    }
}
