//! `/v1/cluster` in the OpenAPI document: the members and what each of them does.

use serde_json::{Value, json};

use super::JSON;
use super::parts::{answer, problems};
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
