//! Keys and values of the sequences under way.
//!
//! For each layer one buffer of keys and one of values, `[rows, kv_heads, capacity, head_dim]`. A slot that holds tokens
//! has a row. A step takes rows that lie next to each other, so rows change places when the sequences that go on together
//! change; what is copied are the tokens held, a few milliseconds where a request comes or goes, and nothing from token
//! to token. (Rejected: an attention node for each slot, which needs no neighbours but as many nodes a layer as there are
//! slots; pages, which this runtime has on CUDA only.)
//!
//! What several sequences begin with is copied from row to row, so that each has its own: the attention operation takes
//! each row in one piece.
//!
//! Rows and capacity grow by need: what is never used is never allocated.

use ort::value::DynTensor;

use super::OnnxEngineError;
use super::Pass;
use super::forward::cache_names;
use crate::onnx::lent::lent_to_write;
use crate::onnx::llama::Architecture;

/// Tokens that a row has room for at first.
const FIRST_CAPACITY: usize = 256;

pub(super) struct Cache {
    kv_heads: usize,
    head_dim: usize,
    context: usize,
    rows: usize,
    capacity: usize,
    /// Keys and values of layer after layer.
    buffers: Vec<Vec<f32>>,
    slots: Vec<Slot>,
    /// Counts how often the buffers moved.
    version: u64,
}

#[derive(Clone, Copy, Default)]
struct Slot {
    row: Option<usize>,
    length: usize,
}

impl Cache {
    pub fn new(model: &Architecture, slots: usize, context: usize) -> Self {
        Self {
            kv_heads: model.kv_heads,
            head_dim: model.head_dim,
            context,
            rows: 0,
            capacity: 0,
            buffers: vec![Vec::new(); 2 * model.layers],
            slots: vec![Slot::default(); slots],
            version: 0,
        }
    }

    pub fn slots(&self) -> usize {
        self.slots.len()
    }

    pub fn context(&self) -> usize {
        self.context
    }

    pub fn length(&self, slot: usize) -> usize {
        self.slots[slot].length
    }

    pub fn extend(&mut self, slot: usize, tokens: usize) {
        self.slots[slot].length += tokens;
    }

    pub fn truncate(&mut self, slot: usize, length: usize) {
        let slot = &mut self.slots[slot];
        slot.length = slot.length.min(length);
        if slot.length == 0 {
            slot.row = None;
        }
    }

    /// Makes `to` hold the first `length` tokens of `from`; false where there are not as many.
    pub fn copy(&mut self, from: usize, to: usize, length: usize) -> bool {
        let count = self.slots.len();
        if from == to || from >= count || to >= count || length > self.length(from) {
            return false;
        }
        self.truncate(to, 0);
        let Some(source) = self.slots[from].row.filter(|_| length > 0) else { return true };
        let row = self.free_row();
        self.slots[to] = Slot { row: Some(row), length };
        self.reserve(row + 1, length);
        let (floats, head) = (length * self.head_dim, self.capacity * self.head_dim);
        for buffer in &mut self.buffers {
            for at in 0..self.kv_heads {
                let [from, to] = [source, row].map(|row| (row * self.kv_heads + at) * head);
                buffer.copy_within(from..from + floats, to);
            }
        }
        true
    }

    fn free_row(&self) -> usize {
        (0..).find(|&row| self.at(row).is_none()).expect("rows are not endless")
    }

    /// Gives `pass` the rows of distinct `slots` with room for `more` tokens in each, and returns which of its rows
    /// each slot is.
    pub fn give(
        &mut self,
        pass: &mut Pass,
        slots: &[usize],
        more: usize,
    ) -> Result<Vec<usize>, OnnxEngineError> {
        let needed = slots.iter().map(|&slot| self.length(slot) + more).max().unwrap_or(0);
        for &slot in slots {
            if self.slots[slot].row.is_none() {
                self.slots[slot].row = Some(self.free_row());
            }
        }
        let rows = self.slots.iter().filter_map(|slot| slot.row).max().map_or(0, |row| row + 1);
        self.reserve(rows.max(slots.len()), needed);
        let first = self.gather(slots);
        let span = first..first + slots.len();
        let now = Some((self.version, span.clone()));
        if pass.cache != now {
            pass.cache = None;
            for index in 0..self.buffers.len() {
                let (input, output) = &cache_names(index / 2)[index % 2];
                pass.program.give(input, &self.view(index, &span)?)?;
                pass.program.place(output, self.view(index, &span)?)?;
            }
            pass.cache = now;
        }
        Ok(slots.iter().map(|&slot| self.slots[slot].row.expect("just given") - first).collect())
    }

    fn view(&mut self, buffer: usize, rows: &std::ops::Range<usize>) -> Result<DynTensor, OnnxEngineError> {
        let shape = [rows.len(), self.kv_heads, self.capacity, self.head_dim];
        let row = shape[1..].iter().product::<usize>();
        Ok(lent_to_write(&mut self.buffers[buffer][rows.start * row..rows.end * row], &shape)?)
    }

    /// The slot that has a row.
    fn at(&self, row: usize) -> Option<usize> {
        self.slots.iter().position(|slot| slot.row == Some(row))
    }

    /// Puts `slots` next to each other, with as few moves as possible, and returns the first of their rows.
    fn gather(&mut self, slots: &[usize]) -> usize {
        let among = |row: usize, first: usize| (first..first + slots.len()).contains(&row);
        let inside =
            |first: usize| slots.iter().filter(|&&s| among(self.slots[s].row.unwrap_or(0), first)).count();
        let first = (0..=self.rows - slots.len()).rev().max_by_key(|&first| inside(first)).unwrap_or(0);
        for &slot in slots {
            let row = self.slots[slot].row.expect("it was given one");
            if among(row, first) {
                continue;
            }
            let to = (first..first + slots.len()).find(|&to| self.at(to).is_none_or(|s| !slots.contains(&s)));
            self.swap(row, to.expect("as many places as slots"));
        }
        first
    }

    fn swap(&mut self, a: usize, b: usize) {
        let (low, high) = (a.min(b), a.max(b));
        let held = |slot: Option<usize>| slot.map_or(0, |slot| self.slots[slot].length);
        let (slot_a, slot_b) = (self.at(a), self.at(b));
        let floats = held(slot_a).max(held(slot_b)) * self.head_dim;
        let head = self.capacity * self.head_dim;
        let row = self.kv_heads * head;
        for buffer in &mut self.buffers {
            let (before, after) = buffer.split_at_mut(high * row);
            let lower = before[low * row..][..row].chunks_exact_mut(head);
            for (lower, higher) in lower.zip(after[..row].chunks_exact_mut(head)) {
                lower[..floats].swap_with_slice(&mut higher[..floats]);
            }
        }
        for (slot, row) in [(slot_a, b), (slot_b, a)] {
            if let Some(slot) = slot {
                self.slots[slot].row = Some(row);
            }
        }
    }

    /// Room for `rows` sequences of `tokens`.
    fn reserve(&mut self, rows: usize, tokens: usize) {
        let rows = self.rows.max(rows);
        let capacity = if tokens <= self.capacity {
            self.capacity
        } else {
            tokens.next_power_of_two().clamp(FIRST_CAPACITY.min(self.context), self.context)
        };
        if (rows, capacity) == (self.rows, self.capacity) {
            return;
        }
        self.version += 1;
        let (old, new) = (self.capacity * self.head_dim, capacity * self.head_dim);
        for buffer in &mut self.buffers {
            // Zeros from the system take no memory until they are written.
            let mut larger = vec![0.0; rows * self.kv_heads * new];
            if old > 0 {
                for (from, to) in buffer.chunks_exact(old).zip(larger.chunks_exact_mut(new)) {
                    to[..old].copy_from_slice(from);
                }
            }
            *buffer = larger;
        }
        (self.rows, self.capacity) = (rows, capacity);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::onnx::llama::Family;

    fn model() -> Architecture {
        Architecture {
            family: Family::Llama,
            hidden: 4,
            feed_forward: 4,
            layers: 1,
            heads: 2,
            kv_heads: 2,
            head_dim: 2,
            vocabulary: 8,
            norm_epsilon: 1e-5,
            rotary_frequencies: vec![1.0],
            context: 1000,
            sliding_window: None,
            qkv_bias: false,
            qk_norm: false,
            tied: true,
        }
    }

    /// The number at the start of each token that a slot holds, head after head.
    fn held(cache: &Cache, slot: usize) -> Vec<f32> {
        let row = cache.slots[slot].row.unwrap() * 2 * cache.capacity * 2;
        let heads = cache.buffers[1][row..][..2 * cache.capacity * 2].chunks(cache.capacity * 2);
        heads.flat_map(|head| (0..cache.length(slot)).map(|token| head[token * 2])).collect()
    }

    #[test]
    fn sequences_keep_their_tokens_while_they_move_and_grow() {
        let mut cache = Cache::new(&model(), 5, 1000);
        let mut expected = Vec::new();
        for slot in 0..5 {
            cache.slots[slot].row = Some(slot);
            cache.reserve(slot + 1, 3 + slot);
            cache.extend(slot, 3 + slot);
            let (row, head) = (slot * 2 * cache.capacity * 2, cache.capacity * 2);
            for at in 0..2 * (3 + slot) {
                let (in_head, token) = (at / (3 + slot), at % (3 + slot));
                cache.buffers[1][row + in_head * head + token * 2] = (slot * 100 + at) as f32;
            }
            expected.push(held(&cache, slot));
        }
        assert_eq!(cache.capacity, FIRST_CAPACITY);
        for together in [vec![4, 0], vec![1, 3], vec![0, 2, 4], vec![3], vec![4, 3, 2, 1, 0], vec![1, 4, 0]] {
            let first = cache.gather(&together);
            let mut rows: Vec<_> = together.iter().map(|&slot| cache.slots[slot].row.unwrap()).collect();
            rows.sort_unstable();
            assert!(rows.iter().copied().eq(first..first + together.len()), "{rows:?}");
            assert!((0..5).all(|slot| held(&cache, slot) == expected[slot]));
        }
        for (from, to, length) in [(4, 0, 6), (0, 3, 2)] {
            assert!(cache.copy(from, to, length));
            let most = expected[from].len() / 2;
            expected[to] = expected[from].chunks(most).flat_map(|head| head[..length].to_vec()).collect();
            assert!((0..5).all(|slot| held(&cache, slot) == expected[slot]), "{from} to {to}");
        }
        assert!(
            !cache.copy(3, 1, 3) && !cache.copy(1, 1, 1) && !cache.copy(1, 5, 1),
            "there is no such thing"
        );
        cache.truncate(2, 0);
        cache.reserve(5, 600);
        assert_eq!(cache.capacity, 1000);
        assert!([0, 1, 3, 4].into_iter().all(|slot| held(&cache, slot) == expected[slot]));
    }
}
