//! The router of several nodes in one process, over a network that does what the test says.
//!
//! The nodes share one log, as the copies of a shard do; who leads is decided by the test.

use std::collections::VecDeque;
use std::sync::OnceLock;

use bytes::Bytes;
use parking_lot::Mutex;
use phalanx_actors::ports::{BoxFuture, Proposed};
use phalanx_actors::request::Precondition;

mod answers;
mod ends;
mod leaders;
mod order;
mod outcomes;
mod readiness;

use self::support::{MemoryJournal, Options, World};
use super::*;
use crate::cluster::leaders::Known;
use crate::cluster::peers::answering::Answering;
use crate::cluster::transport::{CallError, CallKind, Lane};
use crate::cluster::wire::{self, Heading};

#[path = "../../../actors/tests/support/mod.rs"]
pub(crate) mod support;

/// What happens to a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    /// It arrives, and so does its answer.
    Arrives,
    /// It never leaves.
    Stays,
    /// It is lost on the way.
    Lost,
    /// It is carried out, and the answer is lost.
    AnswerLost,
    /// Nothing is heard of it.
    Hangs,
}

/// The network as one node sees it.
#[derive(Debug)]
struct Net {
    me: NodeId,
    routers: Arc<OnceLock<Vec<Router>>>,
    /// Nodes that this one cannot reach.
    cut: Mutex<Vec<NodeId>>,
    fates: Mutex<VecDeque<Fate>>,
    /// Whom it has called.
    calls: Mutex<Vec<NodeId>>,
}

impl Answering for Net {
    fn members(&self) -> Vec<NodeId> {
        (1..=3).filter(|node| *node != self.me).collect()
    }

    fn is_away(&self, peer: NodeId) -> bool {
        self.cut.lock().contains(&peer)
    }

    fn answer(
        &self,
        to: NodeId,
        _lane: Lane,
        _kind: CallKind,
        request: Bytes,
        timeout: Duration,
    ) -> BoxFuture<'_, Result<Bytes, CallError>> {
        self.calls.lock().push(to);
        let fate = self.fates.lock().pop_front().unwrap_or(Fate::Arrives);
        let lost = move || CallError::Unknown {
            to,
            reason: "lost".to_owned(),
        };
        let answered = async move {
            let at = usize::try_from(to - 1).unwrap();
            let there = self.routers.get().unwrap()[at].clone();
            match fate {
                Fate::Arrives => {
                    let answer = there.receive(self.me, request).await;
                    answer.map_err(CallError::Refused)
                }
                Fate::Stays => Err(CallError::NotSent {
                    to,
                    reason: "no room".to_owned(),
                }),
                Fate::Lost => Err(lost()),
                Fate::AnswerLost => {
                    drop(there.receive(self.me, request).await);
                    Err(lost())
                }
                Fate::Hangs => std::future::pending().await,
            }
        };
        Box::pin(async move {
            let answered = tokio::time::timeout(timeout, answered).await;
            answered.unwrap_or_else(|_| Err(lost()))
        })
    }
}

struct Cell {
    journal: Arc<MemoryJournal>,
    worlds: Vec<World>,
    nets: Vec<Arc<Net>>,
    boards: Vec<Arc<Leaders>>,
    routers: Vec<Router>,
}

const LIMITS: RouterLimits = RouterLimits {
    leader_wait: Duration::from_millis(200),
    isolated_wait: Duration::from_millis(40),
    answer_bytes: 2 * 1024 * 1024,
    lapse: Duration::from_millis(1_200),
};
const WITHIN: Duration = Duration::from_secs(5);

impl Cell {
    /// Three nodes, the first of which leads in term 1.
    async fn new() -> Self {
        let cell = Self::leaderless().await;
        cell.elect(1, 1).await;
        cell
    }

    async fn leaderless() -> Self {
        let journal: Arc<MemoryJournal> = Arc::default();
        let all = Arc::new(OnceLock::new());
        let (mut worlds, mut nets, mut boards, mut routers) = (vec![], vec![], vec![], vec![]);
        for node in 1..=3 {
            let world = World::as_node(node, Arc::clone(&journal), Options::default()).await;
            let net = Arc::new(Net {
                me: node,
                routers: Arc::clone(&all),
                cut: Mutex::default(),
                fates: Mutex::default(),
                calls: Mutex::default(),
            });
            let board = Arc::new(Leaders::new(vec![vec![1, 2, 3]]));
            let peers: Arc<dyn Peers> = Arc::clone(&net) as _;
            let model = world.model.clone();
            routers.push(Router::new(model, peers, Arc::clone(&board), LIMITS));
            worlds.push(world);
            nets.push(net);
            boards.push(board);
        }
        all.set(routers.clone()).unwrap();
        Self {
            journal,
            worlds,
            nets,
            boards,
            routers,
        }
    }

    fn at<T>(parts: &[T], node: NodeId) -> &T {
        &parts[usize::try_from(node - 1).unwrap()]
    }

    /// Lets a node lead, and everybody know.
    async fn elect(&self, node: NodeId, term: u64) {
        for world in &self.worlds {
            world.step_down().await;
        }
        Self::at(&self.worlds, node).lead(term).await;
        self.announce(Some(node), term);
    }

    fn announce(&self, leader: Option<NodeId>, term: u64) {
        for board in &self.boards {
            board.report(0, Known { term, leader });
        }
    }

    fn router(&self, node: NodeId) -> Router {
        Self::at(&self.routers, node).clone()
    }

    fn net(&self, node: NodeId) -> &Arc<Net> {
        Self::at(&self.nets, node)
    }

    fn expect(&self, node: NodeId, fates: &[Fate]) {
        self.net(node).fates.lock().extend(fates);
    }

    async fn send(&self, node: NodeId, request: CommandRequest) -> Answer {
        self.router(node).command(&tally(), &request, WITHIN).await
    }

    /// The sum of all stored events.
    async fn total(&self) -> i64 {
        let leader = self.boards[0].known(0).leader.unwrap();
        let (answer, by) = self.router(2).read(&tally(), WITHIN).await;
        assert_eq!(by, leader);
        match answer {
            Answer::State(view) => {
                let state: serde_json::Value = serde_json::from_str(view.state.get()).unwrap();
                state["total"].as_i64().unwrap()
            }
            other => panic!("{other:?}"),
        }
    }
}

fn tally() -> StreamName {
    support::stream("t-1")
}

fn accepted(answer: Answer) -> phalanx_actors::request::Accepted {
    match answer {
        Answer::Accepted(accepted) => accepted,
        other => panic!("{other:?}"),
    }
}

fn failure(answer: Answer) -> Failure {
    match answer {
        Answer::Failed(failure) => failure,
        other => panic!("{other:?}"),
    }
}
