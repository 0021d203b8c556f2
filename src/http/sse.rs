//! What all streams of server-sent events have in common: their number is bounded, they say that
//! they live, and they end with the node.
//!
//! Owns: the place that a stream takes, its heartbeat, the form of a message. Refuses: to keep
//! anything for a reader. The next piece is made when the client has taken the one before; a client
//! that does not read is cut by the limits of its connection, and comes back with the last `id`.
//! Invariant: a stream holds one piece in memory, however slow its reader is.

use std::convert::Infallible;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use bytes::{BufMut as _, Bytes, BytesMut};
use futures_util::FutureExt as _;
use futures_util::stream::unfold;
use http::header::{CACHE_CONTROL, CONTENT_TYPE, HeaderName};
use http::{HeaderValue, Method, Response, request};
use tokio::sync::{OwnedSemaphorePermit, watch};
use tokio::time::{Instant, Interval, interval_at};

use super::app::App;
use super::code::Code;
use super::guard::{Answering, ConnectionState};
use super::problem::Problem;

pub(crate) const LAST_EVENT_ID: HeaderName = HeaderName::from_static("last-event-id");
/// A comment says this often that the connection lives.
const HEARTBEAT: Duration = Duration::from_secs(15);
/// How soon a client that lost the connection should come back.
const RETRY: &[u8] = b"retry: 1000\n\n";

/// Where a client goes on that was here before; an empty one counts as none, as in a browser.
///
/// # Errors
/// 400 `invalid-header` for more than one: whichever was taken, the other might be meant.
pub(crate) fn last_event_id(parts: &request::Parts) -> Result<Option<&HeaderValue>, Problem> {
    let mut ids = parts.headers.get_all(LAST_EVENT_ID).iter();
    let id = ids.next();
    if ids.next().is_some() {
        let detail = "Last-Event-ID appears twice";
        return Err(Problem::new(Code::InvalidHeader, detail));
    }
    Ok(id.filter(|id| !id.is_empty()))
}

/// The refusal of an id that this stream did not give.
pub(crate) fn bad_event_id(form: &str) -> Problem {
    Problem::new(Code::InvalidHeader, format!("Last-Event-ID: {form}"))
}

/// Why a stream woke up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Woken {
    /// What it waited for has come.
    News,
    /// A comment is due.
    Beat,
    /// The node stops.
    Over,
}

/// A stream's place among those that the node has, for as long as it lives.
#[derive(Debug)]
pub(crate) struct Ticket {
    beat: Interval,
    farewell: watch::Receiver<bool>,
    answering: Answering,
    _slot: OwnedSemaphorePermit,
}

impl Ticket {
    /// Takes a place.
    ///
    /// # Errors
    /// 503 `overloaded` when there is none.
    pub(crate) fn take(app: &App, connection: &ConnectionState) -> Result<Self, Problem> {
        let slot = Arc::clone(&app.streams).try_acquire_owned();
        let slot = slot.map_err(|_| {
            let detail = "the node has as many event streams as http.max_event_streams allows";
            Problem::new(Code::Overloaded, detail)
        })?;
        Ok(Self {
            beat: interval_at(Instant::now() + HEARTBEAT, HEARTBEAT),
            farewell: app.farewell.subscribe(),
            answering: connection.answering(),
            _slot: slot,
        })
    }

    /// Whether the node stops.
    pub(crate) fn is_over(&self) -> bool {
        *self.farewell.borrow()
    }

    /// Whether a comment is due.
    pub(crate) fn beats(&mut self) -> bool {
        self.beat.tick().now_or_never().is_some()
    }

    /// Waits for news, a comment that is due, or the end of the node.
    pub(crate) async fn wait(&mut self, news: impl Future<Output = ()>) -> Woken {
        tokio::select! {
            () = news => Woken::News,
            _ = self.beat.tick() => Woken::Beat,
            _ = self.farewell.wait_for(|over| *over) => Woken::Over,
        }
    }

    /// What the future gives; `None` when the node stops first.
    pub(crate) async fn unless_over<T>(&mut self, future: impl Future<Output = T>) -> Option<T> {
        tokio::select! {
            value = future => Some(value),
            _ = self.farewell.wait_for(|over| *over) => None,
        }
    }
}

/// Whoever makes the pieces of a stream.
pub(crate) trait Reader: Send + 'static {
    /// Its place.
    fn ticket(&self) -> &Ticket;

    /// The next piece; `None` ends the stream.
    fn next(&mut self) -> impl Future<Output = Option<Bytes>> + Send;
}

/// The answer that streams what a reader gives.
pub(crate) fn respond(method: &Method, reader: impl Reader) -> Response<Body> {
    let body = if method == Method::HEAD {
        // Not an empty body, which would be said to have a length of 0: a stream has none.
        Body::from_stream(futures_util::stream::empty::<Result<Bytes, Infallible>>())
    } else {
        let hello = futures_util::stream::iter([Ok(Bytes::from_static(RETRY))]);
        let pieces = unfold(reader, |mut reader| async move {
            reader.ticket().answering.taken();
            let piece = reader.next().await?;
            reader.ticket().answering.given();
            Some((Ok::<_, Infallible>(piece), reader))
        });
        Body::from_stream(futures_util::StreamExt::chain(hello, pieces))
    };
    let mut response = Response::new(body);
    let headers = response.headers_mut();
    let media_type = HeaderValue::from_static("text/event-stream");
    headers.insert(CONTENT_TYPE, media_type);
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

/// A comment, and the place besides, for a reader whose place moves without messages.
pub(crate) fn heartbeat(id: Option<&str>) -> Bytes {
    let mut out = BytesMut::new();
    out.put_slice(b": alive\n");
    if let Some(id) = id {
        put_line(&mut out, b"id: ", id);
    }
    out.put_u8(b'\n');
    out.freeze()
}

/// Appends a line of a message. The value must have no line break: ids and names have none, nor has
/// compact JSON.
pub(crate) fn put_line(out: &mut BytesMut, name: &[u8], value: &str) {
    out.put_slice(name);
    out.put_slice(value.as_bytes());
    out.put_u8(b'\n');
}

/// Appends the message that ends a stream with its reason.
pub(crate) fn put_error(out: &mut BytesMut, code: &str, reason: &str) {
    put_problem(out, &serde_json::json!({ "code": code, "detail": reason }));
}

/// The same with all that is known of the reason.
pub(crate) fn put_problem(out: &mut BytesMut, problem: &serde_json::Value) {
    out.put_slice(format!("event: error\ndata: {problem}\n\n").as_bytes());
}
