//! The OpenAPI 3.1 document, made from the route table and the registered aggregate types.
//!
//! Every route appears under its template; the routes of aggregates appear once more for each type
//! with that type's own schemas, and those of views for each view. Every member lists the same, for every
//! member answers the same: what another one has, it asks for there.

mod cluster;
mod parts;
mod schemas;
mod views;

use std::sync::Arc;

use phalanx_actors::projection::ProjectionDefinition;
use phalanx_actors::types::{TypeDescription, TypeRegistry};
use serde_json::{Map, Value, json};

use self::parts::{
    answer, body, command_answers, command_parameters, components, diff_answers, diff_parameters,
    events_answers, events_parameters, last_event_id, name_callers, problems, state_answers,
    state_parameters, stream_answers, stream_parameters, watch_answers, what_if_answers,
    what_if_body,
};
use super::callers::Callers;
use super::routes::Route;
use super::schema;

/// Makes the document.
pub(crate) fn document(
    registry: &TypeRegistry,
    views: &[Arc<ProjectionDefinition>],
    callers: &Callers,
) -> Value {
    let mut schemas = Map::new();
    let mut paths = Map::new();
    let mut tags = vec![
        json!({"name": "aggregates", "description": "Commands, states and histories of any type."}),
        json!({"name": "events", "description": "What happens, as it happens."}),
        json!({"name": "views", "description": "Read models: rows that follow the events."}),
        json!({"name": "description", "description": "What this node knows and what can go wrong."}),
        json!({"name": "operation", "description": "Health and metrics."}),
    ];
    for route in Route::ALL.into_iter().filter(|route| *route != Route::None) {
        paths.insert(route.template().to_owned(), general(route));
    }
    for description in registry.iter() {
        let tag = json!({"name": description.name, "description": description.description});
        tags.push(tag);
        add_type(description, &mut paths, &mut schemas);
    }
    for definition in views {
        views::add(definition, &mut paths, &mut schemas);
    }
    name_callers(&mut paths, callers);
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "Phalanx",
            "version": env!("CARGO_PKG_VERSION"),
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
            "description": "Commands go to aggregates that live in memory; their events are on \
                disk before a command is answered. Fresh reads of the same memory need a \
                justification.",
        },
        "servers": [{"url": "/"}],
        "tags": tags,
        "paths": paths,
        "components": components(schemas),
    })
}

/// The path item of a route, for any type.
fn general(route: Route) -> Value {
    let any = json!({"type": "object"});
    match route {
        Route::Command => {
            let parameters = with(path(&["type", "id", "command"]), command_parameters());
            json!({"post": {
                "operationId": "sendCommand",
                "tags": ["aggregates"],
                "summary": "Send a command",
                "description": "The reply is sent when the command's events are on disk.",
                "parameters": parameters,
                "requestBody": body(&any),
                "responses": command_answers(),
            }})
        }
        Route::State => json!({"get": {
            "operationId": "readState",
            "tags": ["aggregates"],
            "summary": "Read the state, fresh from memory or as it was",
            "description": "A fresh read needs `after` or a justification; `at_sequence` and \
                `as_of` do not.",
            "parameters": with(path(&["type", "id"]), state_parameters(None)),
            "responses": state_answers(&any),
        }}),
        Route::History => json!({"get": {
            "operationId": "readHistory",
            "tags": ["aggregates"],
            "summary": "Read the history as CloudEvents",
            "parameters": with(path(&["type", "id"]), events_parameters()),
            "responses": events_answers(),
        }}),
        Route::Watch => json!({"get": {
            "operationId": "watchState",
            "tags": ["aggregates"],
            "summary": "Follow the state of an aggregate",
            "description": "A stream that does not end. The first message, `state`, has the state; \
                each later one, `change`, names the events that have happened since and has the state \
                after them. All of it is committed and folded from the journal, so it needs no \
                justification. `id` is the sequence number; a comment every 15 seconds says that \
                the stream lives.",
            "parameters": with(path(&["type", "id"]), vec![last_event_id()]),
            "responses": watch_answers(),
        }}),
        Route::Diff => json!({"get": {
            "operationId": "compareStates",
            "tags": ["aggregates"],
            "summary": "Compare the states at two sequence numbers",
            "description": "Folded from the journal, so it needs no justification.",
            "parameters": with(path(&["type", "id"]), diff_parameters()),
            "responses": diff_answers(&any),
        }}),
        Route::WhatIf => json!({"post": {
            "operationId": "askWhatIf",
            "tags": ["aggregates"],
            "summary": "Ask what the state would be with further events in its history",
            "description": WHAT_IF,
            "parameters": path(&["type", "id"]),
            "requestBody": body(&what_if_body(None)),
            "responses": what_if_answers(&any),
        }}),
        Route::Events => json!({"get": {
            "operationId": "followEvents",
            "tags": ["events"],
            "summary": "Follow the committed events of all shards as CloudEvents",
            "description": "A stream that does not end. Its `id` lines resume it without a gap or a \
                repeat; a comment every 15 seconds says that it lives.",
            "parameters": stream_parameters(),
            "responses": stream_answers(),
        }}),
        Route::Transfer => cluster::transfer(),
        Route::Nodes => cluster::add_node(),
        Route::Node => cluster::remove_node(),
        Route::Drain => cluster::drain(),
        Route::Cluster => cluster::members(),
        Route::View
        | Route::ViewRow
        | Route::ViewChanges
        | Route::Projections
        | Route::Projection
        | Route::PauseProjection
        | Route::ResumeProjection
        | Route::RebuildProjection
        | Route::DeadLetters
        | Route::RetryLetter
        | Route::SkipLetter => views::general(route),
        Route::Types
        | Route::Type
        | Route::EventSchema
        | Route::Shards
        | Route::Live
        | Route::Ready
        | Route::Started
        | Route::Metrics
        | Route::OpenApi
        | Route::Docs
        | Route::Problems
        | Route::Problem
        | Route::Landing
        | Route::None => simple(route),
    }
}

/// What a route that only shows something is called.
struct Shown {
    id: &'static str,
    tag: &'static str,
    summary: &'static str,
    media_type: &'static str,
    parameters: Vec<Value>,
    problems: &'static [&'static str],
}

/// The path item of a route that only shows something.
fn simple(route: Route) -> Value {
    let Some(shown) = shown(route) else {
        return json!({});
    };
    let is_object = matches!(shown.media_type, JSON | SCHEMA);
    let schema = json!({"type": if is_object { "object" } else { "string" }});
    let mut responses = problems(shown.problems);
    responses.insert("200".to_owned(), answer("OK", shown.media_type, &schema));
    json!({"get": {
        "operationId": shown.id,
        "tags": [shown.tag],
        "summary": shown.summary,
        "parameters": shown.parameters,
        "responses": responses,
    }})
}

fn shown(route: Route) -> Option<Shown> {
    const ABOUT: &str = "description";
    const RUN: &str = "operation";
    let of = |id, tag, summary, media_type, parameters, problems| Shown {
        id,
        tag,
        summary,
        media_type,
        parameters,
        problems,
    };
    let health = |id, summary, problems| of(id, RUN, summary, JSON, verbose(), problems);
    let page = |id, summary| of(id, ABOUT, summary, HTML, vec![], &[]);
    Some(match route {
        Route::Types => of(
            "listTypes",
            ABOUT,
            "All aggregate types",
            JSON,
            vec![],
            &["400"],
        ),
        Route::Type => {
            let summary = "One aggregate type";
            of(
                "describeType",
                ABOUT,
                summary,
                JSON,
                path(&["type"]),
                &["400", "404"],
            )
        }
        Route::EventSchema => {
            let parameters = path(&["type", "event", "version"]);
            let summary = "The JSON Schema of an event's data";
            of("eventSchema", ABOUT, summary, SCHEMA, parameters, &["404"])
        }
        Route::Shards => of(
            "listShards",
            RUN,
            "Every shard: its voters, its leader, how far each copy is",
            JSON,
            vec![],
            &["400"],
        ),
        Route::Live => health("live", "Is the process alive?", &["400"]),
        Route::Ready => health("ready", "Can the node take requests?", &["400", "503"]),
        Route::Started => health("started", "Has the node been ready once?", &["400", "503"]),
        Route::Metrics => of(
            "metrics",
            RUN,
            "Prometheus metrics",
            "text/plain",
            vec![],
            &[],
        ),
        Route::OpenApi => of("openapi", ABOUT, "This document", JSON, vec![], &[]),
        Route::Docs => page("docs", "This document for people"),
        Route::Problems => page("listProblems", "All problem codes"),
        Route::Problem => {
            let parameters = path(&["code"]);
            of(
                "describeProblem",
                ABOUT,
                "One problem code",
                HTML,
                parameters,
                &["404"],
            )
        }
        Route::Landing => page("landing", "Where to look"),
        Route::Command
        | Route::State
        | Route::History
        | Route::Watch
        | Route::Diff
        | Route::WhatIf
        | Route::Events
        | Route::Transfer
        | Route::Nodes
        | Route::Node
        | Route::Drain
        | Route::Cluster
        | Route::View
        | Route::ViewRow
        | Route::ViewChanges
        | Route::Projections
        | Route::Projection
        | Route::PauseProjection
        | Route::ResumeProjection
        | Route::RebuildProjection
        | Route::DeadLetters
        | Route::RetryLetter
        | Route::SkipLetter
        | Route::None => return None,
    })
}

const WHAT_IF: &str = "Folds the history once more with these events inserted, each behind so many \
    recorded ones (0: before all), and stores nothing. Facts that the aggregate derives from its \
    state are derived again. Needs no justification.";
const SCHEMA: &str = "application/schema+json";
const JSON: &str = "application/json";
const HTML: &str = "text/html";

/// The paths of one type, with its own schemas.
fn add_type(
    description: &TypeDescription,
    paths: &mut Map<String, Value>,
    schemas: &mut Map<String, Value>,
) {
    let name = description.name;
    let at = format!("/v1/aggregates/{name}/{{id}}");
    let state = schema::add(schemas, name, "State", &description.state);
    paths.insert(
        at.clone(),
        json!({"get": {
            "operationId": format!("{name}.read"),
            "tags": [name],
            "summary": format!("Read the state of {name}"),
            "parameters": with(path(&["id"]), state_parameters(Some(description))),
            "responses": state_answers(&state),
        }}),
    );
    paths.insert(
        format!("{at}/events"),
        json!({"get": {
            "operationId": format!("{name}.history"),
            "tags": [name],
            "summary": format!("Read the history of {name}"),
            "parameters": with(path(&["id"]), events_parameters()),
            "responses": events_answers(),
        }}),
    );
    paths.insert(
        format!("{at}/watch"),
        json!({"get": {
            "operationId": format!("{name}.watch"),
            "tags": [name],
            "summary": format!("Follow the state of {name}"),
            "parameters": with(path(&["id"]), vec![last_event_id()]),
            "responses": watch_answers(),
        }}),
    );
    paths.insert(
        format!("{at}/diff"),
        json!({"get": {
            "operationId": format!("{name}.diff"),
            "tags": [name],
            "summary": format!("Compare two states of {name}"),
            "parameters": with(path(&["id"]), diff_parameters()),
            "responses": diff_answers(&state),
        }}),
    );
    paths.insert(
        format!("{at}/what-if"),
        json!({"post": {
            "operationId": format!("{name}.whatIf"),
            "tags": [name],
            "summary": format!("Ask what the state of {name} would be"),
            "description": WHAT_IF,
            "parameters": path(&["id"]),
            "requestBody": body(&what_if_body(Some(description))),
            "responses": what_if_answers(&state),
        }}),
    );
    for event in &description.events {
        schema::add(
            schemas,
            &format!("{name}.event"),
            &event.name,
            &event.schema,
        );
    }
    for rejection in &description.rejections {
        let prefix = format!("{name}.rejection");
        schema::add(schemas, &prefix, &rejection.name, &rejection.schema);
    }
    for command in &description.commands {
        let prefix = format!("{name}.command");
        let fields = schema::add(schemas, &prefix, &command.name, &command.schema);
        paths.insert(
            format!("{at}/commands/{}", command.name),
            json!({"post": {
                "operationId": format!("{name}.{}", command.name),
                "tags": [name],
                "summary": command.name,
                "description": command.description,
                "parameters": with(path(&["id"]), command_parameters()),
                "requestBody": body(&fields),
                "responses": command_answers(),
            }}),
        );
    }
}

fn path(names: &[&str]) -> Vec<Value> {
    let parameter = |name: &&str| match *name {
        "id" => json!({"$ref": "#/components/parameters/id"}),
        name => json!({
            "name": name, "in": "path", "required": true, "schema": {"type": "string"},
        }),
    };
    names.iter().map(parameter).collect()
}

fn verbose() -> Vec<Value> {
    vec![json!({
        "name": "verbose",
        "in": "query",
        "description": "List the checks.",
        "allowEmptyValue": true,
        "schema": {"type": "string", "enum": ["", "true", "false"]},
    })]
}

fn with(mut first: Vec<Value>, more: Vec<Value>) -> Vec<Value> {
    first.extend(more);
    first
}

#[cfg(test)]
mod tests;
