//! What one client may use: connections, bytes and time.
//!
//! The numbers come from the section `[http]` of the settings.

use std::time::Duration;

use super::frames::FrameLimits;
use super::guard::GuardLimits;
use crate::settings::HttpSettings;

/// Limits of the HTTP layer. Times are in milliseconds, sizes in bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HttpLimits {
    /// Connections that may be open at the same time; further ones are answered 503 and closed.
    pub max_connections: usize,
    /// From the first byte of a head (on a new connection: from its start) to its end.
    pub header_timeout_ms: u64,
    /// From the end of a head to the end of its body; also how long an answer may wait for a
    /// client that does not read.
    pub body_timeout_ms: u64,
    /// Between two requests of a connection.
    pub idle_timeout_ms: u64,
    /// From the complete request to its answer.
    pub request_timeout_ms: u64,
    /// From the end of the listener to the end of connections that are silent.
    pub shutdown_linger_ms: u64,
    /// The largest body.
    pub max_body_bytes: usize,
    /// Stored bytes of the events of one page of a history.
    pub max_history_bytes: usize,
    /// Bytes of bodies that arrive in pieces and of answers that are being sent.
    pub max_buffered_bytes: usize,
    /// The largest head.
    pub max_header_bytes: usize,
    /// Event streams that may be open at the same time.
    pub max_event_streams: usize,
    /// Whether HTTP/2 is spoken to clients that start with it.
    pub allow_http2: bool,
}

impl From<&HttpSettings> for HttpLimits {
    fn from(settings: &HttpSettings) -> Self {
        Self {
            max_connections: settings.max_connections,
            header_timeout_ms: settings.header_timeout_ms,
            body_timeout_ms: settings.body_timeout_ms,
            idle_timeout_ms: settings.idle_timeout_ms,
            request_timeout_ms: settings.request_timeout_ms,
            shutdown_linger_ms: settings.shutdown_linger_ms,
            max_body_bytes: settings.max_body_bytes,
            max_history_bytes: settings.max_history_bytes,
            max_buffered_bytes: settings.max_buffered_bytes,
            max_header_bytes: settings.max_header_bytes,
            max_event_streams: settings.max_event_streams,
            allow_http2: settings.allow_http2,
        }
    }
}

impl Default for HttpLimits {
    /// The defaults of the settings.
    fn default() -> Self {
        Self::from(&HttpSettings::default())
    }
}

impl HttpLimits {
    /// The limits of the bytes of one connection.
    pub(crate) fn guard(&self) -> GuardLimits {
        GuardLimits {
            header_timeout: Duration::from_millis(self.header_timeout_ms),
            body_timeout: self.body_timeout(),
            idle_timeout: Duration::from_millis(self.idle_timeout_ms),
            max_header_bytes: self.max_header_bytes,
        }
    }

    /// The limits of the frames of one HTTP/2 connection.
    pub(crate) fn frames(&self) -> FrameLimits {
        let idle_timeout = Duration::from_millis(self.idle_timeout_ms);
        FrameLimits {
            header_timeout: Duration::from_millis(self.header_timeout_ms),
            // The service has its own limit for the whole body; this one only backs it up.
            frame_timeout: self.body_timeout() * 2,
            // An answer may take its time, and the client is silent meanwhile.
            idle_timeout: idle_timeout.max(self.request_timeout() * 2),
        }
    }

    /// Time for a body.
    pub(crate) fn body_timeout(&self) -> Duration {
        Duration::from_millis(self.body_timeout_ms)
    }

    /// Time within which whoever asks for the answer should have it, or know why not: a little
    /// before [`Self::request_timeout`], when nobody would hear the reason any more.
    pub(crate) fn answer_within(&self) -> Duration {
        let time = self.request_timeout();
        time - (time / 10).min(Duration::from_millis(100))
    }

    /// Time for a last request of a connection while the node stops.
    pub(crate) fn shutdown_linger(&self) -> Duration {
        Duration::from_millis(self.shutdown_linger_ms)
    }

    /// Time for an answer.
    pub(crate) fn request_timeout(&self) -> Duration {
        Duration::from_millis(self.request_timeout_ms)
    }
}
