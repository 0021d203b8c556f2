//! `/v1/cluster`, `/v1/shards`, moving leaders and changing members: what operators look at and
//! change.
//!
//! Says what the node's steward says. It refuses to interpret: an error of the steward has exactly
//! one code here.

use axum::body::Body;
use http::{StatusCode, request};
use phalanx_actors::variant;
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
use crate::cluster::status::{MemberChange, MoveError, StaysDrained};
use crate::cluster::steward::{ChangeError, UndrainError};
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
    body: &mut Body,
) -> Answered {
    let shard = number(shard).and_then(|shard| u32::try_from(shard).ok());
    let shard = shard.ok_or_else(|| unknown_shard(app, "a shard is a whole number"))?;
    let [] = query::parse(parts.uri.query(), [])?;
    let expected = "{\"to\": <id of a member>}";
    let TransferBody { to } = fields(app, connection, parts, body, expected).await?;
    match app.steward.transfer(shard, to).await {
        Ok(moved) => rendered(&moved),
        Err(error @ MoveError::NoMember { .. }) => {
            Err(Box::new(not_moved(app, error).with("pointer", "/to")))
        }
        Err(error) => Err(Box::new(not_moved(app, error))),
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
    body: &mut Body,
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
        let detail = "an address is host:port that members can reach: an IPv6 address in brackets, \
                      and no wildcard";
        return Err(malformed("/address", detail));
    }
    changed(app, app.steward.add_node(&app.router, id, address).await)
}

/// Lets a member leave.
pub(crate) async fn remove_node(app: &App, parts: &request::Parts, node: &str) -> Answered {
    let node = node_id(app, node)?;
    let [] = query::parse(parts.uri.query(), [])?;
    changed(app, app.steward.remove_node(&app.router, node).await)
}

/// 202 while copies are still to be moved.
fn changed(app: &App, outcome: Result<MemberChange, ChangeError>) -> Answered {
    let change = outcome.map_err(|error| Box::new(not_changed(app, error)))?;
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
    body: &mut Body,
    expected: &str,
) -> Result<T, Box<Problem>> {
    headers::check_media_type(&parts.headers)?;
    let bytes = body::read_for(app, connection, &parts.headers, body).await?;
    variant::parse_object(&bytes).map_err(|mismatch| {
        let detail = format!("expected {expected}: {}", mismatch.detail);
        Box::new(Problem::new(Code::MalformedBody, detail).with("pointer", mismatch.pointer))
    })
}

/// Hands over everything that a member leads.
pub(crate) async fn drain(app: &App, parts: &request::Parts, node: &str) -> Answered {
    let node = node_id(app, node)?;
    let [] = query::parse(parts.uri.query(), [])?;
    match app.steward.drain(node).await {
        Ok(drained) => rendered(&drained),
        Err(error) => Err(Box::new(not_moved(app, error))),
    }
}

/// Lets a member that was drained lead again.
pub(crate) async fn undrain(app: &App, parts: &request::Parts, node: &str) -> Answered {
    let node = node_id(app, node)?;
    let [] = query::parse(parts.uri.query(), [])?;
    let error = match app.steward.undrain(node).await {
        Ok(undrained) => return rendered(&undrained),
        Err(error) => error,
    };
    let detail = error.to_string();
    let refused = |rejection: &str| {
        Problem::new(Code::MembershipRefused, detail.clone()).with("rejection", rejection)
    };
    Err(Box::new(match error {
        UndrainError::Move(error) => not_moved(app, error),
        UndrainError::StaysDrained(StaysDrained::Leaving { .. }) => refused("leaving"),
        UndrainError::StaysDrained(StaysDrained::Stopping { .. }) => {
            Problem::new(Code::ShuttingDown, detail)
        }
        UndrainError::Older { .. } => refused("older-release"),
    }))
}

/// The member that a path names.
fn node_id(app: &App, segment: &str) -> Result<NodeId, Box<Problem>> {
    let none = || Box::new(unknown_node(app, "the id of a member is a whole number"));
    number(segment).ok_or_else(none)
}

fn number(segment: &str) -> Option<u64> {
    let text = decode(segment)?;
    let digits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    text.parse().ok().filter(|_| digits)
}

/// Says what is wrong with a member that was named, and which members there are.
pub(crate) fn unknown_node(app: &App, wrong: &str) -> Problem {
    let members = app.steward.member_ids();
    let detail = match members.as_slice() {
        [] => format!("{wrong}; this node knows no members yet"),
        [one] => format!("{wrong}; the only member is {one}"),
        [others @ .., last] => {
            let others: Vec<String> = others.iter().map(NodeId::to_string).collect();
            format!("{wrong}; the members are {} and {last}", others.join(", "))
        }
    };
    Problem::new(Code::UnknownNode, detail).with("members", members)
}

/// The same of a shard.
fn unknown_shard(app: &App, wrong: &str) -> Problem {
    let shards = app.router.shards();
    let detail = match shards {
        1 => format!("{wrong}; the only one is 0"),
        _ => format!("{wrong}; there are 0 to {}", shards.saturating_sub(1)),
    };
    Problem::new(Code::UnknownShard, detail).with("shards", shards)
}

fn rendered(value: &impl serde::Serialize) -> Answered {
    let body = serde_json::to_string(value);
    let reply = |body: String| -> Reply { json_reply(body) };
    body.map(reply)
        .map_err(|error| Box::new(Problem::new(Code::Internal, error.to_string())))
}

fn not_changed(app: &App, error: ChangeError) -> Problem {
    let detail = error.to_string();
    match error {
        ChangeError::Failed(failure) => failure.into(),
        // Whatever it was that failed, it does not say that nothing was done.
        ChangeError::Unseen(_) => Problem::new(Code::OutcomeUnknown, detail),
        ChangeError::Alone => {
            Problem::new(Code::MembershipRefused, detail).with("rejection", "cluster-of-one")
        }
        ChangeError::Rejected { code, fields, .. } => match code.as_str() {
            "not-member" => unknown_node(app, &detail),
            "not-founded" => Problem::new(Code::NotReady, detail),
            _ => {
                let problem = Problem::new(Code::MembershipRefused, detail);
                let with =
                    |problem: Problem, (name, value): (String, _)| problem.with(&name, value);
                let problem = fields.into_iter().fold(problem, with);
                problem.with("rejection", code)
            }
        },
    }
}

fn not_moved(app: &App, error: MoveError) -> Problem {
    let code = match error {
        MoveError::NoShard { shard, .. } => {
            return unknown_shard(app, &format!("there is no shard {shard}"));
        }
        MoveError::NoMember { node } => {
            return unknown_node(app, &format!("there is no member {node}"));
        }
        MoveError::NoLeader { .. } => Code::NoLeader,
        MoveError::Unreachable { unasked, .. } => return unreachable(&error.to_string(), unasked),
        MoveError::Refused { .. } | MoveError::Elsewhere { .. } => Code::TransferRefused,
        MoveError::TooSlow { .. } => Code::TransferTimeout,
    };
    Problem::new(code, error.to_string())
}

/// 504, with what is certain of it: nothing was done by a member that was not asked.
fn unreachable(detail: &str, unasked: bool) -> Problem {
    let problem = Problem::new(Code::MemberUnreachable, detail.to_owned());
    if unasked {
        problem.not_applied()
    } else {
        problem
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_member_that_was_not_asked_has_done_nothing() {
        for (unasked, outcome) in [(true, "not_applied"), (false, "unknown")] {
            let reply = unreachable("why", unasked).into_reply("/x", "t");
            assert_eq!(reply.status(), 504);
            let body = reply.body();
            let json: serde_json::Value = serde_json::from_slice(body).unwrap();
            assert_eq!(json["code"], "member-unreachable");
            assert_eq!(json["outcome"], outcome);
        }
    }
}
