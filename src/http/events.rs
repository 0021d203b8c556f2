//! `GET /v1/events`: committed events of all shards as a stream that does not end.
//!
//! Server-sent events, one CloudEvent each, in order within a shard. It owns where each reader
//! stands and refuses to keep anything for a reader: it reads from the journal when the client has
//! taken what was sent before. Invariant: the `id` of an event says, for every shard, up to where
//! the reader has seen everything; whoever comes back with it misses nothing and sees nothing twice.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use bytes::{BufMut, Bytes, BytesMut};
use futures_util::FutureExt as _;
use futures_util::future::select_all;
use futures_util::stream::unfold;
use http::header::{CACHE_CONTROL, CONTENT_TYPE, HeaderName};
use http::{HeaderValue, Method, Response, request};
use phalanx_actors::history::RecordedEvent;
use phalanx_actors::names::Position;
use phalanx_actors::ports::{Feed, FeedCursor};
use phalanx_actors::record::Record;
use tokio::sync::{OwnedSemaphorePermit, watch};
use tokio::time::{Instant, Interval, interval_at};

use super::app::App;
use super::code::Code;
use super::guard::{Answering, ConnectionState};
use super::history::put_event;
use super::problem::Problem;
use super::query;
use super::render::put_number;

const LAST_EVENT_ID: HeaderName = HeaderName::from_static("last-event-id");
/// A comment says this often that the connection lives.
const HEARTBEAT: Duration = Duration::from_secs(15);
/// How soon a client that lost the connection should come back.
const RETRY: &[u8] = b"retry: 1000\n\n";
/// Stored bytes that are read of a shard before the next one has its turn.
const READ_BYTES: usize = 64 << 10;
/// Bytes that are sent as one piece.
const PIECE_BYTES: usize = 64 << 10;

/// Answers with a stream.
pub(crate) fn answer(
    app: &Arc<App>,
    connection: &Arc<ConnectionState>,
    parts: &request::Parts,
) -> Result<Response<Body>, Box<Problem>> {
    let names = ["after", "aggregate_type", "event_type"];
    let [after, aggregate_type, event_type] = query::parse(parts.uri.query(), names)?;
    let feed = app.feed.clone().ok_or_else(nothing_to_read)?;
    let types = words(aggregate_type.as_deref());
    if let Some(stranger) = types.iter().find(|t| app.router.types().get(t).is_none()) {
        let detail = format!("this node has no aggregate type `{stranger}`; /v1/types lists them");
        return Err(Box::new(Problem::query("aggregate_type", detail)));
    }
    let last_id = parts.headers.get(LAST_EVENT_ID);
    let last_id = last_id.filter(|id| !id.is_empty());
    let start = match last_id {
        Some(id) => {
            let id = id.to_str().ok();
            id.and_then(|id| seen(app, &*feed, id)).ok_or_else(|| {
                Problem::new(Code::InvalidHeader, "Last-Event-ID: ".to_owned() + FORM)
            })?
        }
        None => seen(app, &*feed, after.as_deref().unwrap_or("start"))
            .ok_or_else(|| Problem::query("after", FORM))?,
    };
    let unreadable = feed.unreadable_shards();
    if !unreadable.is_empty() {
        let detail =
            format!("no member with a copy of the shards {unreadable:?} can be reached from here");
        return Err(Box::new(Problem::new(Code::NotReady, detail)));
    }
    let slot = Arc::clone(&app.streams).try_acquire_owned();
    let slot = slot.map_err(|_| {
        let detail = "the node has as many event streams as http.max_event_streams allows";
        Problem::new(Code::Overloaded, detail)
    })?;
    let reader = Reader {
        app: Arc::clone(app),
        feed,
        cursors: (0..)
            .zip(&start)
            .map(|(shard, number)| FeedCursor::after(shard, *number))
            .collect(),
        seen: start,
        types,
        events: words(event_type.as_deref()),
        turn: 0,
        beat: interval_at(Instant::now() + HEARTBEAT, HEARTBEAT),
        farewell: app.farewell.subscribe(),
        ended: false,
        _slot: slot,
        _answering: connection.answering(),
    };
    let body = if parts.method == Method::HEAD {
        Body::empty()
    } else {
        let hello = futures_util::stream::iter([Ok(Bytes::from_static(RETRY))]);
        let pieces = unfold(reader, |mut reader| async move {
            let piece = reader.next().await?;
            Some((Ok::<_, std::convert::Infallible>(piece), reader))
        });
        Body::from_stream(futures_util::StreamExt::chain(hello, pieces))
    };
    let mut response = Response::new(body);
    let headers = response.headers_mut();
    let media_type = HeaderValue::from_static("text/event-stream");
    headers.insert(CONTENT_TYPE, media_type);
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    Ok(response)
}

const FORM: &str = "positions are `start`, `now` or a list such as 0:17,3:204, each shard once";

fn nothing_to_read() -> Problem {
    Problem::new(Code::NotReady, "this node has no events to show")
}

/// The words of a list with commas between them.
fn words(list: Option<&str>) -> Vec<String> {
    let list = list.unwrap_or_default().split(',');
    let words = list.filter(|word| !word.is_empty());
    words.map(str::to_owned).collect()
}

/// Up to where a reader has seen each shard. A shard that is not named has not been seen.
fn seen(app: &App, feed: &dyn Feed, positions: &str) -> Option<Vec<u64>> {
    let shards = app.router.shards();
    match positions {
        "start" => Some((0..shards).map(|_| 0).collect()),
        // What this node has answered may be a moment ahead of what the feed shows.
        "now" => {
            let newest = |s| {
                feed.committed_position(s)
                    .max(app.router.released_position(s))
            };
            Some((0..shards).map(newest).collect())
        }
        list => seen_in_list(list, shards),
    }
}

fn seen_in_list(list: &str, shards: u32) -> Option<Vec<u64>> {
    let mut seen: Vec<Option<u64>> = (0..shards).map(|_| None).collect();
    for position in list.split(',') {
        let position: Position = position.parse().ok()?;
        let slot = seen.get_mut(usize::try_from(position.shard).ok()?)?;
        if slot.replace(position.number).is_some() {
            return None;
        }
    }
    Some(seen.into_iter().map(Option::unwrap_or_default).collect())
}

/// One client's place in the events, and what it wants of them.
struct Reader {
    app: Arc<App>,
    feed: Arc<dyn Feed>,
    cursors: Vec<FeedCursor>,
    /// What the client has seen, by shard; a cursor may be ahead within its record.
    seen: Vec<u64>,
    types: Vec<String>,
    events: Vec<String>,
    /// The shard that is read first, so that a busy one does not keep the others waiting.
    turn: usize,
    beat: Interval,
    farewell: watch::Receiver<bool>,
    ended: bool,
    _slot: OwnedSemaphorePermit,
    _answering: Answering,
}

impl Reader {
    /// The next piece of the stream; `None` at its end.
    async fn next(&mut self) -> Option<Bytes> {
        while !self.ended && !*self.farewell.borrow() {
            if self.beat.tick().now_or_never().is_some() {
                return Some(self.heartbeat());
            }
            let mut piece = BytesMut::new();
            let moved = self.read(&mut piece);
            if !piece.is_empty() {
                return Some(piece.freeze());
            }
            if moved {
                // All of it was for others; there may be much more of that.
                tokio::task::yield_now().await;
                continue;
            }
            let more = more(&*self.feed, &self.cursors);
            let beats = tokio::select! {
                () = more => false,
                _ = self.beat.tick() => true,
                _ = self.farewell.wait_for(|over| *over) => false,
            };
            if beats {
                return Some(self.heartbeat());
            }
        }
        None
    }

    /// Reads each shard once, until the piece is large enough; whether there was anything.
    fn read(&mut self, piece: &mut BytesMut) -> bool {
        let mut moved = false;
        for _ in 0..self.cursors.len() {
            let shard = self.turn;
            self.turn = (self.turn + 1) % self.cursors.len();
            moved |= self.read_shard(shard, piece);
            if self.ended || piece.len() >= PIECE_BYTES {
                break;
            }
        }
        moved
    }

    fn read_shard(&mut self, shard: usize, piece: &mut BytesMut) -> bool {
        let Some(cursor) = self.cursors.get_mut(shard) else {
            return false;
        };
        if self.feed.committed_position(cursor.shard()) <= cursor.position() {
            return false;
        }
        let records = match self.feed.read_committed(cursor, READ_BYTES) {
            Ok(records) => records,
            Err(error) => {
                self.fail(piece, &error.to_string());
                return true;
            }
        };
        let before = piece.len();
        for record in &records {
            if let Err(reason) = self.put_record(shard, record, piece) {
                // What stands before it is sent; the client comes back to the same place.
                if piece.len() == before {
                    self.fail(piece, &reason);
                }
                self.ended = true;
                break;
            }
        }
        !records.is_empty()
    }

    fn put_record(
        &mut self,
        shard: usize,
        record: &Record,
        piece: &mut BytesMut,
    ) -> Result<(), String> {
        let seen = self.seen.get(shard).copied().unwrap_or_default();
        let last = (record.first_position + u64::from(record.event_count)).saturating_sub(1);
        let kind = record.stream.aggregate_type();
        let wanted = self.types.is_empty() || self.types.iter().any(|t| t == kind);
        // A type that is not registered is none of the domain's.
        if wanted && self.app.router.types().get(kind).is_some() {
            let shard_id = u32::try_from(shard).unwrap_or(u32::MAX);
            let events = self.app.router.types().events(shard_id, record)?;
            for event in events.iter().filter(|e| e.position.number > seen) {
                self.put(shard, record, event, piece);
            }
        }
        if let Some(seen) = self.seen.get_mut(shard) {
            *seen = last.max(*seen);
        }
        Ok(())
    }

    fn put(&mut self, shard: usize, record: &Record, event: &RecordedEvent, piece: &mut BytesMut) {
        if let Some(seen) = self.seen.get_mut(shard) {
            *seen = event.position.number;
        }
        let wanted = self.events.is_empty() || self.events.iter().any(|e| *e == event.event_type);
        if !wanted {
            return;
        }
        self.put_id(piece);
        piece.put_slice(b"data: ");
        put_event(piece, &record.stream, event);
        piece.put_slice(b"\n\n");
        self.app.metrics.streamed.increment(1);
    }

    /// Where the reader stands; shards of which it has seen nothing are left out.
    fn put_id(&self, out: &mut BytesMut) {
        out.put_slice(b"id: ");
        let mut first = true;
        for (shard, number) in (0..).zip(&self.seen).filter(|(_, number)| **number > 0) {
            if !std::mem::take(&mut first) {
                out.put_u8(b',');
            }
            put_number(out, shard);
            out.put_u8(b':');
            put_number(out, *number);
        }
        out.put_u8(b'\n');
    }

    /// A comment, and the place besides: a reader of rare events need not read all others again.
    fn heartbeat(&self) -> Bytes {
        let mut out = BytesMut::new();
        out.put_slice(b": alive\n");
        if self.seen.iter().any(|number| *number > 0) {
            self.put_id(&mut out);
        }
        out.put_u8(b'\n');
        out.freeze()
    }

    /// Ends the stream with the reason.
    fn fail(&mut self, out: &mut BytesMut, reason: &str) {
        tracing::error!(reason, "an event stream ends");
        self.ended = true;
        let problem = serde_json::json!({ "code": "internal", "detail": reason });
        out.put_slice(format!("event: error\ndata: {problem}\n\n").as_bytes());
    }
}

/// Ready when any shard has more than was read.
fn more<'a>(feed: &'a dyn Feed, cursors: &'a [FeedCursor]) -> impl Future<Output = ()> + 'a {
    let waits = cursors
        .iter()
        .map(|cursor| feed.wait_committed(cursor.shard(), cursor.position()));
    select_all(waits).map(|_| ())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_names_each_shard_at_most_once_and_only_those_that_exist() {
        assert_eq!(seen_in_list("2:17,0:4", 3), Some(vec![4, 0, 17]));
        for bad in [
            "", "x", "0", "0:", "0:1,0:2", "3:1", "0:1,", "-1:2", "0:1;1:2",
        ] {
            assert_eq!(seen_in_list(bad, 3), None, "{bad}");
        }
    }

    #[test]
    fn words_stand_between_commas() {
        assert_eq!(words(Some("a,b,")), ["a", "b"]);
        assert!(words(None).is_empty() && words(Some("")).is_empty());
    }
}
