//! The reusable parts of the OpenAPI document: parameters, answers, problems.

use phalanx_actors::history::MAX_EVENTS_BETWEEN;
use phalanx_actors::types::TypeDescription;
use serde_json::{Map, Value, json};

use super::schemas::{
    cloud_event, command_reply, drained, json_patch, member_change, moved, problem, undrained,
};
use crate::http::callers::{Callers, MAX_BYTES};
use crate::http::code::Code;

/// `components`, around the schemas of the types.
pub(super) fn components(mut schemas: Map<String, Value>) -> Value {
    schemas.insert("Problem".to_owned(), problem());
    schemas.insert("CommandReply".to_owned(), command_reply());
    schemas.insert("CloudEvent".to_owned(), cloud_event());
    schemas.insert("JsonPatch".to_owned(), json_patch());
    schemas.insert("Moved".to_owned(), moved());
    schemas.insert("Drained".to_owned(), drained());
    schemas.insert("Undrained".to_owned(), undrained());
    super::views::components(&mut schemas);
    schemas.insert("Cluster".to_owned(), super::cluster::schema());
    schemas.insert("MemberChange".to_owned(), member_change());
    json!({
        "schemas": schemas,
        "parameters": {"id": {
            "name": "id",
            "in": "path",
            "required": true,
            "description": "The aggregate's id; neither `.` nor `..`.",
            "schema": {"type": "string", "pattern": "^[A-Za-z0-9._~:@-]{1,200}$"},
        }},
        "responses": problem_responses(),
    })
}

/// One answer for each status that problems have.
fn problem_responses() -> Map<String, Value> {
    let mut responses = Map::new();
    for code in Code::ALL {
        let status = code.describe().status.as_u16();
        let codes: Vec<&str> = Code::ALL
            .iter()
            .map(|code| code.describe())
            .filter(|text| text.status.as_u16() == status)
            .map(|text| text.name)
            .collect();
        let mut response = answer(
            &codes.join(", "),
            "application/problem+json",
            &json!({"$ref": "#/components/schemas/Problem"}),
        );
        if status == 401 {
            response["headers"] = json!({"WWW-Authenticate": {
                "description": "A challenge that the proxy in front of the node has to meet.",
                "required": true,
                "schema": {"type": "string"},
            }});
        }
        if matches!(status, 429 | 503) {
            response["headers"] = json!({"Retry-After": {
                "description": "Whole seconds.",
                "required": true,
                "schema": {"type": "integer", "minimum": 1},
            }});
        }
        responses.insert(format!("Problem{status}"), response);
    }
    responses
}

/// References to the problems of these statuses.
pub(super) fn problems(statuses: &[&str]) -> Map<String, Value> {
    let reference = |status: &&str| {
        let target = format!("#/components/responses/Problem{status}");
        ((*status).to_owned(), json!({ "$ref": target }))
    };
    statuses.iter().map(reference).collect()
}

/// An answer with a body.
pub(super) fn answer(description: &str, media_type: &str, schema: &Value) -> Value {
    json!({"description": description, "content": {media_type: {"schema": schema}}})
}

/// The body of a command.
pub(super) fn body(schema: &Value) -> Value {
    json!({"required": true, "content": {"application/json": {"schema": schema}}})
}

pub(super) fn header(name: &str, description: &str, schema: &Value) -> Value {
    json!({"name": name, "in": "header", "description": description, "schema": schema})
}

/// Adds the header in which a proxy names the caller to the operations that read it, and what is
/// answered without it.
pub(super) fn name_callers(paths: &mut Map<String, Value>, callers: &Callers) {
    let Some((name, required)) = callers.header() else {
        return;
    };
    let of_data = ["/v1/aggregates/", "/v1/views/", "/v1/events"];
    let operations = paths
        .iter_mut()
        .filter(|(path, _)| of_data.iter().any(|prefix| path.starts_with(prefix)))
        .filter_map(|(_, item)| item.as_object_mut())
        .flat_map(|item| item.values_mut());
    for operation in operations {
        let mut parameter = header(
            name.as_str(),
            "Who sends the request. Set by the proxy in front of the node, never by a client.",
            &json!({"type": "string", "maxLength": MAX_BYTES}),
        );
        parameter["required"] = required.into();
        if let Some(parameters) = operation["parameters"].as_array_mut() {
            parameters.push(parameter);
        } else {
            operation["parameters"] = json!([parameter]);
        }
        if required && let Some(responses) = operation["responses"].as_object_mut() {
            responses.append(&mut problems(&["401"]));
        }
    }
}

pub(super) fn query(name: &str, description: &str, schema: &Value) -> Value {
    json!({"name": name, "in": "query", "description": description, "schema": schema})
}

/// `*`, or entity tags with commas between them.
fn entity_tags() -> Value {
    let tag = "(W/)?\"[!#-~]*\"";
    json!({"type": "string", "pattern": format!("^(\\*|{tag}( *, *{tag})*)$")})
}

/// What a command may carry beside its body.
pub(super) fn command_parameters() -> Vec<Value> {
    vec![
        query(
            "dry_run",
            "Decide and answer without storing anything.",
            &json!({"type": "boolean", "default": false}),
        ),
        header(
            "Idempotency-Key",
            "Makes a retry recognisable: same key, same command, same body gives the stored reply.",
            &json!({"type": "string", "pattern": "^[\\x21-\\x7E]{1,255}$"}),
        ),
        header(
            "If-Match",
            "Run only at this sequence number, as in `\"7\"`; `*`: only if the aggregate exists.",
            &entity_tags(),
        ),
        header(
            "If-None-Match",
            "`*`: run only if the aggregate does not exist.",
            &json!({"type": "string", "const": "*"}),
        ),
        header(
            "Prefer",
            "`return=representation`: the reply carries each event's data.",
            &json!({"type": "string"}),
        ),
        header(
            "traceparent",
            "W3C trace context; stored with the events.",
            &json!({"type": "string"}),
        ),
        header(
            "Phalanx-Occurred-At",
            "When it happened in the world, from 1900 to 2199; stored with the events, which show it \
             as `occurredat`. Their `time` stays that of the decision.",
            &json!({"type": "string", "format": "date-time"}),
        ),
    ]
}

/// What a read may carry.
pub(super) fn state_parameters(description: Option<&TypeDescription>) -> Vec<Value> {
    let names: Option<Vec<&str>> =
        description.map(|d| d.justifications.iter().map(|j| j.name).collect());
    let justification = match names {
        Some(names) if !names.is_empty() => json!({"type": "string", "enum": names}),
        _ => json!({"type": "string"}),
    };
    vec![
        query(
            "after",
            "The position of a command reply for this aggregate.",
            &json!({"type": "string", "pattern": "^[0-9]+:[0-9]+$"}),
        ),
        query(
            "at_sequence",
            "The state after this many events; 404 `sequence-not-reached` when there are fewer.",
            &json!({"type": "integer", "minimum": 1}),
        ),
        query(
            "as_of",
            "The state at this time.",
            &json!({"type": "string", "format": "date-time"}),
        ),
        header(
            "Phalanx-Justification",
            "Why the state has to be fresh: a name that the type declares.",
            &justification,
        ),
        header(
            "If-None-Match",
            "304 when the aggregate is still at this sequence number.",
            &entity_tags(),
        ),
        header(
            "If-Match",
            "412 unless the aggregate is at this sequence number.",
            &entity_tags(),
        ),
    ]
}

/// What a history may carry.
pub(super) fn events_parameters() -> Vec<Value> {
    vec![
        query(
            "from_sequence",
            "The first event wanted.",
            &json!({"type": "integer", "minimum": 1, "default": 1}),
        ),
        query(
            "limit",
            "The most events wanted.",
            &json!({"type": "integer", "minimum": 1, "maximum": 1000, "default": 100}),
        ),
    ]
}

/// Which two moments are compared.
pub(super) fn diff_parameters() -> Vec<Value> {
    let number = json!({"type": "integer", "minimum": 1});
    let needed = |name, description| {
        let mut parameter = query(name, description, &number);
        parameter["required"] = true.into();
        parameter
    };
    vec![
        needed("from", "The state after this many events."),
        needed(
            "to",
            "The state after this many events, not fewer than `from`.",
        ),
    ]
}

/// What a comparison may be answered with.
pub(super) fn diff_answers(state: &Value) -> Value {
    let moment = json!({
        "type": "object",
        "required": ["sequence_number", "position", "state"],
        "properties": {
            "sequence_number": {"type": "integer"},
            "position": {"type": "string"},
            "state": state,
        },
    });
    let view = json!({
        "type": "object",
        "required": ["aggregate_type", "aggregate_id", "from", "to", "difference", "events"],
        "properties": {
            "aggregate_type": {"type": "string"},
            "aggregate_id": {"type": "string"},
            "from": moment,
            "to": moment,
            "difference": {"$ref": "#/components/schemas/JsonPatch"},
            "events": {
                "type": "array",
                "description": format!("What happened between the two: {MAX_EVENTS_BETWEEN} events, \
                    and no more but for the parts of one that was split. Where there is more, the \
                    header `Link` with `rel=\"next\"` leads to the rest."),
                "items": {
                    "type": "object",
                    "required": ["type", "sequence_number"],
                    "properties": {
                        "type": {"type": "string"},
                        "sequence_number": {"type": "integer"},
                    },
                },
            },
        },
    });
    let mut found = answer(
        "Both states and what turns the one into the other.",
        JSON,
        &view,
    );
    found["headers"] = versioned();
    let mut responses = problems(&["400", "404", "500", "503"]);
    responses.insert("200".to_owned(), found);
    responses.into()
}

/// Which events are inserted where.
pub(super) fn what_if_body(description: Option<&TypeDescription>) -> Value {
    let names: Option<Vec<&str>> =
        description.map(|d| d.events.iter().map(|event| event.name.as_str()).collect());
    let name = match names {
        Some(names) => json!({"type": "string", "enum": names}),
        None => json!({"type": "string", "description": "An event of the aggregate type."}),
    };
    json!({
        "type": "object",
        "required": ["insert"],
        "properties": {"insert": {
            "type": "array",
            "maxItems": 1000,
            "description": "Events at one place stay in this order.",
            "items": {
                "type": "object",
                "required": ["after_sequence", "type", "data"],
                "properties": {
                    "after_sequence": {
                        "type": "integer",
                        "minimum": 0,
                        "description": "Behind so many recorded events.",
                    },
                    "type": name,
                    "data": {"type": "object", "description": "The event's fields."},
                },
                "additionalProperties": false,
            },
        }},
        "additionalProperties": false,
    })
}

/// What a what-if question may be answered with.
pub(super) fn what_if_answers(state: &Value) -> Value {
    let view = json!({
        "type": "object",
        "required": ["actual", "hypothetical", "difference"],
        "properties": {
            "actual": state,
            "hypothetical": state,
            "difference": {"$ref": "#/components/schemas/JsonPatch"},
        },
    });
    let mut found = answer("The state as it is and as it would be.", JSON, &view);
    found["headers"] = versioned();
    let mut responses = problems(&["400", "404", "408", "413", "415", "422", "500", "503"]);
    responses.insert("200".to_owned(), found);
    responses.into()
}

/// Where an event stream begins and what it shows.
pub(super) fn stream_parameters() -> Vec<Value> {
    let text = json!({"type": "string"});
    vec![
        query(
            "after",
            "Where to begin: `start` (the default), `now`, or positions with commas between, one \
             for each shard; a shard that is not named begins at its start.",
            &text,
        ),
        query(
            "aggregate_type",
            "Types wanted, with commas between.",
            &text,
        ),
        query("event_type", "Events wanted, with commas between.", &text),
        header(
            "Last-Event-ID",
            "The last `id` that was received; it takes the place of `after`.",
            &text,
        ),
    ]
}

/// Where a stream goes on for a client that was cut off.
pub(super) fn last_event_id() -> Value {
    let text = json!({"type": "string"});
    header(
        "Last-Event-ID",
        "The last `id` that was received; the stream goes on behind it.",
        &text,
    )
}

/// Headers of every answer that shows an aggregate.
fn versioned() -> Value {
    json!({
        "ETag": {
            "description": "The sequence number in quotes.",
            "schema": {"type": "string"},
        },
        "Phalanx-Position": {
            "description": "The position, for reads after this one.",
            "schema": {"type": "string"},
        },
    })
}

/// What a command may be answered with.
pub(super) fn command_answers() -> Value {
    let reply = json!({"$ref": "#/components/schemas/CommandReply"});
    let mut accepted = answer("The events are stored, or none were needed.", JSON, &reply);
    let mut headers = versioned();
    headers["Idempotent-Replay"] = json!({
        "description": "`true` on the stored reply of an earlier attempt.",
        "schema": {"type": "string"},
    });
    accepted["headers"] = headers;
    let mut created = accepted.clone();
    created["description"] = "The command created the aggregate.".into();
    created["headers"]["Location"] =
        json!({"description": "The aggregate.", "schema": {"type": "string"}});
    let mut responses = problems(&[
        "400", "404", "408", "412", "413", "415", "422", "500", "503", "504", "507",
    ]);
    responses.insert("200".to_owned(), accepted);
    responses.insert("201".to_owned(), created);
    responses.into()
}

const JSON: &str = "application/json";

/// What a read may be answered with.
pub(super) fn state_answers(state: &Value) -> Value {
    let view = json!({
        "type": "object",
        "required": [
            "aggregate_type", "aggregate_id", "sequence_number", "position", "state", "served_by",
        ],
        "properties": {
            "aggregate_type": {"type": "string"},
            "aggregate_id": {"type": "string"},
            "sequence_number": {"type": "integer"},
            "position": {"type": "string"},
            "state": state,
            "served_by": {"type": "object", "properties": {
                "node": {"type": "integer"},
                "shard": {"type": "integer"},
                "term": {"type": "integer"},
            }},
        },
    });
    let mut found = answer("The state.", JSON, &view);
    found["headers"] = versioned();
    let mut responses = problems(&["400", "403", "404", "412", "428", "429", "500", "503"]);
    responses.insert("200".to_owned(), found);
    responses.insert(
        "304".to_owned(),
        json!({"description": "Still at this sequence number.", "headers": versioned()}),
    );
    responses.into()
}

/// What a history may be answered with.
pub(super) fn events_answers() -> Value {
    let batch = json!({
        "type": "array",
        "items": {"$ref": "#/components/schemas/CloudEvent"},
    });
    let media_type = "application/cloudevents-batch+json";
    let mut page = answer(
        "Events in the order of their sequence numbers.",
        media_type,
        &batch,
    );
    page["headers"] = json!({"Link": {
        "description": "`rel=\"next\"` when there is more.",
        "schema": {"type": "string"},
    }});
    let mut responses = problems(&["400", "404", "500", "503"]);
    responses.insert("200".to_owned(), page);
    responses.into()
}

/// What a stream of events is answered with.
pub(super) fn stream_answers() -> Value {
    let stream = answer(
        "Server-sent events, each a CloudEvent in JSON.",
        "text/event-stream",
        &json!({"type": "string"}),
    );
    let mut responses = problems(&["400", "503"]);
    responses.insert("200".to_owned(), stream);
    responses.into()
}

/// What a watch is answered with.
pub(super) fn watch_answers() -> Value {
    let stream = answer(
        "Server-sent events with an aggregate's state.",
        "text/event-stream",
        &json!({"type": "string"}),
    );
    let mut responses = problems(&["400", "404", "500", "503"]);
    responses.insert("200".to_owned(), stream);
    responses.into()
}
