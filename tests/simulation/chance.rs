//! Chance and the record of what happened: all choices of a run come from its seed, and everything
//! that can be seen goes into one hash.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use tokio::time::Instant;

/// Seeded choices. A fork makes its own, so that one part's choices do not shift another's.
#[derive(Debug)]
pub(crate) struct Dice(Mutex<StdRng>);

impl Dice {
    pub(crate) fn new(seed: u64) -> Self {
        Self(Mutex::new(StdRng::seed_from_u64(seed)))
    }

    pub(crate) fn fork(&self) -> Self {
        Self::new(self.0.lock().random())
    }

    pub(crate) fn number(&self) -> u64 {
        self.0.lock().random()
    }

    /// One of `from..=to`.
    pub(crate) fn between(&self, from: u64, to: u64) -> u64 {
        self.0.lock().random_range(from..=to)
    }

    pub(crate) fn happens(&self, probability: f64) -> bool {
        self.0.lock().random_bool(probability)
    }

    pub(crate) fn micros(&self, from: u64, to: u64) -> Duration {
        Duration::from_micros(self.between(from, to))
    }

    pub(crate) fn millis(&self, from: u64, to: u64) -> Duration {
        self.micros(from * 1000, to * 1000)
    }

    pub(crate) fn pick<'a, T>(&self, from: &'a [T]) -> &'a T {
        &from[usize::try_from(self.between(0, from.len() as u64 - 1)).unwrap()]
    }
}

/// See the file's description.
#[derive(Debug)]
pub(crate) struct Trace {
    began: Instant,
    prints: bool,
    hash: Mutex<u64>,
    steps: AtomicU64,
    violations: Mutex<Vec<String>>,
}

impl Trace {
    pub(crate) fn new(prints: bool) -> Arc<Self> {
        Arc::new(Self {
            began: Instant::now(),
            prints,
            hash: Mutex::new(0xcbf2_9ce4_8422_2325),
            steps: AtomicU64::new(0),
            violations: Mutex::default(),
        })
    }

    /// Notes something that must come out the same in a replay.
    pub(crate) fn note(&self, what: &str) {
        let at = self.began.elapsed();
        if self.prints {
            println!("{:>12.6} {what}", at.as_secs_f64());
        }
        self.steps.fetch_add(1, Ordering::Relaxed);
        let mut hash = self.hash.lock();
        let time = u64::try_from(at.as_nanos()).unwrap().to_le_bytes();
        // FNV-1a.
        for byte in time.iter().chain(what.as_bytes()) {
            *hash = (*hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3);
        }
    }

    /// Notes that something is wrong.
    pub(crate) fn violated(&self, what: String) {
        self.note(&format!("VIOLATED {what}"));
        self.violations.lock().push(what);
    }

    pub(crate) fn violations(&self) -> Vec<String> {
        self.violations.lock().clone()
    }

    pub(crate) fn hash(&self) -> u64 {
        *self.hash.lock()
    }

    /// Things noted so far.
    pub(crate) fn steps(&self) -> u64 {
        self.steps.load(Ordering::Relaxed)
    }

    pub(crate) fn elapsed(&self) -> Duration {
        self.began.elapsed()
    }
}
