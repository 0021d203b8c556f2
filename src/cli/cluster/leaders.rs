//! `phalanx cluster drain`, `undrain` and `transfer`: asks a running cluster to move leaders.
//!
//! Refuses to do anything itself, and to call a drain done while the node still leads something.
//! Invariant: `--json` prints the answer as it was received, and it ends with 0 only when what was
//! asked for is so.

use std::fmt::Write as _;
use std::process::ExitCode;
use std::time::Duration;

use clap::Args;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::super::ask::{AskError, delete, post};
use super::super::output;
use super::refusal;
use crate::cluster::NodeId;
use crate::cluster::status::{Drained, Moved, Undrained};

/// A drain waits for copies that lag a little.
const LEADERS_PATIENCE: Duration = Duration::from_secs(15);

#[derive(Debug, Args)]
pub(super) struct Drain {
    /// The `node.id` of the member
    node: NodeId,
    #[command(flatten)]
    asked: Asked,
}

#[derive(Debug, Args)]
pub(super) struct Undrain {
    /// The `node.id` of the member
    node: NodeId,
    #[command(flatten)]
    asked: Asked,
}

#[derive(Debug, Args)]
pub(super) struct Transfer {
    /// The number of the shard
    shard: u32,
    /// The `node.id` of the member that is to lead it
    #[arg(long, value_name = "ID")]
    to: NodeId,
    #[command(flatten)]
    asked: Asked,
}

#[derive(Debug, Args)]
struct Asked {
    /// Any member of the cluster
    #[arg(long, value_name = "URL", default_value = "http://127.0.0.1:8080")]
    url: String,
    /// Print the answer as JSON
    #[arg(long)]
    json: bool,
}

impl Drain {
    pub(super) fn run(self) -> ExitCode {
        let path = format!("/v1/nodes/{}/drain", self.node);
        let asked = post(&self.asked.url, &path, "", LEADERS_PATIENCE);
        let url = &self.asked.url;
        self.asked
            .end(asked, |drained: &Drained| drained_words(drained, url))
    }
}

impl Undrain {
    pub(super) fn run(self) -> ExitCode {
        let path = format!("/v1/nodes/{}/drain", self.node);
        let asked = delete(&self.asked.url, &path, LEADERS_PATIENCE);
        self.asked.end(asked, |back: &Undrained| {
            let node = back.node;
            let words = if back.was_draining {
                format!("node {node} may lead again and gets its share in a while\n")
            } else {
                format!("node {node} may lead; it was not draining\n")
            };
            (words, !back.draining)
        })
    }
}

impl Transfer {
    pub(super) fn run(self) -> ExitCode {
        let path = format!("/v1/shards/{}/transfer", self.shard);
        let body = json!({ "to": self.to }).to_string();
        let asked = post(&self.asked.url, &path, &body, LEADERS_PATIENCE);
        self.asked.end(asked, |moved: &Moved| {
            let Moved {
                shard,
                from,
                to,
                term,
            } = moved;
            let words = if from == to {
                format!("node {to} leads shard {shard} already, in term {term}\n")
            } else {
                format!("node {to} leads shard {shard} in term {term}; node {from} did before\n")
            };
            (words, true)
        })
    }
}

impl Asked {
    /// Prints an answer; `tell` says it in words, and whether what was asked for is so.
    fn end<T: DeserializeOwned>(
        &self,
        asked: Result<Vec<u8>, AskError>,
        tell: impl Fn(&T) -> (String, bool),
    ) -> ExitCode {
        let answer = match asked {
            Ok(answer) => answer,
            Err(error) => return refusal::show(&error, &self.url, self.json),
        };
        let read = serde_json::from_slice(&answer)
            .and_then(|value: Value| Ok((T::deserialize(&value)?, value)));
        let (told, value) = match read {
            Ok(read) => read,
            Err(error) => {
                let url = &self.url;
                return output::failed(&format_args!("{url} answers in an unknown form: {error}"));
            }
        };
        let (words, is_so) = tell(&told);
        let printed = if self.json {
            output::result(format!("{value:#}\n").as_bytes())
        } else {
            output::result(words.as_bytes())
        };
        if is_so { printed } else { ExitCode::FAILURE }
    }
}

/// What a drain achieved, and whether the node leads nothing now.
fn drained_words(drained: &Drained, url: &str) -> (String, bool) {
    let (node, moved, kept) = (drained.node, drained.moved.len(), &drained.kept);
    let mut text = if !drained.draining {
        format!("node {node} was brought back meanwhile; {moved} shards had been handed over\n")
    } else if kept.is_empty() {
        format!("node {node} is drained: {moved} shards were handed over\n")
    } else {
        format!("node {node} drains, {moved} shards were handed over, and it still leads:\n")
    };
    for kept in kept {
        // Writing to a string cannot fail.
        writeln!(text, "  shard {}: {}", kept.shard, kept.reason).ok();
    }
    if drained.draining {
        if !kept.is_empty() {
            text.push_str(
                "it hands these over by itself as soon as another member can lead them\n",
            );
        }
        writeln!(
            text,
            "it leads what nobody else can, until `phalanx cluster undrain {node} --url {url}` or its \
             restart"
        )
        .ok();
    }
    (text, drained.draining && kept.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::status::Kept;

    #[test]
    fn a_drain_is_done_when_the_node_leads_nothing() {
        let drained = |draining, kept: &[u32]| Drained {
            node: 2,
            draining,
            moved: Vec::new(),
            kept: kept
                .iter()
                .map(|shard| Kept {
                    shard: *shard,
                    reason: "there is no other member".to_owned(),
                })
                .collect(),
        };
        let (text, done) = drained_words(&drained(true, &[]), "http://n:1");
        assert!(
            done && text.contains("phalanx cluster undrain 2 --url http://n:1"),
            "{text}"
        );
        let (text, done) = drained_words(&drained(true, &[3]), "http://n:1");
        assert!(
            !done && text.contains("\n  shard 3: there is no other member\n"),
            "{text}"
        );
        let (text, done) = drained_words(&drained(false, &[]), "http://n:1");
        assert!(!done && !text.contains("undrain"), "{text}");
    }
}
