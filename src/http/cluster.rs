//! `/v1/cluster`, `/v1/shards`, and moving leaders: what operators look at and change.
//!
//! Says what the node's steward says. It refuses to interpret: an error of the steward has exactly
//! one code here.

use axum::body::Body;
use http::request;
use serde::Deserialize;
use serde_json::json;

use super::app::App;
use super::code::Code;
use super::guard::ConnectionState;
use super::problem::Problem;
use super::response::{Reply, json as json_reply};
use super::service::{Answered, decode};
use super::{body, headers, query};
use crate::cluster::NodeId;
use crate::cluster::status::MoveError;

/// Answers with the members.
pub(crate) async fn members(app: &App, parts: &request::Parts) -> Answered {
    let [] = query::parse(parts.uri.query(), [])?;
    rendered(&app.steward.cluster().await)
}

/// Answers with the shards.
pub(crate) async fn shards(app: &App, parts: &request::Parts) -> Answered {
    let [] = query::parse(parts.uri.query(), [])?;
    rendered(&json!({ "shards": app.steward.shards().await }))
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct TransferBody {
    to: NodeId,
}

/// Hands a shard to another voter.
pub(crate) async fn transfer(
    app: &App,
    connection: &ConnectionState,
    parts: &request::Parts,
    shard: &str,
    body: Body,
) -> Answered {
    let shard = number(shard).and_then(|shard| u32::try_from(shard).ok());
    let shard =
        shard.ok_or_else(|| not_found("a shard is a whole number; /v1/shards lists them"))?;
    let [] = query::parse(parts.uri.query(), [])?;
    headers::check_media_type(&parts.headers)?;
    let mut timer = std::mem::take(&mut *connection.timer.lock());
    let bytes = body::read(
        &parts.headers,
        body,
        app.limits.max_body_bytes,
        app.limits.body_timeout(),
        &mut timer,
    )
    .await;
    *connection.timer.lock() = timer;
    let TransferBody { to } = serde_json::from_slice(&bytes?).map_err(|error| {
        let detail = format!("expected {{\"to\": <id of a member>}}: {error}");
        Problem::new(Code::MalformedBody, detail).with("pointer", "")
    })?;
    match app.steward.transfer(shard, to).await {
        Ok(moved) => rendered(&moved),
        Err(error) => Err(Box::new(error.into())),
    }
}

/// Hands over everything that a member leads.
pub(crate) async fn drain(app: &App, parts: &request::Parts, node: &str) -> Answered {
    let node = number(node)
        .ok_or_else(|| not_found("a member is a whole number; /v1/cluster lists them"))?;
    let [] = query::parse(parts.uri.query(), [])?;
    match app.steward.drain(node).await {
        Ok(drained) => rendered(&drained),
        Err(error) => Err(Box::new(error.into())),
    }
}

fn number(segment: &str) -> Option<u64> {
    let text = decode(segment)?;
    let digits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    text.parse().ok().filter(|_| digits)
}

fn not_found(detail: &'static str) -> Box<Problem> {
    Box::new(Problem::new(Code::NotFound, detail))
}

fn rendered(value: &impl serde::Serialize) -> Answered {
    let body = serde_json::to_string(value);
    let reply = |body: String| -> Reply { json_reply(body) };
    body.map(reply)
        .map_err(|error| Box::new(Problem::new(Code::Internal, error.to_string())))
}

impl From<MoveError> for Problem {
    fn from(error: MoveError) -> Self {
        let code = match error {
            MoveError::NoShard { .. } | MoveError::NoMember { .. } => Code::NotFound,
            MoveError::NoLeader { .. } => Code::NoLeader,
            MoveError::Unreachable { .. } => Code::MemberUnreachable,
            MoveError::Refused { .. } | MoveError::Elsewhere { .. } => Code::TransferRefused,
            MoveError::TooSlow { .. } => Code::TransferTimeout,
        };
        Self::new(code, error.to_string())
    }
}
