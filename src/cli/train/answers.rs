//! Greedy answers from an engine, many at once.

use std::collections::VecDeque;
use std::sync::Arc;

use crate::onnx::lora::Lora;
use crate::serve::engine::{Engine, EngineError, Row};

/// Continues each prompt by its likeliest tokens, up to a token of `stops` or `most` tokens. Of prompts and answers as many
/// are under way as the engine has slots. A prompt that leaves no room in the engine's context gets an empty answer.
///
/// # Errors
/// When the engine fails.
pub(super) fn greedy(
    engine: &mut dyn Engine,
    adapter: Option<&Arc<Lora>>,
    prompts: &[Vec<u32>],
    stops: &[u32],
    most: usize,
) -> Result<Vec<Vec<u32>>, EngineError> {
    let mut answers = vec![Vec::new(); prompts.len()];
    let mut waiting: VecDeque<usize> = (0..prompts.len()).collect();
    let mut free: Vec<usize> = (0..engine.slots()).rev().collect();
    // (slot, prompt, the token that is fed next)
    let mut under_way: Vec<(usize, usize, u32)> = Vec::new();
    let (context, width) = (engine.context(), engine.vocabulary());
    loop {
        while let Some(slot) = free.pop() {
            let Some(prompt) = waiting.pop_front() else {
                free.push(slot);
                break;
            };
            if prompts[prompt].is_empty() || prompts[prompt].len() >= context {
                free.push(slot);
                continue;
            }
            engine.truncate(slot, 0);
            let token = likeliest(&engine.prefill(slot, &prompts[prompt], adapter)?);
            under_way.push((slot, prompt, token));
        }
        // Tokens that were chosen are taken, or end their answer.
        under_way.retain(|&(slot, prompt, token)| {
            let answer: &mut Vec<u32> = &mut answers[prompt];
            let ends = stops.contains(&token) || answer.len() >= most;
            if !ends {
                answer.push(token);
            }
            let full = answer.len() >= most || prompts[prompt].len() + answer.len() >= context;
            if ends || full {
                free.push(slot);
            }
            !(ends || full)
        });
        if under_way.is_empty() {
            if waiting.is_empty() {
                return Ok(answers);
            }
            continue;
        }
        let rows: Vec<Row> = under_way
            .iter()
            .map(|&(slot, _, token)| Row { slot, token, adapter: adapter.cloned() })
            .collect();
        let logits = engine.step(&rows)?;
        for (row, going) in logits.chunks_exact(width).zip(&mut under_way) {
            going.2 = likeliest(row);
        }
    }
}

/// The first of the largest.
fn likeliest(logits: &[f32]) -> u32 {
    let mut best = 0;
    for (i, logit) in logits.iter().enumerate() {
        if *logit > logits[best] {
            best = i;
        }
    }
    u32::try_from(best).expect("vocabularies are small")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Says the number after the one that it heard last, of 10.
    struct Counts {
        slots: Vec<Vec<u32>>,
        busiest: usize,
    }

    impl Counts {
        fn after(&self, slot: usize) -> Vec<f32> {
            let next = (self.slots[slot].last().expect("something was said") + 1) % 10;
            (0..10).map(|i| if i == next { 1.0 } else { 0.0 }).collect()
        }
    }

    impl Engine for Counts {
        fn slots(&self) -> usize {
            self.slots.len()
        }

        fn context(&self) -> usize {
            8
        }

        fn vocabulary(&self) -> usize {
            10
        }

        fn prefill(
            &mut self,
            slot: usize,
            tokens: &[u32],
            _: Option<&Arc<Lora>>,
        ) -> Result<Vec<f32>, EngineError> {
            assert!(self.slots[slot].is_empty(), "the slot is empty");
            self.slots[slot].extend(tokens);
            Ok(self.after(slot))
        }

        fn step(&mut self, rows: &[Row]) -> Result<Vec<f32>, EngineError> {
            self.busiest = self.busiest.max(rows.len());
            for row in rows {
                self.slots[row.slot].push(row.token);
            }
            Ok(rows.iter().flat_map(|row| self.after(row.slot)).collect())
        }

        fn truncate(&mut self, slot: usize, length: usize) {
            self.slots[slot].truncate(length);
        }
    }

    #[test]
    fn every_prompt_is_answered_to_its_own_end_whatever_the_slots() {
        let prompts = vec![vec![1], vec![7], vec![3, 4], vec![], vec![2; 9], vec![6, 6, 6, 6, 6, 6, 6]];
        for slots in [1, 2, 9] {
            let mut engine = Counts { slots: vec![Vec::new(); slots], busiest: 0 };
            let answers = greedy(&mut engine, None, &prompts, &[9], 4).expect("it counts");
            let expected: [&[u32]; 6] = [&[2, 3, 4, 5], &[8], &[5, 6, 7, 8], &[], &[], &[7]];
            assert_eq!(answers, expected, "{slots} slots");
            assert!(engine.busiest <= slots);
        }
    }
}
