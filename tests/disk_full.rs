//! The disk fills up: commands are refused with 507, fresh reads go on, and commands work again
//! within five seconds of free space, without a restart.
//!
//! Needs root for a small file system in memory; says `SKIPPED` otherwise.

#![expect(clippy::panic, reason = "a test fails by panicking")]

#[expect(dead_code, reason = "each test binary uses its own part")]
mod support;

use std::fs::{self, File};
use std::io::Write as _;
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{RngCore as _, SeedableRng as _};
use serde_json::json;

use support::audit::audit;
use support::books::{Tellers, open_accounts};
use support::client;
use support::http::{Http, Request, Response};
use support::node::NodeSetup;
use support::scratch_disk::MemoryDisk;
use support::{is_root, measured, seeded, skipped, temp_dir, wait};

const MIB: u64 = 1024 * 1024;
const DISK_BYTES: u64 = 160 * MIB;
/// Three write buffers, and what read models of large rows write after the journal has called a halt.
const RESERVE_BYTES: u64 = 32 * MIB;
const CLIENTS: u64 = 8;
const LARGE_BYTES: usize = 500 * 1024;
/// The promise is 5 s; a machine that does other things beside, or stands still, gets much more.
const BACK_WITHIN: Duration = Duration::from_secs(30);

fn small_disk(test: &str, directory: &Path) -> Option<MemoryDisk> {
    if !is_root() {
        skipped(test, "only root may mount");
        return None;
    }
    match MemoryDisk::create(directory, DISK_BYTES) {
        Ok(disk) => Some(disk),
        Err(why) => {
            skipped(test, &why);
            None
        }
    }
}

fn node_on(disk: &MemoryDisk, directory: &Path) -> NodeSetup {
    NodeSetup::new(directory)
        .data_in(&disk.path().join("data"))
        .set("JOURNAL__RESERVE_FREE_BYTES", RESERVE_BYTES)
        .set("JOURNAL__WRITE_BUFFER_BYTES", 4 * MIB)
        .set("JOURNAL__INDEX_WRITE_BUFFER_BYTES", MIB)
}

/// Writes other data onto the disk until half of the reserve is gone.
fn fill(disk: &MemoryDisk, ballast: &Path) {
    let mut file = File::create(ballast).expect("a file can be made");
    let zeros = vec![0; 256 * 1024];
    while disk.free_bytes() > RESERVE_BYTES / 2 {
        file.write_all(&zeros).expect("there is room");
    }
}

fn assert_storage_full(response: &Response) {
    let body = response.json();
    assert_eq!(response.code(), "storage-full", "{body}");
    assert_eq!(body["outcome"], json!("not_applied"), "{body}");
    assert_eq!(
        response.header("Content-Type"),
        Some("application/problem+json")
    );
}

#[test]
fn a_full_disk_refuses_commands_and_answers_reads_until_there_is_space_again() {
    let directory = temp_dir();
    let Some(disk) = small_disk("a full disk", directory.path()) else {
        return;
    };
    let mut node = node_on(&disk, directory.path()).start();
    let mut http = node.client();
    let accounts = open_accounts(node.address, 4);
    client::expect_success(&mut http, &client::open("own"));
    let mut rng = seeded("a full disk");
    let mut tellers = Tellers::start(4, node.address, &accounts, &mut rng);
    tellers.progress(20);

    let ballast = disk.path().join("ballast");
    fill(&disk, &ballast);
    client::expect_success(&mut http, &client::fresh("a-0"));
    let refused = wait::until("a refusal with 507", BACK_WITHIN, || {
        // A new command each time: a stored reply is given out on a full disk as well.
        let response = http.send(&client::deposit("own", 1));
        (response.status == 507).then_some(response)
    });
    assert_storage_full(&refused);
    for id in accounts.iter() {
        client::expect_success(&mut http, &client::fresh(id));
    }
    let history = client::history(&mut http, "a-0").expect("history is readable");
    assert!(!history.is_empty());

    fs::remove_file(&ballast).expect("the ballast goes");
    wait::until("commands work again", BACK_WITHIN, || {
        let response = http.send(&client::deposit("never-opened", 1));
        (response.status == 422).then_some(())
    });
    wait::until("events are stored again", BACK_WITHIN, || {
        let response = http.send(&client::open("after"));
        (response.status == 201).then_some(())
    });
    assert_eq!(node.status(), None, "the node was not restarted");
    let books = tellers.stop();
    let checked = audit(node.address, &accounts, &books);
    assert!(checked.promises > 0, "{checked:?}");
    node.stop();
}

#[test]
fn commands_that_fill_the_disk_themselves_stop_at_the_reserve_and_the_node_lives_on() {
    let directory = temp_dir();
    let Some(disk) = small_disk("a disk filled by commands", directory.path()) else {
        return;
    };
    let setup = node_on(&disk, directory.path());
    let mut node = setup.start();
    let stored = fill_with_accounts(node.address);
    measured("large accounts until the disk was full", stored.len());
    assert!(!stored.is_empty(), "some were stored first");
    assert_eq!(node.status(), None, "the node lives\n{}", node.log());
    assert_all_there(&mut node.client(), &stored);
    node.kill();
    let node = setup.start();
    assert_all_there(&mut node.client(), &stored);
    let refused = node.send(&large_account("one-more"));
    assert!(
        matches!(refused.status, 201 | 507),
        "{} {}",
        refused.status,
        refused.text()
    );
}

/// Opens large accounts from several clients until each of them was refused; gives the ids of the
/// stored ones.
fn fill_with_accounts(address: SocketAddr) -> Vec<String> {
    std::thread::scope(|scope| {
        let clients: Vec<_> = (0..CLIENTS)
            .map(|client| scope.spawn(move || fill_from(client, address)))
            .collect();
        clients
            .into_iter()
            .flat_map(|client| client.join().expect("a client finishes"))
            .collect()
    })
}

fn fill_from(client: u64, address: SocketAddr) -> Vec<String> {
    let mut http = Http::new(address);
    let mut stored = Vec::new();
    // More than fits, so that the loop ends by being refused.
    let most = DISK_BYTES / LARGE_BYTES as u64 + 1;
    for n in 0..most {
        let id = format!("large-{client}-{n}");
        let response = wait::until("a definite answer", Duration::from_secs(60), || {
            let response = http.send(&large_account(&id));
            (!matches!(response.status, 503 | 504)).then_some(response)
        });
        match response.status {
            201 => stored.push(id),
            507 => {
                assert_storage_full(&response);
                return stored;
            }
            status => panic!("{id}: {status} {}", response.text()),
        }
    }
    panic!("{most} accounts of {LARGE_BYTES} bytes fit onto {DISK_BYTES} bytes");
}

/// An account whose owner has a name that does not compress.
fn large_account(id: &str) -> Request {
    let owner = large_owner(id);
    let body = format!(r#"{{"owner":"{owner}","currency":"EUR"}}"#);
    Request::command("account", id, "OpenAccount", body).key("open")
}

/// Letters without a pattern, the same for the same id.
fn large_owner(id: &str) -> String {
    let start = id
        .bytes()
        .fold(17, |sum: u64, byte| sum * 31 % 1_000_003 + u64::from(byte));
    let mut random = StdRng::seed_from_u64(start);
    let mut bytes = vec![0; LARGE_BYTES];
    random.fill_bytes(&mut bytes);
    bytes
        .iter()
        .map(|byte| char::from(b'0' + byte % 64))
        .filter(|letter| !matches!(letter, '\\'))
        .collect()
}

fn assert_all_there(http: &mut Http, ids: &[String]) {
    for id in ids {
        let owner = large_owner(id);
        let state = wait::until("an answer to a fresh read", Duration::from_secs(60), || {
            let response = http.send(&client::fresh(id));
            (!matches!(response.status, 429 | 503)).then_some(response)
        });
        assert_eq!(state.status, 200, "{id}: {}", state.text());
        assert!(
            state.json()["state"]["owner"].as_str() == Some(&owner),
            "{id}: another owner than the one that was stored"
        );
    }
}
