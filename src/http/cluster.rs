//! `/v1/cluster`, `/v1/shards`, moving leaders and changing members: what operators look at and
//! change.
//!
//! Says what the node's steward says. It refuses to interpret: an error of the steward has exactly
//! one code here.

use http::{StatusCode, request};
use hyper::body::Incoming;
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
use crate::cluster::members::Standing;
use crate::cluster::status::{MemberChange, MoveError};
use crate::cluster::steward::ChangeError;
use crate::settings::is_host_port;

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
    body: Incoming,
) -> Answered {
    let shard = number(shard).and_then(|shard| u32::try_from(shard).ok());
    let shard =
        shard.ok_or_else(|| not_found("a shard is a whole number; /v1/shards lists them"))?;
    let [] = query::parse(parts.uri.query(), [])?;
    let expected = "{\"to\": <id of a member>}";
    let TransferBody { to } = fields(app, connection, parts, body, expected).await?;
    match app.steward.transfer(shard, to).await {
        Ok(moved) => rendered(&moved),
        Err(error) => Err(Box::new(error.into())),
    }
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct NodeBody {
    id: NodeId,
    address: String,
}

/// Lets a node join.
pub(crate) async fn add_node(
    app: &App,
    connection: &ConnectionState,
    parts: &request::Parts,
    body: Incoming,
) -> Answered {
    let [] = query::parse(parts.uri.query(), [])?;
    let expected =
        "{\"id\": <its node.id>, \"address\": \"<host:port where it listens for members>\"}";
    let NodeBody { id, address } = fields(app, connection, parts, body, expected).await?;
    let malformed = |pointer: &str, detail: &'static str| {
        Box::new(Problem::new(Code::MalformedBody, detail).with("pointer", pointer))
    };
    if id == 0 || i64::try_from(id).is_err() {
        return Err(malformed("/id", "an id is from 1 to 9223372036854775807"));
    }
    if !is_host_port(&address) {
        let detail = "an address is host:port, an IPv6 address in brackets";
        return Err(malformed("/address", detail));
    }
    changed(app.steward.add_node(&app.router, id, address).await)
}

/// Lets a member leave.
pub(crate) async fn remove_node(app: &App, parts: &request::Parts, node: &str) -> Answered {
    let node = number(node)
        .ok_or_else(|| not_found("a member is a whole number; /v1/cluster lists them"))?;
    let [] = query::parse(parts.uri.query(), [])?;
    changed(app.steward.remove_node(&app.router, node).await)
}

/// 202 while copies are still to be moved.
fn changed(outcome: Result<MemberChange, ChangeError>) -> Answered {
    let change = outcome.map_err(|error| Box::new(Problem::from(error)))?;
    let mut reply = rendered(&change)?;
    if matches!(change.standing, Standing::Joining | Standing::Leaving) {
        *reply.status_mut() = StatusCode::ACCEPTED;
    }
    Ok(reply)
}

/// Reads a body of a few fields.
async fn fields<T: serde::de::DeserializeOwned>(
    app: &App,
    connection: &ConnectionState,
    parts: &request::Parts,
    body: Incoming,
    expected: &str,
) -> Result<T, Box<Problem>> {
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
    serde_json::from_slice(&bytes?).map_err(|error| {
        let detail = format!("expected {expected}: {error}");
        Box::new(Problem::new(Code::MalformedBody, detail).with("pointer", ""))
    })
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

impl From<ChangeError> for Problem {
    fn from(error: ChangeError) -> Self {
        let detail = error.to_string();
        match error {
            ChangeError::Failed(failure) => failure.into(),
            ChangeError::Alone => {
                Self::new(Code::MembershipRefused, detail).with("rejection", "cluster-of-one")
            }
            ChangeError::Rejected { code, fields, .. } => match code.as_str() {
                "not-member" => Self::new(Code::NotFound, detail),
                "not-founded" => Self::new(Code::NotReady, detail),
                _ => {
                    let problem = Self::new(Code::MembershipRefused, detail);
                    let with =
                        |problem: Self, (name, value): (String, _)| problem.with(&name, value);
                    let problem = fields.into_iter().fold(problem, with);
                    problem.with("rejection", code)
                }
            },
        }
    }
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
