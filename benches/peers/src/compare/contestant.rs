//! Who is compared, and how each is started.
//!
//! Every contestant gets an empty directory of its own and every durable one is told to fsync
//! before it replies. Dropping what `start` returns stops the processes and removes the directory.

use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::process::{Process, find_program, free_address};
use super::{Args, CompareError};

/// How long a server may take until it answers.
const START_WITHIN: Duration = Duration::from_secs(60);
const INSTALL: &str = "install it with `apt-get install postgresql redis-server`";

/// One of the compared systems.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum Contestant {
    Phalanx,
    RocksdbFloor,
    Wal,
    Postgres,
    Redis,
    Map,
}

/// A started contestant. Fields are dropped in this order: servers before their directory.
#[derive(Debug)]
pub(super) struct Running {
    pub(super) contestant: Contestant,
    pub(super) address: SocketAddr,
    processes: std::cell::RefCell<Vec<Process>>,
    _directory: TempDir,
}

impl Contestant {
    pub(super) const ALL: [Self; 6] = [
        Self::Phalanx,
        Self::RocksdbFloor,
        Self::Wal,
        Self::Postgres,
        Self::Redis,
        Self::Map,
    ];

    /// As in the table and in `--only`.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Phalanx => "phalanx",
            Self::RocksdbFloor => "rocksdb-floor",
            Self::Wal => "wal",
            Self::Postgres => "postgres",
            Self::Redis => "redis",
            Self::Map => "map",
        }
    }

    /// What it is, for the table.
    pub(super) fn description(self) -> &'static str {
        match self {
            Self::Phalanx => "this node, one voter",
            Self::RocksdbFloor => "axum + RocksDB, one writer, group commit, nothing else",
            Self::Wal => "axum + one log file, group commit",
            Self::Postgres => "axum + PostgreSQL, one transaction a command",
            Self::Redis => "Redis, appendfsync always, rule in Lua, driven without HTTP",
            Self::Map => "axum answering from a map, nothing stored",
        }
    }

    /// Why it cannot take part, if so.
    pub(super) fn missing(self, args: &Args) -> Option<String> {
        match self {
            Self::Phalanx | Self::RocksdbFloor | Self::Wal | Self::Map => {
                let here = args.phalanx.is_file();
                (!here).then(|| format!("{} is not a file", args.phalanx.display()))
            }
            Self::Postgres => {
                let missing = postgres_program("postgres").is_none();
                (missing || postgres_program("initdb").is_none())
                    .then(|| format!("PostgreSQL is not installed: {INSTALL}"))
            }
            Self::Redis => find_program("redis-server", &[])
                .is_none()
                .then(|| format!("Redis is not installed: {INSTALL}")),
        }
    }

    /// Starts it on an empty directory.
    pub(super) fn start(self, args: &Args) -> Result<Running, CompareError> {
        let directory = tempfile::Builder::new()
            .prefix("phalanx-compare-")
            .permissions(std::fs::Permissions::from_mode(0o755))
            .tempdir_in(&args.scratch_dir)
            .map_err(CompareError::system("make a directory"))?;
        let address = free_address()?;
        let path = directory.path();
        let processes = match self {
            Self::Phalanx => vec![start_phalanx(args, path, address)?],
            Self::Map | Self::Wal | Self::RocksdbFloor => {
                vec![start_peer(self, path, address)?]
            }
            // A peer is stopped before its database: the vector is dropped in order.
            Self::Postgres => {
                let server = start_postgres(path)?;
                vec![start_postgres_peer(path, address)?, server]
            }
            Self::Redis => vec![start_redis(path, address)?],
        };
        let processes = std::cell::RefCell::new(processes);
        Ok(Running {
            contestant: self,
            address,
            processes,
            _directory: directory,
        })
    }
}

impl Running {
    /// Waits until the server answers.
    pub(super) async fn ready(&self) -> Result<(), CompareError> {
        let give_up = Instant::now() + START_WITHIN;
        loop {
            for process in self.processes.borrow_mut().iter_mut() {
                process.check_alive()?;
            }
            if self.answers().await {
                return Ok(());
            }
            if Instant::now() >= give_up {
                let reason = format!("no answer within {START_WITHIN:?}");
                return Err(match self.processes.borrow().first() {
                    Some(process) => process.start_error(reason),
                    None => CompareError::Measure(reason),
                });
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// Redis must accept a connection; the others must answer something other than "not ready".
    async fn answers(&self) -> bool {
        let Ok(mut stream) = tokio::net::TcpStream::connect(self.address).await else {
            return false;
        };
        if self.contestant == Contestant::Redis {
            return true;
        }
        let request = b"GET /readyz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
        let mut reply = Vec::new();
        let exchange = async {
            stream.write_all(request).await?;
            stream.read_to_end(&mut reply).await
        };
        let done = tokio::time::timeout(Duration::from_secs(2), exchange).await;
        matches!(done, Ok(Ok(_)))
            && reply.starts_with(b"HTTP/1.1 ")
            && !reply.starts_with(b"HTTP/1.1 503")
    }
}

fn start_phalanx(args: &Args, path: &Path, address: SocketAddr) -> Result<Process, CompareError> {
    let mut command = Command::new(&args.phalanx);
    command
        .args([
            "serve".as_ref(),
            "--config".as_ref(),
            args.config.as_os_str(),
        ])
        .env("PHALANX__NODE__DATA_DIR", path.join("data"))
        .env("PHALANX__HTTP__LISTEN", address.to_string());
    Process::start("phalanx", &mut command, path, Signal::TERM)
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

fn start_postgres(path: &Path) -> Result<Process, CompareError> {
    let account = postgres_account(path)?;
    let as_account = |command: &mut Command| {
        if let Some((uid, gid)) = account {
            command.uid(uid).gid(gid);
        }
    };
    let data = path.join("pg").join("data");
    let mut initdb = Command::new(postgres_program("initdb").unwrap_or_else(|| "initdb".into()));
    initdb
        .arg("-D")
        .arg(&data)
        .args(["-A", "trust", "-U", "postgres", "-E", "UTF8", "--no-sync"]);
    as_account(&mut initdb);
    let output = initdb
        .current_dir(path)
        .output()
        .map_err(CompareError::system("run initdb"))?;
    if !output.status.success() {
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        let reason = format!("initdb ended with {}", output.status);
        return Err(CompareError::Start {
            name: "postgres".to_owned(),
            reason,
            output: text,
        });
    }
    let mut command =
        Command::new(postgres_program("postgres").unwrap_or_else(|| "postgres".into()));
    command
        .arg("-D")
        .arg(&data)
        .arg("-k")
        .arg(path.join("pg"))
        .current_dir(path);
    for setting in [
        "listen_addresses=",
        "fsync=on",
        "synchronous_commit=on",
        "full_page_writes=on",
        "max_connections=120",
        "shared_buffers=512MB",
        "max_wal_size=4GB",
    ] {
        command.args(["-c", setting]);
    }
    as_account(&mut command);
    // SIGINT is PostgreSQL's fast shutdown: it does not wait for clients.
    let process = Process::start("postgres", &mut command, path, Signal::INT)?;
    wait_for_socket(process, &path.join("pg").join(".s.PGSQL.5432"))
}

/// PostgreSQL refuses to run as root, so root hands the directory to the packages' user.
fn postgres_account(path: &Path) -> Result<Option<(u32, u32)>, CompareError> {
    let directory = path.join("pg");
    std::fs::create_dir(&directory).map_err(CompareError::system("make a directory"))?;
    if !rustix::process::geteuid().is_root() {
        return Ok(None);
    }
    let id = |flag: &str| {
        let output = Command::new("id").args([flag, "postgres"]).output();
        let output = output.map_err(CompareError::system("run id"))?;
        String::from_utf8_lossy(&output.stdout)
            .trim()
            .parse::<u32>()
            .map_err(|_| {
                CompareError::Measure("there is no user `postgres` to run PostgreSQL as".to_owned())
            })
    };
    let (uid, gid) = (id("-u")?, id("-g")?);
    std::os::unix::fs::chown(&directory, Some(uid), Some(gid)).map_err(CompareError::system(
        "hand a directory to the user postgres",
    ))?;
    Ok(Some((uid, gid)))
}

fn wait_for_socket(mut process: Process, socket: &Path) -> Result<Process, CompareError> {
    let give_up = Instant::now() + START_WITHIN;
    while std::os::unix::net::UnixStream::connect(socket).is_err() {
        process.check_alive()?;
        if Instant::now() >= give_up {
            return Err(process.start_error("its socket does not answer".to_owned()));
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    Ok(process)
}

fn start_postgres_peer(path: &Path, address: SocketAddr) -> Result<Process, CompareError> {
    let socket = path.join("pg");
    let database = format!("host={} user=postgres dbname=postgres", socket.display());
    let mut command = this_program()?;
    command.args([
        "postgres",
        "--listen",
        &address.to_string(),
        "--database",
        &database,
    ]);
    Process::start("postgres-peer", &mut command, path, Signal::TERM)
}

fn this_program() -> Result<Command, CompareError> {
    std::env::current_exe()
        .map(Command::new)
        .map_err(CompareError::system("find this program"))
}

/// Debian keeps PostgreSQL's programs out of `PATH`, one directory per version.
fn postgres_program(name: &str) -> Option<PathBuf> {
    let mut places: Vec<PathBuf> = std::fs::read_dir("/usr/lib/postgresql")
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| entry.path().join("bin"))
        .collect();
    places.sort_unstable();
    places.reverse();
    find_program(name, &places)
}
