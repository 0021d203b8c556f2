//! A leader dies under many aggregates that are in memory: what its heirs load, how fast, and what
//! clients see of it.
//!
//! `PHALANX_RESIDENT=100000 PHALANX_RATE=1000` makes the large run by hand; `PHALANX_BINARY` names
//! another build of the node.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use serde_json::json;

use crate::fixture::{Cluster, SOON};
use crate::leaders;
use crate::support::http::Http;
use crate::support::{client, measured, number_from_env, skipped, temp_dir, wait};

/// Clients that prepare and read back, as many as there may be.
const CROWD: usize = 64;
/// Aggregates that may load at once on a node: less than want to.
const SLOTS: u32 = 16;
const SHARDS: u32 = 6;
/// Who asks in this time after the kill is counted as hit by it.
const HIT: Duration = Duration::from_secs(10);
/// A command is tried for so long.
const PATIENCE: Duration = Duration::from_secs(30);
/// And at least so often.
const LEAST_TRIES: u32 = 20;
/// About the time for which a leader that hears nothing goes on.
const LEASE: Duration = Duration::from_millis(400);
/// How often the nodes are looked at.
const LOOK: Duration = Duration::from_millis(100);

/// One aggregate and what clients were told of it.
#[derive(Debug)]
struct Account {
    id: String,
    shard: u32,
    told: Mutex<Told>,
}

#[derive(Debug, Default, Clone)]
struct Told {
    sequence: u64,
    position: String,
}

/// One command of the load, in times since the load began.
#[derive(Debug, Clone, Copy)]
struct Asked {
    account: usize,
    /// When it was to be sent. The schedule waits for nobody.
    due: Duration,
    /// When the attempt began that was answered.
    sent: Duration,
    done: Duration,
}

impl Asked {
    fn took(&self) -> Duration {
        self.done.saturating_sub(self.due)
    }
}

/// Figures of the living nodes at one moment.
#[derive(Debug, Clone, Copy, Default)]
struct Look {
    at: Duration,
    activations: f64,
    elections: f64,
}

fn share(mut times: Vec<Duration>) -> String {
    times.sort_unstable();
    let at = |thousandths: usize| times.get(times.len() * thousandths / 1000).copied();
    let [p50, p99] = [500, 990].map(|at_| at(at_).unwrap_or_default());
    let most = times.last().copied().unwrap_or_default();
    format!(
        "{} commands, p50 {p50:.1?}, p99 {p99:.1?}, most {most:.1?}",
        times.len()
    )
}

fn p99(mut times: Vec<Duration>) -> Duration {
    times.sort_unstable();
    let at = times.len() * 99 / 100;
    times.get(at).copied().unwrap_or_default()
}

/// Lets a crowd visit each of so many things once.
fn each<T: Send>(
    count: usize,
    addresses: &[SocketAddr],
    visit: impl Fn(&mut Http, usize) -> T + Sync,
) -> Vec<T> {
    let mut all: Vec<(usize, T)> = std::thread::scope(|scope| {
        let visitors: Vec<_> = (0..CROWD)
            .map(|share| {
                let visit = &visit;
                scope.spawn(move || {
                    let mut http = anywhere(addresses, share);
                    let mine = (share..count).step_by(CROWD);
                    mine.map(|n| (n, visit(&mut http, n))).collect::<Vec<_>>()
                })
            })
            .collect();
        let visited = visitors.into_iter().map(|v| v.join().expect("it finishes"));
        visited.flatten().collect()
    });
    all.sort_unstable_by_key(|(n, _)| *n);
    all.into_iter().map(|(_, found)| found).collect()
}

/// A client whose first node is one of these in turn.
fn anywhere(addresses: &[SocketAddr], turn: usize) -> Http {
    let mut mine = addresses.to_vec();
    mine.rotate_left(turn % addresses.len());
    Http::anywhere(&mine).patient_for(Duration::from_secs(12))
}

fn open(http: &mut Http, n: usize) -> Account {
    let id = format!("r-{n}");
    let position = client::store(http, &client::open(&id));
    let (shard, _) = position.split_once(':').expect("shard:number");
    Account {
        id,
        shard: shard.parse().expect("a number"),
        told: Mutex::new(Told {
            sequence: 1,
            position,
        }),
    }
}

/// Pays 1 in, again and again with the same key until it is stored.
fn pay(http: &mut Http, account: &Account, key: &str, began: Instant) -> (Duration, Duration) {
    let request = client::deposit(&account.id, 1).key(key);
    let deadline = Instant::now() + PATIENCE;
    let mut tries = 0;
    loop {
        tries += 1;
        let sent = began.elapsed();
        let answer = http.try_send(&request);
        let done = began.elapsed();
        let heard = match answer {
            Ok(answer) if answer.status == 200 => {
                let body = answer.json();
                let mut told = account.told.lock().expect("nobody panicked");
                let sequence = body["sequence_number"].as_u64().expect("a number");
                if sequence > told.sequence {
                    told.sequence = sequence;
                    body["position"]
                        .as_str()
                        .expect("a position")
                        .clone_into(&mut told.position);
                }
                return (sent, done);
            }
            Ok(answer) => {
                assert!(client::may_come_again(&answer), "{}", answer.text());
                answer.text()
            }
            // The dead node does not answer.
            Err(error) => error.to_string(),
        };
        // A machine that stands still for a while has used the time up, but not the tries.
        let id = &account.id;
        let goes_on = tries < LEAST_TRIES || Instant::now() < deadline;
        assert!(goes_on, "{id} takes no money: {heard}");
        wait::let_pass(Duration::from_millis(10));
    }
}

/// Clients that send by a schedule to whatever aggregate chance picks, until they are stopped.
struct Load<'a> {
    accounts: &'a [Account],
    addresses: &'a [SocketAddr],
    rate: u64,
    began: Instant,
    stop: &'a AtomicBool,
}

impl Load<'_> {
    fn clients(&self) -> u64 {
        // One that waits for an answer misses its next turn after two seconds at the earliest.
        (self.rate * 2).clamp(48, 2_048)
    }

    fn client(&self, number: u64) -> Vec<Asked> {
        let mut http = anywhere(self.addresses, usize::try_from(number).expect("fits"));
        let mut asked = Vec::new();
        for turn in (number..).step_by(usize::try_from(self.clients()).expect("fits")) {
            let due = Duration::from_micros(turn * 1_000_000 / self.rate);
            wait::let_pass(due.saturating_sub(self.began.elapsed()));
            if self.stop.load(Ordering::Acquire) {
                return asked;
            }
            // Without a seed: which one is asked when does not matter.
            let pick = turn.wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(23);
            let account = usize::try_from(pick % self.accounts.len() as u64).expect("fits");
            let key = format!("load-{turn}");
            let (sent, done) = pay(&mut http, &self.accounts[account], &key, self.began);
            asked.push(Asked {
                account,
                due,
                sent,
                done,
            });
        }
        asked
    }
}

fn metric(cluster: &Cluster, node: u64, name: &str) -> f64 {
    cluster.node(node).metric(name).unwrap_or_default()
}

fn sum(cluster: &Cluster, nodes: &[u64], name: &str) -> f64 {
    nodes.iter().map(|node| metric(cluster, *node, name)).sum()
}

fn memory(cluster: &Cluster, nodes: &[u64]) -> String {
    let of = |node: &u64| {
        let mib = cluster.node(*node).resident_bytes() / (1 << 20);
        format!("node {node} {mib} MiB")
    };
    nodes.iter().map(of).collect::<Vec<_>>().join(", ")
}

fn start(directory: &std::path::Path, slots: Option<u32>) -> Cluster {
    let mut cluster = Cluster::new(directory);
    for setup in &mut cluster.setups {
        let mut changed = setup
            .clone()
            .set("CLUSTER__SHARDS", SHARDS)
            .set("ACTORS__IDLE_TIMEOUT_S", 3_600);
        if let Some(slots) = slots {
            changed = changed.set("ACTORS__MAX_CONCURRENT_ACTIVATIONS", slots);
        }
        if let Ok(binary) = std::env::var("PHALANX_BINARY") {
            changed = changed.built_as(&binary);
        }
        *setup = changed;
    }
    cluster.start_ready();
    cluster
}

/// What was seen of one kill.
struct Seen {
    asked: Vec<Asked>,
    looks: Vec<Look>,
    killed: Duration,
    /// Shards that the dead node led.
    orphans: BTreeSet<u32>,
    heirs: Vec<u64>,
}

/// Kills whoever leads most while clients ask, and looks on.
fn kill_under_load(
    cluster: &mut Cluster,
    accounts: &[Account],
    rate: u64,
    after: Duration,
) -> Seen {
    let addresses = cluster.addresses();
    let stop = AtomicBool::new(false);
    let load = Load {
        accounts,
        addresses: &addresses,
        rate,
        began: Instant::now(),
        stop: &stop,
    };
    std::thread::scope(|scope| {
        let clients: Vec<_> = (0..load.clients())
            .map(|number| {
                let load = &load;
                scope.spawn(move || load.client(number))
            })
            .collect();
        wait::let_pass(Duration::from_secs(4));
        let led = leaders(cluster, 1);
        let leads = |node: u64| led.iter().filter(|leader| **leader == node).count();
        let victim = (1..=3).max_by_key(|node| leads(*node)).expect("three");
        let orphans = (0..SHARDS)
            .zip(&led)
            .filter(|(_, leader)| **leader == victim);
        let orphans = orphans.map(|(shard, _)| shard).collect();
        let heirs: Vec<u64> = (1..=3).filter(|node| *node != victim).collect();
        let look = |cluster: &Cluster| Look {
            at: load.began.elapsed(),
            activations: sum(cluster, &heirs, "phalanx_activations_total"),
            elections: sum(cluster, &heirs, "phalanx_elections_won_total"),
        };
        let mut looks = vec![look(cluster)];
        cluster.kill(victim);
        let killed = load.began.elapsed();
        while load.began.elapsed() < killed + after {
            wait::let_pass(LOOK);
            looks.push(look(cluster));
        }
        stop.store(true, Ordering::Release);
        let asked = clients.into_iter().map(|c| c.join().expect("a client"));
        let asked = asked.flatten().collect();
        looks.push(look(cluster));
        Seen {
            asked,
            looks,
            killed,
            orphans,
            heirs,
        }
    })
}

impl Seen {
    fn is_orphan(&self, accounts: &[Account], asked: &Asked) -> bool {
        self.orphans.contains(&accounts[asked.account].shard)
    }

    /// When each shard that lost its leader took the first command again, since the kill.
    fn first_answers(&self, accounts: &[Account]) -> BTreeMap<u32, Duration> {
        let mut first = BTreeMap::new();
        for asked in self.asked.iter().filter(|a| a.sent >= self.killed) {
            if self.is_orphan(accounts, asked) {
                let took = asked.done - self.killed;
                let best = first.entry(accounts[asked.account].shard).or_insert(took);
                *best = took.min(*best);
            }
        }
        first
    }

    /// Times of commands that were due in this time and are for such shards.
    fn times(
        &self,
        accounts: &[Account],
        (from, to): (Duration, Duration),
        orphans: Option<bool>,
    ) -> Vec<Duration> {
        let of = |a: &&Asked| (from..to).contains(&a.due);
        let kind = |a: &&Asked| orphans.is_none_or(|o| self.is_orphan(accounts, a) == o);
        let asked = self.asked.iter().filter(of).filter(kind);
        asked.map(Asked::took).collect()
    }

    /// After how many whole seconds three in turn have a p99 as before.
    fn settled_after(&self, accounts: &[Account], before: Duration) -> Option<u64> {
        let end = self.looks.last()?.at;
        let second = |n: u64| {
            let from = self.killed + Duration::from_secs(n);
            let to = from + Duration::from_secs(1);
            to <= end && p99(self.times(accounts, (from, to), None)) <= before * 2
        };
        (0..120).find(|n| (*n..n + 3).all(second))
    }

    /// Whether nobody looked for as long as a lease lasts; the last look waited for the clients to end.
    fn stood_still(&self) -> bool {
        let regular = &self.looks[..self.looks.len() - 1];
        let mut pauses = regular.windows(2).map(|pair| pair[1].at - pair[0].at);
        pauses.any(|pause| pause > LEASE)
    }

    fn loaded(&self) -> f64 {
        let last = self.looks.last().map_or(0.0, |look| look.activations);
        last - self.looks.first().map_or(0.0, |look| look.activations)
    }

    /// The most that may be loaded when nothing is loaded that nobody asked for, so that nobody waits
    /// behind it: each aggregate of a shard of the dead that was asked for, and the list of the cluster's
    /// members, which is an aggregate as well. Heirs that share unevenly hand a shard on, which then
    /// loads what it is asked for once more, and a little of it twice when the hand-over is refused first.
    fn may_load(&self, accounts: &[Account]) -> f64 {
        let asked = self.asked.iter().filter(|a| a.done >= self.killed);
        let asked: BTreeSet<usize> = asked.map(|a| a.account).collect();
        let mut by_shard = BTreeMap::<u32, usize>::new();
        for account in &asked {
            *by_shard.entry(accounts[*account].shard).or_default() += 1;
        }
        let of_the_dead = by_shard.iter().filter(|(s, _)| self.orphans.contains(s));
        let of_the_dead: usize = of_the_dead.map(|(_, count)| count).sum();
        let won = |look: Option<&Look>| look.map_or(0.0, |look| look.elections);
        let elections = won(self.looks.last()) - won(self.looks.first());
        measured("elections after the kill", elections);
        let moved = (elections - self.orphans.len() as f64).max(0.0);
        let most = by_shard.values().max().copied().unwrap_or_default();
        1.0 + of_the_dead as f64 + moved * 2.0 * most as f64
    }

    fn report(&self, accounts: &[Account]) {
        let before = (Duration::from_secs(1), self.killed);
        let after = (self.killed, self.killed + HIT);
        let tell = |what: &str, when, orphans| {
            measured(what, share(self.times(accounts, when, orphans)));
        };
        tell("commands before the kill", before, None);
        tell("the 10 s after it, shards of the dead", after, Some(true));
        tell("the 10 s after it, other shards", after, Some(false));
        for (shard, took) in self.first_answers(accounts) {
            let ms = took.as_millis();
            measured(
                "first command after the kill",
                format!("shard {shard} {ms} ms"),
            );
        }
        let per_second = self.looks.windows(2).map(|pair| {
            let time = (pair[1].at - pair[0].at).as_secs_f64();
            (pair[1].activations - pair[0].activations) / time
        });
        let most = per_second.fold(0.0, f64::max);
        measured(
            "loaded after the kill",
            format!("{}, at most {most:.0}/s over {LOOK:?}", self.loaded()),
        );
        let usual = p99(self.times(accounts, before, None));
        let settled = self.settled_after(accounts, usual);
        measured(
            "p99 is at most twice the usual again after",
            format!("{settled:?} s"),
        );
    }
}

/// Everything that clients were told is there, through the heirs.
fn read_all(cluster: &Cluster, heirs: &[u64], accounts: &[Account]) {
    let addresses: Vec<_> = heirs.iter().map(|node| cluster.address(*node)).collect();
    let loaded = || sum(cluster, heirs, "phalanx_activations_total");
    let (before, began) = (loaded(), Instant::now());
    let times = each(accounts.len(), &addresses, |http, n| {
        let account = &accounts[n];
        let told = account.told.lock().expect("nobody panicked").clone();
        let request = client::fresh_after(&account.id, &told.position);
        let sent = Instant::now();
        let answer = client::expect_success(http, &request).json();
        assert_eq!(answer["sequence_number"], json!(told.sequence), "{answer}");
        let balance = told.sequence - 1;
        assert_eq!(answer["state"]["balance_cents"], json!(balance), "{answer}");
        sent.elapsed()
    });
    let seconds = began.elapsed().as_secs_f64();
    let loads = loaded() - before;
    measured(
        "everything is read at once",
        format!(
            "{}, {:.0}/s, {loads} loaded, {:.0}/s",
            share(times),
            accounts.len() as f64 / seconds,
            loads / seconds
        ),
    );
}

#[test]
fn heirs_of_many_aggregates_load_those_that_are_asked_for() {
    let count = number_from_env("PHALANX_RESIDENT", 2_000);
    let rate = number_from_env("PHALANX_RATE", 200);
    let by_hand = count > 10_000;
    let slots = if by_hand { None } else { Some(SLOTS) };
    let after = Duration::from_secs(if by_hand { 60 } else { 12 });
    let directory = temp_dir();
    let mut cluster = start(directory.path(), slots);
    let count = usize::try_from(count).expect("fits");
    let accounts = each(count, &cluster.addresses(), open);
    // A leader that is lost on a busy machine leaves its aggregates to heirs that load what is asked for.
    let in_memory = (0..10).any(|_| {
        let resident = sum(&cluster, &[1, 2, 3], "phalanx_actors_resident");
        measured("aggregates in memory", format!("{resident} of {count}"));
        if resident < count as f64 {
            each(count, &cluster.addresses(), |http, n| {
                let told = accounts[n].told.lock().expect("nobody panicked").clone();
                let read = client::fresh_after(&accounts[n].id, &told.position);
                client::expect_success(http, &read);
            });
        }
        resident >= count as f64
    });
    assert!(in_memory, "not all aggregates are in memory");
    measured("memory before the kill", memory(&cluster, &[1, 2, 3]));

    let seen = kill_under_load(&mut cluster, &accounts, rate, after);
    seen.report(&accounts);
    measured("memory after it", memory(&cluster, &seen.heirs));

    // Each shard of the dead node takes commands again.
    let first = seen.first_answers(&accounts);
    assert_eq!(first.keys().copied().collect::<BTreeSet<_>>(), seen.orphans);
    for took in first.values() {
        assert!(*took < SOON, "{first:?}");
    }
    let (loaded, most) = (seen.loaded(), seen.may_load(&accounts));
    if seen.stood_still() {
        // Leaders that have lost their lease give up what they have in memory, with an election or without.
        skipped("what heirs may load", "the machine stood still");
    } else {
        assert!((1.0..=most).contains(&loaded), "{loaded} of {most}");
    }

    read_all(&cluster, &seen.heirs, &accounts);
    let limit = f64::from(slots.unwrap_or(64));
    for heir in &seen.heirs {
        let most = metric(&cluster, *heir, "phalanx_activations_loading_most");
        measured("loaded at once at most", format!("node {heir} {most}"));
        assert!((1.0..=limit).contains(&most), "{most} of {limit} slots");
        assert_eq!(metric(&cluster, *heir, "phalanx_quarantines_total"), 0.0);
    }
}
