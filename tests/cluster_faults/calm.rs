//! Notices when the machine itself stands still, so that no node is blamed for it.
//!
//! A thread sleeps again and again for a moment and notes by how much it woke up too late. A limit on
//! time is held against a measurement only if the machine kept going meanwhile.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::support::wait;

const NAP: Duration = Duration::from_millis(10);
/// What a busy machine may be late by.
const LATE: Duration = Duration::from_millis(40);
/// Stalls within one measurement after which it counts for nothing.
const TOO_LATE: Duration = Duration::from_millis(300);

type Stalls = Arc<Mutex<Vec<(Instant, Duration)>>>;

/// See the file's description.
#[derive(Debug)]
pub(crate) struct Calm {
    stalls: Stalls,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Calm {
    /// Begins to look.
    pub(crate) fn start() -> Self {
        let (stalls, stop) = (Stalls::default(), Arc::<AtomicBool>::default());
        let (seen, ended) = (Arc::clone(&stalls), Arc::clone(&stop));
        let thread = std::thread::spawn(move || {
            while !ended.load(Ordering::Relaxed) {
                let began = Instant::now();
                wait::let_pass(NAP);
                let late = began.elapsed().saturating_sub(NAP);
                if late > LATE {
                    seen.lock().expect("nobody panics here").push((began, late));
                }
            }
        });
        Self {
            stalls,
            stop,
            thread: Some(thread),
        }
    }

    /// Whether a measurement between these moments says something about the nodes.
    pub(crate) fn held(&self, from: Instant, to: Instant) -> bool {
        let stalls = self.stalls.lock().expect("nobody panics here");
        let within = stalls
            .iter()
            .filter(|(began, late)| *began < to && *began + *late > from);
        within.map(|(_, late)| *late).sum::<Duration>() < TOO_LATE
    }
}

impl Drop for Calm {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            drop(thread.join());
        }
    }
}
