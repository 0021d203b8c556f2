//! The JSON Schemas of the samples' commands and events, as `docs/schemas` shows them.
//!
//! Clients send commands and read events: a change of their schemas is a change of an interface. Each
//! run makes the schemas anew and compares. A change that clients need not notice asks to be written
//! down; one that breaks them is named field by field, and is written down only on request.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod compat;

use std::path::PathBuf;

use phalanx::domain::{Account, Order, Prescription, WorkshopDay};
use phalanx_actors::types::{TypeDescription, TypeRegistry, VariantDescription};
use serde_json::{Map, Value, json};

use crate::compat::Change;

const HOW: &str = "PHALANX_WRITE_SCHEMAS=compatible cargo test --release --features \
                   phalanx/failpoints --test schemas";

fn directory() -> PathBuf {
    PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/schemas"))
}

fn samples() -> TypeRegistry {
    let mut types = TypeRegistry::default();
    types.register::<Account>().unwrap();
    types.register::<Order>().unwrap();
    types.register::<Prescription>().unwrap();
    types.register::<WorkshopDay>().unwrap();
    types
}

/// What is written down of a type.
fn document(description: &TypeDescription) -> Value {
    let named = |list: &[VariantDescription], with_version: bool| -> Map<String, Value> {
        let entry = |variant: &VariantDescription| {
            let mut schema = json!({"description": variant.description, "schema": variant.schema});
            if with_version {
                schema["version"] = variant.version.into();
            }
            (variant.name.clone(), schema)
        };
        list.iter().map(entry).collect()
    };
    json!({
        "type": description.name,
        "commands": named(&description.commands, false),
        "events": named(&description.events, true),
    })
}

#[test]
fn the_schemas_are_those_that_are_written_down() {
    let write = std::env::var("PHALANX_WRITE_SCHEMAS").unwrap_or_default();
    let mut report = String::new();
    for description in samples().iter() {
        let file = directory().join(format!("{}.json", description.name));
        let now = document(description);
        let text = format!("{now:#}\n");
        let recorded = std::fs::read_to_string(&file).unwrap_or_default();
        if recorded == text {
            continue;
        }
        let before: Value = serde_json::from_str(&recorded).unwrap_or_default();
        let changes = compat::changes(&before, &now);
        let breaking = changes.iter().any(|change| change.breaks);
        if write == "incompatible" || write == "compatible" && !breaking {
            std::fs::create_dir_all(directory()).unwrap();
            std::fs::write(&file, text).unwrap();
            continue;
        }
        report += &format!("docs/schemas/{}.json:\n", description.name);
        report += &lines(&changes);
    }
    assert!(
        report.is_empty(),
        "the schemas changed\n{report}\n\
         Compatible changes are written down by\n    {HOW}\n\
         An incompatible one breaks clients, or readers of events: take it back, add a new field, \
         command or event beside the old one, or give the event a new version (docs/EVOLUTION.md). \
         Where it must be, write =incompatible and say so in CHANGELOG.md.\n"
    );
}

fn lines(changes: &[Change]) -> String {
    if changes.is_empty() {
        return "  compatible: only the words changed\n".to_owned();
    }
    changes
        .iter()
        .map(|change| format!("  {change}\n"))
        .collect()
}

#[test]
fn every_file_belongs_to_a_type() {
    let types = samples();
    for entry in std::fs::read_dir(directory()).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        let kind = name.strip_suffix(".json").unwrap_or(&name);
        assert!(
            types.get(kind).is_some(),
            "docs/schemas/{name} is of no sample"
        );
    }
}

/// What is said when `old` becomes `new` for the only command and the only event of a type.
fn said(old: &Value, new: &Value, versions: [u16; 2]) -> [Vec<String>; 2] {
    let [before, after] = [(old, versions[0]), (new, versions[1])].map(|(schema, version)| {
        json!({
            "commands": {"Do": {"schema": schema}},
            "events": {"Done": {"schema": schema, "version": version}},
        })
    });
    let changes = compat::changes(&before, &after);
    ["command Do", "event Done"].map(|of| {
        let of_it = changes
            .iter()
            .map(ToString::to_string)
            .filter(|text| text.contains(of));
        of_it.collect()
    })
}

#[test]
fn each_kind_of_change_is_named() {
    let old = json!({
        "type": "object",
        "properties": {
            "name": {"type": "string"},
            "colour": {"$ref": "#/$defs/Colour"},
            "amount": {"type": ["integer", "null"], "maximum": 10},
            "list": {"type": "array", "items": {"type": "object", "properties": {
                "x": {"type": "integer"}}, "required": ["x"]}},
        },
        "required": ["name"],
        "$defs": {"Colour": {"oneOf": [{"const": "red"}, {"const": "blue"}]}},
    });
    let with = |pointer: &str, value: Value| {
        let mut new = old.clone();
        *new.pointer_mut(pointer).unwrap() = value;
        new
    };
    let without = |pointer: &str, name: &str| {
        let mut new = old.clone();
        let parent = new.pointer_mut(pointer).unwrap();
        parent.as_object_mut().unwrap().remove(name);
        new
    };
    let mut added = old.clone();
    added["properties"]["note"] = json!({"type": "string"});
    let mut demanded = added.clone();
    demanded["required"] = json!(["name", "note"]);
    for (new, words, breaks_command) in [
        (
            without("/properties", "amount"),
            "/amount: removed field",
            true,
        ),
        (added, "/note: new optional field", false),
        (demanded, "/note: new required field", true),
        (
            with("/required", json!([])),
            "/name: no longer required",
            false,
        ),
        (
            with("/required", json!(["name", "list"])),
            "/list: now required",
            true,
        ),
        (
            with("/properties/amount/type", json!("integer")),
            "/amount: narrowed type: no more null",
            true,
        ),
        (
            with("/properties/name/type", json!(["string", "null"])),
            "/name: widened type: also null",
            false,
        ),
        (
            with("/properties/amount/maximum", json!(9)),
            "/amount: narrowed: maximum is 9, was 10",
            true,
        ),
        (
            with("/$defs/Colour/oneOf", json!([{"const": "red"}])),
            "/colour: removed enum value \"blue\"",
            true,
        ),
        (
            with(
                "/$defs/Colour/oneOf",
                json!([{"const": "red"}, {"const": "blue"}, {"const": "green"}]),
            ),
            "/colour: new enum value \"green\"",
            false,
        ),
        (
            with("/properties/list/items/required", json!([])),
            "/list/items/x: no longer required",
            false,
        ),
    ] {
        let [command, event] = said(&old, &new, [1, 1]);
        let expected = |kind, of| format!("{kind}: {of} {words}");
        let kind = if breaks_command {
            "INCOMPATIBLE"
        } else {
            "compatible"
        };
        assert_eq!(command, [expected(kind, "command Do")]);
        // What is stored under a version has the shape of that version.
        assert_eq!(event[0], expected("INCOMPATIBLE", "event Done"));
        // Under a new version, it may change.
        let [_, event] = said(&old, &new, [1, 2]);
        assert_eq!(event[1], expected("compatible", "event Done"));
    }
    let described = with(
        "/$defs/Colour/oneOf",
        json!([
            {"const": "red", "description": "warm"},
            {"const": "blue"},
        ]),
    );
    assert_eq!(
        said(&old, &described, [1, 1]),
        [const { Vec::<String>::new() }; 2]
    );
    let [_, event] = said(&old, &old, [2, 1]);
    assert_eq!(
        event,
        ["INCOMPATIBLE: event Done: version 1 after version 2"]
    );
}

#[test]
fn commands_and_events_that_are_gone_are_named() {
    let one = json!({"schema": {"type": "object"}, "version": 1});
    let before = json!({"commands": {"Do": one}, "events": {"Done": one}});
    let after = json!({"commands": {}, "events": {}});
    let texts = |from, to| -> Vec<String> {
        compat::changes(from, to)
            .iter()
            .map(ToString::to_string)
            .collect()
    };
    assert_eq!(
        texts(&before, &after),
        [
            "INCOMPATIBLE: command Do: removed",
            "INCOMPATIBLE: event Done: removed; histories may show another one instead",
        ]
    );
    assert_eq!(
        texts(&after, &before),
        ["compatible: command Do: new", "compatible: event Done: new"]
    );
}
