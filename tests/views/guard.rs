//! A test run that is killed leaves no database server behind.

use std::io::{BufRead as _, BufReader};
use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process_group};

use super::support::postgres::Postgres;
use super::support::{report, skipped, wait};

/// Says what the run that is killed does with its server.
const TO_BE_KILLED: &str = "PHALANX_TO_BE_KILLED";
const SOON: Duration = Duration::from_secs(30);

/// What the test below kills; without the variable it has nothing to do.
#[test]
fn a_run_that_is_killed() {
    let Ok(what) = std::env::var(TO_BE_KILLED) else {
        return;
    };
    let server = Postgres::start().expect("the other process has tried");
    if what == "down" {
        server.down();
    }
    let _frozen = (what == "frozen").then(|| server.freeze());
    report(&format!("HOME {}", server.home().display()));
    loop {
        std::thread::park();
    }
}

/// Starts a run, waits until its server stands there in this way, and kills the whole group.
fn killed(what: &str) -> PathBuf {
    let mut child: Child = Command::new(std::env::current_exe().expect("a test binary"))
        .args(["--exact", "guard::a_run_that_is_killed", "--nocapture"])
        .env(TO_BE_KILLED, what)
        .process_group(0)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .expect("a test binary can be started");
    let lines = BufReader::new(child.stderr.take().expect("it has one")).lines();
    let home = lines
        .map_while(Result::ok)
        .find_map(|line| line.strip_prefix("HOME ").map(PathBuf::from))
        .expect("it says where its server is");
    assert!(home.exists());
    kill_process_group(Pid::from_child(&child), Signal::KILL).expect("it runs");
    child.wait().expect("it ends");
    home
}

#[test]
fn a_killed_run_leaves_no_server_and_no_directory() {
    // One that is there anyway says whether there can be any.
    if let Err(why) = Postgres::shared() {
        return skipped("servers of killed runs", &why);
    }
    for what in ["up", "frozen"] {
        let home = killed(what);
        wait::until("the directory is removed", SOON, || {
            (!home.exists()).then_some(())
        });
    }
    // Nobody stands by a server that is down; the next start removes what is left of it.
    let home = killed("down");
    let next = Postgres::start().expect("one runs already");
    assert!(!home.exists() && next.home().exists());
}
