//! The real code of a cluster over a simulated network, clock and disk, one seed after the other.
//!
//! Each seed runs in a process of its own, on one thread with simulated time, and replays exactly.
//! See `docs/TESTING.md`.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "a test fails by panicking, and a seed is replayed by reading what it prints"
)]

mod chance;
mod checks;
mod clients;
mod connection;
mod faults;
mod model;
mod network;
mod node;
mod plots;
mod watch;
mod world;
mod wounds;

use std::collections::BTreeMap;
use std::process::{Command, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use world::Report;

/// Seeds of a normal test run.
const SEEDS: u64 = 240;
/// Seeds that failed once and showed a mistake in the product. A change of the code gives them other
/// runs, so each has a test of its own besides; `docs/TESTING.md` says what they found.
const FAILED_ONCE: [u64; 5] = [2_612, 3_063, 2_000_021, 8_100_177, 8_200_385];
/// Commands acknowledged in a run, on average; about 300 are.
const FLOOR_ON_AVERAGE: u64 = 100;
/// One run of so many in which damage was found and repaired, at least; about two of five are.
const RUNS_PER_REPAIR: u64 = 5;
/// How often a run is looked at while it lasts.
const LOOK: Duration = Duration::from_millis(5);
/// A run that lasts for more looks hangs. Time in which the machine stood still does not count.
const MOST_LOOKS: u32 = 24_000;

fn number(name: &str) -> Option<u64> {
    let value = std::env::var(name).ok()?;
    Some(value.parse().expect(name))
}

/// Runs one seed on a new thread, whose randomness nobody has touched.
fn simulate(seed: u64, prints: bool) -> Report {
    phalanx_entropy::seed(seed);
    if let Ok(filter) = std::env::var("PHALANX_LOG") {
        tracing_subscriber::fmt()
            .with_env_filter(filter)
            .with_ansi(false)
            .without_time()
            .init();
    }
    let run = move || {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            .build()
            .unwrap();
        let report = runtime.block_on(Box::pin(world::run(seed, prints)));
        // What still runs has no say any more.
        runtime.shutdown_background();
        report
    };
    let panics = std::sync::Arc::new(Mutex::new(Vec::new()));
    let seen = std::sync::Arc::clone(&panics);
    std::panic::set_hook(Box::new(move |info| {
        eprintln!("{info}");
        seen.lock().unwrap().push(info.to_string());
    }));
    let ended = std::thread::Builder::new()
        .stack_size(16 << 20)
        .spawn(run)
        .unwrap()
        .join();
    let _hook = std::panic::take_hook();
    let panics = std::mem::take(&mut *panics.lock().unwrap());
    let mut report = ended.unwrap_or_else(|_| panic!("seed {seed}: {panics:?}"));
    report.violations.extend(panics);
    report
}

/// What the other tests start for each seed; by itself it runs the first.
#[test]
fn one_seed() {
    let seed = number("PHALANX_SEED").unwrap_or(1);
    let prints = std::env::var_os("PHALANX_TRACE").is_some();
    let began = Instant::now();
    let report = simulate(seed, prints);
    println!(
        "SEED {seed} hash={:016x} steps={} acknowledged={} reads={} unknown={} crashes={} cuts={} \
         pauses={} slow_disks={} full_disks={} damages={} refusals={} repairs={} moves={} changes={} \
         plots={} simulated_ms={} real_ms={}",
        report.hash,
        report.steps,
        report.acknowledged,
        report.reads,
        report.unknown,
        report.mischief.crashes,
        report.mischief.cuts,
        report.mischief.pauses,
        report.mischief.slow_disks,
        report.mischief.full_disks,
        report.mischief.damages,
        report.tally.refusals,
        report.tally.repairs,
        report.mischief.moves,
        report.mischief.changes,
        report.mischief.plots,
        report.simulated.as_millis(),
        began.elapsed().as_millis(),
    );
    for violation in report.violations.iter().take(10) {
        println!("VIOLATED {violation}");
    }
    assert!(
        report.violations.is_empty(),
        "seed {seed}: {} violations",
        report.violations.len()
    );
}

/// Runs a seed in a process of its own; gives what it printed.
fn in_process(seed: u64) -> Result<String, String> {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["one_seed", "--exact", "--nocapture", "--test-threads=1"])
        .env("PHALANX_SEED", seed.to_string())
        .env_remove("PHALANX_TRACE")
        .env_remove("PHALANX_LOG")
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut looks = 0;
    let timed_out = loop {
        if child.try_wait().unwrap().is_some() {
            break false;
        }
        looks += 1;
        if looks > MOST_LOOKS {
            child.kill().unwrap();
            break true;
        }
        std::thread::sleep(LOOK);
    };
    let output = child.wait_with_output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    if output.status.success() {
        return Ok(text);
    }
    let errors = String::from_utf8_lossy(&output.stderr).into_owned();
    let hung = if timed_out { "it hung\n" } else { "" };
    Err(format!("{hung}{text}{errors}"))
}

/// The line of a run with its figures, without the one that may differ.
fn summary(output: &str) -> &str {
    let line = output.lines().find_map(|line| {
        let at = line.find("SEED ")?;
        Some(&line[at..])
    });
    let line = line.expect("a run prints its figures");
    line.split(" real_ms").next().unwrap()
}

fn figures(output: &str, sums: &mut BTreeMap<String, u64>) {
    for part in summary(output).split_whitespace() {
        if let Some((name, value)) = part.split_once('=')
            && let Ok(value) = value.parse::<u64>()
            && name != "hash"
        {
            *sums.entry(name.to_owned()).or_default() += value;
        }
    }
}

#[test]
fn the_same_seed_gives_the_same_run() {
    for seed in [1, 7, 42] {
        let [first, second] = [0, 1].map(|_| in_process(seed).unwrap_or_else(|e| panic!("{e}")));
        assert_eq!(summary(&first), summary(&second));
    }
    let [a, b] = [1, 2].map(|seed| in_process(seed).unwrap_or_else(|e| panic!("{e}")));
    assert_ne!(summary(&a), summary(&b));
}

#[test]
fn seeds_that_failed_once_hold() {
    for seed in FAILED_ONCE {
        if let Err(output) = in_process(seed) {
            panic!("seed {seed} fails again; {}\n{output}", replay(seed));
        }
    }
}

/// `PHALANX_SEEDS` says how many, `PHALANX_FIRST_SEED` where to begin.
#[test]
fn no_seed_breaks_a_promise() {
    let first = number("PHALANX_FIRST_SEED").unwrap_or(1);
    let count = number("PHALANX_SEEDS").unwrap_or(SEEDS);
    let next = AtomicU64::new(first);
    let failed = Mutex::new(Vec::new());
    let sums = Mutex::new(BTreeMap::new());
    let began = Instant::now();
    let workers = std::thread::available_parallelism().map_or(2, usize::from);
    std::thread::scope(|scope| {
        for _ in 0..workers {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::SeqCst);
                    if seed >= first + count {
                        return;
                    }
                    match in_process(seed) {
                        Ok(output) => figures(&output, &mut sums.lock().unwrap()),
                        Err(output) => {
                            println!("SEED {seed} fails. Replay it with\n  {}", replay(seed));
                            let last: Vec<&str> = output
                                .lines()
                                .filter(|line| {
                                    let marks = ["VIOLATED", "panic", "it hung"];
                                    marks.iter().any(|mark| line.contains(mark))
                                })
                                .take(4)
                                .collect();
                            println!("{}", last.join("\n"));
                            failed.lock().unwrap().push(seed);
                        }
                    }
                }
            });
        }
    });
    let failed = failed.into_inner().unwrap();
    let sums = sums.into_inner().unwrap();
    println!(
        "MEASURED: simulation: {count} seeds from {first} in {:.1} s, {} failed; sums {:?}",
        began.elapsed().as_secs_f64(),
        failed.len(),
        sums
    );
    let sum = |name: &str| sums.get(name).copied().unwrap_or_default();
    assert!(
        sum("acknowledged") >= count * FLOOR_ON_AVERAGE,
        "a cluster that stands still passes"
    );
    assert!(
        sum("repairs") >= count / RUNS_PER_REPAIR,
        "damage that nobody finds passes"
    );
    assert!(failed.is_empty(), "seeds that failed: {failed:?}");
}

fn replay(seed: u64) -> String {
    format!(
        "PHALANX_SEED={seed} PHALANX_TRACE=1 cargo test --release --features phalanx/failpoints \
         --test simulation one_seed -- --exact --nocapture"
    )
}
