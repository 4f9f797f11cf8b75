use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use tokenizers::DecoderWrapper;

use super::{TextError, Vocabulary, vocabulary};

/// Tokens that end an answer in the chat formats of the supported families, whatever a model's files say: fine-tunes
/// often leave the base model's end of text in their configuration.
const ENDS: [&str; 7] =
    ["<|im_end|>", "<|endoftext|>", "<|eot_id|>", "<|eom_id|>", "<|end_of_text|>", "<|end|>", "</s>"];

/// The model's tokenizer, from `tokenizer.json` or GGUF's metadata. Cheap to clone.
#[derive(Clone)]
pub struct Tokenizer {
    inner: Arc<Inner>,
}

struct Inner {
    /// None where the model came without: its weights can be used all the same.
    tokenizer: Option<tokenizers::Tokenizer>,
    /// One after another, what each token stands for.
    bytes: Vec<u8>,
    /// Where each token's bytes end.
    ends: Vec<usize>,
    special: BTreeSet<u32>,
    stops: Vec<u32>,
}

/// How texts of ordinary tokens stand for bytes.
#[derive(Clone, Copy)]
enum Spelling {
    /// Each character is a byte, by GPT-2's table.
    Bytes,
    /// `▁` is a space, `<0x0A>` a byte.
    SentencePiece,
}

impl Tokenizer {
    /// From the content of `tokenizer.json`, the texts of special tokens by their names (`eos_token` ends an answer), and
    /// more tokens that end one.
    ///
    /// # Errors
    /// When it is damaged, or its tokens are neither of bytes nor SentencePiece's.
    pub(in crate::onnx) fn from_json(
        json: &[u8],
        named: &BTreeMap<String, String>,
        mut stops: Vec<u32>,
    ) -> Result<Self, TextError> {
        let tokenizer = tokenizers::Tokenizer::from_bytes(json).map_err(|e| TextError(e.to_string()))?;
        stops.extend(named.get("eos_token").and_then(|text| tokenizer.token_to_id(text)));
        let spelling = spelling(tokenizer.get_decoder()).ok_or_else(|| {
            TextError("its tokens are neither of bytes nor SentencePiece's, which is not supported".into())
        })?;
        Self::new(tokenizer, spelling, stops)
    }

    /// From GGUF's metadata.
    ///
    /// # Errors
    /// When the kind of vocabulary is not supported (named), or it contradicts itself.
    pub(in crate::onnx) fn from_vocabulary(vocabulary: &Vocabulary<'_>) -> Result<Self, TextError> {
        let tokenizer = vocabulary.tokenizer()?;
        let spelling = if vocabulary.is_sentence_piece() { Spelling::SentencePiece } else { Spelling::Bytes };
        let stops = vocabulary.stops.iter().copied().chain(vocabulary.eos).collect();
        Self::new(tokenizer, spelling, stops)
    }

    /// Of a model that came without one: every text is refused.
    pub(in crate::onnx) fn absent() -> Self {
        let (bytes, ends, special, stops) = Default::default();
        Self { inner: Arc::new(Inner { tokenizer: None, bytes, ends, special, stops }) }
    }

    fn new(
        mut tokenizer: tokenizers::Tokenizer,
        spelling: Spelling,
        mut stops: Vec<u32>,
    ) -> Result<Self, TextError> {
        // A prompt is never cut or filled up, whatever the file was saved with.
        tokenizer.with_truncation(None).map_err(|e| TextError(e.to_string()))?;
        tokenizer.with_padding(None);
        let mut texts: Vec<Option<String>> = Vec::new();
        for (text, id) in tokenizer.get_vocab(true) {
            let id = id as usize;
            // Numbers come from a file: none may make this list huge.
            if id >= 1 << 24 {
                return Err(TextError(format!("it has a token number {id}")));
            }
            if texts.len() <= id {
                texts.resize(id + 1, None);
            }
            texts[id] = Some(text);
        }
        let added = tokenizer.get_added_tokens_decoder();
        let special: BTreeSet<u32> =
            added.iter().filter(|(_, token)| token.special).map(|(id, _)| *id).collect();
        let to_byte = vocabulary::byte_of_character();
        let (mut bytes, mut ends) = (Vec::new(), Vec::with_capacity(texts.len()));
        for (id, text) in texts.iter().enumerate() {
            let (id, text) = (id as u32, text.as_deref().unwrap_or_default());
            if special.contains(&id) {
                // Stands for nothing.
            } else if let Some(token) = added.get(&id) {
                bytes.extend_from_slice(token.content.as_bytes());
            } else {
                match spelling {
                    Spelling::Bytes => spell_bytes(text, &to_byte, &mut bytes),
                    Spelling::SentencePiece => spell_sentence_piece(text, &mut bytes),
                }
            }
            ends.push(bytes.len());
        }
        let is_end = |id: &u32| texts[*id as usize].as_deref().is_some_and(|text| ENDS.contains(&text));
        stops.retain(|id| (*id as usize) < ends.len());
        let known = special.iter().copied().filter(is_end);
        for id in known {
            if !stops.contains(&id) {
                stops.push(id);
            }
        }
        stops.sort_unstable();
        stops.dedup();
        Ok(Self { inner: Arc::new(Inner { tokenizer: Some(tokenizer), bytes, ends, special, stops }) })
    }

    /// Tokens of a text in which special tokens are recognised (a rendered prompt), none added.
    ///
    /// # Errors
    /// When the text has something that the vocabulary cannot express, or the model came without a tokenizer.
    pub fn encode(&self, text: &str) -> Result<Vec<u32>, TextError> {
        let encoding = self.there()?.encode_fast(text, false).map_err(|e| TextError(e.to_string()))?;
        Ok(encoding.get_ids().to_vec())
    }

    /// The text of tokens; special tokens are left out.
    ///
    /// # Errors
    /// When the model came without a tokenizer; the decoders of the supported families do not fail.
    pub fn decode(&self, tokens: &[u32]) -> Result<String, TextError> {
        self.there()?.decode(tokens, true).map_err(|e| TextError(e.to_string()))
    }

    /// The exact bytes that one token stands for (empty for special tokens and numbers that are none), for streaming and
    /// grammars.
    #[must_use]
    pub fn bytes(&self, token: u32) -> &[u8] {
        let Some(end) = self.inner.ends.get(token as usize) else { return &[] };
        let start = (token as usize).checked_sub(1).map_or(0, |before| self.inner.ends[before]);
        &self.inner.bytes[start..*end]
    }

    /// Ends an answer: end of text, end of turn.
    #[must_use]
    pub fn stops(&self) -> &[u32] {
        &self.inner.stops
    }

    /// Whether a token stands for no text, but for a role or an end.
    #[must_use]
    pub fn is_special(&self, token: u32) -> bool {
        self.inner.special.contains(&token)
    }

    /// A token's name in the vocabulary, as `<|im_end|>`.
    #[must_use]
    pub fn name(&self, token: u32) -> Option<String> {
        self.there().ok()?.id_to_token(token)
    }

    /// The token of a name.
    #[must_use]
    pub fn token(&self, name: &str) -> Option<u32> {
        self.there().ok()?.token_to_id(name)
    }

    fn there(&self) -> Result<&tokenizers::Tokenizer, TextError> {
        let tokenizer = self.inner.tokenizer.as_ref();
        tokenizer.ok_or_else(|| {
            TextError("the model came without tokenizer.json: put it beside config.json".into())
        })
    }

    /// Tokens that the tokenizer knows; a model's embedding may have more rows.
    #[must_use]
    pub fn vocabulary(&self) -> usize {
        self.inner.ends.len()
    }
}

/// What a decoder says of the spelling; none where it is of neither kind.
fn spelling(decoder: Option<&DecoderWrapper>) -> Option<Spelling> {
    match decoder? {
        DecoderWrapper::ByteLevel(_) => Some(Spelling::Bytes),
        DecoderWrapper::ByteFallback(_) | DecoderWrapper::Metaspace(_) => Some(Spelling::SentencePiece),
        DecoderWrapper::Sequence(all) => all.get_decoders().iter().find_map(|one| spelling(Some(one))),
        _ => None,
    }
}

fn spell_bytes(text: &str, to_byte: &vocabulary::ByteOfCharacter, bytes: &mut Vec<u8>) {
    let start = bytes.len();
    for character in text.chars() {
        match to_byte.get(&character) {
            Some(byte) => bytes.push(*byte),
            // A token that is not spelled so, such as one that was put in by hand, stands for its own text.
            None => {
                bytes.truncate(start);
                bytes.extend_from_slice(text.as_bytes());
                return;
            }
        }
    }
}

fn spell_sentence_piece(text: &str, bytes: &mut Vec<u8>) {
    let hex = text.strip_prefix("<0x").and_then(|rest| rest.strip_suffix('>')).filter(|hex| hex.len() == 2);
    match hex.and_then(|hex| u8::from_str_radix(hex, 16).ok()) {
        Some(byte) => bytes.push(byte),
        None => bytes.extend_from_slice(text.replace('▁', " ").as_bytes()),
    }
}
