//! Three groups of one shard, each with a transport and a simulated disk of its own.

mod late;

use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::Mutex;
use phalanx_actors::names::StreamName;
use phalanx_actors::ports::{Proposed, SystemClock};
use phalanx_actors::record::{Draft, Record, RecordHead};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

use super::*;
use crate::cluster::leaders::Leaders;
use crate::cluster::roster::{Contact, Contacts};
use crate::cluster::status::{LogEnd, Reshaped};
use crate::cluster::tls::Security;
use crate::cluster::transport::{
    CallKind, Service, Services, Transport, TransportIdentity, TransportOptions,
};
use crate::journal::{Identity, JournalOptions, LogPayload, MemoryDisk, Storage};
use crate::replication::heartbeat;
use crate::replication::service::RaftCalls;

const SHARD: ShardId = 0;
const LONG: Duration = Duration::from_secs(20);
/// Where a log ends whose leader knows everything.
const NEWEST: LogEnd = LogEnd {
    term: u64::MAX,
    index: u64::MAX,
};

#[derive(Debug)]
struct Nobody;

impl Service for Nobody {
    fn handle(
        &self,
        _from: NodeId,
        _kind: CallKind,
        _request: Bytes,
    ) -> BoxFuture<'static, Result<Bytes, String>> {
        Box::pin(std::future::ready(Err("nobody is here".to_owned())))
    }
}

struct Member {
    group: Arc<Group>,
    journal: Journal,
    transport: Transport,
    tasks: Vec<JoinHandle<()>>,
    _dir: tempfile::TempDir,
}

impl Member {
    /// Ends it as a crash would, as far as the others can see.
    async fn end(&mut self) {
        for task in self.tasks.drain(..) {
            task.abort();
        }
        for peer in self.transport.peers() {
            self.transport.remove_peer(peer);
        }
        self.group.shutdown().await;
    }

    /// The term in which it leads and may serve: an entry of that term is applied.
    fn term_led(&self) -> Option<u64> {
        let metrics = self.group.raft.metrics();
        let now = metrics.borrow_watched();
        let applied = now.last_applied.map(|id| **id.committed_leader_id());
        let serves = now.state == ServerState::Leader && applied == Some(now.current_term);
        serves.then_some(now.current_term)
    }

    fn log_end(&self) -> LogEnd {
        let metrics = self.group.raft.metrics();
        let now = metrics.borrow_watched();
        LogEnd {
            term: now.current_term,
            index: now.last_log_index.unwrap(),
        }
    }
}

fn contacts(me: NodeId, addresses: &BTreeMap<NodeId, String>) -> Contacts {
    let others = addresses.iter().filter(|(id, _)| **id != me);
    let contact = |(id, address): (&NodeId, &String)| {
        let contact = Contact {
            address: address.clone(),
            incarnation: None,
        };
        (*id, contact)
    };
    Contacts {
        peers: others.map(contact).collect(),
        ..Contacts::default()
    }
}

async fn member(id: NodeId, listener: TcpListener, addresses: BTreeMap<NodeId, String>) -> Member {
    let dir = tempfile::tempdir().unwrap();
    let identity = Identity {
        cluster_name: "test".to_owned(),
        node_id: id,
        shards: 1,
    };
    let options = JournalOptions {
        reserve_free_bytes: 0,
        ..JournalOptions::new(dir.path().to_owned(), identity)
    };
    let storage = Storage::Memory(MemoryDisk::default());
    let journal = Journal::open(&options, storage, Arc::new(SystemClock::default())).unwrap();
    let who = TransportIdentity {
        node: id,
        cluster: "test".to_owned(),
        shards: 1,
        incarnation: journal.incarnation(),
        process: rand::random_range(1..=u64::MAX),
        data_dir: dir.path().to_owned(),
        contacts: contacts(id, &addresses),
        security: Security::Plaintext,
    };
    let transport = Transport::start(
        who,
        TransportOptions {
            connect_timeout: Duration::from_millis(500),
            reconnect_max: Duration::from_millis(50),
            keepalive_interval: Duration::from_millis(500),
            keepalive_timeout: Duration::from_millis(1500),
            calls_in_flight: 256,
            max_message_bytes: 8 << 20,
        },
    )
    .unwrap();
    let options = GroupOptions {
        node_id: id,
        voters: addresses.into_keys().collect(),
        preferred: 1,
        cluster_name: "test".to_owned(),
        election_timeout_min_ms: 200,
        election_timeout_max_ms: 300,
        read_policy: ReadPolicy::LeaseRead,
        bootstrap: true,
    };
    let group = Group::start(SHARD, journal.clone(), Arc::new(transport.clone()), options)
        .await
        .unwrap();
    let raft = Arc::<RaftCalls>::default();
    raft.add(Arc::clone(&group));
    let beat = heartbeat::beat(Arc::clone(&raft), Duration::from_millis(50));
    let services = Services {
        raft,
        command: Arc::new(Nobody),
    };
    let tasks = vec![
        tokio::spawn(transport.clone().serve(listener, services)),
        tokio::spawn(beat),
    ];
    Member {
        group,
        journal,
        transport,
        tasks,
        _dir: dir,
    }
}

async fn three() -> Vec<Member> {
    let mut listeners = Vec::new();
    let mut addresses = BTreeMap::new();
    for id in 1..=3 {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        addresses.insert(id, listener.local_addr().unwrap().to_string());
        listeners.push((id, listener));
    }
    let mut members = Vec::new();
    for (id, listener) in listeners {
        members.push(member(id, listener, addresses.clone()).await);
    }
    members
}

async fn eventually<T>(what: &str, mut check: impl FnMut() -> Option<T>) -> T {
    let waited = tokio::time::timeout(LONG, async {
        loop {
            if let Some(value) = check() {
                return value;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    });
    waited
        .await
        .unwrap_or_else(|_| panic!("waited in vain for: {what}"))
}

/// Three of which the preferred leader had the first move; on a busy machine it may come too late.
async fn three_led_by_the_first() -> (Vec<Member>, usize, u64) {
    for _ in 0..5 {
        let members = three().await;
        let (at, term) = leader(&members).await;
        if at == 0 {
            return (members, at, term);
        }
        for mut member in members {
            member.end().await;
        }
    }
    panic!("the preferred leader has the first move");
}

/// Which of them leads, and in which term.
async fn leader(members: &[Member]) -> (usize, u64) {
    eventually("a leader", || {
        let led = members.iter().map(Member::term_led);
        (0..).zip(led).find_map(|(at, term)| Some((at, term?)))
    })
    .await
}

fn record(position: u64) -> Record {
    let stream = StreamName::new("account", "a-1").unwrap();
    let head = RecordHead {
        stream: stream.as_str(),
        first_sequence: position,
        event_count: 1,
        time_us: 5,
        command: "Deposit",
        key: "k",
        fingerprint: [7; 16],
        flags: 0,
        traceparent: "",
    };
    let bytes = Draft::new(&head, 1, &["event"]).unwrap().finish(position);
    Record::from_stored(bytes).unwrap()
}

/// Proposes one record. Gives what was known when the proposal returned, and what came of it.
async fn propose(member: &Member, term: u64, position: u64) -> (Option<Proposed>, Proposed) {
    let outcome = Arc::<Mutex<Option<Proposed>>>::default();
    let told = Arc::clone(&outcome);
    let batch = Batch {
        records: vec![record(position)].into(),
    };
    let done = Box::new(move |proposed| *told.lock() = Some(proposed));
    member.group.propose(term, batch, done).await;
    let at_once = *outcome.lock();
    let at_last = eventually("an outcome", || *outcome.lock()).await;
    (at_once, at_last)
}

fn log_of(member: &Member) -> Vec<(u64, LogPayload)> {
    let entries = member.journal.read_log(SHARD, 0..1000, usize::MAX).unwrap();
    let entry = |entry: crate::journal::LogEntry| (entry.index, entry.payload);
    entries.into_iter().map(entry).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_proposal_returns_with_its_batch_in_the_log_and_every_replica_gets_the_same() {
    let (members, at, term) = three_led_by_the_first().await;
    for position in 1..=20 {
        let batch = Batch {
            records: vec![record(position)].into(),
        };
        let committed = Arc::<AtomicBool>::default();
        let told = Arc::clone(&committed);
        let done = Box::new(move |p| told.store(p == Proposed::Committed, Ordering::SeqCst));
        members[at].group.propose(term, batch, done).await;
        assert_eq!(members[at].journal.last_position(SHARD).unwrap(), position);
        eventually("the commit", || {
            committed.load(Ordering::SeqCst).then_some(())
        })
        .await;
    }
    for member in &members {
        eventually("the log on every replica", || {
            (log_of(member) == log_of(&members[at])).then_some(())
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refusal_is_known_before_anything_else_can_be_proposed() {
    let members = three().await;
    let (at, term) = leader(&members).await;
    assert_eq!(propose(&members[at], term, 1).await.1, Proposed::Committed);
    // A leader that hands over refuses writes, in its own term and for a while only.
    members[at].group.hand_over(2).await.unwrap();
    let (at_once, at_last) = propose(&members[at], term, 2).await;
    assert_eq!(
        (at_once, at_last),
        (Some(Proposed::NotProposed), Proposed::NotProposed)
    );
    let (at, term) = eventually("the other leads", || {
        members[1].term_led().map(|term| (1, term))
    })
    .await;
    assert_eq!(propose(&members[at], term, 2).await.1, Proposed::Committed);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_transfer_to_a_dead_node_leaves_the_shard_writable() {
    let mut members = three().await;
    let (at, term) = leader(&members).await;
    assert_eq!(propose(&members[at], term, 1).await.1, Proposed::Committed);
    let mut dead = members.remove(2);
    dead.end().await;
    members[at].group.hand_over(3).await.unwrap();
    let began = Instant::now();
    let (at, term) = eventually("another term", || {
        let led = members.iter().map(Member::term_led);
        let found = (0..).zip(led).find_map(|(at, term)| Some((at, term?)));
        found.filter(|(_, led)| *led > term)
    })
    .await;
    assert!(
        began.elapsed() < Duration::from_secs(15),
        "{:?}",
        began.elapsed()
    );
    assert_eq!(propose(&members[at], term, 2).await.1, Proposed::Committed);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_just_started_keeps_the_promises_of_the_one_before() {
    let members = three().await;
    let (at, _) = leader(&members).await;
    let follower = &members[(at + 1) % 3];
    eventually("the log", || (log_of(follower).len() > 1).then_some(())).await;
    let again = Group::start(
        SHARD,
        follower.journal.clone(),
        Arc::new(follower.transport.clone()),
        follower.group.options.clone(),
    )
    .await
    .unwrap();
    let vote = openraft::raft::VoteRequest::new(super::super::types::RaftVote::new(99, 1), None);
    let ask = wire::vote_ask_to_bytes(SHARD, &vote).unwrap().slice(4..);
    let refused = again.vote(&ask).await.unwrap_err();
    assert!(refused.contains("promised"), "{refused}");
    assert!(again.pre_vote(&ask).await.is_err());
    let kept = tokio::time::timeout(LONG, async {
        while again.vote(&ask).await.is_err() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    });
    kept.await.unwrap();
    again.shutdown().await;
}

async fn reshaped(leader: &Member, voters: &BTreeSet<NodeId>) {
    let all = BTreeSet::from([1, 2, 3]);
    let done = tokio::time::timeout(LONG, async {
        while leader.group.reshape(voters, &all).await != Ok(Reshaped::Done) {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    });
    done.await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_whose_copy_is_back_leads_and_says_so_though_nobody_told_it() {
    let members = three().await;
    assert_eq!(leader(&members).await.0, 0);
    let back = &members[2].group;
    let board = Arc::new(Leaders::new(vec![Vec::new()]));
    let report = tokio::spawn(Arc::clone(back).report(Arc::clone(&board)));
    reshaped(&members[0], &BTreeSet::from([1, 2])).await;
    back.retire(Some(members[0].log_end()));
    assert!(!back.has_copy());
    reshaped(&members[0], &BTreeSet::from([1, 2, 3])).await;
    eventually("its copy", || back.has_copy().then_some(())).await;
    members[0].group.hand_over(3).await.unwrap();
    eventually("it says that it leads", || {
        board.is_leader(SHARD, 3).then_some(())
    })
    .await;
    report.abort();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn news_from_before_its_copy_came_back_do_not_take_it_away() {
    let members = three().await;
    assert_eq!(leader(&members).await.0, 0);
    let back = &members[2].group;
    reshaped(&members[0], &BTreeSet::from([1, 2])).await;
    let late = members[0].log_end();
    reshaped(&members[0], &BTreeSet::from([1, 2, 3])).await;
    eventually("its copy", || back.has_copy().then_some(())).await;
    back.retire(Some(late));
    assert!(back.has_copy());
    back.retire(Some(members[0].log_end()));
    assert!(!back.has_copy());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_leads_says_so_though_it_was_told_that_it_does_not_count() {
    let (members, ..) = three_led_by_the_first().await;
    let told = &members[2].group;
    told.retire(Some(NEWEST));
    let board = Arc::new(Leaders::new(vec![Vec::new()]));
    let report = tokio::spawn(Arc::clone(told).report(Arc::clone(&board)));
    members[0].group.hand_over(3).await.unwrap();
    eventually("it says that it leads", || {
        board.is_leader(SHARD, 3).then_some(())
    })
    .await;
    assert!(told.has_copy());
    report.abort();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_has_two_reasons_not_to_stand_for_election_needs_to_lose_both() {
    let (mut members, _, term) = three_led_by_the_first().await;
    let mut dead = members.remove(0);
    for member in &members {
        member.group.stand_aside(true);
        member.group.retire(Some(NEWEST));
    }
    dead.end().await;
    for member in &members {
        member.group.retire(None);
    }
    // Four times what an election takes.
    let until = Instant::now() + Duration::from_millis(2_400);
    while Instant::now() < until {
        assert!(members.iter().all(|member| member.term_led().is_none()));
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    members[1].group.stand_aside(false);
    let (at, led) = leader(&members).await;
    assert!(at == 1 && led > term);
}
