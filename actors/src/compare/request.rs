//! The events that a what-if question inserts, as a client writes them.
//!
//! Owns the form of the question and the words for what does not fit, each with a JSON pointer to the
//! place. It refuses fields that nobody would look at: a misspelt one must not change the answer.

use serde::Deserialize;
use serde_json::Value;
use serde_json::value::RawValue;

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
    if body.trim_ascii_start().first() != Some(&b'{') {
        return Err(malformed(String::new(), FORM));
    }
    let mut json = serde_json::Deserializer::from_slice(body);
    let read: Result<Body, _> = serde_path_to_error::deserialize(&mut json);
    let Body { insert } = read.map_err(|error| {
        let pointer = variant::pointer(error.path());
        malformed(pointer, format!("{}; {FORM}", error.inner()))
    })?;
    json.end()
        .map_err(|error| malformed(String::new(), error.to_string()))?;
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
            let detail = format!("`{name}` has no field `{field}`");
            let field = field.replace('~', "~0").replace('/', "~1");
            Err(malformed(at(&format!("/{field}")), detail))
        }
    }
}

/// A field of the data that the event does not have. Event enums, unlike commands, need not refuse
/// unknown fields by themselves.
fn unknown_field<E: serde::Serialize>(event: &E, name: &str, data: &RawValue) -> Option<String> {
    let written = variant::variant_fields(event, name).ok()?;
    let known: Value = serde_json::from_str(written.get()).ok()?;
    let given: Value = serde_json::from_str(data.get()).ok()?;
    let known = known.as_object()?;
    let mut fields = given.as_object()?.keys();
    fields.find(|field| !known.contains_key(*field)).cloned()
}

fn malformed(pointer: String, detail: impl Into<String>) -> Failure {
    Failure {
        pointer: Some(pointer),
        ..Failure::new(FailureKind::MalformedBody, detail)
    }
}
