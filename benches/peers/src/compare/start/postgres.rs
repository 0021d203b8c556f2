//! PostgreSQL from Debian's package, alone or with two synchronous standbys, and the axum peer in
//! front of it.
//!
//! The standbys are real ones: copies made by `pg_basebackup` that stream from the primary over
//! TCP. With them, a commit returns when one of the two has synced it, as a majority of three.

use std::net::SocketAddr;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use rustix::process::Signal;

use super::{START_WITHIN, this_program};
use crate::compare::CompareError;
use crate::compare::process::{Process, find_program, free_addresses};
use crate::compare::running::Running;

/// Connections of the peer's pool: one for each client, so that none waits for another's commit.
const POOL: &str = "64";

/// The same for the primary and the standbys; all of them sync before they answer.
const SETTINGS: [&str; 8] = [
    "fsync=on",
    "synchronous_commit=on",
    "full_page_writes=on",
    "hot_standby=on",
    "max_connections=120",
    "shared_buffers=512MB",
    "max_wal_size=4GB",
    "wal_keep_size=4GB",
];

/// Where the files are and as whom PostgreSQL runs.
struct Place<'a> {
    /// The contestant's directory.
    path: &'a Path,
    /// Below it, the directory of databases and sockets, which belongs to the user.
    home: PathBuf,
    /// PostgreSQL refuses to run as root, so root runs it as the packages' user.
    account: Option<(u32, u32)>,
    /// Where the primary listens for standbys; its port is part of its socket's name.
    primary: SocketAddr,
}

/// Starts the database, its standbys and the peer.
pub(super) async fn start(
    path: &Path,
    standbys: usize,
    running: &mut Running,
) -> Result<(), CompareError> {
    let [address, primary] = free_addresses()?;
    let place = Place {
        path,
        home: path.join("pg"),
        account: account(path)?,
        primary,
    };
    let names: Vec<String> = (1..=standbys).map(|n| format!("standby{n}")).collect();
    initialize(&place).await?;
    let process = start_primary(&place, &names)?;
    running.processes.push(process);
    wait_until_open(running, &place, "primary").await?;
    for name in &names {
        copy(&place, name).await?;
        let process = start_standby(&place, name)?;
        running.processes.push(process);
        wait_until_open(running, &place, name).await?;
    }
    if standbys > 0 {
        running.primary = Some((place.socket("primary"), primary.port()));
        wait_for_standbys(running, standbys).await?;
    }
    let process = start_peer(&place, address)?;
    running.processes.push(process);
    running.addresses.push(address);
    Ok(())
}

impl Place<'_> {
    fn program(&self, name: &str) -> Command {
        let mut command = Command::new(program(name).unwrap_or_else(|| name.into()));
        if let Some((uid, gid)) = self.account {
            command.uid(uid).gid(gid);
        }
        command.current_dir(&self.home);
        command
    }

    fn data(&self, name: &str) -> PathBuf {
        self.home.join(name)
    }

    /// The directory of a server's socket. All of them use the primary's port for its name.
    fn socket(&self, name: &str) -> PathBuf {
        self.home.join(format!("{name}-socket"))
    }

    /// A server on the data of this name, with a socket directory of its own.
    fn server(&self, name: &str) -> Result<Command, CompareError> {
        let socket = self.socket(name);
        make_directory(&socket, self.account)?;
        let mut command = self.program("postgres");
        command
            .arg("-D")
            .arg(self.data(name))
            .arg("-k")
            .arg(socket)
            .args(["-p", &self.primary.port().to_string()]);
        for setting in SETTINGS {
            command.args(["-c", setting]);
        }
        Ok(command)
    }
}

async fn initialize(place: &Place<'_>) -> Result<(), CompareError> {
    let mut command = place.program("initdb");
    command.arg("-D").arg(place.data("primary")).args([
        "-A",
        "trust",
        "-U",
        "postgres",
        "-E",
        "UTF8",
        "--no-sync",
    ]);
    let process = Process::start("initdb", &mut command, place.path, Signal::INT)?;
    process.done().await
}

fn start_primary(place: &Place<'_>, standbys: &[String]) -> Result<Process, CompareError> {
    let mut command = place.server("primary")?;
    if standbys.is_empty() {
        command.args(["-c", "listen_addresses="]);
    } else {
        let names = format!("synchronous_standby_names=ANY 1 ({})", standbys.join(", "));
        command
            .args(["-c", "listen_addresses=127.0.0.1"])
            .args(["-c", &names]);
    }
    // SIGINT is PostgreSQL's fast shutdown: it does not wait for clients.
    Process::start("postgres", &mut command, place.path, Signal::INT)
}

/// Copies the primary's data for a standby.
async fn copy(place: &Place<'_>, name: &str) -> Result<(), CompareError> {
    let mut command = place.program("pg_basebackup");
    command
        .arg("-d")
        .arg(replication(place, name))
        .arg("-D")
        .arg(place.data(name))
        .args(["--checkpoint=fast", "--wal-method=stream", "--no-sync"]);
    let label = format!("basebackup-{name}");
    let process = Process::start(&label, &mut command, place.path, Signal::INT)?;
    process.done().await?;
    // A server with this file in its data follows another one.
    let signal = place.data(name).join("standby.signal");
    std::fs::write(signal, "").map_err(CompareError::system("mark a standby"))
}

fn start_standby(place: &Place<'_>, name: &str) -> Result<Process, CompareError> {
    let mut command = place.server(name)?;
    let source = format!("primary_conninfo={}", replication(place, name));
    command
        .args(["-c", "listen_addresses="])
        .args(["-c", &source]);
    Process::start(name, &mut command, place.path, Signal::INT)
}

/// How a standby connects; the primary knows it by its name.
fn replication(place: &Place<'_>, name: &str) -> String {
    let (host, port) = (place.primary.ip(), place.primary.port());
    format!("host={host} port={port} user=postgres application_name={name} sslmode=disable")
}

fn start_peer(place: &Place<'_>, address: SocketAddr) -> Result<Process, CompareError> {
    let mut command = this_program()?;
    command
        .args(["postgres", "--listen", &address.to_string()])
        .args(["--pool", POOL, "--database"])
        .arg(database(&place.socket("primary"), place.primary.port()));
    Process::start("postgres-peer", &mut command, place.path, Signal::TERM)
}

fn database(socket: &Path, port: u16) -> String {
    let host = socket.display();
    format!("host={host} port={port} user=postgres dbname=postgres")
}

/// Waits until a server takes questions: its socket answers sooner than that.
async fn wait_until_open(
    running: &mut Running,
    place: &Place<'_>,
    name: &str,
) -> Result<(), CompareError> {
    let (socket, port) = (place.socket(name), place.primary.port());
    wait(running, "it takes no connections", async || {
        streaming_standbys(&socket, port).await.is_ok()
    })
    .await
}

async fn wait_for_standbys(running: &mut Running, wanted: usize) -> Result<(), CompareError> {
    let Some((socket, port)) = running.primary.clone() else {
        return Ok(());
    };
    wait(running, "its standbys do not follow", async || {
        streaming_standbys(&socket, port).await == Ok(wanted)
    })
    .await
}

async fn wait(
    running: &mut Running,
    otherwise: &str,
    check: impl AsyncFn() -> bool,
) -> Result<(), CompareError> {
    let give_up = Instant::now() + START_WITHIN;
    while !check().await {
        for process in &mut running.processes {
            process.check_alive()?;
            if Instant::now() >= give_up {
                return Err(process.error(otherwise.to_owned()));
            }
        }
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
    Ok(())
}

/// How many standbys stream and count for commits, as this server sees it.
pub(in crate::compare) async fn streaming_standbys(
    socket: &Path,
    port: u16,
) -> Result<usize, String> {
    let count = async {
        let database = database(socket, port);
        let (client, connection) =
            tokio_postgres::connect(&database, tokio_postgres::NoTls).await?;
        let connection = tokio::spawn(connection);
        let text = "SELECT count(*) FROM pg_stat_replication \
                    WHERE state = 'streaming' AND sync_state = 'quorum'";
        let row = client.query_one(text, &[]).await?;
        connection.abort();
        row.try_get::<_, i64>(0)
    };
    let count: Result<i64, tokio_postgres::Error> = count.await;
    let count = count.map_err(|error| format!("PostgreSQL does not answer: {error}"))?;
    Ok(usize::try_from(count).unwrap_or(0))
}

/// Makes the directory that belongs to PostgreSQL, and gives its user if this is root.
fn account(path: &Path) -> Result<Option<(u32, u32)>, CompareError> {
    let id = |flag: &str| {
        let output = Command::new("id").args([flag, "postgres"]).output();
        let output = output.map_err(CompareError::system("run id"))?;
        let text = String::from_utf8_lossy(&output.stdout);
        text.trim().parse::<u32>().map_err(|_| {
            let reason = "there is no user `postgres` to run PostgreSQL as";
            CompareError::Measure(reason.to_owned())
        })
    };
    let account = if rustix::process::geteuid().is_root() {
        Some((id("-u")?, id("-g")?))
    } else {
        None
    };
    make_directory(&path.join("pg"), account)?;
    Ok(account)
}

fn make_directory(directory: &Path, account: Option<(u32, u32)>) -> Result<(), CompareError> {
    std::fs::create_dir(directory).map_err(CompareError::system("make a directory"))?;
    if let Some((uid, gid)) = account {
        let action = "hand a directory to the user postgres";
        std::os::unix::fs::chown(directory, Some(uid), Some(gid))
            .map_err(CompareError::system(action))?;
    }
    Ok(())
}

/// Debian keeps PostgreSQL's programs out of `PATH`, one directory per version.
pub(in crate::compare) fn program(name: &str) -> Option<PathBuf> {
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
