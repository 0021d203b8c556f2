//! Moves JSON Schemas into an OpenAPI document.
//!
//! A derived schema keeps its parts in `$defs` and points to them from its own root. Inside a
//! larger document that root is another, so the parts become components and the references follow.

use serde_json::{Map, Value};

/// Where schemas stand in an OpenAPI document.
pub(crate) const COMPONENTS: &str = "#/components/schemas/";

/// Adds a schema under `name`, and its `$defs` under `prefix.part`; gives a reference to it.
pub(crate) fn add(
    components: &mut Map<String, Value>,
    prefix: &str,
    name: &str,
    schema: &Value,
) -> Value {
    let own = component_name(prefix, name);
    let mut schema = schema.clone();
    let parts = take_parts(&mut schema);
    rewrite(&mut schema, prefix, &own);
    for (part, mut content) in parts {
        rewrite(&mut content, prefix, &own);
        components.insert(component_name(prefix, &part), content);
    }
    let reference = serde_json::json!({ "$ref": format!("{COMPONENTS}{own}") });
    components.insert(own, schema);
    reference
}

fn take_parts(schema: &mut Value) -> Map<String, Value> {
    let Some(object) = schema.as_object_mut() else {
        return Map::new();
    };
    object.remove("$schema");
    match object.remove("$defs") {
        Some(Value::Object(parts)) => parts,
        _ => Map::new(),
    }
}

fn rewrite(value: &mut Value, prefix: &str, own: &str) {
    match value {
        Value::Array(items) => items.iter_mut().for_each(|v| rewrite(v, prefix, own)),
        Value::Object(object) => {
            for (key, value) in object {
                match value {
                    Value::String(target) if key == "$ref" => {
                        if let Some(part) = target.strip_prefix("#/$defs/") {
                            *target = format!("{COMPONENTS}{}", component_name(prefix, part));
                        } else if target == "#" {
                            *target = format!("{COMPONENTS}{own}");
                        }
                    }
                    other => rewrite(other, prefix, own),
                }
            }
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

/// Component names match `[a-zA-Z0-9._-]+`.
fn component_name(prefix: &str, name: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    format!("{prefix}.{name}")
        .chars()
        .map(|c| if plain(c) { c } else { '_' })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn parts_become_components_and_references_follow() {
        let mut components = Map::new();
        let schema = json!({
            "$schema": "x",
            "properties": {"line": {"$ref": "#/$defs/Line"}, "next": {"$ref": "#"}},
            "$defs": {"Line": {"items": [{"$ref": "#/$defs/Cents"}]}, "Cents": {"type": "integer"}}
        });
        let reference = add(&mut components, "order", "State", &schema);
        assert_eq!(
            reference,
            json!({"$ref": "#/components/schemas/order.State"})
        );
        assert_eq!(
            Value::Object(components),
            json!({
                "order.State": {"properties": {
                    "line": {"$ref": "#/components/schemas/order.Line"},
                    "next": {"$ref": "#/components/schemas/order.State"},
                }},
                "order.Line": {"items": [{"$ref": "#/components/schemas/order.Cents"}]},
                "order.Cents": {"type": "integer"},
            })
        );
    }
}
