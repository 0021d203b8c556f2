//! `phalanx cluster tour`, which `make cluster` runs.

use std::fs;
use std::io::{BufRead as _, BufReader, ErrorKind};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};

use crate::support::node::BINARY;
use crate::support::{ports, temp_dir, wait};

const WITHIN: Duration = Duration::from_secs(90);

/// Settings of three nodes on free ports; gives their addresses as well.
fn settings(directory: &Path) -> (PathBuf, Vec<SocketAddr>) {
    let config = directory.join("config");
    fs::create_dir_all(&config).expect("a directory can be made");
    fs::create_dir_all(directory.join("tmp")).expect("a directory can be made");
    let members: Vec<SocketAddr> = (0..3).map(|_| ports::free_address()).collect();
    let mut all = members.clone();
    for (n, member) in members.iter().enumerate() {
        let id = n + 1;
        let http = ports::free_address();
        all.push(http);
        let mut text = format!(
            "[node]\nid = {id}\n[http]\nlisten = \"{http}\"\n[cluster]\nlisten = \"{member}\"\n\
             shards = 4\n"
        );
        for (other, address) in members.iter().enumerate().filter(|(other, _)| *other != n) {
            let id = other + 1;
            text += &format!("[[cluster.peers]]\nid = {id}\naddress = \"{address}\"\n");
        }
        fs::write(config.join(format!("node-{id}.toml")), text).expect("a file can be written");
    }
    (config, all)
}

fn start(directory: &Path, config: &Path) -> Child {
    Command::new(BINARY)
        .args(["cluster", "tour", "--config"])
        .arg(config)
        .env("TMPDIR", directory.join("tmp"))
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the binary can be started")
}

fn assert_nothing_left(directory: &Path, addresses: &[SocketAddr]) {
    for address in addresses {
        let gone = wait::poll(WITHIN, || TcpStream::connect(address).err());
        assert!(gone.is_some(), "somebody still listens at {address}");
    }
    let left = fs::read_dir(directory.join("tmp")).expect("the directory can be read");
    assert_eq!(left.count(), 0, "data are left behind");
}

#[test]
fn the_tour_survives_its_own_kill_and_leaves_nothing_behind() {
    let directory = temp_dir();
    let (config, addresses) = settings(directory.path());
    let child = start(directory.path(), &config);
    let output = child.wait_with_output().expect("the tour ends");
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{text}\n{output:?}");
    for part in [
        "is ready after",
        "SHARD  LEADER",
        "kill -9",
        "The command after the kill",
    ] {
        assert!(text.contains(part), "no {part:?} in:\n{text}");
    }
    assert_nothing_left(directory.path(), &addresses);
}

#[test]
fn a_tour_that_is_interrupted_stops_what_it_started() {
    let directory = temp_dir();
    let (config, addresses) = settings(directory.path());
    let mut child = start(directory.path(), &config);
    let stdout = child.stdout.take().expect("its output is read");
    let mut lines = BufReader::new(stdout).lines().map_while(Result::ok);
    assert!(lines.any(|line| line.contains("node 1 is ready")));
    kill_process(Pid::from_child(&child), Signal::INT).expect("a child can be signalled");
    // Reads to the end, so that the tour is never stuck on a full pipe.
    lines.for_each(drop);
    let status = wait::until("the tour ends", WITHIN, || {
        child.try_wait().expect("a child can be waited for")
    });
    assert_eq!(status.code(), Some(1));
    assert_nothing_left(directory.path(), &addresses);
}

#[test]
fn a_tour_leaves_alone_whoever_listens_at_its_addresses_and_names_the_address() {
    let directory = temp_dir();
    let (config, addresses) = settings(directory.path());
    // An address for members and one for clients, of the last node.
    for at in [2, 5] {
        let taken = addresses[at];
        let listener = TcpListener::bind(taken).expect("the address is free");
        let output = start(directory.path(), &config)
            .wait_with_output()
            .expect("the tour ends");
        assert_eq!(output.status.code(), Some(1));
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(said.contains(&taken.to_string()), "{said}");
        assert!(said.contains("Stop what runs there"), "{said}");
        assert!(output.stdout.is_empty(), "{output:?}");
        listener.set_nonblocking(true).expect("it can be set");
        let asked = listener.accept().err().map(|error| error.kind());
        assert_eq!(asked, Some(ErrorKind::WouldBlock), "somebody was asked");
        drop(listener);
        assert_nothing_left(directory.path(), &addresses);
    }
}
