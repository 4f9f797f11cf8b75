use std::sync::{Arc, Weak};

use super::sequence::Sequence;
use crate::onnx::lora::Lora;

/// What the scheduler knows of one slot of the engine.
#[derive(Default)]
pub(super) struct Slot {
    /// The tokens in the engine's cache.
    pub held: Vec<u32>,
    /// Under which adapter they were written; weak, so that a cache does not keep an adapter that was removed. Its
    /// address is not used again while this is here.
    adapter: Option<Weak<Lora>>,
    /// When it was used last, in turns.
    used: u64,
    pub sequence: Option<Sequence>,
}

/// A place for a prompt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Place {
    pub slot: usize,
    /// Tokens that are there already.
    pub keep: usize,
}

impl Slot {
    /// Tokens with which `prompt` begins, too, but for the last one: it has to be read to know what comes next.
    pub(super) fn shared(&self, prompt: &[u32], adapter: Option<&Arc<Lora>>) -> usize {
        let same = match (&self.adapter, adapter) {
            (None, None) => true,
            (Some(held), Some(wanted)) => std::ptr::eq(held.as_ptr(), Arc::as_ptr(wanted)),
            _ => false,
        };
        if !same {
            return 0;
        }
        let most = prompt.len().saturating_sub(1);
        self.held.iter().zip(&prompt[..most]).take_while(|(a, b)| a == b).count()
    }

    /// Nothing in it can be of use.
    fn is_worthless(&self) -> bool {
        self.held.is_empty() || self.adapter.as_ref().is_some_and(|adapter| adapter.strong_count() == 0)
    }

    /// When it was used last, in turns.
    pub(super) fn used(&self) -> u64 {
        self.used
    }

    /// Begins a sequence that continues the first `keep` tokens.
    pub(super) fn begin(&mut self, mut sequence: Sequence, keep: usize, now: u64) {
        self.held.truncate(keep);
        self.adapter = sequence.order.adapter.as_ref().map(Arc::downgrade);
        self.used = now;
        sequence.read = keep;
        sequence.cached = keep;
        self.sequence = Some(sequence);
    }
}

/// The free slot where a prompt should go.
///
/// One of which at least half goes on; a slot that holds a long conversation is not given up for the few tokens that all
/// conversations begin with. Else one that is worthless, else the one that was used longest ago, with what fits of it.
pub(super) fn place(slots: &[Slot], prompt: &[u32], adapter: Option<&Arc<Lora>>) -> Option<Place> {
    let free = || slots.iter().enumerate().filter(|(_, slot)| slot.sequence.is_none());
    let continued = free()
        .map(|(at, slot)| (slot.shared(prompt, adapter), slot, at))
        .filter(|(shared, slot, _)| *shared > 0 && shared * 2 >= slot.held.len())
        .max_by_key(|(shared, slot, _)| (*shared, slot.used));
    if let Some((keep, _, slot)) = continued {
        return Some(Place { slot, keep });
    }
    let (at, slot) = free().min_by_key(|(_, slot)| (!slot.is_worthless(), slot.used))?;
    Some(Place { slot: at, keep: slot.shared(prompt, adapter) })
}

/// Copying fewer tokens than this is not worth the while.
const WORTH_COPYING: usize = 16;

/// The slot from which most of a prompt could be copied, beyond the `read` tokens that are there.
pub(super) fn donor(
    slots: &[Slot],
    to: usize,
    prompt: &[u32],
    adapter: Option<&Arc<Lora>>,
    read: usize,
) -> Option<Place> {
    let shared = |slot: &Slot| slot.shared(prompt, adapter);
    let best = slots.iter().enumerate().filter(|(at, _)| *at != to).max_by_key(|(_, slot)| shared(slot))?;
    let keep = shared(best.1);
    (keep >= read + WORTH_COPYING).then_some(Place { slot: best.0, keep })
}
