//! Appends on their way to one follower, several at a time.
//!
//! Owns the order: requests are begun one after another on one lane, which keeps them in order, and
//! answers are given on in that order whatever their arrival. Refuses to go on behind a failure, a
//! conflict or a partial success: openraft then starts anew from what the follower has.
//!
//! openraft makes a message for each commit that no entries carry. Such a message waits a moment
//! for entries to go with; when their answer comes, it is answered as well. The answer says at least
//! as much: the follower was there at a later moment than the one that is credited.
//!
//! Invariants: at most [`DEPTH`] requests and about [`DEPTH_BYTES`] are on their way, and those of one lane have their answers before one
//! takes another lane, so that a follower never sees entries overtake each other.

use std::collections::VecDeque;
use std::time::Duration;

use futures_util::{Stream, StreamExt};
use openraft::base::BoxStream;
use openraft::errors::RPCError;
use openraft::raft::{AppendEntriesRequest, AppendEntriesResponse, StreamAppendResult};

use tokio::time::Instant;

use super::network::{Way, failed, unreadable};
use super::types::{RaftLogId, TypeConfig};
use super::wire;
use crate::cluster::transport::{CallError, CallKind, Lane, Pending};

/// Requests on their way to one follower of one shard.
const DEPTH: usize = 16;
/// Their bytes, together; one more request may go beyond.
const DEPTH_BYTES: usize = 2 << 20;
/// A message with more bytes of entries catches up and takes the bulk lane: beside the heartbeats
/// and new entries of the other shards, not before them.
const BULK_BYTES: usize = 256 * 1024;
/// A message with entries that were committed this many entries ago catches up as well: nobody waits
/// for it, and behind it come thousands like it.
const OLD_ENTRIES: u64 = 256;
/// How long the news of a commit waits for entries to go with. Followers apply that much later;
/// nobody waits for them.
const NEWS_WAIT: Duration = Duration::from_millis(20);
/// What catching up may take, in multiples of the patience with new entries.
const BULK_PATIENCE: u32 = 10;

type Item = Result<StreamAppendResult<TypeConfig>, RPCError<TypeConfig>>;

/// A request without entries that waits for one with entries.
struct News {
    request: AppendEntriesRequest<TypeConfig>,
    due: Instant,
}

/// A request that was read and encoded.
struct Ready {
    bytes: bytes::Bytes,
    lane: Lane,
    term: u64,
    prev: Option<RaftLogId>,
    last: Option<RaftLogId>,
}

/// A request that was sent.
struct Sent {
    pending: Pending,
    term: u64,
    at: Instant,
    bytes: usize,
    /// Requests without entries that its answer answers as well: what they ended with.
    carried: Vec<Option<RaftLogId>>,
    prev: Option<RaftLogId>,
    last: Option<RaftLogId>,
}

/// See the file's description.
pub(crate) struct Pipeline<S> {
    way: Way,
    input: Option<S>,
    news: Option<News>,
    /// Of requests before the news, which a later one replaced.
    carried: Vec<Option<RaftLogId>>,
    held: Option<Ready>,
    lane: Lane,
    sent: VecDeque<Sent>,
    sent_bytes: usize,
    /// Whether anything was sent: the first request is always wanted at once.
    began: bool,
    items: VecDeque<Item>,
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
            news: None,
            carried: Vec::new(),
            held: None,
            lane: Lane::Raft,
            sent: VecDeque::new(),
            sent_bytes: 0,
            began: false,
            items: VecDeque::new(),
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
            if let Some(item) = self.items.pop_front() {
                return Some(item);
            }
            if self.broken {
                return None;
            }
            if let Err(error) = self.send_held() {
                return Some(self.end(error));
            }
            let room =
                self.held.is_none() && self.sent.len() < DEPTH && self.sent_bytes < DEPTH_BYTES;
            let reading = room && self.input.is_some();
            let due = self.news.as_ref().filter(|_| room).map(|news| {
                // Nothing more comes that could carry it.
                if self.input.is_some() {
                    Some(news.due)
                } else {
                    None
                }
            });
            if !reading && due.is_none() && self.sent.is_empty() {
                return None;
            }
            // Every side of the choice may be dropped half-way: the input keeps its state, and so
            // does the answer.
            let oldest = self.sent.front_mut();
            let outcome = tokio::select! {
                biased;
                request = read(&mut self.input), if reading => match request {
                    Some(request) => self.take_in(request),
                    None => {
                        self.input = None;
                        Ok(())
                    }
                },
                answer = answered(oldest) => {
                    self.take(answer);
                    Ok(())
                }
                () = until(due) => self.send_news(),
            };
            if let Err(error) = outcome {
                return Some(self.end(error));
            }
        }
    }

    /// Takes the next request: news wait, entries take them along.
    fn take_in(
        &mut self,
        request: AppendEntriesRequest<TypeConfig>,
    ) -> Result<(), RPCError<TypeConfig>> {
        if self.began && request.entries.is_empty() {
            let due = match self.news.take() {
                Some(older) => {
                    self.carried.push(older.request.prev_log_id);
                    older.due
                }
                None => Instant::now() + NEWS_WAIT,
            };
            self.news = Some(News { request, due });
            return Ok(());
        }
        if let Some(news) = self.news.take() {
            self.carried.push(news.request.prev_log_id);
        }
        self.began = true;
        self.held = Some(self.encode(&request)?);
        Ok(())
    }

    /// Lets the news go by themselves.
    fn send_news(&mut self) -> Result<(), RPCError<TypeConfig>> {
        if let Some(news) = self.news.take() {
            self.held = Some(self.encode(&news.request)?);
        }
        Ok(())
    }

    fn encode(
        &self,
        request: &AppendEntriesRequest<TypeConfig>,
    ) -> Result<Ready, RPCError<TypeConfig>> {
        use openraft::entry::RaftEntry as _;
        let (bytes, entry_bytes) =
            wire::append_to_bytes(self.way.shard, request).map_err(unreadable)?;
        let last = request.entries.last().map(|entry| entry.log_id());
        let committed = request.leader_commit.map_or(0, |log_id| log_id.index());
        let old = last.is_some_and(|last| last.index() + OLD_ENTRIES < committed);
        let lane = if entry_bytes > BULK_BYTES || old {
            Lane::Bulk
        } else {
            Lane::Raft
        };
        Ok(Ready {
            bytes,
            lane,
            term: request.vote.leader_id.term,
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
        let (bytes, at) = (held.bytes.len(), Instant::now());
        let pending = self
            .way
            .peers
            .begin(self.way.target, held.lane, kind, held.bytes, patience)
            .map_err(failed)?;
        self.sent_bytes += bytes;
        self.sent.push_back(Sent {
            pending,
            term: held.term,
            at,
            bytes,
            carried: std::mem::take(&mut self.carried),
            prev: held.prev,
            last: held.last,
        });
        Ok(())
    }

    /// Turns the answer to the oldest request into openraft's terms.
    fn take(&mut self, answer: Result<bytes::Bytes, CallError>) {
        let Some(sent) = self.sent.pop_front() else {
            return;
        };
        self.sent_bytes -= sent.bytes;
        let answer = answer
            .map_err(failed)
            .and_then(|bytes| wire::append_answer_from_bytes(&bytes).map_err(unreadable));
        let answer = match answer {
            Ok(answer) => answer,
            Err(error) => {
                let item = self.end(error);
                return self.items.push_back(item);
            }
        };
        self.way.note(sent.term, sent.at, &answer);
        // A conflict without a predecessor cannot be: everything follows upon nothing.
        if answer.is_conflict() && sent.prev.is_none() {
            let text = "a conflict was reported where there is nothing to conflict with";
            let item = self.end(failed(CallError::Refused(text.to_owned())));
            return self.items.push_back(item);
        }
        let whole = match &answer {
            AppendEntriesResponse::Success => true,
            AppendEntriesResponse::PartialSuccess(to) => *to == sent.last,
            AppendEntriesResponse::Conflict | AppendEntriesResponse::HigherVote(_) => false,
        };
        self.broken = !whole;
        if whole {
            self.items
                .extend(sent.carried.into_iter().map(|last| Ok(Ok(last))));
        }
        self.items
            .push_back(Ok(answer.into_stream_result(sent.prev, sent.last)));
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

/// Waits until the moment that is given, if any; `Some(None)` is now.
async fn until(due: Option<Option<Instant>>) {
    match due {
        Some(Some(due)) => tokio::time::sleep_until(due).await,
        Some(None) => {}
        None => std::future::pending().await,
    }
}

async fn answered(oldest: Option<&mut Sent>) -> Result<bytes::Bytes, CallError> {
    match oldest {
        Some(sent) => sent.pending.wait().await,
        None => std::future::pending().await,
    }
}
