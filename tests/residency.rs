//! More aggregates than fit into memory: the number of resident ones and the memory of the process
//! stay bounded, and every aggregate can still be read, rightly.
//!
//! `PHALANX_AGGREGATES=1000000 PHALANX_RESIDENT=100000 cargo test --release --features failpoints
//! --test residency -- --nocapture` makes the large run by hand (default 20,000 with 1,000
//! resident).

#![expect(clippy::panic, reason = "a test fails by panicking")]

#[expect(dead_code, reason = "each test binary uses its own part")]
mod support;

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use serde_json::json;

use support::client;
use support::http::Http;
use support::node::{Node, NodeSetup};
use support::{measured, number_from_env, temp_dir, wait};

const CLIENTS: u64 = 8;
/// What a node may need beside its aggregates: tables in memory, caches, the allocator's slack.
const BASE_BYTES: u64 = 512 * 1024 * 1024;
/// Far above the aim of 10 KB, far below what keeping everything would take.
const BYTES_PER_RESIDENT: u64 = 32 * 1024;

fn amount_of(n: u64) -> i64 {
    i64::try_from(n).expect("fits") * 3 + 1
}

/// The highest figures that were seen while something ran.
#[derive(Debug, Clone, Copy, Default)]
struct Peak {
    resident: f64,
    bytes: u64,
}

#[test]
fn many_aggregates_pass_through_a_small_memory_and_all_stay_readable() {
    let aggregates = number_from_env("PHALANX_AGGREGATES", 20_000);
    let limit = number_from_env("PHALANX_RESIDENT", 1_000);
    let directory = temp_dir();
    let node = NodeSetup::new(directory.path())
        .set("ACTORS__MAX_RESIDENT", limit)
        .set("JOURNAL__WRITE_BUFFER_BYTES", 8 * 1024 * 1024)
        .set("JOURNAL__BLOCK_CACHE_BYTES", 16 * 1024 * 1024)
        .start();
    let peak = peak_while(&node, || {
        for_each_aggregate(aggregates, node.address, |http, n| {
            let id = format!("r-{n}");
            client::expect_success(http, &client::open(&id));
            client::expect_success(http, &client::deposit(&id, amount_of(n)));
        });
        for_each_aggregate(aggregates, node.address, read_back);
    });
    measured("aggregates touched", aggregates);
    measured(
        "most resident aggregates",
        format!("{} (limit {limit})", peak.resident),
    );
    measured(
        "most memory of the process in MiB",
        peak.bytes / (1024 * 1024),
    );
    assert!(peak.resident > 0.0, "the metric must move");
    assert!(
        peak.resident <= limit as f64 * 1.1 + 64.0,
        "{} resident where {limit} are allowed",
        peak.resident
    );
    let allowed = BASE_BYTES + limit * BYTES_PER_RESIDENT;
    assert!(
        peak.bytes <= allowed,
        "{} bytes where {allowed} are allowed",
        peak.bytes
    );
}

/// Looks at the node again and again until the work is done.
fn peak_while(node: &Node, work: impl FnOnce() + Send) -> Peak {
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let watcher = scope.spawn(|| {
            let mut peak = Peak::default();
            while !done.load(Ordering::Relaxed) {
                let resident = node
                    .metric("phalanx_actors_resident")
                    .expect("the metric phalanx_actors_resident");
                peak.resident = peak.resident.max(resident);
                peak.bytes = peak.bytes.max(node.resident_bytes());
                wait::let_pass(Duration::from_millis(50));
            }
            peak
        });
        // Set even when the work panics, as the scope waits for the watcher.
        let finished = scope.spawn(work).join();
        done.store(true, Ordering::Relaxed);
        if let Err(panic) = finished {
            std::panic::resume_unwind(panic);
        }
        watcher.join().expect("the watcher finishes")
    })
}

/// Visits aggregates 0 to `count` from several clients, each with its own share.
fn for_each_aggregate(count: u64, address: SocketAddr, visit: impl Fn(&mut Http, u64) + Sync) {
    std::thread::scope(|scope| {
        for share in 0..CLIENTS {
            let visit = &visit;
            scope.spawn(move || {
                let mut http = Http::new(address);
                for n in (share..count).step_by(CLIENTS as usize) {
                    visit(&mut http, n);
                }
            });
        }
    });
}

/// The state is right, and it is there through the actor, not only in the journal.
fn read_back(http: &mut Http, n: u64) {
    let id = format!("r-{n}");
    let entries = client::history(http, &id).expect("a history");
    let last = entries.last().expect("it was opened");
    assert_eq!((last.sequence, last.amount), (2, amount_of(n)), "{id}");
    let state = client::expect_success(http, &client::fresh_after(&id, &last.position)).json();
    assert_eq!(state["state"]["balance_cents"], json!(amount_of(n)), "{id}");
    assert_eq!(state["state"]["owner"], json!(format!("owner of {id}")));
}
