//! `phalanx entity ...`: asks a running node about one aggregate.
//!
//! Refuses to know more than the node says: it renders the node's answers, and for a refusal what the
//! node says of it and what to do next. Invariants: `--json` prints an answer as it was received, and
//! nothing here stores anything.
//!
//! Exit codes: 0 there is an answer, 1 the node cannot be reached or cannot answer now, 2 the question
//! cannot be asked like this, 3 there is no such aggregate, or it has not come that far.

mod refusal;
mod tables;

use std::io::Read as _;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, Subcommand};
use phalanx_actors::names::StreamName;
use serde_json::{Value, json};

use super::ask::{self, AskError};
use super::output;

/// How long a node may take to answer; it may have to find a leader, or fold a long history.
const PATIENCE: Duration = Duration::from_secs(30);

/// The most events of one page.
const PAGE: u64 = 1000;

#[derive(Debug, Args)]
#[command(
    after_help = "Exit codes: 0 there is an answer, 1 the node cannot be reached or cannot \
                        answer now, 2 the question cannot be asked like this, 3 there is no such \
                        aggregate or it has not come that far."
)]
pub(super) struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Read the state from memory; needs a justification
    Get(Get),
    /// List what happened
    History(History),
    /// Read the state as it was
    At(At),
    /// Compare the states at two sequence numbers
    Diff(Diff),
    /// Ask what the state would be with further events in its history; nothing is stored
    WhatIf(WhatIf),
}

#[derive(Debug, Args)]
struct Whom {
    /// The aggregate, as in account/a-1
    #[arg(value_name = "TYPE/ID", value_parser = stream)]
    stream: StreamName,
    /// Any node of the cluster
    #[arg(long, value_name = "URL", default_value = "http://127.0.0.1:8080")]
    url: String,
    /// Print the node's answer instead of tables
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
struct Get {
    #[command(flatten)]
    whom: Whom,
    /// Why the state has to be fresh: a name that the aggregate type declares
    #[arg(long, value_name = "NAME", conflicts_with = "after")]
    justification: Option<String>,
    /// The position of a reply that the state must reflect, as in 12:90817
    #[arg(long, value_name = "POSITION")]
    after: Option<String>,
}

#[derive(Debug, Args)]
struct History {
    #[command(flatten)]
    whom: Whom,
    /// Sequence number of the first event
    #[arg(long, value_name = "SEQUENCE", default_value_t = 1,
          value_parser = clap::value_parser!(u64).range(1..))]
    from: u64,
    /// The most events
    #[arg(long, value_name = "COUNT", default_value_t = 100,
          value_parser = clap::value_parser!(u64).range(1..=PAGE))]
    limit: u64,
}

#[derive(Debug, Args)]
struct At {
    #[command(flatten)]
    whom: Whom,
    #[command(flatten)]
    moment: Moment,
}

#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
struct Moment {
    /// After this many events
    #[arg(long, value_name = "NUMBER")]
    sequence: Option<u64>,
    /// At this time (RFC 3339), as in 2026-11-21T08:30:00Z
    #[arg(long, value_name = "TIME")]
    time: Option<String>,
}

#[derive(Debug, Args)]
struct Diff {
    #[command(flatten)]
    whom: Whom,
    /// The earlier sequence number
    #[arg(long, value_name = "SEQUENCE")]
    from: u64,
    /// The later one
    #[arg(long, value_name = "SEQUENCE")]
    to: u64,
}

#[derive(Debug, Args)]
struct WhatIf {
    #[command(flatten)]
    whom: Whom,
    #[command(flatten)]
    events: Events,
}

#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
struct Events {
    /// An event behind so many recorded ones (0: before all), with its fields as JSON; repeatable
    #[arg(long, num_args = 3, value_names = ["AFTER", "EVENT", "DATA"])]
    insert: Vec<String>,
    /// A file with the question as the HTTP interface takes it; `-` is standard input
    #[arg(long, value_name = "FILE")]
    file: Option<PathBuf>,
}

/// Reads `TYPE/ID`.
fn stream(text: &str) -> Result<StreamName, String> {
    let (kind, id) = text
        .split_once('/')
        .ok_or("expected TYPE/ID, as in account/a-1")?;
    let named = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_';
    if kind.is_empty() || !kind.bytes().all(named) {
        return Err(format!(
            "`{kind}` is no aggregate type: expected TYPE/ID, as in account/a-1"
        ));
    }
    StreamName::new(kind, id).map_err(|error| error.to_string())
}

impl Arguments {
    pub(super) fn run(self) -> ExitCode {
        match self.command {
            Command::Get(get) => get.run(),
            Command::History(history) => history.run(),
            Command::At(at) => at.run(),
            Command::Diff(diff) => {
                let path = format!("/diff?from={}&to={}", diff.from, diff.to);
                diff.whom.show(diff.whom.get(&path, &[]), tables::diff)
            }
            Command::WhatIf(what_if) => what_if.run(),
        }
    }
}

impl Get {
    fn run(self) -> ExitCode {
        let headers: Vec<(&str, &str)> = self
            .justification
            .iter()
            .map(|name| ("Phalanx-Justification", name.as_str()))
            .collect();
        let path = match &self.after {
            Some(position) => format!("?after={}", encoded(position)),
            None => String::new(),
        };
        self.whom
            .show(self.whom.get(&path, &headers), tables::state)
    }
}

impl History {
    fn run(self) -> ExitCode {
        let (from, limit) = (self.from, self.limit);
        let path = format!("/events?from_sequence={from}&limit={limit}");
        let path = self.whom.path(&path);
        let (body, link) = match ask::get_page(&self.whom.url, &path, PATIENCE) {
            Ok(page) => (Ok(page.body), page.link),
            Err(error) => (Err(error), None),
        };
        let next = link.as_deref().and_then(first_of_next_page);
        self.whom.show(body, |page| tables::history(page, next))
    }
}

impl At {
    fn run(self) -> ExitCode {
        let path = match (self.moment.sequence, &self.moment.time) {
            (Some(sequence), _) => format!("?at_sequence={sequence}"),
            (None, Some(time)) => format!("?as_of={}", encoded(time)),
            (None, None) => String::new(),
        };
        self.whom.show(self.whom.get(&path, &[]), tables::state)
    }
}

impl WhatIf {
    fn run(self) -> ExitCode {
        let body = match self.events.body() {
            Ok(body) => body,
            Err(reason) => return output::unusable(&reason),
        };
        let path = self.whom.path("/what-if");
        let asked = ask::post(&self.whom.url, &path, &body, PATIENCE);
        self.whom.show(asked, tables::what_if)
    }
}

impl Events {
    /// The question, or why there is none.
    fn body(&self) -> Result<String, String> {
        if let Some(file) = &self.file {
            return read(file)
                .map_err(|error| format!("failed to read {}: {error}", file.display()));
        }
        let mut insert = Vec::new();
        for event in self.insert.chunks(3) {
            let [after, name, data] = event else {
                return Err("--insert takes AFTER, EVENT and DATA".to_owned());
            };
            let after: u64 = after
                .parse()
                .map_err(|_| format!("--insert: `{after}` is no sequence number"))?;
            let data: Value = serde_json::from_str(data)
                .map_err(|error| format!("--insert: the data of {name} is no JSON: {error}"))?;
            insert.push(json!({"after_sequence": after, "type": name, "data": data}));
        }
        Ok(json!({ "insert": insert }).to_string())
    }
}

fn read(file: &PathBuf) -> std::io::Result<String> {
    if file.as_os_str() == "-" {
        let mut text = String::new();
        std::io::stdin().read_to_string(&mut text)?;
        return Ok(text);
    }
    std::fs::read_to_string(file)
}

impl Whom {
    fn path(&self, rest: &str) -> String {
        let (kind, id) = (self.stream.aggregate_type(), self.stream.id());
        format!("/v1/aggregates/{kind}/{id}{rest}")
    }

    fn get(&self, rest: &str, headers: &[(&str, &str)]) -> Result<Vec<u8>, AskError> {
        ask::get_with(&self.url, &self.path(rest), headers, PATIENCE)
    }

    /// Prints an answer, or what the node says instead.
    fn show(
        &self,
        asked: Result<Vec<u8>, AskError>,
        table: impl FnOnce(&Value) -> Option<String>,
    ) -> ExitCode {
        let body = match asked {
            Ok(body) => body,
            Err(error) => return refusal::show(&error),
        };
        let read: Result<Value, _> = serde_json::from_slice(&body);
        let text = match read {
            // Not as it was read: numbers would lose digits, and fields their order.
            Ok(_) if self.json => Some([&body[..], b"\n"].concat()),
            Ok(value) => table(&value).map(String::into_bytes),
            Err(_) => None,
        };
        match text {
            Some(text) => output::result(&text),
            None => output::failed(&format_args!("{} answers in an unknown form", self.url)),
        }
    }
}

/// Where the next page of a history begins, from the link to it.
fn first_of_next_page(link: &str) -> Option<u64> {
    let (_, rest) = link.split_once("from_sequence=")?;
    let end = rest.find(|c: char| !c.is_ascii_digit())?;
    rest.get(..end)?.parse().ok()
}

/// A value of a query; what could be mistaken for something else is percent-encoded.
fn encoded(value: &str) -> String {
    use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
    utf8_percent_encode(value, NON_ALPHANUMERIC).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_aggregate_is_named_by_type_and_id() {
        let read = stream("workshop_day/north@2026-11-21").unwrap();
        assert_eq!(
            (read.aggregate_type(), read.id()),
            ("workshop_day", "north@2026-11-21")
        );
        for bad in [
            "account",
            "a b/1",
            "/1",
            "account/",
            "account/a/b",
            "account/..",
        ] {
            assert!(stream(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_link_says_where_the_next_page_begins() {
        let link = "</v1/aggregates/a/b/events?from_sequence=101&limit=100>; rel=\"next\"";
        assert_eq!(first_of_next_page(link), Some(101));
        assert_eq!(first_of_next_page("<x>; rel=\"next\""), None);
    }

    #[test]
    fn events_become_a_question() {
        let words = |words: &[&str]| Events {
            insert: words.iter().map(|word| (*word).to_owned()).collect(),
            file: None,
        };
        let two = ["2", "Paid", "{\"cents\":1}", "0", "Opened", "{}"];
        let body: Value = serde_json::from_str(&words(&two).body().unwrap()).unwrap();
        assert_eq!(
            body,
            json!({"insert": [
                {"after_sequence": 2, "type": "Paid", "data": {"cents": 1}},
                {"after_sequence": 0, "type": "Opened", "data": {}},
            ]})
        );
        for bad in [["x", "Paid", "{}"], ["1", "Paid", "{"]] {
            assert!(words(&bad).body().is_err());
        }
    }
}
