use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// What is in the journal and not yet in the record: told by the recorder, read by the settler. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Backlog {
    inner: Arc<(Mutex<State>, Condvar)>,
}

#[derive(Debug, Default)]
struct State {
    /// Bytes that wait.
    bytes: u64,
    /// Exchanges that were ever appended.
    exchanges: u64,
    /// The settler sleeps until there is something.
    asleep: bool,
    /// The recorder is gone.
    closed: bool,
    /// Traffic is heavy.
    heavy: bool,
}

impl Backlog {
    fn state(&self) -> MutexGuard<'_, State> {
        self.inner.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether traffic is heavy, so that what can wait should: it would take processor time from the traffic.
    #[must_use]
    pub fn is_heavy(&self) -> bool {
        self.state().heavy
    }

    pub(super) fn set_heavy(&self, heavy: bool) {
        self.state().heavy = heavy;
    }

    /// Bytes that wait.
    pub(super) fn bytes(&self) -> u64 {
        self.state().bytes
    }

    /// Exchanges that were ever appended.
    pub(super) fn exchanges(&self) -> u64 {
        self.state().exchanges
    }

    pub(super) fn appended(&self, bytes: u64, exchanges: u64) {
        let mut state = self.state();
        state.bytes += bytes;
        state.exchanges += exchanges;
        // Under load the settler looks by itself from time to time; waking it would cost a system call each time.
        if std::mem::take(&mut state.asleep) {
            self.inner.1.notify_all();
        }
    }

    /// Corrects the bytes that wait, counted in the files: another process may have settled some.
    pub(super) fn counted(&self, bytes: u64) {
        self.state().bytes = bytes;
    }

    pub(super) fn close(&self) {
        self.state().closed = true;
        self.inner.1.notify_all();
    }

    pub(super) fn is_closed(&self) -> bool {
        self.state().closed
    }

    /// Waits for `pause`, or until the recorder is gone; or, where `covered` is given, until more exchanges than that were
    /// appended.
    pub(super) fn wait(&self, pause: Duration, covered: Option<u64>) {
        let mut state = self.state();
        state.asleep = covered.is_some();
        let quiet =
            |state: &mut State| !state.closed && covered.is_none_or(|covered| state.exchanges <= covered);
        let waited = self.inner.1.wait_timeout_while(state, pause, quiet);
        waited.unwrap_or_else(PoisonError::into_inner).0.asleep = false;
    }
}
