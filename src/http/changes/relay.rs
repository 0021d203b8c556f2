//! A stream of changes whose pieces come from another member.
//!
//! Owns the place of one reader, and asks for the piece behind it when the client has taken the one
//! before. Refuses to look into a piece. Invariant: the place moves with the piece that is given on, so
//! whichever member is asked next goes on there, or says that the rows must be read again.

use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use bytes::Bytes;
use http::{Response, StatusCode, request};
use tokio::time::Instant;

use crate::cluster::queries::{Query, Whom};
use crate::cluster::wire::QueryAnswer;
use crate::http::app::App;
use crate::http::elsewhere::{PAGE_WAIT, PLACE, ask, query_of, reply_of};
use crate::http::guard::ConnectionState;
use crate::http::problem::Problem;
use crate::http::routes::Route;
use crate::http::sse::{self, LAST_EVENT_ID, Ticket, Woken};

/// For how long a member may have nothing to tell.
const WAIT: Duration = Duration::from_secs(10);
/// What its answer may take beyond that.
const SPARE: Duration = Duration::from_secs(2);

/// Answers with a stream, or with what the member says against it.
pub(super) async fn answer(
    app: &Arc<App>,
    connection: &ConnectionState,
    parts: &request::Parts,
    whom: Whom,
) -> Result<Response<Body>, Box<Problem>> {
    let mut reader = Reader {
        app: Arc::clone(app),
        query: query_of(app, parts, Route::ViewChanges),
        whom,
        place: String::new(),
        first: Bytes::new(),
        ticket: Ticket::take(app, connection)?,
    };
    let (_, answer) = ask(app, &reader.query, whom).await?;
    if answer.status != StatusCode::OK.as_u16() {
        return Ok(reply_of(answer).map(Body::from));
    }
    reader.first = reader.take(answer);
    Ok(sse::respond(&parts.method, reader))
}

struct Reader {
    app: Arc<App>,
    query: Query,
    whom: Whom,
    /// Where the reader stands, as an id.
    place: String,
    /// The piece that came before the stream was opened.
    first: Bytes,
    ticket: Ticket,
}

impl Reader {
    /// Goes to the place behind a piece.
    fn take(&mut self, answer: QueryAnswer) -> Bytes {
        let place = answer
            .headers
            .iter()
            .find(|(name, _)| name == PLACE.as_str());
        if let Some((_, place)) = place {
            self.place = String::from_utf8_lossy(place).into_owned();
            let wait = WAIT.as_millis().to_string().into_bytes();
            self.query.headers = vec![
                (LAST_EVENT_ID.as_str().to_owned(), place.clone()),
                (PAGE_WAIT.as_str().to_owned(), wait),
            ];
        }
        answer.body
    }
}

impl sse::Reader for Reader {
    fn ticket(&self) -> &Ticket {
        &self.ticket
    }

    async fn next(&mut self) -> Option<Bytes> {
        if !self.first.is_empty() {
            return Some(std::mem::take(&mut self.first));
        }
        while !self.ticket.is_over() {
            if self.ticket.beats() {
                return Some(sse::heartbeat(Some(&self.place)));
            }
            self.query.since = Instant::now();
            self.query.deadline = self.query.since + WAIT + SPARE;
            let mut asked = None;
            let news = async { asked = Some(ask(&self.app, &self.query, self.whom).await) };
            if self.ticket.wait(news).await == Woken::Beat {
                return Some(sse::heartbeat(Some(&self.place)));
            }
            // A client that is told nothing more comes back with its place.
            let (_, answer) = asked?.ok()?;
            if answer.status != StatusCode::OK.as_u16() {
                return None;
            }
            let piece = self.take(answer);
            if !piece.is_empty() {
                return Some(piece);
            }
        }
        None
    }
}
