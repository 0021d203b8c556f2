//! `GET /v1/aggregates/{type}/{id}/watch`: one aggregate's state now, and then as it changes.
//!
//! Server-sent events. The states are folded from the journal, so they are committed, no actor is
//! woken, and no justification is needed. Owns: how far each watcher has seen its aggregate. Refuses:
//! to send what a watcher did not take in time: the next message then tells of several events and of
//! the state after the last one. Invariant: the `id` of a message is the sequence number of the last
//! event that the watcher knows of; each later event is named in exactly one message, in order.

mod hub;

use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use bytes::{BufMut as _, Bytes, BytesMut};
use http::{HeaderValue, Response, request};
use phalanx_actors::history::{At, HistoryPage};
use phalanx_actors::names::{ShardId, StreamName};
use phalanx_actors::request::{Answer, Failure, StateView};
use tokio::time::Instant;

pub(crate) use self::hub::Hub;
use self::hub::Subscription;
use super::answers::timed_out;
use super::app::App;
use super::code::Code;
use super::events::{not_here, nothing_to_read};
use super::guard::ConnectionState;
use super::problem::Problem;
use super::query;
use super::render::{put_identity, put_number};
use super::service::stream;
use super::sse::{self, Ticket, Woken};
use super::state::read_refusal;

/// Events that one message names, at most.
const MAX_EVENTS: usize = 256;
/// Stored bytes of the events that one message names.
const MAX_BYTES: usize = 256 << 10;
/// Between two attempts that failed: the first pause, and the longest one.
const PAUSES: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(5));
/// The first state may have been read a moment before the shard's leader showed an event that was
/// known here already when this watcher began to listen. One look at this time finds it.
const SECOND_LOOK: Duration = Duration::from_secs(1);
/// How long an id may be ahead of what the shard's leader shows.
const AHEAD: Duration = Duration::from_millis(500);

/// Answers with a stream.
pub(crate) async fn answer(
    app: &Arc<App>,
    connection: &ConnectionState,
    parts: &request::Parts,
    aggregate_type: &str,
    id: &str,
) -> Result<Response<Body>, Box<Problem>> {
    let stream = stream(app, aggregate_type, id)?;
    let [] = query::parse(parts.uri.query(), [])?;
    let known = sse::last_event_id(parts)?
        .map(sequence_number)
        .transpose()?;
    let hub = app.hub.as_ref().ok_or_else(nothing_to_read)?;
    let shard = stream.shard(app.router.shards());
    if is_unreadable(app, shard) {
        return Err(Box::new(not_here(&[shard])));
    }
    let ticket = Ticket::take(app, connection)?;
    // First listen, then look: what happens in between is heard.
    let news = hub.subscribe(shard, &stream);
    let limit = app.limits.request_timeout();
    let begun = tokio::time::timeout(limit, begin(app, &stream, known)).await;
    let begun = begun.map_err(|_| timed_out(false, limit))?;
    let (seen, first) = begun?;
    let look = if first.is_some() {
        SECOND_LOOK
    } else {
        Duration::ZERO
    };
    let watcher = Watcher {
        app: Arc::clone(app),
        stream,
        news,
        seen,
        first,
        look_at: Some(Instant::now() + look),
        failures: 0,
        ended: false,
        ticket,
    };
    Ok(sse::respond(&parts.method, watcher))
}

/// Whether nothing that happens in the shard is heard of on this node.
fn is_unreadable(app: &App, shard: ShardId) -> bool {
    let feed = app.feed.as_ref();
    feed.is_some_and(|feed| feed.unreadable_shards().contains(&shard))
}

fn sequence_number(id: &HeaderValue) -> Result<u64, Problem> {
    let digits = id
        .to_str()
        .ok()
        .filter(|id| id.bytes().all(|b| b.is_ascii_digit()));
    let number = digits.and_then(|id| id.parse().ok());
    number
        .filter(|number| *number > 0)
        .ok_or_else(|| sse::bad_event_id("the id of a watch is a sequence number of the aggregate"))
}

/// Where a watcher begins, and the first message if it has none yet.
async fn begin(
    app: &App,
    stream: &StreamName,
    known: Option<u64>,
) -> Result<(u64, Option<Bytes>), Problem> {
    if let Some(known) = known {
        return resume(app, stream, known).await;
    }
    let view = newest(app, stream).await?;
    let piece = app.buffers.answer(state_message(&view))?;
    Ok((view.sequence_number, Some(piece)))
}

async fn newest(app: &App, stream: &StreamName) -> Result<StateView, Problem> {
    let within = app.limits.answer_within();
    let newest = At::Sequence(u64::MAX);
    let found = app.router.state_at(stream, newest, within).await;
    let (found, _) = found.map_err(refused)?;
    found.ok_or_else(not_found)
}

async fn resume(
    app: &App,
    stream: &StreamName,
    known: u64,
) -> Result<(u64, Option<Bytes>), Problem> {
    let deadline = Instant::now() + AHEAD;
    loop {
        if !read(app, stream, known, 1).await?.events.is_empty() {
            return Ok((known, None));
        }
        // A history leaves out what the aggregate's code drops; the state counts it.
        if newest(app, stream).await?.sequence_number >= known {
            return Ok((known, None));
        }
        if Instant::now() >= deadline {
            let form = "the aggregate has no event of this sequence number";
            return Err(sse::bad_event_id(form));
        }
        tokio::time::sleep(PAUSES.0).await;
    }
}

async fn read(
    app: &App,
    stream: &StreamName,
    from: u64,
    limit: usize,
) -> Result<HistoryPage, Problem> {
    let within = app.limits.answer_within();
    let router = &app.router;
    let page = router.history(stream, from, limit, MAX_BYTES, within).await;
    page.map_err(refused)
}

fn refused(failure: Failure) -> Problem {
    read_refusal(Answer::Failed(failure))
}

fn not_found() -> Problem {
    let detail = "no event has happened to this aggregate yet";
    Problem::new(Code::AggregateNotFound, detail)
}

/// One client's place in one aggregate.
struct Watcher {
    app: Arc<App>,
    stream: StreamName,
    news: Subscription,
    /// The last event that the client knows of.
    seen: u64,
    first: Option<Bytes>,
    /// When to look whether there is more, whatever was heard.
    look_at: Option<Instant>,
    failures: u32,
    ended: bool,
    ticket: Ticket,
}

impl sse::Reader for Watcher {
    fn ticket(&self) -> &Ticket {
        &self.ticket
    }

    async fn next(&mut self) -> Option<Bytes> {
        if let Some(first) = self.first.take() {
            return Some(first);
        }
        while !self.ended && !self.ticket.is_over() {
            if self.ticket.beats() {
                return self.beat();
            }
            if self.is_due() {
                let (app, stream, seen) = (Arc::clone(&self.app), self.stream.clone(), self.seen);
                let looked = async { Box::pin(change(&app, &stream, seen)).await };
                let looked = self.ticket.unless_over(looked).await?;
                if let Some(piece) = self.looked(looked) {
                    return Some(piece);
                }
                continue;
            }
            if self.wait().await == Woken::Beat {
                return self.beat();
            }
        }
        None
    }
}

impl Watcher {
    fn is_due(&self) -> bool {
        let heard = self.failures == 0 && self.news.newest() > self.seen;
        heard || self.look_at.is_some_and(|at| at <= Instant::now())
    }

    async fn wait(&mut self) -> Woken {
        let (look_at, seen, failing) = (self.look_at, self.seen, self.failures > 0);
        let (news, ended) = (&mut self.news, &mut self.ended);
        let due = async {
            match look_at {
                Some(at) => tokio::time::sleep_until(at).await,
                None => std::future::pending().await,
            }
        };
        let heard = async {
            if failing {
                std::future::pending::<()>().await;
            }
            *ended = !news.beyond(seen).await;
        };
        self.ticket
            .wait(async {
                tokio::select! {
                    () = due => {}
                    () = heard => {}
                }
            })
            .await
    }

    /// A sign of life, unless this node can reach no copy of the shard and would never hear of
    /// anything: the client finds another node.
    fn beat(&self) -> Option<Bytes> {
        let shard = self.stream.shard(self.app.router.shards());
        let here = !is_unreadable(&self.app, shard);
        here.then(|| sse::heartbeat(None))
    }

    /// What a look came to.
    fn looked(&mut self, looked: Result<Option<Change>, Problem>) -> Option<Bytes> {
        let message = match looked {
            Ok(Some(change)) => self
                .app
                .buffers
                .answer(change.message)
                .map(|message| (message, change.sequence_number)),
            Ok(None) if self.news.newest() <= self.seen => {
                self.look_at = None;
                self.failures = 0;
                return None;
            }
            // It was heard of here; the shard's leader will show it in a moment.
            Ok(None) => {
                self.pause();
                return None;
            }
            Err(problem) => Err(problem),
        };
        match message {
            Ok((message, sequence_number)) => {
                self.seen = sequence_number;
                // There may be more than one message holds.
                self.look_at = self.look_at.map(|_| Instant::now());
                self.failures = 0;
                self.app.metrics.streamed.increment(1);
                Some(message)
            }
            Err(problem) if problem.is_retryable() => {
                self.pause();
                None
            }
            Err(problem) => {
                let code = problem.code().describe().name;
                tracing::error!(code, detail = problem.detail(), "a watch ends");
                self.ended = true;
                let mut out = BytesMut::new();
                sse::put_error(&mut out, code, problem.detail());
                Some(out.freeze())
            }
        }
    }

    fn pause(&mut self) {
        let (first, longest) = PAUSES;
        let pause = first.saturating_mul(1 << self.failures.min(10));
        self.failures = self.failures.saturating_add(1);
        self.look_at = Some(Instant::now() + pause.min(longest));
    }
}

/// What happened to an aggregate since it was last looked at, ready to be sent.
struct Change {
    sequence_number: u64,
    message: Bytes,
}

/// The events behind `seen` and the state after them; nothing when there are none.
async fn change(app: &App, stream: &StreamName, seen: u64) -> Result<Option<Change>, Problem> {
    let page = read(app, stream, seen + 1, MAX_EVENTS).await?;
    let Some(last) = page.events.last().map(|event| event.sequence_number) else {
        return Ok(None);
    };
    let within = app.limits.answer_within();
    let at = At::Sequence(last);
    let found = app.router.state_at(stream, at, within).await;
    let (found, _) = found.map_err(refused)?;
    let view = found.filter(|view| view.sequence_number == last);
    Ok(view.map(|view| Change {
        sequence_number: last,
        message: change_message(&view, &page),
    }))
}

fn state_message(view: &StateView) -> Bytes {
    let mut out = begun_message("state", view);
    put_state(&mut out, view);
    out.freeze()
}

fn change_message(view: &StateView, page: &HistoryPage) -> Bytes {
    let mut out = begun_message("change", view);
    out.put_slice(b",\"events\":[");
    for (at, event) in page.events.iter().enumerate() {
        if at > 0 {
            out.put_u8(b',');
        }
        out.put_slice(b"{\"type\":\"");
        out.put_slice(event.event_type.as_bytes());
        out.put_slice(b"\",\"sequence_number\":");
        put_number(&mut out, event.sequence_number);
        out.put_u8(b'}');
    }
    out.put_u8(b']');
    put_state(&mut out, view);
    out.freeze()
}

fn begun_message(kind: &str, view: &StateView) -> BytesMut {
    let mut out = BytesMut::with_capacity(512 + view.state.get().len());
    sse::put_line(&mut out, b"event: ", kind);
    sse::put_line(&mut out, b"id: ", &view.sequence_number.to_string());
    out.put_slice(b"data: ");
    put_identity(&mut out, &view.stream, view.sequence_number, view.position);
    out
}

fn put_state(out: &mut BytesMut, view: &StateView) {
    out.put_slice(b",\"state\":");
    out.put_slice(view.state.get().as_bytes());
    out.put_slice(b"}\n\n");
}
