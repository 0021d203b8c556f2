//! One aggregate's records on any node: from its own copy of the shard where it has one, else from a
//! member that has.
//!
//! Owns which member is asked. Refuses to serve others from what it has from others. Invariant: a
//! record is taken only if it is of the stream that was asked for and goes on where the one before it
//! ends; and whoever gives records has its index as far as the reader wants it, so none is missing at
//! the end.

use std::fmt::Debug;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use phalanx_actors::names::{ShardId, StreamName};
use phalanx_actors::ports::{BoxFuture, Journal, Streams};
use phalanx_actors::record::Record;

use super::NodeId;
use super::feed::{Copies, Copy};
use super::peers::Peers;
use super::transport::{CallKind, Lane};
use super::wire::{self, RecordsAnswer, STREAMS_SINCE, StreamQuestion};

/// Records that are read at once, at most.
const RECORDS: usize = 512;
/// Bytes from which on no further record is added.
const BYTES: usize = 512 << 10;
/// How long the index of a copy may take to reach a position.
const INDEXED: Duration = Duration::from_secs(2);
/// How long a member may take to answer.
const WAIT: Duration = Duration::from_secs(3);

/// See the file's description. Cheap to clone.
#[derive(Debug, Clone)]
pub struct ClusterStreams(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    journal: Arc<dyn Journal>,
    copies: Arc<dyn Copies>,
    peers: Arc<dyn Peers>,
}

impl ClusterStreams {
    /// Streams in the copies of this node, which `journal` reads, and in those of its peers.
    #[must_use]
    pub fn new(journal: Arc<dyn Journal>, copies: Arc<dyn Copies>, peers: Arc<dyn Peers>) -> Self {
        Self(Arc::new(Inner {
            journal,
            copies,
            peers,
        }))
    }

    /// Answers a question of another member, from this node's own copy only.
    pub(crate) fn receive(&self, request: &[u8]) -> BoxFuture<'static, Result<Bytes, String>> {
        let inner = Arc::clone(&self.0);
        let question = wire::read_housekeeping::<StreamQuestion>(request);
        Box::pin(async move {
            let question = question.map_err(|error| error.to_string())?;
            let records = inner.read_here(&question).await?;
            let committed = inner.journal.indexed_position(question.shard);
            let answer = RecordsAnswer { committed, records };
            wire::records(&answer).map_err(|error| error.to_string())
        })
    }
}

impl Streams for ClusterStreams {
    fn read(
        &self,
        shard: ShardId,
        stream: &StreamName,
        from_sequence: u64,
        until: u64,
    ) -> BoxFuture<'_, Result<Vec<Record>, String>> {
        let question = StreamQuestion {
            shard,
            stream: stream.as_str().to_owned(),
            from_sequence,
            until,
        };
        Box::pin(async move { self.0.read(&question).await })
    }
}

impl Inner {
    async fn read(&self, question: &StreamQuestion) -> Result<Vec<Record>, String> {
        let mut why = Vec::new();
        if self.copies.copy(question.shard) == Copy::Full {
            match self.read_here(question).await {
                Ok(records) => return Ok(records),
                Err(reason) => why.push(reason),
            }
        }
        for member in self.peers.peers() {
            let asked =
                self.peers.is_connected(member) && self.peers.protocol(member) >= STREAMS_SINCE;
            if !asked {
                continue;
            }
            match self.read_from(member, question).await {
                Ok(records) => return Ok(records),
                Err(reason) => why.push(format!("node {member}: {reason}")),
            }
        }
        let shard = question.shard;
        Err(if why.is_empty() {
            format!("no member with a copy of shard {shard} can be asked from here")
        } else {
            format!("nobody tells what is in shard {shard}: {}", why.join("; "))
        })
    }

    /// Reads from the copy of this node.
    async fn read_here(&self, question: &StreamQuestion) -> Result<Vec<Record>, String> {
        let StreamQuestion {
            shard,
            from_sequence,
            until,
            ..
        } = *question;
        let stream = stream_of(question)?;
        if !matches!(self.copies.copy(shard), Copy::Building | Copy::Full) {
            return Err(format!("no copy of shard {shard} is kept here"));
        }
        let indexed = self.journal.wait_indexed(shard, until);
        let indexed = tokio::time::timeout(INDEXED, indexed).await;
        let behind = |_| format!("the copy of shard {shard} does not reach position {until} here");
        indexed
            .map_err(behind)?
            .map_err(|error| error.to_string())?;
        let read = self
            .journal
            .read_stream(shard, &stream, from_sequence, RECORDS);
        let mut records = read.map_err(|error| error.to_string())?;
        let mut bytes = 0;
        let too_many = records.iter().position(|record| {
            bytes += record.bytes.len();
            bytes > BYTES
        });
        records.truncate(too_many.map_or(records.len(), |kept| kept.max(1)));
        Ok(records)
    }

    async fn read_from(
        &self,
        member: NodeId,
        question: &StreamQuestion,
    ) -> Result<Vec<Record>, String> {
        let request = wire::housekeeping(question).map_err(|error| error.to_string())?;
        let (lane, kind) = (Lane::Bulk, CallKind::Stream);
        let called = self.peers.call(member, lane, kind, request, WAIT);
        let answer = called.await.map_err(|error| error.to_string())?;
        let answer = wire::read_records(&answer).map_err(|error| error.to_string())?;
        let stream = stream_of(question)?;
        if answer.committed < question.until {
            return Err(format!("its copy ends at {}", answer.committed));
        }
        if is_whole(&stream, question.from_sequence, &answer.records) {
            Ok(answer.records)
        } else {
            Err("it tells what was not asked for".to_owned())
        }
    }
}

fn stream_of(question: &StreamQuestion) -> Result<StreamName, String> {
    StreamName::from_stored(&question.stream).ok_or_else(|| "an impossible stream".to_owned())
}

/// Whether records are of the stream and follow one another from a sequence number on.
fn is_whole(stream: &StreamName, from_sequence: u64, records: &[Record]) -> bool {
    let mut next: Option<u64> = None;
    records.iter().all(|record| {
        let behind = record.first_sequence + u64::from(record.event_count);
        let follows = match next.replace(behind) {
            None => record.first_sequence <= from_sequence && behind > from_sequence,
            Some(next) => record.first_sequence == next,
        };
        follows && record.stream == *stream
    })
}

#[cfg(test)]
mod tests;
