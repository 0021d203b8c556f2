//! Requests about read models at a node that does not keep them: a member is asked that does.
//!
//! Owns which member is asked, and whether another one is asked after it. Refuses to look into a
//! request or an answer, and to hand a request on that came from another member. Invariants:
//!
//! - A request that changes something is put to another member only when the one before certainly did
//!   nothing.
//! - Whoever asks at one node is answered by one member as long as that can be asked, so that what a
//!   client reads there does not go back in time.
//! - At most so many requests are on their way at a time; one more is refused at once.
//!
//! ```text
//! http --Queries--> a member with the role `query` --Desk--> its http
//!          '-- the next one, when that is away, says 503 or keeps no read models
//! ```

use std::collections::BTreeSet;
use std::fmt::Debug;
use std::sync::{Arc, OnceLock, Weak};
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;
use phalanx_actors::ports::BoxFuture;
use tokio::sync::Semaphore;
use tokio::time::Instant;

use super::NodeId;
use super::metrics::ForwardMetrics;
use super::peers::Peers;
use super::roles::Role;
use super::transport::{CallError, CallKind, Lane};
use super::wire::{self, Header, QUERIES_SINCE, QueryAnswer, QueryQuestion};

/// The header by which a member names another one that can answer what it cannot. It travels between
/// nodes only.
pub const ASK: &str = "phalanx-ask";

const UNAVAILABLE: u16 = 503;

/// Answers the requests of other members out of the read models of this node.
pub trait Desk: Debug + Send + Sync + 'static {
    /// Answers one request; an error says why this node cannot at all.
    fn answer(&self, question: QueryQuestion) -> BoxFuture<'static, Result<QueryAnswer, String>>;
}

/// How much may be on its way.
#[derive(Debug, Clone, Copy)]
pub struct QueryLimits {
    /// Requests to other members at a time.
    pub at_once: usize,
    /// The longest answer in bytes that goes to another node.
    pub answer_bytes: usize,
}

/// What members do.
pub trait Roles: Debug + Send + Sync + 'static {
    /// The roles of a member, as far as they are known.
    fn roles_of(&self, node: NodeId) -> BTreeSet<Role>;
}

/// A request as this node got it.
#[derive(Debug, Clone)]
pub struct Query {
    /// Whether it changes something: it is a POST.
    pub posts: bool,
    /// Path and query.
    pub target: String,
    /// Those headers that count.
    pub headers: Vec<Header>,
    /// Whether the answer may be large.
    pub is_large: bool,
    /// When it came in.
    pub since: Instant,
    /// Until when there must be an answer.
    pub deadline: Instant,
}

/// Who is to be asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Whom {
    /// Any member that keeps read models.
    Any,
    /// This one first, then any other.
    First(NodeId),
    /// This one and no other.
    Only(NodeId),
}

/// Why there is no answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Unanswered {
    /// There is no such member.
    #[error("there is no member {0}")]
    NoMember(NodeId),
    /// No member that keeps read models can be asked; nothing was done.
    #[error("{0}")]
    Nobody(String),
    /// As many requests as may be on their way are; nothing was done.
    #[error("as many requests are on their way to other members as may be")]
    Busy,
    /// The time was up; nothing was changed.
    #[error("no answer of another member came in time: {0}")]
    Late(String),
    /// Nobody knows what was done.
    #[error("{0}; it may or may not have been done")]
    Unknown(String),
}

/// See the file's description. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Queries(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    me: NodeId,
    peers: Arc<dyn Peers>,
    roles: Arc<dyn Roles>,
    /// Gone while this node starts and stops.
    desk: OnceLock<Weak<dyn Desk>>,
    /// Who answered last.
    last: Mutex<Option<NodeId>>,
    slots: Semaphore,
    /// The longest answer in bytes that goes to another node.
    answer_bytes: usize,
    metrics: ForwardMetrics,
}

/// What asking one member came to.
enum Step {
    Answered(QueryAnswer),
    /// It did nothing; the reason.
    Passed(String),
    /// It may have done something; the reason.
    Lost(String),
}

impl Queries {
    /// The way from `me` to the read models of `peers`, within these limits.
    #[must_use]
    pub fn new(
        me: NodeId,
        peers: Arc<dyn Peers>,
        roles: Arc<dyn Roles>,
        limits: QueryLimits,
    ) -> Self {
        Self(Arc::new(Inner {
            me,
            peers,
            roles,
            desk: OnceLock::new(),
            last: Mutex::default(),
            slots: Semaphore::new(limits.at_once.min(Semaphore::MAX_PERMITS)),
            answer_bytes: limits.answer_bytes,
            metrics: ForwardMetrics::default(),
        }))
    }

    /// Has other members' requests answered, as long as somebody holds the desk. The first one stays.
    pub fn open(&self, desk: Weak<dyn Desk>) {
        self.0.desk.get_or_init(|| desk);
    }

    /// Asks a member that keeps read models; gives it as well.
    ///
    /// # Errors
    /// See [`Unanswered`].
    pub async fn ask(
        &self,
        query: &Query,
        whom: Whom,
    ) -> Result<(NodeId, QueryAnswer), Unanswered> {
        if let Whom::Only(node) = whom
            && !self.0.peers.peers().contains(&node)
        {
            return Err(Unanswered::NoMember(node));
        }
        let Ok(_slot) = self.0.slots.try_acquire() else {
            return Err(Unanswered::Busy);
        };
        let mut tried: Vec<NodeId> = Vec::new();
        let mut said: Option<(NodeId, QueryAnswer)> = None;
        let mut last = self.0.nobody(whom);
        let mut first = match whom {
            Whom::Any => *self.0.last.lock(),
            Whom::First(node) | Whom::Only(node) => Some(node),
        };
        while let Some(member) = self.0.next(whom, first.take(), &tried) {
            tried.push(member);
            let left = query.deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break;
            }
            match self.0.put(member, query, left).await {
                Step::Answered(answer) if answer.status == UNAVAILABLE => {
                    first = named(&answer).filter(|node| !tried.contains(node));
                    said = Some((member, answer));
                }
                Step::Answered(answer) => {
                    if !matches!(whom, Whom::Only(_)) {
                        *self.0.last.lock() = Some(member);
                    }
                    return Ok((member, answer));
                }
                Step::Passed(reason) => last = reason,
                Step::Lost(reason) if query.posts => return Err(Unanswered::Unknown(reason)),
                Step::Lost(reason) => last = reason,
            }
            tracing::debug!(member, "has no answer to give; another one is asked");
        }
        // What a member says of itself is worth more than that others cannot be asked.
        match said {
            Some(said) => Ok(said),
            None if Instant::now() >= query.deadline => Err(Unanswered::Late(last)),
            None => Err(Unanswered::Nobody(last)),
        }
    }

    /// Answers a request of another member out of this node's read models.
    pub(crate) fn receive(&self, request: &[u8]) -> BoxFuture<'static, Result<Bytes, String>> {
        let desk = self.0.desk.get().and_then(Weak::upgrade);
        let question = wire::read_housekeeping::<QueryQuestion>(request);
        let most = self.0.answer_bytes;
        Box::pin(async move {
            let question = question.map_err(|error| error.to_string())?;
            let desk = desk.ok_or("this node does not serve HTTP now")?;
            let answer = desk.answer(question).await?;
            let message = wire::query_answer(&answer).map_err(|error| error.to_string())?;
            if message.len() <= most {
                return Ok(message);
            }
            // It would end the connection, and every other call on it.
            Err(format!(
                "the answer has {} bytes; transport.max_message_bytes lets {most} go to another node",
                message.len()
            ))
        })
    }
}

impl Inner {
    /// Whom to ask next.
    fn next(&self, whom: Whom, first: Option<NodeId>, tried: &[NodeId]) -> Option<NodeId> {
        if let Whom::Only(node) = whom {
            return (tried.is_empty() && self.can_be_asked(node)).then_some(node);
        }
        let is_fit = |node: &NodeId| !tried.contains(node) && self.can_be_asked(*node);
        if let Some(first) = first.filter(is_fit) {
            return Some(first);
        }
        let all = self.peers.peers();
        let keeps = |node: &NodeId| self.roles.roles_of(*node).contains(&Role::Query);
        let mut fit: Vec<NodeId> = all.into_iter().filter(keeps).filter(is_fit).collect();
        if fit.is_empty() {
            return None;
        }
        // Nodes prefer different members.
        let turn = usize::try_from(self.me).unwrap_or_default() % fit.len();
        fit.rotate_left(turn);
        fit.first().copied()
    }

    /// Whether a member is connected and knows the question.
    fn can_be_asked(&self, node: NodeId) -> bool {
        self.peers.is_connected(node) && self.peers.protocol(node) >= QUERIES_SINCE
    }

    fn nobody(&self, whom: Whom) -> String {
        match whom {
            Whom::Only(node) if self.peers.is_connected(node) => {
                format!("the release of node {node} does not know the question")
            }
            Whom::Only(node) => format!("node {node} cannot be reached from here"),
            Whom::Any | Whom::First(_) => {
                "no member that has the role `query` (node.roles) and knows the question can be \
                 reached from here; GET /v1/cluster shows them"
                    .to_owned()
            }
        }
    }

    /// Puts the request to one member.
    async fn put(&self, member: NodeId, query: &Query, left: Duration) -> Step {
        let millis = |time: Duration| u32::try_from(time.as_millis()).unwrap_or(u32::MAX);
        let question = QueryQuestion {
            posts: query.posts,
            target: query.target.clone(),
            headers: query.headers.clone(),
            waited_ms: millis(query.since.elapsed()),
            time_left_ms: millis(left),
        };
        let request = match wire::housekeeping(&question) {
            Ok(request) => request,
            Err(error) => return Step::Passed(error.to_string()),
        };
        let lane = if query.is_large {
            Lane::Bulk
        } else {
            Lane::Command
        };
        let began = std::time::Instant::now();
        let call = self
            .peers
            .call(member, lane, CallKind::Query, request, left)
            .await;
        self.metrics.seconds.record(began.elapsed().as_secs_f64());
        match call {
            Ok(bytes) => match wire::read_query_answer(&bytes) {
                Ok(answer) => {
                    self.metrics.answered.increment(1);
                    Step::Answered(answer)
                }
                Err(error) => {
                    self.metrics.unknown.increment(1);
                    Step::Lost(error.to_string())
                }
            },
            Err(error @ CallError::NotSent { .. }) => {
                self.metrics.not_sent.increment(1);
                Step::Passed(error.to_string())
            }
            Err(CallError::Refused(reason)) => {
                self.metrics.refused.increment(1);
                Step::Passed(format!("node {member}: {reason}"))
            }
            Err(error @ CallError::Unknown { .. }) => {
                self.metrics.unknown.increment(1);
                Step::Lost(error.to_string())
            }
        }
    }
}

/// The member that an answer says to ask.
fn named(answer: &QueryAnswer) -> Option<NodeId> {
    let (_, node) = answer.headers.iter().find(|(name, _)| name == ASK)?;
    std::str::from_utf8(node).ok()?.parse().ok()
}

#[cfg(test)]
mod tests;
