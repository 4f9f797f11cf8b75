//! A model that is a function: for tests, and for measuring what the server itself costs.
//!
//! It is as strict as a real engine must be trusted to be: misuse (two rows for one slot, an overfull slot, an empty
//! prompt) is an error.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use serde_json::{Map, Value};

use super::engine::{Engine, EngineError, Row};
use super::text::Text;
use crate::onnx::lora::{Lora, LoraShape, Projection};
use crate::onnx::text::TextError;

/// Logits `[vocabulary]` after a sequence; an error is the engine's.
pub type Rule = Box<dyn FnMut(&[u32], Option<&Lora>) -> Result<Vec<f32>, EngineError> + Send>;

/// An engine whose logits a function of the whole sequence and of the adapter decides.
pub struct Scripted {
    rule: Rule,
    slots: Vec<Vec<Fed>>,
    context: usize,
    work: Arc<Work>,
    copies: bool,
}

/// A token with the adapter under which it was fed.
type Fed = (u32, Option<Arc<Lora>>);

/// What an engine was asked for so far.
#[derive(Debug, Default)]
pub struct Work {
    /// Tokens of prompts that were read.
    pub read: AtomicUsize,
    pub steps: AtomicUsize,
    /// Tokens that were fed in steps.
    pub rows: AtomicUsize,
    /// Most rows of one step.
    pub widest: AtomicUsize,
    /// Most prompt tokens in one call.
    pub longest: AtomicUsize,
}

/// Bytes, then the special tokens, then a few words that cut characters and one another anywhere.
pub const VOCABULARY: usize = 256 + SPECIAL.len() + WORDS.len();
pub const END: u32 = 256;
const SPECIAL: [&str; 5] = ["<|end|>", "<|system|>", "<|user|>", "<|assistant|>", "<|tool|>"];
const WORDS: [&[u8]; 7] = [b"the ", b"st", b"stop", b"\xf0\x9f\xa6", b"\x80 \xe2", b"{\"", b"\":"];

impl Scripted {
    #[must_use]
    pub fn new(slots: usize, context: usize, rule: Rule) -> Self {
        Self { rule, slots: vec![Vec::new(); slots], context, work: Arc::default(), copies: false }
    }

    /// Copies between slots, too.
    #[must_use]
    pub fn copying(self) -> Self {
        Self { copies: true, ..self }
    }

    /// What it is asked for, for others to look at.
    #[must_use]
    pub fn work(&self) -> Arc<Work> {
        self.work.clone()
    }

    /// Appends a token to a slot.
    fn feed(&mut self, slot: usize, token: u32, adapter: Option<&Arc<Lora>>) -> Result<(), EngineError> {
        let held = &mut self.slots[slot];
        if held.len() == self.context {
            return Err(EngineError(format!("slot {slot} is full")));
        }
        if token as usize >= VOCABULARY {
            return Err(EngineError(format!("there is no token {token}")));
        }
        held.push((token, adapter.cloned()));
        Ok(())
    }

    fn logits(&mut self, slot: usize) -> Result<Vec<f32>, EngineError> {
        let held = &self.slots[slot];
        let adapter = held.last().and_then(|(_, adapter)| adapter.clone());
        // A cache that was written under another adapter gives nonsense: here it shows.
        let same =
            |other: &Option<Arc<Lora>>| other.as_ref().map(Arc::as_ptr) == adapter.as_ref().map(Arc::as_ptr);
        if !held.iter().all(|(_, other)| same(other)) {
            return Err(EngineError(format!("slot {slot} was written under several adapters")));
        }
        let tokens: Vec<u32> = held.iter().map(|(token, _)| *token).collect();
        (self.rule)(&tokens, adapter.as_deref())
    }
}

impl Engine for Scripted {
    fn slots(&self) -> usize {
        self.slots.len()
    }

    fn context(&self) -> usize {
        self.context
    }

    fn vocabulary(&self) -> usize {
        VOCABULARY
    }

    fn prefill(
        &mut self,
        slot: usize,
        tokens: &[u32],
        adapter: Option<&Arc<Lora>>,
    ) -> Result<Vec<f32>, EngineError> {
        if tokens.is_empty() {
            return Err(EngineError("nothing to read".to_owned()));
        }
        self.work.read.fetch_add(tokens.len(), Ordering::Relaxed);
        self.work.longest.fetch_max(tokens.len(), Ordering::Relaxed);
        for &token in tokens {
            self.feed(slot, token, adapter)?;
        }
        self.logits(slot)
    }

    fn step(&mut self, rows: &[Row]) -> Result<Vec<f32>, EngineError> {
        self.work.steps.fetch_add(1, Ordering::Relaxed);
        self.work.rows.fetch_add(rows.len(), Ordering::Relaxed);
        self.work.widest.fetch_max(rows.len(), Ordering::Relaxed);
        let mut all = Vec::with_capacity(rows.len() * VOCABULARY);
        for (at, row) in rows.iter().enumerate() {
            if rows[..at].iter().any(|other| other.slot == row.slot) || self.slots[row.slot].is_empty() {
                return Err(EngineError(format!("slot {} has no place in this step", row.slot)));
            }
            self.feed(row.slot, row.token, row.adapter.as_ref())?;
            all.extend(self.logits(row.slot)?);
        }
        Ok(all)
    }

    fn truncate(&mut self, slot: usize, length: usize) {
        self.slots[slot].truncate(length);
    }

    fn copy(&mut self, from: usize, to: usize, length: usize) -> bool {
        if self.copies {
            self.slots[to] = self.slots[from][..length].to_vec();
        }
        self.copies
    }
}

/// A rule that says something else after each sequence and under each adapter: letters, and now and then a token that
/// ends a character badly. It never ends by itself.
#[must_use]
pub fn chatter() -> Rule {
    Box::new(|tokens, adapter| {
        let mut state =
            adapter.map_or(0, |lora| lora.layers.iter().flatten().map(|x| u64::from(x.to_bits())).sum());
        for &token in tokens {
            state = mixed(state ^ u64::from(token));
        }
        let mut logits = vec![f32::NEG_INFINITY; VOCABULARY];
        for _ in 0..12 {
            state = mixed(state);
            let letter = b'a' as usize + (state % 26) as usize;
            let word = 256 + SPECIAL.len() + (state % WORDS.len() as u64) as usize;
            let token = if state % 5 == 0 { word } else { letter };
            logits[token] = ((state >> 40) % 1000) as f32 / 100.0;
        }
        Ok(logits)
    })
}

/// A rule that recites a text after the last `<|assistant|>`, byte by byte, and ends.
#[must_use]
pub fn reciting(text: &str) -> Rule {
    let bytes = text.as_bytes().to_vec();
    Box::new(move |tokens, _| {
        let said = tokens.iter().rev().take_while(|token| **token != END + 3).count();
        let next = bytes.get(said).map_or(END, |byte| u32::from(*byte));
        let mut logits = vec![0.0; VOCABULARY];
        logits[next as usize] = 10.0;
        Ok(logits)
    })
}

fn mixed(state: u64) -> u64 {
    let z = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z ^ (z >> 29)
}

/// An adapter that the rules of this module tell from others by its number.
#[must_use]
pub fn adapter(number: u16) -> Lora {
    Lora { shape: LoraShape::new(1, 1.0, &[Projection::Query]), layers: vec![vec![f32::from(number)]] }
}

/// The language of the scripted engine.
#[derive(Clone, Copy, Debug, Default)]
pub struct ScriptedText;

impl Text for ScriptedText {
    fn encode(&self, text: &str) -> Result<Vec<u32>, TextError> {
        let mut tokens = Vec::new();
        let mut rest = text;
        while !rest.is_empty() {
            let special = (END..).zip(SPECIAL).find(|(_, name)| rest.starts_with(name));
            if let Some((token, name)) = special {
                tokens.push(token);
                rest = &rest[name.len()..];
            } else {
                let length = rest.chars().next().map_or(1, char::len_utf8);
                tokens.extend(rest.as_bytes()[..length].iter().map(|byte| u32::from(*byte)));
                rest = &rest[length..];
            }
        }
        Ok(tokens)
    }

    fn bytes(&self, token: u32) -> &[u8] {
        static BYTES: [u8; 256] = {
            let mut bytes = [0; 256];
            let mut at = 0;
            while at < 256 {
                bytes[at] = at as u8;
                at += 1;
            }
            bytes
        };
        let token = token as usize;
        match token {
            0..256 => &BYTES[token..=token],
            _ => WORDS.get((token - 256).wrapping_sub(SPECIAL.len())).copied().unwrap_or_default(),
        }
    }

    fn stops(&self) -> &[u32] {
        &[END]
    }

    fn vocabulary(&self) -> usize {
        VOCABULARY
    }

    fn render(
        &self,
        messages: &[Value],
        tools: &Value,
        generation_prompt: bool,
        settings: &Map<String, Value>,
    ) -> Result<String, TextError> {
        // The one setting that this template knows.
        let mut prompt = settings.get("preface").and_then(Value::as_str).unwrap_or_default().to_owned();
        if !tools.is_null() {
            prompt += &format!("<|tool|>{tools}<|end|>");
        }
        for message in messages {
            let role = message["role"].as_str().unwrap_or_default();
            if !["system", "user", "assistant", "tool"].contains(&role) {
                return Err(TextError(format!("there is no role {role}")));
            }
            prompt += &format!("<|{role}|>{}<|end|>", message["content"].as_str().unwrap_or_default());
        }
        if generation_prompt {
            prompt += "<|assistant|>";
        }
        Ok(prompt)
    }
}
