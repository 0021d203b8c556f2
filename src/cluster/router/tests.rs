//! The router of several nodes in one process, over a network that does what the test says.
//!
//! The nodes share one log, as the copies of a shard do; who leads is decided by the test.

use std::collections::VecDeque;
use std::sync::OnceLock;

use bytes::Bytes;
use parking_lot::Mutex;
use phalanx_actors::ports::{BoxFuture, Proposed};
use phalanx_actors::request::Precondition;

mod order;
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
        _timeout: Duration,
    ) -> BoxFuture<'_, Result<Bytes, CallError>> {
        self.calls.lock().push(to);
        let fate = self.fates.lock().pop_front().unwrap_or(Fate::Arrives);
        let lost = move || CallError::Unknown {
            to,
            reason: "lost".to_owned(),
        };
        Box::pin(async move {
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

#[tokio::test(start_paused = true)]
async fn every_node_gives_the_leaders_answer() {
    let cell = Cell::new().await;
    for node in 1..=3 {
        let reply = accepted(cell.send(node, support::add(1)).await);
        assert_eq!(reply.sequence_number, node);
        assert!(!reply.replayed);
    }
    assert_eq!(cell.total().await, 3);
    for node in 1..=3 {
        let router = cell.router(node);
        let page = router.history(&tally(), 1, 100, 1 << 20, WITHIN).await;
        assert_eq!(page.unwrap().events.len(), 3);
        let (view, by) = router
            .state_at(&tally(), At::Sequence(2), WITHIN)
            .await
            .unwrap();
        assert_eq!((view.unwrap().sequence_number, by), (2, 1));
        let none = router
            .state_at(&support::stream("none"), At::Sequence(1), WITHIN)
            .await;
        assert!(none.unwrap().0.is_none());
    }
    for world in &cell.worlds {
        assert_eq!(world.model.in_flight(), 0);
    }
}

#[tokio::test(start_paused = true)]
async fn a_lost_answer_is_asked_for_again_and_stored_once() {
    for key in [None, Some("k".to_owned())] {
        let cell = Cell::new().await;
        cell.expect(2, &[Fate::AnswerLost, Fate::Lost, Fate::AnswerLost]);
        let request = CommandRequest {
            idempotency_key: key,
            ..support::add(5)
        };
        let reply = accepted(cell.send(2, request).await);
        // The client has seen no reply before this one.
        assert_eq!((reply.sequence_number, reply.replayed), (1, false));
        assert_eq!(cell.total().await, 5);
    }
}

#[tokio::test(start_paused = true)]
async fn a_clients_own_retry_is_marked_at_every_node() {
    let cell = Cell::new().await;
    let request = support::with_key("k", support::add(5));
    assert!(!accepted(cell.send(3, request.clone()).await).replayed);
    for node in 1..=3 {
        let again = accepted(cell.send(node, request.clone()).await);
        assert_eq!((again.replayed, again.sequence_number), (true, 1));
    }
    let other = support::with_key("k", support::add(6));
    assert!(matches!(cell.send(2, other).await, Answer::KeyReused));
}

#[tokio::test(start_paused = true)]
async fn a_silent_leader_is_left_for_the_next_one() {
    let cell = Cell::new().await;
    cell.expect(2, &[Fate::Hangs]);
    let router = cell.router(2);
    let sent = tokio::spawn(async move {
        let request = support::add(7);
        router.command(&tally(), &request, WITHIN).await
    });
    support::eventually(|| cell.net(2).calls.lock().len() == 1).await;
    // An election alone is no reason to give the old leader up.
    cell.announce(None, 2);
    tokio::task::yield_now().await;
    assert!(!sent.is_finished());
    cell.elect(3, 2).await;
    let reply = accepted(sent.await.unwrap());
    assert_eq!((reply.sequence_number, reply.replayed), (1, false));
    assert_eq!(cell.total().await, 7);
    assert_eq!(cell.net(2).calls.lock()[..2], [1, 3]);
}

#[tokio::test(start_paused = true)]
async fn a_key_made_up_here_survives_the_leader_that_stored_it() {
    let cell = Cell::new().await;
    // Stored by the first leader, which never gets to answer.
    cell.expect(2, &[Fate::AnswerLost, Fate::Hangs]);
    let router = cell.router(2);
    let sent = tokio::spawn(async move {
        let request = support::add(7);
        router.command(&tally(), &request, WITHIN).await
    });
    support::eventually(|| cell.net(2).calls.lock().len() == 2).await;
    assert_eq!(cell.journal.last_position(), 1);
    cell.elect(3, 2).await;
    let reply = accepted(sent.await.unwrap());
    assert_eq!((reply.sequence_number, reply.replayed), (1, false));
    assert_eq!(cell.total().await, 7);
}

#[tokio::test(start_paused = true)]
async fn the_leaders_own_client_is_answered_by_the_next_leader() {
    let cell = Cell::new().await;
    let first = Cell::at(&cell.worlds, 1);
    first.replicator.hold();
    let router = cell.router(1);
    let sent = tokio::spawn(async move {
        let request = support::add(9);
        router.command(&tally(), &request, WITHIN).await
    });
    support::eventually(|| first.replicator.pending() == [1]).await;
    // The proposal reached the others before its leader was deposed.
    let batch = first.replicator.fail_next(Proposed::Unknown);
    cell.journal.commit(&batch.records);
    cell.elect(2, 2).await;
    let reply = accepted(sent.await.unwrap());
    assert_eq!((reply.sequence_number, reply.replayed), (1, false));
    assert_eq!(cell.total().await, 9);
}

#[tokio::test(start_paused = true)]
async fn a_node_that_cannot_reach_the_leader_goes_through_another_one() {
    let cell = Cell::new().await;
    cell.net(2).cut.lock().push(1);
    assert_eq!(
        accepted(cell.send(2, support::add(4)).await).sequence_number,
        1
    );
    assert_eq!(*cell.net(2).calls.lock(), [3]);
    assert_eq!(*cell.net(3).calls.lock(), [1]);
    assert_eq!(cell.total().await, 4);
    // Whoever hands on cannot reach the leader either: it says so and does not ask further.
    cell.net(3).cut.lock().push(1);
    cell.expect(3, &[Fate::Stays, Fate::Stays]);
    let heading = Heading {
        stream: tally(),
        term: 1,
        hops: 0,
        time_left: WITHIN,
    };
    let question = wire::question(&heading, Question::Read).unwrap();
    let before = cell.net(3).calls.lock().len();
    let answer = cell.router(3).receive(2, question).await.unwrap();
    let (_, said) = wire::read_said(&tally(), &answer).unwrap();
    assert!(matches!(said, Said::NotHere { .. }));
    assert_eq!(cell.net(3).calls.lock().len(), before);
}

#[tokio::test(start_paused = true)]
async fn old_news_of_the_leader_are_corrected_by_the_answer() {
    let cell = Cell::new().await;
    Cell::at(&cell.worlds, 1).step_down().await;
    Cell::at(&cell.worlds, 3).lead(2).await;
    let new = Known {
        term: 2,
        leader: Some(3),
    };
    cell.boards[0].report(0, new);
    cell.boards[2].report(0, new);
    // Node 2 has not heard of the election.
    let reply = accepted(cell.send(2, support::add(1)).await);
    assert_eq!(reply.sequence_number, 1);
    assert_eq!(*cell.net(2).calls.lock(), [1, 3]);
    assert_eq!(cell.boards[1].known(0), new);
}

#[tokio::test(start_paused = true)]
async fn without_a_leader_a_request_waits_and_is_then_told_so() {
    let cell = Cell::leaderless().await;
    let started = Instant::now();
    let told = failure(cell.send(2, support::add(1)).await);
    assert_eq!(told.kind, FailureKind::NoLeader);
    assert!(told.retry_after.is_some());
    assert!((LIMITS.leader_wait..WITHIN).contains(&started.elapsed()));
    // One that comes in time is used at once.
    let router = cell.router(2);
    let request = support::add(1);
    let sent = tokio::spawn(async move { router.command(&tally(), &request, WITHIN).await });
    tokio::task::yield_now().await;
    cell.elect(1, 1).await;
    assert_eq!(accepted(sent.await.unwrap()).sequence_number, 1);
}

#[tokio::test(start_paused = true)]
async fn a_node_without_a_majority_does_not_keep_its_clients_waiting() {
    let cell = Cell::new().await;
    cell.net(2).cut.lock().extend([1, 3]);
    let started = Instant::now();
    let (told, _) = cell.router(2).read(&tally(), WITHIN).await;
    assert_eq!(failure(told).kind, FailureKind::NoLeader);
    let told = failure(cell.send(2, support::add(1)).await);
    assert_eq!(told.kind, FailureKind::NoLeader);
    assert!(started.elapsed() < LIMITS.leader_wait);
    // Nor does a leader that no majority answers.
    cell.boards[0].set_cut_off(0, true);
    let told = failure(cell.send(1, support::add(1)).await);
    assert_eq!(told.kind, FailureKind::NoLeader);
    assert_eq!(cell.journal.last_position(), 0);
    cell.boards[0].set_cut_off(0, false);
    assert_eq!(
        accepted(cell.send(1, support::add(1)).await).sequence_number,
        1
    );
}

#[tokio::test(start_paused = true)]
async fn what_may_be_stored_is_never_called_not_applied() {
    let cell = Cell::new().await;
    cell.expect(2, &[Fate::AnswerLost]);
    cell.net(2).fates.lock().extend([Fate::Lost; 200]);
    let router = cell.router(2);
    let request = support::add(1);
    let within = Duration::from_millis(400);
    let told = failure(router.command(&tally(), &request, within).await);
    assert_eq!(told.kind, FailureKind::OutcomeUnknown);
    assert_eq!(cell.journal.last_position(), 1);
    // A read or a dry run stores nothing, so their outcome is never in doubt.
    cell.net(2).fates.lock().extend([Fate::Lost; 200]);
    let (told, _) = router.read(&tally(), within).await;
    assert_eq!(failure(told).kind, FailureKind::NoLeader);
    cell.net(2).fates.lock().extend([Fate::Lost; 200]);
    let dry = support::dry_run(support::add(1));
    let told = failure(router.command(&tally(), &dry, within).await);
    assert_eq!(told.kind, FailureKind::NoLeader);
}

#[tokio::test(start_paused = true)]
async fn refusals_of_the_domain_and_of_the_leader_are_passed_on() {
    let cell = Cell::new().await;
    let refused = cell.send(2, support::take(1)).await;
    assert!(matches!(refused, Answer::Rejected { .. }), "{refused:?}");
    cell.expect(3, &[Fate::Lost]);
    let refused = cell.send(3, support::take(1)).await;
    assert!(matches!(refused, Answer::Rejected { .. }), "{refused:?}");
    let request = CommandRequest {
        precondition: Precondition::Exists,
        ..support::add(1)
    };
    let refused = cell.send(3, request).await;
    assert!(matches!(refused, Answer::SequenceMismatch { .. }));
    // No room on the way to a connected leader is overload, and is told at once.
    cell.expect(3, &[Fate::Stays]);
    let told = failure(cell.send(3, support::add(1)).await);
    assert_eq!(told.kind, FailureKind::Overloaded);
    let malformed = support::command("Add", "[]");
    let told = failure(cell.send(3, malformed).await);
    assert_eq!(told.kind, FailureKind::MalformedBody);
    assert!(told.pointer.is_some());
}

#[tokio::test(start_paused = true)]
async fn a_leader_that_comes_upon_damage_is_left_for_the_next_one() {
    for node in 1..=2 {
        let cell = Cell::new().await;
        accepted(cell.send(1, support::add(1)).await);
        cell.journal.damage();
        let sent = |id: &str| {
            let (router, stream) = (cell.router(node), support::stream(id));
            tokio::spawn(async move { router.command(&stream, &support::add(1), WITHIN).await })
        };
        let asked = |id: &str| {
            let (router, stream) = (cell.router(node), support::stream(id));
            tokio::spawn(async move { router.read(&stream, WITHIN).await.0 })
        };
        let (command, read) = (sent("t-2"), asked("t-2"));
        support::settle().await;
        assert!(!command.is_finished() && !read.is_finished());
        cell.elect(3, 2).await;
        cell.journal.mend();
        assert_eq!(accepted(command.await.unwrap()).sequence_number, 1);
        assert!(!matches!(read.await.unwrap(), Answer::Failed(_)));
        // Nobody leads in its place: that is said in time, and nothing is in doubt.
        cell.journal.damage();
        let (command, read) = (sent("t-3"), asked("t-3"));
        support::settle().await;
        Cell::at(&cell.worlds, 3).shard.refuse("damaged".to_owned());
        cell.announce(None, 3);
        for told in [command.await.unwrap(), read.await.unwrap()] {
            let told = failure(told);
            assert!(
                matches!(told.kind, FailureKind::NotReady | FailureKind::NoLeader),
                "{told}"
            );
            assert!(told.retry_after.is_some());
        }
        assert_eq!(cell.journal.last_position(), 2);
    }
}

#[tokio::test(start_paused = true)]
async fn a_long_history_comes_in_pages() {
    let cell = Cell::new().await;
    let many = support::command("AddMany", r#"{"amount":1,"times":20000}"#);
    accepted(cell.send(1, many).await);
    let router = cell.router(2);
    let page = router.history(&tally(), 1, 15_000, 1 << 30, WITHIN).await;
    let HistoryPage {
        events,
        next_sequence,
    } = page.unwrap();
    assert_eq!(next_sequence, Some(15_001));
    assert_eq!(events.len(), 15_000);
    assert!(
        (1..)
            .zip(&events)
            .all(|(n, event)| event.sequence_number == n)
    );
    assert!(cell.net(2).calls.lock().len() > 1);
    // Enough bytes end a page before there are enough events.
    let page = router
        .history(&tally(), 1, 15_000, 1, WITHIN)
        .await
        .unwrap();
    assert!((1..15_000).contains(&page.events.len()));
    let last = page.events.last().unwrap().sequence_number;
    assert_eq!(page.next_sequence, Some(last + 1));
}

#[tokio::test(start_paused = true)]
async fn a_node_that_shuts_down_takes_nothing_for_others() {
    let cell = Cell::new().await;
    Cell::at(&cell.worlds, 2).model.stop_admitting();
    let told = failure(cell.send(2, support::add(1)).await);
    assert_eq!(told.kind, FailureKind::ShuttingDown);
    // Its peers look for another leader instead.
    let cell = Cell::new().await;
    Cell::at(&cell.worlds, 1).model.stop_admitting();
    let router = cell.router(2);
    let request = support::add(1);
    let sent = tokio::spawn(async move { router.command(&tally(), &request, WITHIN).await });
    support::eventually(|| !cell.net(2).calls.lock().is_empty()).await;
    cell.elect(3, 2).await;
    assert_eq!(accepted(sent.await.unwrap()).sequence_number, 1);
}

#[tokio::test(start_paused = true)]
async fn a_node_that_ends_waits_for_nobody() {
    let cell = Cell::new().await;
    cell.expect(2, &[Fate::Hangs, Fate::Hangs, Fate::Hangs]);
    let (router, request) = (cell.router(2), support::add(1));
    let (asked, stream) = (router.clone(), tally());
    let sent = tokio::spawn(async move { asked.command(&stream, &request, WITHIN).await });
    let (asked, stream) = (router.clone(), tally());
    let read = tokio::spawn(async move { asked.read(&stream, WITHIN).await.0 });
    support::eventually(|| cell.net(2).calls.lock().len() == 2).await;
    let began = Instant::now();
    router.end();
    // It may have arrived.
    assert_eq!(
        failure(sent.await.unwrap()).kind,
        FailureKind::OutcomeUnknown
    );
    assert_eq!(failure(read.await.unwrap()).kind, FailureKind::ShuttingDown);
    // Nothing is begun any more.
    let refused = failure(cell.send(2, support::add(1)).await);
    assert_eq!(refused.kind, FailureKind::ShuttingDown);
    assert_eq!(cell.net(2).calls.lock().len(), 2);
    assert!(began.elapsed() < WITHIN);
    // What had begun here is not known to have come to nothing.
    let cell = Cell::new().await;
    let world = Cell::at(&cell.worlds, 1);
    world.replicator.hold();
    let (asked, request) = (cell.router(1), support::add(1));
    let sent = tokio::spawn(async move { asked.command(&tally(), &request, WITHIN).await });
    support::eventually(|| !world.replicator.pending().is_empty()).await;
    cell.router(1).end();
    world.step_down().await;
    assert_eq!(
        failure(sent.await.unwrap()).kind,
        FailureKind::OutcomeUnknown
    );
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_is_too_long_to_travel_goes_without_its_data() {
    let cell = Cell::new().await;
    let many = |times| CommandRequest {
        representation: true,
        ..support::command("AddMany", &format!(r#"{{"amount":1,"times":{times}}}"#))
    };
    let short = accepted(cell.send(2, many(10)).await);
    assert!(short.events.iter().all(|event| event.data.is_some()));
    // About 20 bytes an event with its data, half of that without.
    let long = accepted(cell.send(2, many(120_000)).await);
    assert_eq!(long.events.len(), 120_000);
    assert!(long.events.iter().all(|event| event.data.is_none()));
    let here = accepted(cell.send(1, many(120_000)).await);
    assert!(here.events.iter().all(|event| event.data.is_some()));
}
