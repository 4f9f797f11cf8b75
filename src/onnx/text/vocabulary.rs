//! A tokenizer from the lists that GGUF has: byte-level BPE (`gpt2`) and SentencePiece's BPE (`llama`).

use std::collections::HashMap;

use tokenizers::models::bpe::{BPE, Vocab};
use tokenizers::normalizers::{NFC, Prepend, Replace, Sequence as Normalizers};
use tokenizers::pre_tokenizers::PreTokenizerWrapper;
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::pre_tokenizers::digits::Digits;
use tokenizers::pre_tokenizers::sequence::Sequence;
use tokenizers::pre_tokenizers::split::{Split, SplitPattern};
use tokenizers::{AddedToken, NormalizerWrapper, SplitDelimiterBehavior, decoders};

use super::TextError;

/// As GGUF's metadata has it; lists are by token.
#[derive(Debug)]
pub(in crate::onnx) struct Vocabulary<'a> {
    /// `gpt2` or `llama`.
    pub model: &'a str,
    /// How a text is cut into words, by llama.cpp's name (`tokenizer.ggml.pre`).
    pub splitter: &'a str,
    pub tokens: Vec<&'a str>,
    /// llama.cpp's `llama_token_type`.
    pub kinds: Vec<i64>,
    /// Of `llama`: the higher, the earlier a piece is joined.
    pub scores: Vec<f32>,
    /// Of `gpt2`: two pieces with a space between, the earliest first.
    pub merges: Vec<&'a str>,
    /// Whether `llama` puts a space before a text.
    pub space_first: bool,
    pub bos: Option<u32>,
    pub eos: Option<u32>,
    /// Further tokens that end an answer.
    pub stops: Vec<u32>,
}

const CONTROL: i64 = 3;
const USER_DEFINED: i64 = 4;

/// Splitting of GPT-2's successors (tiktoken's `cl100k_base`), with numbers cut after `{DIGITS}`.
const WORDS: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|{DIGITS}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";

/// Splitting of Mistral's tokenizers from Nemo on.
const TEKKEN: &str = r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+";

/// What llama.cpp does where a file names no splitter: one cut after the other.
const DEFAULT: [&str; 4] = [
    r"[\p{P}\$\+<=>\^~\|]+",
    r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)",
    r"\p{N}+",
    r"[0-9][0-9][0-9]",
];

/// Splitters by llama.cpp's names, for messages.
const SPLITTERS: &str = "default, gpt-2, smollm, llama-bpe, qwen2, tekken";

impl Vocabulary<'_> {
    pub(super) fn is_sentence_piece(&self) -> bool {
        self.model == "llama"
    }

    pub(super) fn tokenizer(&self) -> Result<tokenizers::Tokenizer, TextError> {
        if self.tokens.is_empty() {
            return Err(TextError("it has no tokens".into()));
        }
        let mut tokenizer = match self.model {
            "gpt2" => self.byte_level()?,
            "llama" => self.sentence_piece()?,
            other => {
                return Err(TextError(format!(
                    "a vocabulary of kind {other:?} is not supported; supported are gpt2 and llama"
                )));
            }
        };
        let added = self.tokens.iter().zip(&self.kinds).filter_map(|(text, kind)| match *kind {
            CONTROL => Some(AddedToken::from(*text, true).normalized(false)),
            USER_DEFINED => Some(AddedToken::from(*text, false).normalized(false)),
            _ => None,
        });
        tokenizer.add_tokens(added.filter(|token| !token.content.is_empty())).map_err(failed)?;
        Ok(tokenizer)
    }

    fn ids(&self) -> Vocab {
        self.tokens.iter().zip(0u32..).map(|(text, id)| ((*text).to_owned(), id)).collect()
    }

    fn byte_level(&self) -> Result<tokenizers::Tokenizer, TextError> {
        let pair = |merge: &&str| {
            let (left, right) = merge.split_once(' ')?;
            Some((left.to_owned(), right.to_owned()))
        };
        let merges: Option<Vec<_>> = self.merges.iter().map(pair).collect();
        let merges = merges.ok_or_else(|| TextError("one of its merges is no pair".into()))?;
        // Llama 3 and Tekken take a whole word that is a token for that token, whatever merges would make of it.
        let whole_words = matches!(self.splitter, "llama-bpe" | "llama3" | "llama-v3" | "tekken");
        let model = BPE::builder()
            .vocab_and_merges(self.ids(), merges)
            .ignore_merges(whole_words)
            .build()
            .map_err(failed)?;
        let mut tokenizer = tokenizers::Tokenizer::new(model);
        tokenizer.with_pre_tokenizer(Some(self.pre_tokenizer()?));
        if self.splitter == "qwen2" {
            tokenizer.with_normalizer(Some(NFC)).map_err(failed)?;
        }
        tokenizer.with_decoder(Some(ByteLevel::new(false, true, true)));
        Ok(tokenizer)
    }

    fn pre_tokenizer(&self) -> Result<Sequence, TextError> {
        let split = |pattern: &str| {
            let pattern = SplitPattern::Regex(pattern.to_owned());
            Split::new(pattern, SplitDelimiterBehavior::Isolated, false)
                .map(PreTokenizerWrapper::from)
                .map_err(failed)
        };
        let bytes = |use_regex| PreTokenizerWrapper::from(ByteLevel::new(false, true, use_regex));
        Ok(Sequence::new(match self.splitter {
            "gpt-2" => vec![bytes(true)],
            "smollm" => vec![Digits::new(true).into(), bytes(true)],
            "llama-bpe" | "llama3" | "llama-v3" => {
                vec![split(&WORDS.replace("{DIGITS}", r"\p{N}{1,3}"))?, bytes(false)]
            }
            "qwen2" => vec![split(&WORDS.replace("{DIGITS}", r"\p{N}"))?, bytes(false)],
            "tekken" => vec![split(TEKKEN)?, bytes(false)],
            "default" => {
                let mut all = DEFAULT.iter().map(|pattern| split(pattern)).collect::<Result<Vec<_>, _>>()?;
                all.push(bytes(false));
                all
            }
            other => {
                return Err(TextError(format!(
                    "its splitter {other:?} (tokenizer.ggml.pre) is not supported; supported are {SPLITTERS}"
                )));
            }
        }))
    }

    /// As transformers convert SentencePiece's models: every way to join two pieces to a third is a merge, by its score.
    fn sentence_piece(&self) -> Result<tokenizers::Tokenizer, TextError> {
        if self.scores.len() != self.tokens.len() {
            return Err(TextError("it has not one score for each token".into()));
        }
        let ids = self.ids();
        let is_piece = |id: usize| self.kinds.get(id).is_none_or(|kind| !matches!(*kind, 2 | 3 | 5 | 6));
        let mut merges = Vec::new();
        for (id, text) in self.tokens.iter().enumerate().filter(|(id, _)| is_piece(*id)) {
            let mut ways: Vec<_> = text
                .char_indices()
                .skip(1)
                .filter_map(|(at, _)| {
                    let (left, right) = text.split_at(at);
                    Some(((*ids.get(left)?, *ids.get(right)?), (left.to_owned(), right.to_owned())))
                })
                .collect();
            ways.sort();
            merges.extend(ways.into_iter().map(|(_, pair)| (self.scores[id], pair)));
        }
        merges.sort_by(|(a, _), (b, _)| b.total_cmp(a));
        let merges = merges.into_iter().map(|(_, pair)| pair).collect();
        let mut model = BPE::builder().vocab_and_merges(ids, merges).byte_fallback(true).fuse_unk(true);
        if let Some(unknown) = self.kinds.iter().position(|kind| *kind == 2) {
            model = model.unk_token(self.tokens[unknown].to_owned());
        }
        let mut tokenizer = tokenizers::Tokenizer::new(model.build().map_err(failed)?);
        let mut normalizers: Vec<NormalizerWrapper> = Vec::new();
        let mut spellers: Vec<decoders::DecoderWrapper> = vec![
            Replace::new("▁", " ").map_err(failed)?.into(),
            decoders::byte_fallback::ByteFallback::new().into(),
            decoders::fuse::Fuse::new().into(),
        ];
        if self.space_first {
            normalizers.push(Prepend::new("▁".to_owned()).into());
            spellers.push(decoders::strip::Strip::new(' ', 1, 0).into());
        }
        normalizers.push(Replace::new(" ", "▁").map_err(failed)?.into());
        tokenizer.with_normalizer(Some(Normalizers::new(normalizers))).map_err(failed)?;
        tokenizer.with_decoder(Some(decoders::sequence::Sequence::new(spellers)));
        Ok(tokenizer)
    }
}

fn failed(e: impl std::fmt::Display) -> TextError {
    TextError(e.to_string())
}

pub(super) type ByteOfCharacter = HashMap<char, u8>;

/// GPT-2's table (`bytes_to_unicode` in its `encoder.py`): printable bytes are themselves, the others follow from U+0100.
pub(super) fn byte_of_character() -> ByteOfCharacter {
    let is_printable = |byte: u8| matches!(byte, b'!'..=b'~' | 0xa1..=0xac | 0xae..=0xff);
    let mut next = 0x100u32;
    let character = |byte: u8| {
        if is_printable(byte) {
            return char::from(byte);
        }
        next += 1;
        char::from_u32(next - 1).expect("there are 256 at most, all of them letters")
    };
    let characters: Vec<char> = (0..=u8::MAX).map(character).collect();
    characters.into_iter().zip(0..=u8::MAX).collect()
}
