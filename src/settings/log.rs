//! Section `[log]`: which messages are logged and in which form.
//!
//! Refuses a switch that would log headers or bodies; the rule is stated in [`crate::telemetry`].

use serde::{Deserialize, Serialize};

/// What is logged and in which form; always to standard error.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LogSettings {
    /// Lowest level that is logged, also per module, as in `info,phalanx::journal=debug`.
    ///
    /// Default `info`; `off`, `error`, `warn`, `info`, `debug`, `trace` or directives in the syntax
    /// of `tracing`'s `EnvFilter`. A finer level costs time and disk.
    pub level: String,
    /// Form of a line.
    ///
    /// Default `auto`; `human`, `json`, or `auto`: human on a terminal and JSON otherwise.
    pub format: LogFormat,
}

impl Default for LogSettings {
    fn default() -> Self {
        Self {
            level: "info".to_owned(),
            format: LogFormat::Auto,
        }
    }
}

/// Form of a log line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LogFormat {
    /// Human on a terminal, JSON otherwise.
    Auto,
    /// A line for people, in colours on a terminal.
    Human,
    /// One JSON object per line.
    Json,
}
