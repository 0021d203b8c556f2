//! What changed between two sets of schemas, and for whom that is a problem.
//!
//! For a command, the question is whether what was accepted still is. An event has to keep its shape
//! as long as it keeps its version. Words (descriptions, titles, formats of numbers) do not count.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use serde_json::Value;

/// One change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Change {
    /// Whether somebody who did everything right is harmed.
    pub(crate) breaks: bool,
    place: String,
    what: String,
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = if self.breaks {
            "INCOMPATIBLE"
        } else {
            "compatible"
        };
        write!(f, "{kind}: {}: {}", self.place, self.what)
    }
}

/// All changes between two documents of one type.
pub(crate) fn changes(before: &Value, after: &Value) -> Vec<Change> {
    let mut out = Vec::new();
    let named = |document: &Value, key: &str| -> BTreeMap<String, Value> {
        let list = document[key].as_object().cloned().unwrap_or_default();
        list.into_iter().collect()
    };
    for (key, kind) in [("commands", "command"), ("events", "event")] {
        let (old, new) = (named(before, key), named(after, key));
        for (name, old) in &old {
            let place = format!("{kind} {name}");
            match new.get(name) {
                Some(new) => {
                    let is_event = kind == "event";
                    of_variant(&place, is_event, old, new, &mut out);
                }
                None if kind == "event" => {
                    let what = "removed; histories may show another one instead";
                    out.push(Change::new(true, place, what));
                }
                None => out.push(Change::new(true, place, "removed")),
            }
        }
        for name in new.keys().filter(|name| !old.contains_key(*name)) {
            out.push(Change::new(false, format!("{kind} {name}"), "new"));
        }
    }
    out
}

impl Change {
    fn new(breaks: bool, place: impl Into<String>, what: impl Into<String>) -> Self {
        Self {
            breaks,
            place: place.into(),
            what: what.into(),
        }
    }
}

fn of_variant(place: &str, is_event: bool, old: &Value, new: &Value, out: &mut Vec<Change>) {
    let version = |of: &Value| of["version"].as_u64().unwrap_or(0);
    let (was, is) = (version(old), version(new));
    if is != was {
        let what = format!("version {is} after version {was}");
        out.push(Change::new(is < was, place, what));
    }
    let mut found = Vec::new();
    let sides = [Side::new(&old["schema"]), Side::new(&new["schema"])];
    compare(place.to_owned() + " ", &sides, 0, &mut found);
    for mut change in found {
        if is_event {
            change.breaks = is <= was;
        }
        out.push(change);
    }
}

/// A schema, and the document that its references lead into.
#[derive(Clone, Copy)]
struct Side<'a> {
    root: &'a Value,
    schema: &'a Value,
}

impl<'a> Side<'a> {
    fn new(root: &'a Value) -> Self {
        Self { root, schema: root }
    }

    /// A part of it, references followed.
    fn at(self, schema: &'a Value) -> Self {
        let mut schema = schema;
        // A chain of references is short, or it is a circle.
        for _ in 0..8 {
            let target = schema["$ref"].as_str().and_then(|r| r.strip_prefix('#'));
            match target.and_then(|pointer| self.root.pointer(pointer)) {
                Some(found) => schema = found,
                None => break,
            }
        }
        Self { schema, ..self }
    }

    fn properties(self) -> BTreeMap<&'a str, &'a Value> {
        let list = self.schema["properties"].as_object();
        list.into_iter()
            .flatten()
            .map(|(n, s)| (n.as_str(), s))
            .collect()
    }

    fn required(self) -> BTreeSet<&'a str> {
        let list = self.schema["required"].as_array();
        list.into_iter()
            .flatten()
            .filter_map(Value::as_str)
            .collect()
    }

    /// The types that it allows, those of its alternatives included.
    fn types(self, depth: usize) -> BTreeSet<&'a str> {
        let mut types: BTreeSet<&str> = BTreeSet::new();
        match &self.schema["type"] {
            Value::String(one) => drop(types.insert(one.as_str())),
            Value::Array(several) => types.extend(several.iter().filter_map(Value::as_str)),
            _ => {}
        }
        if depth < 8 {
            for alternative in self.alternatives() {
                types.extend(self.at(alternative).types(depth + 1));
            }
        }
        types
    }

    fn alternatives(self) -> impl Iterator<Item = &'a Value> {
        let lists = ["oneOf", "anyOf"].map(|key| self.schema[key].as_array());
        lists.into_iter().flatten().flatten()
    }

    /// The values of an enum without fields.
    fn values(self) -> BTreeSet<String> {
        let mut values = BTreeSet::new();
        values.extend(
            self.schema["enum"]
                .as_array()
                .into_iter()
                .flatten()
                .map(Value::to_string),
        );
        values.extend(self.schema.get("const").map(Value::to_string));
        for alternative in self.alternatives() {
            let alternative = self.at(alternative).schema;
            values.extend(alternative.get("const").map(Value::to_string));
            let several = alternative["enum"].as_array();
            values.extend(several.into_iter().flatten().map(Value::to_string));
        }
        values
    }
}

fn compare(place: String, sides: &[Side<'_>; 2], depth: usize, out: &mut Vec<Change>) {
    // Types that contain themselves are looked into so far.
    if depth > 12 {
        return;
    }
    let [old, new] = sides.map(|side| side.at(side.schema));
    let mut note = |breaks, what: String| out.push(Change::new(breaks, place.clone(), what));
    for name in old.types(0).difference(&new.types(0)) {
        note(true, format!("narrowed type: no more {name}"));
    }
    for name in new.types(0).difference(&old.types(0)) {
        note(false, format!("widened type: also {name}"));
    }
    for value in old.values().difference(&new.values()) {
        note(true, format!("removed enum value {value}"));
    }
    for value in new.values().difference(&old.values()) {
        note(false, format!("new enum value {value}"));
    }
    limits(old.schema, new.schema, &mut note);
    fields(&place, [old, new], depth, out);
    if let (Some(a), Some(b)) = (old.schema.get("items"), new.schema.get("items")) {
        compare(
            format!("{place}/items"),
            &[old.at(a), new.at(b)],
            depth + 1,
            out,
        );
    }
    // Alternatives with fields, in their order: `Option<T>` and enums with contents.
    for (a, b) in old.alternatives().zip(new.alternatives()) {
        let [a, b] = [old.at(a), new.at(b)];
        if !a.properties().is_empty() || !b.properties().is_empty() {
            fields(&place, [a, b], depth + 1, out);
        }
    }
}

fn limits(old: &Value, new: &Value, note: &mut impl FnMut(bool, String)) {
    for (key, upper) in [
        ("minimum", false),
        ("minLength", false),
        ("minItems", false),
        ("maximum", true),
        ("maxLength", true),
        ("maxItems", true),
    ] {
        let (a, b) = (&old[key], &new[key]);
        if a == b {
            continue;
        }
        let (was, is) = (a.as_f64(), b.as_f64());
        let narrower = match (was, is) {
            (Some(was), Some(is)) => (is < was) == upper,
            (was, _) => was.is_none(),
        };
        let kind = if narrower { "narrowed" } else { "widened" };
        note(narrower, format!("{kind}: {key} is {b}, was {a}"));
    }
    if old["pattern"] != new["pattern"] {
        note(
            true,
            format!(
                "narrowed: pattern is {}, was {}",
                new["pattern"], old["pattern"]
            ),
        );
    }
}

fn fields(place: &str, [old, new]: [Side<'_>; 2], depth: usize, out: &mut Vec<Change>) {
    let (before, after) = (old.properties(), new.properties());
    let (required_before, required) = (old.required(), new.required());
    for (name, a) in &before {
        let place = format!("{place}/{name}");
        let Some(b) = after.get(name) else {
            out.push(Change::new(true, place, "removed field"));
            continue;
        };
        match (required_before.contains(name), required.contains(name)) {
            (false, true) => out.push(Change::new(true, place.clone(), "now required")),
            (true, false) => out.push(Change::new(false, place.clone(), "no longer required")),
            _ => {}
        }
        compare(place, &[old.at(a), new.at(b)], depth + 1, out);
    }
    for name in after.keys().filter(|name| !before.contains_key(*name)) {
        let needed = required.contains(name);
        let what = if needed {
            "new required field"
        } else {
            "new optional field"
        };
        out.push(Change::new(needed, format!("{place}/{name}"), what));
    }
}
