//! A leader whose wall clock jumps under load: an hour ahead, then a day back, then right again.
//!
//! One node runs under `libfaketime`, which reads what to add to the time of day from a file that the
//! test replaces; its monotonic clock is left alone, as by an operator or a time server that sets a
//! clock. Invariant: each jump is seen in the time of an event before anything is held against it, so
//! a node whose clock did not jump fails the test.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use jiff::{SignedDuration, Timestamp};
use serde_json::Value;
use tempfile::TempDir;

use super::net::NODES;
use super::sentries::{Report, Said, Seen, Sentries};
use super::site::{SHARDS, Site, shard_of};
use crate::fixture::SOON;
use crate::load::{Deposit, Load, assert_unharmed, audit, patient, summary};
use crate::support::client;
use crate::support::http::{Http, Request, Response};
use crate::support::node::NodeSetup;
use crate::support::{measured, skipped, temp_dir, wait};

const TEST: &str = "clock jumps";
const LIBRARY: &str = "faketime/libfaketimeMT.so.1";
/// The node whose clock jumps.
const JUMPS: u64 = 1;
/// Who leads each shard: the node whose clock jumps leads two.
const LEADERS: [u64; SHARDS] = [JUMPS, JUMPS, 2, 3];
/// A shard of it, which is handed to the heir while the clock is wrong.
const SHARD: usize = 0;
const HEIR: u64 = 2;
const AHEAD: SignedDuration = SignedDuration::from_hours(1);
/// A day before that. The heir's clock is right, so for it a key that is used now has an hour to live.
const BEHIND: SignedDuration = SignedDuration::from_hours(-23);
/// Those at which sentries stand: the ones that the node with the clock leads at first.
const WATCHED_SHARDS: usize = 2;
const JUMPS_IN_ALL: usize = 3;
/// What events' times may differ by from the clock that the test set.
const PRECISION: SignedDuration = SignedDuration::from_secs(60);
/// After each jump: long past every lease and every election, and past the patience of sentries.
const WATCHED: Duration = Duration::from_millis(2_700);
/// Clients with one retry.
const CLIENTS: i64 = 2;
const LEAST_DEPOSITS: usize = 30;
/// Writes in a second, and fresh reads in a second, below which a jump met a cluster that stood still.
const LEAST_RATE: f64 = 4.0;

/// What a node adds to its time of day.
struct Clock {
    library: PathBuf,
    offset: PathBuf,
    directory: TempDir,
    /// Who goes by it.
    process: Cell<Option<u32>>,
}

impl Clock {
    /// A clock that is right; without the library, says why the test is skipped.
    fn create() -> Option<Self> {
        let Some(library) = library() else {
            skipped(
                TEST,
                "`libfaketime` is missing; on Debian: apt-get install faketime",
            );
            return None;
        };
        let directory = temp_dir();
        let clock = Self {
            library,
            offset: directory.path().join("offset"),
            directory,
            process: Cell::new(None),
        };
        clock.set(SignedDuration::ZERO);
        Some(clock)
    }

    /// Lets a node go by it. The variables hold for what starts the node as well.
    fn given_to(&self, setup: NodeSetup) -> NodeSetup {
        let text = |path: &Path| path.to_string_lossy().into_owned();
        setup
            .variable("LD_PRELOAD", &text(&self.library))
            .variable("FAKETIME_TIMESTAMP_FILE", &text(&self.offset))
            .variable("FAKETIME_NO_CACHE", "1")
            .variable("DONT_FAKE_MONOTONIC", "1")
            // Times of files do not jump with a clock.
            .variable("NO_FAKE_STAT", "1")
    }

    /// Lets it jump. A file that is renamed is never read half written.
    fn set(&self, offset: SignedDuration) {
        let next = self.directory.path().join("next");
        std::fs::write(&next, format!("{:+}\n", offset.as_secs())).expect("a file can be written");
        std::fs::rename(&next, &self.offset).expect("a file can be renamed");
    }
}

impl Drop for Clock {
    /// Removes what the library leaves in memory that is shared when its process is killed.
    fn drop(&mut self) {
        if let Some(process) = self.process.get() {
            for name in ["faketime_shm_", "sem.faketime_sem_"] {
                drop(std::fs::remove_file(format!("/dev/shm/{name}{process}")));
            }
        }
    }
}

fn library() -> Option<PathBuf> {
    let libraries = std::fs::read_dir("/usr/lib").ok()?.flatten();
    let mut places = libraries.map(|entry| entry.path().join(LIBRARY));
    places
        .find(|place| place.is_file())
        .or_else(|| Some(Path::new("/usr/lib64").join(LIBRARY)).filter(|place| place.is_file()))
}

/// An account in `SHARD` with commands whose keys are used again after each jump.
struct Witness {
    account: String,
    /// Key, amount and reply.
    used: Vec<(String, i64, Response)>,
    /// The time of its first deposit, with another one after it.
    early: String,
    /// Accounts without a past before a jump, whose keys are as old as the clock said.
    opened: Vec<String>,
}

impl Witness {
    fn create(site: &Site) -> Self {
        let account = open_in(site, SHARD, "witness");
        let mut witness = Self {
            account,
            used: Vec::new(),
            early: String::new(),
            opened: Vec::new(),
        };
        witness.pay(site, "before the jumps");
        witness.pay(site, "just before the jumps");
        let events = events(site, &witness.account);
        witness.early = events[1]["time"].as_str().expect("a time").to_owned();
        witness
    }

    fn pay(&mut self, site: &Site, when: &str) {
        let number = self.used.len() + 1;
        let amount = i64::try_from(number).expect("a small number");
        let key = format!("witness-{number}");
        let request = client::deposit(&self.account, amount).key(&key);
        let reply = site.cluster.store_at(JUMPS, &request);
        let replay = reply.header("Idempotent-Replay");
        assert_eq!(replay, None, "a new key {when}");
        self.used.push((key, amount, reply));
    }

    /// Every key that was used is known, and what was said of the past still holds.
    fn assert_remembered(&self, site: &Site, when: &str) {
        let past = format!(
            "{}?as_of={}",
            client::account_target(&self.account),
            self.early
        );
        // Through each node in turns: whoever is asked, the leader knows or nobody does.
        let mut nodes = NODES.into_iter().cycle();
        let mut ask = |request: &Request| {
            let node = nodes.next().expect("they go round");
            site.cluster.store_at(node, request)
        };
        for (key, amount, reply) in &self.used {
            let again = ask(&client::deposit(&self.account, *amount).key(key));
            let replay = again.header("Idempotent-Replay");
            assert_eq!(replay, Some("true"), "{key} {when}");
            assert_eq!(again.body, reply.body, "{key} {when}");
        }
        for id in &self.opened {
            let again = ask(&client::open(id));
            let replay = again.header("Idempotent-Replay");
            assert_eq!(replay, Some("true"), "{id} {when}");
        }
        let then = ask(&Request::get(&past)).json();
        assert_eq!(then["sequence_number"], 2, "{when}: {then}");
        assert_eq!(then["state"]["balance_cents"], 1, "{when}: {then}");
    }
}

/// A time in which the clock had jumped, for what clients saw then.
struct Watched {
    when: &'static str,
    from: Instant,
    to: Instant,
    /// By how much the clock was seen to be off.
    offset: SignedDuration,
    /// Whether the machine kept going.
    calm: bool,
}

/// Opens accounts until one lies in this shard.
fn open_in(site: &Site, shard: usize, name: &str) -> String {
    let mut http = site.cluster.anywhere();
    let mut numbers = 0..;
    let found = numbers.find_map(|number| {
        let id = format!("{name}-{number}");
        let position = client::store(&mut http, &client::open(&id));
        (shard_of(&position) == shard).then_some(id)
    });
    found.expect("every shard has accounts")
}

/// An account's events, from the first to the last.
fn events(site: &Site, id: &str) -> Vec<Value> {
    let mut http: Http = site.cluster.anywhere();
    let mut target = format!("{}/events?limit=1000", client::account_target(id));
    let mut events = Vec::new();
    loop {
        let page = http.send_until_answered(&Request::get(&target));
        assert_eq!(page.status, 200, "events of {id}: {}", page.text());
        let body = page.json();
        events.extend(body.as_array().expect("a list").iter().cloned());
        match client::next_page(&page) {
            Some(next) => target = next,
            None => return events,
        }
    }
}

fn time_of(event: &Value) -> Timestamp {
    let text = event["time"].as_str().expect("an event has a time");
    text.parse().expect("a time is RFC 3339")
}

/// By how much the clock of a shard's leader is ahead of the test's: an aggregate without a past has
/// the leader's time as it is. Gives that aggregate as well.
fn offset_seen(site: &Site, shard: usize, name: &str) -> (String, SignedDuration) {
    let id = open_in(site, shard, name);
    let first = time_of(&events(site, &id)[0]);
    (id, first.duration_since(Timestamp::now()))
}

/// Who leads each shard and in which term, as each node sees it.
fn terms(site: &Site) -> Vec<(u64, u64, u64)> {
    let of_node = |node: u64| {
        let shards = wait::until("a node shows its shards", SOON, || site.shards(node));
        shards.into_iter().map(move |shard| {
            let number = |field: &str| shard[field].as_u64().unwrap_or_default();
            (node, number("leader"), number("term"))
        })
    };
    NODES.into_iter().flat_map(of_node).collect()
}

/// Hands every shard to whom it is to be led by.
fn place(site: &Site) {
    for (shard, leader) in LEADERS.into_iter().enumerate() {
        wait::until("a shard is led by whom it shall", SOON, || {
            let right = site.leaders()[shard] == leader;
            if !right {
                site.transfer(shard, leader);
            }
            right.then_some(())
        });
    }
}

/// Lets the clock jump, proves that it did, and holds leaders and keys against it; `None` when a leader
/// was lost and the machine stood still meanwhile, which says nothing about clocks.
fn jump(
    site: &Site,
    clock: &Clock,
    offset: SignedDuration,
    when: &'static str,
    witness: &mut Witness,
) -> Option<Watched> {
    let before = terms(site);
    let led = SHARD + usize::from(before[SHARD].1 != JUMPS);
    let from = Instant::now();
    clock.set(offset);
    let (id, seen) = offset_seen(site, led, &when.replace(' ', "-"));
    assert!(
        (seen - offset).abs() < PRECISION,
        "the clock did not jump: it is off by {seen:#}, not {offset:#}"
    );
    witness.opened.push(id);
    witness.pay(site, when);
    wait::let_pass(WATCHED);
    witness.assert_remembered(site, when);
    let to = Instant::now();
    let after = terms(site);
    let calm = site.calm.held(from, to);
    if after != before {
        if !calm {
            skipped(TEST, "a leader was lost while the machine stood still");
            return None;
        }
        panic!(
            "{when} leaders changed: {before:?}, {after:?}\n{}",
            site.logs()
        );
    }
    Some(Watched {
        when,
        from,
        to,
        offset: seen,
        calm,
    })
}

/// All jumps and a move of a shard to a node whose clock is right; those after which leaders stayed.
fn jumps(site: &Site, clock: &Clock, witness: &mut Witness) -> Vec<Watched> {
    let mut watched = Vec::new();
    for (offset, when) in [(AHEAD, "an hour ahead"), (BEHIND, "a day back")] {
        match jump(site, clock, offset, when, witness) {
            Some(period) => watched.push(period),
            None => return watched,
        }
    }
    site.transfer(SHARD, HEIR);
    wait::until("the heir leads", SOON, || {
        (site.leaders()[SHARD] == HEIR).then_some(())
    });
    witness.pay(site, "at the heir");
    witness.assert_remembered(site, "at the heir");
    watched.extend(jump(
        site,
        clock,
        SignedDuration::ZERO,
        "right again",
        witness,
    ));
    watched
}

/// No account's time runs backwards, and it did stand still where the clock went back.
fn assert_times(site: &Site, accounts: &[String]) {
    let (mut all, mut waited) = (0, 0);
    for id in accounts {
        let times: Vec<Timestamp> = events(site, id).iter().map(time_of).collect();
        for pair in times.windows(2) {
            assert!(pair[0] <= pair[1], "{id}: {} before {}", pair[0], pair[1]);
            waited += usize::from(pair[0] == pair[1]);
        }
        all += times.len();
    }
    measured(
        &format!("{TEST}, events"),
        format!("{all}; {waited} have the time of the one before"),
    );
    assert!(waited > 0, "no event met a clock that had gone back");
}

/// After each jump, clients that never retry were refused nothing, and all clients together did enough
/// for that to mean something.
fn assert_unnoticed(report: &Report, deposits: &[Deposit], watched: &[Watched]) {
    for period in watched {
        // What ends later may meet the move of its shard. One that hangs because of the jump ends sooner:
        // sentries wait no longer than that.
        let within = |at: Instant| (period.from..period.to).contains(&at);
        let all = report.seen.iter();
        let seen: Vec<&Seen> = all.filter(|s| within(s.began) && within(s.ended)).collect();
        let done = |writes: bool| {
            let of_kind = seen.iter().filter(|seen| seen.is_write() == writes);
            of_kind.filter(|seen| seen.is_done()).count()
        };
        let retrying = deposits.iter().filter(|d| within(d.began + d.took)).count();
        let per_second = |count: usize| count as f64 / (period.to - period.from).as_secs_f64();
        let (writes, reads) = (per_second(done(true) + retrying), per_second(done(false)));
        let mut harmed: BTreeMap<String, usize> = BTreeMap::new();
        for seen in seen.iter().filter(|seen| !seen.is_done()) {
            // Declared reads have a limit.
            if !matches!(&seen.said, Said::Refused { status: 429, .. }) {
                let which = format!("node {}, shard {}: {:?}", seen.node, seen.shard, seen.said);
                *harmed.entry(which).or_default() += 1;
            }
        }
        measured(
            &format!("{TEST}, {}", period.when),
            format!(
                "event times off by {:#}, {writes:.0} writes/s, {reads:.0} reads/s, not done: {harmed:?}",
                period.offset
            ),
        );
        let enough = writes >= LEAST_RATE && reads >= LEAST_RATE;
        if !(period.calm || harmed.is_empty() && enough) {
            skipped(TEST, "the machine stood still after a jump");
            continue;
        }
        assert!(harmed.is_empty(), "{}: {harmed:?}", period.when);
        assert!(
            enough,
            "{}: too little happened to mean anything",
            period.when
        );
    }
}

#[test]
fn a_clock_that_jumps_costs_no_leader_no_request_and_no_key() {
    let Some(clock) = Clock::create() else {
        return;
    };
    let site = Site::start_with(TEST, |node, setup| {
        // Leaders that are moved to even the load out would look like leaders that are lost.
        let setup = patient(setup).set("CLUSTER__BALANCE_INTERVAL_MS", 0);
        match node {
            JUMPS => clock.given_to(setup),
            _ => setup,
        }
    });
    let Some(site) = site else {
        return;
    };
    clock.process.set(Some(site.cluster.node(JUMPS).process()));
    place(&site);
    let accounts: Vec<String> = (0..SHARDS)
        .map(|shard| open_in(&site, shard, &format!("client-{shard}")))
        .collect();
    let (_, right) = offset_seen(&site, SHARD, "right");
    assert!(right.abs() < PRECISION, "the clock is off by {right:#}");
    let mut witness = Witness::create(&site);
    let addresses = site.cluster.addresses();
    let nodes: Vec<(u64, SocketAddr)> = NODES.into_iter().zip(addresses.clone()).collect();
    let sentries = Sentries::start(&nodes, &site.posts[..WATCHED_SHARDS]);
    let clients = Load::start(CLIENTS, &addresses, &accounts);
    wait::let_pass(Duration::from_millis(500));

    let watched = jumps(&site, &clock, &mut witness);

    let deposits = clients.stop_after(LEAST_DEPOSITS);
    let report = sentries.stop();
    measured(
        TEST,
        format!("{}; {}", summary(&deposits), report.summary()),
    );
    assert_unharmed(&deposits, LEAST_DEPOSITS);
    audit(site.cluster.anywhere(), &deposits);
    report.audit(&mut site.cluster.anywhere());
    assert_unnoticed(&report, &deposits, &watched);
    if watched.len() == JUMPS_IN_ALL {
        let all = [accounts, site.posts.clone(), vec![witness.account]].concat();
        assert_times(&site, &all);
    }
}
