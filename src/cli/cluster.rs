//! `phalanx cluster ...`: asks a running node about the cluster, to move leaders, or to change its
//! members.
//!
//! Refuses to know more than the node says: it renders the answers of `GET /v1/cluster` and
//! `GET /v1/shards`. Invariant: `--json` prints both as they were received.

mod leaders;
mod members;
mod refusal;
mod tour;

use std::fmt::Write as _;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, Subcommand};
use serde::Deserialize;
use serde_json::{Value, json};

use super::ask::get;
use super::output;
use crate::cluster::NodeId;
use crate::cluster::roles::Role;
use crate::cluster::status::{ClusterView, MemberRole, MemberState, MemberView, ShardView};

/// How long a node may take to answer; it asks its peers first.
const PATIENCE: Duration = Duration::from_secs(5);

#[derive(Debug, Args)]
pub(super) struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Show the members, the shards and who leads what
    Status(StatusArguments),
    /// Let a node join: it waits, started with `cluster.bootstrap = false`
    Join(members::Join),
    /// Let a member leave, also a dead one: its copies are rebuilt elsewhere first
    Leave(members::Leave),
    /// Let other members lead all that this one leads; it goes on to take requests
    Drain(leaders::Drain),
    /// Take a drain back
    Undrain(leaders::Undrain),
    /// Let another member lead a shard
    Transfer(leaders::Transfer),
    /// Start three nodes here, use them, kill one, go on, and stop them again
    Tour(tour::Arguments),
}

#[derive(Debug, Args)]
struct StatusArguments {
    /// Any node of the cluster
    #[arg(long, value_name = "URL", default_value = "http://127.0.0.1:8080")]
    url: String,
    /// Print one JSON object instead of tables
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Deserialize)]
struct Shards {
    shards: Vec<ShardView>,
}

impl Arguments {
    pub(super) fn run(self) -> ExitCode {
        match self.command {
            Command::Status(arguments) => arguments.run(),
            Command::Join(arguments) => arguments.run(),
            Command::Leave(arguments) => arguments.run(),
            Command::Drain(arguments) => arguments.run(),
            Command::Undrain(arguments) => arguments.run(),
            Command::Transfer(arguments) => arguments.run(),
            Command::Tour(arguments) => arguments.run(),
        }
    }
}

impl StatusArguments {
    fn run(self) -> ExitCode {
        let asked = get(&self.url, "/v1/cluster", PATIENCE)
            .and_then(|cluster| Ok((cluster, get(&self.url, "/v1/shards", PATIENCE)?)));
        let (cluster, shards) = match asked {
            Ok(answers) => answers,
            Err(error) => return refusal::show(&error, &self.url, self.json),
        };
        match show(&cluster, &shards, self.json) {
            Ok(text) => output::result(text.as_bytes()),
            Err(error) => {
                let url = &self.url;
                output::failed(&format_args!("{url} answers in an unknown form: {error}"))
            }
        }
    }
}

fn show(cluster: &[u8], shards: &[u8], as_json: bool) -> Result<String, serde_json::Error> {
    if as_json {
        let cluster: Value = serde_json::from_slice(cluster)?;
        let shards: Value = serde_json::from_slice(shards)?;
        let both = json!({ "cluster": cluster, "shards": shards.get("shards") });
        return Ok(format!("{both:#}\n"));
    }
    let cluster: ClusterView = serde_json::from_slice(cluster)?;
    let Shards { shards } = serde_json::from_slice(shards)?;
    let shards = shard_table(&shards, cluster.node);
    Ok(format!("{}\n{shards}", members(&cluster)))
}

fn members(cluster: &ClusterView) -> String {
    let mut text = format!(
        "cluster {}, {} shards, as node {} sees it\n\n",
        cluster.name, cluster.shards, cluster.node
    );
    let header = [
        "NODE",
        "ADDRESS",
        "STATE",
        "ROLE",
        "LEADS",
        "FOLLOWS",
        "INCARNATION",
    ];
    let row = |member: &MemberView| {
        let incarnation = member.incarnation.as_deref().unwrap_or("-");
        vec![
            member.id.to_string(),
            member.address.clone(),
            state(member.state).to_owned(),
            role(member.role).to_owned(),
            member.leads.to_string(),
            member.follows.to_string(),
            incarnation.to_owned(),
        ]
    };
    table(
        &mut text,
        &header,
        cluster.members.iter().map(row).collect(),
    );
    for member in &cluster.members {
        let roles: Vec<&str> = member.roles.iter().map(|role| role.name()).collect();
        if !roles.is_empty() && roles.len() < Role::ALL.len() {
            writeln!(text, "node {} is only: {}", member.id, roles.join(", ")).ok();
        }
        if let Some(reason) = &member.reason {
            // Writing to a string cannot fail.
            writeln!(text, "node {}: {reason}", member.id).ok();
        }
    }
    for member in cluster.members.iter().filter(|m| m.disk_full) {
        let id = member.id;
        writeln!(
            text,
            "node {id}: its disk is full; it leads nothing that others have space for"
        )
        .ok();
    }
    if cluster.pending_moves > 0 {
        let count = cluster.pending_moves;
        writeln!(text, "{count} copies of shards are still to be moved").ok();
    }
    text
}

/// What the node that says so is for a shard.
fn here(shard: &ShardView, node: NodeId) -> &'static str {
    let is_copy = || shard.voters.contains(&node) || shard.learners.contains(&node);
    match (&shard.refusal, shard.serving) {
        (Some(_), _) => "refused",
        (None, true) => "serves",
        // Elected a moment ago, or no majority answers.
        (None, false) if shard.leader == Some(node) => "waits",
        (None, false) if is_copy() => "follows",
        (None, false) => "-",
    }
}

fn shard_table(shards: &[ShardView], node: NodeId) -> String {
    let mut text = String::new();
    let header = [
        "SHARD", "LEADER", "TERM", "VOTERS", "LOG", "APPLIED", "LAG", "HERE",
    ];
    let or_dash = |value: Option<u64>| value.map_or("-".to_owned(), |value| value.to_string());
    let row = |shard: &ShardView| {
        // A plus marks who gets the log without a vote.
        let learners = shard.learners.iter().map(|learner| format!("+{learner}"));
        let voters = shard.voters.iter().map(u64::to_string);
        let voters: Vec<String> = voters.chain(learners).collect();
        let lag: Vec<String> = shard
            .followers
            .iter()
            .map(|follower| format!("{}:{}", follower.node, follower.lag))
            .collect();
        vec![
            shard.shard.to_string(),
            or_dash(shard.leader),
            shard.term.to_string(),
            voters.join(","),
            or_dash(shard.last_log_index),
            or_dash(shard.applied_index),
            if lag.is_empty() {
                "-".to_owned()
            } else {
                lag.join(" ")
            },
            here(shard, node).to_owned(),
        ]
    };
    table(&mut text, &header, shards.iter().map(row).collect());
    for shard in shards {
        if let Some(reason) = &shard.refusal {
            writeln!(text, "shard {}: {reason}", shard.shard).ok();
        }
    }
    text
}

fn state(state: MemberState) -> &'static str {
    match state {
        MemberState::This => "this",
        MemberState::Connected => "connected",
        MemberState::Refused => "refused",
        MemberState::Unreachable => "unreachable",
    }
}

fn role(role: MemberRole) -> &'static str {
    match role {
        MemberRole::Serving => "serving",
        MemberRole::Joining => "joining",
        MemberRole::Leaving => "leaving",
        MemberRole::Draining => "draining",
        MemberRole::Unknown => "unknown",
    }
}

/// Appends rows under a header, each column as wide as its widest cell.
pub(super) fn table(text: &mut String, header: &[&str], rows: Vec<Vec<String>>) {
    let head = header.iter().map(|cell| (*cell).to_owned()).collect();
    let mut all: Vec<Vec<String>> = vec![head];
    let printable = |row: Vec<String>| row.iter().map(|cell| output::printable(cell)).collect();
    all.extend(rows.into_iter().map(printable));
    let width = |column: usize| {
        let cells = all.iter().filter_map(|row| row.get(column));
        cells.map(|cell| cell.chars().count()).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..header.len()).map(width).collect();
    for row in &all {
        let cells = row.iter().zip(&widths);
        let line: Vec<String> = cells
            .map(|(cell, width)| format!("{cell:width$}"))
            .collect();
        text.push_str(line.join("  ").trim_end());
        text.push('\n');
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CLUSTER: &str = r#"{"name":"phalanx","node":2,"shards":1,"members":[
        {"id":1,"address":"127.0.0.1:7081","incarnation":null,"state":"unreachable",
         "reason":"connection refused (for 3 s)","role":"unknown","leads":0,"follows":1},
        {"id":2,"address":"127.0.0.1:7082","incarnation":"6f9d","state":"this","reason":null,
         "role":"draining","leads":1,"follows":0,"disk_full":true}]}"#;
    const SHARDS: &str = r#"{"shards":[{"shard":0,"voters":[1,2],"leader":2,"term":7,
        "last_log_index":41,"applied_index":40,
        "followers":[{"node":1,"matched_index":30,"lag":11}],
        "serving":true,"refusal":null}]}"#;

    #[test]
    fn the_tables_line_up_and_name_what_is_wrong() {
        let text = show(CLUSTER.as_bytes(), SHARDS.as_bytes(), false).unwrap();
        assert_eq!(
            text,
            "cluster phalanx, 1 shards, as node 2 sees it\n\
             \n\
             NODE  ADDRESS         STATE        ROLE      LEADS  FOLLOWS  INCARNATION\n\
             1     127.0.0.1:7081  unreachable  unknown   0      1        -\n\
             2     127.0.0.1:7082  this         draining  1      0        6f9d\n\
             node 1: connection refused (for 3 s)\n\
             node 2: its disk is full; it leads nothing that others have space for\n\
             \n\
             SHARD  LEADER  TERM  VOTERS  LOG  APPLIED  LAG   HERE\n\
             0      2       7     1,2     41   40       1:11  serves\n"
        );
    }

    #[test]
    fn a_node_is_said_to_serve_to_follow_to_wait_or_to_have_no_copy() {
        let shards: Shards = serde_json::from_str(SHARDS).unwrap();
        let mut shard = shards.shards.into_iter().next().unwrap();
        assert_eq!(here(&shard, 2), "serves");
        shard.serving = false;
        let seen = [1, 2, 3].map(|node| here(&shard, node));
        assert_eq!(seen, ["follows", "waits", "-"]);
        shard.learners = vec![3];
        assert_eq!(here(&shard, 3), "follows");
        shard.refusal = Some("it is damaged".to_owned());
        assert_eq!(here(&shard, 2), "refused");
    }

    #[test]
    fn json_is_passed_on_whole() {
        let text = show(CLUSTER.as_bytes(), SHARDS.as_bytes(), true).unwrap();
        let both: Value = serde_json::from_str(&text).unwrap();
        assert_eq!(both["cluster"]["members"][0]["state"], "unreachable");
        assert_eq!(both["shards"][0]["followers"][0]["lag"], 11);
        assert!(show(b"<html>", SHARDS.as_bytes(), false).is_err());
    }
}
