//! Sets up the log of the process, once.
//!
//! Owns the choice between lines for people and JSON, and the filter. Refuses to write anywhere but
//! to standard error: files and rotation are for the supervisor of the process.

mod printable;

use std::io::{self, IsTerminal};

use thiserror::Error;
use tracing::level_filters::LevelFilter;
use tracing::{Level, Metadata, Subscriber};
use tracing_subscriber::filter::{EnvFilter, FilterExt, FilterFn, ParseError, filter_fn};
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::{SubscriberInitExt, TryInitError};
use tracing_subscriber::{Layer, Registry, fmt};

use super::panics;
use crate::settings::{LogFormat, LogSettings};

/// Libraries that hold request lines, headers or bodies in their hands and show them at fine
/// levels.
const SEES_REQUESTS: [&str; 8] = [
    "axum",
    "axum_core",
    "h2",
    "hyper",
    "hyper_util",
    "tower",
    "serde_json",
    "httparse",
];

/// Why the log could not be set up.
#[derive(Debug, Error)]
pub enum LoggingError {
    /// The level is not in the syntax of directives.
    #[error("`log.level` = {level:?} is not a level or a list of directives: {source}")]
    Level {
        /// The level as it was set.
        level: String,
        /// What the parser said.
        source: ParseError,
    },
    /// The process has a log already.
    #[error("the log of this process was set up before: {0}")]
    SetUpBefore(#[from] TryInitError),
}

/// Starts the log of this process on standard error: for people on a terminal, as JSON otherwise,
/// or as the settings say. Panics are lines of it from then on.
///
/// # Errors
/// The level is malformed (validated settings never are), or the process has a log already.
pub fn init(settings: &LogSettings) -> Result<(), LoggingError> {
    let terminal = io::stderr().is_terminal();
    let plain = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    let style = Style {
        json: match settings.format {
            LogFormat::Auto => !terminal,
            LogFormat::Human => false,
            LogFormat::Json => true,
        },
        colours: terminal && !plain,
    };
    subscriber(&settings.level, style, io::stderr)?.try_init()?;
    panics::log();
    Ok(())
}

/// Every shard's raft group tells each step of an election at `info`, and each message to a node
/// that is away at `warn`; what matters of both is logged by this crate.
const QUIET: &str = "openraft=error";

#[derive(Debug, Clone, Copy)]
struct Style {
    json: bool,
    colours: bool,
}

fn subscriber<W>(
    level: &str,
    style: Style,
    writer: W,
) -> Result<impl Subscriber + Send + Sync, LoggingError>
where
    W: for<'a> MakeWriter<'a> + Send + Sync + 'static,
{
    // A level that names openraft itself comes later and wins.
    let filter =
        EnvFilter::try_new(format!("{QUIET},{level}")).map_err(|source| LoggingError::Level {
            level: level.to_owned(),
            source,
        })?;
    // The layer would report a failed write with `eprintln!`, which panics when standard error is
    // closed.
    let lines = fmt::layer()
        .with_writer(writer)
        .with_ansi(style.colours)
        .log_internal_errors(false);
    let lines: Box<dyn Layer<Registry> + Send + Sync> = if style.json {
        lines
            .json()
            .flatten_event(true)
            .with_current_span(true)
            .with_span_list(false)
            .boxed()
    } else {
        lines.fmt_fields(printable::fields()).boxed()
    };
    Ok(Registry::default().with(lines.with_filter(filter.and(cap()))))
}

/// Lets nothing finer than `info` pass from a library that sees requests.
fn cap() -> FilterFn<impl Fn(&Metadata<'_>) -> bool> {
    filter_fn(|metadata| *metadata.level() <= Level::INFO || !sees_requests(metadata.target()))
        .with_max_level_hint(LevelFilter::TRACE)
}

fn sees_requests(target: &str) -> bool {
    let library = target.split("::").next().unwrap_or(target);
    SEES_REQUESTS.contains(&library)
}

#[cfg(test)]
mod tests;
