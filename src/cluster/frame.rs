//! What travels on a connection between two nodes: frames in a stream of gRPC messages.
//!
//! Owns the bytes of a frame and their checksum. Refuses frames that are cut short, altered or of
//! an unknown kind: the connection ends then, and what was on its way has an unknown outcome.
//!
//! ```text
//! | tag u8 | crc32c u32 LE of what follows | id u64 LE | kind u8 | timeout u32 LE | payload ... |
//! ```
//! Every frame has every field; those that mean nothing for its tag are zero.

use bytes::{Buf, BufMut, Bytes};
use tonic::Status;
use tonic::codec::{BufferSettings, DecodeBuf, Decoder, EncodeBuf, Encoder};

/// Bytes of a frame before its payload.
pub(crate) const HEADER_LEN: usize = 18;
/// Of those, what the checksum covers.
const COVERED_LEN: usize = 13;
/// Frames that are ready together leave in one piece up to about this size.
const WRITE_BYTES: usize = 64 * 1024;

/// What a frame is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Tag {
    /// First of a connection, from whoever opened it: who it is.
    Hello = 1,
    /// The answer to it: who the other one is.
    Welcome = 2,
    /// Instead of a welcome, or after it from the other side: why there will be no connection.
    Refusal = 3,
    /// A call.
    Request = 4,
    /// Its answer.
    Answer = 5,
    /// Its refusal by the service.
    Failure = 6,
    /// It did not reach the service.
    Busy = 7,
}

impl Tag {
    fn from_byte(byte: u8) -> Option<Self> {
        Some(match byte {
            1 => Self::Hello,
            2 => Self::Welcome,
            3 => Self::Refusal,
            4 => Self::Request,
            5 => Self::Answer,
            6 => Self::Failure,
            7 => Self::Busy,
            _ => return None,
        })
    }
}

/// One frame.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frame {
    /// What it is.
    pub tag: Tag,
    /// Of a call, chosen by the caller; its answer has the same.
    pub id: u64,
    /// What a call asks for.
    pub kind: u8,
    /// How long the caller waits.
    pub timeout_ms: u32,
    /// What it carries.
    pub payload: Bytes,
}

impl Frame {
    /// A frame that is no request.
    #[must_use]
    pub fn plain(tag: Tag, id: u64, payload: impl Into<Bytes>) -> Self {
        Self {
            tag,
            id,
            kind: 0,
            timeout_ms: 0,
            payload: payload.into(),
        }
    }

    fn covered(&self) -> [u8; COVERED_LEN] {
        let [a, b, c, d, e, f, g, h] = self.id.to_le_bytes();
        let [t, u, v, w] = self.timeout_ms.to_le_bytes();
        [a, b, c, d, e, f, g, h, self.kind, t, u, v, w]
    }

    fn checksum(&self) -> u32 {
        crc32c::crc32c_append(crc32c::crc32c(&self.covered()), &self.payload)
    }
}

/// Writes frames.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct FrameEncoder;

impl Encoder for FrameEncoder {
    type Item = Frame;
    type Error = Status;

    fn encode(&mut self, frame: Frame, out: &mut EncodeBuf<'_>) -> Result<(), Status> {
        out.reserve(HEADER_LEN + frame.payload.len());
        out.put_u8(frame.tag as u8);
        out.put_u32_le(frame.checksum());
        out.put_slice(&frame.covered());
        out.put_slice(&frame.payload);
        Ok(())
    }

    fn buffer_settings(&self) -> BufferSettings {
        BufferSettings::new(8 * 1024, WRITE_BYTES)
    }
}

/// Reads frames; payloads share the memory into which they were received.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct FrameDecoder;

impl Decoder for FrameDecoder {
    type Item = Frame;
    type Error = Status;

    fn decode(&mut self, from: &mut DecodeBuf<'_>) -> Result<Option<Frame>, Status> {
        decode(from).map(Some)
    }
}

fn decode(from: &mut impl Buf) -> Result<Frame, Status> {
    if from.remaining() < HEADER_LEN {
        return Err(Status::data_loss("a frame is cut short"));
    }
    let tag = from.get_u8();
    let Some(tag) = Tag::from_byte(tag) else {
        return Err(Status::data_loss(format!(
            "a frame has the unknown tag {tag}"
        )));
    };
    let stored = from.get_u32_le();
    let frame = Frame {
        tag,
        id: from.get_u64_le(),
        kind: from.get_u8(),
        timeout_ms: from.get_u32_le(),
        payload: from.copy_to_bytes(from.remaining()),
    };
    let computed = frame.checksum();
    if stored != computed {
        return Err(Status::data_loss(format!(
            "a frame was altered on its way: checksum {computed:#010x} instead of {stored:#010x}"
        )));
    }
    Ok(frame)
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn encoded(frame: &Frame) -> Vec<u8> {
        let mut bytes = vec![frame.tag as u8];
        bytes.extend_from_slice(&frame.checksum().to_le_bytes());
        bytes.extend_from_slice(&frame.covered());
        bytes.extend_from_slice(&frame.payload);
        bytes
    }

    #[test]
    fn a_frame_reads_back_and_no_altered_bit_passes() {
        let frame = Frame {
            tag: Tag::Request,
            id: 0x1234_5678_9abc_def0,
            kind: 34,
            timeout_ms: 1500,
            payload: Bytes::from_static(b"entries"),
        };
        let bytes = encoded(&frame);
        assert_eq!(bytes.len(), HEADER_LEN + frame.payload.len());
        assert_eq!(decode(&mut &bytes[..]).unwrap(), frame);
        for byte in 1..bytes.len() {
            for bit in 0..8 {
                let mut broken = bytes.clone();
                broken[byte] ^= 1 << bit;
                assert!(decode(&mut &broken[..]).is_err(), "{byte}.{bit}");
            }
        }
        for cut in 0..HEADER_LEN {
            assert!(decode(&mut &bytes[..cut]).is_err());
        }
    }
}
