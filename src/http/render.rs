//! Replies of the two hot routes as bytes: written in one go into one buffer.
//!
//! Rendering depends on nothing but the answer, so a stored reply comes out byte for byte as the
//! first time.

use bytes::{BufMut, Bytes, BytesMut};
use http::HeaderValue;
use phalanx_actors::names::{Position, StreamName};
use phalanx_actors::request::{Accepted, StateView};

/// A body with the header values that say the same.
#[derive(Debug)]
pub(crate) struct Rendered {
    /// JSON.
    pub(crate) body: Bytes,
    /// The sequence number in quotes.
    pub(crate) etag: HeaderValue,
    /// `shard:number`.
    pub(crate) position: HeaderValue,
}

/// The reply to a command.
pub(crate) fn accepted(reply: &Accepted) -> Rendered {
    let data = |data: &Option<Box<serde_json::value::RawValue>>| {
        data.as_ref().map_or(0, |data| data.get().len())
    };
    let events: usize = reply.events.iter().map(|e| 80 + data(&e.data)).sum();
    let mut out = BytesMut::with_capacity(192 + reply.stream.as_str().len() + events);
    put_identity(
        &mut out,
        &reply.stream,
        reply.sequence_number,
        reply.position,
    );
    out.put_slice(b",\"events\":[");
    for (at, event) in reply.events.iter().enumerate() {
        out.put_slice(if at == 0 {
            b"{\"type\":\""
        } else {
            b",{\"type\":\""
        });
        out.put_slice(event.event_type.as_bytes());
        out.put_slice(b"\",\"sequence_number\":");
        put_number(&mut out, event.sequence_number);
        if let Some(data) = &event.data {
            out.put_slice(b",\"data\":");
            out.put_slice(data.get().as_bytes());
        }
        out.put_u8(b'}');
    }
    out.put_slice(b"]}");
    finish(out, reply.sequence_number, reply.position)
}

/// The state of an aggregate.
pub(crate) fn state(view: &StateView, node_id: u64) -> Rendered {
    let state = view.state.get();
    let mut out = BytesMut::with_capacity(288 + view.stream.as_str().len() + state.len());
    put_identity(&mut out, &view.stream, view.sequence_number, view.position);
    out.put_slice(b",\"state\":");
    out.put_slice(state.as_bytes());
    out.put_slice(b",\"served_by\":{\"node\":");
    put_number(&mut out, node_id);
    out.put_slice(b",\"shard\":");
    put_number(&mut out, u64::from(view.position.shard));
    out.put_slice(b",\"term\":");
    put_number(&mut out, view.term);
    out.put_slice(b"}}");
    finish(out, view.sequence_number, view.position)
}

/// Ids and names need no escaping: their characters are restricted where they enter.
pub(crate) fn put_identity(
    out: &mut BytesMut,
    stream: &StreamName,
    sequence_number: u64,
    at: Position,
) {
    out.put_slice(b"{\"aggregate_type\":\"");
    out.put_slice(stream.aggregate_type().as_bytes());
    out.put_slice(b"\",\"aggregate_id\":\"");
    out.put_slice(stream.id().as_bytes());
    out.put_slice(b"\",\"sequence_number\":");
    put_number(out, sequence_number);
    out.put_slice(b",\"position\":\"");
    put_position(out, at);
    out.put_u8(b'"');
}

/// Appends the header values behind the body and cuts the buffer up.
fn finish(mut out: BytesMut, sequence_number: u64, position: Position) -> Rendered {
    let body = out.len();
    put_etag(&mut out, sequence_number);
    let etag = out.len();
    put_position(&mut out, position);
    let mut rest = out.freeze();
    let position = rest.split_off(etag);
    let etag = rest.split_off(body);
    Rendered {
        body: rest,
        etag: header(etag),
        position: header(position),
    }
}

/// Digits, colons and quotes are always a header value.
fn header(bytes: Bytes) -> HeaderValue {
    HeaderValue::from_maybe_shared(bytes).unwrap_or(HeaderValue::from_static(""))
}

fn put_etag(out: &mut BytesMut, sequence_number: u64) {
    out.put_u8(b'"');
    put_number(out, sequence_number);
    out.put_u8(b'"');
}

/// Appends `shard:number`.
pub(crate) fn put_position(out: &mut BytesMut, position: Position) {
    put_number(out, u64::from(position.shard));
    out.put_u8(b':');
    put_number(out, position.number);
}

/// Appends a number in decimal.
pub(crate) fn put_number(out: &mut BytesMut, mut number: u64) {
    let mut digits = [0_u8; 20];
    let mut used = 0;
    for slot in digits.iter_mut().rev() {
        // The remainder is below ten.
        *slot = b'0' + u8::try_from(number % 10).unwrap_or(0);
        number /= 10;
        used += 1;
        if number == 0 {
            break;
        }
    }
    out.put_slice(digits.get(20 - used..).unwrap_or_default());
}

#[cfg(test)]
mod tests {
    use super::*;
    use phalanx_actors::request::EventView;
    use serde_json::value::RawValue;
    use std::sync::Arc;

    fn stream() -> StreamName {
        StreamName::new("account", "a-1").unwrap()
    }

    #[test]
    fn numbers_are_decimal() {
        for number in [0, 7, 10, 90_817, u64::MAX] {
            let mut out = BytesMut::new();
            put_number(&mut out, number);
            assert_eq!(out, number.to_string().as_bytes());
        }
    }

    #[test]
    fn a_reply_has_the_form_of_the_contract() {
        let event = |number, data: Option<&str>| EventView {
            event_type: "MoneyDeposited".into(),
            sequence_number: number,
            data: data.map(|d| RawValue::from_string(d.to_owned()).unwrap()),
        };
        let reply = Accepted {
            stream: stream(),
            sequence_number: 3,
            position: Position {
                shard: 12,
                number: 90_817,
            },
            created: false,
            replayed: false,
            events: Arc::new([event(2, None), event(3, Some("{\"a\":1}"))]),
        };
        let rendered = accepted(&reply);
        assert_eq!(
            rendered.body,
            r#"{"aggregate_type":"account","aggregate_id":"a-1","sequence_number":3,"position":"12:90817","events":[{"type":"MoneyDeposited","sequence_number":2},{"type":"MoneyDeposited","sequence_number":3,"data":{"a":1}}]}"#
        );
        assert_eq!(rendered.etag, "\"3\"");
        assert_eq!(rendered.position, "12:90817");
        let none = Accepted {
            events: Arc::new([]),
            ..reply
        };
        assert!(accepted(&none).body.ends_with(b"\"events\":[]}"));
    }

    #[test]
    fn a_state_has_the_form_of_the_contract() {
        let view = StateView {
            stream: stream(),
            sequence_number: 3,
            position: Position {
                shard: 12,
                number: 90_817,
            },
            state: RawValue::from_string("{\"owner\":\"ada\"}".to_owned()).unwrap(),
            term: 4,
        };
        assert_eq!(
            state(&view, 2).body,
            r#"{"aggregate_type":"account","aggregate_id":"a-1","sequence_number":3,"position":"12:90817","state":{"owner":"ada"},"served_by":{"node":2,"shard":12,"term":4}}"#
        );
    }
}
