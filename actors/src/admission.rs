//! Permits, taken before anything enters a mailbox.
//!
//! Mailboxes are unbounded, so this is where memory is bounded: per node (count and bytes), per
//! shard and per aggregate. Nothing waits here; without a free permit the caller is told so at once.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// How much may be in flight.
#[derive(Debug, Clone, Copy)]
pub struct AdmissionLimits {
    /// Requests on this node.
    pub node_requests: usize,
    /// Bytes of request bodies on this node.
    pub node_bytes: usize,
    /// Requests per shard.
    pub shard_requests: usize,
    /// Requests per aggregate.
    pub aggregate_requests: usize,
}

/// A counter with a ceiling.
#[derive(Debug, Default)]
pub struct Gauge(AtomicUsize);

impl Gauge {
    fn try_add(&self, amount: usize, limit: usize) -> bool {
        if self.0.fetch_add(amount, Ordering::AcqRel) + amount <= limit {
            return true;
        }
        self.sub(amount);
        false
    }

    fn sub(&self, amount: usize) {
        self.0.fetch_sub(amount, Ordering::AcqRel);
    }

    /// The current value.
    pub fn get(&self) -> usize {
        self.0.load(Ordering::Acquire)
    }
}

/// The node's counters.
#[derive(Debug)]
pub struct Admission {
    /// The ceilings.
    pub limits: AdmissionLimits,
    requests: Gauge,
    bytes: Gauge,
}

impl Admission {
    /// Counters at zero.
    #[must_use]
    pub fn new(limits: AdmissionLimits) -> Self {
        Self {
            limits,
            requests: Gauge::default(),
            bytes: Gauge::default(),
        }
    }

    /// Requests in flight on this node.
    pub fn in_flight(&self) -> usize {
        self.requests.get()
    }

    /// Takes a node permit and a shard permit.
    ///
    /// # Errors
    /// The bound that is reached.
    pub fn admit(self: &Arc<Self>, shard: &Arc<Gauge>, bytes: usize) -> Result<Permit, Exhausted> {
        if !self.requests.try_add(1, self.limits.node_requests) {
            return Err(Exhausted::NodeRequests);
        }
        if !self.bytes.try_add(bytes, self.limits.node_bytes) {
            self.requests.sub(1);
            return Err(Exhausted::NodeBytes);
        }
        if !shard.try_add(1, self.limits.shard_requests) {
            self.requests.sub(1);
            self.bytes.sub(bytes);
            return Err(Exhausted::Shard);
        }
        Ok(Permit {
            node: Arc::clone(self),
            shard: Arc::clone(shard),
            aggregate: None,
            bytes,
        })
    }
}

/// Which bound is reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Exhausted {
    /// Too many requests on the node.
    #[error("the node has as many requests in flight as it accepts")]
    NodeRequests,
    /// Too many bytes on the node.
    #[error("the node has as many request bytes in flight as it accepts")]
    NodeBytes,
    /// Too many requests on the shard.
    #[error("the shard has as many requests in flight as it accepts")]
    Shard,
    /// Too many requests on the aggregate.
    #[error("the aggregate has as many requests in flight as it accepts")]
    Aggregate,
}

/// The right to be in flight; given back on drop, which is when the reply is out.
#[derive(Debug)]
pub struct Permit {
    node: Arc<Admission>,
    shard: Arc<Gauge>,
    aggregate: Option<Arc<Occupancy>>,
    bytes: usize,
}

impl Permit {
    /// Adds the aggregate's share. Call it while the registry entry is locked, so that passivation
    /// cannot miss it.
    ///
    /// # Errors
    /// When the aggregate has too much in flight already.
    pub fn enter(&mut self, aggregate: &Arc<Occupancy>) -> Result<(), Exhausted> {
        let limit = self.node.limits.aggregate_requests;
        if !aggregate.in_flight.try_add(1, limit) {
            return Err(Exhausted::Aggregate);
        }
        self.aggregate = Some(Arc::clone(aggregate));
        Ok(())
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        if let Some(aggregate) = &self.aggregate {
            aggregate.in_flight.sub(1);
        }
        self.shard.sub(1);
        self.bytes_back();
        self.node.requests.sub(1);
    }
}

impl Permit {
    fn bytes_back(&self) {
        self.node.bytes.sub(self.bytes);
    }
}

/// What passivation needs to know of one resident aggregate.
#[derive(Debug, Default)]
pub struct Occupancy {
    in_flight: Gauge,
    last_used_ns: std::sync::atomic::AtomicU64,
}

impl Occupancy {
    /// Whether nothing is in flight.
    pub fn is_idle(&self) -> bool {
        self.in_flight.get() == 0
    }

    /// Notes a use at a monotonic time.
    pub fn touch(&self, now_ns: u64) {
        self.last_used_ns.store(now_ns, Ordering::Relaxed);
    }

    /// The monotonic time of the last use.
    pub fn last_used_ns(&self) -> u64 {
        self.last_used_ns.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn admission(limits: AdmissionLimits) -> (Arc<Admission>, Arc<Gauge>) {
        (Arc::new(Admission::new(limits)), Arc::default())
    }

    const WIDE: AdmissionLimits = AdmissionLimits {
        node_requests: 10,
        node_bytes: 100,
        shard_requests: 10,
        aggregate_requests: 10,
    };

    #[test]
    fn each_bound_refuses_and_gives_back() {
        for (limits, expected) in [
            (
                AdmissionLimits {
                    node_requests: 1,
                    ..WIDE
                },
                Exhausted::NodeRequests,
            ),
            (
                AdmissionLimits {
                    node_bytes: 70,
                    ..WIDE
                },
                Exhausted::NodeBytes,
            ),
            (
                AdmissionLimits {
                    shard_requests: 1,
                    ..WIDE
                },
                Exhausted::Shard,
            ),
        ] {
            let (node, shard) = admission(limits);
            let first = node.admit(&shard, 40).unwrap();
            assert_eq!(node.admit(&shard, 40).unwrap_err(), expected);
            drop(first);
            assert_eq!((node.in_flight(), shard.get(), node.bytes.get()), (0, 0, 0));
            assert!(node.admit(&shard, 40).is_ok());
        }
    }

    #[test]
    fn an_aggregate_is_idle_only_without_permits() {
        let (node, shard) = admission(AdmissionLimits {
            aggregate_requests: 1,
            ..WIDE
        });
        let aggregate = Arc::new(Occupancy::default());
        let mut permit = node.admit(&shard, 1).unwrap();
        permit.enter(&aggregate).unwrap();
        assert!(!aggregate.is_idle());
        let mut second = node.admit(&shard, 1).unwrap();
        assert_eq!(second.enter(&aggregate), Err(Exhausted::Aggregate));
        drop((permit, second));
        assert!(aggregate.is_idle());
        assert_eq!(node.in_flight(), 0);
    }
}
