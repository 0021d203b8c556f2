//! As much of the protobuf encoding as etcd's messages need: numbers and byte strings by field.
//!
//! It refuses to know what a field means.

use thiserror::Error;

/// A message being written.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Message(Vec<u8>);

/// A field's value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Value<'a> {
    /// An integer, an enum or a bool.
    Number(u64),
    /// A string, bytes or a message.
    Bytes(&'a [u8]),
    /// Eight or four bytes that no message here uses.
    Fixed,
}

/// Bytes that are no message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("the message cannot be read")]
pub(super) struct Malformed;

const VARINT: u32 = 0;
const EIGHT_BYTES: u32 = 1;
const LENGTH: u32 = 2;
const FOUR_BYTES: u32 = 5;

impl Message {
    /// Adds a number. 0 is what an absent field means, so it takes no bytes.
    pub(super) fn number(mut self, field: u32, value: u64) -> Self {
        if value != 0 {
            self.varint(u64::from(field << 3 | VARINT));
            self.varint(value);
        }
        self
    }

    /// Adds a byte string, absent when it is empty.
    pub(super) fn bytes(self, field: u32, value: &[u8]) -> Self {
        if value.is_empty() {
            return self;
        }
        self.sized(field, value)
    }

    /// Adds a message, present even when it is empty.
    pub(super) fn message(self, field: u32, value: &Self) -> Self {
        self.sized(field, &value.0)
    }

    /// The encoded message.
    pub(super) fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    fn sized(mut self, field: u32, value: &[u8]) -> Self {
        self.varint(u64::from(field << 3 | LENGTH));
        self.varint(value.len() as u64);
        self.0.extend_from_slice(value);
        self
    }

    fn varint(&mut self, mut value: u64) {
        while value >= 0x80 {
            // The low seven bits.
            self.0.push((value & 0x7F) as u8 | 0x80);
            value >>= 7;
        }
        self.0.push(value as u8);
    }
}

/// The fields of a message in their order. Ends behind the first that cannot be read.
pub(super) fn fields(bytes: &[u8]) -> impl Iterator<Item = Result<(u32, Value<'_>), Malformed>> {
    let mut rest = Some(bytes);
    std::iter::from_fn(move || {
        let bytes = rest.take().filter(|bytes| !bytes.is_empty())?;
        match field(bytes) {
            Some((number, value, tail)) => {
                rest = Some(tail);
                Some(Ok((number, value)))
            }
            None => Some(Err(Malformed)),
        }
    })
}

fn field(bytes: &[u8]) -> Option<(u32, Value<'_>, &[u8])> {
    let (key, rest) = varint(bytes)?;
    let number = u32::try_from(key >> 3).ok()?;
    let (value, rest) = match (key & 7) as u32 {
        VARINT => {
            let (value, rest) = varint(rest)?;
            (Value::Number(value), rest)
        }
        LENGTH => {
            let (length, rest) = varint(rest)?;
            let (value, rest) = rest.split_at_checked(usize::try_from(length).ok()?)?;
            (Value::Bytes(value), rest)
        }
        EIGHT_BYTES => (Value::Fixed, rest.get(8..)?),
        FOUR_BYTES => (Value::Fixed, rest.get(4..)?),
        _ => return None,
    };
    Some((number, value, rest))
}

fn varint(bytes: &[u8]) -> Option<(u64, &[u8])> {
    let mut value = 0;
    for (at, byte) in bytes.iter().enumerate().take(10) {
        value |= u64::from(byte & 0x7F).checked_shl(7 * u32::try_from(at).ok()?)?;
        if byte & 0x80 == 0 {
            return Some((value, bytes.get(at + 1..)?));
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_bytes_come_out() {
        // The examples of the encoding's own documentation: 150 in field 1, "testing" in field 2.
        let message = Message::default().number(1, 150).bytes(2, b"testing");
        let bytes = b"\x08\x96\x01\x12\x07testing";
        assert_eq!(message.as_bytes(), bytes);
        assert_eq!(
            Message::default().number(64, 1).as_bytes(),
            [0x80, 0x04, 0x01]
        );
    }

    #[test]
    fn what_is_written_is_read_and_every_cut_is_noticed() {
        let inner = Message::default().number(4, u64::MAX);
        let message = Message::default()
            .number(1, 0)
            .bytes(2, b"")
            .message(3, &Message::default())
            .message(70, &inner);
        let all: Result<Vec<_>, _> = fields(message.as_bytes()).collect();
        let expected = vec![(3, Value::Bytes(b"")), (70, Value::Bytes(inner.as_bytes()))];
        assert_eq!(all, Ok(expected));
        let read: Vec<_> = fields(inner.as_bytes()).collect();
        assert_eq!(read, [Ok((4, Value::Number(u64::MAX)))]);
        for cut in 1..inner.as_bytes().len() {
            let mut read = fields(&inner.as_bytes()[..cut]);
            assert_eq!(read.next(), Some(Err(Malformed)), "cut at {cut}");
            assert_eq!(read.next(), None);
        }
        let skipped: Vec<_> = fields(b"\x09abcdefgh\x08\x01").collect();
        assert_eq!(skipped[1], Ok((1, Value::Number(1))));
    }
}
