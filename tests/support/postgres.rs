//! A PostgreSQL server for tests, on a directory and a port of its own.
//!
//! A shell stands between the test and the server. It waits for the end of its input, which comes when
//! the server is dropped and when the test process ends, in whatever way; then it stops the server and
//! removes the directory. It has a process group of its own, so that whoever ends the group of a test
//! run does not end it. What a killed run leaves all the same, because it was preparing a server or had
//! stopped it for a while, the next one removes. Refuses to run as root: the server runs as the user of
//! the package then. Knows nothing of the product, so that unit tests use it as well.

use std::fmt::Write as _;
use std::fs;
use std::io::Write as _;
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, TcpStream};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, OnceLock};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use super::ports;

/// Where Debian keeps the programs, one directory for each version.
const PROGRAMS: &str = "/usr/lib/postgresql";

/// The password of the user `postgres`. Nothing may ever show it.
pub(crate) const PASSWORD: &str = "pg-s3cret";

/// Starts the server, waits until its input ends, stops it, removes its directory. A server that was
/// made to stand still goes on first, and one that does not stop within ten seconds is killed.
const SCRIPT: &str = "set -u
echo $$ >\"$HOME_DIR/shell\"
\"$BIN/postgres\" -D \"$DATA\" -k \"$HOME_DIR\" -p \"$PORT\" -c listen_addresses=\"$LISTEN\" \
    -c fsync=off -c max_connections=80 -c shared_buffers=64MB \
    -c log_min_messages=error </dev/null >>\"$HOME_DIR/log\" 2>&1 &
server=$!
trap '' HUP INT TERM
keep=no
while read -r word; do keep=$word; done
kill -CONT $server $(cat /proc/$server/task/*/children 2>/dev/null) 2>/dev/null
kill -INT $server 2>/dev/null
n=0
while [ $n -lt 200 ] && [ -e /proc/$server ] && ! grep -q ') Z' /proc/$server/stat; do
    n=$((n + 1))
    sleep 0.05
done
kill -KILL $server 2>/dev/null
wait $server
[ $keep = keep ] || rm -rf \"$HOME_DIR\"";

/// How the directories of servers are called, before the number of the process that made them.
const PREFIX: &str = "phalanx-pg-";

/// A running server.
#[derive(Debug)]
pub(crate) struct Postgres {
    home: PathBuf,
    data: PathBuf,
    /// Where it listens, beside the same port of loopback.
    address: Option<SocketAddrV4>,
    bin: PathBuf,
    port: u16,
    child: Mutex<Option<Child>>,
    databases: AtomicU64,
}

static SHARED: OnceLock<Result<Postgres, String>> = OnceLock::new();

impl Postgres {
    /// The server that all tests of this process share, each with a database of its own; an error says
    /// why there is none here.
    pub(crate) fn shared() -> Result<&'static Self, String> {
        SHARED
            .get_or_init(Self::start)
            .as_ref()
            .map_err(Clone::clone)
    }

    /// Starts a server of one's own.
    pub(crate) fn start() -> Result<Self, String> {
        Self::start_at(None, None)
    }

    /// Starts one with its data in an empty directory on another disk, or one that listens at a further
    /// address.
    pub(crate) fn start_at(
        data: Option<&Path>,
        address: Option<SocketAddrV4>,
    ) -> Result<Self, String> {
        let bin = programs().ok_or("PostgreSQL is not installed (Debian: postgresql)")?;
        sweep();
        let home = home()?;
        if let Some(data) = data {
            give_away(data)?;
        }
        let port = match address {
            Some(address) => address.port(),
            None => ports::free_address().port(),
        };
        let server = Self {
            data: data.map_or_else(|| home.join("data"), Path::to_owned),
            home,
            address,
            bin,
            port,
            child: Mutex::new(None),
            databases: AtomicU64::new(0),
        };
        server.initialize()?;
        server.up();
        Ok(server)
    }

    fn initialize(&self) -> Result<(), String> {
        let password = self.home.join("password");
        fs::write(&password, PASSWORD).map_err(|error| error.to_string())?;
        let mut initdb = self.program("initdb");
        initdb
            .arg("-D")
            .arg(&self.data)
            .args([
                "-A",
                "scram-sha-256",
                "-U",
                "postgres",
                "-E",
                "UTF8",
                "--no-sync",
            ])
            .args(["--locale=C.UTF-8", "--pwfile"])
            .arg(password);
        let done = initdb.output().map_err(|error| error.to_string())?;
        if !done.status.success() {
            return Err(format!("initdb: {}", String::from_utf8_lossy(&done.stderr)));
        }
        let allowed = self.data.join("pg_hba.conf");
        // Networks of tests.
        let line = b"host all all 198.18.0.0/15 scram-sha-256\n";
        let file = fs::File::options().append(true).open(allowed);
        let written = file.and_then(|mut file| file.write_all(line));
        written.map_err(|error| error.to_string())
    }

    /// A program of the package, as its user if this is root.
    fn program(&self, name: &str) -> Command {
        let mut command = if is_root() {
            let mut command = Command::new("setpriv");
            command
                .args(["--reuid=postgres", "--regid=postgres", "--init-groups"])
                .arg(self.bin.join(name));
            command
        } else {
            Command::new(self.bin.join(name))
        };
        command.current_dir(&self.home).env("LC_ALL", "C.UTF-8");
        command
    }

    /// Starts the server, if it is down, and waits until it answers.
    pub(crate) fn up(&self) {
        let mut slot = self.child.lock().expect("no test panics with it");
        if slot.is_none() {
            let mut command = if is_root() {
                let mut command = Command::new("setpriv");
                command.args([
                    "--reuid=postgres",
                    "--regid=postgres",
                    "--init-groups",
                    "sh",
                ]);
                command
            } else {
                Command::new("sh")
            };
            let child = command
                .args(["-c", SCRIPT])
                .env("BIN", &self.bin)
                .env("DATA", &self.data)
                .env("LISTEN", self.listens())
                .env("HOME_DIR", &self.home)
                .env("PORT", self.port.to_string())
                .current_dir(&self.home)
                .process_group(0)
                .stdin(Stdio::piped())
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .spawn();
            *slot = Some(child.expect("a shell can be started"));
        }
        drop(slot);
        let give_up = Instant::now() + Duration::from_secs(120);
        while self.try_sql("postgres", "SELECT 1", 2).is_err() {
            assert!(
                Instant::now() < give_up,
                "PostgreSQL does not answer: {}",
                fs::read_to_string(self.home.join("log")).unwrap_or_default()
            );
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// Stops the server; its data stays for the next [`Postgres::up`].
    pub(crate) fn down(&self) {
        let child = self.child.lock().expect("no test panics with it").take();
        if let Some(mut child) = child {
            let mut input = child.stdin.take().expect("it has one");
            input.write_all(b"keep\n").expect("the shell reads");
            drop(input);
            child.wait().expect("the shell ends");
        }
        let address = SocketAddr::from(([127, 0, 0, 1], self.port));
        assert!(TcpStream::connect(address).is_err(), "it still listens");
    }

    /// Has the server speak TLS with this certificate and key, in PEM.
    pub(crate) fn secure(&self, certificate: &str, key: &str) {
        self.down();
        for (name, text) in [("server.crt", certificate), ("server.key", key)] {
            let path = self.data.join(name);
            fs::write(&path, text).expect("the file can be written");
            let closed = fs::Permissions::from_mode(0o600);
            fs::set_permissions(&path, closed).expect("it can be closed");
            if is_root() {
                let given = Command::new("chown").arg("postgres:").arg(&path).status();
                assert!(given.expect("chown runs").success());
            }
        }
        let settings = self.data.join("postgresql.conf");
        let mut settings = fs::File::options()
            .append(true)
            .open(settings)
            .expect("it is there");
        settings
            .write_all(b"\nssl = on\n")
            .expect("it can be written");
        self.up();
    }

    fn listens(&self) -> String {
        match self.address {
            Some(address) => format!("127.0.0.1,{}", address.ip()),
            None => "127.0.0.1".to_owned(),
        }
    }

    /// Its directory, which is gone once it is dropped.
    pub(crate) fn home(&self) -> &Path {
        &self.home
    }

    /// Whether it answers.
    pub(crate) fn answers(&self) -> bool {
        self.try_sql("postgres", "SELECT 1", 2).is_ok()
    }

    /// Makes the whole server stand still until the value is dropped.
    pub(crate) fn freeze(&self) -> Frozen {
        let server = postmaster(&self.data).expect("it runs");
        let mut frozen = Frozen::of(&[server]);
        // No more come once the first one stands still, which may take a moment.
        let give_up = Instant::now() + Duration::from_secs(30);
        while state(server) != Some('T') {
            assert!(Instant::now() < give_up, "PostgreSQL does not stand still");
            std::thread::sleep(Duration::from_millis(1));
        }
        frozen.add(&children(server));
        frozen
    }

    /// Makes the process that serves one session stand still until the value is dropped.
    pub(crate) fn freeze_session(process: i32) -> Frozen {
        Frozen::of(&[process])
    }

    /// Makes a database; gives its name.
    pub(crate) fn database(&self) -> String {
        let number = self.databases.fetch_add(1, Ordering::Relaxed);
        let name = format!("test_{number}");
        self.sql("postgres", &format!("CREATE DATABASE {name}"));
        name
    }

    /// The URL of a database.
    pub(crate) fn url(&self, database: &str) -> String {
        let own = SocketAddrV4::new(Ipv4Addr::LOCALHOST, self.port);
        url(self.address.unwrap_or(own), database)
    }

    /// Runs a statement through `psql`; gives what it prints, rows by lines.
    pub(crate) fn sql(&self, database: &str, text: &str) -> String {
        match self.try_sql(database, text, 30) {
            Ok(out) => out,
            Err(error) => panic!("{text}: {error}"),
        }
    }

    /// `seconds` are for the connection alone.
    fn try_sql(&self, database: &str, text: &str, seconds: u32) -> Result<String, String> {
        let mut psql = self.program("psql");
        psql.args([
            "-h",
            "127.0.0.1",
            "-U",
            "postgres",
            "-qAtX",
            "-v",
            "ON_ERROR_STOP=1",
        ])
        .args(["-p", &self.port.to_string(), "-d", database, "-c", text])
        .env("PGPASSWORD", PASSWORD)
        .env("PGCONNECT_TIMEOUT", seconds.to_string());
        let done = psql.output().map_err(|error| error.to_string())?;
        if done.status.success() {
            return Ok(String::from_utf8_lossy(&done.stdout).trim().to_owned());
        }
        Err(String::from_utf8_lossy(&done.stderr).into_owned())
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        if let Ok(mut slot) = self.child.lock()
            && let Some(mut child) = slot.take()
        {
            drop(child.stdin.take());
            drop(child.wait());
        }
        // Gone already, unless it was down.
        drop(fs::remove_dir_all(&self.home));
    }
}

/// The URL of a database at an address.
pub(crate) fn url(address: SocketAddrV4, database: &str) -> String {
    format!("postgres://postgres:{PASSWORD}@{address}/{database}")
}

/// Processes that stand still. Dropping it lets them go on.
#[derive(Debug)]
pub(crate) struct Frozen(Vec<Pid>);

impl Frozen {
    fn of(processes: &[i32]) -> Self {
        let mut frozen = Self(Vec::new());
        frozen.add(processes);
        frozen
    }

    fn add(&mut self, processes: &[i32]) {
        for process in processes {
            if let Some(process) = Pid::from_raw(*process) {
                // One that has ended meanwhile does nothing either.
                let _ended = kill_process(process, Signal::STOP);
                self.0.push(process);
            }
        }
    }
}

impl Drop for Frozen {
    fn drop(&mut self) {
        for process in &self.0 {
            let _ended = kill_process(*process, Signal::CONT);
        }
    }
}

/// The first process of the server of a data directory.
fn postmaster(data: &Path) -> Option<i32> {
    let file = fs::read_to_string(data.join("postmaster.pid")).ok()?;
    file.lines().next()?.trim().parse().ok()
}

/// What the kernel says of a process: `pid (name) state parent ...`; from the state on.
fn stat(process: i32) -> String {
    let stat = fs::read_to_string(format!("/proc/{process}/stat")).unwrap_or_default();
    let rest = stat.rsplit(')').next().unwrap_or_default();
    rest.trim_start().to_owned()
}

/// `T` of one that stands still.
fn state(process: i32) -> Option<char> {
    stat(process).chars().next()
}

/// The processes that a process has started and that have not ended.
fn children(of: i32) -> Vec<i32> {
    let all = fs::read_dir("/proc").into_iter().flatten().flatten();
    let number = |entry: fs::DirEntry| entry.file_name().to_str()?.parse::<i32>().ok();
    let is_child = |process: &i32| {
        let stat = stat(*process);
        stat.split_whitespace().nth(1) == Some(&*of.to_string())
    };
    all.filter_map(number).filter(is_child).collect()
}

fn is_alive(process: &str) -> bool {
    !process.is_empty() && Path::new("/proc").join(process).exists()
}

/// Removes what runs have left that were killed while no shell stood by.
fn sweep() {
    let all = fs::read_dir(std::env::temp_dir()).into_iter().flatten();
    for home in all.flatten().map(|entry| entry.path()) {
        let name = home.file_name().and_then(|name| name.to_str());
        let Some(rest) = name.and_then(|name| name.strip_prefix(PREFIX)) else {
            continue;
        };
        let maker = rest.split('-').next().unwrap_or_default();
        let shell = fs::read_to_string(home.join("shell")).unwrap_or_default();
        if is_alive(maker) || is_alive(shell.trim()) {
            continue;
        }
        let server = postmaster(&home.join("data"));
        let line = server.map(|server| fs::read(format!("/proc/{server}/cmdline")));
        let line = line.and_then(Result::ok).unwrap_or_default();
        let is_ours = String::from_utf8_lossy(&line).contains(&*home.to_string_lossy());
        if let Some(server) = server.filter(|_| is_ours).and_then(Pid::from_raw) {
            let _ended = kill_process(server, Signal::KILL);
        }
        drop(fs::remove_dir_all(&home));
    }
}

/// Gives a directory to the user that the server runs as.
fn give_away(directory: &Path) -> Result<(), String> {
    let closed = fs::Permissions::from_mode(0o700);
    fs::set_permissions(directory, closed).map_err(|error| error.to_string())?;
    if is_root() {
        let done = Command::new("chown")
            .arg("postgres:")
            .arg(directory)
            .output();
        let given = done.map_err(|error| error.to_string())?;
        if !given.status.success() {
            return Err("there is no user `postgres` to run PostgreSQL as".to_owned());
        }
    }
    Ok(())
}

fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// The programs of the newest version that is installed.
fn programs() -> Option<PathBuf> {
    let versions = fs::read_dir(PROGRAMS).ok()?;
    let mut found: Vec<PathBuf> = versions
        .flatten()
        .map(|version| version.path().join("bin"))
        .filter(|bin| bin.join("postgres").exists() && bin.join("psql").exists())
        .collect();
    found.sort_unstable();
    found.pop()
}

/// A directory for the server, short enough for the name of a socket, that belongs to its user.
fn home() -> Result<PathBuf, String> {
    let mut name = String::new();
    let now = std::time::SystemTime::UNIX_EPOCH
        .elapsed()
        .unwrap_or_default();
    let _written = write!(
        name,
        "{PREFIX}{}-{}",
        std::process::id(),
        now.subsec_nanos()
    );
    let home = std::env::temp_dir().join(name);
    fs::create_dir(&home).map_err(|error| format!("{}: {error}", home.display()))?;
    if let Err(error) = give_away(&home) {
        drop(fs::remove_dir(&home));
        return Err(error);
    }
    Ok(home)
}
