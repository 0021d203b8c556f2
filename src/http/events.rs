//! `GET /v1/events`: committed events of all shards as a stream that does not end.
//!
//! Server-sent events, one CloudEvent each, in order within a shard. It owns where each reader
//! stands and refuses to keep anything for a reader: it reads from the journal when the client has
//! taken what was sent before. Invariant: the `id` of an event says, for every shard, up to where
//! the reader has seen everything; whoever comes back with it misses nothing and sees nothing twice.

use std::future::Future;
use std::sync::Arc;

use axum::body::Body;
use bytes::{BufMut, Bytes, BytesMut};
use futures_util::FutureExt as _;
use futures_util::future::select_all;
use http::{Response, request};
use phalanx_actors::history::{RecordedEvent, parts};
use phalanx_actors::names::{Position, ShardId};
use phalanx_actors::ports::{Feed, FeedCursor};
use phalanx_actors::record::Record;

use super::app::App;
use super::code::Code;
use super::guard::ConnectionState;
use super::history::put_event;
use super::problem::Problem;
use super::query;
use super::render::put_number;
use super::sse::{self, Ticket, Woken};
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
    let events = words(event_type.as_deref());
    check_events(app, &types, &events)?;
    let start = match sse::last_event_id(parts)? {
        Some(id) => {
            let id = id.to_str().ok();
            id.and_then(|id| seen(app, &*feed, id))
                .ok_or_else(|| sse::bad_event_id(FORM))?
        }
        None => seen(app, &*feed, after.as_deref().unwrap_or("start"))
            .ok_or_else(|| Problem::query("after", FORM))?,
    };
    let unreadable = feed.unreadable_shards();
    if !unreadable.is_empty() {
        return Err(Box::new(not_here(&unreadable)));
    }
    let ticket = Ticket::take(app, connection)?;
    let reader = Reader {
        app: Arc::clone(app),
        feed,
        cursors: (0..)
            .zip(&start)
            .map(|(shard, seen)| FeedCursor::after(shard, seen.whole()))
            .collect(),
        seen: start,
        types,
        events,
        turn: 0,
        ended: false,
        ticket,
    };
    Ok(sse::respond(&parts.method, reader))
}

const FORM: &str = "positions are `start`, `now` or a list such as 0:17,3:204, each shard once";

pub(crate) fn nothing_to_read() -> Problem {
    Problem::new(Code::NotReady, "this node has no events to show")
}

/// The refusal of a stream that would need these shards.
pub(crate) fn not_here(shards: &[ShardId]) -> Problem {
    let detail = format!("no member with a copy of the shards {shards:?} can be reached from here");
    Problem::new(Code::NotReady, detail)
}

/// Refuses an event that none of the types has, of which nothing would ever be told.
fn check_events(app: &App, types: &[String], events: &[String]) -> Result<(), Problem> {
    let wanted = |name: &str| types.is_empty() || types.iter().any(|t| t == name);
    let has = |event: &String| {
        let mut types = app.router.types().iter().filter(|t| wanted(t.name));
        types.any(|t| t.events.iter().any(|e| e.name == *event))
    };
    match events.iter().find(|event| !has(event)) {
        None => Ok(()),
        Some(stranger) => {
            let detail = format!("there is no event `{stranger}`; /v1/types lists them");
            Err(Problem::query("event_type", detail))
        }
    }
}

/// The words of a list with commas between them.
fn words(list: Option<&str>) -> Vec<String> {
    let list = list.unwrap_or_default().split(',');
    let words = list.filter(|word| !word.is_empty());
    words.map(str::to_owned).collect()
}

/// Up to where a reader has seen a shard.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Seen {
    /// The last position that it has seen, at least in part.
    number: u64,
    /// How many parts of the event there it has seen, if that was split and there are more; else 0.
    parts: usize,
}

impl Seen {
    fn all(number: u64) -> Self {
        Self { number, parts: 0 }
    }

    /// The last position that it has seen as a whole.
    fn whole(self) -> u64 {
        self.number - u64::from(self.parts > 0)
    }

    /// Whether it has seen a part, counted from 0, of the event at a position.
    fn covers(self, number: u64, part: usize) -> bool {
        let within = number == self.number && (self.parts == 0 || part < self.parts);
        number < self.number || within
    }

    /// Reads `shard:number`, or `shard:number.parts`.
    fn parse(text: &str) -> Option<(u32, Self)> {
        let (position, parts) = match text.split_once('.') {
            None => (text, 0),
            Some((position, parts)) => (position, parts.parse().ok().filter(|parts| *parts > 0)?),
        };
        let Position { shard, number } = position.parse().ok()?;
        (number > 0 || parts == 0).then_some((shard, Self { number, parts }))
    }
}

/// Up to where a reader has seen each shard. A shard that is not named has not been seen.
fn seen(app: &App, feed: &dyn Feed, positions: &str) -> Option<Vec<Seen>> {
    let shards = app.router.shards();
    match positions {
        "start" => Some((0..shards).map(|_| Seen::default()).collect()),
        // What this node has answered may be a moment ahead of what the feed shows.
        "now" => {
            let newest = |s| {
                let committed = feed.committed_position(s);
                Seen::all(committed.max(app.router.released_position(s)))
            };
            Some((0..shards).map(newest).collect())
        }
        list => seen_in_list(list, shards),
    }
}

fn seen_in_list(list: &str, shards: u32) -> Option<Vec<Seen>> {
    let mut places = query::by_shard(list, Seen::parse)?;
    let seen = (0..shards).map(|shard| places.remove(&shard).unwrap_or_default());
    let seen = seen.collect();
    // What is left is of shards that do not exist.
    places.is_empty().then_some(seen)
}

/// One client's place in the events, and what it wants of them.
struct Reader {
    app: Arc<App>,
    feed: Arc<dyn Feed>,
    cursors: Vec<FeedCursor>,
    /// What the client has seen, by shard; a cursor may be ahead within its record.
    seen: Vec<Seen>,
    types: Vec<String>,
    events: Vec<String>,
    /// The shard that is read first, so that a busy one does not keep the others waiting.
    turn: usize,
    ended: bool,
    ticket: Ticket,
}

impl sse::Reader for Reader {
    fn ticket(&self) -> &Ticket {
        &self.ticket
    }

    async fn next(&mut self) -> Option<Bytes> {
        while !self.ended && !self.ticket.is_over() {
            if self.ticket.beats() {
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
            if self.ticket.wait(more).await == Woken::Beat {
                return Some(self.heartbeat());
            }
        }
        None
    }
}

impl Reader {
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
        for record in &records {
            if let Err(reason) = self.put_record(shard, record, piece) {
                self.fail_at(shard, record, piece, &reason);
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
        let kind = record.stream.aggregate_type();
        let wanted = self.types.is_empty() || self.types.iter().any(|t| t == kind);
        // A type that is not registered is none of the domain's.
        if wanted && self.app.router.types().get(kind).is_some() {
            let shard_id = u32::try_from(shard).unwrap_or(u32::MAX);
            let events = self.app.router.types().events(shard_id, record)?;
            let mut rest = parts(&events).peekable();
            while let Some((part, event)) = rest.next() {
                let more = rest.peek().is_some_and(|(part, _)| *part > 0);
                if !seen.covers(event.position.number, part) {
                    self.put(shard, record, (part, event), more, piece);
                }
            }
        }
        if let Some(seen) = self.seen.get_mut(shard) {
            *seen = Seen::all(record.last_position().max(seen.number));
        }
        Ok(())
    }

    /// Sends one event, if it is wanted. `more` says that further parts of it follow.
    fn put(
        &mut self,
        shard: usize,
        record: &Record,
        (part, event): (usize, &RecordedEvent),
        more: bool,
        piece: &mut BytesMut,
    ) {
        if let Some(seen) = self.seen.get_mut(shard) {
            *seen = Seen {
                number: event.position.number,
                parts: if more { part + 1 } else { 0 },
            };
        }
        let wanted = self.events.is_empty() || self.events.iter().any(|e| *e == event.event_type);
        if !wanted {
            return;
        }
        self.put_id(piece);
        piece.put_slice(b"data: ");
        let url = self.app.public_url.as_str();
        put_event(piece, url, &record.stream, event, part);
        piece.put_slice(b"\n\n");
        self.app.metrics.streamed.increment(1);
    }

    /// Ends the stream before a record that cannot be shown, and says where it goes on behind it: a
    /// client that comes back as it was is told the same again.
    fn fail_at(&mut self, shard: usize, record: &Record, out: &mut BytesMut, reason: &str) {
        let stream = &record.stream;
        let aggregate = format!("{}/{}", stream.aggregate_type(), stream.id());
        let position = format!("{shard}:{}", record.first_position);
        tracing::error!(%aggregate, %position, reason, "an event stream ends");
        self.ended = true;
        let mut behind = self.seen.clone();
        if let Some(seen) = behind.get_mut(shard) {
            *seen = Seen::all(record.last_position().max(seen.number));
        }
        let mut resume_after = BytesMut::new();
        put_places(&behind, &mut resume_after);
        let detail = format!(
            "the events of {aggregate} from position {position} on cannot be shown: {reason}; this \
             stream goes on without those of that command with `resume_after` as Last-Event-ID"
        );
        let problem = serde_json::json!({
            "code": Code::AggregateQuarantined.describe().name,
            "detail": detail,
            "aggregate": aggregate,
            "position": position,
            "resume_after": String::from_utf8_lossy(&resume_after),
        });
        sse::put_problem(out, &problem);
    }

    /// Where the reader stands; shards of which it has seen nothing are left out.
    fn put_id(&self, out: &mut BytesMut) {
        out.put_slice(b"id: ");
        put_places(&self.seen, out);
        out.put_u8(b'\n');
    }

    /// A reader of rare events need not read all others again when it comes back.
    fn heartbeat(&self) -> Bytes {
        let mut out = BytesMut::from(&b": alive\n"[..]);
        if self.seen.iter().any(|seen| seen.number > 0) {
            self.put_id(&mut out);
        }
        out.put_u8(b'\n');
        out.freeze()
    }

    /// Ends the stream with the reason.
    fn fail(&mut self, out: &mut BytesMut, reason: &str) {
        tracing::error!(reason, "an event stream ends");
        self.ended = true;
        sse::put_error(out, "internal", reason);
    }
}

/// Places by shard; those of which nothing was seen are left out.
fn put_places(seen: &[Seen], out: &mut BytesMut) {
    let mut first = true;
    for (shard, seen) in (0..).zip(seen).filter(|(_, seen)| seen.number > 0) {
        if !std::mem::take(&mut first) {
            out.put_u8(b',');
        }
        put_number(out, shard);
        out.put_u8(b':');
        put_number(out, seen.number);
        if seen.parts > 0 {
            out.put_u8(b'.');
            put_number(out, seen.parts as u64);
        }
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
        let part_of = |number, parts| Seen { number, parts };
        let seen = |list| seen_in_list(list, 3);
        assert_eq!(
            seen("2:17,0:4"),
            Some(vec![Seen::all(4), Seen::all(0), Seen::all(17)])
        );
        assert_eq!(
            seen("1:9.2"),
            Some(vec![Seen::all(0), part_of(9, 2), Seen::all(0)])
        );
        for bad in [
            "", "x", "0", "0:", "0:1,0:2", "3:1", "0:1,", "-1:2", "0:1;1:2", "0:1.0", "0:1.",
            "0:0.1", "0:1.x", "0:1.2.3",
        ] {
            assert_eq!(seen_in_list(bad, 3), None, "{bad}");
        }
    }

    #[test]
    fn a_place_between_two_parts_covers_those_before_it() {
        let seen = Seen {
            number: 9,
            parts: 2,
        };
        assert_eq!(seen.whole(), 8);
        let covered = [(8, 5), (9, 0), (9, 1)].map(|(number, part)| seen.covers(number, part));
        assert_eq!(covered, [true; 3]);
        let ahead = [(9, 2), (10, 0)].map(|(number, part)| seen.covers(number, part));
        assert_eq!(ahead, [false; 2]);
        assert!(Seen::all(9).covers(9, 7) && !Seen::all(9).covers(10, 0));
    }

    #[test]
    fn words_stand_between_commas() {
        assert_eq!(words(Some("a,b,")), ["a", "b"]);
        assert!(words(None).is_empty() && words(Some("")).is_empty());
    }
}
