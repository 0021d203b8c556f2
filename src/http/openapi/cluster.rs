//! What operators look at and change in the OpenAPI document: the members, what each of them does,
//! and moving leaders.

use serde_json::{Map, Value, json};

use super::parts::{answer, body, problems};
use super::{JSON, path};
use crate::cluster::roles::Role;

/// The path item of the members.
pub(super) fn members() -> Value {
    let mut responses = problems(&["400"]);
    let schema = json!({"$ref": "#/components/schemas/Cluster"});
    responses.insert("200".to_owned(), answer("OK", JSON, &schema));
    json!({"get": {
        "operationId": "readCluster",
        "tags": ["operation"],
        "summary": "The members and how this node reaches them",
        "parameters": [],
        "responses": responses,
    }})
}

/// The path item of handing a shard over.
pub(super) fn transfer() -> Value {
    let to = json!({"type": "integer", "description": "The id of a member."});
    let fields = json!({
        "type": "object",
        "required": ["to"],
        "properties": {"to": to},
        "additionalProperties": false,
    });
    let moved = json!({"$ref": "#/components/schemas/Moved"});
    let mut responses = problems(&["400", "404", "408", "409", "413", "415", "503", "504"]);
    responses.insert("200".to_owned(), answer("It is led there.", JSON, &moved));
    json!({"post": {
        "operationId": "transferShard",
        "tags": ["operation"],
        "summary": "Let another member lead a shard",
        "description": "Goes to the shard's leader from whichever node is asked.",
        "parameters": path(&["shard"]),
        "requestBody": body(&fields),
        "responses": responses,
    }})
}

/// The path item of joining.
pub(super) fn add_node() -> Value {
    let fields = json!({
        "type": "object",
        "required": ["id", "address"],
        "properties": {
            "id": {"type": "integer", "minimum": 1, "description": "Its `node.id`, never used before."},
            "address": {"type": "string", "description": "Where it listens for members, `host:port`."},
        },
        "additionalProperties": false,
    });
    let answers = &[
        "400", "408", "409", "413", "415", "500", "503", "504", "507",
    ];
    json!({"post": {
        "operationId": "addNode",
        "tags": ["operation"],
        "summary": "Let a node join the cluster",
        "description": "The node waits for it, started with `cluster.bootstrap = false`. Copies of \
            shards move to it afterwards; `GET /v1/cluster` shows how many are left. Asking twice \
            does no harm.",
        "parameters": path(&[]),
        "requestBody": body(&fields),
        "responses": member_answers("It is a member and has its share.", answers),
    }})
}

/// The path item of leaving.
pub(super) fn remove_node() -> Value {
    let answers = &["400", "404", "409", "500", "503", "504", "507"];
    json!({"delete": {
        "operationId": "removeNode",
        "tags": ["operation"],
        "summary": "Let a member leave the cluster, also a dead one",
        "description": "Its copies are rebuilt elsewhere first; `GET /v1/cluster` lists it until \
            then. Asking twice does no harm.",
        "parameters": path(&["node"]),
        "responses": member_answers("It has left.", answers),
    }})
}

/// What a change of the members is answered with.
fn member_answers(done: &str, others: &[&str]) -> Map<String, Value> {
    let member = json!({"$ref": "#/components/schemas/MemberChange"});
    let mut responses = problems(others);
    responses.insert("200".to_owned(), answer(done, JSON, &member));
    let begun = answer("Noted; copies of shards are on their way.", JSON, &member);
    responses.insert("202".to_owned(), begun);
    responses
}

/// The path item of drains.
pub(super) fn drain() -> Value {
    let drained = json!({"$ref": "#/components/schemas/Drained"});
    let mut responses = problems(&["400", "404", "504"]);
    let description = "What was handed over, and what could not be.";
    responses.insert("200".to_owned(), answer(description, JSON, &drained));
    let undrained = json!({"$ref": "#/components/schemas/Undrained"});
    let mut ended = problems(&["400", "404", "409", "503", "504"]);
    ended.insert(
        "200".to_owned(),
        answer("It may lead again.", JSON, &undrained),
    );
    json!({
        "post": {
            "operationId": "drainNode",
            "tags": ["operation"],
            "summary": "Let other members lead all that this one leads",
            "description": "It leads nothing that another member can lead until the drain is taken \
                back or it is restarted, and goes on to take requests. Asking twice does no harm.",
            "parameters": path(&["node"]),
            "responses": responses,
        },
        "delete": {
            "operationId": "undrainNode",
            "tags": ["operation"],
            "summary": "Take a drain back",
            "description": "It may lead again, and gets its share in a while. Asking twice, or for a \
                member that does not drain, does no harm.",
            "parameters": path(&["node"]),
            "responses": ended,
        },
    })
}

/// What the members are described with.
pub(super) fn schema() -> Value {
    let count = json!({"type": "integer", "minimum": 0});
    json!({
        "type": "object",
        "required": ["name", "node", "shards", "pending_moves", "members"],
        "properties": {
            "name": {"type": "string", "description": "The cluster's name."},
            "node": {"type": "integer", "description": "The node that says so."},
            "shards": count,
            "pending_moves": {
                "type": "integer",
                "minimum": 0,
                "description": "Copies of shards that are still to be moved.",
            },
            "members": {"type": "array", "items": member()},
        },
    })
}

fn member() -> Value {
    let text = json!({"type": ["string", "null"]});
    json!({
        "type": "object",
        "required": [
            "id", "address", "incarnation", "state", "reason", "role", "roles", "leads", "follows",
            "disk_full",
        ],
        "properties": {
            "id": {"type": "integer", "minimum": 1},
            "address": {"type": "string", "description": "Where the others reach it."},
            "incarnation": text,
            "state": {
                "type": "string",
                "enum": ["this", "connected", "refused", "unreachable"],
                "description": "How the node that says so reaches it.",
            },
            "reason": text,
            "role": {
                "type": "string",
                "enum": ["serving", "joining", "leaving", "draining", "unknown"],
                "description": "Where it stands among the members.",
            },
            "roles": {
                "type": "array",
                "items": {"type": "string", "enum": Role::ALL.map(Role::name)},
                "description": "What it does for the cluster (`node.roles`), as far as is known.",
            },
            "leads": {"type": "integer", "minimum": 0, "description": "Shards that it leads."},
            "follows": {
                "type": "integer",
                "minimum": 0,
                "description": "Shards in which it votes without leading.",
            },
            "disk_full": {"type": "boolean"},
        },
    })
}
