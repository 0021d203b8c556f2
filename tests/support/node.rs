//! A real node: the built binary as a process of its own, with its own data directory and ports.
//!
//! Refuses to leave anything behind: dropping a [`Node`] kills its process and waits for it.

use std::fs::{self, File};
use std::io::{Read as _, Seek as _, SeekFrom};
use std::net::SocketAddr;
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};

use super::http::{Http, Request, Response};
use super::{ports, wait};

/// The binary under test.
pub(crate) const BINARY: &str = env!("CARGO_BIN_EXE_phalanx");

const READY_WITHIN: Duration = Duration::from_secs(60);

/// How to start a node. The same value starts it again on the same data and the same address.
#[derive(Debug, Clone)]
pub(crate) struct NodeSetup {
    /// Where it keeps its data.
    pub(crate) data_dir: PathBuf,
    /// Where clients connect.
    pub(crate) address: SocketAddr,
    /// Where other members connect.
    pub(crate) cluster_address: SocketAddr,
    config_file: PathBuf,
    log_file: PathBuf,
    variables: Vec<(String, String)>,
    wrapper: Vec<String>,
    binary: String,
}

impl NodeSetup {
    /// A node with its data in `data/` below this directory and its configuration and log beside.
    pub(crate) fn new(directory: &Path) -> Self {
        let config_file = directory.join("node.toml");
        fs::write(&config_file, "[node]\nid = 1\n").expect("the config file can be written");
        Self {
            data_dir: directory.join("data"),
            address: ports::free_address(),
            cluster_address: ports::free_address(),
            config_file,
            log_file: directory.join("node.log"),
            variables: Vec::new(),
            wrapper: Vec::new(),
            binary: BINARY.to_owned(),
        }
        .set("CLUSTER__SHARDS", 4)
    }

    /// A member of a cluster, with its data, configuration and log in a directory of its own below
    /// this one. `members` are all of them with the addresses at which they reach each other.
    pub(crate) fn member(directory: &Path, id: u64, members: &[(u64, SocketAddr)]) -> Self {
        let directory = directory.join(format!("node-{id}"));
        fs::create_dir_all(&directory).expect("a directory can be made");
        let mut setup = Self::new(&directory);
        let mut config = format!("[node]\nid = {id}\n");
        for (member, address) in members {
            if *member == id {
                setup.cluster_address = *address;
            } else {
                config += &format!("[[cluster.peers]]\nid = {member}\naddress = \"{address}\"\n");
            }
        }
        fs::write(&setup.config_file, config).expect("the config file can be written");
        setup
    }

    /// Overrides a setting: `set("HTTP__MAX_BODY_BYTES", 1024)`.
    pub(crate) fn set(self, key: &str, value: impl ToString) -> Self {
        self.variable(&format!("PHALANX__{key}"), &value.to_string())
    }

    /// Sets or replaces a variable of the process environment.
    pub(crate) fn variable(mut self, name: &str, value: &str) -> Self {
        self.variables.retain(|(n, _)| n != name);
        self.variables.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Moves the data elsewhere.
    pub(crate) fn data_in(mut self, data_dir: &Path) -> Self {
        self.data_dir = data_dir.to_owned();
        self
    }

    /// Starts another build of the node.
    pub(crate) fn built_as(mut self, binary: &str) -> Self {
        binary.clone_into(&mut self.binary);
        self
    }

    /// Lets another program start the node: it gets the node's command line as its last arguments
    /// and must become the node or end with it.
    pub(crate) fn wrapped_by(mut self, wrapper: &[&str]) -> Self {
        self.wrapper = wrapper.iter().map(|part| (*part).to_owned()).collect();
        self
    }

    /// Lets one more program start what starts the node.
    pub(crate) fn also_wrapped_by(mut self, wrapper: &[String]) -> Self {
        self.wrapper.splice(0..0, wrapper.iter().cloned());
        self
    }

    /// The command line of a node, for processes that are started by hand.
    pub(crate) fn command(&self) -> Command {
        let mut words = self.wrapper.clone();
        words.push(self.binary.clone());
        let mut command = Command::new(&words[0]);
        command.args(&words[1..]);
        for (name, _) in std::env::vars_os() {
            let text = name.to_string_lossy().into_owned();
            if text.starts_with("PHALANX__") || text == "FAILPOINTS" {
                command.env_remove(name);
            }
        }
        command
            .args(["serve", "--config"])
            .arg(&self.config_file)
            .env("PHALANX__NODE__DATA_DIR", &self.data_dir)
            .env("PHALANX__HTTP__LISTEN", self.address.to_string())
            .env("PHALANX__CLUSTER__LISTEN", self.cluster_address.to_string())
            .envs(self.variables.iter().map(|(n, v)| (n, v)));
        command
    }

    /// Starts the process without waiting for anything.
    pub(crate) fn spawn(&self) -> Node {
        let log = File::options()
            .create(true)
            .append(true)
            .open(&self.log_file)
            .expect("the log file can be opened");
        let log_from = log.metadata().map_or(0, |metadata| metadata.len());
        let stdout = log.try_clone().expect("a file handle can be duplicated");
        let child = self
            .command()
            .stdin(Stdio::null())
            .stdout(stdout)
            .stderr(log)
            .spawn()
            .expect("the binary can be started");
        Node {
            child,
            address: self.address,
            log_file: self.log_file.clone(),
            log_from,
            ended: None,
        }
    }

    /// Starts the process and waits until it is ready.
    ///
    /// # Panics
    /// With the node's log, when it ends or is not ready in time.
    pub(crate) fn start(&self) -> Node {
        let mut node = self.spawn();
        if let Err(reason) = node.wait_ready(READY_WITHIN) {
            panic!("the node is not ready: {reason:?}\n{}", node.log());
        }
        node
    }
}

/// Why a node is not ready.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum NotReady {
    /// Its process has ended.
    Ended(ExitStatus),
    /// It answers, but says no; this is what it says.
    Refuses(String),
    /// It does not answer.
    Silent,
}

/// A running node.
#[derive(Debug)]
pub(crate) struct Node {
    child: Child,
    /// Where clients connect.
    pub(crate) address: SocketAddr,
    log_file: PathBuf,
    log_from: u64,
    ended: Option<ExitStatus>,
}

impl Node {
    /// A client of this node.
    pub(crate) fn client(&self) -> Http {
        Http::new(self.address)
    }

    /// Sends one request over a connection of its own.
    pub(crate) fn send(&self, request: &Request) -> Response {
        self.client().send(request)
    }

    /// Waits until `/readyz` says 200.
    pub(crate) fn wait_ready(&mut self, within: Duration) -> Result<(), NotReady> {
        let mut last = NotReady::Silent;
        let ready = wait::poll(within, || {
            if let Some(status) = self.status() {
                return Some(Err(NotReady::Ended(status)));
            }
            match self.client().try_send(&Request::get("/readyz?verbose")) {
                Ok(response) if response.status == 200 => Some(Ok(())),
                Ok(response) if is_settled(&response) => {
                    Some(Err(NotReady::Refuses(response.text())))
                }
                Ok(response) => {
                    last = NotReady::Refuses(response.text());
                    None
                }
                Err(_) => None,
            }
        });
        ready.unwrap_or(Err(last))
    }

    /// How the process ended; `None` while it runs.
    pub(crate) fn status(&mut self) -> Option<ExitStatus> {
        if self.ended.is_none() {
            self.ended = self.child.try_wait().expect("a child can be waited for");
        }
        self.ended
    }

    /// Waits for the process to end by itself.
    pub(crate) fn wait_end(&mut self, within: Duration) -> Option<ExitStatus> {
        wait::poll(within, || self.status())
    }

    /// Kill -9, and waits until the process is gone. Says how it ended: a node may have ended
    /// before.
    pub(crate) fn kill(&mut self) -> ExitStatus {
        if let Some(status) = self.status() {
            return status;
        }
        self.child.kill().expect("a child can be killed");
        let status = self.child.wait().expect("a child can be waited for");
        self.ended = Some(status);
        status
    }

    /// The number of its process.
    pub(crate) fn process(&self) -> u32 {
        self.child.id()
    }

    /// Sends a signal.
    pub(crate) fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).expect("a child can be signalled");
    }

    /// Stops it where it is, and waits until it stands: a thread that runs when the signal is sent may
    /// go on for a while on a busy machine.
    pub(crate) fn freeze(&self) {
        self.signal(Signal::STOP);
        let tasks = format!("/proc/{}/task", self.child.id());
        wait::until("every thread stands still", Duration::from_secs(60), || {
            let threads = std::fs::read_dir(&tasks).expect("the process is there");
            let all = threads.flatten().all(|thread| {
                // `pid (name) state ...`; a thread that is gone stands still as well.
                let stat = std::fs::read_to_string(thread.path().join("stat"));
                stat.map_or(true, |stat| {
                    let state = stat.rsplit(')').next().unwrap_or_default().trim_start();
                    state.starts_with('T')
                })
            });
            all.then_some(())
        });
    }

    /// Sends SIGTERM.
    pub(crate) fn terminate(&mut self) {
        if self.status().is_none() {
            kill_process(Pid::from_child(&self.child), Signal::TERM)
                .expect("a child can be signalled");
        }
    }

    /// Stops it in the orderly way.
    ///
    /// # Panics
    /// When it does not end with code 0 in time.
    pub(crate) fn stop(&mut self) {
        self.terminate();
        let status = self.wait_end(Duration::from_secs(60));
        assert!(
            status.is_some_and(|status| status.success()),
            "after SIGTERM: {status:?}\n{}",
            self.log()
        );
    }

    /// What this process has written so far.
    pub(crate) fn log(&self) -> String {
        let mut text = Vec::new();
        if let Ok(mut file) = File::open(&self.log_file) {
            let sought = file.seek(SeekFrom::Start(self.log_from));
            sought
                .and_then(|_| file.read_to_end(&mut text))
                .expect("the log can be read");
        }
        String::from_utf8_lossy(&text).into_owned()
    }

    /// Memory that the process occupies now, in bytes.
    pub(crate) fn resident_bytes(&self) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.child.id()))
            .expect("the process can be looked at");
        status
            .lines()
            .find_map(|line| line.strip_prefix("VmRSS:"))
            .and_then(|rest| rest.trim().strip_suffix(" kB"))
            .and_then(|kilobytes| kilobytes.trim().parse::<u64>().ok())
            .map(|kilobytes| kilobytes * 1024)
            .expect("the kernel says how much memory a process occupies")
    }

    /// Time that the processors have spent on the process since it began.
    pub(crate) fn processor_time(&self) -> Duration {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.child.id()))
            .expect("the process can be looked at");
        // The name in parentheses may hold anything; the state follows, then numbers.
        let (_, rest) = stat.rsplit_once(") ").expect("a name");
        let ticks = rest.split(' ').skip(11).take(2);
        let ticks: u64 = ticks.map(|t| t.parse::<u64>().expect("a number")).sum();
        // The kernel counts in hundredths, whatever its own clock does.
        Duration::from_millis(ticks * 10)
    }

    /// The sum of a metric over all its labels; `None` when there is none of this name.
    pub(crate) fn metric(&self, name: &str) -> Option<f64> {
        let text = self.send(&Request::get("/metrics")).text();
        let values: Vec<f64> = text
            .lines()
            .filter(|line| !line.starts_with('#'))
            .filter(|line| line.split(['{', ' ']).next() == Some(name))
            .filter_map(|line| line.rsplit(' ').next()?.parse().ok())
            .collect();
        (!values.is_empty()).then(|| values.iter().sum())
    }
}

/// Whether waiting longer is in vain: the only checks that fail are of refused shards.
fn is_settled(readiness: &Response) -> bool {
    let body = readiness.json();
    let checks = body["checks"].as_array();
    let failed = checks
        .into_iter()
        .flatten()
        .filter(|check| check["ok"] == false);
    let mut reasons = failed
        .map(|check| check["reason"].as_str().unwrap_or_default())
        .peekable();
    reasons.peek().is_some() && reasons.all(|reason| reason.contains("damaged"))
}

impl Drop for Node {
    fn drop(&mut self) {
        if self.ended.is_none() {
            drop(self.child.kill());
            drop(self.child.wait());
        }
    }
}

/// Whether a process was ended by SIGKILL.
pub(crate) fn was_killed(status: ExitStatus) -> bool {
    status.signal() == Some(Signal::KILL.as_raw())
}
