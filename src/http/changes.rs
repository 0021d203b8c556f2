//! `GET /v1/views/{view}/changes`: which rows of a read model have changed, as it happens.
//!
//! Server-sent events with keys and positions, sent after the transaction that changed the rows. The
//! rows themselves are read as any others are. Refuses: to hide that something was not told; then a
//! `reset` says so. Invariant: whoever comes back with an `id` misses nothing and is told nothing
//! twice, or is told to read the rows again.

use std::sync::Arc;

use axum::body::Body;
use bytes::{BufMut as _, Bytes, BytesMut};
use http::{Response, request};

use super::app::App;
use super::guard::ConnectionState;
use super::metrics::HttpMetrics;
use super::problem::Problem;
use super::sse::{self, Ticket, Woken};
use super::{query, views};
use crate::projection::{ChangeId, Follower, Told};

/// Rows that are told of in one piece.
const PIECE_ROWS: usize = 256;

/// Answers with a stream.
pub(crate) fn answer(
    app: &Arc<App>,
    connection: &ConnectionState,
    parts: &request::Parts,
    view: &str,
) -> Result<Response<Body>, Box<Problem>> {
    let (known, view) = views::find(app, view)?;
    let pairs = query::pairs(parts.uri.query())?;
    let from = sse::last_event_id(parts).map(|id| {
        let id = id.to_str().ok();
        id.and_then(|id| ChangeId::parse(id, app.router.shards()))
            .ok_or_else(|| sse::bad_event_id("the id is none of a stream of changes"))
    });
    let follower = known.follow(&view, &pairs, from.transpose()?)?;
    let reader = Reader {
        app: Arc::clone(app),
        follower,
        ticket: Ticket::take(app, connection)?,
    };
    Ok(sse::respond(&parts.method, reader))
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
