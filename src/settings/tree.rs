//! Values as they were written, each with its place; the common form of the file and the
//! environment.
//!
//! Refuses to know which keys exist: that is for [`super::check`]. Invariant: every node of a tree
//! has an origin, so that every later message can name a place.

use figment::value::{Num, Value};
use toml_edit::{Item, TableLike};

use super::origin::Origin;

/// A value or a section as it was written, with its place.
#[derive(Debug)]
pub(super) struct Tree {
    pub(super) origin: Origin,
    pub(super) node: Node,
}

/// The content of a [`Tree`].
#[derive(Debug)]
pub(super) enum Node {
    Leaf(Value),
    List(Vec<Tree>),
    Section(Vec<(String, Tree)>),
}

/// Turns a parsed TOML item into a tree; `place` tells the origin of a range of bytes, none means
/// the place of the parent.
pub(super) fn from_item(item: &Item, origin: Origin, place: &dyn Fn(usize) -> Origin) -> Tree {
    let at = |span: Option<std::ops::Range<usize>>| {
        span.map_or_else(|| origin.clone(), |span| place(span.start))
    };
    let node = if let Some(table) = item.as_table_like() {
        Node::Section(section(table, &origin, place))
    } else if let Some(tables) = item.as_array_of_tables() {
        let trees = tables.iter().map(|table| {
            let origin = at(table.span());
            let node = Node::Section(section(table, &origin, place));
            Tree { origin, node }
        });
        Node::List(trees.collect())
    } else if let Some(array) = item.as_array() {
        let trees = array
            .iter()
            .map(|value| from_item(&Item::Value(value.clone()), at(value.span()), place));
        Node::List(trees.collect())
    } else {
        Node::Leaf(leaf(item))
    };
    Tree { origin, node }
}

fn section(
    table: &dyn TableLike,
    parent: &Origin,
    place: &dyn Fn(usize) -> Origin,
) -> Vec<(String, Tree)> {
    table
        .iter()
        .map(|(name, item)| {
            let span = table
                .key(name)
                .and_then(toml_edit::Key::span)
                .or_else(|| item.span());
            let origin = span.map_or_else(|| parent.clone(), |span| place(span.start));
            (name.to_owned(), from_item(item, origin, place))
        })
        .collect()
}

/// The value of an item that is neither table nor array. Dates stay text: no key has a date.
fn leaf(item: &Item) -> Value {
    match item.as_value() {
        Some(toml_edit::Value::String(text)) => Value::from(text.value().clone()),
        Some(toml_edit::Value::Integer(number)) => Value::from(*number.value()),
        Some(toml_edit::Value::Float(number)) => Value::from(*number.value()),
        Some(toml_edit::Value::Boolean(flag)) => Value::from(*flag.value()),
        Some(other) => Value::from(other.to_string().trim().to_owned()),
        None => Value::from(String::new()),
    }
}

/// Writes a value as TOML would have it, for messages and reports.
pub(super) fn to_toml(value: &Value) -> toml_edit::Value {
    match value {
        Value::String(_, text) => text.as_str().into(),
        Value::Char(_, letter) => letter.to_string().into(),
        Value::Bool(_, flag) => (*flag).into(),
        Value::Num(_, number) => number_to_toml(*number),
        Value::Empty(_, _) => String::new().into(),
        Value::Dict(_, dict) => {
            let pairs = dict
                .iter()
                .map(|(name, value)| (name.as_str(), to_toml(value)));
            toml_edit::Value::InlineTable(pairs.collect())
        }
        Value::Array(_, values) => toml_edit::Value::Array(values.iter().map(to_toml).collect()),
    }
}

/// TOML integers end at `i64::MAX`; a number beyond it is written as text.
fn number_to_toml(number: Num) -> toml_edit::Value {
    if let Some(float) = number.to_f64() {
        return float.into();
    }
    match (number.to_i128(), number.to_u128()) {
        (Some(signed), _) => {
            i64::try_from(signed).map_or_else(|_| signed.to_string().into(), Into::into)
        }
        (None, Some(unsigned)) => {
            i64::try_from(unsigned).map_or_else(|_| unsigned.to_string().into(), Into::into)
        }
        (None, None) => format!("{number:?}").into(),
    }
}
