//! Slots for loading aggregates from the journal.
//!
//! Owns: how many load at once and the figures about it. Refuses: to load anything that nobody asked for.
//! Invariant: whoever holds a [`Slot`] reads and folds; who waits for something else holds none, so that
//! one shard whose index is late does not keep the others from loading.

use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::sync::{Semaphore, SemaphorePermit};

use crate::metrics::ActivationMetrics;

/// See the file's description.
#[derive(Debug)]
pub struct Activations {
    slots: Semaphore,
    loading: AtomicUsize,
    /// The most that ever loaded at once.
    most: AtomicUsize,
    metrics: ActivationMetrics,
}

/// The right to load one aggregate.
#[derive(Debug)]
pub struct Slot<'a> {
    of: &'a Activations,
    _permit: Option<SemaphorePermit<'a>>,
}

impl Activations {
    /// So many may load at once.
    #[must_use]
    pub fn new(limit: usize) -> Self {
        Self {
            slots: Semaphore::new(limit),
            loading: AtomicUsize::new(0),
            most: AtomicUsize::new(0),
            metrics: ActivationMetrics::default(),
        }
    }

    /// Waits for a slot; first come, first served. Dropping the future gives the place up.
    pub async fn slot(&self) -> Slot<'_> {
        // Nobody closes the semaphore.
        let permit = self.slots.acquire().await.ok();
        let loading = self.loading.fetch_add(1, Ordering::AcqRel) + 1;
        self.metrics.loading.increment(1);
        if self.most.fetch_max(loading, Ordering::AcqRel) < loading {
            self.metrics.most.set(loading as f64);
        }
        Slot {
            of: self,
            _permit: permit,
        }
    }

    /// Notes that an aggregate was loaded, and how many seconds after the first request for it.
    pub(crate) fn loaded(&self, seconds: f64) {
        self.metrics.total.increment(1);
        self.metrics.seconds.record(seconds);
    }

    /// Slots that nobody holds.
    pub fn free(&self) -> usize {
        self.slots.available_permits()
    }

    /// The most that were ever held at once.
    pub fn most(&self) -> usize {
        self.most.load(Ordering::Acquire)
    }
}

impl Drop for Slot<'_> {
    fn drop(&mut self) {
        self.of.loading.fetch_sub(1, Ordering::AcqRel);
        self.of.metrics.loading.decrement(1);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    #[tokio::test]
    async fn never_more_load_at_once_than_there_are_slots() {
        let activations = Arc::new(Activations::new(3));
        let tasks: Vec<_> = (0..20)
            .map(|_| {
                let activations = Arc::clone(&activations);
                tokio::spawn(async move {
                    let _slot = activations.slot().await;
                    for _ in 0..5 {
                        assert!(activations.loading.load(Ordering::Acquire) <= 3);
                        tokio::task::yield_now().await;
                    }
                })
            })
            .collect();
        for task in tasks {
            task.await.unwrap();
        }
        assert_eq!((activations.most(), activations.free()), (3, 3));
        assert_eq!(activations.loading.load(Ordering::Acquire), 0);
    }

    #[tokio::test]
    async fn who_stops_waiting_takes_no_slot() {
        let activations = Activations::new(1);
        let held = activations.slot().await;
        let waiting = tokio::time::timeout(std::time::Duration::ZERO, activations.slot());
        assert!(waiting.await.is_err());
        drop(held);
        assert_eq!(activations.free(), 1);
        let _slot = activations.slot().await;
        assert_eq!(activations.most(), 1);
    }
}
