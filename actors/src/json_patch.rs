//! The difference between two JSON values as a JSON Patch (RFC 6902).
//!
//! Owns the smallest useful part of the RFC: `add`, `remove` and `replace`. It refuses to search for
//! the shortest patch, and with it work that grows with the square of a list: elements that both ends
//! of a list have in common are left alone, the rest is compared place by place. Invariant: applied
//! to the first value, the patch gives the second one, and the patch of equal values is empty.
//!
//! Numbers are compared as `serde_json` reads them: integers of 64 bits exactly, others as doubles.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// One step of a patch. Paths are JSON pointers (RFC 6901).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "op", rename_all = "lowercase")]
pub enum Operation {
    /// A field that was not there, or an element before the one that stands there.
    Add {
        /// Where.
        path: String,
        /// What.
        value: Value,
    },
    /// A field or an element goes.
    Remove {
        /// Where.
        path: String,
    },
    /// A value takes the place of another one.
    Replace {
        /// Where.
        path: String,
        /// The new value.
        value: Value,
    },
}

/// The patch that turns `from` into `to`.
#[must_use]
pub fn diff(from: &Value, to: &Value) -> Vec<Operation> {
    let mut patch = Vec::new();
    let mut path = String::new();
    compare(from, to, &mut path, &mut patch);
    patch
}

fn compare(from: &Value, to: &Value, path: &mut String, patch: &mut Vec<Operation>) {
    match (from, to) {
        (Value::Object(from), Value::Object(to)) => objects(from, to, path, patch),
        (Value::Array(from), Value::Array(to)) => arrays(from, to, path, patch),
        (from, to) if from == to => {}
        (_, to) => patch.push(Operation::Replace {
            path: path.clone(),
            value: to.clone(),
        }),
    }
}

fn objects(
    from: &Map<String, Value>,
    to: &Map<String, Value>,
    path: &mut String,
    patch: &mut Vec<Operation>,
) {
    for (name, old) in from {
        below(path, &escaped(name), |path| match to.get(name) {
            Some(new) => compare(old, new, path, patch),
            None => patch.push(Operation::Remove { path: path.clone() }),
        });
    }
    for (name, value) in to.iter().filter(|(name, _)| !from.contains_key(*name)) {
        below(path, &escaped(name), |path| add(path, value, patch));
    }
}

fn arrays(from: &[Value], to: &[Value], path: &mut String, patch: &mut Vec<Operation>) {
    let same = |(old, new): &(&Value, &Value)| old == new;
    let head = from.iter().zip(to).take_while(same).count();
    let (from, to) = (&from[head..], &to[head..]);
    let tail = from.iter().rev().zip(to.iter().rev());
    let tail = tail.take_while(same).count();
    let (from, to) = (&from[..from.len() - tail], &to[..to.len() - tail]);
    for (at, (old, new)) in from.iter().zip(to).enumerate() {
        let place = (head + at).to_string();
        below(path, &place, |path| compare(old, new, path, patch));
    }
    // From the back, so that no place moves before its turn.
    for at in (to.len()..from.len()).rev() {
        below(path, &(head + at).to_string(), |path| {
            patch.push(Operation::Remove { path: path.clone() });
        });
    }
    for (at, value) in to.iter().enumerate().skip(from.len()) {
        below(path, &(head + at).to_string(), |path| {
            add(path, value, patch)
        });
    }
}

fn add(path: &str, value: &Value, patch: &mut Vec<Operation>) {
    patch.push(Operation::Add {
        path: path.to_owned(),
        value: value.clone(),
    });
}

/// Runs `work` with a path that is one step longer.
fn below(path: &mut String, step: &str, work: impl FnOnce(&mut String)) {
    let length = path.len();
    path.push('/');
    path.push_str(step);
    work(path);
    path.truncate(length);
}

/// A field's name within a JSON pointer.
fn escaped(name: &str) -> String {
    name.replace('~', "~0").replace('/', "~1")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn text(from: Value, to: Value) -> Value {
        serde_json::to_value(diff(&from, &to)).unwrap()
    }

    /// What an independent implementation makes of a patch.
    fn applied(from: &Value, patch: &[Operation]) -> Value {
        let patch = serde_json::to_value(patch).unwrap();
        let patch: json_patch::Patch = serde_json::from_value(patch).unwrap();
        let mut value = from.clone();
        json_patch::patch(&mut value, &patch).unwrap();
        value
    }

    #[test]
    fn only_what_differs_is_named() {
        assert_eq!(
            text(
                json!({"owner": "ada", "cents": 1, "old": true}),
                json!({"owner": "ada", "cents": 2, "new": null}),
            ),
            json!([
                {"op": "replace", "path": "/cents", "value": 2},
                {"op": "remove", "path": "/old"},
                {"op": "add", "path": "/new", "value": null},
            ])
        );
        assert_eq!(
            text(json!([1, {"a": []}]), json!([1, {"a": []}])),
            json!([])
        );
        assert_eq!(
            text(json!(1), json!("1")),
            json!([{"op": "replace", "path": "", "value": "1"}])
        );
    }

    #[test]
    fn an_element_in_the_middle_comes_or_goes_alone() {
        assert_eq!(
            text(json!([1, 2, 3, 4]), json!([1, 3, 4])),
            json!([{"op": "remove", "path": "/1"}])
        );
        assert_eq!(
            text(json!([1, 3, 4]), json!([1, 2, 3, 4])),
            json!([{"op": "add", "path": "/1", "value": 2}])
        );
    }

    #[test]
    fn names_are_escaped() {
        assert_eq!(
            text(json!({"a/b~c": 1}), json!({"a/b~c": 2})),
            json!([{"op": "replace", "path": "/a~1b~0c", "value": 2}])
        );
    }

    fn value() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            (-2..3_i64).prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            "[ab~/0-9]{0,2}".prop_map(Value::from),
        ];
        leaf.prop_recursive(4, 48, 6, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..6).prop_map(Value::from),
                prop::collection::btree_map("[ab~/0]{0,2}", inner, 0..4)
                    .prop_map(|fields| Value::Object(fields.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, cases: 2_000, ..ProptestConfig::default() })]

        #[test]
        fn applying_the_patch_gives_the_other_value(from in value(), to in value()) {
            let patch = diff(&from, &to);
            prop_assert_eq!(applied(&from, &patch), to.clone());
            prop_assert_eq!(patch.is_empty(), from == to);
        }

        #[test]
        fn lists_with_much_in_common_are_patched_as_well(
            list in prop::collection::vec(0..4_i64, 0..12),
            cut in (0..12_usize, 0..4_usize),
            put in prop::collection::vec(0..4_i64, 0..4),
        ) {
            let mut other = list.clone();
            let at = cut.0.min(other.len());
            let end = (at + cut.1).min(other.len());
            other.splice(at..end, put);
            let (from, to) = (Value::from(list), Value::from(other));
            prop_assert_eq!(applied(&from, &diff(&from, &to)), to);
        }
    }
}
