use super::File;
use super::file::Value;
use crate::onnx::checkpoint::CheckpointError;
use crate::onnx::text::{ChatTemplate, Tokenizer, Vocabulary};

/// The tokenizer and the chat template of the metadata (keys: `docs/gguf.md` of ggml).
pub(super) fn read(file: &File<'_>) -> Result<(Tokenizer, ChatTemplate), CheckpointError> {
    let id = |key: &str| {
        let id = file.number(&format!("tokenizer.ggml.{key}_token_id"))?;
        Ok::<_, CheckpointError>(id.filter(|id| *id >= 0.0).map(|id| id as u32))
    };
    let vocabulary = Vocabulary {
        model: file.text("tokenizer.ggml.model")?.unwrap_or("(unnamed)"),
        splitter: file.text("tokenizer.ggml.pre")?.unwrap_or("default"),
        tokens: file.list("tokenizer.ggml.tokens", Value::into_text)?,
        kinds: file.list("tokenizer.ggml.token_type", Value::into_integer)?,
        scores: file.list("tokenizer.ggml.scores", Value::into_float)?,
        merges: file.list("tokenizer.ggml.merges", Value::into_text)?,
        space_first: file.flag("tokenizer.ggml.add_space_prefix")?.unwrap_or(true),
        bos: id("bos")?,
        eos: id("eos")?,
        stops: [id("eot")?, id("eom")?].into_iter().flatten().collect(),
    };
    let tokenizer = Tokenizer::from_vocabulary(&vocabulary)
        .map_err(|e| file.unreadable(format!("its tokenizer cannot be used: {e}")))?;
    let named = [
        ("bos_token", vocabulary.bos),
        ("eos_token", vocabulary.eos),
        ("unk_token", id("unknown")?),
        ("pad_token", id("padding")?),
    ];
    let named = named.into_iter().filter_map(|(name, id)| {
        let text = vocabulary.tokens.get(usize::try_from(id?).ok()?)?;
        Some((name.to_owned(), (*text).to_owned()))
    });
    let template = file.text("tokenizer.chat_template")?;
    Ok((tokenizer, ChatTemplate::new(template, named.collect())))
}
