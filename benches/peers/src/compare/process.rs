//! A child process that never outlives the comparison, and a free port for it.
//!
//! Invariant: dropping a child ends exactly that process, by its id: politely first, by force when
//! it does not listen.

use std::fs::File;
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use super::CompareError;

/// How long a process may take to end by itself.
const GRACE: Duration = Duration::from_secs(15);

/// A running process.
#[derive(Debug)]
pub(super) struct Process {
    child: Child,
    name: String,
    output: PathBuf,
    stop_signal: Signal,
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
            .stdin(Stdio::null())
            .stdout(file)
            .stderr(again)
            .spawn()
            .map_err(CompareError::system(format!("start {name}")))?;
        Ok(Self {
            child,
            name: name.to_owned(),
            output,
            stop_signal,
        })
    }

    /// An error when the process has ended already.
    pub(super) fn check_alive(&mut self) -> Result<(), CompareError> {
        match self.child.try_wait() {
            Ok(None) => Ok(()),
            Ok(Some(status)) => Err(self.start_error(format!("it ended with {status}"))),
            Err(error) => Err(self.start_error(error.to_string())),
        }
    }

    /// An error that shows what the process wrote last.
    pub(super) fn start_error(&self, reason: String) -> CompareError {
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
}

impl Drop for Process {
    fn drop(&mut self) {
        let Some(pid) = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw) else {
            return;
        };
        if matches!(self.child.try_wait(), Ok(Some(_))) {
            return;
        }
        if let Err(error) = kill_process(pid, self.stop_signal) {
            eprintln!("compare: failed to signal {}: {error}", self.name);
        }
        let give_up = Instant::now() + GRACE;
        while matches!(self.child.try_wait(), Ok(None)) {
            if Instant::now() >= give_up {
                eprintln!(
                    "compare: {} did not stop in {GRACE:?} and is killed",
                    self.name
                );
                self.child.kill().ok();
                self.child.wait().ok();
                return;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

/// A loopback address that nobody listens on.
pub(super) fn free_address() -> Result<SocketAddr, CompareError> {
    TcpListener::bind("127.0.0.1:0")
        .and_then(|listener| listener.local_addr())
        .map_err(CompareError::system("find a free port"))
}

/// Where a program is, looking through `PATH` and the places given.
pub(super) fn find_program(name: &str, places: &[PathBuf]) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let candidates = places.iter().cloned().chain(std::env::split_paths(&path));
    candidates
        .map(|directory| directory.join(name))
        .find(|file| file.is_file())
}
