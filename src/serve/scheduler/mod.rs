//! Which sequence gets the engine next: a queue, slots, one thread.
//!
//! In: [`Order`]s. Out: [`Event`]s, over one channel an order.
//!
//! A turn of the thread: those whose client left are dropped; who waits longest gets a free slot; one chunk of one
//! prompt is read; every sequence whose prompt is read gets its next token, all in one step of the engine.
//!
//! Always true: orders begin in the order in which they came; a long prompt delays running answers by one chunk a token
//! at most; an order's events never make the thread wait: their channel holds all that it can ever say; when the
//! engine fails, the orders concerned are told and the others go on.

mod order;
mod pace;
mod sequence;
mod slots;
mod worker;

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

pub(crate) use order::{Answer, Event, Failure, Finish, Order};
pub(crate) use worker::Worker;

use super::engine::Engine;
use super::text::Text;

use order::Outlet;
use pace::Pace;

/// Takes orders. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Scheduler {
    shared: Arc<Shared>,
}

struct Shared {
    state: Mutex<State>,
    /// Something waits, or the end was asked for.
    wake: Condvar,
    /// Orders that may wait.
    longest: usize,
    slots: usize,
}

struct State {
    waiting: VecDeque<Waiting>,
    running: usize,
    pace: Pace,
    ending: Ending,
}

/// An order some of whose sequences have not begun.
struct Waiting {
    order: Arc<Order>,
    outlet: Arc<Outlet>,
    /// The next choice to begin.
    next: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Ending {
    No,
    /// No more is taken.
    Draining,
    /// What runs is given up.
    Now,
    /// The thread is gone.
    Gone,
}

/// An order is not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// As many wait as may; there may be room after this time.
    Full(Duration),
    Stopping,
}

/// How busy it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Load {
    pub slots: usize,
    pub running: usize,
    pub waiting: usize,
}

/// A scheduler over an engine; the worker is to be run on a thread of its own. `longest`: orders that may wait.
pub(crate) fn build(engine: Box<dyn Engine>, text: Arc<dyn Text>, longest: usize) -> (Scheduler, Worker) {
    let state = State { waiting: VecDeque::new(), running: 0, pace: Pace::default(), ending: Ending::No };
    let slots = engine.slots();
    let shared = Arc::new(Shared { state: Mutex::new(state), wake: Condvar::new(), longest, slots });
    (Scheduler { shared: shared.clone() }, Worker::new(shared, engine, text))
}

impl Scheduler {
    /// Queues an order.
    ///
    /// # Errors
    /// When too many wait, or the server ends.
    pub(crate) fn submit(&self, order: Order) -> Result<Answer, Refusal> {
        let (outlet, answer) = order::channel(&order);
        let mut state = self.shared.lock();
        if state.ending > Ending::No {
            return Err(Refusal::Stopping);
        }
        if state.waiting.len() >= self.shared.longest {
            state.waiting.retain(|waiting| !waiting.outlet.is_over());
        }
        // Where none may wait, one that can begin at once is still taken.
        let at_once = state.running + state.waiting.len() < self.shared.slots;
        if state.waiting.len() >= self.shared.longest && !at_once {
            return Err(Refusal::Full(state.pace.room_in(state.waiting.len(), self.shared.slots)));
        }
        state.waiting.push_back(Waiting { order: Arc::new(order), outlet: Arc::new(outlet), next: 0 });
        self.shared.wake.notify_one();
        Ok(answer)
    }

    pub(crate) fn load(&self) -> Load {
        let state = self.shared.lock();
        Load { slots: self.shared.slots, running: state.running, waiting: state.waiting.len() }
    }

    /// Takes no more orders; the worker ends when those it has are over.
    pub(crate) fn drain(&self) {
        self.end(Ending::Draining);
    }

    /// Gives up what runs and what waits; the worker ends.
    pub(crate) fn abandon(&self) {
        self.end(Ending::Now);
    }

    fn end(&self, how: Ending) {
        let mut state = self.shared.lock();
        state.ending = state.ending.max(how);
        self.shared.wake.notify_one();
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests;
