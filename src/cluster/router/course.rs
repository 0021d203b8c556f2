//! The attempts of one request, from the first to an answer.
//!
//! Asks the leader that is known, waits when there is none, asks again when the answer is "not here"
//! or did not come, and gives up in time. It refuses to call something "not applied" after an
//! attempt whose outcome is unknown, unless a later attempt has looked the key up and says so, and the
//! earlier one cannot arrive after it any more ([`Unresolved`]).

use std::time::Duration;

use bytes::Bytes;
use phalanx_actors::admission::Permit;
use phalanx_actors::model::shutting_down;
use phalanx_actors::names::{ShardId, StreamName};
use phalanx_actors::request::{Accepted, Answer, Failure, FailureKind};
use tokio::sync::watch;
use tokio::time::Instant;

use super::{Cluster, Router};
use crate::cluster::NodeId;
use crate::cluster::leaders::Known;
use crate::cluster::transport::CallError;
use crate::cluster::wire::{self, Heading, Led, Question, Said};

/// The first pause between two attempts; each further one is twice as long.
const SHORTEST_PAUSE: Duration = Duration::from_millis(5);
/// The longest one.
const LONGEST_PAUSE: Duration = Duration::from_millis(100);
/// Time that an attempt after the first has at least. With less, its answer would hardly come in time, and
/// what was certain before, that nothing is stored, would be so no more.
const SHORTEST_ATTEMPT: Duration = Duration::from_millis(10);
/// How long a leader may take from its election until it serves, before whoever waits looks again.
pub(super) const BEGIN_WAIT: Duration = Duration::from_secs(1);

/// See the file's description.
pub(super) struct Course<'a> {
    router: &'a Router,
    cluster: &'a Cluster,
    stream: &'a StreamName,
    shard: ShardId,
    question: Question<'a>,
    deadline: Instant,
    /// Up to here everything was stored before the first attempt.
    stored_before: u64,
    permit: Option<Permit>,
    /// The attempts that may have stored something; nobody said whether they did.
    unresolved: Unresolved,
    /// Where the last attempt went.
    sent: Sent,
    /// Why the last attempt came to nothing.
    last: Failure,
    leaderless_since: Option<Instant>,
    isolated_since: Option<Instant>,
    pause: Duration,
    attempts: usize,
}

/// In which term and how an attempt was to be answered.
#[derive(Debug, Clone, Copy, Default)]
struct Sent {
    term: u64,
    /// Whether another node was to hand it on.
    indirect: bool,
}

/// Attempts of unknown outcome, which may still be on their way. A leader decides what arrives on one
/// line in the order of its arrival, and takes nothing from a line any more once its sender has opened
/// another; a new term ends all attempts of those before it. What another node hands on comes on a line
/// of its own, before or after.
#[derive(Debug, Default)]
struct Unresolved {
    /// The newest term of those that went straight to its leader.
    direct: Option<u64>,
    /// The newest term of those that another node was to hand on.
    indirect: Option<u64>,
}

impl Unresolved {
    fn add(&mut self, sent: Sent) {
        let newest = if sent.indirect {
            &mut self.indirect
        } else {
            &mut self.direct
        };
        *newest = (*newest).max(Some(sent.term));
    }

    /// Whether there is one. From then on the client is told what a later attempt found, or that the
    /// outcome is unknown.
    fn any(&self) -> bool {
        self.direct.is_some() || self.indirect.is_some()
    }

    /// Whether one of them may take effect after an attempt that came back.
    fn may_follow(&self, sent: Sent) -> bool {
        self.indirect >= Some(sent.term) || (sent.indirect && self.direct >= Some(sent.term))
    }
}

/// What an attempt led to.
enum Step {
    /// A node said something.
    Said(Said, NodeId),
    /// There is news of the leader: ask again at once.
    News,
    /// Nothing was done, for want of a leader that can be asked.
    Nobody(String),
    /// Nobody knows what was done.
    Unknown(String),
}

impl<'a> Course<'a> {
    pub(super) fn new(
        router: &'a Router,
        cluster: &'a Cluster,
        stream: &'a StreamName,
        question: Question<'a>,
        deadline: Instant,
    ) -> Self {
        let shard = stream.shard(router.shards());
        Self {
            router,
            cluster,
            stream,
            shard,
            question,
            deadline,
            stored_before: if question.stores() {
                router.0.model.stored_position(shard)
            } else {
                0
            },
            permit: None,
            unresolved: Unresolved::default(),
            sent: Sent::default(),
            last: no_leader(shard),
            leaderless_since: None,
            isolated_since: None,
            pause: SHORTEST_PAUSE,
            attempts: 0,
        }
    }

    /// Follows an attempt at this node in this term, whose outcome is unknown. Before it, everything up to
    /// `stored_before` was stored.
    pub(super) fn after(mut self, term: u64, stored_before: u64) -> Self {
        self.stored_before = stored_before;
        self.sent = Sent {
            term,
            indirect: false,
        };
        self.unknown_outcome();
        self
    }

    /// Asks until there is an answer or no hope; gives the node that answered as well.
    pub(super) async fn run(mut self) -> (Said, NodeId) {
        let me = self.router.node_id();
        let Some(mut news) = self.cluster.leaders.watch(self.shard) else {
            let failed = Said::failed(FailureKind::Internal, "there is no such shard");
            return (failed, me);
        };
        loop {
            if self.is_too_late() {
                return (Said::Answer(Answer::Failed(self.ending())), me);
            }
            let known = *news.borrow_and_update();
            match self.attempt(known, &mut news).await {
                Step::Said(said, node) => {
                    self.leaderless_since = None;
                    if let Some(last_word) = self.judge(said, node) {
                        return (last_word, node);
                    }
                }
                Step::News => continue,
                Step::Nobody(reason) => {
                    self.leaderless_since.get_or_insert_with(Instant::now);
                    self.last = Failure::new(FailureKind::NoLeader, reason);
                }
                Step::Unknown(reason) => {
                    self.unknown_outcome();
                    self.last = Failure::new(FailureKind::NoLeader, reason);
                }
            }
            if let Some(failure) = self.give_up() {
                return (Said::Answer(Answer::Failed(failure)), me);
            }
            self.rest(&mut news).await;
        }
    }

    async fn attempt(&mut self, known: Known, news: &mut watch::Receiver<Known>) -> Step {
        let model = &self.router.0.model;
        let me = model.node_id();
        self.attempts += 1;
        let serving = model.serving_term(self.shard);
        if let Some(term) = serving.filter(|_| !self.cluster.leaders.is_cut_off(self.shard)) {
            // It takes a permit of its own.
            self.permit = None;
            self.sent = Sent {
                term,
                indirect: false,
            };
            let said = self.router.here(self.stream, self.question, None).await;
            return Step::Said(said, me);
        }
        if self.attempts == 1 && !self.unresolved.any() && model.is_stopping() {
            return Step::Said(Said::Answer(Answer::Failed(shutting_down())), me);
        }
        if self.permit.is_none() {
            match model.admit_elsewhere(self.stream, self.question.weight()) {
                Ok(permit) => self.permit = Some(permit),
                Err(failure) => return Step::Said(Said::Answer(Answer::Failed(failure)), me),
            }
        }
        match known.led() {
            Some(led) if led.node == me => self.begin(led, news).await,
            Some(led) if self.cluster.peers.is_connected(led.node) => {
                self.ask(led.node, led.term, 0, news).await
            }
            led => match self.bystander(led.map(|led| led.node)) {
                Some(node) => self.ask(node, known.term, 1, news).await,
                None => Step::Nobody(match led {
                    Some(led) => format!(
                        "node {} leads shard {}, and this node has no connection to it",
                        led.node, self.shard
                    ),
                    None => no_leader(self.shard).detail,
                }),
            },
        }
    }

    /// Waits until this node, which leads, serves.
    async fn begin(&self, led: Led, news: &mut watch::Receiver<Known>) -> Step {
        let model = &self.router.0.model;
        let left = self.left().min(BEGIN_WAIT);
        if self.cluster.leaders.is_cut_off(self.shard) {
            return Step::Nobody(format!(
                "this node leads shard {} and has no connection to a majority of its voters",
                self.shard
            ));
        }
        tokio::select! {
            () = model.began(self.shard, led.term) => Step::News,
            () = superseded(led.term, news) => Step::News,
            () = tokio::time::sleep(left) => {
                Step::Nobody(format!("shard {} is about to be served", self.shard))
            }
        }
    }

    async fn ask(
        &mut self,
        to: NodeId,
        term: u64,
        hops: u8,
        news: &mut watch::Receiver<Known>,
    ) -> Step {
        self.sent = Sent {
            term,
            indirect: hops > 0,
        };
        if let Some(reason) = too_old(self.cluster, to, self.question) {
            return Step::Nobody(reason);
        }
        let heading = Heading {
            stream: self.stream.clone(),
            term,
            hops,
            time_left: self.left(),
        };
        let message = match wire::question(&heading, self.question) {
            Ok(message) => message,
            Err(error) => {
                let failed = Said::failed(FailureKind::Internal, error.to_string());
                return Step::Said(failed, self.router.node_id());
            }
        };
        let answered = self.send(to, term, message, news).await;
        match answered {
            Ok(bytes) => match wire::read_said(self.stream, &bytes) {
                Ok((_, Said::NotHere { leader, reason })) => {
                    if self.is_clients() {
                        self.cluster.metrics.not_here.increment(1);
                    }
                    match leader {
                        Some(led) if self.cluster.leaders.hear(self.shard, led) => Step::News,
                        Some(_) | None => Step::Nobody(reason),
                    }
                }
                Ok((node, said)) => Step::Said(said, node),
                Err(error) => Step::Unknown(format!("node {to} cannot be understood: {error}")),
            },
            Err(error @ CallError::NotSent { .. }) => {
                if self.cluster.peers.is_connected(to) {
                    let failed = Said::failed(FailureKind::Overloaded, error.to_string());
                    return Step::Said(failed, self.router.node_id());
                }
                Step::Nobody(error.to_string())
            }
            Err(error @ CallError::Unknown { .. }) => Step::Unknown(error.to_string()),
            Err(CallError::Refused(reason)) => {
                let detail = format!("node {to} refuses the request: {reason}");
                Step::Said(Said::failed(FailureKind::Internal, detail), to)
            }
        }
    }

    /// Puts a question to a node and counts what became of it.
    async fn send(
        &self,
        to: NodeId,
        term: u64,
        message: Bytes,
        news: &mut watch::Receiver<Known>,
    ) -> Result<Bytes, CallError> {
        let (lane, kind) = (self.question.lane(), self.question.kind());
        let started = Instant::now();
        let answered = tokio::select! {
            answered = self.cluster.peers.call(to, lane, kind, message, self.left()) => answered,
            // Whoever leads now can say what became of it.
            () = superseded(term, news) => Err(CallError::Unknown {
                to,
                reason: "the shard has a new leader".to_owned(),
            }),
        };
        let metrics = &self.cluster.metrics;
        let counter = match &answered {
            Ok(_) => &metrics.answered,
            Err(CallError::NotSent { .. }) => &metrics.not_sent,
            Err(CallError::Unknown { .. }) => &metrics.unknown,
            Err(CallError::Refused(_)) => &metrics.refused,
        };
        if self.is_clients() {
            counter.increment(1);
            metrics.seconds.record(started.elapsed());
        }
        answered
    }

    /// Whether it is a client's request; nodes ask some things for themselves.
    fn is_clients(&self) -> bool {
        !self.stream.aggregate_type().starts_with('_')
    }

    /// Nobody knows what became of the last attempt.
    fn unknown_outcome(&mut self) {
        if self.question.stores() {
            self.unresolved.add(self.sent);
        }
    }

    /// What was said, if it is the last word; otherwise notes what it means for the next attempt.
    fn judge(&mut self, said: Said, node: NodeId) -> Option<Said> {
        let here = node == self.router.node_id();
        if self.question.stores() && stores_nothing(&said) && self.unresolved.may_follow(self.sent)
        {
            self.last = Failure::new(
                FailureKind::OutcomeUnknown,
                "it has no effect now, and an attempt before may be on its way",
            );
            return None;
        }
        match said {
            // After an attempt of unknown outcome the stored reply is that attempt's own, as far as
            // this node can tell, and the client has seen none before; unless it was stored earlier.
            Said::Answer(Answer::Accepted(accepted)) => {
                let is_older = accepted.position.number <= self.stored_before;
                Some(Said::Answer(Answer::Accepted(Accepted {
                    replayed: accepted.replayed && (is_older || !self.unresolved.any()),
                    ..accepted
                })))
            }
            Said::Answer(Answer::Failed(failure)) => match failure.kind {
                FailureKind::ShuttingDown if here && !self.unresolved.any() => {
                    Some(Said::Answer(Answer::Failed(failure)))
                }
                FailureKind::Overloaded if !self.unresolved.any() => {
                    Some(Said::Answer(Answer::Failed(failure)))
                }
                FailureKind::NoLeader
                | FailureKind::ShuttingDown
                | FailureKind::NotReady
                | FailureKind::Overloaded => {
                    self.last = failure;
                    None
                }
                FailureKind::OutcomeUnknown => {
                    self.unknown_outcome();
                    self.last = failure;
                    None
                }
                // These may come without a look at the key, so they say nothing about attempts before.
                FailureKind::Internal
                | FailureKind::Quarantined
                | FailureKind::MalformedBody
                | FailureKind::UnknownAggregateType
                | FailureKind::UnknownCommand
                    if self.unresolved.any() =>
                {
                    Some(Said::Answer(Answer::Failed(unknown(&failure))))
                }
                FailureKind::Internal
                | FailureKind::Quarantined
                | FailureKind::MalformedBody
                | FailureKind::UnknownAggregateType
                | FailureKind::UnknownCommand
                | FailureKind::Hypothesis
                | FailureKind::StorageFull => Some(Said::Answer(Answer::Failed(failure))),
            },
            Said::NotHere { leader, reason } => {
                if let Some(led) = leader {
                    self.cluster.leaders.hear(self.shard, led);
                }
                self.last = Failure::new(FailureKind::NoLeader, reason);
                None
            }
            other @ (Said::Answer(_) | Said::History(_) | Said::Compared(_)) => Some(other),
        }
    }

    /// The failure to end with, once there is no hope or no time.
    fn give_up(&mut self) -> Option<Failure> {
        let now = Instant::now();
        if self.reaches_majority() {
            self.isolated_since = None;
        } else {
            self.isolated_since.get_or_insert(now);
        }
        let limits = &self.cluster.limits;
        let lasts = |since: Option<Instant>, bound| since.is_some_and(|since| now - since >= bound);
        let hopeless = !self.unresolved.any()
            && (lasts(self.isolated_since, limits.isolated_wait)
                || lasts(self.leaderless_since, limits.leader_wait));
        (hopeless || self.is_too_late()).then(|| self.ending())
    }

    /// Whether an attempt that begins now could not be answered in time.
    fn is_too_late(&self) -> bool {
        let left = self.left();
        left.is_zero() || self.attempts > 0 && left < SHORTEST_ATTEMPT
    }

    /// The failure to end with: what is certain of the attempts so far.
    fn ending(&self) -> Failure {
        if self.unresolved.any() {
            unknown(&self.last)
        } else if let Some(reason) = self.router.0.model.refusal(self.shard) {
            Failure::new(FailureKind::NotReady, reason)
        } else {
            Failure::new(
                FailureKind::NoLeader,
                format!("{}; nothing was stored", self.last.detail),
            )
        }
    }

    /// Pauses, but not beyond news of the leader.
    async fn rest(&mut self, news: &mut watch::Receiver<Known>) {
        let pause = self.pause.min(self.left());
        tokio::select! {
            changed = news.changed() => {
                self.pause = SHORTEST_PAUSE;
                // It cannot fail: the board lives as long as the router.
                drop(changed);
            }
            () = tokio::time::sleep(pause) => {
                self.pause = (self.pause * 2).min(LONGEST_PAUSE);
            }
        }
    }

    fn left(&self) -> Duration {
        self.deadline.saturating_duration_since(Instant::now())
    }

    fn is_voter(&self, node: NodeId) -> bool {
        self.cluster.leaders.voters(self.shard).contains(&node)
    }

    /// A connected node other than the leader that can hand a request on; another one each time.
    /// In an election, or when a leader has just died, the others know no more than this node. So
    /// they are asked at first, in case that only this node is cut off, and then now and then.
    fn bystander(&self, leader: Option<NodeId>) -> Option<NodeId> {
        let me = self.router.node_id();
        let first = self.attempts == 1 && (leader.is_some() || !self.is_voter(me));
        if !first && self.pause < LONGEST_PAUSE {
            return None;
        }
        let connected: Vec<NodeId> = self
            .cluster
            .peers
            .peers()
            .into_iter()
            .filter(|peer| Some(*peer) != leader && self.cluster.peers.is_connected(*peer))
            .collect();
        let turn = self.attempts.checked_rem(connected.len())?;
        connected.get(turn).copied()
    }

    /// Whether this node is connected to enough voters for the shard to have a leader among them.
    fn reaches_majority(&self) -> bool {
        let voters = self.cluster.leaders.voters(self.shard);
        let me = self.router.node_id();
        if voters.is_empty() {
            // Who votes is not known yet; whoever is connected may know.
            let peers = self.cluster.peers.peers();
            return peers
                .iter()
                .any(|peer| self.cluster.peers.is_connected(*peer));
        }
        let reached = voters
            .iter()
            .filter(|voter| **voter == me || self.cluster.peers.is_connected(**voter))
            .count();
        let led_without_majority = self.is_voter(me) && self.cluster.leaders.is_cut_off(self.shard);
        reached * 2 > voters.len() && !led_without_majority
    }
}

/// Whether a leader has looked the key up and decided to store nothing. With another command under the
/// same key, no attempt has an effect.
fn stores_nothing(said: &Said) -> bool {
    match said {
        Said::Answer(Answer::Rejected { .. } | Answer::SequenceMismatch { .. }) => true,
        Said::Answer(Answer::Accepted(accepted)) => accepted.events.is_empty(),
        Said::Answer(Answer::Failed(failure)) => failure.kind == FailureKind::StorageFull,
        Said::Answer(_) | Said::History(_) | Said::Compared(_) | Said::NotHere { .. } => false,
    }
}

/// Ready once a leader of a later term is known.
pub(super) async fn superseded(term: u64, news: &mut watch::Receiver<Known>) {
    let newer = news.wait_for(|known| known.term > term && known.leader.is_some());
    if newer.await.is_err() {
        // The board is gone, and with it the node.
        std::future::pending::<()>().await;
    }
}

/// Why a node cannot be asked this, if its release is older than the question.
pub(super) fn too_old(cluster: &Cluster, to: NodeId, question: Question<'_>) -> Option<String> {
    let spoken = cluster.peers.protocol(to);
    let needed = question.known_since();
    (spoken < needed).then(|| {
        format!(
            "node {to} would have to answer and speaks version {spoken} of the protocol between \
             nodes; the question needs version {needed}. Upgrade that node"
        )
    })
}

fn no_leader(shard: ShardId) -> Failure {
    let detail = format!("no leader of shard {shard} is known");
    Failure::new(FailureKind::NoLeader, detail)
}

fn unknown(last: &Failure) -> Failure {
    Failure::new(
        FailureKind::OutcomeUnknown,
        format!(
            "the command was handed to a leader, and no leader could say what became of it ({}); \
             retry with the same idempotency key",
            last.detail
        ),
    )
}
