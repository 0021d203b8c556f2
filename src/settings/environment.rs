//! Reads overrides from the environment: `PHALANX__HTTP__LISTEN` sets `http.listen`.
//!
//! Two underscores separate the levels, as keys contain single ones. Text is taken as it is,
//! without quotes; other values are written as in the file. Invariant: a variable with the prefix
//! that names no key is a problem, never ignored, because it is a misspelt override.

use std::ffi::OsString;

use figment::value::Value;

use super::check::Layer;
use super::error::ProblemKind;
use super::origin::Origin;
use super::schema::{HIDDEN, SECRET, Schema, VARIABLE_PREFIX, value_at, variable_of};
use super::tree::{self, Node, Tree};

/// The overrides among the given variables.
pub(super) fn read(
    variables: impl Iterator<Item = (OsString, OsString)>,
    schema: &Schema,
) -> Layer {
    let mut overrides: Vec<(String, OsString)> = variables
        .map(|(name, value)| (name.to_string_lossy().into_owned(), value))
        .filter(|(name, _)| name.starts_with(VARIABLE_PREFIX))
        .collect();
    overrides.sort();
    let keys = schema.keys();
    let mut layer = Layer::default();
    for (variable, value) in overrides {
        let origin = Origin::Environment {
            variable: variable.clone(),
        };
        match keys.iter().find(|key| variable_of(key) == variable) {
            Some(key) => take(key, value, origin, schema, &mut layer),
            None => {
                let key = nearest_key(&variable, schema, &keys);
                let nearest = variable_of(&key);
                layer.refuse(&key, origin, ProblemKind::UnknownVariable { nearest });
            }
        }
    }
    layer
}

fn take(key: &str, value: OsString, origin: Origin, schema: &Schema, layer: &mut Layer) {
    let text = match value.into_string() {
        Ok(text) => text,
        Err(value) => {
            let kind = ProblemKind::BadValue {
                found: if key == SECRET {
                    HIDDEN.to_owned()
                } else {
                    format!("{value:?}")
                },
                reason: "it is not valid UTF-8".to_owned(),
                default: schema.default_text(key),
            };
            return layer.refuse(key, origin, kind);
        }
    };
    let is_text = matches!(value_at(&schema.defaults, key), Some(Value::String(..)));
    let mut tree = match text.parse::<toml_edit::Value>() {
        Ok(value) if !is_text => {
            let place = |_| origin.clone();
            tree::from_item(&toml_edit::Item::Value(value), origin.clone(), &place)
        }
        Ok(_) | Err(_) => Tree {
            origin: origin.clone(),
            node: Node::Leaf(Value::from(text)),
        },
    };
    let mut parts: Vec<&str> = key.split('.').collect();
    let root = parts.remove(0);
    for part in parts.into_iter().rev() {
        let node = Node::Section(vec![(part.to_owned(), tree)]);
        tree = Tree {
            origin: origin.clone(),
            node,
        };
    }
    layer.add(vec![(root.to_owned(), tree)], schema);
}

/// The key that a misspelt variable probably means. A list is one value here.
fn nearest_key(variable: &str, schema: &Schema, keys: &[String]) -> String {
    let written = variable
        .trim_start_matches(VARIABLE_PREFIX)
        .to_lowercase()
        .replace("__", ".");
    schema.nearest_of(&written, |known, _| keys.iter().any(|key| key == known))
}
