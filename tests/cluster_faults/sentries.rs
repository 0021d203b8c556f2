//! Sentries: clients that each stand at one node and ask for one shard, in turns a deposit and a
//! fresh read, and note what they were told and when.
//!
//! They refuse to retry, so that each answer speaks for itself: what a node calls "not applied" must
//! never appear. Three of them share an account, one at each node, and each read is held against all
//! that any of them had been told before it began.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::support::books::Known;
use crate::support::client;
use crate::support::http::{Http, Request, Response};
use crate::support::wait;

/// Between two requests of one sentry.
const PACE: Duration = Duration::from_millis(25);
/// How long a sentry waits for an answer; a shard without a leader has one again sooner.
pub(crate) const PATIENCE: Duration = Duration::from_millis(2_500);
const AMOUNTS_PER_NODE: i64 = 10_000_000;

/// What came back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Said {
    /// Stored, or read, at this sequence number and with this balance (reads only).
    Done { sequence: u64, balance: i64 },
    /// A refusal.
    Refused {
        status: u16,
        code: String,
        outcome: String,
    },
    /// No answer in time, or none at all.
    Silent,
    /// Something that the contract does not know.
    Wrong(String),
}

/// One request and what became of it.
#[derive(Debug, Clone)]
pub(crate) struct Seen {
    pub(crate) node: u64,
    pub(crate) shard: usize,
    pub(crate) began: Instant,
    pub(crate) ended: Instant,
    /// The amount paid in; none for a read.
    pub(crate) amount: Option<i64>,
    /// The newest sequence number that any sentry of the shard knew when this was asked.
    known: u64,
    pub(crate) said: Said,
    /// Who answered a read: the node, its shard and its term.
    served_by: Option<String>,
}

impl Seen {
    pub(crate) fn took(&self) -> Duration {
        self.ended - self.began
    }

    pub(crate) fn is_done(&self) -> bool {
        matches!(self.said, Said::Done { .. })
    }

    pub(crate) fn is_write(&self) -> bool {
        self.amount.is_some()
    }

    /// Whether it showed less than somebody had been told before it was asked.
    fn is_stale(&self) -> bool {
        let shown = match self.said {
            Said::Done { sequence, .. } if !self.is_write() => Some(sequence),
            Said::Done { .. } | Said::Refused { .. } | Said::Silent | Said::Wrong(_) => None,
        };
        shown.is_some_and(|shown| shown < self.known)
    }
}

type Log = Arc<Mutex<Vec<Seen>>>;

/// Sentries at every node for every shard.
#[derive(Debug)]
pub(crate) struct Sentries {
    accounts: Vec<String>,
    log: Log,
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl Sentries {
    /// Posts them; `accounts` has an account of each shard that nobody else uses.
    pub(crate) fn start(nodes: &[(u64, SocketAddr)], accounts: &[String]) -> Self {
        let (log, stop) = (Log::default(), Arc::<AtomicBool>::default());
        let known = Known::new(accounts.len());
        let mut threads = Vec::new();
        for (node, address) in nodes {
            for (shard, account) in accounts.iter().enumerate() {
                let sentry = Sentry {
                    node: *node,
                    shard,
                    account: account.clone(),
                    http: Http::new(*address).patient_for(PATIENCE),
                    known: known.clone(),
                    log: Arc::clone(&log),
                };
                let stop = Arc::clone(&stop);
                threads.push(std::thread::spawn(move || sentry.stand(&stop)));
            }
        }
        Self {
            accounts: accounts.to_vec(),
            log,
            stop,
            threads,
        }
    }

    /// What was seen so far of requests that began at this moment or later.
    pub(crate) fn since(&self, from: Instant) -> Vec<Seen> {
        let log = self.log.lock().expect("no sentry panics");
        newest(&log, from).cloned().collect()
    }

    /// When a deposit in this shard that was begun after `from` was first acknowledged by one of
    /// these nodes.
    pub(crate) fn first_write(
        &self,
        shard: usize,
        nodes: &[u64],
        from: Instant,
    ) -> Option<Instant> {
        let log = self.log.lock().expect("no sentry panics");
        newest(&log, from)
            .filter(|seen| seen.shard == shard && nodes.contains(&seen.node))
            .filter(|seen| seen.is_write() && seen.is_done())
            .map(|seen| seen.ended)
            .min()
    }

    /// Calls them in.
    pub(crate) fn stop(mut self) -> Report {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            thread.join().expect("no sentry panics");
        }
        let seen = std::mem::take(&mut *self.log.lock().expect("no sentry panics"));
        Report {
            accounts: std::mem::take(&mut self.accounts),
            seen,
        }
    }
}

impl Drop for Sentries {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

/// What began at this moment or later; looks no further back than it must, for runs may be long.
fn newest(log: &[Seen], from: Instant) -> impl Iterator<Item = &Seen> {
    // Notes are made in the order of answers, but for threads that overtake each other.
    let near = move |seen: &&Seen| seen.ended + PATIENCE >= from;
    let latest_first = log.iter().rev().take_while(near);
    latest_first.filter(move |seen| seen.began >= from)
}

struct Sentry {
    node: u64,
    shard: usize,
    account: String,
    http: Http,
    known: Known,
    log: Log,
}

impl Sentry {
    fn stand(mut self, stop: &AtomicBool) {
        let mut number = 0;
        while !stop.load(Ordering::Relaxed) {
            number += 1;
            let node = i64::try_from(self.node).expect("a small number");
            let amount = node * AMOUNTS_PER_NODE + number;
            let deposit = client::deposit(&self.account, amount).key(&format!("sentry-{amount}"));
            self.ask(&deposit, Some(amount));
            wait::let_pass(PACE);
            self.ask(&client::fresh(&self.account), None);
            wait::let_pass(PACE);
        }
    }

    fn ask(&mut self, request: &Request, amount: Option<i64>) {
        let known = self.known.of(self.shard);
        let began = Instant::now();
        let answer = self.http.try_send(request);
        let ended = Instant::now();
        let served_by = answer
            .as_ref()
            .ok()
            .filter(|response| response.status == 200);
        let served_by = served_by.map(|response| response.json()["served_by"].to_string());
        let said = answer.map_or(Said::Silent, |response| said(&response));
        if let Said::Done { sequence, .. } = said {
            self.known.learn(self.shard, sequence);
        }
        self.log.lock().expect("no sentry panics").push(Seen {
            node: self.node,
            shard: self.shard,
            began,
            ended,
            amount,
            known,
            said,
            served_by,
        });
    }
}

fn said(response: &Response) -> Said {
    if response.status == 200 {
        let body = response.json();
        let balance = body["state"]["balance_cents"].as_i64();
        return Said::Done {
            sequence: body["sequence_number"].as_u64().unwrap_or_default(),
            balance: balance.unwrap_or_default(),
        };
    }
    if !client::may_come_again(response) {
        return Said::Wrong(format!("{} {}", response.status, response.text()));
    }
    let outcome = response.json()["outcome"].as_str().map(str::to_owned);
    Said::Refused {
        status: response.status,
        code: response.code(),
        outcome: outcome.unwrap_or_default(),
    }
}

/// What all sentries noted.
#[derive(Debug)]
pub(crate) struct Report {
    accounts: Vec<String>,
    pub(crate) seen: Vec<Seen>,
}

impl Report {
    /// Holds every answer against the histories.
    ///
    /// # Panics
    /// At the first answer that is not true, or not in the contract.
    pub(crate) fn audit(&self, http: &mut Http) {
        for (shard, account) in self.accounts.iter().enumerate() {
            let entries = client::history(http, account)
                .unwrap_or_else(|refused| panic!("history of {account}: {}", refused.text()));
            let (deposits, balances) = (client::deposits(&entries), client::balances(&entries));
            for seen in self.seen.iter().filter(|seen| seen.shard == shard) {
                if seen.is_stale() {
                    let by = seen.served_by.as_deref().unwrap_or_default();
                    panic!(
                        "a stale read: {seen:?} by {by}, after\n{}",
                        self.before(seen)
                    );
                }
                check(seen, &deposits, &balances);
            }
        }
    }

    /// What was asked of the same shard in the second and a half before this ended, for the person who
    /// reads a failure: how long before, at which node, what, and what came back.
    fn before(&self, seen: &Seen) -> String {
        let near = Duration::from_millis(1_500);
        let of_shard = self.seen.iter().filter(|other| other.shard == seen.shard);
        let around = of_shard.filter(|other| other.ended + near > seen.began);
        let around = around.filter(|other| other.began < seen.ended);
        let ago = |at: Instant| seen.ended.saturating_duration_since(at).as_millis();
        let line = |other: &Seen| {
            let what = other.amount.map_or("read", |_| "write");
            let (began, ended) = (ago(other.began), ago(other.ended));
            format!(
                "{began} to {ended} ms before, node {}, {what}: {:?}\n",
                other.node, other.said
            )
        };
        around.map(line).collect()
    }

    /// How many deposits were acknowledged.
    pub(crate) fn writes(&self) -> usize {
        let done = self.seen.iter().filter(|s| s.is_write() && s.is_done());
        done.count()
    }

    /// How many answers of each kind there were, and how long they took: median and longest.
    pub(crate) fn summary(&self) -> String {
        let mut counts: HashMap<String, Vec<Duration>> = HashMap::new();
        for seen in &self.seen {
            let what = if seen.is_write() { "write" } else { "read" };
            let how = match &seen.said {
                Said::Done { .. } => "done".to_owned(),
                Said::Refused { code, .. } => code.clone(),
                Said::Silent => "silent".to_owned(),
                Said::Wrong(text) => text.clone(),
            };
            let kind = format!("{what} {how}");
            counts.entry(kind).or_default().push(seen.took());
        }
        let line = |(how, mut times): (String, Vec<Duration>)| {
            times.sort_unstable();
            let (median, most) = (times[times.len() / 2], times[times.len() - 1]);
            let (median, most) = (median.as_millis(), most.as_millis());
            format!("{} {how} ({median} ms, most {most} ms)", times.len())
        };
        let mut lines: Vec<String> = counts.into_iter().map(line).collect();
        lines.sort();
        lines.join(", ")
    }
}

fn check(seen: &Seen, deposits: &HashMap<i64, Vec<u64>>, balances: &[i64]) {
    let places = seen.amount.and_then(|amount| deposits.get(&amount));
    let places = places.map(Vec::as_slice).unwrap_or_default();
    assert!(places.len() <= 1, "paid in twice: {seen:?}: {places:?}");
    match &seen.said {
        Said::Wrong(text) => panic!("not in the contract: {text}: {seen:?}"),
        Said::Done { sequence, .. } if seen.is_write() => {
            assert_eq!(places, [*sequence], "lost or moved: {seen:?}");
            assert!(*sequence > seen.known, "out of order: {seen:?}");
        }
        Said::Done { sequence, balance } => {
            let at = usize::try_from(*sequence).expect("fits");
            assert_eq!(balances.get(at), Some(balance), "never existed: {seen:?}");
        }
        Said::Refused { outcome, .. } if outcome == "not_applied" => {
            assert!(places.is_empty(), "applied after all: {seen:?}: {places:?}");
        }
        Said::Refused { .. } | Said::Silent => {}
    }
}
