//! `GET /v1/aggregates/{type}/{id}/events`: the history as CloudEvents 1.0.
//!
//! Attribute values are strings, as the JSON event format asks of numbers over 32 bits.

use bytes::{BufMut, BytesMut};
use http::header::LINK;
use http::{HeaderValue, StatusCode, request};
use phalanx_actors::history::{At, HistoryPage, RecordedEvent, parts};
use phalanx_actors::names::StreamName;

use super::answers::timed_out;
use super::app::App;
use super::code::Code;
use super::guard::ConnectionState;
use super::problem::Problem;
use super::query;
use super::render::{put_number, put_position};
use super::response::typed;
use super::service::{Answered, stream};

/// The most events of one page.
const MAX_LIMIT: u64 = 1000;
/// Events of one page unless the client asks otherwise.
const DEFAULT_LIMIT: u64 = 100;
const MEDIA_TYPE: &str = "application/cloudevents-batch+json";

/// Answers a page of the history.
pub(crate) async fn answer(
    app: &App,
    connection: &ConnectionState,
    parts: &request::Parts,
    aggregate_type: &str,
    id: &str,
) -> Answered {
    let stream = stream(app, aggregate_type, id)?;
    let [from, limit] = query::parse(parts.uri.query(), ["from_sequence", "limit"])?;
    let from = from.map_or(Ok(1), |v| query::number("from_sequence", &v, 1..=u64::MAX))?;
    let limit = limit.map_or(Ok(DEFAULT_LIMIT), |v| {
        query::number("limit", &v, 1..=MAX_LIMIT)
    })?;
    let count = usize::try_from(limit).unwrap_or(usize::MAX);
    let mut timer = std::mem::take(&mut *connection.timer.lock());
    let time = app.limits.request_timeout();
    let read = timer.within(time, read(app, &stream, from, count)).await;
    *connection.timer.lock() = timer;
    let page = read.unwrap_or_else(|_| Err(timed_out(false, time)))?;
    let batch = batch(app.public_url.as_str(), &stream, &page.events).freeze();
    let mut reply = typed(StatusCode::OK, MEDIA_TYPE, batch);
    if let Some(next) = page.next_sequence {
        let (kind, id) = (stream.aggregate_type(), stream.id());
        let link = format!(
            "</v1/aggregates/{kind}/{id}/events?from_sequence={next}&limit={limit}>; rel=\"next\""
        );
        if let Ok(link) = HeaderValue::try_from(link) {
            reply.headers_mut().insert(LINK, link);
        }
    }
    Ok(reply)
}

/// Reads a page.
async fn read(
    app: &App,
    stream: &StreamName,
    from: u64,
    limit: usize,
) -> Result<HistoryPage, Problem> {
    let max_bytes = app.limits.max_history_bytes;
    let within = app.limits.answer_within();
    let router = &app.router;
    let page = router
        .history(stream, from, limit, max_bytes, within)
        .await?;
    // Beyond the end of an aggregate there is an empty page, and where all of its events were dropped
    // as well; without an aggregate there is none.
    let first = At::Sequence(1);
    let exists = !page.events.is_empty()
        || page.next_sequence.is_some()
        || router.state_at(stream, first, within).await?.0.is_some();
    if exists {
        Ok(page)
    } else {
        Err(Problem::new(
            Code::AggregateNotFound,
            "no event has happened to this aggregate yet",
        ))
    }
}

/// Renders a batch. Names and ids need no escaping; the text of metadata might.
fn batch(url: &str, stream: &StreamName, events: &[RecordedEvent]) -> BytesMut {
    let data: usize = events.iter().map(|event| event.data.get().len()).sum();
    let mut out = BytesMut::with_capacity(data + 512 * (events.len() + 1));
    out.put_u8(b'[');
    for (part, event) in parts(events) {
        if out.len() > 1 {
            out.put_u8(b',');
        }
        put_event(&mut out, url, stream, event, part);
    }
    out.put_u8(b']');
    out
}

/// Renders an event; `url` is where clients reach the node. `part` is above 0 for the later parts of a stored event that was split: they have
/// its sequence number, and an id of their own.
pub(crate) fn put_event(
    out: &mut BytesMut,
    url: &str,
    stream: &StreamName,
    event: &RecordedEvent,
    part: usize,
) {
    let (kind, id) = (stream.aggregate_type(), stream.id());
    let name = &*event.event_type;
    let (suffix, attribute) = match part {
        0 => Default::default(),
        part => (
            format!(".{}", part + 1),
            format!(",\"part\":\"{}\"", part + 1),
        ),
    };
    let head = format!(
        "{{\"specversion\":\"1.0\",\"id\":\"{kind}/{id}/{number}{suffix}\",\
         \"source\":\"/v1/aggregates/{kind}/{id}\",\"type\":\"{name}\",\"subject\":\"{id}\",\
         \"time\":\"{time}\",\"datacontenttype\":\"application/json\",\
         \"dataschema\":\"{url}/v1/types/{kind}/events/{name}/{version}\",\"sequence\":\"",
        number = event.sequence_number,
        time = event.time,
        version = event.schema_version,
    );
    out.put_slice(head.as_bytes());
    put_number(out, event.sequence_number);
    out.put_slice(b"\",\"position\":\"");
    put_position(out, event.position);
    out.put_u8(b'"');
    out.put_slice(attribute.as_bytes());
    if let Some(time) = event.occurred_at {
        out.put_slice(format!(",\"occurredat\":\"{time}\"").as_bytes());
    }
    // The node was told a name, and not what kind of principal has it.
    let kind = if event.principal.is_empty() {
        ""
    } else {
        "unknown"
    };
    // An attribute must not be empty: one that is unknown is left out.
    for (attribute, value) in [
        ("command", &*event.command),
        ("causationid", &event.causation_id),
        ("correlationid", &event.correlation_id),
        ("traceparent", &event.traceparent),
        ("authtype", kind),
        ("authid", &event.principal),
    ] {
        if !value.is_empty() {
            out.put_slice(b",\"");
            out.put_slice(attribute.as_bytes());
            out.put_slice(b"\":");
            out.put_slice(serde_json::Value::from(value).to_string().as_bytes());
        }
    }
    out.put_slice(b",\"data\":");
    out.put_slice(event.data.get().as_bytes());
    out.put_u8(b'}');
}

#[cfg(test)]
mod tests {
    use super::*;
    use phalanx_actors::names::Position;
    use serde_json::value::RawValue;

    #[test]
    fn an_event_has_the_attributes_of_the_contract() {
        let stream = StreamName::new("account", "a-1").unwrap();
        let event = RecordedEvent {
            event_type: "MoneyDeposited".into(),
            sequence_number: 3,
            position: Position {
                shard: 12,
                number: 90_817,
            },
            time: "2026-11-21T08:30:00.5Z".parse().unwrap(),
            schema_version: 2,
            data: RawValue::from_string("{\"amount_cents\":5}".to_owned()).unwrap(),
            command: "Deposit".to_owned(),
            causation_id: "a \"quoted\" key".to_owned(),
            correlation_id: "c".to_owned(),
            traceparent: String::new(),
            principal: String::new(),
            occurred_at: None,
        };
        let told = RecordedEvent {
            principal: "Zo\u{eb} \"Z\"".to_owned(),
            occurred_at: "2026-11-20T08:30:00Z".parse().ok(),
            ..event.clone()
        };
        let rendered = batch("phalanx:", &stream, &[told]);
        let json: serde_json::Value = serde_json::from_slice(&rendered).unwrap();
        assert_eq!(json[0]["authid"], "Zo\u{eb} \"Z\"");
        assert_eq!(json[0]["authtype"], "unknown");
        assert_eq!(json[0]["occurredat"], "2026-11-20T08:30:00Z");
        // As if it were the two parts of one that was split.
        let rendered = batch("phalanx:", &stream, &[event.clone(), event]);
        let mut json: serde_json::Value = serde_json::from_slice(&rendered).unwrap();
        let second = json.as_array_mut().unwrap().pop().unwrap();
        assert_eq!(second["id"], "account/a-1/3.2");
        assert_eq!(
            (&second["sequence"], &second["part"]),
            (&"3".into(), &"2".into())
        );
        assert_eq!(
            json,
            serde_json::json!([{
                "specversion": "1.0",
                "id": "account/a-1/3",
                "source": "/v1/aggregates/account/a-1",
                "type": "MoneyDeposited",
                "subject": "a-1",
                "time": "2026-11-21T08:30:00.5Z",
                "datacontenttype": "application/json",
                "dataschema": "phalanx:/v1/types/account/events/MoneyDeposited/2",
                "sequence": "3",
                "position": "12:90817",
                "command": "Deposit",
                "causationid": "a \"quoted\" key",
                "correlationid": "c",
                "data": {"amount_cents": 5},
            }])
        );
    }
}
