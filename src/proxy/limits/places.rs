use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use metrics::Gauge;
use tokio::sync::Notify;

/// Counts open client connections.
#[derive(Clone, Debug)]
pub(in crate::proxy) struct Places(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    taken: AtomicUsize,
    freed: Notify,
    gauge: Gauge,
}

/// One open connection.
#[derive(Debug)]
pub(in crate::proxy) struct Place(Arc<Inner>);

impl Places {
    pub fn new(gauge: Gauge) -> Self {
        Self(Arc::new(Inner { taken: AtomicUsize::new(0), freed: Notify::new(), gauge }))
    }

    pub fn take(&self) -> Place {
        self.0.taken.fetch_add(1, Ordering::Relaxed);
        self.0.gauge.increment(1);
        Place(self.0.clone())
    }

    pub fn taken(&self) -> usize {
        self.0.taken.load(Ordering::Relaxed)
    }

    /// Waits until fewer than `most` are taken. For one waiter at a time.
    pub async fn below(&self, most: usize) {
        while self.taken() >= most {
            // A place that was freed in between has left its permit.
            self.0.freed.notified().await;
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.taken.fetch_sub(1, Ordering::Relaxed);
        self.0.gauge.decrement(1);
        self.0.freed.notify_one();
    }
}
