//! How each contestant is started.
//!
//! Every contestant gets an empty directory of its own and every durable one is told to fsync
//! before it replies. A contestant of three nodes replies when two of them have synced. Everything
//! here can be dropped at any await: what was started until then ends.

mod etcd;
mod phalanx;
mod postgres;

use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use rustix::process::Signal;

use super::contestant::Contestant;
use super::process::{Process, free_addresses};
use super::running::Running;
use super::{Args, CompareError};

pub(super) use etcd::PROGRAM as ETCD;
pub(super) use postgres::{program as postgres_program, streaming_standbys};

/// How long a contestant may take until it is ready.
pub(super) const START_WITHIN: Duration = Duration::from_secs(60);

impl Contestant {
    /// Starts it on an empty directory.
    pub(super) async fn start(self, args: &Args) -> Result<Running, CompareError> {
        let directory = tempfile::Builder::new()
            .prefix("phalanx-compare-")
            .permissions(std::fs::Permissions::from_mode(0o755))
            .tempdir_in(&args.scratch_dir)
            .map_err(CompareError::system("make a directory"))?;
        let path = directory.path().to_owned();
        let mut running = Running {
            contestant: self,
            addresses: Vec::new(),
            primary: None,
            processes: Vec::new(),
            _directory: directory,
        };
        match self {
            Self::Phalanx3 => phalanx::start_three(args, &path, &mut running)?,
            Self::Etcd3 => etcd::start_three(&path, &mut running)?,
            Self::Postgres => postgres::start(&path, 0, &mut running).await?,
            Self::Postgres3 => postgres::start(&path, 2, &mut running).await?,
            Self::Phalanx
            | Self::PhalanxAccount
            | Self::RocksdbFloor
            | Self::Wal
            | Self::Redis
            | Self::Map => {
                let [address] = free_addresses()?;
                running.addresses.push(address);
                let process = match self {
                    Self::Phalanx | Self::PhalanxAccount => {
                        phalanx::start_one(args, &path, address)?
                    }
                    Self::Redis => start_redis(&path, address)?,
                    _ => start_peer(self, &path, address)?,
                };
                running.processes.push(process);
            }
        }
        Ok(running)
    }
}

fn start_peer(
    contestant: Contestant,
    path: &Path,
    address: SocketAddr,
) -> Result<Process, CompareError> {
    let mut command = this_program()?;
    command.args([contestant.name(), "--listen", &address.to_string()]);
    if contestant != Contestant::Map {
        command.arg("--data-dir").arg(path.join("data"));
    }
    Process::start(contestant.name(), &mut command, path, Signal::TERM)
}

fn start_redis(path: &Path, address: SocketAddr) -> Result<Process, CompareError> {
    let mut command = Command::new("redis-server");
    command
        .args(["--bind", "127.0.0.1", "--port", &address.port().to_string()])
        .args([
            "--appendonly",
            "yes",
            "--appendfsync",
            "always",
            "--save",
            "",
        ])
        .args(["--no-appendfsync-on-rewrite", "no", "--daemonize", "no"])
        .arg("--dir")
        .arg(path);
    Process::start("redis", &mut command, path, Signal::TERM)
}

fn this_program() -> Result<Command, CompareError> {
    std::env::current_exe()
        .map(Command::new)
        .map_err(CompareError::system("find this program"))
}
