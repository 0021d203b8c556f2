//! Three members of etcd on loopback, with its own defaults where speed is concerned.

use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;

use rustix::process::Signal;

use crate::compare::CompareError;
use crate::compare::process::{Process, free_addresses};
use crate::compare::running::Running;

/// As Debian's package `etcd-server` installs it.
pub(in crate::compare) const PROGRAM: &str = "etcd";

/// Room for any run: the default of 2 GiB ends writes when it is full.
const QUOTA_BYTES: &str = "8589934592";

/// Starts the members.
pub(super) fn start_three(path: &Path, running: &mut Running) -> Result<(), CompareError> {
    let clients: [SocketAddr; 3] = free_addresses()?;
    let peers: [SocketAddr; 3] = free_addresses()?;
    let members: Vec<String> = peers
        .iter()
        .enumerate()
        .map(|(at, peer)| format!("{}=http://{peer}", name(at)))
        .collect();
    let members = members.join(",");
    for (at, (client, peer)) in clients.iter().zip(&peers).enumerate() {
        let (client, peer) = (format!("http://{client}"), format!("http://{peer}"));
        let name = name(at);
        let mut command = Command::new(PROGRAM);
        command
            .args(["--name", &name])
            .arg("--data-dir")
            .arg(path.join(&name))
            .args(["--listen-client-urls", &client])
            .args(["--advertise-client-urls", &client])
            .args(["--listen-peer-urls", &peer])
            .args(["--initial-advertise-peer-urls", &peer])
            .args(["--initial-cluster", &members])
            .args(["--initial-cluster-state", "new"])
            .args(["--initial-cluster-token", "phalanx-compare"])
            .args(["--quota-backend-bytes", QUOTA_BYTES])
            .args(["--logger", "zap", "--log-level", "warn"]);
        let process = Process::start(&name, &mut command, path, Signal::TERM)?;
        running.processes.push(process);
    }
    running.addresses.extend(clients);
    Ok(())
}

fn name(at: usize) -> String {
    format!("etcd-{}", at + 1)
}
