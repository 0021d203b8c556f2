//! Child processes that never outlive the comparison, and free ports for them.
//!
//! Each child has a process group of its own, so that a Ctrl-C in the terminal reaches the
//! comparison alone and the children end in order. Invariant: dropping a child ends exactly that
//! group, by its id: politely first, by force when it does not listen; and waits until it is gone.

use std::fs::File;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process_group, test_kill_process_group};

use super::CompareError;

/// How long a process may take to end by itself.
const GRACE: Duration = Duration::from_secs(40);
/// Between two looks at a process.
const LOOK: Duration = Duration::from_millis(10);

/// Ports below those that the kernel gives to outgoing connections: a client that tries to reach a
/// server which does not listen yet could be given the server's own port.
const FIRST_PORT: u16 = 20_000;
const PORTS: u16 = 12_000;
static NEXT_PORT: AtomicU16 = AtomicU16::new(0);

/// A running process.
#[derive(Debug)]
pub(super) struct Process {
    child: Child,
    group: Pid,
    name: String,
    output: PathBuf,
    stop_signal: Signal,
    grace: Duration,
}

impl Process {
    /// Starts a program with its output in a file of `directory`.
    pub(super) fn start(
        name: &str,
        command: &mut Command,
        directory: &Path,
        stop_signal: Signal,
    ) -> Result<Self, CompareError> {
        let output = directory.join(format!("{name}.out"));
        let file = File::create(&output).map_err(CompareError::system("create an output file"))?;
        let again = file
            .try_clone()
            .map_err(CompareError::system("share an output file"))?;
        let child = command
            .process_group(0)
            .stdin(Stdio::null())
            .stdout(file)
            .stderr(again)
            .spawn()
            .map_err(CompareError::system(format!("start {name}")))?;
        Ok(Self {
            group: Pid::from_child(&child),
            child,
            name: name.to_owned(),
            output,
            stop_signal,
            grace: GRACE,
        })
    }

    /// An error when the process has ended already.
    pub(super) fn check_alive(&mut self) -> Result<(), CompareError> {
        match self.child.try_wait() {
            Ok(None) => Ok(()),
            Ok(Some(status)) => Err(self.error(format!("it ended with {status}"))),
            Err(error) => Err(self.error(error.to_string())),
        }
    }

    /// Waits until the process has done its work; an error when it failed.
    pub(super) async fn done(mut self) -> Result<(), CompareError> {
        loop {
            match self.child.try_wait() {
                Ok(None) => tokio::time::sleep(LOOK).await,
                Ok(Some(status)) if status.success() => return Ok(()),
                Ok(Some(status)) => return Err(self.error(format!("it ended with {status}"))),
                Err(error) => return Err(self.error(error.to_string())),
            }
        }
    }

    /// An error that shows what the process wrote last.
    pub(super) fn error(&self, reason: String) -> CompareError {
        let text = std::fs::read_to_string(&self.output).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        let last = lines
            .get(lines.len().saturating_sub(10)..)
            .unwrap_or_default();
        CompareError::Start {
            name: self.name.clone(),
            reason,
            output: last.join("\n"),
        }
    }

    /// Asks the process to end, without waiting.
    pub(super) fn ask_to_end(&mut self) {
        if matches!(self.child.try_wait(), Ok(None))
            && let Err(error) = kill_process_group(self.group, self.stop_signal)
        {
            eprintln!("compare: failed to signal {}: {error}", self.name);
        }
    }

    /// Waits until the process and its group are gone; false when they are still there.
    fn gone_within(&mut self, patience: Duration) -> bool {
        let give_up = Instant::now() + patience;
        loop {
            // Asking reaps the process.
            let runs = matches!(self.child.try_wait(), Ok(None));
            if !runs && test_kill_process_group(self.group).is_err() {
                return true;
            }
            if Instant::now() >= give_up {
                return false;
            }
            std::thread::sleep(LOOK);
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.ask_to_end();
        if self.gone_within(self.grace) {
            return;
        }
        let (name, grace) = (&self.name, self.grace);
        eprintln!("compare: {name} did not stop in {grace:?} and is killed");
        // It fails when the last one ended a moment ago, which is what is wanted.
        kill_process_group(self.group, Signal::KILL).ok();
        if !self.gone_within(GRACE) {
            eprintln!("compare: {} cannot be killed", self.name);
        }
    }
}

/// Loopback addresses that nobody listens on, each another one.
pub(super) fn free_addresses<const COUNT: usize>() -> Result<[SocketAddr; COUNT], CompareError> {
    let mut found = Vec::with_capacity(COUNT);
    // Runs at the same time begin at different places. The remainder is below 12,000.
    let start = (std::process::id().wrapping_mul(97) % u32::from(PORTS)) as u16;
    for _ in 0..PORTS {
        let step = NEXT_PORT.fetch_add(1, Ordering::Relaxed) % PORTS;
        let port = FIRST_PORT + (start + step) % PORTS;
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        if TcpListener::bind(address).is_ok() {
            found.push(address);
        }
        if let Ok(all) = <[SocketAddr; COUNT]>::try_from(found.as_slice()) {
            return Ok(all);
        }
    }
    Err(CompareError::Measure("no port is free".to_owned()))
}

/// Where a program is, looking through `PATH` and the places given.
pub(super) fn find_program(name: &str, places: &[PathBuf]) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let candidates = places.iter().cloned().chain(std::env::split_paths(&path));
    candidates
        .map(|directory| directory.join(name))
        .find(|file| file.is_file())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn started(script: &str) -> (Process, tempfile::TempDir) {
        let directory = tempfile::tempdir().unwrap();
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        let mut process =
            Process::start("shell", &mut command, directory.path(), Signal::TERM).unwrap();
        process.grace = Duration::from_millis(500);
        // Until it has a child and has set its traps.
        let output = process.output.clone();
        while !std::fs::read_to_string(&output).unwrap().contains("ready") {
            process.check_alive().unwrap();
            std::thread::sleep(LOOK);
        }
        (process, directory)
    }

    #[test]
    fn a_dropped_process_is_gone_with_its_children() {
        for script in [
            "sleep 60 & echo ready; wait",
            // Nobody of these listens, so they are killed.
            "trap '' TERM; sleep 60 & echo ready; wait; wait",
        ] {
            let (process, _directory) = started(script);
            let group = process.group;
            assert!(test_kill_process_group(group).is_ok());
            drop(process);
            assert!(test_kill_process_group(group).is_err(), "{script}");
        }
    }

    #[test]
    fn addresses_differ() {
        let all: [SocketAddr; 9] = free_addresses().unwrap();
        let ports: std::collections::BTreeSet<u16> = all.iter().map(SocketAddr::port).collect();
        assert_eq!(ports.len(), 9);
    }
}
