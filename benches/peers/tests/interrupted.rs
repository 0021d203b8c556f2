//! The comparison is interrupted while its servers start and while they are measured: no process,
//! no port and no file may be left.
//!
//! The real program starts the real servers. A contestant that is not installed is skipped loudly,
//! as is everything when `phalanx` is not built beside it.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "a test fails by panicking, and says aloud what it skips"
)]

use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead as _, BufReader};
use std::net::{Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

/// For a start on a busy machine, and for the end of everything after a signal.
const SOON: Duration = Duration::from_secs(90);
const LOOK: Duration = Duration::from_millis(20);

/// When the signal comes.
#[derive(Debug, Clone, Copy)]
enum Moment {
    /// So many processes of the contestant run.
    Processes(usize),
    /// The first measurement is over and the second has begun.
    Measuring,
}

#[test]
fn nothing_is_left_of_three_nodes_of_phalanx() {
    interrupt("phalanx-3", Moment::Processes(2), Signal::INT);
    interrupt("phalanx-3", Moment::Measuring, Signal::TERM);
}

#[test]
fn nothing_is_left_of_postgresql_and_its_standbys() {
    // The first process is initdb with children of its own; later come copies and servers.
    interrupt("postgres-3", Moment::Processes(1), Signal::TERM);
    interrupt("postgres-3", Moment::Processes(7), Signal::INT);
    interrupt("postgres-3", Moment::Measuring, Signal::INT);
}

#[test]
fn nothing_is_left_of_etcd() {
    interrupt("etcd-3", Moment::Processes(3), Signal::TERM);
    interrupt("etcd-3", Moment::Measuring, Signal::HUP);
}

/// Starts a comparison, ends it at the moment by the signal, and looks for what is left.
fn interrupt(contestant: &str, moment: Moment, signal: Signal) {
    let program = Path::new(env!("CARGO_BIN_EXE_phalanx-peers"));
    let phalanx = program.with_file_name("phalanx");
    if !phalanx.is_file() {
        return skipped(contestant, "phalanx is not built");
    }
    let scratch = open_directory();
    let mut comparison = Command::new(program)
        .args(["compare", "--only", contestant])
        .args([
            "--rounds",
            "1000",
            "--seconds",
            "1",
            "--warmup-seconds",
            "0",
        ])
        .args(["--aggregates", "100", "--phalanx"])
        .arg(&phalanx)
        .arg("--scratch-dir")
        .arg(scratch.path())
        .arg("--json")
        .arg(scratch.path().join("samples.json"))
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let lines = said(&mut comparison);
    let reached = poll(SOON, || {
        if lines
            .lock()
            .unwrap()
            .iter()
            .any(|line| line.contains("SKIPPED"))
        {
            return Some(false);
        }
        reached(&comparison, &lines.lock().unwrap(), moment).then_some(true)
    });
    let said = || lines.lock().unwrap().join("\n");
    let Some(reached) = reached else {
        comparison.kill().ok();
        panic!("{moment:?} is not reached:\n{}", said());
    };
    if !reached {
        comparison.wait().unwrap();
        return skipped(contestant, "it is not installed");
    }
    let children = descendants(comparison.id());
    let ports = listening(&children);
    assert!(!children.is_empty());
    kill_process(Pid::from_child(&comparison), signal).unwrap();
    let status = poll(SOON, || comparison.try_wait().unwrap());
    let status = status.unwrap_or_else(|| panic!("it goes on:\n{}", said()));

    assert_eq!(status.code(), Some(1), "{}", said());
    let told = poll(SOON, || said().contains("interrupted").then_some(()));
    assert!(told.is_some(), "{}", said());
    assert!(!said().contains("is killed"), "{}", said());
    // The load generator is killed, and the system may take a moment to bury it.
    let gone = poll(SOON, || {
        let left = children
            .iter()
            .filter(|(pid, born)| is_there(**pid, **born));
        (left.count() == 0).then_some(())
    });
    assert!(gone.is_some(), "{contestant}, {moment:?}: {children:?}");
    // One that had just been started when this looked has to be buried as well.
    let mut left = Vec::new();
    let gone = poll(SOON, || {
        left = mentioning(scratch.path());
        left.is_empty().then_some(())
    });
    assert!(gone.is_some(), "{contestant}, {moment:?}: {left:?}");
    for port in ports {
        // A connection of somebody else may have the port for a moment.
        let free = poll(SOON, || TcpListener::bind((Ipv4Addr::LOCALHOST, port)).ok());
        assert!(free.is_some(), "{contestant}, {moment:?}: port {port}");
    }
    let files: Vec<_> = std::fs::read_dir(scratch.path()).unwrap().collect();
    assert!(files.is_empty(), "{contestant}, {moment:?}: {files:?}");
}

fn reached(comparison: &Child, lines: &[String], moment: Moment) -> bool {
    match moment {
        Moment::Processes(count) => descendants(comparison.id()).len() >= count,
        Moment::Measuring => lines.iter().any(|line| line.contains("64 clients, writes")),
    }
}

/// A directory that PostgreSQL's user may enter, too.
fn open_directory() -> tempfile::TempDir {
    use std::os::unix::fs::PermissionsExt as _;
    tempfile::Builder::new()
        .prefix("phalanx-interrupted-")
        .permissions(std::fs::Permissions::from_mode(0o755))
        .tempdir_in("/var/tmp")
        .unwrap()
}

fn skipped(contestant: &str, why: &str) {
    println!("SKIPPED: interrupted: {contestant}: {why}");
}

/// What a program writes to standard error, as it comes.
fn said(child: &mut Child) -> std::sync::Arc<std::sync::Mutex<Vec<String>>> {
    let lines = std::sync::Arc::new(std::sync::Mutex::new(Vec::new()));
    let (stderr, sink) = (child.stderr.take().unwrap(), std::sync::Arc::clone(&lines));
    std::thread::spawn(move || {
        for line in BufReader::new(stderr).lines().map_while(Result::ok) {
            sink.lock().unwrap().push(line);
        }
    });
    lines
}

/// All processes that came from this one, with the time at which each began.
fn descendants(root: u32) -> BTreeMap<u32, u64> {
    let all: Vec<Stat> = processes().filter_map(stat).collect();
    let mut found = BTreeMap::new();
    let mut parents = BTreeSet::from([root]);
    loop {
        let new = |one: &&Stat| parents.contains(&one.parent) && !found.contains_key(&one.pid);
        let next: Vec<&Stat> = all.iter().filter(new).collect();
        if next.is_empty() {
            return found;
        }
        for one in next {
            parents.insert(one.pid);
            found.insert(one.pid, one.born);
        }
    }
}

struct Stat {
    pid: u32,
    parent: u32,
    born: u64,
    is_dead: bool,
}

fn processes() -> impl Iterator<Item = u32> {
    let entries = std::fs::read_dir("/proc").unwrap();
    entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
}

/// See proc(5). The name stands in parentheses and may hold anything.
fn stat(pid: u32) -> Option<Stat> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (_, rest) = text.rsplit_once(") ")?;
    let fields: Vec<&str> = rest.split(' ').collect();
    Some(Stat {
        pid,
        is_dead: matches!(*fields.first()?, "Z" | "X"),
        parent: fields.get(1)?.parse().ok()?,
        born: fields.get(19)?.parse().ok()?,
    })
}

fn is_there(pid: u32, born: u64) -> bool {
    stat(pid).is_some_and(|stat| stat.born == born && !stat.is_dead)
}

/// The TCP ports of loopback on which one of these processes listens.
fn listening(processes: &BTreeMap<u32, u64>) -> BTreeSet<u16> {
    let sockets: BTreeSet<String> = processes
        .keys()
        .filter_map(|pid| std::fs::read_dir(format!("/proc/{pid}/fd")).ok())
        .flatten()
        .filter_map(|entry| std::fs::read_link(entry.ok()?.path()).ok())
        .filter_map(|link: PathBuf| {
            let link = link.to_str()?.strip_prefix("socket:[")?.strip_suffix(']')?;
            Some(link.to_owned())
        })
        .collect();
    let table = std::fs::read_to_string("/proc/net/tcp").unwrap();
    let rows = table.lines().skip(1).filter_map(|line| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let is_listening = *fields.get(3)? == "0A";
        let (_, port) = fields.get(1)?.split_once(':')?;
        let is_ours = sockets.contains(*fields.get(9)?);
        (is_listening && is_ours).then(|| u16::from_str_radix(port, 16).unwrap())
    });
    rows.collect()
}

/// The command lines that name this directory.
fn mentioning(directory: &Path) -> Vec<String> {
    let directory = directory.to_str().unwrap();
    processes()
        .filter_map(|pid| std::fs::read(format!("/proc/{pid}/cmdline")).ok())
        .map(|line| String::from_utf8_lossy(&line).replace('\0', " "))
        .filter(|line| line.contains(directory))
        .collect()
}

fn poll<T>(within: Duration, mut check: impl FnMut() -> Option<T>) -> Option<T> {
    let deadline = Instant::now() + within;
    loop {
        if let Some(value) = check() {
            return Some(value);
        }
        if Instant::now() >= deadline {
            return None;
        }
        std::thread::sleep(LOOK);
    }
}
