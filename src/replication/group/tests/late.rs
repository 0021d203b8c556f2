//! A leader whose followers' answers come late: followers that a script speaks for.

use futures_util::StreamExt as _;
use openraft::raft::{AppendEntriesResponse, VoteResponse};

use super::*;
use crate::cluster::transport::{CallError, Calls, Frame, Lane, PeerState, Pending, Tag};

const LEASE: Duration = Duration::from_millis(300);

/// One follower: it votes for whoever asks, and has everything at once.
#[derive(Debug)]
struct Follower {
    calls: Arc<Calls>,
    /// Answers that wait to be let go, once they do.
    held: Mutex<Option<Vec<Frame>>>,
}

impl Follower {
    fn answer(&self, request: &Frame) -> Bytes {
        let mut payload = request.payload.clone();
        assert_eq!(wire::take_shard(&mut payload).unwrap(), SHARD);
        if request.kind == CallKind::Append as u8 {
            return wire::append_answer_to_bytes(&AppendEntriesResponse::Success).unwrap();
        }
        let asked = wire::vote_ask_from_bytes(&payload).unwrap();
        let granted = VoteResponse::new(asked.vote, asked.last_log_id, true);
        wire::vote_answer_to_bytes(&granted).unwrap()
    }

    fn say(&self, answer: Frame) {
        match &mut *self.held.lock() {
            Some(held) => held.push(answer),
            None => self.calls.answered(answer),
        }
    }

    fn hold(&self) {
        *self.held.lock() = Some(Vec::new());
    }

    /// Lets the oldest answer go, once there is one.
    async fn let_one_go(&self) {
        let oldest = eventually("an answer that is held", || {
            let mut held = self.held.lock();
            let held = held.as_mut().filter(|held| !held.is_empty())?;
            Some(held.remove(0))
        });
        self.calls.answered(oldest.await);
    }
}

#[derive(Debug, Clone)]
struct Script(BTreeMap<NodeId, Arc<Follower>>);

impl Script {
    fn new(ids: impl IntoIterator<Item = NodeId>) -> Self {
        let follower = |id| {
            let (calls, mut outgoing) = Calls::new(id, 256);
            let held = Mutex::default();
            let follower = Arc::new(Follower { calls, held });
            let speaks = Arc::clone(&follower);
            tokio::spawn(async move {
                while let Some(Ok(request)) = outgoing.next().await {
                    let answer = speaks.answer(&request);
                    speaks.say(Frame::plain(Tag::Answer, request.id, answer));
                }
            });
            (id, follower)
        };
        Self(ids.into_iter().map(follower).collect())
    }
}

impl Peers for Script {
    fn peers(&self) -> Vec<NodeId> {
        self.0.keys().copied().collect()
    }

    fn state(&self, peer: NodeId) -> Option<PeerState> {
        self.0.get(&peer).map(|_| PeerState::Connected)
    }

    fn begin(
        &self,
        to: NodeId,
        _lane: Lane,
        kind: CallKind,
        request: Bytes,
        timeout: Duration,
    ) -> Result<Pending, CallError> {
        self.0[&to].calls.begin(kind, request, timeout)
    }
}

async fn leader_of(
    script: &Script,
    read_policy: ReadPolicy,
) -> (Arc<Group>, u64, tempfile::TempDir) {
    let dir = tempfile::tempdir().unwrap();
    let identity = Identity {
        cluster_name: "test".to_owned(),
        node_id: 1,
        shards: 1,
    };
    let options = JournalOptions {
        reserve_free_bytes: 0,
        ..JournalOptions::new(dir.path().to_owned(), identity)
    };
    let storage = Storage::Memory(MemoryDisk::default());
    let journal = Journal::open(&options, storage, Arc::new(SystemClock::default())).unwrap();
    let options = GroupOptions {
        node_id: 1,
        voters: BTreeSet::from([1, 2, 3]),
        preferred: 1,
        cluster_name: "test".to_owned(),
        election_timeout_min_ms: 200,
        election_timeout_max_ms: u64::try_from(LEASE.as_millis()).unwrap(),
        read_policy,
        bootstrap: true,
    };
    let group = Group::start(SHARD, journal, Arc::new(script.clone()), options);
    let group = group.await.unwrap();
    let term = eventually("a leader", || {
        let metrics = group.raft.metrics();
        let now = metrics.borrow_watched();
        let applied = now.last_applied.map(|id| **id.committed_leader_id());
        let serves = now.state == ServerState::Leader && applied == Some(now.current_term);
        serves.then_some(now.current_term)
    });
    let term = term.await;
    (group, term, dir)
}

/// openraft takes the late answer for one to the news of the commit, which left later.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_late_answer_renews_no_lease() {
    let script = Script::new([2, 3]);
    let (group, term, _dir) = leader_of(&script, ReadPolicy::LeaseRead).await;
    wait_until_confirmed(&group, term).await;
    let (second, third) = (&script.0[&2], &script.0[&3]);
    second.hold();
    third.hold();
    let outcome = Arc::<Mutex<Option<Proposed>>>::default();
    let told = Arc::clone(&outcome);
    let batch = Batch {
        records: vec![record(1)].into(),
    };
    let done = Box::new(move |proposed| *told.lock() = Some(proposed));
    group.propose(term, batch, done).await;
    // By now the two may have elected somebody else, and have stored a lot.
    tokio::time::sleep(LEASE * 2).await;
    assert!(!group.confirm_leadership(term).await, "the lease is over");
    second.let_one_go().await;
    eventually("a commit", || *outcome.lock()).await;
    third.let_one_go().await;
    for _ in 0..40 {
        assert!(!group.confirm_leadership(term).await, "nobody renewed it");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    // Whoever is heard again promises again.
    for follower in [second, third] {
        let held = follower.held.lock().take().unwrap_or_default();
        held.into_iter()
            .for_each(|answer| follower.calls.answered(answer));
    }
    wait_until_confirmed(&group, term).await;
    group.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_index_is_read_after_an_answer_to_a_later_request() {
    let script = Script::new([2, 3]);
    let (group, term, _dir) = leader_of(&script, ReadPolicy::ReadIndex).await;
    wait_until_confirmed(&group, term).await;
    for follower in script.0.values() {
        follower.hold();
    }
    let confirmed = group.confirm_leadership(term);
    let silence = tokio::time::timeout(LEASE / 2, confirmed).await;
    assert!(!silence.is_ok_and(|leads| leads), "nobody has answered");
    for follower in script.0.values() {
        *follower.held.lock() = None;
    }
    wait_until_confirmed(&group, term).await;
    group.shutdown().await;
}

async fn wait_until_confirmed(group: &Group, term: u64) {
    let confirmed = tokio::time::timeout(LONG, async {
        loop {
            group.heartbeat().await;
            tokio::time::sleep(Duration::from_millis(5)).await;
            if group.confirm_leadership(term).await {
                return;
            }
        }
    });
    confirmed.await.expect("leadership is confirmed");
}
