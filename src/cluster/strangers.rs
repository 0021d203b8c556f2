//! Connections on which no member has introduced itself yet.
//!
//! Owns how many of them there are at a time and how much each may send. It refuses to judge who is a
//! member: that is the handshake's. Invariant: sockets and memory that strangers occupy are bounded,
//! whatever they send and however often they come; room for a newcomer is made at the cost of the
//! stranger that has been here longest, so that a member, which needs no time, gets in while others
//! knock without end.

use std::collections::BTreeMap;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use hyper::body::{Body, Frame, Incoming};
use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};

/// Strangers at the same time.
pub(crate) const MOST: usize = 256;
/// Those of them that have to go and are not gone yet; until one is, no newcomer is taken.
const MOST_LEAVING: usize = 64;
/// Bytes that each may send; a Hello has less than 200.
const MOST_BYTES: usize = 16 * 1024;

type Failure = Box<dyn std::error::Error + Send + Sync>;

/// A stranger sends more than a Hello.
#[derive(Debug, thiserror::Error)]
#[error("its first words are longer than {MOST_BYTES} bytes")]
struct TooLong;

/// Everybody who is a stranger now, in the order in which they came.
#[derive(Debug)]
pub(crate) struct Strangers {
    waiting: Mutex<Waiting>,
    room: Arc<Semaphore>,
}

impl Default for Strangers {
    fn default() -> Self {
        Self {
            waiting: Mutex::default(),
            room: Arc::new(Semaphore::new(MOST + MOST_LEAVING)),
        }
    }
}

#[derive(Debug, Default)]
struct Waiting {
    last: u64,
    places: BTreeMap<u64, oneshot::Sender<()>>,
}

/// What resolves to `Ok` when a stranger has to go.
pub(crate) type Eviction = oneshot::Receiver<()>;

impl Strangers {
    /// Waits until there is room for one more.
    pub(crate) async fn room(&self) -> Option<OwnedSemaphorePermit> {
        // It is never closed.
        Arc::clone(&self.room).acquire_owned().await.ok()
    }

    /// Takes a newcomer into this room. Says besides whether another one had to go for it.
    pub(crate) fn enter(
        self: &Arc<Self>,
        room: Option<OwnedSemaphorePermit>,
    ) -> (Arc<Place>, Eviction, bool) {
        let (sender, eviction) = oneshot::channel();
        let mut waiting = self.waiting.lock();
        waiting.last += 1;
        let number = waiting.last;
        waiting.places.insert(number, sender);
        let oldest = (waiting.places.len() > MOST)
            .then(|| waiting.places.pop_first())
            .flatten();
        drop(waiting);
        let evicted = oldest.is_some_and(|(_, oldest)| oldest.send(()).is_ok());
        let place = Place {
            number,
            strangers: Arc::clone(self),
            known: AtomicBool::new(false),
            room: Mutex::new(room),
        };
        (Arc::new(place), eviction, evicted)
    }
}

/// One connection among the strangers, until it ends or its peer is known.
#[derive(Debug)]
pub(crate) struct Place {
    number: u64,
    strangers: Arc<Strangers>,
    known: AtomicBool,
    room: Mutex<Option<OwnedSemaphorePermit>>,
}

impl Place {
    /// A member is welcomed on this connection.
    pub(crate) fn welcome(&self) {
        self.known.store(true, Ordering::Release);
        self.leave();
    }

    /// Whether a member was welcomed on it.
    pub(crate) fn is_known(&self) -> bool {
        self.known.load(Ordering::Acquire)
    }

    /// The connection has ended.
    pub(crate) fn leave(&self) {
        self.strangers.waiting.lock().places.remove(&self.number);
        drop(self.room.lock().take());
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.leave();
    }
}

/// What a connection sends: little, until its peer is known.
#[derive(Debug)]
pub(crate) struct Guarded {
    body: Incoming,
    place: Arc<Place>,
    left: usize,
}

impl Guarded {
    pub(crate) fn new(body: Incoming, place: Arc<Place>) -> Self {
        Self {
            body,
            place,
            left: MOST_BYTES,
        }
    }
}

impl Body for Guarded {
    type Data = Bytes;
    type Error = Failure;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Failure>>> {
        let Some(frame) = ready!(Pin::new(&mut self.body).poll_frame(context)) else {
            return Poll::Ready(None);
        };
        let frame = frame?;
        if let Some(data) = frame.data_ref()
            && !self.place.is_known()
        {
            self.left = self.left.checked_sub(data.len()).ok_or(TooLong)?;
        }
        Poll::Ready(Some(Ok(frame)))
    }
}
