//! Calls that are on their way over one connection.
//!
//! Owns the queue into the connection and the answers that are awaited. Refuses more than a fixed
//! number of calls at a time. Invariants: frames leave in the order in which calls were begun; when
//! the connection ends, a call whose frame never left is told so, and any other is unknown.

use std::collections::HashMap;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use futures_util::Stream;
use parking_lot::Mutex;
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;

use super::NodeId;
use super::frame::{Frame, Tag};
use super::transport::{CallError, CallKind};

type Answer = Result<Bytes, CallError>;

/// One open connection, from the caller's side.
#[derive(Debug)]
pub struct Calls {
    to: NodeId,
    limit: usize,
    queue: mpsc::Sender<Frame>,
    /// The newest call whose frame was handed to the connection.
    left: Arc<AtomicU64>,
    table: Mutex<Table>,
}

#[derive(Debug, Default)]
struct Table {
    last_id: u64,
    waiting: HashMap<u64, oneshot::Sender<Answer>>,
    ended: Option<String>,
}

impl Calls {
    /// A connection, and the frames that are to be written to it.
    #[must_use]
    pub fn new(to: NodeId, limit: usize) -> (Arc<Self>, Outgoing) {
        // Room for the first words and a last one beside the calls.
        let (queue, frames) = mpsc::channel(limit + 2);
        let left = Arc::<AtomicU64>::default();
        let calls = Arc::new(Self {
            to,
            limit,
            queue,
            left: Arc::clone(&left),
            table: Mutex::default(),
        });
        (calls, Outgoing { frames, left })
    }

    /// Queues a frame that is no call.
    pub(crate) fn say(&self, frame: Frame) {
        // A full queue means a dead connection, which its keepalive will find.
        let _full = self.queue.try_send(frame);
    }

    /// Queues a call.
    ///
    /// # Errors
    /// [`CallError::NotSent`].
    pub fn begin(
        self: &Arc<Self>,
        kind: CallKind,
        payload: Bytes,
        timeout: Duration,
    ) -> Result<Pending, CallError> {
        let not_sent = |reason: String| CallError::NotSent {
            to: self.to,
            reason,
        };
        let (sender, answer) = oneshot::channel();
        let mut table = self.table.lock();
        if let Some(reason) = &table.ended {
            return Err(not_sent(reason.clone()));
        }
        if table.waiting.len() >= self.limit {
            return Err(not_sent(format!("{} calls are on their way", self.limit)));
        }
        let id = table.last_id + 1;
        let frame = Frame {
            tag: Tag::Request,
            id,
            kind: kind as u8,
            timeout_ms: u32::try_from(timeout.as_millis()).unwrap_or(u32::MAX),
            payload,
        };
        // Under the lock, so that the order of ids is the order of frames.
        if self.queue.try_send(frame).is_err() {
            return Err(not_sent("the connection takes nothing more".to_owned()));
        }
        table.last_id = id;
        table.waiting.insert(id, sender);
        drop(table);
        Ok(Pending {
            id,
            calls: Arc::clone(self),
            answer,
            timeout,
            deadline: Instant::now() + timeout,
        })
    }

    /// Hands an answer to whoever waits for it.
    pub fn answered(&self, frame: Frame) {
        let Some(waiting) = self.table.lock().waiting.remove(&frame.id) else {
            // The caller's time was up.
            return;
        };
        let answer = match frame.tag {
            Tag::Answer => Ok(frame.payload),
            Tag::Failure => Err(CallError::Refused(text(&frame.payload))),
            _ => Err(CallError::NotSent {
                to: self.to,
                reason: text(&frame.payload),
            }),
        };
        let _gone = waiting.send(answer);
    }

    /// Ends every call: the connection is gone.
    pub fn end(&self, reason: &str) {
        let waiting = {
            let mut table = self.table.lock();
            table.ended.get_or_insert_with(|| reason.to_owned());
            std::mem::take(&mut table.waiting)
        };
        let left = self.left.load(Ordering::Acquire);
        for (id, sender) in waiting {
            let (to, reason) = (self.to, reason.to_owned());
            let _gone = sender.send(Err(if id > left {
                CallError::NotSent { to, reason }
            } else {
                CallError::Unknown { to, reason }
            }));
        }
    }
}

/// The text of a refusal.
pub(crate) fn text(payload: &[u8]) -> String {
    String::from_utf8_lossy(payload).into_owned()
}

/// Frames on their way into a connection.
#[derive(Debug)]
pub struct Outgoing {
    frames: mpsc::Receiver<Frame>,
    left: Arc<AtomicU64>,
}

impl Stream for Outgoing {
    type Item = Result<Frame, tonic::Status>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let next = self.frames.poll_recv(context);
        if let Poll::Ready(Some(frame)) = &next
            && frame.tag == Tag::Request
        {
            self.left.store(frame.id, Ordering::Release);
        }
        next.map(|frame| frame.map(Ok))
    }
}

/// A call that was begun. Dropping it forgets the answer.
#[derive(Debug)]
pub struct Pending {
    id: u64,
    calls: Arc<Calls>,
    answer: oneshot::Receiver<Answer>,
    timeout: Duration,
    deadline: Instant,
}

impl Pending {
    /// Waits for the answer.
    ///
    /// # Errors
    /// See [`CallError`].
    pub async fn answer(mut self) -> Result<Bytes, CallError> {
        self.wait().await
    }

    /// Waits for the answer, which is given once. Safe to cancel.
    ///
    /// # Errors
    /// See [`CallError`].
    pub async fn wait(&mut self) -> Result<Bytes, CallError> {
        let to = self.calls.to;
        let reason = match tokio::time::timeout_at(self.deadline, &mut self.answer).await {
            Ok(Ok(answer)) => return answer,
            Ok(Err(_)) => "the connection was dropped".to_owned(),
            // Its frame may not have left yet, but still may.
            Err(_) => format!("no answer within {} ms", self.timeout.as_millis()),
        };
        Err(CallError::Unknown { to, reason })
    }
}

impl Drop for Pending {
    fn drop(&mut self) {
        self.calls.table.lock().waiting.remove(&self.id);
    }
}

#[cfg(test)]
mod tests {
    use futures_util::StreamExt;

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn begin(calls: &Arc<Calls>) -> Pending {
        calls
            .begin(CallKind::Command, Bytes::from_static(b"x"), SECOND)
            .unwrap()
    }

    #[tokio::test]
    async fn what_left_is_unknown_and_what_did_not_leave_is_not_sent() {
        let (calls, mut outgoing) = Calls::new(2, 8);
        let (first, second) = (begin(&calls), begin(&calls));
        let frame = outgoing.next().await.unwrap().unwrap();
        assert_eq!((frame.id, frame.kind), (1, CallKind::Command as u8));
        calls.end("reset");
        assert!(matches!(
            first.answer().await,
            Err(CallError::Unknown { .. })
        ));
        assert!(matches!(
            second.answer().await,
            Err(CallError::NotSent { .. })
        ));
        let later = calls.begin(CallKind::Command, Bytes::new(), SECOND);
        assert!(matches!(later, Err(CallError::NotSent { .. })));
    }

    #[tokio::test]
    async fn calls_are_bounded_and_a_dropped_one_gives_its_place_back() {
        let (calls, _outgoing) = Calls::new(2, 2);
        let (first, _second) = (begin(&calls), begin(&calls));
        let third = calls.begin(CallKind::Command, Bytes::new(), SECOND);
        assert!(matches!(third, Err(CallError::NotSent { .. })));
        drop(first);
        // Its frame still stands in the queue, which has room for more than the calls.
        begin(&calls);
    }

    #[tokio::test]
    async fn answers_find_their_calls_in_any_order() {
        let (calls, _outgoing) = Calls::new(2, 8);
        let (first, second) = (begin(&calls), begin(&calls));
        calls.answered(Frame::plain(Tag::Failure, 2, "no"));
        calls.answered(Frame::plain(Tag::Answer, 1, "yes"));
        calls.answered(Frame::plain(Tag::Answer, 9, "nobody asked"));
        assert_eq!(
            second.answer().await,
            Err(CallError::Refused("no".to_owned()))
        );
        assert_eq!(first.answer().await.unwrap(), "yes");
    }
}
