//! `phalanx cluster tour`: a cluster of three on this machine, from start to failover, in half a
//! minute.
//!
//! Starts this very program three times with the settings of `config/node-1.toml` to `node-3.toml`,
//! in a temporary data directory. Refuses to touch anything it did not start. Invariant: when it
//! ends, in whichever way short of SIGKILL, its nodes have ended and their data are gone.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use clap::Args;
use parking_lot::Mutex;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use tokio::signal::unix::{SignalKind, signal};

use super::PATIENCE;
use crate::cli::ask::{AskError, get, post};
use crate::cli::output;
use crate::settings::{Settings, SettingsError};

/// How long the nodes may take to be ready.
const READY_WITHIN: Duration = Duration::from_secs(60);
/// How long a command may take after a leader has died.
const PATIENT: Duration = Duration::from_secs(15);
/// How long a node may take to stop.
const STOP_WITHIN: Duration = Duration::from_secs(15);
/// Between two looks.
const POLL: Duration = Duration::from_millis(20);

#[derive(Debug, Args)]
pub(super) struct Arguments {
    /// Directory with node-1.toml, node-2.toml and node-3.toml
    #[arg(long, value_name = "DIR", default_value = "config")]
    config: PathBuf,
}

/// Why the tour ended early.
#[derive(Debug, thiserror::Error)]
enum TourError {
    #[error(transparent)]
    Settings(#[from] SettingsError),
    #[error("failed to prepare the tour: {0}")]
    Prepare(#[source] std::io::Error),
    #[error("failed to start node {node}: {source}")]
    Start {
        node: usize,
        #[source]
        source: std::io::Error,
    },
    #[error(
        "node {node} cannot listen at {address}, its {setting}: {source}. Stop what runs there, or \
         change the address in a copy of the config files (--config)"
    )]
    Taken {
        node: usize,
        address: String,
        setting: &'static str,
        #[source]
        source: std::io::Error,
    },
    #[error("node {node} ended with {status}; its log says:\n{log}")]
    Ended {
        node: usize,
        status: std::process::ExitStatus,
        log: String,
    },
    #[error("node {node} is not ready after {READY_WITHIN:?}: {reason}")]
    NotReady { node: usize, reason: String },
    #[error(transparent)]
    Ask(#[from] AskError),
    #[error("an answer lacks {0}")]
    Answer(&'static str),
    #[error("interrupted")]
    Interrupted,
}

/// A node of the tour.
#[derive(Debug)]
struct Node {
    number: usize,
    url: String,
    log: PathBuf,
    child: Child,
}

impl Node {
    /// Fails when its process has ended.
    fn check(&mut self) -> Result<(), TourError> {
        match self.child.try_wait() {
            Ok(Some(status)) => Err(TourError::Ended {
                node: self.number,
                status,
                log: std::fs::read_to_string(&self.log).unwrap_or_default(),
            }),
            Ok(None) | Err(_) => Ok(()),
        }
    }
}

/// The nodes that run. Dropping them kills what is left.
#[derive(Debug, Default)]
struct Nodes {
    running: Vec<Node>,
    /// Nothing is started any more: whoever ends the tour does not wait for the step it is at.
    closed: bool,
}

impl Nodes {
    /// Starts one more. Under the lock, so that nobody ends the tour between its start and its entry
    /// here.
    fn add(&mut self, start: impl FnOnce() -> Result<Node, TourError>) -> Result<(), TourError> {
        if self.closed {
            return Err(TourError::Interrupted);
        }
        let node = start()?;
        self.running.push(node);
        Ok(())
    }

    /// Asks every node to stop and waits for it.
    fn stop(&mut self) {
        for node in &self.running {
            // A node that has ended already needs no signal.
            kill_process(Pid::from_child(&node.child), Signal::TERM).ok();
        }
        let deadline = Instant::now() + STOP_WITHIN;
        for node in &mut self.running {
            while matches!(node.child.try_wait(), Ok(None)) && Instant::now() < deadline {
                std::thread::sleep(POLL);
            }
        }
        self.kill();
    }

    fn kill(&mut self) {
        self.closed = true;
        for mut node in self.running.drain(..) {
            // It fails for a process that has ended, which is what is wanted.
            node.child.kill().ok();
            node.child.wait().ok();
        }
    }
}

impl Drop for Nodes {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Where the tour keeps its data. Dropping it deletes them.
#[derive(Debug)]
struct Directory(PathBuf);

impl Directory {
    fn make() -> std::io::Result<Self> {
        let name = format!("phalanx-tour-{}", std::process::id());
        let directory = Self(std::env::temp_dir().join(name));
        std::fs::create_dir(&directory.0)?;
        Ok(directory)
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        // What cannot be deleted lies in the system's directory for such things.
        std::fs::remove_dir_all(&self.0).ok();
    }
}

/// Ready at Ctrl-C, at SIGTERM, and when the terminal is closed. Takes them from when it is called.
fn interrupted() -> std::io::Result<impl Future<Output = ()>> {
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut quit = signal(SignalKind::quit())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let mut hangup = signal(SignalKind::hangup())?;
    Ok(async move {
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = quit.recv() => {}
            _ = terminate.recv() => {}
            _ = hangup.recv() => {}
        }
    })
}

impl Arguments {
    pub(super) fn run(self) -> ExitCode {
        let nodes = Arc::new(Mutex::new(Nodes::default()));
        let outcome = self.run_until_interrupted(&nodes);
        nodes.lock().kill();
        match outcome {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => output::failed(&error),
        }
    }

    fn run_until_interrupted(self, nodes: &Arc<Mutex<Nodes>>) -> Result<(), TourError> {
        let directory = Directory::make().map_err(TourError::Prepare)?;
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .map_err(TourError::Prepare)?;
        let (path, held) = (directory.0.clone(), Arc::clone(nodes));
        let outcome = runtime.block_on(async {
            let interrupted = interrupted().map_err(TourError::Prepare)?;
            let tour = tokio::task::spawn_blocking(move || tour(&self.config, &path, &held));
            tokio::select! {
                done = tour => done.unwrap_or(Err(TourError::Interrupted)),
                () = interrupted => Err(TourError::Interrupted),
            }
        });
        // The tour may be in the middle of a step; without nodes it gets nowhere.
        runtime.shutdown_background();
        nodes.lock().kill();
        outcome
    }
}

fn tour(config: &Path, directory: &Path, nodes: &Mutex<Nodes>) -> Result<(), TourError> {
    (1..=3).try_for_each(|number| is_free(config, number))?;
    say("Starting three nodes ...");
    for number in 1..=3 {
        nodes.lock().add(|| {
            let node = start(config, directory, number)?;
            let (process, url) = (node.child.id(), &node.url);
            say(&format!("  node {number}: process {process}, {url}"));
            Ok(node)
        })?;
    }
    let urls = wait_until_ready(nodes)?;
    say("\nWhere shards live, as `phalanx cluster status` shows it:\n");
    status(urls.first().ok_or(TourError::Answer("a node"))?)?;
    say("Commands, each sent to another node than the one before:");
    for (n, url) in urls.iter().cycle().take(6).enumerate() {
        let id = format!("tour-{}", n / 3);
        let (name, fields) = if n % 3 == 0 {
            ("OpenAccount", json!({"owner": "ada", "currency": "EUR"}))
        } else {
            ("Deposit", json!({"amount_cents": 100 * n}))
        };
        command(url, &id, name, &fields)?;
    }
    fail_over(nodes, &urls)?;
    say("\nStopping the others ...");
    nodes.lock().stop();
    say("Done. Nothing is left behind.");
    Ok(())
}

/// Whether a node could listen where it is to. Another node that listens there, perhaps one with data
/// that somebody needs, would answer in its place until it has failed.
fn is_free(config: &Path, number: usize) -> Result<(), TourError> {
    let file = config.join(format!("node-{number}.toml"));
    let settings = Settings::load(Some(&file))?.settings;
    for (setting, address) in [
        ("http.listen", settings.http.listen.to_string()),
        ("cluster.listen", settings.cluster.listen.to_string()),
    ] {
        let bound = std::net::TcpListener::bind(&address);
        drop(bound.map_err(|source| TourError::Taken {
            node: number,
            address,
            setting,
            source,
        })?);
    }
    Ok(())
}

/// Starts one node with its own data below `directory`.
fn start(config: &Path, directory: &Path, number: usize) -> Result<Node, TourError> {
    let file = config.join(format!("node-{number}.toml"));
    let settings = Settings::load(Some(&file))?.settings;
    let failed = |source| TourError::Start {
        node: number,
        source,
    };
    let log = directory.join(format!("node-{number}.log"));
    let out = std::fs::File::create(&log).map_err(failed)?;
    let child = Command::new(std::env::current_exe().map_err(failed)?)
        .args(["serve", "--config"])
        .arg(&file)
        .env(
            "PHALANX__NODE__DATA_DIR",
            directory.join(format!("node-{number}")),
        )
        .stdin(Stdio::null())
        .stdout(out.try_clone().map_err(failed)?)
        .stderr(out)
        .spawn()
        .map_err(failed)?;
    Ok(Node {
        number,
        url: format!("http://{}", settings.http.listen),
        log,
        child,
    })
}

/// Waits until every node says that it is ready, and shows how that goes; gives their addresses.
fn wait_until_ready(nodes: &Mutex<Nodes>) -> Result<Vec<String>, TourError> {
    let started = Instant::now();
    let mut urls = Vec::new();
    while urls.len() < 3 {
        let at = urls.len();
        let (number, url) = {
            let mut nodes = nodes.lock();
            for node in &mut nodes.running {
                node.check()?;
            }
            let node = nodes.running.get(at).ok_or(TourError::Interrupted)?;
            (node.number, node.url.clone())
        };
        match get(&url, "/readyz?verbose", PATIENCE) {
            Ok(_) => {
                say(&format!(
                    "  node {number} is ready after {:.1?}",
                    started.elapsed()
                ));
                urls.push(url);
            }
            Err(reason) if started.elapsed() > READY_WITHIN => {
                return Err(TourError::NotReady {
                    node: number,
                    reason: reason.to_string(),
                });
            }
            Err(_) => std::thread::sleep(POLL),
        }
    }
    Ok(urls)
}

fn status(url: &str) -> Result<(), TourError> {
    let cluster = get(url, "/v1/cluster", PATIENCE)?;
    let shards = get(url, "/v1/shards", PATIENCE)?;
    let text = super::show(&cluster, &shards, false);
    say(&text.map_err(|_| TourError::Answer("the cluster's status"))?);
    Ok(())
}

/// Sends a command and shows the answer in a line; gives it.
fn command(url: &str, id: &str, name: &str, fields: &Value) -> Result<Value, TourError> {
    let path = format!("/v1/aggregates/account/{id}/commands/{name}");
    let started = Instant::now();
    let answer = post(url, &path, &fields.to_string(), PATIENT)?;
    let took = started.elapsed();
    let answer: Value =
        serde_json::from_slice(&answer).map_err(|_| TourError::Answer("a JSON object"))?;
    let number = &answer["sequence_number"];
    say(&format!(
        "  {url} {name} {id}: event {number} at {} in {took:.1?}",
        answer["position"]
    ));
    Ok(answer)
}

/// Kills the leader of an account's shard, then sends that account a command through another node.
fn fail_over(nodes: &Mutex<Nodes>, urls: &[String]) -> Result<(), TourError> {
    let any = urls.first().ok_or(TourError::Answer("a node"))?;
    let answer = command(any, "tour-0", "Deposit", &json!({"amount_cents": 1}))?;
    let position = answer["position"]
        .as_str()
        .ok_or(TourError::Answer("a position"))?;
    let path = format!("/v1/aggregates/account/tour-0?after={position}");
    let state = get(any, &path, PATIENCE)?;
    let state: Value =
        serde_json::from_slice(&state).map_err(|_| TourError::Answer("a JSON object"))?;
    let leader = state["served_by"]["node"].as_u64();
    let leader = leader.and_then(|node| usize::try_from(node).ok());
    let leader = leader.ok_or(TourError::Answer("the node that served it"))?;
    let shard = &state["served_by"]["shard"];
    say(&format!(
        "\nKilling node {leader} (kill -9), which leads shard {shard} ..."
    ));
    {
        let mut nodes = nodes.lock();
        let at = nodes.running.iter().position(|node| node.number == leader);
        let mut killed = nodes.running.remove(at.ok_or(TourError::Interrupted)?);
        killed.child.kill().map_err(TourError::Prepare)?;
        killed.child.wait().map_err(TourError::Prepare)?;
    }
    let other = urls.get(leader % 3).ok_or(TourError::Answer("a node"))?;
    let died = Instant::now();
    command(other, "tour-0", "Deposit", &json!({"amount_cents": 1}))?;
    let first = died.elapsed();
    let again = Instant::now();
    command(other, "tour-0", "Deposit", &json!({"amount_cents": 1}))?;
    say(&format!(
        "The command after the kill took {first:.1?}, election included; the next one {:.1?}.\n",
        again.elapsed()
    ));
    status(other)
}

/// Writes a line. When nobody reads any more, the tour goes on and cleans up all the same.
fn say(line: &str) {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{line}").and_then(|()| out.flush()).ok();
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asleep() -> Result<Node, TourError> {
        let child = Command::new("sleep").arg("600").spawn();
        let child = child.map_err(TourError::Prepare)?;
        Ok(Node {
            number: 1,
            url: String::new(),
            log: PathBuf::new(),
            child,
        })
    }

    #[test]
    fn nothing_is_started_once_the_tour_has_ended() {
        let mut nodes = Nodes::default();
        nodes.add(asleep).unwrap();
        nodes.kill();
        // The step that was under way goes on in another thread.
        let refused = nodes.add(asleep).unwrap_err();
        assert!(matches!(refused, TourError::Interrupted));
        assert!(nodes.running.is_empty());
    }
}
