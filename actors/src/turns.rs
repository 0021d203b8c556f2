//! Who waits for room in memory, stream by stream.
//!
//! Owns the order among requests for one stream that is not in memory while there is no room for it.
//! Refuses to let a later one pass an earlier one. Invariant: as long as somebody holds or waits for a
//! stream's turn, [`Turns::is_taken`] says so; turns are given in the order in which they were asked for.
//!
//! Why that matters: two requests may be two attempts at one command. If the later one was decided first
//! and rejected, nobody would expect the earlier one to take effect after that.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use parking_lot::Mutex;
use tokio::sync::{Mutex as Queue, OwnedMutexGuard};

use crate::names::StreamName;

/// See the file's description.
#[derive(Debug, Default)]
pub(crate) struct Turns {
    queues: Mutex<HashMap<StreamName, Waited>>,
    /// The number of queues, so that nobody needs the lock while there is none.
    count: AtomicUsize,
}

/// A stream that is waited for.
#[derive(Debug, Default)]
struct Waited {
    queue: Arc<Queue<()>>,
    places: usize,
}

/// A place in a stream's queue; it is given back when it is dropped.
#[derive(Debug)]
struct Place {
    turns: Arc<Turns>,
    stream: StreamName,
}

/// One's turn: until it is dropped, nobody else enters the stream.
#[derive(Debug)]
pub(crate) struct Turn {
    // In this order: the next one may go on before the place is given back, never the other way round.
    _now: OwnedMutexGuard<()>,
    _place: Place,
}

impl Turns {
    /// Whether requests for this stream have to queue.
    pub(crate) fn is_taken(&self, stream: &StreamName) -> bool {
        self.count.load(Ordering::Acquire) > 0 && self.queues.lock().contains_key(stream)
    }

    /// Waits for one's turn. Dropping the future gives the place up.
    pub(crate) async fn take(self: &Arc<Self>, stream: &StreamName) -> Turn {
        let queue = {
            let mut queues = self.queues.lock();
            let waited = queues.entry(stream.clone()).or_default();
            waited.places += 1;
            let queue = Arc::clone(&waited.queue);
            self.count.store(queues.len(), Ordering::Release);
            queue
        };
        let place = Place {
            turns: Arc::clone(self),
            stream: stream.clone(),
        };
        Turn {
            _now: queue.lock_owned().await,
            _place: place,
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut queues = self.turns.queues.lock();
        if let Entry::Occupied(mut waited) = queues.entry(self.stream.clone()) {
            waited.get_mut().places -= 1;
            if waited.get().places == 0 {
                waited.remove();
            }
        }
        self.turns.count.store(queues.len(), Ordering::Release);
    }
}
