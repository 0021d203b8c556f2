//! Appends on their way to one follower, several at a time.
//!
//! Owns the order: requests are begun one after another on one lane, which keeps them in order, and
//! answers are given on in that order whatever their arrival. Refuses to go on behind a failure, a
//! conflict or a partial success: openraft then starts anew from what the follower has. Invariant:
//! at most [`DEPTH`] requests are on their way, and those of one lane have their answers before one
//! takes another lane, so that a follower never sees entries overtake each other.

use std::collections::VecDeque;

use futures_util::{Stream, StreamExt};
use openraft::base::BoxStream;
use openraft::errors::RPCError;
use openraft::raft::{AppendEntriesRequest, AppendEntriesResponse, StreamAppendResult};

use super::network::{Way, failed, unreadable};
use super::types::{RaftLogId, TypeConfig};
use super::wire;
use crate::cluster::transport::{CallError, CallKind, Lane, Pending};

/// Requests on their way to one follower of one shard.
const DEPTH: usize = 16;
/// A message with more bytes of entries catches up and takes the bulk lane: beside the heartbeats
/// and new entries of the other shards, not before them.
const BULK_BYTES: usize = 256 * 1024;
/// What catching up may take, in multiples of the patience with new entries.
const BULK_PATIENCE: u32 = 10;

type Item = Result<StreamAppendResult<TypeConfig>, RPCError<TypeConfig>>;

/// A request that was read and encoded.
struct Ready {
    bytes: bytes::Bytes,
    lane: Lane,
    prev: Option<RaftLogId>,
    last: Option<RaftLogId>,
}

/// A request that was sent.
struct Sent {
    pending: Pending,
    prev: Option<RaftLogId>,
    last: Option<RaftLogId>,
}

/// See the file's description.
pub(crate) struct Pipeline<S> {
    way: Way,
    input: Option<S>,
    held: Option<Ready>,
    lane: Lane,
    sent: VecDeque<Sent>,
    broken: bool,
}

impl<S> Pipeline<S>
where
    S: Stream<Item = AppendEntriesRequest<TypeConfig>> + Send + Unpin + 'static,
{
    pub(crate) fn new(way: Way, input: S) -> Self {
        Self {
            way,
            input: Some(input),
            held: None,
            lane: Lane::Raft,
            sent: VecDeque::new(),
            broken: false,
        }
    }

    /// The answers, in the order of requests.
    pub(crate) fn into_stream(self) -> BoxStream<'static, Item> {
        Box::pin(futures_util::stream::unfold(self, |mut this| async move {
            let item = this.next().await?;
            Some((item, this))
        }))
    }

    async fn next(&mut self) -> Option<Item> {
        loop {
            if self.broken {
                return None;
            }
            if let Err(error) = self.send_held() {
                return Some(self.end(error));
            }
            let room = self.held.is_none() && self.sent.len() < DEPTH;
            let reading = room && self.input.is_some();
            if !reading && self.sent.is_empty() {
                return None;
            }
            // Both sides of the choice may be dropped half-way: the input keeps its state, and so
            // does the answer.
            let oldest = self.sent.front_mut();
            tokio::select! {
                biased;
                request = read(&mut self.input), if reading => match request {
                    Some(request) => match self.encode(&request) {
                        Ok(ready) => self.held = Some(ready),
                        Err(error) => return Some(self.end(error)),
                    },
                    None => self.input = None,
                },
                answer = answered(oldest) => {
                    let item = self.take(answer);
                    return Some(item);
                }
            }
        }
    }

    fn encode(
        &self,
        request: &AppendEntriesRequest<TypeConfig>,
    ) -> Result<Ready, RPCError<TypeConfig>> {
        use openraft::entry::RaftEntry as _;
        let (bytes, entry_bytes) =
            wire::append_to_bytes(self.way.shard, request).map_err(unreadable)?;
        let lane = if entry_bytes > BULK_BYTES {
            Lane::Bulk
        } else {
            Lane::Raft
        };
        let last = request.entries.last().map(|entry| entry.log_id());
        Ok(Ready {
            bytes,
            lane,
            prev: request.prev_log_id,
            last: last.or(request.prev_log_id),
        })
    }

    /// Sends what is held unless it has to wait for the other lane.
    fn send_held(&mut self) -> Result<(), RPCError<TypeConfig>> {
        let waits = |held: &Ready| held.lane != self.lane && !self.sent.is_empty();
        if self.held.as_ref().is_none_or(waits) {
            return Ok(());
        }
        let Some(held) = self.held.take() else {
            return Ok(());
        };
        self.lane = held.lane;
        let patience = match held.lane {
            Lane::Bulk => self.way.patience * BULK_PATIENCE,
            Lane::Raft | Lane::Command => self.way.patience,
        };
        let kind = CallKind::Append;
        let pending = self
            .way
            .peers
            .begin(self.way.target, held.lane, kind, held.bytes, patience)
            .map_err(failed)?;
        self.sent.push_back(Sent {
            pending,
            prev: held.prev,
            last: held.last,
        });
        Ok(())
    }

    /// Turns the answer to the oldest request into openraft's terms.
    fn take(&mut self, answer: Result<bytes::Bytes, CallError>) -> Item {
        let Some(sent) = self.sent.pop_front() else {
            return self.end(failed(CallError::Refused("nothing was asked".to_owned())));
        };
        let answer = answer
            .map_err(failed)
            .and_then(|bytes| wire::append_answer_from_bytes(&bytes).map_err(unreadable));
        let answer = match answer {
            Ok(answer) => answer,
            Err(error) => return self.end(error),
        };
        // A conflict without a predecessor cannot be: everything follows upon nothing.
        if answer.is_conflict() && sent.prev.is_none() {
            let text = "a conflict was reported where there is nothing to conflict with";
            return self.end(failed(CallError::Refused(text.to_owned())));
        }
        let whole = match &answer {
            AppendEntriesResponse::Success => true,
            AppendEntriesResponse::PartialSuccess(to) => *to == sent.last,
            AppendEntriesResponse::Conflict | AppendEntriesResponse::HigherVote(_) => false,
        };
        self.broken = !whole;
        Ok(answer.into_stream_result(sent.prev, sent.last))
    }

    fn end(&mut self, error: RPCError<TypeConfig>) -> Item {
        self.broken = true;
        Err(error)
    }
}

async fn read<S>(input: &mut Option<S>) -> Option<AppendEntriesRequest<TypeConfig>>
where
    S: Stream<Item = AppendEntriesRequest<TypeConfig>> + Unpin,
{
    match input {
        Some(input) => input.next().await,
        None => None,
    }
}

async fn answered(oldest: Option<&mut Sent>) -> Result<bytes::Bytes, CallError> {
    match oldest {
        Some(sent) => sent.pending.wait().await,
        None => std::future::pending().await,
    }
}
