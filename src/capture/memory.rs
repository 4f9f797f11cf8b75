use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// A bound on bytes held by captures, shared by all of them.
#[derive(Clone, Debug)]
pub struct Memory {
    held: Arc<AtomicUsize>,
    limit: usize,
}

/// A share of the memory; given back when dropped.
#[derive(Debug)]
pub(super) struct Share {
    memory: Memory,
    bytes: usize,
}

impl Memory {
    #[must_use]
    pub fn new(limit: usize) -> Self {
        Self { held: Arc::default(), limit }
    }

    /// Bytes held now.
    #[must_use]
    pub fn held(&self) -> usize {
        self.held.load(Ordering::Relaxed)
    }

    pub(super) fn share(&self) -> Share {
        Share { memory: self.clone(), bytes: 0 }
    }
}

impl Share {
    /// Takes more; false, and nothing taken, when the limit would be passed.
    #[must_use]
    pub fn grow(&mut self, bytes: usize) -> bool {
        let held = self.memory.held.fetch_add(bytes, Ordering::Relaxed);
        if held + bytes > self.memory.limit {
            self.memory.held.fetch_sub(bytes, Ordering::Relaxed);
            return false;
        }
        self.bytes += bytes;
        true
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.memory.held.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_stay_within_the_limit_and_come_back() {
        let memory = Memory::new(10);
        let mut a = memory.share();
        let mut b = memory.share();
        assert!(a.grow(6) && !b.grow(6) && b.grow(4));
        drop(a);
        assert_eq!(memory.held(), 4);
        assert!(b.grow(6));
        drop(b);
        assert_eq!(memory.held(), 0);
    }
}
