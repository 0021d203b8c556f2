//! `phalanx projections ...`: asks a running node about its projections, or to operate them.
//!
//! Refuses to know more than the node says: it renders the answers of `/v1/projections`, which concern
//! the node that is asked alone. Invariants: `--json` prints an answer as it was received; the command
//! ends with 0 only if what was asked for is done, or has begun where it need not be waited for.

mod rebuild;

use std::fmt::Write as _;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, Subcommand};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde::Deserialize;
use serde::de::DeserializeOwned;

use super::ask::{self, AskError};
use super::cluster::table;
use super::output;

/// What a segment of a path may have and a name does not.
const ENCODED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'_').remove(b'-');
/// How long a node may take to answer.
const PATIENCE: Duration = Duration::from_secs(10);
/// The same for an attempt of a dead letter, which takes in what waits behind it.
const RETRY_PATIENCE: Duration = Duration::from_secs(120);

#[derive(Debug, Args)]
#[command(after_help = "Exit codes: 0 done, 1 failed or refused, 2 wrong arguments.")]
pub(super) struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Show every projection of the node: its state, its lag, what was set aside
    List(Node),
    /// Take no more events in; the rows answer on, ever older
    Pause(Named),
    /// Go on taking events in
    Resume(Named),
    /// Build the rows again beside the present ones, which answer until the new ones have caught up
    Rebuild(rebuild::Arguments),
    /// Show the events that were set aside, and why
    DeadLetters(Named),
    /// Attempt an event that was set aside, and those behind it
    Retry(Letter),
    /// Leave the event out that was set aside, and attempt those behind it
    Skip(Letter),
}

#[derive(Debug, Args)]
struct Node {
    /// The node
    #[arg(long, value_name = "URL", default_value = "http://127.0.0.1:8080")]
    url: String,
    /// Ask this member through it, whose read models are its own
    #[arg(long, value_name = "ID", value_parser = clap::value_parser!(u64).range(1..))]
    node: Option<u64>,
    /// Print the node's answer instead of words
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
struct Named {
    /// The projection, which is also the name of its view
    name: String,
    #[command(flatten)]
    node: Node,
}

#[derive(Debug, Args)]
struct Letter {
    #[command(flatten)]
    named: Named,
    /// The number in the first column of `dead-letters`
    #[arg(allow_negative_numbers = false)]
    letter: u64,
}

/// Why a command failed, with what to do next.
#[derive(Debug, thiserror::Error)]
enum Failed {
    #[error("{0}")]
    Ask(#[from] AskError),
    #[error("{detail}\n{next}")]
    Refused {
        code: String,
        detail: String,
        next: String,
    },
    #[error("{url} answers in an unknown form: {source}\nis it a node of this release?")]
    Form {
        url: String,
        #[source]
        source: serde_json::Error,
    },
    #[error("{0}")]
    Undone(String),
}

impl Failed {
    /// Finds the problem in an answer, and what can be done about it.
    fn new(error: AskError, node: &Node) -> Self {
        #[derive(Deserialize)]
        struct Problem {
            code: String,
            detail: String,
        }
        let AskError::Status { text, .. } = &error else {
            return Self::Ask(error);
        };
        let Ok(Problem { code, detail }) = serde_json::from_str(text) else {
            return Self::Ask(error);
        };
        let url = &node.url;
        let next = match code.as_str() {
            "not-found" | "unknown-view" => format!(
                "`phalanx projections list --url {url}` shows the projections, \
                 `phalanx projections dead-letters NAME --url {url}` their dead letters"
            ),
            "unknown-node" => format!("`phalanx cluster status --url {url}` shows the members"),
            "rebuild-running" => format!(
                "`phalanx projections rebuild NAME --wait --url {url}` waits for it, \
                 `phalanx projections list --url {url}` shows how far it is"
            ),
            "overloaded" | "not-ready" | "shutting-down" => {
                "the node is busy or not ready; try again in a moment".to_owned()
            }
            _ => format!("{url}/problems/{code} says what this means; the node's log may say more"),
        };
        Self::Refused { code, detail, next }
    }
}

/// A projection, as far as it is shown.
#[derive(Debug, Clone, Deserialize)]
struct Projection {
    name: String,
    version: u32,
    /// The number of the rows that answer, which grows with each rebuild.
    build: i64,
    state: String,
    lag: Lag,
    events_per_second: f64,
    dead_letters: u64,
    rebuild: Option<Rebuild>,
    shards: Vec<Shard>,
}

#[derive(Debug, Clone, Deserialize)]
struct Lag {
    events: u64,
    seconds: f64,
}

#[derive(Debug, Clone, Deserialize)]
struct Rebuild {
    percent: f64,
    events_left: u64,
    events_per_second: f64,
    seconds_left: Option<f64>,
}

#[derive(Debug, Clone, Deserialize)]
struct Shard {
    shard: u32,
    failure: Option<String>,
}

#[derive(Debug, Deserialize)]
struct Projections {
    node: u64,
    projections: Vec<Projection>,
}

#[derive(Debug, Deserialize)]
struct DeadLetter {
    id: i64,
    aggregate_type: String,
    aggregate_id: String,
    sequence_number: u64,
    event_type: Option<String>,
    attempts: u32,
    parked_at: String,
    reason: String,
}

#[derive(Debug, Deserialize)]
struct DeadLetters {
    dead_letters: Vec<DeadLetter>,
}

#[derive(Debug, Deserialize)]
struct Retried {
    resolved: bool,
    handled: u64,
    reason: Option<String>,
}

impl Arguments {
    pub(super) fn run(self) -> ExitCode {
        let done = match self.command {
            Command::List(node) => node.list(),
            Command::Pause(named) => named.switch("pause"),
            Command::Resume(named) => named.switch("resume"),
            Command::Rebuild(arguments) => arguments.run(),
            Command::DeadLetters(named) => named.dead_letters(),
            Command::Retry(letter) => letter.attempt("retry"),
            Command::Skip(letter) => letter.attempt("skip"),
        };
        match done {
            Ok(text) => output::result(text.as_bytes()),
            Err(error) => output::failed(&error),
        }
    }
}

impl Node {
    fn get(&self, path: &str) -> Result<Vec<u8>, Failed> {
        ask::get(&self.url, &self.addressed(path), PATIENCE)
            .map_err(|error| Failed::new(error, self))
    }

    fn post(&self, path: &str, patience: Duration) -> Result<Vec<u8>, Failed> {
        let path = self.addressed(path);
        ask::post(&self.url, &path, "", patience).map_err(|error| Failed::new(error, self))
    }

    /// The path with the member that is to answer.
    fn addressed(&self, path: &str) -> String {
        let Some(node) = self.node else {
            return path.to_owned();
        };
        let joint = if path.contains('?') { '&' } else { '?' };
        format!("{path}{joint}node={node}")
    }

    fn read<T: DeserializeOwned>(&self, answer: &[u8]) -> Result<T, Failed> {
        serde_json::from_slice(answer).map_err(|source| Failed::Form {
            url: self.url.clone(),
            source,
        })
    }

    /// The answer as it came, or in words.
    fn show<T: DeserializeOwned>(
        &self,
        answer: &[u8],
        words: impl FnOnce(&T) -> String,
    ) -> Result<String, Failed> {
        if self.json {
            return Ok(format!("{}\n", String::from_utf8_lossy(answer)));
        }
        Ok(words(&self.read(answer)?))
    }

    fn list(&self) -> Result<String, Failed> {
        self.show(&self.get("/v1/projections")?, listed)
    }
}

impl Named {
    /// The path of something that belongs to the projection. What a name must not have is encoded, so
    /// that it is one segment.
    fn path(&self, rest: &str) -> String {
        let name = utf8_percent_encode(&self.name, ENCODED);
        format!("/v1/projections/{name}{rest}")
    }

    fn switch(&self, what: &str) -> Result<String, Failed> {
        let answer = self.node.post(&self.path(&format!("/{what}")), PATIENCE)?;
        self.node.show(&answer, |projection: &Projection| {
            format!("{} is {}\n", projection.name, projection.state)
        })
    }

    fn dead_letters(&self) -> Result<String, Failed> {
        let answer = self.node.get(&self.path("/dead-letters?limit=1000"))?;
        self.node
            .show(&answer, |letters| letter_table(letters, self))
    }
}

impl Letter {
    fn attempt(&self, what: &str) -> Result<String, Failed> {
        let Self { named, letter } = self;
        let path = named.path(&format!("/dead-letters/{letter}/{what}"));
        let answer = named.node.post(&path, RETRY_PATIENCE)?;
        let retried: Retried = named.node.read(&answer)?;
        if !retried.resolved {
            let reason = output::printable(&retried.reason.unwrap_or_default());
            let (name, url) = (&named.name, &named.node.url);
            return Err(Failed::Undone(format!(
                "{} events were taken in, then: {reason}\nmend the cause and retry, or leave that \
                 event out: `phalanx projections skip {name} {letter} --url {url}`",
                retried.handled
            )));
        }
        named.node.show(&answer, |retried: &Retried| {
            format!(
                "{} events were taken in; the aggregate goes on with the others\n",
                retried.handled
            )
        })
    }
}

fn listed(all: &Projections) -> String {
    if all.projections.is_empty() {
        return format!("node {} has no projections\n", all.node);
    }
    let header = [
        "PROJECTION",
        "VERSION",
        "STATE",
        "LAG",
        "SECONDS",
        "EVENTS/S",
        "SET ASIDE",
        "REBUILD",
    ];
    let row = |projection: &Projection| {
        let rebuild = projection.rebuild.as_ref();
        vec![
            projection.name.clone(),
            projection.version.to_string(),
            projection.state.clone(),
            projection.lag.events.to_string(),
            format!("{:.1}", projection.lag.seconds),
            format!("{:.0}", projection.events_per_second),
            projection.dead_letters.to_string(),
            rebuild.map_or("-".to_owned(), rebuild::words),
        ]
    };
    let mut text = String::new();
    table(
        &mut text,
        &header,
        all.projections.iter().map(row).collect(),
    );
    for projection in &all.projections {
        for Shard { shard, failure } in &projection.shards {
            if let Some(failure) = failure {
                let name = &projection.name;
                // Writing to a string cannot fail.
                writeln!(text, "{name}, shard {shard}: {failure}").ok();
            }
        }
    }
    text
}

fn letter_table(letters: &DeadLetters, named: &Named) -> String {
    let (name, url) = (&named.name, &named.node.url);
    if letters.dead_letters.is_empty() {
        return format!("{name} has set nothing aside\n");
    }
    let header = [
        "LETTER",
        "AGGREGATE",
        "EVENT",
        "TYPE",
        "ATTEMPTS",
        "SET ASIDE AT",
        "REASON",
    ];
    let row = |letter: &DeadLetter| {
        vec![
            letter.id.to_string(),
            format!("{}/{}", letter.aggregate_type, letter.aggregate_id),
            letter.sequence_number.to_string(),
            letter.event_type.clone().unwrap_or_else(|| "-".to_owned()),
            letter.attempts.to_string(),
            letter.parked_at.clone(),
            // One line each, whatever a reason looks like.
            letter
                .reason
                .split_whitespace()
                .collect::<Vec<_>>()
                .join(" "),
        ]
    };
    let mut text = String::new();
    table(
        &mut text,
        &header,
        letters.dead_letters.iter().map(row).collect(),
    );
    let next = format!(
        "\nonce the cause is mended: phalanx projections retry {name} LETTER --url {url}\n\
         to leave the event out:  phalanx projections skip {name} LETTER --url {url}\n"
    );
    text + &next
}

#[cfg(test)]
mod tests;
