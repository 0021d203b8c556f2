//! Rows as JSON.

use phalanx_actors::projection::{Table, Value};

/// Appends the columns of a row that are shown as an object, in their order.
pub(super) fn append_row(out: &mut Vec<u8>, table: &Table, values: &[Value]) {
    out.push(b'{');
    append_members(out, table, values);
    out.push(b'}');
}

/// Appends the members of such an object, without the braces.
pub(super) fn append_members(out: &mut Vec<u8>, table: &Table, values: &[Value]) {
    let values = table.columns.iter().zip(values);
    let shown = values.filter(|(column, _)| !column.hidden);
    for (at, (column, value)) in shown.enumerate() {
        if at > 0 {
            out.push(b',');
        }
        // Names are made of letters that need no escape.
        out.push(b'"');
        out.extend_from_slice(column.name.as_bytes());
        out.extend_from_slice(b"\":");
        append_value(out, value);
    }
}

/// Appends a value.
pub(super) fn append_value(out: &mut Vec<u8>, value: &Value) {
    match value {
        Value::Null => out.extend_from_slice(b"null"),
        Value::Boolean(true) => out.extend_from_slice(b"true"),
        Value::Boolean(false) => out.extend_from_slice(b"false"),
        Value::Integer(number) => out.extend_from_slice(number.to_string().as_bytes()),
        Value::Text(text) => append_text(out, text),
        Value::Time(time) => append_text(out, &time.to_string()),
    }
}

fn append_text(out: &mut Vec<u8>, text: &str) {
    // Text can always be written as JSON, and memory takes it.
    let _written = serde_json::to_writer(out, text);
}
