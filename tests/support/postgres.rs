//! A PostgreSQL server for tests, on a directory and a port of its own.
//!
//! A shell stands between the test and the server. It waits for the end of its input, which comes when
//! the server is dropped and when the test process ends, in whatever way; then it stops the server and
//! removes the directory. Refuses to run as root: the server runs as the user of the package then.
//! Knows nothing of the product, so that unit tests use it as well.

use std::fmt::Write as _;
use std::fs;
use std::io::Write as _;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, OnceLock};
use std::time::{Duration, Instant};

/// Where Debian keeps the programs, one directory for each version.
const PROGRAMS: &str = "/usr/lib/postgresql";

/// The password of the user `postgres`. Nothing may ever show it.
pub(crate) const PASSWORD: &str = "pg-s3cret";

/// Starts the server, waits until its input ends, stops it, removes its directory.
const SCRIPT: &str = "set -u
\"$BIN/postgres\" -D \"$HOME_DIR/data\" -k \"$HOME_DIR\" -p \"$PORT\" -c listen_addresses=127.0.0.1 \
    -c fsync=off -c max_connections=80 -c shared_buffers=64MB \
    -c log_min_messages=error </dev/null >>\"$HOME_DIR/log\" 2>&1 &
server=$!
keep=no
while read -r word; do keep=$word; done
kill -INT $server 2>/dev/null
wait $server
[ $keep = keep ] || rm -rf \"$HOME_DIR\"";

/// A running server.
#[derive(Debug)]
pub(crate) struct Postgres {
    home: PathBuf,
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
        let bin = programs().ok_or("PostgreSQL is not installed (Debian: postgresql)")?;
        let home = home()?;
        let free = TcpListener::bind("127.0.0.1:0").map_err(|error| error.to_string())?;
        let port = free.local_addr().map_err(|error| error.to_string())?.port();
        drop(free);
        let server = Self {
            home,
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
            .arg(self.home.join("data"))
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
        if done.status.success() {
            return Ok(());
        }
        Err(format!("initdb: {}", String::from_utf8_lossy(&done.stderr)))
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
                .env("HOME_DIR", &self.home)
                .env("PORT", self.port.to_string())
                .current_dir(&self.home)
                .stdin(Stdio::piped())
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .spawn();
            *slot = Some(child.expect("a shell can be started"));
        }
        drop(slot);
        let give_up = Instant::now() + Duration::from_secs(30);
        while self.try_sql("postgres", "SELECT 1").is_err() {
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
            let path = self.home.join("data").join(name);
            fs::write(&path, text).expect("the file can be written");
            let closed = fs::Permissions::from_mode(0o600);
            fs::set_permissions(&path, closed).expect("it can be closed");
            if is_root() {
                let given = Command::new("chown").arg("postgres:").arg(&path).status();
                assert!(given.expect("chown runs").success());
            }
        }
        let settings = self.home.join("data/postgresql.conf");
        let mut settings = fs::File::options()
            .append(true)
            .open(settings)
            .expect("it is there");
        settings
            .write_all(b"\nssl = on\n")
            .expect("it can be written");
        self.up();
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
        format!(
            "postgres://postgres:{PASSWORD}@127.0.0.1:{}/{database}",
            self.port
        )
    }

    /// Runs a statement through `psql`; gives what it prints, rows by lines.
    pub(crate) fn sql(&self, database: &str, text: &str) -> String {
        match self.try_sql(database, text) {
            Ok(out) => out,
            Err(error) => panic!("{text}: {error}"),
        }
    }

    fn try_sql(&self, database: &str, text: &str) -> Result<String, String> {
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
        .env("PGCONNECT_TIMEOUT", "2");
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
        "phalanx-pg-{}-{}",
        std::process::id(),
        now.subsec_nanos()
    );
    let home = std::env::temp_dir().join(name);
    fs::create_dir(&home).map_err(|error| format!("{}: {error}", home.display()))?;
    let open = fs::Permissions::from_mode(0o700);
    fs::set_permissions(&home, open).map_err(|error| error.to_string())?;
    if is_root() {
        let done = Command::new("chown").arg("postgres:").arg(&home).output();
        let given = done.map_err(|error| error.to_string())?;
        if !given.status.success() {
            drop(fs::remove_dir(&home));
            return Err("there is no user `postgres` to run PostgreSQL as".to_owned());
        }
    }
    Ok(home)
}
