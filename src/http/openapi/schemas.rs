//! The schemas that do not depend on the types: problems, replies, events, and answers of operation.

use serde_json::{Value, json};

use crate::http::code::Code;

pub(super) fn problem() -> Value {
    let codes: Vec<&str> = Code::ALL.iter().map(|code| code.describe().name).collect();
    json!({
        "type": "object",
        "description": "RFC 9457. Some codes have members of their own.",
        "required": [
            "type", "title", "status", "detail", "instance", "code", "retryable", "outcome",
            "trace_id",
        ],
        "properties": {
            "type": {"type": "string", "description": "`/problems/<code>`, a page."},
            "title": {"type": "string"},
            "status": {"type": "integer"},
            "detail": {"type": "string"},
            "instance": {"type": "string", "description": "The path of the request."},
            "code": {"type": "string", "enum": codes},
            "retryable": {"type": "boolean"},
            "outcome": {"type": "string", "enum": ["not_applied", "applied", "unknown"]},
            "trace_id": {"type": "string", "pattern": "^[0-9a-f]{32}$"},
            "pointer": {"type": "string", "description": "JSON pointer into the body."},
            "parameter": {"type": "string", "description": "The query parameter."},
            "header": {"type": "string", "description": "The request header."},
            "rejection": {"type": "string", "description": "The domain's own code."},
            "current_sequence_number": {"type": "integer"},
            "justifications": {"type": "array", "items": {"type": "object"}},
            "views": {"type": "array", "items": {"type": "string"}},
            "lag": {"$ref": "#/components/schemas/Lag"},
        },
    })
}

pub(super) fn command_reply() -> Value {
    json!({
        "type": "object",
        "required": ["aggregate_type", "aggregate_id", "sequence_number", "position", "events"],
        "properties": {
            "aggregate_type": {"type": "string"},
            "aggregate_id": {"type": "string"},
            "sequence_number": {"type": "integer"},
            "position": {"type": "string", "description": "`shard:number`; treat it as opaque."},
            "events": {"type": "array", "items": {
                "type": "object",
                "required": ["type", "sequence_number"],
                "properties": {
                    "type": {"type": "string"},
                    "sequence_number": {"type": "integer"},
                    "data": {"description": "Only with `Prefer: return=representation`."},
                },
            }},
        },
    })
}

pub(super) fn json_patch() -> Value {
    json!({
        "type": "array",
        "description": "RFC 6902: turns the first state into the second.",
        "items": {
            "type": "object",
            "required": ["op", "path"],
            "properties": {
                "op": {"type": "string", "enum": ["add", "remove", "replace"]},
                "path": {"type": "string", "description": "A JSON pointer."},
                "value": {},
            },
        },
    })
}

pub(super) fn moved() -> Value {
    let number = json!({"type": "integer"});
    json!({
        "type": "object",
        "description": "A shard, who led it and who leads it now.",
        "required": ["shard", "from", "to", "term"],
        "properties": {"shard": number, "from": number, "to": number, "term": number},
    })
}

pub(super) fn drained() -> Value {
    json!({
        "type": "object",
        "required": ["node", "draining", "moved", "kept"],
        "properties": {
            "node": {"type": "integer"},
            "draining": {"type": "boolean"},
            "moved": {"type": "array", "items": {"$ref": "#/components/schemas/Moved"}},
            "kept": {"type": "array", "items": {
                "type": "object",
                "required": ["shard", "reason"],
                "properties": {"shard": {"type": "integer"}, "reason": {"type": "string"}},
            }},
        },
    })
}

pub(super) fn undrained() -> Value {
    json!({
        "type": "object",
        "required": ["node", "draining", "was_draining"],
        "properties": {
            "node": {"type": "integer"},
            "draining": {"const": false},
            "was_draining": {"type": "boolean", "description": "Whether there was a drain to take back."},
        },
    })
}

pub(super) fn member_change() -> Value {
    json!({
        "type": "object",
        "required": ["id", "address", "standing"],
        "properties": {
            "id": {"type": "integer"},
            "address": {"type": ["string", "null"]},
            "standing": {"type": "string", "enum": ["joining", "member", "leaving", "removed"]},
        },
    })
}

pub(super) fn cloud_event() -> Value {
    let text = json!({"type": "string"});
    json!({
        "type": "object",
        "required": ["specversion", "id", "source", "type", "time", "sequence", "position", "data"],
        "properties": {
            "specversion": {"const": "1.0"},
            "id": {"type": "string", "description": "`type/id/sequence`, with `.part` behind it for later parts."},
            "source": text,
            "type": text,
            "subject": text,
            "time": {"type": "string", "format": "date-time"},
            "datacontenttype": text,
            "dataschema": {"type": "string", "format": "uri", "description": "Ends with the \
                version, and with the path at which nodes answer with the JSON Schema."},
            "sequence": {"type": "string", "description": "The sequence number in decimal."},
            "position": text,
            "part": {"type": "string", "description": "Of the later parts of a stored event that was \
                split on reading: which part it is. They share its sequence number and position."},
            "command": {"type": "string", "description": "The name of the command that caused it."},
            "causationid": {"type": "string", "description": "The idempotency key of that command."},
            "correlationid": text,
            "traceparent": text,
            "authtype": {"const": "unknown", "description": "There if `authid` is."},
            "authid": {"type": "string", "description": "Who sent the command, as the proxy in front \
                of the node said."},
            "occurredat": {"type": "string", "format": "date-time", "description": "When it happened \
                in the world, as the client said in Phalanx-Occurred-At."},
            "data": {"type": "object"},
        },
    })
}
