//! Any node takes any request: it is answered here when this node leads the stream's shard, and
//! handed to the leader otherwise.
//!
//! It owns the attempts of one request: which node is asked, when to ask again, when to give up.
//! It refuses to decide anything itself, and never calls an outcome certain that is not: once an
//! attempt may have stored something, the answer is that of a later attempt with the same key, or
//! "outcome unknown". Invariants:
//!
//! - A command is handed on with the term of the leader it is meant for and takes effect in that
//!   term or never. A later attempt in a later term therefore sees all that earlier ones did.
//! - All attempts of a request carry one idempotency key, made up here when the client sent none.
//! - A request that waits or travels holds a permit of this node.
//!
//! ```text
//! command, read, history,
//! state_at, compare       -> here? -> CommandModel
//!                            else  -> course (attempts) -> Peers -> receive -> CommandModel
//! ```

mod course;
mod readiness;
mod receive;

use std::sync::Arc;
use std::time::Duration;

use phalanx_actors::CommandModel;
use phalanx_actors::history::{At, Compared, Comparison, HistoryPage};
use phalanx_actors::model::shutting_down;
use phalanx_actors::names::{ShardId, StreamName};
use phalanx_actors::request::{Answer, CommandRequest, Failure, FailureKind, StateView};
use phalanx_actors::types::TypeRegistry;
use tokio::sync::watch;
use tokio::time::Instant;

use self::course::Course;
use self::readiness::Readiness;
pub use self::receive::Receiver;
use super::NodeId;
use super::leaders::Leaders;
use super::metrics::ForwardMetrics;
use super::peers::Peers;
use super::wire::{PAGE_BYTES, Question, Said, history_weight};

/// How long a request waits, and for what; and how long an answer may be.
#[derive(Debug, Clone, Copy)]
pub struct RouterLimits {
    /// Without a leader of the shard that can be asked.
    pub leader_wait: Duration,
    /// Without a leader while no majority of the shard's voters is connected.
    pub isolated_wait: Duration,
    /// The longest answer in bytes that goes to another node.
    pub answer_bytes: usize,
    /// How long a shard may be without a leader that can be alive before this node is not ready; as
    /// long as an election takes.
    pub lapse: Duration,
}

/// See the file's description. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Router(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    model: CommandModel,
    cluster: Option<Cluster>,
    /// Whether nobody is waited for any more.
    ended: watch::Sender<bool>,
}

/// What a router of several nodes needs.
#[derive(Debug)]
struct Cluster {
    peers: Arc<dyn Peers>,
    leaders: Arc<Leaders>,
    limits: RouterLimits,
    metrics: ForwardMetrics,
    readiness: Readiness,
}

impl Router {
    /// The router of a cluster of one: everything is answered here.
    #[must_use]
    pub fn alone(model: CommandModel) -> Self {
        Self::build(model, None)
    }

    /// The router of a node with peers.
    #[must_use]
    pub fn new(
        model: CommandModel,
        peers: Arc<dyn Peers>,
        leaders: Arc<Leaders>,
        limits: RouterLimits,
    ) -> Self {
        let readiness = Readiness::new(model.shards(), limits.lapse);
        let cluster = Some(Cluster {
            peers,
            leaders,
            limits,
            metrics: ForwardMetrics::default(),
            readiness,
        });
        Self::build(model, cluster)
    }

    fn build(model: CommandModel, cluster: Option<Cluster>) -> Self {
        Self(Arc::new(Inner {
            model,
            cluster,
            ended: watch::Sender::new(false),
        }))
    }

    /// Waits for no leader any more: requests that do are answered now, and those to come. Nobody knows
    /// what becomes of a command that was on its way.
    pub fn end(&self) {
        self.0.ended.send_replace(true);
    }

    /// Whether there are other nodes.
    #[must_use]
    pub fn has_peers(&self) -> bool {
        self.0.cluster.is_some()
    }

    /// The types that are served.
    #[must_use]
    pub fn types(&self) -> &TypeRegistry {
        self.0.model.types()
    }

    /// This node.
    #[must_use]
    pub fn node_id(&self) -> NodeId {
        self.0.model.node_id()
    }

    /// The number of shards of the cluster.
    #[must_use]
    pub fn shards(&self) -> u32 {
        self.0.model.shards()
    }

    /// See [`CommandModel::released_position`].
    #[must_use]
    pub fn released_position(&self, shard: ShardId) -> u64 {
        self.0.model.released_position(shard)
    }

    /// Each part that must work before this node should get traffic, and why it does not yet. A
    /// shard is ready when it is served here, or its leader is known and can be alive.
    #[must_use]
    pub fn readiness(&self) -> Vec<(String, Result<(), String>)> {
        let Some(cluster) = &self.0.cluster else {
            return self.0.model.readiness();
        };
        let model = &self.0.model;
        let admitting = if model.is_stopping() {
            Err("the node is shutting down".to_owned())
        } else {
            Ok(())
        };
        let mut checks = vec![("admission".to_owned(), admitting)];
        let shards = cluster.readiness.look(model, cluster);
        let named = shards
            .into_iter()
            .map(|(shard, state)| (format!("shard {shard}"), state));
        checks.extend(named);
        checks
    }

    /// Keeps in mind how long the shards have been ready, until it is dropped: whoever asks for
    /// [`Self::readiness`] need not have asked before.
    pub async fn watch_readiness(self) {
        let Some(cluster) = &self.0.cluster else {
            return;
        };
        let mut rounds = tokio::time::interval(readiness::ROUND);
        loop {
            rounds.tick().await;
            cluster.readiness.look(&self.0.model, cluster);
        }
    }

    /// Decides a command wherever its shard is led, within this time. Dropping the future does not
    /// undo the command.
    pub async fn command(
        &self,
        stream: &StreamName,
        request: &CommandRequest,
        within: Duration,
    ) -> Answer {
        let answer = self.decide(stream, request, within).await;
        let may_be_known = request.idempotency_key.is_some() && !request.dry_run;
        match answer {
            // Its key may not have been looked up. Whoever used it before and is told for good that nothing
            // was stored would send the command again under another one.
            Answer::Failed(failure) if failure.kind == FailureKind::Internal && may_be_known => {
                let detail = format!(
                    "{}; whether a command with this key was stored before is unknown",
                    failure.detail
                );
                Answer::Failed(Failure::new(FailureKind::OutcomeUnknown, detail))
            }
            answer => answer,
        }
    }

    async fn decide(
        &self,
        stream: &StreamName,
        request: &CommandRequest,
        within: Duration,
    ) -> Answer {
        let model = &self.0.model;
        let Some(cluster) = &self.0.cluster else {
            return model.command(stream.clone(), request.clone()).await;
        };
        let deadline = Instant::now() + within;
        let mut keyed = request.clone();
        if keyed.idempotency_key.is_none() && !keyed.dry_run {
            keyed.idempotency_key = Some(model.generate_key());
            keyed.key_is_new = true;
        }
        let shard = stream.shard(model.shards());
        let stored_before = model.stored_position(shard);
        let mut unknown_in = None;
        if let Some(term) = cluster.served_here(model, shard) {
            let sent = model.command_in(Some(term), stream.clone(), keyed.clone());
            let answer = sent.await;
            match failed(&answer) {
                Some(FailureKind::OutcomeUnknown) => unknown_in = Some(term),
                // Nothing was stored, and somebody else may lead the shard soon.
                Some(FailureKind::NoLeader | FailureKind::NotReady) => {}
                Some(_) | None => return answer,
            }
        }
        keyed.key_is_new = false;
        let question = Question::Command(&keyed);
        let mut course = Course::new(self, cluster, stream, question, deadline);
        if let Some(term) = unknown_in {
            course = course.after(term, stored_before);
        }
        let may_be_stored = unknown_in.is_some();
        let (said, _) = self.follow(course, question, may_be_stored).await;
        match said {
            Said::Answer(answer) => answer,
            Said::History(_) | Said::Compared(_) | Said::NotHere { .. } => {
                Answer::Failed(mixed_up())
            }
        }
    }

    /// Reads an aggregate's state from memory, wherever its shard is led; gives the node that
    /// answered as well.
    pub async fn read(&self, stream: &StreamName, within: Duration) -> (Answer, NodeId) {
        let model = &self.0.model;
        let Some(cluster) = &self.0.cluster else {
            return (model.read(stream.clone()).await, model.node_id());
        };
        let deadline = Instant::now() + within;
        if cluster.is_here(model, stream.shard(model.shards())) {
            let answer = model.read(stream.clone()).await;
            let passes = [FailureKind::NoLeader, FailureKind::NotReady];
            if !failed(&answer).is_some_and(|kind| passes.contains(&kind)) {
                return (answer, model.node_id());
            }
        }
        self.answer_elsewhere(cluster, stream, Question::Read, deadline)
            .await
    }

    /// A stream's events from `from_sequence` on: at most `limit`, and no more once they weigh
    /// `max_bytes`, but at least one if there is one.
    ///
    /// # Errors
    /// When no leader can be asked or its storage fails.
    pub async fn history(
        &self,
        stream: &StreamName,
        from_sequence: u64,
        limit: usize,
        max_bytes: usize,
        within: Duration,
    ) -> Result<HistoryPage, Failure> {
        let model = &self.0.model;
        let Some(cluster) = &self.0.cluster else {
            return model.history(stream, from_sequence, limit, max_bytes).await;
        };
        let deadline = Instant::now() + within;
        let mut all = HistoryPage::default();
        let mut bytes = 0;
        let mut from_sequence = from_sequence.max(1);
        loop {
            let question = Question::History {
                from_sequence,
                limit: limit - all.events.len(),
            };
            let course = Course::new(self, cluster, stream, question, deadline);
            let page = match self.follow(course, question, false).await {
                (Said::History(page), _) => page,
                (Said::Answer(Answer::Failed(failure)), _) => return Err(failure),
                (Said::Answer(_) | Said::Compared(_) | Said::NotHere { .. }, _) => {
                    return Err(mixed_up());
                }
            };
            bytes += page.events.iter().map(history_weight).sum::<usize>();
            let came = !page.events.is_empty();
            all.events.extend(page.events);
            all.next_sequence = page.next_sequence;
            match page.next_sequence {
                Some(next) if came && all.events.len() < limit && bytes < max_bytes => {
                    from_sequence = next;
                }
                _ => return Ok(all),
            }
        }
    }

    /// The state as it was; `None` when the aggregate did not exist then. Past the stream's end it
    /// is the newest state. Gives the node that answered as well.
    ///
    /// # Errors
    /// When no leader can be asked, its storage fails or the events cannot be folded.
    pub async fn state_at(
        &self,
        stream: &StreamName,
        at: At,
        within: Duration,
    ) -> Result<(Option<StateView>, NodeId), Failure> {
        let model = &self.0.model;
        let Some(cluster) = &self.0.cluster else {
            let view = model.state_at(stream, at).await?;
            return Ok((view, model.node_id()));
        };
        let deadline = Instant::now() + within;
        let question = Question::Past(at);
        match self
            .answer_elsewhere(cluster, stream, question, deadline)
            .await
        {
            (Answer::State(view), node) => Ok((Some(view), node)),
            (Answer::NotFound, node) => Ok((None, node)),
            (Answer::Failed(failure), _) => Err(failure),
            _ => Err(mixed_up()),
        }
    }

    /// Two states of an aggregate side by side; `None` when it does not exist. See
    /// [`CommandModel::compare`]. Gives the node that answered as well.
    ///
    /// # Errors
    /// When no leader can be asked or knows the question, its storage fails, the events cannot be
    /// folded, or the inserted ones do not fit.
    pub async fn compare(
        &self,
        stream: &StreamName,
        comparison: &Comparison,
        within: Duration,
    ) -> Result<(Option<Compared>, NodeId), Failure> {
        let model = &self.0.model;
        let Some(cluster) = &self.0.cluster else {
            let found = model.compare(stream, comparison).await?;
            return Ok((found, model.node_id()));
        };
        let deadline = Instant::now() + within;
        let question = Question::Compare(comparison);
        let course = Course::new(self, cluster, stream, question, deadline);
        match self.follow(course, question, false).await {
            (Said::Compared(compared), node) => Ok((Some(compared), node)),
            (Said::Answer(Answer::NotFound), node) => Ok((None, node)),
            (Said::Answer(Answer::Failed(failure)), _) => Err(failure),
            (Said::Answer(_) | Said::History(_) | Said::NotHere { .. }, _) => Err(mixed_up()),
        }
    }

    async fn answer_elsewhere(
        &self,
        cluster: &Cluster,
        stream: &StreamName,
        question: Question<'_>,
        deadline: Instant,
    ) -> (Answer, NodeId) {
        let course = Course::new(self, cluster, stream, question, deadline);
        match self.follow(course, question, false).await {
            (Said::Answer(answer), node) => (answer, node),
            (Said::History(_) | Said::Compared(_) | Said::NotHere { .. }, node) => {
                (Answer::Failed(mixed_up()), node)
            }
        }
    }

    /// Follows a course to its answer or to [`Self::end`]. Whether an attempt before it `may_be_stored`.
    async fn follow(
        &self,
        course: Course<'_>,
        question: Question<'_>,
        may_be_stored: bool,
    ) -> (Said, NodeId) {
        let mut ended = self.0.ended.subscribe();
        if *ended.borrow_and_update() && !may_be_stored {
            let refused = Said::Answer(Answer::Failed(shutting_down()));
            return (refused, self.node_id());
        }
        tokio::select! {
            biased;
            _ = ended.wait_for(|ended| *ended) => {
                let kind = if question.stores() {
                    FailureKind::OutcomeUnknown
                } else {
                    FailureKind::ShuttingDown
                };
                let reason = "the node shuts down and waits no longer for an answer";
                (Said::failed(kind, reason), self.node_id())
            }
            // Boxed, so that the way to an answer of this node stays small.
            outcome = Box::pin(course.run()) => outcome,
        }
    }

    /// Answers from this node, a command only in `term` if one is given.
    async fn here(&self, stream: &StreamName, question: Question<'_>, term: Option<u64>) -> Said {
        let model = &self.0.model;
        match question {
            Question::Command(request) => {
                let request = request.clone();
                Said::Answer(model.command_in(term, stream.clone(), request).await)
            }
            Question::Read => Said::Answer(model.read(stream.clone()).await),
            Question::History {
                from_sequence,
                limit,
            } => match model
                .history(stream, from_sequence, limit, PAGE_BYTES)
                .await
            {
                Ok(page) => Said::History(cut(page)),
                Err(failure) => Said::Answer(Answer::Failed(failure)),
            },
            Question::Past(at) => Said::Answer(match model.state_at(stream, at).await {
                Ok(Some(view)) => Answer::State(view),
                Ok(None) => Answer::NotFound,
                Err(failure) => Answer::Failed(failure),
            }),
            Question::Compare(comparison) => match model.compare(stream, comparison).await {
                Ok(Some(compared)) => Said::Compared(compared),
                Ok(None) => Said::Answer(Answer::NotFound),
                Err(failure) => Said::Answer(Answer::Failed(failure)),
            },
        }
    }
}

impl Cluster {
    /// Whether this node should answer for a shard: it leads, and is not cut off from the others.
    fn is_here(&self, model: &CommandModel, shard: ShardId) -> bool {
        self.leaders.is_leader(shard, model.node_id()) && !self.leaders.is_cut_off(shard)
    }

    /// The term in which this node serves a shard, if it should answer for it.
    fn served_here(&self, model: &CommandModel, shard: ShardId) -> Option<u64> {
        let term = model.serving_term(shard)?;
        self.is_here(model, shard).then_some(term)
    }
}

fn failed(answer: &Answer) -> Option<FailureKind> {
    match answer {
        Answer::Failed(failure) => Some(failure.kind),
        _ => None,
    }
}

/// Cuts events off when they are more than a message should carry.
fn cut(mut page: HistoryPage) -> HistoryPage {
    let mut bytes = 0;
    let too_many = page.events.iter().position(|event| {
        bytes += history_weight(event);
        bytes > PAGE_BYTES
    });
    if let Some(kept) = too_many.map(|kept| kept.max(1))
        && let Some(next) = page.events.get(kept)
    {
        page.next_sequence = Some(next.sequence_number);
        page.events.truncate(kept);
    }
    page
}

fn mixed_up() -> Failure {
    Failure::new(
        FailureKind::Internal,
        "another node gave an answer to another question",
    )
}

#[cfg(test)]
pub(crate) mod tests;
