//! `GET /v1/views/{view}/changes`: which rows of a read model have changed, as it happens.
//!
//! Server-sent events with keys and positions, sent after the transaction that changed the rows. The
//! rows themselves are read as any others are. Refuses: to hide that something was not told; then a
//! `reset` says so. Invariant: whoever comes back with an `id` misses nothing and is told nothing
//! twice, or is told to read the rows again.
//!
//! Only a node that fills the rows knows which change. Another one asks it for one page after the other
//! by position (`relay`), so a reader costs it one page of memory and the other node nothing between
//! two pages.

mod relay;

use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use bytes::{BufMut as _, Bytes, BytesMut};
use http::{HeaderValue, Response, StatusCode, request};
use tokio::time::Instant;

use super::app::App;
use super::elsewhere::{ASK, HandedOn, PAGE_WAIT, PLACE};
use super::guard::ConnectionState;
use super::metrics::HttpMetrics;
use super::problem::Problem;
use super::response::typed;
use super::service::{Answered, problem_reply};
use super::sse::{self, Ticket, Woken};
use super::{query, views};
use crate::cluster::queries::Whom;
use crate::projection::{ChangeId, Follower, Told, ViewError};

/// Rows that are told of in one piece.
const PIECE_ROWS: usize = 256;

/// Answers with a stream: of this node's rows, or of those of another member.
pub(crate) async fn answer(
    app: &Arc<App>,
    connection: &ConnectionState,
    parts: &request::Parts,
    view: &str,
    whom: Option<Whom>,
) -> Result<Response<Body>, Box<Problem>> {
    if let Some(whom) = whom {
        return relay::answer(app, connection, parts, whom).await;
    }
    let follower = match follow(app, parts, view)? {
        Ok(follower) => follower,
        Err(ViewError::Elsewhere { writer }) if app.queries.is_some() => {
            // Who writes may be found out by asking anybody.
            let whom = writer.parse().map_or(Whom::Any, Whom::First);
            return relay::answer(app, connection, parts, whom).await;
        }
        Err(error) => return Err(error.into()),
    };
    let reader = Reader {
        app: Arc::clone(app),
        follower,
        ticket: Ticket::take(app, connection)?,
    };
    Ok(sse::respond(&parts.method, reader))
}

/// Answers another member with the next piece of a stream, and the place behind it. Without any news
/// within its time, it is empty.
pub(crate) async fn page(app: &App, parts: &request::Parts, view: &str) -> Answered {
    let mut follower = match follow(app, parts, view)? {
        Ok(follower) => follower,
        Err(error) => return elsewhere(parts, error),
    };
    let mut place = follower.id();
    let deadline = Instant::now() + page_wait(parts);
    let piece = loop {
        match follower.told(PIECE_ROWS) {
            Told::Changed(told) if told.is_empty() => tokio::task::yield_now().await,
            told @ (Told::Changed(_) | Told::Reset { .. }) => {
                place = follower.id();
                break piece(&app.metrics, told);
            }
            Told::Nothing => {
                place = follower.id();
                let news = tokio::time::timeout_at(deadline, follower.wait()).await;
                if news.is_err() {
                    break Bytes::new();
                }
            }
            Told::Incomplete => match follow(app, parts, view)? {
                Ok(_) => break Bytes::new(),
                Err(error) => return elsewhere(parts, error),
            },
        }
    };
    let mut reply = typed(StatusCode::OK, "text/event-stream", piece);
    if let Ok(place) = HeaderValue::try_from(place) {
        reply.headers_mut().insert(PLACE, place);
    }
    Ok(reply)
}

/// The refusal for another member, which may ask who fills the views then.
fn elsewhere(parts: &request::Parts, error: ViewError) -> Answered {
    let ViewError::Elsewhere { writer } = &error else {
        return Err(error.into());
    };
    let writer = writer.parse::<u64>().map(HeaderValue::from);
    let mut reply = problem_reply(error.into(), parts.uri.path(), parts);
    if let Ok(writer) = writer {
        reply.headers_mut().insert(ASK, writer);
    }
    Ok(reply)
}

/// How long a page may wait for something to tell.
fn page_wait(parts: &request::Parts) -> Duration {
    let asked = parts.headers.get(PAGE_WAIT);
    let asked = asked.and_then(|wait| wait.to_str().ok()?.parse().ok());
    let wait = Duration::from_millis(asked.unwrap_or_default());
    let handed_on = parts.extensions.get::<HandedOn>();
    handed_on.map_or(Duration::ZERO, |handed_on| handed_on.left_of(wait))
}

/// A follower of a view's rows, from the place that the client has seen.
fn follow(
    app: &App,
    parts: &request::Parts,
    view: &str,
) -> Result<Result<Follower, ViewError>, Box<Problem>> {
    let (known, view) = views::find(app, view)?;
    let pairs = query::pairs(parts.uri.query())?;
    let from = sse::last_event_id(parts)?.map(|id| {
        let id = id.to_str().ok();
        id.and_then(|id| ChangeId::parse(id, app.router.shards()))
            .ok_or_else(|| sse::bad_event_id("the id is none of a stream of changes"))
    });
    Ok(known.follow(&view, &pairs, from.transpose()?))
}

struct Reader {
    app: Arc<App>,
    follower: Follower,
    ticket: Ticket,
}

impl sse::Reader for Reader {
    fn ticket(&self) -> &Ticket {
        &self.ticket
    }

    async fn next(&mut self) -> Option<Bytes> {
        while !self.ticket.is_over() {
            if self.ticket.beats() {
                return Some(self.heartbeat());
            }
            match self.follower.told(PIECE_ROWS) {
                // All of it was about other rows.
                Told::Changed(told) if told.is_empty() => tokio::task::yield_now().await,
                told @ (Told::Changed(_) | Told::Reset { .. }) => {
                    return Some(piece(&self.app.metrics, told));
                }
                Told::Nothing => {
                    let news = self.follower.wait();
                    if self.ticket.wait(news).await == Woken::Beat {
                        return Some(self.heartbeat());
                    }
                }
                Told::Incomplete => return None,
            }
        }
        None
    }
}

impl Reader {
    /// The place besides: a reader of a row that rarely changes stays within what is known.
    fn heartbeat(&self) -> Bytes {
        sse::heartbeat(Some(&self.follower.id()))
    }
}

fn piece(metrics: &HttpMetrics, told: Told) -> Bytes {
    let mut out = BytesMut::new();
    match told {
        Told::Reset {
            reason,
            positions,
            id,
        } => {
            let data = serde_json::json!({ "reason": reason.name(), "positions": positions });
            put(&mut out, "reset", &id, data.to_string().as_bytes());
            metrics.streamed.increment(1);
        }
        Told::Changed(told) => {
            for (id, changed) in &told {
                put(&mut out, "change", id, &changed.to_json());
            }
            metrics.streamed.increment(told.len() as u64);
        }
        Told::Nothing | Told::Incomplete => {}
    }
    out.freeze()
}

fn put(out: &mut BytesMut, kind: &str, id: &str, data: &[u8]) {
    sse::put_line(out, b"event: ", kind);
    sse::put_line(out, b"id: ", id);
    out.put_slice(b"data: ");
    out.put_slice(data);
    out.put_slice(b"\n\n");
}
