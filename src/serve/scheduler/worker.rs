use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, PoisonError};

use super::order::{Failure, Order};
use super::sequence::Sequence;
use super::slots::{self, Place, Slot};
use super::{Ending, Shared, Waiting};
use crate::serve::engine::{Engine, EngineError, Row};
use crate::serve::text::Text;

/// Prompt tokens that are read between two steps: running answers wait about as long as for a few tokens of their own,
/// and a longer chunk would hardly be read faster.
pub(super) const CHUNK: usize = 256;

/// Drives the engine. To be [run](Self::run) on a thread of its own.
pub(crate) struct Worker {
    shared: Arc<Shared>,
    engine: Box<dyn Engine>,
    text: Arc<dyn Text>,
    slots: Vec<Slot>,
    /// Counts what was begun.
    turn: u64,
    /// Whether the engine copies between slots; until it says no.
    copies: bool,
}

impl Worker {
    pub(super) fn new(shared: Arc<Shared>, engine: Box<dyn Engine>, text: Arc<dyn Text>) -> Self {
        let slots = (0..engine.slots()).map(|_| Slot::default()).collect();
        Self { shared, engine, text, slots, turn: 0, copies: true }
    }

    /// Serves orders until the end is asked for.
    pub(crate) fn run(mut self) {
        while self.goes_on() {
            self.forget_the_left();
            self.admit();
            self.read_a_chunk();
            self.step();
        }
    }

    /// Waits for work; false when there is none to come.
    fn goes_on(&mut self) -> bool {
        let running = self.slots.iter().filter(|slot| slot.sequence.is_some()).count();
        let mut state = self.shared.lock();
        loop {
            state.running = running;
            match state.ending {
                Ending::Now | Ending::Gone => return false,
                Ending::Draining if running == 0 && state.waiting.is_empty() => return false,
                _ if running > 0 || !state.waiting.is_empty() => return true,
                _ => state = self.shared.wake.wait(state).unwrap_or_else(PoisonError::into_inner),
            }
        }
    }

    /// Frees the slots of those whose client went away. What they hold stays, for others to continue.
    fn forget_the_left(&mut self) {
        for slot in &mut self.slots {
            if slot.sequence.as_ref().is_some_and(|sequence| sequence.outlet.is_over()) {
                slot.sequence = None;
            }
        }
    }

    /// Gives free slots to those that wait longest.
    fn admit(&mut self) {
        while self.slots.iter().any(|slot| slot.sequence.is_none()) {
            let Some((order, outlet, choice)) = self.next_waiting() else { return };
            let sequence = Sequence::new(&order, &outlet, choice, self.engine.context());
            let Some(Place { slot, keep }) =
                slots::place(&self.slots, sequence.prompt(), order.adapter.as_ref())
            else {
                return;
            };
            self.turn += 1;
            if keep < self.slots[slot].held.len() {
                self.engine.truncate(slot, keep);
            }
            self.slots[slot].begin(sequence, keep, self.turn);
        }
    }

    fn next_waiting(&self) -> Option<(Arc<Order>, Arc<super::Outlet>, usize)> {
        let mut state = self.shared.lock();
        while state.waiting.front().is_some_and(|waiting| waiting.outlet.is_over()) {
            state.waiting.pop_front();
        }
        let Waiting { order, outlet, next } = state.waiting.front_mut()?;
        let begun = (order.clone(), outlet.clone(), *next);
        *next += 1;
        if *next == order.answers() {
            state.waiting.pop_front();
        }
        state.running += 1;
        Some(begun)
    }

    /// Reads one chunk of the prompt that has been waiting longest.
    fn read_a_chunk(&mut self) {
        let reading = |slot: &Slot| slot.sequence.as_ref().is_some_and(Sequence::reads);
        let oldest = (0..self.slots.len())
            .filter(|at| reading(&self.slots[*at]))
            .min_by_key(|at| self.slots[*at].used());
        let Some(at) = oldest else { return };
        self.copy(at);
        let slot = &mut self.slots[at];
        let Some(sequence) = &mut slot.sequence else { return };
        let end = sequence.prompt().len().min(sequence.read + CHUNK);
        let chunk = sequence.prompt()[sequence.read..end].to_vec();
        let adapter = sequence.order.adapter.clone();
        let engine = &mut self.engine;
        match guarded(|| engine.prefill(at, &chunk, adapter.as_ref())) {
            Ok(mut logits) => {
                slot.held.extend_from_slice(&chunk);
                sequence.read = end;
                if end == sequence.prompt().len() {
                    self.advance(at, &mut logits);
                }
            }
            Err(error) => self.fail(at, &error),
        }
    }

    /// Takes over what another slot has read of the same prompt.
    fn copy(&mut self, at: usize) {
        let Some(sequence) = &self.slots[at].sequence else { return };
        let (prompt, adapter) = (sequence.prompt(), sequence.order.adapter.as_ref());
        let donor = slots::donor(&self.slots, at, prompt, adapter, sequence.read);
        let Some(Place { slot: from, keep }) = donor.filter(|_| self.copies) else { return };
        self.copies = self.engine.copy(from, at, keep);
        if self.copies {
            self.slots[at].held = self.slots[from].held[..keep].to_vec();
            if let Some(sequence) = &mut self.slots[at].sequence {
                sequence.cached += keep - sequence.read;
                sequence.read = keep;
            }
        }
    }

    /// One token for every sequence whose prompt is read.
    fn step(&mut self) {
        let mut rows = Vec::new();
        for (at, slot) in self.slots.iter().enumerate() {
            if let Some(sequence) = &slot.sequence
                && let Some(token) = sequence.next
            {
                rows.push(Row { slot: at, token, adapter: sequence.order.adapter.clone() });
            }
        }
        if rows.is_empty() {
            return;
        }
        let width = self.engine.vocabulary();
        let engine = &mut self.engine;
        let stepped = guarded(|| engine.step(&rows)).and_then(|logits| {
            let whole = logits.len() == rows.len() * width;
            whole.then_some(logits).ok_or_else(|| EngineError("a step of another size than asked".to_owned()))
        });
        match stepped {
            Ok(mut logits) => {
                for (row, logits) in rows.iter().zip(logits.chunks_exact_mut(width)) {
                    self.slots[row.slot].held.push(row.token);
                    self.advance(row.slot, logits);
                }
            }
            // Their caches are lost, and nobody can tell whose row it was.
            Err(error) => rows.iter().for_each(|row| self.fail(row.slot, &error)),
        }
    }

    fn advance(&mut self, at: usize, logits: &mut [f32]) {
        let slot = &mut self.slots[at];
        let Some(sequence) = &mut slot.sequence else { return };
        match sequence.advance(logits, &*self.text) {
            Ok(false) => {}
            Ok(true) => {
                self.shared.lock().pace.took(sequence.since.elapsed());
                slot.sequence = None;
            }
            // The model's state is as it should be: the slot can be continued.
            Err(failure) => {
                tracing::warn!(%failure, "an answer is given up");
                sequence.outlet.fail(failure);
                slot.sequence = None;
            }
        }
    }

    /// The engine failed at a slot: its sequence ends, and what it held is not trusted.
    fn fail(&mut self, at: usize, error: &EngineError) {
        tracing::error!(%error, slot = at, "the engine failed");
        let slot = std::mem::take(&mut self.slots[at]);
        if let Some(sequence) = slot.sequence {
            sequence.outlet.fail(Failure::Engine(error.to_string()));
        }
        let engine = &mut self.engine;
        drop(guarded(|| Ok(engine.truncate(at, 0))));
    }
}

/// A panic of the engine is an error like others: the thread has other sequences to serve.
fn guarded<T>(work: impl FnOnce() -> Result<T, EngineError>) -> Result<T, EngineError> {
    catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|panic| {
        let said = panic.downcast_ref::<String>().map(String::as_str);
        let said = said.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("no reason given");
        Err(EngineError(format!("it panicked: {said}")))
    })
}

impl Drop for Worker {
    /// Whoever still waits is told.
    fn drop(&mut self) {
        let mut state = self.shared.lock();
        state.ending = Ending::Gone;
        state.running = 0;
        for waiting in state.waiting.drain(..) {
            waiting.outlet.fail(Failure::Stopping);
        }
        for sequence in self.slots.iter_mut().filter_map(|slot| slot.sequence.take()) {
            sequence.outlet.fail(Failure::Stopping);
        }
    }
}
