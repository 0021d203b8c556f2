//! `phalanx cluster join` and `leave`: asks a running cluster to change its members, and shows how
//! far it is.
//!
//! Refuses to do anything itself: the cluster goes on with what was asked whether somebody watches
//! or not. Invariant: it ends with 0 only when the change is complete, or when it was told not to
//! wait.

use std::io::{IsTerminal as _, Write as _};
use std::process::ExitCode;
use std::time::Duration;

use clap::Args;
use serde_json::json;

use super::super::ask::{AskError, delete, get, post};
use super::super::output;
use super::{PATIENCE, refusal, role};
use crate::cluster::NodeId;
use crate::cluster::members::Standing;
use crate::cluster::status::{ClusterView, MemberChange, MemberRole, MemberState};

/// How often the cluster is asked how far it is.
const LOOK: Duration = Duration::from_millis(300);
/// Looks in a row that may fail: a leader may be about to change.
const MOST_FAILURES: u32 = 40;
/// Who was asked may first have to find a leader.
const CHANGE_PATIENCE: Duration = Duration::from_secs(15);

#[derive(Debug, Args)]
pub(super) struct Join {
    #[command(flatten)]
    whom: Whom,
    /// Its `node.id`: never used before in this cluster
    #[arg(long)]
    id: NodeId,
    /// Where it listens for members (`cluster.advertise` or `cluster.listen` of its config file)
    #[arg(long, value_name = "HOST:PORT")]
    address: String,
}

#[derive(Debug, Args)]
pub(super) struct Leave {
    #[command(flatten)]
    whom: Whom,
    /// The `node.id` of the member, which may be dead
    #[arg(long)]
    id: NodeId,
}

#[derive(Debug, Args)]
struct Whom {
    /// Any member of the cluster
    #[arg(long, value_name = "URL", default_value = "http://127.0.0.1:8080")]
    url: String,
    /// Do not wait until copies of shards have moved
    #[arg(long)]
    no_wait: bool,
    /// Print the answer as JSON
    #[arg(long)]
    json: bool,
}

/// Why waiting ended.
#[derive(Debug, thiserror::Error)]
enum WaitError {
    #[error(transparent)]
    Ask(#[from] AskError),
    #[error("{url} answers in an unknown form: {source}")]
    Form {
        url: String,
        #[source]
        source: serde_json::Error,
    },
}

impl Join {
    pub(super) fn run(self) -> ExitCode {
        let body = json!({ "id": self.id, "address": self.address }).to_string();
        let asked = post(&self.whom.url, "/v1/nodes", &body, CHANGE_PATIENCE);
        self.whom
            .end(self.id, asked, Standing::Member, "has joined the cluster")
    }
}

impl Leave {
    pub(super) fn run(self) -> ExitCode {
        let path = format!("/v1/nodes/{}", self.id);
        let asked = delete(&self.whom.url, &path, CHANGE_PATIENCE);
        self.whom
            .end(self.id, asked, Standing::Removed, "has left the cluster")
    }
}

impl Whom {
    fn end(
        &self,
        id: NodeId,
        asked: Result<Vec<u8>, AskError>,
        goal: Standing,
        done: &str,
    ) -> ExitCode {
        let waited = asked.map_err(WaitError::from).and_then(|answer| {
            let mut change: MemberChange = self.read(&answer)?;
            let complete = match change.standing {
                Standing::Joining | Standing::Leaving if !self.no_wait => self.wait(id)?,
                Standing::Joining | Standing::Leaving => false,
                Standing::Member | Standing::Removed => true,
            };
            if complete {
                change.standing = goal;
            }
            Ok((complete, change))
        });
        match waited {
            Ok((_, change)) if self.json => {
                output::result(format!("{:#}\n", json!(change)).as_bytes())
            }
            Ok((true, _)) => output::result(format!("node {id} {done}\n").as_bytes()),
            Ok((false, _)) => output::result(
                format!("noted; `phalanx cluster status` shows how far node {id} is\n").as_bytes(),
            ),
            Err(WaitError::Ask(error)) => refusal::show(&error, &self.url, self.json),
            Err(error @ WaitError::Form { .. }) => output::failed(&error),
        }
    }

    fn read<T: serde::de::DeserializeOwned>(&self, bytes: &[u8]) -> Result<T, WaitError> {
        let url = self.url.clone();
        serde_json::from_slice(bytes).map_err(|source| WaitError::Form { url, source })
    }

    /// Looks until the node is in or out for good.
    fn wait(&self, id: NodeId) -> Result<bool, WaitError> {
        let mut progress = Progress::default();
        let mut failures = 0;
        loop {
            match get(&self.url, "/v1/cluster", PATIENCE) {
                Ok(answer) => {
                    failures = 0;
                    let cluster: ClusterView = self.read(&answer)?;
                    let Some(words) = still_changing(&cluster, id) else {
                        progress.end();
                        return Ok(true);
                    };
                    progress.show(&words);
                }
                Err(error) => {
                    failures += 1;
                    if failures >= MOST_FAILURES {
                        progress.end();
                        return Err(error.into());
                    }
                }
            }
            std::thread::sleep(LOOK);
        }
    }
}

/// How far a change is; `None` when it is complete.
fn still_changing(cluster: &ClusterView, id: NodeId) -> Option<String> {
    let member = cluster.members.iter().find(|member| member.id == id)?;
    if !matches!(member.role, MemberRole::Joining | MemberRole::Leaving) {
        return None;
    }
    let away = match member.state {
        MemberState::This | MemberState::Connected => "",
        MemberState::Refused => " (refused; see phalanx cluster status)",
        MemberState::Unreachable => " (not reached)",
    };
    Some(format!(
        "node {id}: {}{away}, {} copies of shards there, {} to be moved in the cluster",
        role(member.role),
        member.leads + member.follows,
        cluster.pending_moves
    ))
}

/// One line that changes on a terminal, a line for each change elsewhere.
#[derive(Debug, Default)]
struct Progress {
    shown: String,
}

impl Progress {
    fn show(&mut self, words: &str) {
        if self.shown == words {
            return;
        }
        self.shown = words.to_owned();
        let mut out = std::io::stderr();
        // Progress is a courtesy: nobody is harmed if it cannot be shown.
        if out.is_terminal() {
            write!(out, "\r\u{1b}[K{words}").ok();
        } else {
            writeln!(out, "{words}").ok();
        }
        out.flush().ok();
    }

    fn end(&self) {
        if !self.shown.is_empty() && std::io::stderr().is_terminal() {
            writeln!(std::io::stderr()).ok();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_is_complete_when_the_member_is_serving_or_gone() {
        let cluster = |role: &str| -> ClusterView {
            let text = format!(
                r#"{{"name":"phalanx","node":1,"shards":8,"pending_moves":5,"members":[
                {{"id":4,"address":"d:1","incarnation":null,"state":"unreachable","reason":"x",
                 "role":"{role}","leads":1,"follows":2}}]}}"#
            );
            serde_json::from_str(&text).unwrap()
        };
        assert_eq!(
            still_changing(&cluster("joining"), 4).as_deref(),
            Some(
                "node 4: joining (not reached), 3 copies of shards there, 5 to be moved in the cluster"
            )
        );
        assert!(still_changing(&cluster("leaving"), 4).is_some());
        assert_eq!(still_changing(&cluster("serving"), 4), None);
        assert_eq!(still_changing(&cluster("leaving"), 5), None);
    }
}
