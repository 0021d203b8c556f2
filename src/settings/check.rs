//! Holds a tree of values as they were written against the known keys.
//!
//! Owns the finding of unknown keys, wrong shapes and wrong types, all of them in one walk. Refuses
//! to judge ranges: that is for [`super::rules`], once all layers are merged. Invariant: a value
//! gets into the layer only if its type fits.

use std::collections::{BTreeMap, BTreeSet};

use figment::error::Kind;
use figment::value::{Dict, Value};

use super::Settings;
use super::error::{Problem, ProblemKind};
use super::origin::Origin;
use super::rules;
use super::schema::{HIDDEN, SECRET, Schema, Sort, join};
use super::tree::{Node, Tree, to_toml};

/// What one source (the file or the environment) contributes.
#[derive(Debug, Default)]
pub(super) struct Layer {
    /// The accepted values, nested as in the file.
    pub(super) values: Dict,
    /// The place of every accepted key, also of the keys in blocks.
    pub(super) origins: BTreeMap<String, Origin>,
    /// The keys whose values were refused.
    pub(super) refused: BTreeSet<String>,
    /// Everything that is wrong.
    pub(super) problems: Vec<Problem>,
}

/// Puts a section into the place that it has in the whole settings, to try a single value in its
/// place.
type Wrap<'a> = &'a dyn Fn(Dict) -> Dict;

impl Layer {
    /// Takes in the entries of the root section.
    pub(super) fn add(&mut self, entries: Vec<(String, Tree)>, schema: &Schema) {
        let mut values = std::mem::take(&mut self.values);
        let found = self.section("", entries, &schema.example, schema, &|root| root);
        merge(&mut values, found);
        self.values = values;
    }

    fn section(
        &mut self,
        path: &str,
        entries: Vec<(String, Tree)>,
        known: &Dict,
        schema: &Schema,
        wrap: Wrap<'_>,
    ) -> Dict {
        let mut accepted = Dict::new();
        for (name, tree) in entries {
            let key = join(path, &name);
            let Some(known) = known.get(&name) else {
                let sort = if matches!(tree.node, Node::Leaf(_)) {
                    Sort::Value
                } else {
                    Sort::Section
                };
                let nearest = schema.nearest(&key, sort);
                self.refuse(&key, tree.origin, ProblemKind::UnknownKey { nearest });
                continue;
            };
            let wrap_value = |value: Value| wrap(Dict::from([(name.clone(), value)]));
            if let Some(value) = self.value(key, tree, known, schema, &wrap_value) {
                accepted.insert(name, value);
            }
        }
        accepted
    }

    /// Checks what stands under a known key; `None` when it was refused.
    fn value(
        &mut self,
        key: String,
        Tree { origin, node }: Tree,
        known: &Value,
        schema: &Schema,
        wrap: &dyn Fn(Value) -> Dict,
    ) -> Option<Value> {
        let expected = match (known, node) {
            (Value::Dict(_, known), Node::Section(entries)) => {
                let wrap_section = |inner: Dict| wrap(inner.into());
                let inner = self.section(&key, entries, known, schema, &wrap_section);
                return Some(inner.into());
            }
            (Value::Array(_, known), Node::List(trees)) if !of_blocks(known) => {
                let list = self.plain_list(&key, &origin, trees, schema, wrap)?;
                return Some(self.accept(key, origin, list));
            }
            (Value::Array(_, known), Node::List(trees)) => {
                let wrap_list = |list: Vec<Value>| wrap(list.into());
                let list = self.list(&key, trees, known.first(), schema, &wrap_list)?;
                return Some(self.accept(key, origin, list.into()));
            }
            (Value::Array(_, known), Node::Leaf(_) | Node::Section(_)) if !of_blocks(known) => {
                "a list of values in brackets, with commas between"
            }
            (Value::Array(..), Node::Leaf(_) | Node::Section(_)) => {
                "a list of blocks, each headed by its name in double brackets"
            }
            (Value::Dict(..), Node::Leaf(_) | Node::List(_)) => "a section",
            (_, Node::Leaf(value)) => {
                if let Err(error) = Value::from(wrap(value.clone())).deserialize::<Settings>() {
                    self.refuse(&key, origin, bad_value(&key, &value, &error, schema));
                    return None;
                }
                return Some(self.accept(key, origin, value));
            }
            (_, Node::Section(_) | Node::List(_)) => "a single value",
        };
        self.refuse(&key, origin, ProblemKind::WrongShape { expected });
        None
    }

    /// Checks a list of single values, each on its own, so that the one that does not fit is named.
    fn plain_list(
        &mut self,
        key: &str,
        origin: &Origin,
        trees: Vec<Tree>,
        schema: &Schema,
        wrap: &dyn Fn(Value) -> Dict,
    ) -> Option<Value> {
        let mut list = Vec::new();
        for Tree { node, .. } in trees {
            let Node::Leaf(value) = node else {
                let expected = "a list of single values";
                self.refuse(key, origin.clone(), ProblemKind::WrongShape { expected });
                return None;
            };
            let alone = Value::from(wrap(vec![value.clone()].into()));
            if let Err(error) = alone.deserialize::<Settings>() {
                let kind = bad_value(key, &value, &error, schema);
                self.refuse(key, origin.clone(), kind);
                return None;
            }
            list.push(value);
        }
        Some(list.into())
    }

    /// Checks each block of a list; the list is accepted as a whole or not at all.
    fn list(
        &mut self,
        path: &str,
        trees: Vec<Tree>,
        known: Option<&Value>,
        schema: &Schema,
        wrap: &dyn Fn(Vec<Value>) -> Dict,
    ) -> Option<Vec<Value>> {
        let known = known.and_then(Value::as_dict)?;
        let problems_before = self.problems.len();
        let mut list = Vec::new();
        for (index, Tree { origin, node }) in trees.into_iter().enumerate() {
            let key = format!("{path}[{index}]");
            let Node::Section(entries) = node else {
                self.refuse(
                    &key,
                    origin,
                    ProblemKind::WrongShape {
                        expected: "a block of keys",
                    },
                );
                continue;
            };
            for name in known
                .keys()
                .filter(|name| !entries.iter().any(|(given, _)| given == *name))
            {
                self.refuse(&join(&key, name), origin.clone(), ProblemKind::MissingKey);
            }
            let wrap_block = |inner: Dict| {
                let mut block = known.clone();
                block.extend(inner);
                wrap(vec![block.into()])
            };
            list.push(
                self.section(&key, entries, known, schema, &wrap_block)
                    .into(),
            );
        }
        if self.problems.len() == problems_before {
            return Some(list);
        }
        self.refused.insert(path.to_owned());
        None
    }

    fn accept(&mut self, key: String, origin: Origin, value: Value) -> Value {
        self.origins.insert(key, origin);
        value
    }

    /// Notes a problem; later rules leave the key alone.
    pub(super) fn refuse(&mut self, key: &str, origin: Origin, kind: ProblemKind) {
        self.refused.insert(key.to_owned());
        self.problems.push(Problem {
            key: key.to_owned(),
            origin,
            kind,
        });
    }
}

/// Whether a list consists of blocks of keys, and not of single values.
fn of_blocks(known: &[Value]) -> bool {
    known.first().is_none_or(|first| first.as_dict().is_some())
}

fn bad_value(key: &str, value: &Value, error: &figment::Error, schema: &Schema) -> ProblemKind {
    let reason = match rules::range_of(key) {
        Some((least, most)) => format!("expected a whole number from {least} to {most}"),
        None => match &error.kind {
            Kind::UnknownVariant(_, variants) => format!("expected {}", variants.join(" or ")),
            kind => kind.to_string(),
        },
    };
    ProblemKind::BadValue {
        found: if key == SECRET {
            HIDDEN.to_owned()
        } else {
            to_toml(value).to_string()
        },
        reason,
        default: schema.default_text(key),
    }
}

fn merge(into: &mut Dict, from: Dict) {
    for (name, value) in from {
        match (into.get_mut(&name), value) {
            (Some(Value::Dict(_, old)), Value::Dict(_, new)) => merge(old, new),
            (_, value) => {
                into.insert(name, value);
            }
        }
    }
}
