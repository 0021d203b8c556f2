//! Which members have copies, and how far those are.
//!
//! One call to each member waits there until it has something new to tell, so that a commit anywhere
//! is known here at once and an idle cluster says a word every ten seconds. Refuses to ask while
//! this node has copies of all shards itself. Invariant: of a member that does not answer, nothing is
//! believed.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use phalanx_actors::names::ShardId;
use tokio::sync::watch;
use tokio::task::{AbortHandle, JoinSet};

use super::{ClusterFeed, Copy, Inner};
use crate::cluster::NodeId;
use crate::cluster::transport::{CallKind, Lane};
use crate::cluster::wire::{self, CopiesAnswer, CopiesQuestion};

/// How often a node looks which copies it has itself.
const ROUND: Duration = Duration::from_millis(250);
/// For how long a member may have nothing new to tell.
const WAIT: Duration = Duration::from_secs(10);
/// What an answer may take beyond that.
const SPARE: Duration = Duration::from_secs(2);
/// Between two questions to a member that always has news.
const PAUSE: Duration = Duration::from_millis(3);
/// Before a member that did not answer is asked again.
const RETRY: Duration = Duration::from_millis(100);

/// The shards that are looked for elsewhere.
type Wanted = Arc<[ShardId]>;

impl ClusterFeed {
    /// Follows the members that have copies, while this node lacks some, until it is dropped.
    pub async fn run(self) {
        let mut rounds = tokio::time::interval(ROUND);
        let wanted = watch::Sender::new(Wanted::default());
        let mut tasks = JoinSet::new();
        let mut followed: BTreeMap<NodeId, AbortHandle> = BTreeMap::new();
        let mut before: Vec<Copy> = Vec::new();
        loop {
            rounds.tick().await;
            let copies = self.look(&before);
            if copies != before {
                let lacks = (0..).zip(&copies).filter(|(_, copy)| **copy != Copy::Full);
                wanted.send_replace(lacks.map(|(shard, _)| shard).collect());
                before = copies;
            }
            let members: BTreeSet<NodeId> = if wanted.borrow().is_empty() {
                BTreeSet::new()
            } else {
                self.0.peers.peers().into_iter().collect()
            };
            followed.retain(|member, task| {
                let stays = members.contains(member);
                if !stays {
                    task.abort();
                    self.0.forget(*member);
                }
                stays
            });
            // A word may have come in while its task was being ended.
            for remote in &self.0.shards {
                let mut state = remote.state.lock();
                state
                    .heads
                    .retain(|member, _| followed.contains_key(member));
            }
            for member in members {
                followed.entry(member).or_insert_with(|| {
                    let inner = Arc::clone(&self.0);
                    tasks.spawn(inner.follow(member, wanted.subscribe()))
                });
            }
            while tasks.try_join_next().is_some() {}
        }
    }

    /// The copies of this node; readers of those that have come or gone look again.
    fn look(&self, before: &[Copy]) -> Vec<Copy> {
        let mut copies = Vec::with_capacity(self.0.shards.len());
        for (shard, remote) in (0..).zip(&self.0.shards) {
            let copy = self.0.copies.copy(shard);
            if before.get(copies.len()) != Some(&copy) {
                if copy == Copy::Full {
                    remote.state.lock().pages.clear();
                }
                remote.changed.send_replace(());
            }
            copies.push(copy);
        }
        copies
    }
}

impl Inner {
    /// Asks one member again and again.
    async fn follow(self: Arc<Self>, member: NodeId, mut wanted: watch::Receiver<Wanted>) {
        loop {
            let shards = Arc::clone(&wanted.borrow_and_update());
            let asked = self.ask_copies(member, &shards);
            let pause = tokio::select! {
                answer = asked => match answer {
                    Some(answer) => {
                        self.note(member, &shards, &answer);
                        PAUSE
                    }
                    None => {
                        self.forget(member);
                        RETRY
                    }
                },
                changed = wanted.changed() => match changed {
                    Ok(()) => continue,
                    Err(_) => return,
                },
            };
            tokio::time::sleep(pause).await;
        }
    }

    async fn ask_copies(&self, member: NodeId, shards: &[ShardId]) -> Option<CopiesAnswer> {
        if !self.can_be_asked(member) {
            return None;
        }
        let known = |shard: &ShardId| {
            let remote = self.remote(*shard)?;
            remote.state.lock().heads.get(&member).copied()
        };
        let question = CopiesQuestion {
            wanted: shards.iter().map(|s| (*s, known(s))).collect(),
            wait_ms: u32::try_from(WAIT.as_millis()).unwrap_or(u32::MAX),
        };
        let request = wire::housekeeping(&question).ok()?;
        let (lane, kind) = (Lane::Bulk, CallKind::Copies);
        let called = self.peers.call(member, lane, kind, request, WAIT + SPARE);
        let answer = called.await.ok()?;
        let answer = wire::read_housekeeping(&answer);
        answer
            .inspect_err(|error| tracing::warn!(member, %error, "does not say what copies it has"))
            .ok()
    }

    /// Goes by what a member says of the shards that it was asked for.
    fn note(&self, member: NodeId, shards: &[ShardId], answer: &CopiesAnswer) {
        let copies: BTreeMap<ShardId, u64> = answer.copies.iter().copied().collect();
        for shard in shards {
            let Some(remote) = self.remote(*shard) else {
                continue;
            };
            let head = copies.get(shard).copied();
            let mut state = remote.state.lock();
            let before = match head {
                Some(head) => {
                    state.known = state.known.max(head);
                    state.heads.insert(member, head)
                }
                None => state.heads.remove(&member),
            };
            drop(state);
            if before != head {
                remote.changed.send_replace(());
            }
        }
    }

    /// Believes nothing of a member any more.
    pub(super) fn forget(&self, member: NodeId) {
        for remote in &self.shards {
            if remote.state.lock().heads.remove(&member).is_some() {
                remote.changed.send_replace(());
            }
        }
    }
}

/// Answers another member: at once if the copies here are not as it knows them, else when they are.
pub(super) async fn tell_copies(inner: Arc<Inner>, question: CopiesQuestion) -> CopiesAnswer {
    let wait = Duration::from_millis(u64::from(question.wait_ms)).min(WAIT);
    let deadline = tokio::time::Instant::now() + wait;
    let known: Vec<(ShardId, u64)> = question
        .wanted
        .iter()
        .filter_map(|(shard, head)| Some((*shard, (*head)?)))
        .collect();
    loop {
        let kept = question.wanted.iter().map(|(shard, _)| *shard);
        let kept = kept.filter(|shard| inner.copies.copy(*shard).serves_others());
        let copies: Vec<(ShardId, u64)> = kept
            .map(|shard| (shard, inner.local.committed_position(shard)))
            .collect();
        let left = deadline.saturating_duration_since(tokio::time::Instant::now());
        if copies != known || left.is_zero() {
            return CopiesAnswer { copies };
        }
        let waits = copies
            .iter()
            .map(|(shard, head)| inner.local.wait_committed(*shard, *head));
        let waits: Vec<_> = waits.collect();
        let look = tokio::time::sleep(left.min(ROUND));
        if waits.is_empty() {
            look.await;
        } else {
            tokio::select! {
                _ = futures_util::future::select_all(waits) => {}
                () = look => {}
            }
        }
    }
}
