//! Clients that pay money in through nodes they know nothing about, with one retry each.
//!
//! Each amount occurs once, so a history tells which commands took effect and how often.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::support::client;
use crate::support::http::{Http, Request};
use crate::support::node::NodeSetup;
use crate::support::wait;

const ENOUGH_WITHIN: Duration = Duration::from_secs(120);
/// Acknowledged deposits below which a cluster stood still while something was done to it.
const LEAST_MEANWHILE: usize = 50;

/// One deposit and what became of it.
#[derive(Debug)]
pub(crate) struct Deposit {
    pub(crate) account: String,
    pub(crate) amount: i64,
    /// The client could retry it without a risk.
    pub(crate) keyed: bool,
    /// The last answer: sequence number, or what went wrong.
    pub(crate) outcome: Result<u64, String>,
    pub(crate) replayed: bool,
    pub(crate) retried: bool,
    pub(crate) began: Instant,
    pub(crate) took: Duration,
}

/// Clients at work.
pub(crate) struct Load {
    stop: Arc<AtomicBool>,
    /// How many deposits have ended, well or not.
    ended: Arc<AtomicUsize>,
    clients: Vec<JoinHandle<Vec<Deposit>>>,
}

impl Load {
    /// Starts clients that send to these nodes in turns; those of odd numbers send keys.
    pub(crate) fn start(count: i64, addresses: &[SocketAddr], accounts: &[String]) -> Self {
        let (stop, ended) = (Arc::<AtomicBool>::default(), Arc::<AtomicUsize>::default());
        let clients = (0..count)
            .map(|number| {
                let client = Client {
                    number,
                    nodes: addresses
                        .iter()
                        .map(|address| Http::new(*address).patient_for(Duration::from_secs(12)))
                        .collect(),
                    accounts: accounts.to_vec(),
                    stop: Arc::clone(&stop),
                    ended: Arc::clone(&ended),
                };
                std::thread::spawn(move || client.run())
            })
            .collect();
        Self {
            stop,
            ended,
            clients,
        }
    }

    /// Waits until so many more deposits have ended, so that what is done to the cluster meets clients at
    /// work, however slow the machine is.
    pub(crate) fn progress(&self, more: usize) {
        let goal = self.ended.load(Ordering::Relaxed) + more;
        wait::until("deposits go on", ENOUGH_WITHIN, || {
            (self.ended.load(Ordering::Relaxed) >= goal).then_some(())
        });
    }

    /// The same for what is asserted by [`assert_went_on`].
    pub(crate) fn goes_on(&self) {
        self.progress(2 * LEAST_MEANWHILE);
    }

    /// Goes on until there are this many deposits, however slow the machine is, and stops then.
    pub(crate) fn stop_after(self, least: usize) -> Vec<Deposit> {
        wait::until("there are enough deposits", ENOUGH_WITHIN, || {
            (self.ended.load(Ordering::Relaxed) >= least).then_some(())
        });
        self.stop()
    }

    /// Lets every client finish its last deposit.
    pub(crate) fn stop(self) -> Vec<Deposit> {
        self.stop.store(true, Ordering::Release);
        let finished = self.clients.into_iter().map(JoinHandle::join);
        finished
            .flat_map(|done| done.expect("a client finishes"))
            .collect()
    }
}

struct Client {
    number: i64,
    nodes: Vec<Http>,
    accounts: Vec<String>,
    stop: Arc<AtomicBool>,
    ended: Arc<AtomicUsize>,
}

impl Client {
    fn run(mut self) -> Vec<Deposit> {
        let mut done = Vec::new();
        let mut turn = usize::try_from(self.number).expect("fits");
        while !self.stop.load(Ordering::Acquire) {
            turn += 1;
            let amount = self.number * 1_000_000 + i64::try_from(done.len()).expect("fits") + 1;
            let account = self.accounts[turn % self.accounts.len()].clone();
            done.push(self.pay(turn, account, amount));
            self.ended.fetch_add(1, Ordering::Relaxed);
        }
        done
    }

    fn pay(&mut self, turn: usize, account: String, amount: i64) -> Deposit {
        let keyed = self.number % 2 == 1;
        let plain = client::deposit(&account, amount);
        let request = if keyed {
            plain.key(&format!("load-{amount}"))
        } else {
            plain
        };
        let started = Instant::now();
        let mut retried = false;
        let mut sent = self.once(turn, &request);
        // Without a key, only what was certainly not stored may be sent again.
        let again = match &sent {
            Ok(_) => false,
            Err(reason) => {
                keyed || reason.contains("not_applied") || reason.contains("Connection refused")
            }
        };
        if again {
            retried = true;
            sent = self.once(turn + 1, &request);
        }
        let (outcome, replayed) = match sent {
            Ok((sequence, replayed)) => (Ok(sequence), replayed),
            Err(reason) => (Err(reason), false),
        };
        Deposit {
            account,
            amount,
            keyed,
            outcome,
            replayed,
            retried,
            began: started,
            took: started.elapsed(),
        }
    }

    fn once(&mut self, turn: usize, request: &Request) -> Result<(u64, bool), String> {
        let at = turn % self.nodes.len();
        let answer = self.nodes[at].try_send(request);
        let answer = answer.map_err(|error| format!("node {at}: {error}"))?;
        if answer.status == 200 {
            let replayed = answer.header("Idempotent-Replay").is_some();
            let sequence = answer.json()["sequence_number"].as_u64();
            Ok((sequence.expect("a number"), replayed))
        } else {
            Err(format!("node {at}: {} {}", answer.status, answer.text()))
        }
    }
}

/// Holds the deposits against the histories: what was acknowledged stands where it was said to, and
/// nothing stands twice.
pub(crate) fn audit(mut http: Http, deposits: &[Deposit]) {
    let mut found: BTreeMap<String, _> = BTreeMap::new();
    for deposit in deposits {
        let history = found.entry(deposit.account.clone()).or_insert_with(|| {
            let entries = client::history(&mut http, &deposit.account);
            client::deposits(&entries.expect("a history is answered"))
        });
        let places = history.get(&deposit.amount).cloned().unwrap_or_default();
        match &deposit.outcome {
            Ok(sequence) => assert_eq!(places, [*sequence], "{deposit:?}"),
            Err(_) => assert!(places.len() <= 1, "{deposit:?}: {places:?}"),
        }
    }
}

/// Lets the nodes of a cluster wait for leaders and for one another about as long as these clients wait for
/// them: what is tried is that no request is lost, and not that elections on a busy machine are short.
pub(crate) fn patient(setup: NodeSetup) -> NodeSetup {
    setup
        .set("CLUSTER__LEADER_WAIT_MS", 9_000)
        .set("CLUSTER__ISOLATED_WAIT_MS", 9_000)
        // A client that was not given a processor may come back to its connection as late as that.
        .set("HTTP__SHUTDOWN_LINGER_MS", 1_500)
}

/// Says how many deposits there were, how many in a second, and how long they took.
pub(crate) fn summary(deposits: &[Deposit]) -> String {
    let first = deposits.iter().map(|deposit| deposit.began).min();
    let last = deposits.iter().map(|deposit| deposit.began + deposit.took);
    let lasted = first.zip(last.max()).map(|(first, last)| last - first);
    let per_second = deposits.len() as f64 / lasted.unwrap_or_default().as_secs_f64();
    let mut times: Vec<Duration> = deposits.iter().map(|deposit| deposit.took).collect();
    times.sort_unstable();
    let at = |share: usize| {
        times
            .get(times.len() * share / 1000)
            .copied()
            .unwrap_or_default()
    };
    let retried = deposits.iter().filter(|deposit| deposit.retried).count();
    format!(
        "{} deposits, {per_second:.0}/s, {retried} retried, p50 {:?}, p99 {:?}, most {:?}",
        times.len(),
        at(500),
        at(990),
        times.last().copied().unwrap_or_default()
    )
}

/// Asserts that no client saw an error, and that enough happened for that to mean something.
pub(crate) fn assert_unharmed(deposits: &[Deposit], least: usize) {
    let harmed: Vec<&Deposit> = deposits.iter().filter(|d| d.outcome.is_err()).collect();
    assert!(
        harmed.is_empty(),
        "{} of {}, for instance {:?}",
        harmed.len(),
        deposits.len(),
        harmed.first()
    );
    assert!(deposits.len() >= least, "only {} deposits", deposits.len());
}

/// Asserts that deposits went on being acknowledged between these moments: what is acknowledged before
/// and afterwards says nothing about a time in which something is done to the cluster. Whoever ends that
/// time waits for some of them ([`Load::goes_on`]), as long as it takes.
pub(crate) fn assert_went_on(deposits: &[Deposit], from: Instant, to: Instant) {
    let acknowledged = deposits.iter().filter(|deposit| deposit.outcome.is_ok());
    let ended = acknowledged.map(|deposit| deposit.began + deposit.took);
    let count = ended.filter(|ended| (from..to).contains(ended)).count();
    assert!(
        count >= LEAST_MEANWHILE,
        "too little happened meanwhile to mean anything: {count} in {:?}",
        to - from
    );
}
