use tokio_util::task::TaskTracker;

use super::turn::Turn;
use crate::tasks::Tasks;

/// A client's connection, as the requests that come over it know it.
#[derive(Clone, Debug)]
pub struct Line {
    /// Unique, also over restarts.
    pub number: i64,
    pub turn: Turn,
    pub tunnels: Tunnels,
}

/// Where connections go on when they have changed their protocol.
#[derive(Clone, Debug)]
pub struct Tunnels {
    pub(super) tasks: Tasks,
    /// Tunnels count as running exchanges: whoever drains waits for this.
    pub(super) running: TaskTracker,
}

impl Tunnels {
    #[must_use]
    pub fn new(tasks: Tasks, running: TaskTracker) -> Self {
        Self { tasks, running }
    }
}
