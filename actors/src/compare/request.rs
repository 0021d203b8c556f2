//! The events that a what-if question inserts, as a client writes them.
//!
//! Owns the form of the question and the words for what does not fit, each with a JSON pointer to the
//! place. It refuses fields that nobody would look at: a misspelt one must not change the answer.

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use serde_json::{Map, Value};

use super::Inserted;
use crate::aggregate::Aggregate;
use crate::fold;
use crate::request::{Failure, FailureKind};
use crate::variant;

/// The most events in one question.
pub(crate) const MAX_INSERTS: usize = 1000;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Body {
    insert: Vec<Insertion>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Insertion {
    after_sequence: u64,
    #[serde(rename = "type")]
    event_type: String,
    data: Box<RawValue>,
}

/// Reads a question about an aggregate whose events have these names.
pub(crate) fn parse<A: Aggregate>(
    body: &[u8],
    names: &[String],
) -> Result<Vec<Inserted<A::Event>>, Failure> {
    const FORM: &str = "expected {\"insert\": [{\"after_sequence\": 4, \"type\": \"<an event>\", \
                        \"data\": {<its fields>}}]}";
    let Body { insert } = variant::parse_object(body)
        .map_err(|mismatch| malformed(mismatch.pointer, format!("{}; {FORM}", mismatch.detail)))?;
    if insert.len() > MAX_INSERTS {
        let detail = format!("at most {MAX_INSERTS} events can be inserted at once");
        return Err(malformed("/insert".to_owned(), detail));
    }
    let numbered = insert.into_iter().enumerate();
    numbered
        .map(|(place, insertion)| {
            let Insertion {
                after_sequence,
                event_type,
                data,
            } = insertion;
            if !names.contains(&event_type) {
                let detail = format!(
                    "`{}` has no event `{event_type}`; it has {}",
                    A::TYPE,
                    names.join(", ")
                );
                return Err(malformed(format!("/insert/{place}/type"), detail));
            }
            let event = event::<A>(&event_type, &data, place)?;
            Ok(Inserted {
                after_sequence,
                event,
                place,
            })
        })
        .collect()
}

/// Reads an event by its own type.
fn event<A: Aggregate>(name: &str, data: &RawValue, place: usize) -> Result<A::Event, Failure> {
    let at = |rest: &str| format!("/insert/{place}/data{rest}");
    if !data.get().starts_with('{') {
        let detail = "an event's data must be a JSON object; `{}` for one without fields";
        return Err(malformed(at(""), detail));
    }
    let read = fold::guarded(|| {
        let read = variant::parse_variant::<A::Event>(name, data.get().as_bytes());
        Ok(read.map(|event| {
            let unknown = unknown_field(&event, name, data);
            (event, unknown)
        }))
    });
    let read = read.map_err(|reason| Failure::new(FailureKind::Hypothesis, reason))?;
    let (event, unknown) =
        read.map_err(|mismatch| malformed(at(&mismatch.pointer), mismatch.detail))?;
    match unknown {
        None => Ok(event),
        Some(field) => {
            let detail = format!("`{name}` has no field `{}`", field.trim_start_matches('/'));
            Err(malformed(at(&field), detail))
        }
    }
}

/// A field of the data that the event does not have, as a JSON pointer. Event enums, unlike commands,
/// need not refuse unknown fields by themselves.
fn unknown_field<E: Serialize>(event: &E, name: &str, data: &RawValue) -> Option<String> {
    let written = serde_json::to_value(event).ok()?;
    // Externally tagged: `{"Name": {...}}`, or `"Name"` for an event without fields.
    let nothing = Value::Object(Map::new());
    let known = written.get(name).unwrap_or(&nothing);
    let given: Value = serde_json::from_str(data.get()).ok()?;
    unknown_in(known, &given, "")
}

/// The same within two values of one place. Lists are left to the type: a set has an order of its own.
fn unknown_in(known: &Value, given: &Value, at: &str) -> Option<String> {
    let (known, given) = (known.as_object()?, given.as_object()?);
    given.iter().find_map(|(field, given)| {
        let at = format!("{at}/{}", field.replace('~', "~0").replace('/', "~1"));
        match known.get(field) {
            Some(known) => unknown_in(known, given, &at),
            // Null says no more than absence, and an event may be written without it.
            None => Some(at).filter(|_| !given.is_null()),
        }
    })
}

fn malformed(pointer: String, detail: impl Into<String>) -> Failure {
    Failure {
        pointer: Some(pointer),
        ..Failure::new(FailureKind::MalformedBody, detail)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[derive(Serialize)]
    enum Event {
        Moved {
            to: Place,
            note: Option<String>,
            #[serde(skip_serializing_if = "Option::is_none")]
            hint: Option<String>,
        },
        Left,
    }

    #[derive(Serialize)]
    struct Place {
        town: &'static str,
    }

    fn unknown(event: &Event, name: &str, data: &Value) -> Option<String> {
        let data = serde_json::value::to_raw_value(data).unwrap();
        unknown_field(event, name, &data)
    }

    #[test]
    fn only_fields_that_say_something_and_are_read_by_nobody_are_unknown() {
        let moved = Event::Moved {
            to: Place { town: "Ulm" },
            note: None,
            hint: None,
        };
        let with = |field: &str, value: Value| {
            let mut data = json!({"to": {"town": "Ulm"}});
            data[field] = value;
            unknown(&moved, "Moved", &data)
        };
        assert_eq!(with("note", Value::Null), None);
        assert_eq!(with("hint", Value::Null), None);
        assert_eq!(with("not/e", json!(1)).as_deref(), Some("/not~1e"));
        let to = json!({"town": "Ulm", "street": "Main"});
        assert_eq!(with("to", to).as_deref(), Some("/to/street"));
        assert_eq!(unknown(&Event::Left, "Left", &json!({})), None);
        let told = unknown(&Event::Left, "Left", &json!({"why": 1}));
        assert_eq!(told.as_deref(), Some("/why"));
    }
}
