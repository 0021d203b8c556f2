//! The command model of one node: the door through which transports come in.
//!
//! It finds the shard, takes permits, hands the request to the aggregate's actor and waits for the
//! answer. It holds no state of aggregates itself.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::Semaphore;

use crate::actor::Key;
use crate::admission::Permit;
use crate::fold::LoadError;
pub use crate::history::{At, Compared, Comparison, HistoryPage, RecordedEvent};
use crate::incarnation::{Incarnation, Services, overloaded};
use crate::names::{ShardId, StreamName};
use crate::ports;
use crate::request::{Answer, CommandRequest, Failure, FailureKind, StateView};
use crate::sequencer::Reply;
use crate::shard::ShardHandle;
use crate::turns::Turn;
use crate::types::{AnswerReceiver, ErasedType};
pub use crate::types::{TypeDescription, TypeRegistry, VariantDescription};

/// How long a request waits for passivation to make room.
const ROOM_WAIT: Duration = Duration::from_secs(1);

/// What a request for the past counts for each event that it asks for.
const EXPECTED_EVENT_BYTES: usize = 1024;
/// Records of a history's first read, when nothing is known of their size.
const FIRST_CHUNK: usize = 16;
/// The most records of a later one.
const LAST_CHUNK: usize = 256;

/// Comparisons that are folded at the same time. Each may read a whole history, and commands come
/// first; more of them wait, each with its permit.
const COMPARISONS: usize = 8;

/// See the file's description. Cheap to clone.
#[derive(Debug, Clone)]
pub struct CommandModel(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    node_id: u64,
    types: TypeRegistry,
    shards: Vec<ShardHandle>,
    services: Arc<Services>,
    stopping: AtomicBool,
    comparisons: Semaphore,
    key_seed: u64,
    next_key: AtomicU64,
}

/// A request that may enter its aggregate's mailbox.
struct Admitted<'a> {
    incarnation: Arc<Incarnation>,
    erased: &'a Arc<dyn ErasedType>,
    reply: Reply,
    receiver: AnswerReceiver,
    /// Kept until it has entered: later requests for the stream come after it.
    _turn: Option<Turn>,
}

impl Admitted<'_> {
    /// Gives what the answer comes through.
    fn enter(
        self,
        enter: impl FnOnce(&dyn ErasedType, &Arc<Incarnation>, Reply),
    ) -> AnswerReceiver {
        enter(&**self.erased, &self.incarnation, self.reply);
        self.receiver
    }
}

impl CommandModel {
    /// Puts a node's parts together. `key_seed` makes generated idempotency keys unlike those of
    /// any other node or start.
    #[must_use]
    pub fn new(
        node_id: u64,
        types: TypeRegistry,
        shards: Vec<ShardHandle>,
        services: Arc<Services>,
        key_seed: u64,
    ) -> Self {
        Self(Arc::new(Inner {
            node_id,
            types,
            shards,
            services,
            stopping: AtomicBool::new(false),
            comparisons: Semaphore::new(COMPARISONS),
            key_seed,
            next_key: AtomicU64::new(1),
        }))
    }

    /// The types it serves.
    #[must_use]
    pub fn types(&self) -> &TypeRegistry {
        &self.0.types
    }

    /// This node's id.
    #[must_use]
    pub fn node_id(&self) -> u64 {
        self.0.node_id
    }

    /// The number of shards of the cluster.
    #[must_use]
    pub fn shards(&self) -> u32 {
        u32::try_from(self.0.shards.len()).unwrap_or(u32::MAX)
    }

    /// Requests in flight.
    #[must_use]
    pub fn in_flight(&self) -> usize {
        self.0.services.admission.in_flight()
    }

    /// Refuses everything from now on; what is in flight goes on.
    pub fn stop_admitting(&self) {
        self.0.stopping.store(true, Ordering::Release);
    }

    /// Whether new requests are refused.
    #[must_use]
    pub fn is_stopping(&self) -> bool {
        self.0.stopping.load(Ordering::Acquire)
    }

    /// The term in which this node serves a shard; `None` when it does not.
    #[must_use]
    pub fn serving_term(&self, shard: ShardId) -> Option<u64> {
        let handle = usize::try_from(shard)
            .ok()
            .and_then(|at| self.0.shards.get(at));
        handle.and_then(|handle| handle.serving()).map(|i| i.term())
    }

    /// Position number of the newest event that a reply of this node may have told of; 0 when it does
    /// not serve the shard.
    #[must_use]
    pub fn released_position(&self, shard: ShardId) -> u64 {
        let handle = usize::try_from(shard)
            .ok()
            .and_then(|at| self.0.shards.get(at));
        let serving = handle.and_then(|handle| handle.serving());
        serving.map_or(0, |i| i.sequencer().released_position())
    }

    /// Position number up to which this node knows a shard's events to be stored; 0 when it holds no copy.
    #[must_use]
    pub fn stored_position(&self, shard: ShardId) -> u64 {
        let indexed = self.0.services.journal.indexed_position(shard);
        indexed.max(self.released_position(shard))
    }

    /// Waits until this node serves a shard in this term or a later one.
    pub async fn began(&self, shard: ShardId, term: u64) {
        match usize::try_from(shard)
            .ok()
            .and_then(|at| self.0.shards.get(at))
        {
            Some(handle) => handle.began(term).await,
            None => std::future::pending().await,
        }
    }

    /// Why this node refuses a shard, if it does.
    #[must_use]
    pub fn refusal(&self, shard: ShardId) -> Option<String> {
        let handle = usize::try_from(shard)
            .ok()
            .and_then(|at| self.0.shards.get(at));
        handle.and_then(ShardHandle::refusal)
    }

    /// Takes the permit of a request that another node will answer: it is in flight here as well. A
    /// node that is shutting down finishes what it has begun, so this is for the caller to ask.
    ///
    /// # Errors
    /// When no permit is free.
    pub fn admit_elsewhere(&self, stream: &StreamName, bytes: usize) -> Result<Permit, Failure> {
        let services = &self.0.services;
        services
            .admission
            .admit(self.handle(stream)?.load(), bytes)
            .map_err(|exhausted| overloaded(services, exhausted))
    }

    /// Each part that must work before this node should get traffic, and why it does not yet.
    #[must_use]
    pub fn readiness(&self) -> Vec<(String, Result<(), String>)> {
        let admitting = if self.0.stopping.load(Ordering::Acquire) {
            Err("the node is shutting down".to_owned())
        } else {
            Ok(())
        };
        let mut checks = vec![("admission".to_owned(), admitting)];
        for handle in &self.0.shards {
            let state = match (handle.refusal(), handle.serving()) {
                (Some(reason), _) => Err(reason),
                (None, None) => Err("no leader yet".to_owned()),
                (None, Some(_)) => Ok(()),
            };
            checks.push((format!("shard {}", handle.shard()), state));
        }
        checks
    }

    /// Decides a command. Dropping the future does not undo the command.
    pub async fn command(&self, stream: StreamName, request: CommandRequest) -> Answer {
        self.command_in(None, stream, request).await
    }

    /// Decides a command if this node leads its shard in `term` (in any term for `None`). Whoever
    /// names a term knows that the command can take effect in no other one.
    pub async fn command_in(
        &self,
        term: Option<u64>,
        stream: StreamName,
        mut request: CommandRequest,
    ) -> Answer {
        let bytes = weight(&request);
        let admitted = match self.admit(&stream, term, bytes).await {
            Ok(admitted) => admitted,
            Err(failure) => return Answer::Failed(failure),
        };
        let key = match request.idempotency_key.take() {
            Some(key) => Key::new(key, request.key_is_new, true),
            None => Key::new(self.generate_key(), true, false),
        };
        let receiver = admitted.enter(|erased, incarnation, reply| {
            erased.command(incarnation, &stream, request, key, reply);
        });
        receiver.await.unwrap_or_else(|_| {
            Answer::Failed(Failure::new(
                FailureKind::OutcomeUnknown,
                "the shard stopped before it could answer; retry with the same idempotency key",
            ))
        })
    }

    /// Reads an aggregate's state from memory.
    pub async fn read(&self, stream: StreamName) -> Answer {
        let admitted = match self.admit(&stream, None, 256).await {
            Ok(admitted) => admitted,
            Err(failure) => return Answer::Failed(failure),
        };
        let receiver = admitted.enter(|erased, incarnation, reply| {
            erased.read(incarnation, &stream, reply);
        });
        receiver.await.unwrap_or_else(|_| {
            Answer::Failed(Failure::new(
                FailureKind::NoLeader,
                "the shard stopped before it could answer",
            ))
        })
    }

    async fn admit(
        &self,
        stream: &StreamName,
        term: Option<u64>,
        bytes: usize,
    ) -> Result<Admitted<'_>, Failure> {
        let erased = self.erased(stream)?;
        let (handle, incarnation) = self.serving(stream)?;
        if term.is_some_and(|term| term != incarnation.term()) {
            return Err(Failure::new(
                FailureKind::NoLeader,
                "the shard has changed its leader; nothing was stored",
            ));
        }
        let services = &self.0.services;
        let permit = services
            .admission
            .admit(handle.load(), bytes)
            .map_err(|exhausted| overloaded(services, exhausted))?;
        let has_room =
            services.resident() < services.hard_bound() || incarnation.is_resident(stream);
        let turn = if !has_room || services.turns.is_taken(stream) {
            // Boxed, so that the usual way stays small.
            Some(Box::pin(self.wait_for_room(&incarnation, stream)).await?)
        } else {
            None
        };
        let (reply, receiver) = Reply::new(permit);
        Ok(Admitted {
            incarnation,
            erased,
            reply,
            receiver,
            _turn: turn,
        })
    }

    async fn wait_for_room(
        &self,
        incarnation: &Incarnation,
        stream: &StreamName,
    ) -> Result<Turn, Failure> {
        let services = &self.0.services;
        let room = async {
            let turn = services.turns.take(stream).await;
            loop {
                let notified = services.room.notified();
                if incarnation.is_resident(stream) {
                    return turn;
                }
                if services.resident() < services.hard_bound() {
                    // There may be room for the next in line as well. It looks when this request
                    // has taken its place.
                    services.room.notify_one();
                    return turn;
                }
                services.crowded.notify_one();
                notified.await;
            }
        };
        tokio::time::timeout(ROOM_WAIT, room).await.map_err(|_| {
            services.metrics.overloaded.increment(1);
            Failure::new(
                FailureKind::Overloaded,
                "as many aggregates are in memory as the node holds, and all are in use",
            )
        })
    }

    fn erased(&self, stream: &StreamName) -> Result<&Arc<dyn ErasedType>, Failure> {
        let name = stream.aggregate_type();
        self.0.types.erased(name).ok_or_else(|| {
            Failure::new(
                FailureKind::UnknownAggregateType,
                format!("there is no aggregate type `{name}`; GET /v1/types lists them"),
            )
        })
    }

    fn serving(&self, stream: &StreamName) -> Result<(&ShardHandle, Arc<Incarnation>), Failure> {
        if self.is_stopping() {
            return Err(shutting_down());
        }
        let handle = self.handle(stream)?;
        if let Some(incarnation) = handle.serving() {
            return Ok((handle, incarnation));
        }
        Err(match handle.refusal() {
            Some(reason) => Failure::new(FailureKind::NotReady, reason),
            None => Failure::new(
                FailureKind::NoLeader,
                format!(
                    "shard {} has no leader now; nothing was stored",
                    handle.shard()
                ),
            ),
        })
    }

    fn handle(&self, stream: &StreamName) -> Result<&ShardHandle, Failure> {
        let shard = stream.shard(self.shards());
        usize::try_from(shard)
            .ok()
            .and_then(|place| self.0.shards.get(place))
            .ok_or_else(|| Failure::new(FailureKind::Internal, "a shard without a handle"))
    }

    /// An idempotency key that nobody has used.
    #[must_use]
    pub fn generate_key(&self) -> String {
        let number = self.0.next_key.fetch_add(1, Ordering::Relaxed);
        format!("~{:x}-{number:x}", self.0.key_seed)
    }

    /// A stream's events from `from_sequence` on: at most `limit`, and no more once their records
    /// weigh `max_bytes`, but at least one if there is one. The parts of a stored event that was split
    /// stay together, if need be beyond the limit.
    ///
    /// # Errors
    /// When the node is overloaded, the shard is not served here or its storage fails.
    pub async fn history(
        &self,
        stream: &StreamName,
        from_sequence: u64,
        limit: usize,
        max_bytes: usize,
    ) -> Result<HistoryPage, Failure> {
        let erased = self.erased(stream)?;
        let expected_bytes = limit.saturating_mul(EXPECTED_EVENT_BYTES).min(max_bytes);
        let (incarnation, _permit) = self.settled(stream, expected_bytes).await?;
        let shard = incarnation.shard();
        let journal = &self.0.services.journal;
        let mut page = HistoryPage::default();
        let mut next = from_sequence.max(1);
        let mut bytes = 0;
        let mut chunk = FIRST_CHUNK;
        loop {
            let records = journal
                .read_stream(shard, stream, next, chunk)
                .map_err(|error| LoadError::from(error).into_failure(stream))?;
            still_serves(&incarnation)?;
            for record in &records {
                let full = page.events.len() >= limit || bytes >= max_bytes;
                if full && !page.events.is_empty() {
                    page.next_sequence = Some(next);
                    return Ok(page);
                }
                let read = erased.events(shard, record, next).map_err(|reason| {
                    let sequence = record.first_sequence;
                    LoadError::Fold { sequence, reason }.into_failure(stream)
                })?;
                page.events.extend(read);
                bytes += record.bytes.len();
                next = record.first_sequence + u64::from(record.event_count);
                let end = end_of_page(&page.events, limit);
                if let Some(beyond) = page.events.get(end) {
                    page.next_sequence = Some(beyond.sequence_number);
                    page.events.truncate(end);
                    return Ok(page);
                }
            }
            if ports::reached_end(&records, chunk) {
                return Ok(page);
            }
            drop(records);
            // Many small records at once, few large ones.
            let usual = (bytes / page.events.len().max(1)).max(1);
            let room = max_bytes.saturating_sub(bytes) / usual;
            let missing = limit.saturating_sub(page.events.len());
            chunk = room.min(missing).clamp(1, LAST_CHUNK);
            tokio::task::yield_now().await;
        }
    }

    /// The state as it was; `None` when the aggregate did not exist then. Past the stream's end it
    /// is the newest state. What is said of a time that has passed is said for good: commands that were
    /// decided by then and are not committed yet are waited for.
    ///
    /// # Errors
    /// When the node is overloaded, the shard is not served here, its storage fails or the events
    /// cannot be folded.
    pub async fn state_at(
        &self,
        stream: &StreamName,
        at: At,
    ) -> Result<Option<StateView>, Failure> {
        let erased = self.erased(stream)?;
        if matches!(at, At::Time(_)) {
            self.all_decided(stream).await?;
        }
        let (incarnation, _permit) = self.settled(stream, EXPECTED_EVENT_BYTES).await?;
        let found = erased
            .state_at(&*self.0.services.journal, incarnation.shard(), stream, at)
            .await
            .map_err(|error| error.into_failure(stream))?;
        still_serves(&incarnation)?;
        let term = incarnation.term();
        Ok(found.map(|view| StateView { term, ..view }))
    }

    /// Two states of an aggregate: at two moments of its history (the newest ones where it ends before
    /// them), or as it is and as it would be with further events. `None` when the aggregate does not
    /// exist.
    ///
    /// # Errors
    /// When the node is overloaded, the shard is not served here, its storage fails, the events
    /// cannot be folded, or the inserted ones do not fit.
    pub async fn compare(
        &self,
        stream: &StreamName,
        comparison: &Comparison,
    ) -> Result<Option<Compared>, Failure> {
        let erased = self.erased(stream)?;
        let bytes = comparison_weight(comparison);
        let (incarnation, _permit) = self.settled(stream, bytes).await?;
        let (shard, term) = (incarnation.shard(), incarnation.term());
        let _slot = self.0.comparisons.acquire().await;
        let mut found = erased
            .compare(&*self.0.services.journal, shard, stream, comparison)
            .await?;
        still_serves(&incarnation)?;
        if let Some(Compared { before, after, .. }) = &mut found {
            (before.term, after.term) = (term, term);
        }
        Ok(found)
    }

    /// Waits until every command of the shard that was decided before is committed, and this node is
    /// known to lead it after that. An event has the time of its decision, a moment before its commit:
    /// without this, it could still come into a past that somebody was told of.
    async fn all_decided(&self, stream: &StreamName) -> Result<(), Failure> {
        let (handle, incarnation) = self.serving(stream)?;
        let services = &self.0.services;
        let permit = services
            .admission
            .admit(handle.load(), 0)
            .map_err(|exhausted| overloaded(services, exhausted))?;
        let (reply, receiver) = Reply::new(permit);
        incarnation.sequencer().answer_after_all(reply);
        drop(incarnation);
        match receiver.await {
            Ok(Answer::Failed(failure)) => Err(failure),
            Ok(_) => Ok(()),
            Err(_) => Err(Failure::new(
                FailureKind::NoLeader,
                "the shard stopped before it could answer",
            )),
        }
    }

    /// Takes a permit for reading the past, and waits until the index shows everything that anybody
    /// was told about this shard; gives who serves it. Whoever has read asks whether it
    /// [still does](still_serves).
    async fn settled(
        &self,
        stream: &StreamName,
        bytes: usize,
    ) -> Result<(Arc<Incarnation>, Permit), Failure> {
        let (handle, incarnation) = self.serving(stream)?;
        let services = &self.0.services;
        let permit = services
            .admission
            .admit(handle.load(), bytes)
            .map_err(|exhausted| overloaded(services, exhausted))?;
        let released = incarnation.sequencer().released_position();
        services
            .journal
            .wait_indexed(handle.shard(), released)
            .await
            .map_err(|error| LoadError::from(error).into_failure(stream))?;
        Ok((incarnation, permit))
    }
}

/// What was read of the past is whole only if the shard was served until then: a damaged copy is thrown
/// away once it is not, and what begins in its place is a part.
fn still_serves(incarnation: &Incarnation) -> Result<(), Failure> {
    if incarnation.sequencer().is_closed() {
        return Err(Failure::new(
            FailureKind::NoLeader,
            "the shard changed its leader while its past was read",
        ));
    }
    Ok(())
}

/// Where a page of about `limit` events ends: never between the parts of one stored event.
fn end_of_page(events: &[RecordedEvent], limit: usize) -> usize {
    let sequence = |at: usize| events.get(at).map(|event| event.sequence_number);
    let mut end = limit;
    while end > 0 && end < events.len() && sequence(end) == sequence(end - 1) {
        end += 1;
    }
    end
}

/// Bytes that a command counts for while it is in flight.
#[must_use]
pub fn weight(request: &CommandRequest) -> usize {
    request.body.len() + request.command.len() + 256
}

/// Bytes that a comparison counts for while it is in flight.
#[must_use]
pub fn comparison_weight(comparison: &Comparison) -> usize {
    match comparison {
        Comparison::Between { .. } => EXPECTED_EVENT_BYTES,
        Comparison::WhatIf(body) => body.len() + EXPECTED_EVENT_BYTES,
    }
}

/// The refusal of a node that is shutting down.
#[must_use]
pub fn shutting_down() -> Failure {
    Failure::new(
        FailureKind::ShuttingDown,
        "the node is shutting down; nothing was stored",
    )
}
