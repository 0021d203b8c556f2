//! The request headers that routes understand, checked.
//!
//! Headers are read in one pass. Values are never logged and never repeated in a problem.

use http::header::{
    ACCEPT, ACCEPT_ENCODING, CONTENT_ENCODING, CONTENT_TYPE, IF_MATCH, IF_NONE_MATCH,
};
use http::{HeaderMap, HeaderName, HeaderValue};
use jiff::Timestamp;
use phalanx_actors::request::Origin;

use super::callers::Callers;
use super::conditions::{CommandCondition, Tags};
use super::problem::Problem;
use super::time;
use super::trace::TraceParent;

/// Makes retries of one command recognisable.
pub(crate) const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");
/// Set to `true` on a stored reply.
pub(crate) const IDEMPOTENT_REPLAY: HeaderName = HeaderName::from_static("idempotent-replay");
/// Names the reason of a fresh read.
pub(crate) const JUSTIFICATION: HeaderName = HeaderName::from_static("phalanx-justification");
/// When it happened in the world that a command tells of.
pub(crate) const OCCURRED_AT: HeaderName = HeaderName::from_static("phalanx-occurred-at");
/// The position of a reply.
pub(crate) const POSITION: HeaderName = HeaderName::from_static("phalanx-position");
/// RFC 7240.
pub(crate) const PREFER: HeaderName = HeaderName::from_static("prefer");
/// RFC 7240.
pub(crate) const PREFERENCE_APPLIED: HeaderName = HeaderName::from_static("preference-applied");
/// W3C trace context.
pub(crate) const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");

/// `Prefer: return=...`
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Return {
    /// The reply carries the events' data.
    Representation,
    /// The reply names the events.
    Minimal,
}

impl Return {
    /// The value of `Preference-Applied`.
    pub(crate) fn applied(self) -> HeaderValue {
        match self {
            Self::Representation => HeaderValue::from_static("return=representation"),
            Self::Minimal => HeaderValue::from_static("return=minimal"),
        }
    }
}

/// What a command's headers say.
#[derive(Debug, Default)]
pub(crate) struct CommandHeaders {
    /// The client's key.
    pub(crate) idempotency_key: Option<String>,
    /// What must hold.
    pub(crate) condition: CommandCondition,
    /// What the reply should carry.
    pub(crate) prefer: Option<Return>,
    /// The trace that the request belongs to.
    pub(crate) trace: Option<TraceParent>,
    /// Who sent the command and when it happened.
    pub(crate) origin: Option<Box<Origin>>,
}

impl CommandHeaders {
    /// Reads the headers of a command.
    ///
    /// # Errors
    /// 400 `invalid-header`, 415.
    pub(crate) fn read(headers: &HeaderMap, callers: &Callers) -> Result<Self, Problem> {
        let mut read = Self::default();
        let mut if_match: Option<Tags> = None;
        let mut absent = false;
        let mut happened: Option<Timestamp> = None;
        for (name, value) in headers {
            if *name == CONTENT_TYPE {
                check_json(value)?;
            } else if *name == IDEMPOTENCY_KEY {
                let key = idempotency_key(value)?;
                if read.idempotency_key.replace(key).is_some() {
                    return Err(Problem::header(
                        "Idempotency-Key",
                        "Idempotency-Key appears twice",
                    ));
                }
            } else if *name == IF_MATCH {
                join_tags(&mut if_match, "If-Match", value)?;
            } else if *name == IF_NONE_MATCH {
                if value.as_bytes().trim_ascii() != b"*" {
                    return Err(Problem::header(
                        "If-None-Match",
                        "If-None-Match takes only `*` on a command",
                    ));
                }
                absent = true;
            } else if *name == PREFER {
                read.prefer = read.prefer.or_else(|| prefer(value.as_bytes()));
            } else if *name == OCCURRED_AT {
                if happened.replace(occurred_at(value)?).is_some() {
                    return Err(Problem::header(
                        "Phalanx-Occurred-At",
                        "Phalanx-Occurred-At appears twice",
                    ));
                }
            } else if *name == CONTENT_ENCODING {
                check_plain(value)?;
            }
        }
        read.condition = CommandCondition::new(if_match.as_ref(), absent);
        read.trace = trace(headers);
        read.origin = Origin::said(callers.read(headers)?, happened);
        Ok(read)
    }
}

/// Checks that a body is JSON and not compressed.
///
/// # Errors
/// 415.
pub(crate) fn check_media_type(headers: &HeaderMap) -> Result<(), Problem> {
    for value in headers.get_all(CONTENT_TYPE) {
        check_json(value)?;
    }
    for value in headers.get_all(CONTENT_ENCODING) {
        check_plain(value)?;
    }
    Ok(())
}

/// What a read's headers say.
#[derive(Debug, Default)]
pub(crate) struct ReadHeaders<'a> {
    /// The reason.
    pub(crate) justification: Option<&'a str>,
    /// 412 unless one of these is current.
    pub(crate) if_match: Option<Tags>,
    /// 304 when one of these is current.
    pub(crate) if_none_match: Option<Tags>,
}

impl<'a> ReadHeaders<'a> {
    /// Reads the headers of a read.
    ///
    /// # Errors
    /// 400 `invalid-header`.
    pub(crate) fn read(headers: &'a HeaderMap) -> Result<Self, Problem> {
        let mut read = Self::default();
        for (name, value) in headers {
            if *name == JUSTIFICATION {
                let name = value.to_str().unwrap_or_default();
                if name.is_empty() || read.justification.replace(name).is_some() {
                    return Err(Problem::header(
                        "Phalanx-Justification",
                        "Phalanx-Justification takes one name",
                    ));
                }
            } else if *name == IF_NONE_MATCH {
                join_tags(&mut read.if_none_match, "If-None-Match", value)?;
            } else if *name == IF_MATCH {
                join_tags(&mut read.if_match, "If-Match", value)?;
            }
        }
        Ok(read)
    }
}

/// The trace of a request: a repeated or malformed `traceparent` counts as none.
pub(crate) fn trace(headers: &HeaderMap) -> Option<TraceParent> {
    let mut values = headers.get_all(TRACEPARENT).iter();
    let first = values.next()?;
    if values.next().is_some() {
        return None;
    }
    TraceParent::parse(first.as_bytes())
}

fn join_tags(
    tags: &mut Option<Tags>,
    name: &'static str,
    value: &HeaderValue,
) -> Result<(), Problem> {
    let more = Tags::parse(name, value.as_bytes())?;
    *tags = Some(match tags.take() {
        None => more,
        Some(before) => before.join(name, more)?,
    });
    Ok(())
}

fn idempotency_key(value: &HeaderValue) -> Result<String, Problem> {
    let visible = |b: &u8| (0x21..=0x7e).contains(b);
    value
        .to_str()
        .ok()
        .filter(|key| (1..=255).contains(&key.len()) && key.as_bytes().iter().all(visible))
        .map(str::to_owned)
        .ok_or_else(|| {
            Problem::header(
                "Idempotency-Key",
                "Idempotency-Key takes 1 to 255 visible ASCII characters without spaces",
            )
        })
}

/// The years that a command may tell of, the second one excluded.
const YEARS: [i64; 2] = [1900, 2200];

/// A time as it is stored: in whole microseconds.
fn occurred_at(value: &HeaderValue) -> Result<Timestamp, Problem> {
    let read = value.to_str().ok().and_then(time::rfc3339);
    let [first, behind] = SECONDS;
    read.and_then(|time| i64::try_from(time.as_nanosecond().div_euclid(1000)).ok())
        .filter(|us| (first..behind).contains(&us.div_euclid(1_000_000)))
        .and_then(|us| Timestamp::from_microsecond(us).ok())
        .ok_or_else(|| {
            let [first, behind] = YEARS;
            Problem::header(
                "Phalanx-Occurred-At",
                format!(
                    "Phalanx-Occurred-At takes a timestamp of RFC 3339 from {first} to {}, such as \
                     2026-11-21T08:30:00Z",
                    behind - 1
                ),
            )
        })
}

/// Where [`YEARS`] begin, in seconds since the Unix epoch.
const SECONDS: [i64; 2] = [-2_208_988_800, 7_258_118_400];

fn check_json(value: &HeaderValue) -> Result<(), Problem> {
    if value.as_bytes() == b"application/json" || is_json(value.as_bytes()) {
        return Ok(());
    }
    Err(Problem::media(
        ACCEPT,
        "application/json",
        "a command's fields are sent as application/json",
    ))
}

fn check_plain(value: &HeaderValue) -> Result<(), Problem> {
    let value = value.as_bytes().trim_ascii();
    if value.is_empty() || value.eq_ignore_ascii_case(b"identity") {
        return Ok(());
    }
    Err(Problem::media(
        ACCEPT_ENCODING,
        "identity",
        "compressed bodies are not accepted; send the JSON as it is",
    ))
}

/// `application/json` or `application/*+json`, with any parameters.
fn is_json(value: &[u8]) -> bool {
    let essence = value.split(|b| *b == b';').next().unwrap_or_default();
    let essence = essence.trim_ascii().to_ascii_lowercase();
    let Some(subtype) = essence.strip_prefix(b"application/") else {
        return false;
    };
    let token = |b: &u8| b.is_ascii_alphanumeric() || b"!#$&^_.+-".contains(b);
    let suffixed = subtype
        .strip_suffix(b"+json")
        .is_some_and(|head| !head.is_empty() && head.iter().all(token));
    subtype == b"json" || suffixed
}

/// The first `return` preference that we know; others are ignored, as RFC 7240 says.
fn prefer(value: &[u8]) -> Option<Return> {
    // A comma in a quoted text separates nothing.
    let mut quoted = false;
    let separates = |b: &u8| {
        quoted ^= *b == b'"';
        *b == b',' && !quoted
    };
    value.split(separates).find_map(|item| {
        let item = item.split(|b| *b == b';').next()?.trim_ascii();
        let at = item.iter().position(|b| *b == b'=')?;
        let (name, word) = item.split_at_checked(at)?;
        let word = word.get(1..)?.trim_ascii();
        let unquoted = word.strip_prefix(b"\"").and_then(|w| w.strip_suffix(b"\""));
        if !name.trim_ascii().eq_ignore_ascii_case(b"return") {
            return None;
        }
        match unquoted.unwrap_or(word) {
            b"representation" => Some(Return::Representation),
            b"minimal" => Some(Return::Minimal),
            _ => None,
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::code::Code;
    use phalanx_actors::request::Precondition;

    fn command(lines: &[(&'static str, &str)]) -> Result<CommandHeaders, Problem> {
        let mut headers = HeaderMap::new();
        for (name, value) in lines {
            headers.append(*name, HeaderValue::from_bytes(value.as_bytes()).unwrap());
        }
        CommandHeaders::read(&headers, &Callers::default())
    }

    #[test]
    fn json_of_any_flavour_is_accepted() {
        for good in [
            "application/json",
            "Application/JSON; charset=utf-8",
            "application/vnd.bank+json;v=1",
            "application/json;",
        ] {
            assert!(command(&[("content-type", good)]).is_ok(), "{good}");
        }
        for bad in [
            "text/json",
            "application/jsonx",
            "application/+json",
            "text/plain",
            "",
            "application/x-www-form-urlencoded",
            "application/a b+json",
        ] {
            let problem = command(&[("content-type", bad)]).unwrap_err();
            assert_eq!(problem.code(), Code::UnsupportedMediaType, "{bad}");
        }
        assert!(command(&[("content-encoding", "gzip")]).is_err());
    }

    #[test]
    fn keys_are_taken_literally() {
        let key = |value: &str| command(&[("idempotency-key", value)]).map(|h| h.idempotency_key);
        assert_eq!(key("\"a,b\"").unwrap().as_deref(), Some("\"a,b\""));
        assert!(key(&"k".repeat(255)).is_ok());
        for bad in ["", "a b", "a\tb", "é", &"k".repeat(256)] {
            assert_eq!(key(bad).unwrap_err().code(), Code::InvalidHeader, "{bad}");
        }
        assert!(command(&[("idempotency-key", "a"), ("idempotency-key", "a")]).is_err());
    }

    #[test]
    fn conditions_come_from_both_headers() {
        let read = command(&[("if-match", "\"3\""), ("if-match", "\"4\"")]).unwrap();
        assert_eq!(read.condition.first, Precondition::AtSequence(3));
        assert_eq!(read.condition.others, [4]);
        let read = command(&[("if-none-match", "*")]).unwrap();
        assert_eq!(read.condition.first, Precondition::Absent);
        for bad in ["\"3\"", "", "W/\"3\""] {
            assert!(command(&[("if-none-match", bad)]).is_err());
        }
    }

    #[test]
    fn the_first_known_preference_counts() {
        let read = |value: &str| command(&[("prefer", value)]).unwrap().prefer;
        assert_eq!(read("return=representation"), Some(Return::Representation));
        assert_eq!(
            read("wait=3, Return=\"minimal\"; x=1"),
            Some(Return::Minimal)
        );
        assert_eq!(read("return=everything"), None);
        assert_eq!(read("respond-async"), None);
        assert_eq!(read("x=\"a, return=minimal, b\""), None);
        assert_eq!(
            read("x=\"a,b\",return=representation"),
            Some(Return::Representation)
        );
    }

    #[test]
    fn the_time_it_happened_is_a_timestamp_of_a_sane_year() {
        let read = |text: &str| {
            let read = command(&[("phalanx-occurred-at", text)]);
            read.map(|headers| headers.origin.unwrap().occurred_at.unwrap().to_string())
        };
        for (sent, stored) in [
            ("2026-11-21T08:30:00Z", "2026-11-21T08:30:00Z"),
            (
                "2026-11-21T09:30:00.1234567+01:00",
                "2026-11-21T08:30:00.123456Z",
            ),
            ("1900-01-01T00:00:00Z", "1900-01-01T00:00:00Z"),
            (
                "1969-12-31T23:59:59.9999999Z",
                "1969-12-31T23:59:59.999999Z",
            ),
            ("2199-12-31T23:59:59.999999Z", "2199-12-31T23:59:59.999999Z"),
        ] {
            assert_eq!(read(sent).unwrap(), stored);
        }
        for bad in [
            "",
            "yesterday",
            "2026-11-21",
            "1899-12-31T23:59:59.9Z",
            "2200-01-01T00:00:00Z",
            "9999-12-31T23:59:59Z",
        ] {
            assert_eq!(read(bad).unwrap_err().code(), Code::InvalidHeader, "{bad}");
        }
        let good = ("phalanx-occurred-at", "2026-11-21T08:30:00Z");
        assert!(command(&[good, good]).is_err());
    }

    #[test]
    fn a_repeated_traceparent_counts_as_none() {
        let good = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
        assert!(command(&[("traceparent", good)]).unwrap().trace.is_some());
        let twice = command(&[("traceparent", good), ("traceparent", good)]);
        assert!(twice.unwrap().trace.is_none());
    }
}
