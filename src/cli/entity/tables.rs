//! The node's answers about an aggregate as tables.
//!
//! Refuses to interpret states: it shows each field of the first level on a line of its own, and what
//! lies deeper as JSON. Nothing here fails; `None` means that the answer has another form.

use std::fmt::Write as _;

use phalanx_actors::history::MAX_EVENTS_BETWEEN;
use serde_json::Value;

use super::super::cluster::table;
use super::super::output;

/// A state, fresh or past.
pub(super) fn state(answer: &Value) -> Option<String> {
    let kind = answer["aggregate_type"].as_str()?;
    let id = answer["aggregate_id"].as_str()?;
    let sequence = answer["sequence_number"].as_u64()?;
    let position = answer["position"].as_str()?;
    let node = &answer["served_by"]["node"];
    let mut text = format!(
        "{kind}/{id} at sequence number {sequence}, position {position}, from node {node}\n\n"
    );
    let rows = fields(&answer["state"])
        .map(|(name, value)| vec![name, value])
        .collect();
    table(&mut text, &["FIELD", "VALUE"], rows);
    Some(text)
}

/// A page of the history, and where the next one begins if there is more.
pub(super) fn history(page: &Value, next: Option<u64>) -> Option<String> {
    let events = page.as_array()?;
    let mut text = String::new();
    // Who and when it happened have a column where any event says so.
    let optional = [("occurredat", "HAPPENED"), ("authid", "BY")]
        .into_iter()
        .filter(|(name, _)| events.iter().any(|event| !event[*name].is_null()));
    let columns: Vec<(&str, &str)> = [("sequence", "SEQUENCE"), ("time", "TIME")]
        .into_iter()
        .chain(optional)
        .chain([("type", "EVENT"), ("data", "DATA")])
        .collect();
    let rows: Vec<Vec<String>> = events
        .iter()
        .map(|event| {
            let value = |(name, _): &(&str, &str)| match &event[*name] {
                Value::Null => "-".to_owned(),
                value => plain(value),
            };
            columns.iter().map(value).collect()
        })
        .collect();
    if rows.is_empty() {
        return Some("nothing has happened from there on\n".to_owned());
    }
    let titles: Vec<&str> = columns.iter().map(|(_, title)| *title).collect();
    table(&mut text, &titles, rows);
    if let Some(next) = next {
        // Writing to a string cannot fail.
        writeln!(text, "\nthere is more: --from {next}").ok();
    }
    Some(text)
}

/// Two moments and what lies between them.
pub(super) fn diff(answer: &Value) -> Option<String> {
    let (from, to) = (&answer["from"], &answer["to"]);
    let numbers = [from, to].map(|moment| moment["sequence_number"].as_u64());
    let [Some(first), Some(last)] = numbers else {
        return None;
    };
    let columns = [format!("AT {first}"), format!("AT {last}")];
    let mut text = changes(
        &columns,
        &from["state"],
        &to["state"],
        &answer["difference"],
    )?;
    let events = answer["events"].as_array()?;
    if events.is_empty() {
        return Some(text);
    }
    text.push('\n');
    let rows: Vec<Vec<String>> = events
        .iter()
        .map(|event| vec![plain(&event["sequence_number"]), plain(&event["type"])])
        .collect();
    let named = rows
        .last()
        .and_then(|row| row.first()?.parse::<u64>().ok())?;
    // The last ones may have been dropped, and are not missing then.
    let is_cut = rows.len() >= MAX_EVENTS_BETWEEN && named < last;
    table(&mut text, &["SEQUENCE", "EVENT"], rows);
    if is_cut {
        writeln!(text, "and more: history --from {}", named + 1).ok();
    }
    Some(text)
}

/// What is and what would be.
pub(super) fn what_if(answer: &Value) -> Option<String> {
    let columns = ["ACTUAL".to_owned(), "HYPOTHETICAL".to_owned()];
    let (actual, hypothetical) = (&answer["actual"], &answer["hypothetical"]);
    changes(&columns, actual, hypothetical, &answer["difference"])
}

/// The places that a patch touches, with the values on both sides.
fn changes(columns: &[String; 2], before: &Value, after: &Value, patch: &Value) -> Option<String> {
    let patch = patch.as_array()?;
    if patch.is_empty() {
        return Some("the states are the same\n".to_owned());
    }
    let mut text = String::new();
    let mut rows = Vec::new();
    for operation in patch {
        let op = operation["op"].as_str()?;
        let path = operation["path"].as_str()?;
        let old = match op {
            "add" => "-".to_owned(),
            _ => before.pointer(path).map_or("-".to_owned(), plain),
        };
        let new = match op {
            "remove" => "-".to_owned(),
            _ => plain(&operation["value"]),
        };
        let change = match (before.pointer(path), after.pointer(path)) {
            (Some(Value::Number(old)), Some(Value::Number(new))) => {
                match (old.as_i64(), new.as_i64()) {
                    (Some(old), Some(new)) => {
                        format!("{:+}", i128::from(new) - i128::from(old))
                    }
                    _ => String::new(),
                }
            }
            _ => String::new(),
        };
        rows.push(vec![path.to_owned(), old, new, change]);
    }
    let [first, second] = columns;
    table(&mut text, &["PLACE", first, second, "CHANGE"], rows);
    Some(text)
}

/// Names and values of the first level; a state that is no object has one value without a name.
fn fields(state: &Value) -> impl Iterator<Item = (String, String)> {
    let fields: Vec<(String, String)> = match state {
        Value::Object(fields) => fields
            .iter()
            .map(|(name, value)| (name.clone(), plain(value)))
            .collect(),
        other => vec![(String::new(), plain(other))],
    };
    fields.into_iter()
}

/// A value on one line. Text stands without quotes, but with its control characters escaped.
fn plain(value: &Value) -> String {
    match value {
        Value::String(text) => output::printable(text),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_state_has_a_line_for_each_field() {
        let answer = json!({
            "aggregate_type": "account", "aggregate_id": "a", "sequence_number": 3,
            "position": "1:7", "served_by": {"node": 2},
            "state": {"owner": "a\u{1b}da", "lines": [1]},
        });
        assert_eq!(
            state(&answer).unwrap(),
            "account/a at sequence number 3, position 1:7, from node 2\n\n\
             FIELD  VALUE\nlines  [1]\nowner  a\\u{1b}da\n"
        );
        assert_eq!(state(&json!([])), None);
    }

    #[test]
    fn a_history_shows_who_and_when_it_happened_where_that_is_known() {
        let event =
            |sequence: &str| json!({"sequence": sequence, "time": "T", "type": "E", "data": 1});
        assert_eq!(
            history(&json!([event("1")]), None).unwrap(),
            "SEQUENCE  TIME  EVENT  DATA\n1         T     E      1\n"
        );
        let mut told = event("2");
        told["authid"] = json!("ada");
        told["occurredat"] = json!("O");
        assert_eq!(
            history(&json!([event("1"), told]), Some(3)).unwrap(),
            "SEQUENCE  TIME  HAPPENED  BY   EVENT  DATA\n\
             1         T     -         -    E      1\n\
             2         T     O         ada  E      1\n\nthere is more: --from 3\n"
        );
    }

    #[test]
    fn changes_name_the_place_and_both_values() {
        let answer = json!({
            "actual": {"cents": 5, "old": "x"},
            "hypothetical": {"cents": 3, "new": true},
            "difference": [
                {"op": "replace", "path": "/cents", "value": 3},
                {"op": "remove", "path": "/old"},
                {"op": "add", "path": "/new", "value": true},
            ],
        });
        assert_eq!(
            what_if(&answer).unwrap(),
            "PLACE   ACTUAL  HYPOTHETICAL  CHANGE\n\
             /cents  5       3             -2\n\
             /old    x       -\n\
             /new    -       true\n"
        );
    }
}
