use std::sync::Arc;

use arc_swap::ArcSwap;
use tokio_util::task::TaskTracker;
use tokio_util::task::task_tracker::TaskTrackerToken;

use super::Forwarder;
use super::drain::Parting;
use super::turn::Turn;
use crate::tasks::Tasks;

/// A client's connection, as the requests that come over it know it.
#[derive(Clone)]
pub struct Line {
    /// Unique, also over restarts.
    pub number: i64,
    pub turn: Turn,
    pub tunnels: Tunnels,
    /// Loaded once a request: a reload replaces it.
    pub current: Arc<ArcSwap<Forwarder>>,
    pub(super) parting: Arc<Parting>,
}

/// Where connections go on when they have changed their protocol. Cheap to clone: each request has it.
#[derive(Clone, Debug)]
pub struct Tunnels(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    tasks: Tasks,
    /// Tunnels count as running exchanges: whoever drains waits for this.
    running: TaskTracker,
}

impl Tunnels {
    #[must_use]
    pub fn new(tasks: Tasks, running: TaskTracker) -> Self {
        Self(Arc::new(Inner { tasks, running }))
    }

    pub(super) fn tasks(&self) -> &Tasks {
        &self.0.tasks
    }

    /// Counts as a tunnel for as long as it is held.
    pub(super) fn token(&self) -> TaskTrackerToken {
        self.0.running.token()
    }
}
