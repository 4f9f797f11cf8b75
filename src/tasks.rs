//! The only place that spawns: tasks and threads are named, counted, cancelled through one token and awaited at the end.

use std::collections::BTreeMap;
use std::future::{Future, poll_fn};
use std::pin::pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::Poll;
use std::time::Duration;

use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::Instrument;

/// Starts tasks and ends them together. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Tasks {
    token: CancellationToken,
    /// Cancelled when connections have had their grace.
    abort: CancellationToken,
    aborting: Arc<AtomicBool>,
    tracker: TaskTracker,
    /// How many tasks of each name run now.
    running: Arc<Mutex<BTreeMap<&'static str, usize>>>,
}

/// Takes a task off the list when it ends, however it ends.
struct Running {
    name: &'static str,
    list: Arc<Mutex<BTreeMap<&'static str, usize>>>,
}

impl Running {
    fn new(name: &'static str, list: &Arc<Mutex<BTreeMap<&'static str, usize>>>) -> Self {
        *list.lock().unwrap_or_else(PoisonError::into_inner).entry(name).or_default() += 1;
        Self { name, list: list.clone() }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let mut list = self.list.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = list.get_mut(self.name) {
            *count -= 1;
            if *count == 0 {
                list.remove(self.name);
            }
        }
    }
}

impl Tasks {
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Cancelled when everything is to stop.
    #[must_use]
    pub fn stopping(&self) -> CancellationToken {
        self.token.clone()
    }

    /// Runs a future to its end. It watches [`stopping`](Self::stopping) itself where it would run for ever.
    pub fn spawn(&self, name: &'static str, future: impl Future<Output = ()> + Send + 'static) {
        let running = Running::new(name, &self.running);
        let span = tracing::debug_span!("task", name);
        self.tracker.spawn(
            async move {
                let _running = running;
                future.await;
            }
            .instrument(span),
        );
    }

    /// Runs a connection: as [`spawn`](Self::spawn), without the span, for there are many; dropped when
    /// connections are [aborted](Self::abort_connections).
    pub fn spawn_connection(&self, future: impl Future<Output = ()> + Send + 'static) {
        let (abort, aborting) = (self.abort.clone(), self.aborting.clone());
        self.tracker.spawn(async move {
            let (mut future, mut aborted) = (pin!(future), pin!(abort.cancelled()));
            let mut listens = false;
            poll_fn(|cx| {
                // Once it is known whom to wake, a flag is enough: the token takes a lock that all connections share.
                if (!listens || aborting.load(Ordering::Acquire)) && aborted.as_mut().poll(cx).is_ready() {
                    return Poll::Ready(());
                }
                listens = true;
                future.as_mut().poll(cx)
            })
            .await;
        });
    }

    /// Drops the connections that still run.
    pub fn abort_connections(&self) {
        self.aborting.store(true, Ordering::Release);
        self.abort.cancel();
    }

    /// Runs blocking work on a thread of its own, named `name`, until it returns.
    ///
    /// # Errors
    /// When the system gives no thread.
    pub fn thread(&self, name: &'static str, work: impl FnOnce() + Send + 'static) -> std::io::Result<()> {
        let running = Running::new(name, &self.running);
        let token = self.tracker.token();
        std::thread::Builder::new().name(name.into()).spawn(move || {
            let (_running, _token) = (running, token);
            work();
        })?;
        Ok(())
    }

    /// Asks everything to stop, waits for it, and names what still ran at the end of `patience`.
    pub async fn stop(&self, patience: Duration) -> Vec<&'static str> {
        self.token.cancel();
        self.abort_connections();
        self.tracker.close();
        if tokio::time::timeout(patience, self.tracker.wait()).await.is_ok() {
            return Vec::new();
        }
        self.running.lock().unwrap_or_else(PoisonError::into_inner).keys().copied().collect()
    }
}

/// Runs blocking work off the async threads and gives its result; none when it panicked.
#[expect(clippy::disallowed_methods, reason = "this is the one place that spawns")]
pub async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Option<T> {
    tokio::task::spawn_blocking(work).await.ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn stopping_waits_for_tasks_and_threads() {
        let tasks = Tasks::new();
        let token = tasks.stopping();
        tasks.spawn("patient", async move { token.cancelled().await });
        let (tell, told) = std::sync::mpsc::channel::<()>();
        tasks
            .thread("worker", move || {
                let _ = told.recv();
            })
            .expect("a thread can be had");
        drop(tell);
        assert_eq!(tasks.stop(Duration::from_secs(10)).await, Vec::<&str>::new());
    }

    #[tokio::test]
    async fn connections_are_dropped_when_they_are_aborted() {
        let tasks = Tasks::new();
        let (held, dropped) = tokio::sync::oneshot::channel::<()>();
        tasks.spawn_connection(async move {
            let _held = held;
            std::future::pending().await
        });
        tokio::task::yield_now().await;
        tasks.abort_connections();
        assert!(dropped.await.is_err(), "what it held is gone");
    }

    #[tokio::test(start_paused = true)]
    async fn laggards_are_named() {
        let tasks = Tasks::new();
        tasks.spawn("stubborn", std::future::pending());
        assert_eq!(tasks.stop(Duration::from_secs(1)).await, ["stubborn"]);
    }
}
