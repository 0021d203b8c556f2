//! The per-shard FIFO between deciding and answering.
//!
//! It owns the order of a shard's records and every reply that depends on them. It refuses to
//! release anything before the records it depends on are committed: the only way to answer from
//! state is `Reply::release`, which wants a [`Committed`] receipt, and only this file makes one.
//!
//! Records get tickets 1, 2, 3 ... as they are appended; commits arrive in the same order. A reply
//! carries the ticket of the last record that its content depends on, and waits in line until that
//! is committed. What was derived from state (reads, rejections, commands without events) then
//! waits at the read gate: a leader that was deposed without noticing must not answer from a state
//! that others have moved on from. Stored replies depend on their record alone and pass it by.
//!
//! One failed proposal closes the sequencer for good: state beyond it was never real. A new
//! incarnation of the shard starts from the log.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;
use tokio::sync::{Notify, oneshot};

use crate::admission::Permit;
use crate::metrics::SequencerMetrics;
use crate::names::{ShardId, StreamName};
use crate::ports::{Batch, Journal, Proposed, Replicator};
use crate::record::{Draft, Record};
use crate::request::{Accepted, Answer, Failure, FailureKind};

/// Proof that what an answer depends on is on disk on a quorum.
#[derive(Debug)]
pub struct Committed(());

/// The way back to whoever asked. Dropping it without an answer tells the caller that the outcome
/// is unknown.
#[derive(Debug)]
pub struct Reply {
    sender: oneshot::Sender<Answer>,
    permit: Permit,
}

impl Reply {
    /// A reply and the end where its answer arrives.
    #[must_use]
    pub fn new(permit: Permit) -> (Self, oneshot::Receiver<Answer>) {
        let (sender, receiver) = oneshot::channel();
        (Self { sender, permit }, receiver)
    }

    /// Access to the permit, to add the aggregate's share.
    pub fn permit(&mut self) -> &mut Permit {
        &mut self.permit
    }

    /// Answers that there is no answer. Such a failure says nothing about state, so it needs no
    /// receipt.
    pub fn fail(self, failure: Failure) {
        self.send(Answer::Failed(failure));
    }

    fn release(self, answer: Answer, _: &Committed) {
        self.send(answer);
    }

    fn send(self, answer: Answer) {
        // The permit goes back before the caller wakes up, so that it can ask again at once.
        drop(self.permit);
        // A caller that went away does not care.
        let _gone = self.sender.send(answer);
    }
}

/// Bounds on what is proposed at once.
#[derive(Debug, Clone, Copy)]
pub struct SequencerLimits {
    /// Commands in one log entry.
    pub batch_commands: usize,
    /// Bytes in one log entry.
    pub batch_bytes: usize,
    /// Proposals that are not yet committed.
    pub proposals_in_flight: usize,
}

/// An empty range of tickets.
#[expect(clippy::reversed_empty_ranges, reason = "empty on purpose")]
const NOTHING: std::ops::RangeInclusive<u64> = 1..=0;

/// What waits for a commit.
enum Held {
    /// The reply to the command whose record has this ticket.
    Command(Reply, Answer),
    /// A stored reply that is given again.
    Replay(Reply, Answer),
    /// An answer from state; it passes the read gate after the commit.
    Derived(Reply, Answer),
    /// A snapshot of what is then committed state.
    Snapshot(StreamName, Vec<u8>),
}

#[derive(Default)]
struct Inner {
    next_position: u64,
    issued: u64,
    proposed: u64,
    committed: u64,
    in_flight: usize,
    queue: VecDeque<Record>,
    held: VecDeque<(u64, Held)>,
    closed: bool,
}

/// One incarnation of one shard's FIFO.
pub struct Sequencer {
    shard: ShardId,
    term: u64,
    limits: SequencerLimits,
    replicator: Arc<dyn Replicator>,
    journal: Arc<dyn Journal>,
    metrics: Arc<SequencerMetrics>,
    inner: Mutex<Inner>,
    wake: Notify,
    gate: Mutex<Vec<(Reply, Answer)>>,
    gate_wake: Notify,
    closed_wake: Notify,
    released_position: AtomicU64,
}

impl std::fmt::Debug for Sequencer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Sequencer")
            .field("shard", &self.shard)
            .field("term", &self.term)
            .finish_non_exhaustive()
    }
}

/// A record on its way in: everything but its position.
#[derive(Debug)]
pub struct NewRecord {
    /// The encoded events.
    pub draft: Draft,
    /// Whose.
    pub stream: StreamName,
    /// Sequence number of the first event.
    pub first_sequence: u64,
    /// When it was decided, in microseconds since the Unix epoch.
    pub time_us: i64,
    /// Hash of the idempotency key.
    pub key_hash: u128,
    /// `FLAG_*` bits.
    pub flags: u8,
}

/// Where a record stands in line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ticket {
    /// The number to depend on.
    pub number: u64,
    /// Position number of the record's last event.
    pub last_position: u64,
}

impl Sequencer {
    /// A sequencer for a leader of `term` whose log ends at `last_position`.
    #[must_use]
    pub fn new(
        shard: ShardId,
        term: u64,
        last_position: u64,
        limits: SequencerLimits,
        replicator: Arc<dyn Replicator>,
        journal: Arc<dyn Journal>,
        metrics: Arc<SequencerMetrics>,
    ) -> Arc<Self> {
        Arc::new(Self {
            shard,
            term,
            limits,
            replicator,
            journal,
            metrics,
            inner: Mutex::new(Inner {
                next_position: last_position + 1,
                ..Inner::default()
            }),
            wake: Notify::new(),
            gate: Mutex::default(),
            gate_wake: Notify::new(),
            closed_wake: Notify::new(),
            released_position: AtomicU64::new(last_position),
        })
    }

    /// The leader's term that this incarnation belongs to.
    pub fn term(&self) -> u64 {
        self.term
    }

    /// Position number of the last event that anybody may know of.
    pub fn released_position(&self) -> u64 {
        self.released_position.load(Ordering::Acquire)
    }

    /// Whether every record ever appended is committed and every reply is out.
    pub fn is_quiet(&self) -> bool {
        let inner = self.inner.lock();
        inner.held.is_empty() && inner.issued == inner.committed && self.gate.lock().is_empty()
    }

    /// Appends a record and holds its reply until it is committed. `accepted` gets its position
    /// here. `None` when the shard is closed; the reply has been answered then.
    pub fn append(
        &self,
        record: NewRecord,
        mut accepted: Accepted,
        reply: Reply,
    ) -> Option<(Ticket, Accepted)> {
        let mut inner = self.inner.lock();
        if inner.closed {
            drop(inner);
            reply.fail(closed());
            return None;
        }
        let first_position = inner.next_position;
        let event_count = record.draft.event_count;
        inner.next_position += u64::from(event_count);
        inner.issued += 1;
        let ticket = Ticket {
            number: inner.issued,
            last_position: inner.next_position - 1,
        };
        accepted.position.number = ticket.last_position;
        let answer = Answer::Accepted(accepted.clone());
        inner.queue.push_back(Record {
            stream: record.stream,
            first_sequence: record.first_sequence,
            event_count,
            first_position,
            time_us: record.time_us,
            key_hash: record.key_hash,
            flags: record.flags,
            bytes: record.draft.finish(first_position),
        });
        inner
            .held
            .push_back((ticket.number, Held::Command(reply, answer)));
        let wake = self.may_propose(&inner);
        drop(inner);
        if wake {
            self.wake.notify_one();
        }
        Some((ticket, accepted))
    }

    /// Answers as soon as everything up to `ticket` is committed; unless the answer is a stored reply,
    /// leadership is confirmed after that as well.
    pub fn answer_after(&self, ticket: u64, answer: Answer, reply: Reply) {
        if matches!(&answer, Answer::Accepted(accepted) if accepted.replayed) {
            if let Some((reply, answer)) = self.hold(ticket, reply, answer, Held::Replay) {
                reply.release(answer, &Committed(()));
            }
        } else {
            self.read_after(ticket, answer, reply);
        }
    }

    /// Answers from state as soon as everything up to `ticket` is committed and this node's
    /// leadership was confirmed after that.
    pub fn read_after(&self, ticket: u64, answer: Answer, reply: Reply) {
        if let Some((reply, answer)) = self.hold(ticket, reply, answer, Held::Derived) {
            self.pass_gate(vec![(reply, answer)]);
        }
    }

    /// Answers "nothing" as soon as everything that was appended before this call is committed and this
    /// node's leadership was confirmed after that: what is committed then is what there is.
    pub fn answer_after_all(&self, reply: Reply) {
        let ticket = self.inner.lock().issued;
        self.read_after(ticket, Answer::NotFound, reply);
    }

    /// Saves a snapshot as soon as everything up to `ticket` is committed.
    pub fn snapshot_after(&self, ticket: u64, stream: StreamName, snapshot: Vec<u8>) {
        let mut inner = self.inner.lock();
        if inner.closed {
            return;
        }
        if ticket > inner.committed {
            let held = Held::Snapshot(stream, snapshot);
            inner.held.push_back((ticket, held));
            return;
        }
        drop(inner);
        self.journal.save_snapshot(self.shard, &stream, snapshot);
    }

    /// Puts an answer in line; gives it back when it may go out at once.
    fn hold(
        &self,
        ticket: u64,
        reply: Reply,
        answer: Answer,
        held: fn(Reply, Answer) -> Held,
    ) -> Option<(Reply, Answer)> {
        let mut inner = self.inner.lock();
        if inner.closed {
            drop(inner);
            reply.fail(closed());
            return None;
        }
        if ticket <= inner.committed {
            return Some((reply, answer));
        }
        inner.held.push_back((ticket, held(reply, answer)));
        None
    }

    /// Proposes what waits until the sequencer is closed. One task per incarnation runs this.
    pub async fn run_proposals(self: Arc<Self>) {
        loop {
            // Whoever is ready to append gets to do so first: larger batches at no delay.
            tokio::task::yield_now().await;
            let batch = {
                let mut inner = self.inner.lock();
                if inner.closed {
                    return;
                }
                self.take_batch(&mut inner)
            };
            let Some((batch, tickets)) = batch else {
                self.wake.notified().await;
                continue;
            };
            self.metrics
                .batch_commands
                .record(batch.records.len() as f64);
            let this = Arc::clone(&self);
            let proposed_at = std::time::Instant::now();
            let done = Box::new(move |outcome| {
                this.metrics.commit_seconds.record(proposed_at.elapsed());
                this.settle(tickets, outcome);
            });
            self.replicator.propose(self.term, batch, done).await;
        }
    }

    /// Whether what waits may be proposed: nothing is on its way, or no more than waits. So batches on
    /// their way at the same time are about equally full; small ones in between cost as much as full
    /// ones, on every replica.
    fn may_propose(&self, inner: &Inner) -> bool {
        let on_their_way = inner.proposed - inner.committed;
        inner.in_flight < self.limits.proposals_in_flight
            && inner.queue.len() as u64 >= on_their_way
    }

    /// The next batch and the tickets of its records.
    fn take_batch(&self, inner: &mut Inner) -> Option<(Batch, std::ops::RangeInclusive<u64>)> {
        if inner.queue.is_empty() || !self.may_propose(inner) {
            return None;
        }
        let mut bytes = 0;
        let mut count = 0;
        for record in inner.queue.iter().take(self.limits.batch_commands) {
            bytes += record.bytes.len();
            // A single record may exceed the bound; it then travels alone.
            if count > 0 && bytes > self.limits.batch_bytes {
                break;
            }
            count += 1;
        }
        let records: Arc<[Record]> = inner.queue.drain(..count).collect();
        let count = records.len() as u64;
        inner.in_flight += 1;
        let first = inner.proposed + 1;
        inner.proposed += count;
        Some((Batch { records }, first..=inner.proposed))
    }

    /// Called by the replicator, in proposal order, with the fate of the batch that holds
    /// `tickets`.
    fn settle(&self, tickets: std::ops::RangeInclusive<u64>, outcome: Proposed) {
        match outcome {
            Proposed::Committed => {}
            Proposed::NotProposed => return self.close_refusing(tickets),
            Proposed::Unknown => return self.close_refusing(NOTHING),
        }
        let last_ticket = *tickets.end();
        let mut reads = Vec::new();
        let mut released = VecDeque::new();
        let more = {
            let mut inner = self.inner.lock();
            if inner.closed {
                return;
            }
            if *tickets.start() != inner.committed + 1 {
                // Releasing out of order could answer for records that nobody committed.
                tracing::error!(shard = self.shard, ?tickets, "a commit out of order");
                drop(inner);
                return self.close();
            }
            inner.in_flight -= 1;
            inner.committed = last_ticket;
            let ready = inner
                .held
                .iter()
                .take_while(|(t, _)| *t <= last_ticket)
                .count();
            released.extend(inner.held.drain(..ready));
            // Under the lock: whoever sees the commit answers at once, and is asked about it next.
            self.note_released(&released);
            !inner.queue.is_empty()
        };
        if more {
            self.wake.notify_one();
        }
        let receipt = Committed(());
        for (_, held) in released {
            match held {
                Held::Command(reply, answer) | Held::Replay(reply, answer) => {
                    reply.release(answer, &receipt);
                }
                Held::Derived(reply, answer) => reads.push((reply, answer)),
                Held::Snapshot(stream, snapshot) => {
                    self.journal.save_snapshot(self.shard, &stream, snapshot);
                }
            }
        }
        if !reads.is_empty() {
            self.pass_gate(reads);
        }
    }

    /// Publishes the newest released position before any of the replies is out.
    fn note_released(&self, released: &VecDeque<(u64, Held)>) {
        let newest = released.iter().rev().find_map(|(_, held)| match held {
            Held::Command(_, Answer::Accepted(accepted)) => Some(accepted.position.number),
            _ => None,
        });
        if let Some(position) = newest {
            self.released_position.fetch_max(position, Ordering::AcqRel);
        }
    }

    fn pass_gate(&self, reads: Vec<(Reply, Answer)>) {
        let mut gate = self.gate.lock();
        let wake = gate.is_empty();
        gate.extend(reads);
        drop(gate);
        if self.is_closed() {
            // The gate's task may have looked for the last time already.
            for (reply, _) in std::mem::take(&mut *self.gate.lock()) {
                reply.fail(closed());
            }
        } else if wake {
            self.gate_wake.notify_one();
        }
    }

    /// Lets answers from state through the gate, one check for all that wait. One task per incarnation runs
    /// this.
    pub async fn run_gate(self: Arc<Self>) {
        loop {
            tokio::task::yield_now().await;
            // In this order: whoever comes after the last look finds the sequencer closed.
            let closing = self.is_closed();
            let reads = std::mem::take(&mut *self.gate.lock());
            if reads.is_empty() {
                if closing {
                    return;
                }
                self.gate_wake.notified().await;
                continue;
            }
            let asked_at = std::time::Instant::now();
            let leads = self.replicator.confirm_leadership(self.term).await;
            self.metrics.gate_seconds.record(asked_at.elapsed());
            if leads {
                self.metrics.gate_answers.record(reads.len() as f64);
                let receipt = Committed(());
                for (reply, answer) in reads {
                    reply.release(answer, &receipt);
                }
            } else {
                self.metrics.gate_refused.increment(reads.len() as u64);
                for (reply, _) in reads {
                    reply.fail(closed());
                }
            }
        }
    }

    /// Whether the sequencer accepts nothing any more.
    pub fn is_closed(&self) -> bool {
        self.inner.lock().closed
    }

    /// Waits until [`Sequencer::close`] was called or a proposal failed.
    pub async fn closed(&self) {
        loop {
            let notified = self.closed_wake.notified();
            if self.is_closed() {
                return;
            }
            notified.await;
        }
    }

    /// Ends this incarnation: commands that were proposed have an unknown outcome, everything else
    /// did not happen.
    pub fn close(&self) {
        self.close_refusing(NOTHING);
    }

    /// `refused` are the tickets that certainly never entered the log.
    fn close_refusing(&self, refused: std::ops::RangeInclusive<u64>) {
        let (held, proposed) = {
            let mut inner = self.inner.lock();
            inner.closed = true;
            inner.queue.clear();
            (std::mem::take(&mut inner.held), inner.proposed)
        };
        for (ticket, held) in held {
            let uncertain = ticket <= proposed && !refused.contains(&ticket);
            match held {
                Held::Command(reply, _) if uncertain => reply.fail(unknown()),
                // A retry that joined the command shares its fate.
                Held::Replay(reply, _) if uncertain => reply.fail(unknown()),
                Held::Command(reply, _) | Held::Replay(reply, _) | Held::Derived(reply, _) => {
                    reply.fail(closed());
                }
                Held::Snapshot(..) => {}
            }
        }
        self.wake.notify_one();
        self.gate_wake.notify_one();
        self.closed_wake.notify_waiters();
    }
}

fn unknown() -> Failure {
    Failure::new(
        FailureKind::OutcomeUnknown,
        "the shard changed its leader while the command was being stored; \
         retry with the same idempotency key",
    )
}

fn closed() -> Failure {
    Failure::new(
        FailureKind::NoLeader,
        "the shard is changing its leader; nothing was stored",
    )
}
