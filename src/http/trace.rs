//! W3C trace context: which trace a request belongs to.
//!
//! A `traceparent` that breaks the form is treated as absent, as the recommendation demands: the
//! request starts a new trace. Nothing here fails a request.

use std::fmt;

/// A checked `traceparent`, normalised to version 00.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct TraceParent([u8; 55]);

impl TraceParent {
    /// Checks a header value.
    pub(crate) fn parse(value: &[u8]) -> Option<Self> {
        let head = value.get(..55)?;
        let (version, tail) = (head.get(..2)?, value.get(55..)?);
        let version_fits = match version {
            b"00" => tail.is_empty(),
            b"ff" => false,
            _ => tail.first().is_none_or(|b| *b == b'-'),
        };
        let (trace, span, flags) = (head.get(3..35)?, head.get(36..52)?, head.get(53..55)?);
        let hex = |part: &[u8]| part.iter().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
        let zero = |part: &[u8]| part.iter().all(|b| *b == b'0');
        let dashes = [2, 35, 52].iter().all(|at| head.get(*at) == Some(&b'-'));
        let digits = hex(version) && hex(trace) && hex(span) && hex(flags);
        if !(version_fits && dashes && digits) || zero(trace) || zero(span) {
            return None;
        }
        let mut bytes = [0; 55];
        bytes.copy_from_slice(head);
        bytes[..2].copy_from_slice(b"00");
        Some(Self(bytes))
    }

    /// The whole value.
    pub(crate) fn as_str(&self) -> &str {
        std::str::from_utf8(&self.0).unwrap_or_default()
    }

    /// The 32 hexadecimal digits of the trace.
    pub(crate) fn trace_id(&self) -> &str {
        self.as_str().get(3..35).unwrap_or_default()
    }
}

impl fmt::Debug for TraceParent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A trace id for a request that came without one.
pub(crate) fn new_trace_id() -> String {
    format!("{:032x}", rand::random::<u128>().max(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

    #[test]
    fn a_valid_parent_is_taken_and_a_newer_version_is_read_as_ours() {
        let parent = TraceParent::parse(GOOD.as_bytes()).unwrap();
        assert_eq!(parent.as_str(), GOOD);
        assert_eq!(parent.trace_id(), "0af7651916cd43dd8448eb211c80319c");
        let newer = format!("cc{}-what-comes", GOOD.strip_prefix("00").unwrap());
        assert_eq!(TraceParent::parse(newer.as_bytes()), Some(parent));
    }

    #[test]
    fn anything_else_counts_as_absent() {
        for bad in [
            "",
            "00",
            "ff-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
            "00-0AF7651916CD43DD8448EB211C80319C-b7ad6b7169203331-01",
            "00-00000000000000000000000000000000-b7ad6b7169203331-01",
            "00-0af7651916cd43dd8448eb211c80319c-0000000000000000-01",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01-x",
            "cc-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01.x",
            "00_0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-0g",
        ] {
            assert_eq!(TraceParent::parse(bad.as_bytes()), None, "{bad}");
        }
    }

    #[test]
    fn made_up_ids_have_the_form() {
        let id = new_trace_id();
        assert!(id.len() == 32 && id != new_trace_id());
    }
}
