//! Views and projections in the OpenAPI document: the routes in general, and each view with its own
//! columns.

use phalanx_actors::projection::{Column, ColumnType, ProjectionDefinition, Table};
use serde_json::{Map, Value, json};

use super::parts::{answer, header, last_event_id, problems, query};
use super::{JSON, path, with};
use crate::http::routes::Route;

/// The path item of a route of views or projections.
pub(super) fn general(route: Route) -> Value {
    let any = json!({"type": "object"});
    match route {
        Route::View => list("listRows", &with(path(&["view"]), list_parameters()), &any),
        Route::ViewRow => row(
            "readRow",
            &with(path(&["view", "key"]), fresh_parameters()),
            &any,
        ),
        Route::ViewChanges => {
            let parameters = with(path(&["view"]), vec![last_event_id()]);
            changes("followRows", &parameters)
        }
        Route::Projections => {
            let every = json!({
                "type": "object",
                "required": ["node", "store", "projections"],
                "properties": {
                    "node": node_schema(),
                    "store": {
                        "type": ["object", "null"],
                        "required": ["kind", "standing"],
                        "properties": {
                            "kind": {"type": "string", "enum": ["sqlite", "postgres"]},
                            "standing": {
                                "type": "object",
                                "required": ["state"],
                                "properties": {
                                    "state": {
                                        "type": "string",
                                        "enum": ["starting", "writing", "following", "away"],
                                    },
                                    "writer": {"type": "string"},
                                    "reason": {"type": "string"},
                                },
                            },
                        },
                    },
                    "projections": {"type": "array", "items": reference("Projection")},
                },
            });
            let summary = "How the projections of a node are doing";
            get(
                "listProjections",
                summary,
                vec![of_node()],
                &every,
                &["400", "404", "503"],
            )
        }
        Route::Projection => {
            let summary = "How one projection is doing";
            let parameters = with(path(&["projection"]), vec![of_node()]);
            let projection = reference("Projection");
            get(
                "readProjection",
                summary,
                parameters,
                &projection,
                &["400", "404", "503"],
            )
        }
        Route::PauseProjection => post("pauseProjection", "Take no more events in, until resumed"),
        Route::ResumeProjection => post("resumeProjection", "Go on taking events in"),
        Route::RebuildProjection => post(
            "rebuildProjection",
            "Build the rows again from the journal, and swap them in when they have caught up",
        ),
        Route::DeadLetters => {
            let letters = json!({
                "type": "object",
                "required": ["node", "dead_letters"],
                "properties": {
                    "node": node_schema(),
                    "dead_letters": {"type": "array", "items": reference("DeadLetter")},
                },
            });
            let parameters = vec![
                of_node(),
                query(
                    "limit",
                    "The most wanted.",
                    &json!({
                        "type": "integer", "minimum": 1, "maximum": 1000, "default": 100,
                    }),
                ),
                query(
                    "after",
                    "Only those with larger ids.",
                    &json!({
                        "type": "integer", "minimum": 0, "default": 0,
                    }),
                ),
            ];
            let parameters = with(path(&["projection"]), parameters);
            let summary = "Events that were set aside, and why";
            get(
                "listDeadLetters",
                summary,
                parameters,
                &letters,
                &["400", "404", "500", "503"],
            )
        }
        Route::RetryLetter => retry("retryDeadLetter", "Attempt what was set aside, in order"),
        Route::SkipLetter => retry(
            "skipDeadLetter",
            "Leave the event out that failed, and attempt those behind it",
        ),
        _ => json!({}),
    }
}

fn reference(name: &str) -> Value {
    json!({"$ref": format!("#/components/schemas/{name}")})
}

/// Who is to answer.
fn of_node() -> Value {
    query(
        "node",
        "The member whose read models are meant. By default the node that is asked, or, where that \
         keeps none, a member that does.",
        &json!({"type": "integer", "minimum": 1}),
    )
}

fn node_schema() -> Value {
    json!({"type": "integer", "description": "The node that says so."})
}

fn get(
    id: &str,
    summary: &str,
    parameters: Vec<Value>,
    schema: &Value,
    statuses: &[&str],
) -> Value {
    let mut responses = problems(statuses);
    responses.insert("200".to_owned(), answer("OK", JSON, schema));
    json!({"get": {
        "operationId": id,
        "tags": ["operation"],
        "summary": summary,
        "parameters": parameters,
        "responses": responses,
    }})
}

fn post(id: &str, summary: &str) -> Value {
    let mut responses = problems(&["400", "404", "409", "500", "503", "504", "507"]);
    let projection = reference("Projection");
    responses.insert("200".to_owned(), answer("As it is now.", JSON, &projection));
    json!({"post": {
        "operationId": id,
        "tags": ["operation"],
        "summary": summary,
        "description": "Concerns one node where each has read models of its own, and all of them where \
            they share a database. The answer names the node.",
        "parameters": with(path(&["projection"]), vec![of_node()]),
        "responses": responses,
    }})
}

fn retry(id: &str, summary: &str) -> Value {
    let mut responses = problems(&["400", "404", "500", "503", "504", "507"]);
    responses.insert(
        "200".to_owned(),
        answer("How it ended.", JSON, &reference("Retried")),
    );
    json!({"post": {
        "operationId": id,
        "tags": ["operation"],
        "summary": summary,
        "parameters": with(path(&["projection", "letter"]), vec![of_node()]),
        "responses": responses,
    }})
}

fn changes(id: &str, parameters: &[Value]) -> Value {
    let stream = answer(
        "Server-sent events with keys and positions.",
        "text/event-stream",
        &json!({"type": "string"}),
    );
    let mut responses = problems(&["400", "404", "503"]);
    responses.insert("200".to_owned(), stream);
    json!({"get": {
        "operationId": id,
        "tags": ["views"],
        "summary": "Follow which rows of a view change",
        "description": "A stream that does not end. The message `change` names the rows that one \
            event has changed or removed, after they are stored; with its `position` as `after`, \
            a query shows them. The message `reset` says that the rows must be read again: at the \
            beginning, after a rebuild, and where changes are not known any more. The name of the \
            view's key column as a parameter follows the one row of that key.",
        "parameters": parameters,
        "responses": responses,
    }})
}

const READ_PROBLEMS: [&str; 5] = ["400", "404", "500", "503", "504"];

fn list(id: &str, parameters: &[Value], row: &Value) -> Value {
    let page = json!({
        "type": "object",
        "required": ["rows", "next_cursor", "lag"],
        "properties": {
            "rows": {"type": "array", "items": row},
            "next_cursor": {
                "type": ["string", "null"],
                "description": "Send it as `cursor` with the same query for the next page. A page may have fewer rows than `limit` and yet not be the last one.",
            },
            "lag": reference("Lag"),
        },
    });
    let mut responses = problems(&READ_PROBLEMS);
    responses.insert("200".to_owned(), answer("A page of rows.", JSON, &page));
    json!({"get": {
        "operationId": id,
        "tags": ["views"],
        "summary": "Read rows of a view",
        "parameters": parameters,
        "responses": responses,
    }})
}

fn row(id: &str, parameters: &[Value], row: &Value) -> Value {
    let mut responses = problems(&READ_PROBLEMS);
    responses.insert(
        "200".to_owned(),
        answer("The row, with the lag.", JSON, row),
    );
    json!({"get": {
        "operationId": id,
        "tags": ["views"],
        "summary": "Read the row of a key",
        "parameters": parameters,
        "responses": responses,
    }})
}

fn fresh_parameters() -> Vec<Value> {
    vec![
        query(
            "after",
            "The rows include the event at this position; several have commas between.",
            &json!({"type": "string", "pattern": "^[0-9]+:[0-9]+(,[0-9]+:[0-9]+)*$"}),
        ),
        query(
            "wait",
            "How long the view may take to get there; then 504 `view-behind`.",
            &json!({"type": "string", "pattern": "^[0-9]+(s|ms)$", "default": "1s"}),
        ),
        header(
            "Prefer",
            "`wait=2`: the same in seconds.",
            &json!({"type": "string"}),
        ),
    ]
}

fn list_parameters() -> Vec<Value> {
    let mut parameters = vec![
        query(
            "sort",
            "Columns with commas between; `-` in front of one that descends.",
            &json!({"type": "string"}),
        ),
        query(
            "limit",
            "The most rows wanted.",
            &json!({
                "type": "integer", "minimum": 1, "maximum": 1000, "default": 50,
            }),
        ),
        query(
            "cursor",
            "Where the page begins.",
            &json!({"type": "string"}),
        ),
    ];
    parameters.extend(fresh_parameters());
    parameters
}

/// The paths of one view, with its own columns.
pub(super) fn add(
    definition: &ProjectionDefinition,
    paths: &mut Map<String, Value>,
    schemas: &mut Map<String, Value>,
) {
    let Some(table) = definition.tables.first() else {
        return;
    };
    let name = definition.name;
    let component = format!("{name}.Row");
    schemas.insert(component.clone(), row_schema(definition, table));
    let columns = table.shown().map(filter);
    let parameters = with(columns.collect(), list_parameters());
    let mut page = list(
        &format!("views.{name}.list"),
        &parameters,
        &reference(&component),
    );
    page["get"]["description"] = format!(
        "{} A column is compared by `column=value` or `column[gte|gt|lte|lt|ne]=value`.",
        definition.description
    )
    .into();
    paths.insert(format!("/v1/views/{name}"), page);
    let parameters = with(path(&["key"]), fresh_parameters());
    let one = row(
        &format!("views.{name}.row"),
        &parameters,
        &reference(&component),
    );
    paths.insert(format!("/v1/views/{name}/{{key}}"), one);
    let key = table.columns.get(table.key_at()).map(|column| {
        let schema = json!({"type": type_of(column)});
        query(&column.name, "Only the row of this key.", &schema)
    });
    let mut parameters: Vec<Value> = key.into_iter().collect();
    parameters.push(last_event_id());
    let follow = changes(&format!("views.{name}.changes"), &parameters);
    paths.insert(format!("/v1/views/{name}/changes"), follow);
}

fn filter(column: &Column) -> Value {
    let schema = json!({"type": type_of(column)});
    query(&column.name, "Only rows with this value.", &schema)
}

fn type_of(column: &Column) -> &'static str {
    match column.column_type {
        ColumnType::Text | ColumnType::Time => "string",
        ColumnType::Integer => "integer",
        ColumnType::Boolean => "boolean",
    }
}

fn row_schema(definition: &ProjectionDefinition, table: &Table) -> Value {
    let property = |column: &Column| {
        let mut schema = if column.nullable {
            json!({"type": [type_of(column), "null"]})
        } else {
            json!({"type": type_of(column)})
        };
        if column.column_type == ColumnType::Time {
            schema["format"] = "date-time".into();
        }
        (column.name.to_string(), schema)
    };
    let mut properties: Map<String, Value> = table.shown().map(property).collect();
    let required: Vec<String> = properties.keys().cloned().collect();
    let mut lag = reference("Lag");
    lag["description"] = "Only where one row is read.".into();
    properties.insert("lag".to_owned(), lag);
    json!({
        "type": "object",
        "description": definition.description,
        "required": required,
        "properties": properties,
    })
}

/// Schemas that do not depend on what is registered.
pub(super) fn components(schemas: &mut Map<String, Value>) {
    let (number, text) = (json!({"type": "number"}), json!({"type": "string"}));
    let count = json!({"type": "integer", "minimum": 0});
    schemas.insert(
        "Lag".to_owned(),
        json!({
            "type": "object",
            "description": "How far a view is behind.",
            "required": ["events", "seconds"],
            "properties": {
                "events": {
                    "type": "integer",
                    "description": "Committed events that are not in the rows yet.",
                },
                "seconds": {
                    "type": "number",
                    "description": "For how long the oldest of them has been waiting.",
                },
            },
        }),
    );
    schemas.insert(
        "Projection".to_owned(),
        json!({
            "type": "object",
            "required": ["name", "version", "state", "lag", "dead_letters", "rebuild", "shards"],
            "properties": {
                "node": node_schema(),
                "name": text,
                "description": text,
                "version": count,
                "build": count,
                "state": {"type": "string", "enum": ["running", "paused", "failing",
                    "outdated", "checking", "repairing"]},
                "aggregate_types": {"type": "array", "items": text},
                "lag": reference("Lag"),
                "events_handled": count,
                "events_per_second": number,
                "dead_letters": count,
                "rebuild": {
                    "type": ["object", "null"],
                    "properties": {
                        "version": count,
                        "percent": number,
                        "events_left": count,
                        "events_per_second": number,
                        "seconds_left": {"type": ["number", "null"]},
                    },
                },
                "shards": {"type": "array", "items": {
                    "type": "object",
                    "properties": {
                        "shard": count, "reached": count, "committed": count, "failure": text,
                    },
                }},
            },
        }),
    );
    schemas.insert("DeadLetter".to_owned(), json!({
        "type": "object",
        "description": "An event that could not be handled. Later ones of its aggregate wait too.",
        "required": ["id", "aggregate_type", "aggregate_id", "sequence_number", "reason"],
        "properties": {
            "id": count,
            "aggregate_type": text,
            "aggregate_id": text,
            "sequence_number": count,
            "position": text,
            "event_type": {"type": ["string", "null"]},
            "time": {"type": "string", "format": "date-time"},
            "reason": text,
            "attempts": count,
            "parked_at": {"type": "string", "format": "date-time"},
        },
    }));
    schemas.insert(
        "Retried".to_owned(),
        json!({
            "type": "object",
            "required": ["resolved", "handled"],
            "properties": {
                "node": node_schema(),
                "resolved": {
                    "type": "boolean",
                    "description": "Whether the aggregate goes on with the others.",
                },
                "handled": count,
                "reason": text,
            },
        }),
    );
}
