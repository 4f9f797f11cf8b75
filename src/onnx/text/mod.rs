//! Text to tokens and back, and chats to prompts.
//!
//! In: `tokenizer.json` and its companions, or a vocabulary as GGUF has it. Out: [`Tokenizer`] and [`ChatTemplate`], which
//! do exactly what Hugging Face's transformers do.

mod python;
mod template;
#[cfg(test)]
mod tests;
mod tokenizer;
mod vocabulary;

use std::collections::BTreeMap;

use serde_json::Value;

pub use template::ChatTemplate;
pub use tokenizer::Tokenizer;
pub(super) use vocabulary::Vocabulary;

/// A text, its tokens or its template cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct TextError(pub String);

/// Texts of the special tokens (`bos_token`, `eos_token`, …) that `tokenizer_config.json` or `special_tokens_map.json`
/// names.
pub(super) fn named_tokens(config: &Value) -> BTreeMap<String, String> {
    let entries = config.as_object().into_iter().flatten();
    let named = entries.filter(|(name, _)| name.ends_with("_token")).filter_map(|(name, token)| {
        let text = token.as_str().or_else(|| token["content"].as_str())?;
        Some((name.clone(), text.to_owned()))
    });
    named.collect()
}
