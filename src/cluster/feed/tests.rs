//! Readers of a feed while members die, lose their copies, fall behind, and tell nonsense.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use phalanx_actors::record::{Draft, RecordHead};
use proptest::prelude::*;

use super::pages::{Pages, fit};
use super::*;
use crate::cluster::peers::answering::Answering;
use crate::cluster::transport::{CallError, Lane};

const READER: NodeId = 9;
const MEMBERS: [NodeId; 3] = [1, 2, 3];

/// The committed history of one shard, with one to three events in each record.
fn history(records: usize) -> Arc<[Record]> {
    let mut position = 1;
    let record = |at| {
        let count = u32::try_from(at % 3 + 1).unwrap();
        let head = RecordHead {
            stream: "account\0a-1",
            first_sequence: position,
            event_count: count,
            time_us: 1,
            command: "Deposit",
            key: "k",
            fingerprint: [0; 16],
            flags: 0,
            traceparent: "",
        };
        let events: Vec<u32> = (0..count).collect();
        let draft = Draft::new(&head, 1, &events).unwrap();
        let record = Record::from_stored(draft.finish(position)).unwrap();
        position += u64::from(count);
        record
    };
    (0..records).map(record).collect()
}

/// A copy: some of the history is committed there.
#[derive(Debug)]
struct Log {
    history: Arc<[Record]>,
    committed: watch::Sender<usize>,
}

impl Log {
    fn new(history: &Arc<[Record]>, committed: usize) -> Self {
        Self {
            history: Arc::clone(history),
            committed: watch::Sender::new(committed),
        }
    }

    fn end(&self, committed: usize) -> u64 {
        let last = committed.checked_sub(1).and_then(|at| self.history.get(at));
        last.map_or(0, Record::last_position)
    }
}

impl Feed for Log {
    fn committed_position(&self, _shard: ShardId) -> u64 {
        self.end(*self.committed.borrow())
    }

    fn read_committed(
        &self,
        cursor: &mut FeedCursor,
        max_bytes: usize,
    ) -> Result<Vec<Record>, JournalError> {
        let committed = *self.committed.borrow();
        let after = cursor.position();
        let beyond = self.history[..committed].iter();
        let mut bytes = 0;
        let mut records = Vec::new();
        for record in beyond.filter(|record| record.last_position() > after) {
            if bytes >= max_bytes {
                break;
            }
            bytes += record.bytes.len();
            records.push(record.clone());
        }
        if let Some(last) = records.last() {
            cursor.advance(last.last_position(), 77);
        }
        Ok(records)
    }

    fn wait_committed(&self, _shard: ShardId, beyond: u64) -> BoxFuture<'_, ()> {
        Box::pin(async move {
            let mut committed = self.committed.subscribe();
            let _grown = committed.wait_for(|at| self.end(*at) > beyond).await;
        })
    }
}

/// What a node has of the shard.
#[derive(Debug)]
struct Kept(Mutex<Copy>);

impl Copies for Kept {
    fn copy(&self, _shard: ShardId) -> Copy {
        *self.0.lock()
    }
}

/// A node with a copy, and how it behaves.
#[derive(Debug)]
struct Member {
    log: Arc<Log>,
    kept: Arc<Kept>,
    alive: watch::Sender<bool>,
    /// It leaves a record out of what it tells.
    lies: AtomicBool,
    asked: AtomicUsize,
    feed: ClusterFeed,
}

impl Member {
    fn new(history: &Arc<[Record]>, committed: usize, copy: Copy) -> Arc<Self> {
        let log = Arc::new(Log::new(history, committed));
        let kept = Arc::new(Kept(Mutex::new(copy)));
        let nobody = Arc::new(crate::cluster::peers::NoPeers);
        let (local, copies) = (Arc::clone(&log), Arc::clone(&kept));
        Arc::new(Self {
            log,
            kept,
            alive: watch::Sender::new(true),
            lies: AtomicBool::new(false),
            asked: AtomicUsize::new(0),
            feed: ClusterFeed::new(1, local, copies, nobody),
        })
    }
}

#[derive(Debug, Clone)]
struct Net(BTreeMap<NodeId, Arc<Member>>);

impl Answering for Net {
    fn members(&self) -> Vec<NodeId> {
        self.0.keys().copied().collect()
    }

    fn is_away(&self, peer: NodeId) -> bool {
        !*self.0[&peer].alive.borrow()
    }

    fn answer(
        &self,
        to: NodeId,
        lane: Lane,
        kind: CallKind,
        request: Bytes,
        timeout: Duration,
    ) -> BoxFuture<'_, Result<Bytes, CallError>> {
        assert_eq!(lane, Lane::Bulk);
        let member = Arc::clone(&self.0[&to]);
        Box::pin(async move {
            let lost = |reason: &str| CallError::Unknown {
                to,
                reason: reason.to_owned(),
            };
            let mut alive = member.alive.subscribe();
            if !*alive.borrow_and_update() {
                return Err(lost("dead"));
            }
            member.asked.fetch_add(1, Ordering::Relaxed);
            let answered = async {
                tokio::time::sleep(Duration::from_millis(1)).await;
                member.feed.receive(kind, &request).await
            };
            let answer = tokio::select! {
                answer = answered => answer.map_err(CallError::Refused)?,
                _ = alive.changed() => return Err(lost("died")),
                () = tokio::time::sleep(timeout) => return Err(lost("too slow")),
            };
            if kind == CallKind::Records && member.lies.load(Ordering::Relaxed) {
                let mut page = wire::read_records(&answer).unwrap();
                let at = page.records.len() / 2;
                if at < page.records.len() {
                    page.records.remove(at);
                }
                return Ok(wire::records(&page).unwrap());
            }
            Ok(answer)
        })
    }
}

struct World {
    history: Arc<[Record]>,
    net: Net,
    own: Arc<Member>,
    feed: ClusterFeed,
}

impl World {
    fn new(records: usize, committed: usize, own: Copy) -> Self {
        let history = history(records);
        let member = |id| (id, Member::new(&history, committed, Copy::Full));
        let net = Net(MEMBERS.map(member).into());
        let own = Member::new(&history, 0, own);
        let (local, copies) = (Arc::clone(&own.log), Arc::clone(&own.kept));
        let feed = ClusterFeed::new(1, local, copies, Arc::new(net.clone()));
        tokio::spawn(feed.clone().run());
        Self {
            history,
            net,
            own,
            feed,
        }
    }

    fn member(&self, id: NodeId) -> &Arc<Member> {
        self.net.0.get(&id).unwrap_or(&self.own)
    }
}

/// Reads until everything was read, and notes the positions.
async fn read_all(feed: ClusterFeed, until: u64, seen: Arc<Mutex<Vec<u64>>>) {
    let mut cursor = FeedCursor::after(0, 0);
    while cursor.position() < until {
        let before = cursor.position();
        let records = feed.read_committed(&mut cursor, 600).unwrap();
        for record in &records {
            let positions = record.first_position..=record.last_position();
            seen.lock().extend(positions.filter(|p| *p > before));
        }
        if records.is_empty() {
            feed.wait_committed(0, cursor.position()).await;
        }
    }
}

fn paused() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .start_paused(true)
        .build()
        .unwrap()
}

#[derive(Debug, Clone, Copy)]
enum Act {
    Commit(NodeId, usize),
    Kill(NodeId),
    Revive(NodeId),
    Keep(NodeId, Copy),
    Lie(NodeId, bool),
}

fn acts() -> impl Strategy<Value = Vec<(Act, u64)>> {
    let node = || prop::sample::select(vec![1, 2, 3, READER]);
    let copies = vec![Copy::None, Copy::Damaged, Copy::Building, Copy::Full];
    let act = prop_oneof![
        6 => (node(), 1_usize..40).prop_map(|(id, by)| Act::Commit(id, by)),
        2 => node().prop_map(Act::Kill),
        2 => node().prop_map(Act::Revive),
        3 => (node(), prop::sample::select(copies)).prop_map(|(id, copy)| Act::Keep(id, copy)),
        1 => (node(), any::<bool>()).prop_map(|(id, lies)| Act::Lie(id, lies)),
    ];
    prop::collection::vec((act, 0_u64..400), 1..60)
}

impl World {
    fn act(&self, act: Act) {
        match act {
            Act::Commit(id, by) => self.member(id).log.committed.send_modify(|committed| {
                *committed = (*committed + by).min(self.history.len());
            }),
            Act::Kill(id) => drop(self.member(id).alive.send_replace(false)),
            Act::Revive(id) => drop(self.member(id).alive.send_replace(true)),
            Act::Keep(id, copy) => *self.member(id).kept.0.lock() = copy,
            Act::Lie(id, lies) => self.member(id).lies.store(lies, Ordering::Relaxed),
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]
    /// The order of a shard, whoever it is read from; the end is reached once one honest member
    /// with a whole copy can be asked.
    #[test]
    fn every_event_comes_once_and_in_order_wherever_it_comes_from(
        acts in acts(),
        honest in prop::sample::select(MEMBERS.to_vec()),
    ) {
        paused().block_on(async {
            let world = World::new(150, 10, Copy::None);
            let end = world.history[149].last_position();
            let seen = Arc::<Mutex<Vec<u64>>>::default();
            let readers = [(); 2].map(|()| {
                tokio::spawn(read_all(world.feed.clone(), end, Arc::default()))
            });
            let reader = tokio::spawn(read_all(world.feed.clone(), end, Arc::clone(&seen)));
            for (act, pause_ms) in acts {
                world.act(act);
                tokio::time::sleep(Duration::from_millis(pause_ms)).await;
                let furthest = MEMBERS.iter().chain([&READER]).map(|id| {
                    world.member(*id).log.committed_position(0)
                });
                let furthest = furthest.max().unwrap();
                let last = seen.lock().last().copied().unwrap_or_default();
                prop_assert!(last <= furthest, "showed {last}, committed is {furthest}");
                let expected: Vec<u64> = (1..=last).collect();
                prop_assert_eq!(&*seen.lock(), &expected);
            }
            for act in [
                Act::Keep(READER, Copy::None),
                Act::Revive(honest),
                Act::Keep(honest, Copy::Full),
                Act::Lie(honest, false),
                Act::Commit(honest, 150),
            ] {
                world.act(act);
            }
            for reader in readers.into_iter().chain([reader]) {
                let ended = tokio::time::timeout(Duration::from_secs(60), reader).await;
                prop_assert!(ended.is_ok(), "it does not get to the end");
            }
            let expected: Vec<u64> = (1..=end).collect();
            prop_assert_eq!(&*seen.lock(), &expected);
            prop_assert_eq!(world.feed.committed_position(0), end);
            Ok(())
        })?;
    }
}

#[test]
fn a_reader_goes_on_with_another_member_when_the_first_one_dies() {
    paused().block_on(async {
        let world = World::new(60, 20, Copy::None);
        let seen = Arc::<Mutex<Vec<u64>>>::default();
        let end = world.history[59].last_position();
        let reader = tokio::spawn(read_all(world.feed.clone(), end, Arc::clone(&seen)));
        tokio::time::sleep(Duration::from_secs(1)).await;
        let source = world.feed.0.shards[0].state.lock().source.unwrap();
        assert!(!seen.lock().is_empty());
        world.act(Act::Kill(source));
        for id in MEMBERS {
            world.act(Act::Commit(id, 40));
        }
        let began = Instant::now();
        tokio::time::timeout(Duration::from_secs(5), reader)
            .await
            .unwrap()
            .unwrap();
        assert!(began.elapsed() < Duration::from_secs(1), "{began:?}");
        assert_eq!(*seen.lock(), (1..=end).collect::<Vec<u64>>());
        assert_ne!(world.feed.0.shards[0].state.lock().source, Some(source));
    });
}

#[test]
fn nothing_is_asked_while_all_is_here_and_little_while_all_is_idle() {
    paused().block_on(async {
        let world = World::new(30, 30, Copy::Full);
        let asked = || -> usize {
            let members = world.net.0.values();
            members.map(|m| m.asked.load(Ordering::Relaxed)).sum()
        };
        tokio::time::sleep(Duration::from_secs(60)).await;
        assert_eq!(asked(), 0);
        assert!(world.feed.unreadable_shards().is_empty());
        world.act(Act::Keep(READER, Copy::None));
        tokio::time::sleep(Duration::from_secs(1)).await;
        assert!(world.feed.unreadable_shards().is_empty());
        let before = asked();
        tokio::time::sleep(Duration::from_secs(100)).await;
        assert!(asked() - before <= 40, "{} calls", asked() - before);
        for id in MEMBERS {
            world.act(Act::Kill(id));
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
        assert_eq!(world.feed.unreadable_shards(), [0]);
        world.act(Act::Revive(2));
        tokio::time::sleep(Duration::from_secs(1)).await;
        assert!(world.feed.unreadable_shards().is_empty());
        world.act(Act::Keep(2, Copy::None));
        tokio::time::sleep(Duration::from_secs(1)).await;
        assert_eq!(world.feed.unreadable_shards(), [0]);
    });
}

#[test]
fn a_commit_elsewhere_wakes_a_reader_within_milliseconds() {
    paused().block_on(async {
        let world = World::new(30, 10, Copy::None);
        let mut cursor = FeedCursor::after(0, world.member(1).log.committed_position(0));
        tokio::time::sleep(Duration::from_secs(20)).await;
        let began = Instant::now();
        let waits = world.feed.wait_committed(0, cursor.position());
        let (_, ()) = tokio::join!(async { world.act(Act::Commit(2, 1)) }, waits);
        assert!(began.elapsed() < Duration::from_millis(20), "{began:?}");
        let records = world.feed.read_committed(&mut cursor, 1).unwrap();
        assert_eq!(records.len(), 1);
    });
}

#[test]
fn what_does_not_follow_is_refused_and_what_is_kept_is_bounded() {
    let history = history(400);
    let after = history[9].last_position();
    assert!(fit(after, &history[10..20]) && fit(after - 1, &history[9..20]));
    assert!(!fit(after, &history[11..20]) && !fit(after, &history[9..10]));
    assert!(!fit(after, &[]) && !fit(0, &[history[0].clone(), history[2].clone()]));
    let mut pages = Pages::default();
    for at in (0_usize..400).step_by(10) {
        let after = at
            .checked_sub(1)
            .map_or(0, |at| history[at].last_position());
        pages.insert(after, history[at..at + 10].to_vec(), 20_000);
        assert!(pages.bytes() <= 20_000 && pages.covers(after));
        let (one, last) = pages.read(after, 1).unwrap();
        assert_eq!((one.len(), last), (1, history[at].last_position()));
    }
    assert!(!pages.covers(0) && !pages.covers(history[399].last_position()));
}

#[test]
fn records_travel_whole_and_a_message_that_is_cut_is_refused() {
    let records = history(7).to_vec();
    let answer = RecordsAnswer {
        committed: 99,
        records,
    };
    let message = wire::records(&answer).unwrap();
    assert_eq!(wire::read_records(&message).unwrap(), answer);
    for len in 0..message.len() {
        assert!(wire::read_records(&message.slice(..len)).is_err());
    }
    let mut altered = message.to_vec();
    for at in 0..altered.len() {
        altered[at] ^= 1;
        assert!(wire::read_records(&altered.clone().into()).is_err(), "{at}");
        altered[at] ^= 1;
    }
}
