//! A cluster on a network of the test's own, under load, and what must hold of it in the end.
//!
//! Owns the order of a run: start, load, harm (which the tests do), mended, stop, audit. One run at a
//! time, so that what is measured is measured alone. Refuses a run in which too little happened.
//! Invariant: dropping a site kills its nodes before it removes their network.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use serde_json::Value;
use tempfile::TempDir;

use super::calm::Calm;
use super::net::{NODES, Net};
use super::sentries::{Report, Sentries};
use crate::fixture::{Cluster, SOON};
use crate::support::audit::audit_by;
use crate::support::books::Tellers;
use crate::support::client;
use crate::support::http::{Http, Request};
use crate::support::node::NodeSetup;
use crate::support::{measured, seeded, skipped, temp_dir, wait};

pub(crate) const SHARDS: usize = 4;
const TELLERS: i64 = 4;
const ACCOUNTS: usize = 12;
const PACE: Duration = Duration::from_millis(8);
/// Acknowledged commands in a second, of all clients together, below which a run says nothing; far below
/// what a busy machine does.
const LEAST_RATE: f64 = 5.0;
/// The promise about a shard whose leader is gone, for 99 of 100.
const WRITABLE_WITHIN: Duration = Duration::from_secs(2);
/// A copy that lacks no more than this follows.
const FOLLOWS: u64 = 64;

/// Between two looks at the whole cluster.
const LOOK_PAUSE: Duration = Duration::from_millis(30);

static ALONE: Mutex<()> = Mutex::new(());

/// See the file's description.
#[derive(Debug)]
pub(crate) struct Site {
    pub(crate) cluster: Cluster,
    pub(crate) net: Net,
    pub(crate) calm: Calm,
    test: String,
    /// The tellers' accounts, with their shards.
    accounts: Vec<(String, usize)>,
    /// An account of each shard for the sentries.
    pub(crate) posts: Vec<String>,
    rng: StdRng,
    _directory: TempDir,
    _alone: MutexGuard<'static, ()>,
}

/// The clients of a site.
#[derive(Debug)]
pub(crate) struct Load {
    tellers: Tellers,
    /// What the tellers use.
    accounts: Arc<[String]>,
    pub(crate) sentries: Sentries,
    began: Instant,
}

impl Site {
    /// Three nodes that are ready; `None` where there can be no such network.
    pub(crate) fn start(test: &str) -> Option<Self> {
        Self::start_with(test, |_, setup| setup)
    }

    /// The same, with nodes that are set up differently.
    pub(crate) fn start_with(
        test: &str,
        change: impl Fn(u64, NodeSetup) -> NodeSetup,
    ) -> Option<Self> {
        let alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
        let directory = temp_dir();
        let net = Net::create(test, directory.path())?;
        let members = NODES.map(|node| (node, net.member_address(node)));
        let setups = NODES.map(|node| {
            let mut setup = NodeSetup::member(directory.path(), node, &members);
            setup.address = net.http_address(node);
            let wrapper = net.wrapper(node);
            let wrapper: Vec<&str> = wrapper.iter().map(String::as_str).collect();
            change(node, setup.wrapped_by(&wrapper))
        });
        let mut cluster = Cluster {
            setups: setups.to_vec(),
            nodes: vec![None, None, None],
        };
        for node in NODES {
            cluster.start(node);
        }
        let mut site = Self {
            cluster,
            net,
            calm: Calm::start(),
            test: test.to_owned(),
            accounts: Vec::new(),
            posts: Vec::new(),
            rng: seeded(test),
            _directory: directory,
            _alone: alone,
        };
        site.wait_whole();
        let opened = site.cluster.open_accounts(ACCOUNTS);
        let placed = |(id, position): (String, String)| (id, shard_of(&position));
        site.accounts = opened.into_iter().map(placed).collect();
        site.open_posts();
        Some(site)
    }

    /// Opens accounts until there is one for the sentries of each shard.
    fn open_posts(&mut self) {
        let mut http = self.cluster.anywhere();
        let mut posts: Vec<Option<String>> = vec![None; SHARDS];
        for number in 0.. {
            let id = format!("post-{number}");
            let shard = shard_of(&client::store(&mut http, &client::open(&id)));
            posts[shard].get_or_insert(id);
            if posts.iter().all(Option::is_some) {
                break;
            }
        }
        self.posts = posts.into_iter().flatten().collect();
    }

    /// Clients at all nodes, with and without retries.
    pub(crate) fn load(&mut self) -> Load {
        self.load_on(&(0..SHARDS).collect::<Vec<_>>())
    }

    /// The same, with tellers that use these shards only.
    pub(crate) fn load_on(&mut self, shards: &[usize]) -> Load {
        let used = self
            .accounts
            .iter()
            .filter(|(_, shard)| shards.contains(shard));
        let accounts: Arc<[String]> = used.map(|(id, _)| id.clone()).collect();
        let addresses = self.cluster.addresses();
        let rng = &mut self.rng;
        let nodes: Vec<(u64, SocketAddr)> = NODES.into_iter().zip(addresses.clone()).collect();
        Load {
            tellers: Tellers::start_paced(TELLERS, &addresses, &accounts, PACE, rng),
            accounts,
            sentries: Sentries::start(&nodes, &self.posts),
            began: Instant::now(),
        }
    }

    /// The accounts of the tellers.
    pub(crate) fn tellers_accounts(&self) -> Vec<String> {
        self.accounts.iter().map(|(id, _)| id.clone()).collect()
    }

    /// A random time in milliseconds, so that harm does not always come at the same moment.
    pub(crate) fn random_ms(&mut self, range: std::ops::Range<u64>) -> Duration {
        Duration::from_millis(rand::Rng::random_range(&mut self.rng, range))
    }

    /// The shards as a node sees them; `None` when it does not answer.
    pub(crate) fn shards(&self, node: u64) -> Option<Vec<Value>> {
        self.cluster.shards(node)
    }

    /// Who leads each shard, as all nodes agree.
    pub(crate) fn leaders(&self) -> Vec<u64> {
        wait::until("all nodes agree who leads", SOON, || {
            let leaders = |node| -> Option<Vec<u64>> {
                let shards = self.shards(node)?;
                shards
                    .iter()
                    .map(|shard| shard["leader"].as_u64())
                    .collect()
            };
            let first = leaders(1)?;
            let agreed = leaders(2).as_ref() == Some(&first) && leaders(3).as_ref() == Some(&first);
            agreed.then_some(first)
        })
    }

    /// The node that leads most shards, and which.
    pub(crate) fn busiest(&self) -> (u64, Vec<usize>) {
        let leaders = self.leaders();
        let led = |node: u64| -> Vec<usize> {
            let own = leaders.iter().enumerate().filter(|(_, l)| **l == node);
            own.map(|(shard, _)| shard).collect()
        };
        let all = NODES.map(|node| (node, led(node)));
        let busiest = all.into_iter().max_by_key(|(_, shards)| shards.len());
        busiest.expect("there are three nodes")
    }

    /// The other two.
    pub(crate) fn others(node: u64) -> Vec<u64> {
        NODES.into_iter().filter(|other| *other != node).collect()
    }

    /// All ways between a node and the others.
    pub(crate) fn ways_of(node: u64) -> Vec<(u64, u64)> {
        let others = Self::others(node).into_iter();
        others
            .flat_map(|other| [(node, other), (other, node)])
            .collect()
    }

    /// Hands a shard to a node, waiting until that one may have it.
    pub(crate) fn transfer(&self, shard: usize, to: u64) {
        self.cluster.transfer(shard, to);
    }

    /// Heals the network and waits until every node is connected and follows.
    pub(crate) fn mend(&mut self) {
        let began = Instant::now();
        self.net.mend();
        self.wait_whole();
        measured(
            &format!("{}, whole again", self.test),
            format!("{:?}", began.elapsed()),
        );
    }

    /// Waits until every node is ready, connected to the others and behind in nothing.
    pub(crate) fn wait_whole(&self) {
        let mut last = String::new();
        let whole = wait::poll(SOON * 2, || match self.lacks() {
            None => Some(()),
            Some(what) => {
                last = what;
                // Each look asks every node several questions.
                wait::let_pass(LOOK_PAUSE);
                None
            }
        });
        assert!(
            whole.is_some(),
            "the cluster is not whole: {last}\n{}",
            self.logs()
        );
    }

    /// The first thing that keeps the cluster from being whole.
    fn lacks(&self) -> Option<String> {
        for node in NODES {
            let mut http =
                Http::new(self.cluster.address(node)).patient_for(Duration::from_secs(3));
            let mut get = |target: &str| http.try_send(&Request::get(target));
            match get("/readyz?verbose") {
                Ok(answer) if answer.status == 200 => {}
                other => return Some(format!("node {node} is not ready: {other:?}")),
            }
            let Ok(view) = get("/v1/cluster") else {
                return Some(format!("node {node} does not show the cluster"));
            };
            let members = view.json()["members"]
                .as_array()
                .cloned()
                .unwrap_or_default();
            let apart = members
                .iter()
                .find(|member| !matches!(member["state"].as_str(), Some("this" | "connected")));
            if let Some(member) = apart {
                return Some(format!("node {node} misses {member}"));
            }
            for shard in self.shards(node).unwrap_or_default() {
                let followers = shard["followers"].as_array().cloned().unwrap_or_default();
                let behind = |f: &Value| f["lag"].as_u64().is_none_or(|lag| lag > FOLLOWS);
                if followers.len() < 2 || followers.iter().any(behind) {
                    return Some(format!("node {node} sees {shard}"));
                }
            }
        }
        None
    }

    /// How long shards could not be written to through these nodes, from some harm on. Waits for each
    /// to be writable again.
    pub(crate) fn outages(
        &self,
        load: &Load,
        shards: &[usize],
        through: &[u64],
        harm: Moment,
    ) -> Vec<Outage> {
        let outage = |shard: &usize| {
            let first_write = || load.sentries.first_write(*shard, through, harm.done);
            let writable = wait::poll(SOON, first_write).unwrap_or_else(|| {
                panic!("shard {shard} is not writable again\n{}", self.logs());
            });
            Outage {
                lasted: writable - harm.began,
                counts: self.calm.held(harm.began, writable),
            }
        };
        shards.iter().map(outage).collect()
    }

    /// Stops the load, waits until all copies are the same, and holds everything against them.
    pub(crate) fn finish(self, load: Load) -> Report {
        self.finish_and(load, |_| ())
    }

    /// The same; `look` looks at the cluster when nobody writes any more.
    pub(crate) fn finish_and(self, load: Load, look: impl FnOnce(&Self)) -> Report {
        let lasted = load.began.elapsed();
        let books = load.tellers.stop();
        let report = load.sentries.stop();
        let promises: usize = books.iter().map(|books| books.promises.len()).sum();
        let rate = (promises + report.writes()) as f64 / lasted.as_secs_f64();
        self.wait_whole();
        self.cluster.wait_same_logs();
        look(&self);
        let checked = audit_by(self.cluster.anywhere(), &load.accounts, &books);
        report.audit(&mut self.cluster.anywhere());
        measured(
            &format!("{}, acknowledged commands", self.test),
            format!("{rate:.0}/s; of tellers {checked:?}"),
        );
        measured(&format!("{}, sentries", self.test), report.summary());
        assert!(
            rate >= LEAST_RATE,
            "too little happened to mean anything: {rate:.1}/s"
        );
        let ids = self.accounts.iter().map(|(id, _)| id).chain(&self.posts);
        self.cluster.assert_copies_agree(SHARDS, ids);
        report
    }

    /// What every node wrote, for a failure's message.
    pub(crate) fn logs(&self) -> String {
        self.cluster.logs()
    }
}

impl Load {
    /// Panics when a client had to give up, so that a long run ends early.
    pub(crate) fn check(&mut self) {
        self.tellers.check();
    }
}

/// When something was done to the cluster. Doing it takes a moment itself.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Moment {
    /// Not yet done then: times are measured from here.
    pub(crate) began: Instant,
    /// Done by then: only what was asked later shows its effect.
    pub(crate) done: Instant,
}

impl Moment {
    /// Does it.
    pub(crate) fn of(deed: impl FnOnce()) -> Self {
        let began = Instant::now();
        deed();
        let done = Instant::now();
        Self { began, done }
    }

    /// This one, at which nothing is done.
    pub(crate) fn now() -> Self {
        Self::of(|| ())
    }
}

/// How long a shard was not writable.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Outage {
    pub(crate) lasted: Duration,
    /// Whether the machine kept going meanwhile.
    pub(crate) counts: bool,
}

/// Prints how long shards were not writable, and asserts the promise about it.
pub(crate) fn assert_short(what: &str, outages: &[Outage]) {
    assert_within(what, outages, WRITABLE_WITHIN);
}

/// Prints how long shards were not writable, and asserts that 99 of 100 times it was no longer than
/// this. A few times say nothing about 99 of 100: of those, most must be shorter, and none may take twice
/// as long, which a busy machine is allowed.
pub(crate) fn assert_within(what: &str, outages: &[Outage], limit: Duration) {
    let counted = outages.iter().filter(|outage| outage.counts);
    let mut times: Vec<Duration> = counted.map(|outage| outage.lasted).collect();
    times.sort_unstable();
    measured(
        &format!("{what}, writable again after"),
        format!(
            "{}; {} left out because the machine stood still",
            spread(&times),
            outages.len() - times.len()
        ),
    );
    if times.is_empty() {
        // A limit that nothing is held against has not been kept.
        return skipped(what, "the machine stood still during each measurement");
    }
    if times.len() < 100 {
        assert!(percentile(&times, 50) < limit, "{what}: {times:?}");
        assert!(percentile(&times, 100) < limit * 2, "{what}: {times:?}");
    } else {
        assert!(percentile(&times, 99) < limit, "{what}: {times:?}");
    }
}

/// The distribution of sorted times in words.
pub(crate) fn spread(times: &[Duration]) -> String {
    let at = |percent| percentile(times, percent).as_millis();
    format!(
        "{} times, p50 {} ms, p90 {} ms, p99 {} ms, most {} ms",
        times.len(),
        at(50),
        at(90),
        at(99),
        times.last().copied().unwrap_or_default().as_millis()
    )
}

/// The smallest of these sorted times that this share of them does not exceed.
pub(crate) fn percentile(times: &[Duration], percent: usize) -> Duration {
    let rank = (times.len() * percent).div_ceil(100).max(1);
    times.get(rank - 1).copied().unwrap_or_default()
}

/// The shard that a position lies in.
pub(crate) fn shard_of(position: &str) -> usize {
    let (shard, _) = position.split_once(':').expect("a position has two parts");
    shard.parse().expect("a shard is a number")
}
