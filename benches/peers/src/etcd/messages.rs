//! The messages of etcd's interface that the driver sends and reads.
//!
//! Numbers of fields are those of etcd's `rpc.proto` and `kv.proto`, where they never change. What
//! is not needed is skipped.

use super::wire::{Malformed, Message, Value, fields};

/// The paths of the calls.
pub(super) const TXN: &str = "/etcdserverpb.KV/Txn";
pub(super) const RANGE: &str = "/etcdserverpb.KV/Range";
pub(super) const STATUS: &str = "/etcdserverpb.Maintenance/Status";

/// `Compare.CompareTarget.MOD`; its result `EQUAL` is 0.
const COMPARE_MOD_REVISION: u64 = 2;

/// A key with its value.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct KeyValue {
    pub(super) key: Vec<u8>,
    pub(super) value: Vec<u8>,
    /// The revision in which it was written last.
    pub(super) revision: u64,
}

/// A change of one key and another that comes with it.
#[derive(Debug)]
pub(super) struct Change<'a> {
    pub(super) key: &'a [u8],
    /// The revision in which `key` must have been written last; 0 when it must not exist.
    pub(super) revision: u64,
    pub(super) value: &'a [u8],
    pub(super) also_key: &'a [u8],
    pub(super) also_value: &'a [u8],
}

/// How a change ended.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Changed {
    /// It took effect in this revision.
    Done { revision: u64 },
    /// The key was written by somebody else in between; this is what it holds now.
    Stale { current: Option<KeyValue> },
}

/// A page of keys.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Page {
    pub(super) found: Vec<KeyValue>,
    pub(super) more: bool,
}

/// Who a member is and whom it follows.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Status {
    pub(super) member: u64,
    pub(super) leader: u64,
}

impl Change<'_> {
    /// A transaction: both keys are written if the first is as expected, and read otherwise.
    pub(super) fn encode(&self) -> Message {
        let compare = Message::default()
            .number(2, COMPARE_MOD_REVISION)
            .bytes(3, self.key)
            .number(6, self.revision);
        let put = |key: &[u8], value: &[u8]| {
            let put = Message::default().bytes(1, key).bytes(2, value);
            Message::default().message(2, &put)
        };
        let read = Message::default().message(1, &get(self.key));
        Message::default()
            .message(1, &compare)
            .message(2, &put(self.key, self.value))
            .message(2, &put(self.also_key, self.also_value))
            .message(3, &read)
    }
}

/// A linearizable read of one key.
pub(super) fn get(key: &[u8]) -> Message {
    Message::default().bytes(1, key)
}

/// A read of the keys from `from` up to, but not including, `end`.
pub(super) fn page(from: &[u8], end: &[u8], limit: u64) -> Message {
    get(from).bytes(2, end).number(3, limit)
}

/// Reads the answer to a [`Change`].
pub(super) fn changed(bytes: &[u8]) -> Result<Changed, Malformed> {
    let (mut revision, mut succeeded, mut current) = (0, false, None);
    for field in fields(bytes) {
        match field? {
            (1, Value::Bytes(header)) => revision = number(header, 3)?,
            (2, Value::Number(value)) => succeeded = value == 1,
            (3, Value::Bytes(response)) => {
                for field in fields(response) {
                    if let (1, Value::Bytes(range)) = field? {
                        current = found(range)?.found.pop();
                    }
                }
            }
            _ => {}
        }
    }
    Ok(if succeeded {
        Changed::Done { revision }
    } else {
        Changed::Stale { current }
    })
}

/// Reads the answer to [`get`] or [`page`].
pub(super) fn found(bytes: &[u8]) -> Result<Page, Malformed> {
    let mut page = Page {
        found: Vec::new(),
        more: false,
    };
    for field in fields(bytes) {
        match field? {
            (2, Value::Bytes(pair)) => page.found.push(key_value(pair)?),
            (3, Value::Number(value)) => page.more = value == 1,
            _ => {}
        }
    }
    Ok(page)
}

/// Reads the answer to a question for the status.
pub(super) fn status(bytes: &[u8]) -> Result<Status, Malformed> {
    let mut member = 0;
    for field in fields(bytes) {
        if let (1, Value::Bytes(header)) = field? {
            member = number(header, 2)?;
        }
    }
    let leader = number(bytes, 4)?;
    Ok(Status { member, leader })
}

fn key_value(bytes: &[u8]) -> Result<KeyValue, Malformed> {
    let mut pair = KeyValue::default();
    for field in fields(bytes) {
        match field? {
            (1, Value::Bytes(key)) => pair.key = key.to_vec(),
            (3, Value::Number(revision)) => pair.revision = revision,
            (5, Value::Bytes(value)) => pair.value = value.to_vec(),
            _ => {}
        }
    }
    Ok(pair)
}

/// The number in a field; 0 when it is absent.
fn number(bytes: &[u8], wanted: u32) -> Result<u64, Malformed> {
    let mut found = 0;
    for field in fields(bytes) {
        if let (field, Value::Number(value)) = field?
            && field == wanted
        {
            found = value;
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_that_came_too_late_tells_what_is_there() {
        let pair = Message::default()
            .bytes(1, b"k")
            .number(2, 4)
            .number(3, 9)
            .bytes(5, b"v");
        let range = Message::default().message(2, &pair).number(4, 1);
        let response = Message::default().message(1, &range);
        let header = Message::default().number(2, 77).number(3, 12);
        let answer = Message::default().message(1, &header).message(3, &response);
        let current = KeyValue {
            key: b"k".to_vec(),
            value: b"v".to_vec(),
            revision: 9,
        };
        assert_eq!(
            changed(answer.as_bytes()),
            Ok(Changed::Stale {
                current: Some(current)
            })
        );
        let done = Message::default().message(1, &header).number(2, 1);
        assert_eq!(changed(done.as_bytes()), Ok(Changed::Done { revision: 12 }));
        assert_eq!(changed(b"\xFF"), Err(Malformed));
    }

    #[test]
    fn a_status_names_member_and_leader() {
        let header = Message::default().number(2, 77);
        let answer = Message::default()
            .message(1, &header)
            .bytes(2, b"3.4.23")
            .number(4, 78);
        let expected = Status {
            member: 77,
            leader: 78,
        };
        assert_eq!(status(answer.as_bytes()), Ok(expected));
    }
}
