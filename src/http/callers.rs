//! Who sent a request, as a proxy says that stands in front of the node.
//!
//! Owns the header in which the proxy says so, and what becomes of requests without it. Refuses to
//! authenticate anybody: whoever reaches the node past the proxy can claim to be anyone, so the header
//! is read only where the settings name one. Invariant: what the header says is stored with events and
//! goes nowhere else, neither to a log nor into a problem.

use http::{HeaderMap, HeaderName};

use super::code::Code;
use super::problem::Problem;
use super::routes::Route;
use crate::settings::HttpSettings;

/// The longest name of a principal, in bytes.
pub(crate) const MAX_BYTES: usize = 255;

/// Where the names of callers come from, if from anywhere.
#[derive(Debug, Clone, Default)]
pub struct Callers {
    header: Option<HeaderName>,
    required: bool,
}

impl From<&HttpSettings> for Callers {
    fn from(settings: &HttpSettings) -> Self {
        Self {
            // Loaded settings have a usable name or none.
            header: principal_header(&settings.principal_header).unwrap_or_default(),
            required: settings.require_principal,
        }
    }
}

impl Callers {
    /// The header, if one is read, and whether requests must have it.
    pub(crate) fn header(&self) -> Option<(&HeaderName, bool)> {
        self.header.as_ref().map(|name| (name, self.required))
    }

    /// Who sent this. A proxy that knows nobody may send the header empty.
    ///
    /// # Errors
    /// 400 `invalid-header`.
    pub(crate) fn read(&self, headers: &HeaderMap) -> Result<Option<String>, Problem> {
        let Some(name) = &self.header else {
            return Ok(None);
        };
        let mut values = headers.get_all(name).iter();
        let Some(value) = values.next() else {
            return Ok(None);
        };
        let refused = |detail: &'static str| {
            Err(Problem::new(Code::InvalidHeader, detail).with("header", name.as_str()))
        };
        if values.next().is_some() {
            return refused("the header that names the caller appears twice");
        }
        let text = std::str::from_utf8(value.as_bytes())
            .unwrap_or("\0")
            .trim_ascii();
        if text.is_empty() {
            return Ok(None);
        }
        if text.len() > MAX_BYTES || !text.chars().all(is_fit) {
            return refused(
                "the header that names the caller takes up to 255 bytes of UTF-8 without control \
                 characters",
            );
        }
        Ok(Some(text.to_owned()))
    }

    /// Refuses a request for what aggregates, read models and streams hold when nobody is said to have
    /// sent it, where the settings demand that.
    ///
    /// # Errors
    /// 401 `unauthenticated`, 400 `invalid-header`.
    pub(crate) fn check(&self, route: Route, headers: &HeaderMap) -> Result<(), Box<Problem>> {
        if !self.required || !needs_principal(route) || self.read(headers)?.is_some() {
            return Ok(());
        }
        let detail = "no proxy has said who sends this request (http.require_principal)";
        Err(Box::new(Problem::new(Code::Unauthenticated, detail)))
    }
}

/// Whether the route shows or changes what aggregates hold. The others describe the node or operate it.
pub(crate) fn needs_principal(route: Route) -> bool {
    let aggregates = matches!(
        route,
        Route::Command | Route::State | Route::History | Route::Watch | Route::Diff | Route::WhatIf
    );
    let followers = matches!(
        route,
        Route::View | Route::ViewRow | Route::ViewChanges | Route::Events
    );
    aggregates || followers
}

/// What CloudEvents allow in text.
fn is_fit(character: char) -> bool {
    let code = u32::from(character);
    let noncharacter = (0xfdd0..=0xfdef).contains(&code) || code & 0xfffe == 0xfffe;
    !character.is_control() && !noncharacter
}

/// Headers that mean something else, or hold what must never be stored.
const TAKEN: [&str; 12] = [
    "authorization",
    "proxy-authorization",
    "cookie",
    "host",
    "connection",
    "transfer-encoding",
    "idempotency-key",
    "if-match",
    "if-none-match",
    "prefer",
    "traceparent",
    "last-event-id",
];

/// The header of this name; none for an empty one.
///
/// # Errors
/// Why it cannot be the one that names the caller.
pub(crate) fn principal_header(name: &str) -> Result<Option<HeaderName>, &'static str> {
    if name.is_empty() {
        return Ok(None);
    }
    let parsed = HeaderName::try_from(name).map_err(|_| "is not the name of a header")?;
    let lower = parsed.as_str();
    let taken = TAKEN.contains(&lower)
        || ["content-", "accept", "phalanx-", "sec-"]
            .iter()
            .any(|prefix| lower.starts_with(prefix));
    if taken {
        return Err("names a header that has a meaning of its own, or that holds credentials");
    }
    Ok(Some(parsed))
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    fn read(values: &[&[u8]]) -> Result<Option<String>, Problem> {
        let callers = Callers {
            header: Some(HeaderName::from_static("x-forwarded-user")),
            required: false,
        };
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append("x-forwarded-user", HeaderValue::from_bytes(value).unwrap());
        }
        callers.read(&headers)
    }

    #[test]
    fn a_name_is_text_of_a_bounded_length() {
        let longest = [b'a'; MAX_BYTES];
        for good in [&b"ada"[..], "Zo\u{eb} M\u{fc}ller".as_bytes(), &longest] {
            let text = std::str::from_utf8(good).unwrap();
            assert_eq!(read(&[good]).unwrap().as_deref(), Some(text));
        }
        assert_eq!(read(&[]).unwrap(), None);
        assert_eq!(read(&[b""]).unwrap(), None);
        for bad in [
            &[b'a'; MAX_BYTES + 1][..],
            b"a\tb",
            b"\xff",
            "\u{85}x".as_bytes(),
        ] {
            let problem = read(&[bad]).unwrap_err();
            assert_eq!(problem.code(), Code::InvalidHeader);
        }
        assert_eq!(
            read(&[b"ada", b"ada"]).unwrap_err().code(),
            Code::InvalidHeader
        );
    }

    #[test]
    fn headers_with_another_meaning_are_not_taken() {
        for name in [
            "Authorization",
            "cookie",
            "Idempotency-Key",
            "Phalanx-Position",
            "a b",
        ] {
            assert!(principal_header(name).is_err(), "{name}");
        }
        assert_eq!(principal_header(""), Ok(None));
        let found = principal_header("X-Forwarded-User").unwrap().unwrap();
        assert_eq!(found.as_str(), "x-forwarded-user");
    }
}
