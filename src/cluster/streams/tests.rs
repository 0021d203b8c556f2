//! Reading an aggregate's records from members that have them, lack them, lag or tell nonsense.

use std::collections::BTreeMap;

use jiff::Timestamp;
use parking_lot::Mutex;
use phalanx_actors::ports::JournalError;
use phalanx_actors::record::{Draft, RecordHead};

use super::*;
use crate::cluster::peers::answering::Answering;
use crate::cluster::transport::CallError;

const SHARD: ShardId = 0;

fn stream(id: &str) -> StreamName {
    StreamName::new("account", id).unwrap()
}

/// One record of two events, from a sequence number on.
fn record(id: &str, first_sequence: u64) -> Record {
    let name = stream(id);
    let head = RecordHead {
        stream: name.as_str(),
        first_sequence,
        event_count: 2,
        time_us: 1,
        command: "Deposit",
        key: "k",
        fingerprint: [0; 16],
        flags: 0,
        traceparent: "",
    };
    let draft = Draft::new(&head, 1, &[0_u32, 1]).unwrap();
    Record::from_stored(draft.finish(first_sequence)).unwrap()
}

/// A copy of the shard with ten events of `a` and nothing else.
#[derive(Debug)]
struct Kept {
    copy: Copy,
    indexed: u64,
    id: &'static str,
    /// What it says instead of what it has.
    nonsense: Option<Vec<u64>>,
}

impl Kept {
    fn new(copy: Copy, indexed: u64) -> Self {
        Self {
            copy,
            indexed,
            id: "a",
            nonsense: None,
        }
    }
}

impl Copies for Kept {
    fn copy(&self, _shard: ShardId) -> Copy {
        self.copy
    }
}

impl Journal for Kept {
    fn read_snapshot(
        &self,
        _shard: ShardId,
        _stream: &StreamName,
    ) -> Result<Option<Vec<u8>>, JournalError> {
        Ok(None)
    }

    fn read_stream(
        &self,
        _shard: ShardId,
        _stream: &StreamName,
        from_sequence: u64,
        limit: usize,
    ) -> Result<Vec<Record>, JournalError> {
        let firsts = self.nonsense.clone();
        let firsts = firsts.unwrap_or_else(|| (1..=9).step_by(2).collect());
        let nonsense = self.nonsense.is_some();
        let wanted = firsts
            .into_iter()
            .filter(|first| nonsense || first + 1 >= from_sequence);
        Ok(wanted
            .take(limit)
            .map(|first| record(self.id, first))
            .collect())
    }

    fn find_key(
        &self,
        _shard: ShardId,
        _stream: &StreamName,
        _key_hash: u128,
        _now: Timestamp,
    ) -> Result<Option<Record>, JournalError> {
        Ok(None)
    }

    fn save_snapshot(&self, _shard: ShardId, _stream: &StreamName, _snapshot: Vec<u8>) {}

    fn indexed_position(&self, _shard: ShardId) -> u64 {
        self.indexed
    }

    fn is_full(&self) -> bool {
        false
    }

    fn wait_indexed(
        &self,
        _shard: ShardId,
        position: u64,
    ) -> BoxFuture<'_, Result<(), JournalError>> {
        let there = position <= self.indexed;
        Box::pin(async move {
            if !there {
                return std::future::pending().await;
            }
            Ok(())
        })
    }
}

/// The other members.
#[derive(Debug, Default)]
struct Net {
    members: BTreeMap<NodeId, ClusterStreams>,
    asked: Mutex<Vec<NodeId>>,
}

impl Answering for Net {
    fn members(&self) -> Vec<NodeId> {
        self.members.keys().copied().collect()
    }

    fn answer(
        &self,
        to: NodeId,
        _lane: Lane,
        kind: CallKind,
        request: Bytes,
        timeout: Duration,
    ) -> BoxFuture<'_, Result<Bytes, CallError>> {
        assert_eq!(kind, CallKind::Stream);
        self.asked.lock().push(to);
        let there = self.members[&to].clone();
        Box::pin(async move {
            let answer = tokio::time::timeout(timeout, there.receive(&request)).await;
            answer.unwrap().map_err(CallError::Refused)
        })
    }
}

fn node(kept: Kept, peers: &Arc<Net>) -> ClusterStreams {
    let kept = Arc::new(kept);
    ClusterStreams::new(Arc::clone(&kept) as _, kept, Arc::clone(peers) as _)
}

/// A node with `own`, beside members with these copies, from number 2 on.
fn site(own: Kept, others: Vec<Kept>) -> (ClusterStreams, Arc<Net>) {
    let nobody = Arc::<Net>::default();
    let members = (2..).zip(others.into_iter().map(|kept| node(kept, &nobody)));
    let net = Arc::new(Net {
        members: members.collect(),
        asked: Mutex::default(),
    });
    (node(own, &net), net)
}

fn firsts(records: &[Record]) -> Vec<u64> {
    records.iter().map(|record| record.first_sequence).collect()
}

#[tokio::test(start_paused = true)]
async fn the_own_copy_comes_first_and_another_one_where_it_is_missing_or_behind() {
    for (own, asked) in [
        (Kept::new(Copy::Full, 10), vec![]),
        (Kept::new(Copy::Full, 9), vec![2, 3, 4]),
        (Kept::new(Copy::None, 0), vec![2, 3, 4]),
        (Kept::new(Copy::Damaged, 10), vec![2, 3, 4]),
    ] {
        let others = vec![
            Kept::new(Copy::None, 10),
            Kept::new(Copy::Full, 4),
            Kept::new(Copy::Building, 10),
        ];
        let (streams, net) = site(own, others);
        let read = streams.read(SHARD, &stream("a"), 4, 10).await.unwrap();
        assert_eq!(firsts(&read), [3, 5, 7, 9]);
        assert_eq!(*net.asked.lock(), asked);
        let end = streams.read(SHARD, &stream("a"), 11, 10).await.unwrap();
        assert_eq!(firsts(&end), [0_u64; 0]);
    }
}

#[tokio::test(start_paused = true)]
async fn what_is_of_another_stream_or_has_a_gap_is_not_taken() {
    let good = || Kept::new(Copy::Full, 10);
    let lies = |firsts: Vec<u64>| Kept {
        nonsense: Some(firsts),
        ..good()
    };
    let stranger = || Kept { id: "b", ..good() };
    for bad in [
        stranger(),
        lies(vec![5, 7]),
        lies(vec![3, 7]),
        lies(vec![1, 3]),
    ] {
        let (streams, net) = site(Kept::new(Copy::None, 0), vec![bad, good()]);
        let read = streams.read(SHARD, &stream("a"), 3, 10).await.unwrap();
        assert_eq!(firsts(&read), [3, 5, 7, 9]);
        assert_eq!(*net.asked.lock(), [2, 3]);
    }
    let (streams, _) = site(Kept::new(Copy::None, 0), vec![stranger()]);
    let why = streams.read(SHARD, &stream("a"), 3, 10).await.unwrap_err();
    assert!(
        why.contains("node 2: it tells what was not asked for"),
        "{why}"
    );
    let (streams, _) = site(Kept::new(Copy::None, 0), vec![]);
    assert!(streams.read(SHARD, &stream("a"), 3, 10).await.is_err());
}
