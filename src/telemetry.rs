//! What the node tells about itself: its log.
//!
//! Owns the form and the filter of log lines. Refuses to log what clients send or present.
//!
//! The rule on secrets, which holds for every level:
//!
//! 1. No header value and no body is ever a field or a part of a message; log names, sizes, ids and
//!    statuses.
//! 2. A secret that a struct must keep (a token, a cookie, a password) lives in a [`Redacted`],
//!    which prints as `[redacted]`, so that a derived `Debug` cannot leak it.
//! 3. The libraries that parse requests are capped at `info`, whatever `log.level` asks for,
//!    because their finer levels print what they parse.
//!
//! Invariant: a failed write of a log line never fails or stops the node.

mod logging;
pub mod metrics;
mod panics;
mod redacted;

pub use self::logging::{LoggingError, init};
pub use self::redacted::Redacted;
