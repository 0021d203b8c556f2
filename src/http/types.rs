//! `/v1/types`: what the aggregate types are, with the JSON Schemas of their parts.

use http::{StatusCode, request};
use phalanx_actors::types::{TypeDescription, TypeRegistry, VariantDescription};
use serde_json::{Value, json};

use super::app::App;
use super::code::Code;
use super::problem::Problem;
use super::query;
use super::response::{json as json_reply, typed};
use super::service::{Answered, decode, type_name};

/// Answers with all types.
pub(crate) fn all(app: &App, parts: &request::Parts) -> Answered {
    let [] = query::parse(parts.uri.query(), [])?;
    Ok(app.documents.types())
}

/// Answers with one type.
pub(crate) fn one(app: &App, parts: &request::Parts, segment: &str) -> Answered {
    let name = type_name(app, segment)?;
    let [] = query::parse(parts.uri.query(), [])?;
    let description = app.router.types().get(name).map(describe);
    Ok(json_reply(description.unwrap_or_default().to_string()))
}

/// Answers with the JSON Schema of one event: what `dataschema` in a history points to.
pub(crate) fn event_schema(app: &App, kind: &str, event: &str, version: &str) -> Answered {
    let name = type_name(app, kind)?;
    let schema = app.router.types().get(name).and_then(|description| {
        let event = decode(event)?;
        let found = description.events.iter().find(|e| e.name == event)?;
        (version == found.version.to_string()).then(|| found.schema.to_string())
    });
    match schema {
        Some(schema) => Ok(typed(StatusCode::OK, "application/schema+json", schema)),
        None => Err(Box::new(Problem::new(
            Code::NotFound,
            format!("{name} has no such event in this schema version"),
        ))),
    }
}

/// Renders `/v1/types`.
pub(crate) fn render_all(registry: &TypeRegistry) -> String {
    let types: Vec<Value> = registry.iter().map(describe).collect();
    json!({ "types": types }).to_string()
}

fn describe(description: &TypeDescription) -> Value {
    json!({
        "name": description.name,
        "description": description.description,
        "commands": variants(&description.commands),
        "events": events(&description.events),
        "rejections": variants(&description.rejections),
        "state": description.state,
        "justifications": description.justifications,
        "views": description.views,
    })
}

/// Events have a version besides.
fn events(events: &[VariantDescription]) -> Vec<Value> {
    let mut described = variants(events);
    for (event, json) in events.iter().zip(&mut described) {
        json["schema_version"] = event.version.into();
    }
    described
}

fn variants(variants: &[VariantDescription]) -> Vec<Value> {
    variants
        .iter()
        .map(|variant| {
            json!({
                "name": variant.name,
                "description": variant.description,
                "schema": variant.schema,
            })
        })
        .collect()
}
