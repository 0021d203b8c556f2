//! A wrapper that keeps a secret out of logs and error messages.
//!
//! Refuses to serialize and to compare. Invariant: the content is reachable only through a call
//! that says so.

use std::fmt;

/// A value that must not be shown; it prints as `[redacted]`.
///
/// It guards against printing by accident. It does not wipe the memory afterwards.
///
/// ```
/// use phalanx::telemetry::Redacted;
///
/// let token = Redacted::new("s3cret");
/// assert_eq!(format!("{token} {token:?}"), "[redacted] [redacted]");
/// assert_eq!(*token.expose(), "s3cret");
/// ```
#[derive(Clone, Default)]
pub struct Redacted<T>(T);

impl<T> Redacted<T> {
    /// Wraps a secret.
    pub const fn new(secret: T) -> Self {
        Self(secret)
    }

    /// The secret itself, for the one place that must use it; never for a message.
    pub const fn expose(&self) -> &T {
        &self.0
    }
}

impl<T> From<T> for Redacted<T> {
    fn from(secret: T) -> Self {
        Self(secret)
    }
}

impl<T> fmt::Debug for Redacted<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[redacted]")
    }
}

impl<T> fmt::Display for Redacted<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[redacted]")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug)]
    #[expect(dead_code, reason = "only its derived Debug is of interest")]
    struct Credentials {
        user: &'static str,
        token: Redacted<String>,
    }

    #[test]
    fn a_derived_debug_shows_the_rest_and_not_the_secret() {
        let credentials = Credentials {
            user: "ann",
            token: "s3cret".to_owned().into(),
        };

        let shown = format!("{credentials:#?}");

        assert!(
            shown.contains("ann") && shown.contains("[redacted]"),
            "{shown}"
        );
        assert!(!shown.contains("s3cret"), "{shown}");
    }

    #[test]
    fn format_flags_do_not_reveal_the_length() {
        let token = Redacted::new("s3cret");

        assert_eq!(format!("{token:>20}|{token:?}"), "[redacted]|[redacted]");
    }
}
