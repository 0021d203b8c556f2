//! Changes of a view are followed at each node while the node that fills the views and those that lead
//! are killed.
//!
//! A *follower* reads the stream of changes of one node, or of one node after the other, always from the
//! place where it was cut; one goes away by itself for some seconds again and again. It may be told to read
//! all rows again, as often as that is true. What must not be is that it hears nothing of a row. So rows
//! are made that change once: each is told of at its position or behind it, or is in what a later reset has
//! read.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::{BACK_WITHIN, started, writer_of};
use crate::net::NODES;
use crate::site::Site;
use crate::support::client;
use crate::support::http::{Http, Request};
use crate::support::sse::{Message, Stream};
use crate::support::{measured, wait};

const TARGET: &str = "/v1/views/accounts/changes";
const KILLS: usize = 4;
const CALM: Duration = Duration::from_secs(2);
const PACE: Duration = Duration::from_millis(15);
/// How long the one that goes away stays, and is away: about as long as a node is dead.
const AWAY: Duration = Duration::from_millis(2_300);
const LEAVES: &str = "that goes away";

type Position = (u64, u64);

fn position(text: &str) -> Position {
    let (shard, number) = text.split_once(':').expect("shard:number");
    let number = number.parse().expect("a number");
    (shard.parse().expect("a number"), number)
}

/// What a follower was told.
#[derive(Debug, Default)]
struct Book {
    /// By key, the last position.
    told: BTreeMap<String, Position>,
    /// By shard, up to where the rows were read again.
    read: BTreeMap<u64, u64>,
    /// How often for which reason.
    resets: BTreeMap<String, usize>,
    streams: usize,
}

impl Book {
    fn take(&mut self, message: &Message) {
        if message.data.is_empty() {
            return;
        }
        let data = message.json();
        let text = |name: &str| data[name].as_str().expect("a text").to_owned();
        match &*message.kind {
            "change" => {
                let at = position(&text("position"));
                for row in data["rows"].as_array().expect("rows") {
                    let key = row["key"].as_str().expect("a key").to_owned();
                    self.told.insert(key, at);
                }
            }
            "reset" => {
                *self.resets.entry(text("reason")).or_default() += 1;
                let positions = text("positions");
                let positions = positions.split(',').filter(|text| !text.is_empty());
                for (shard, number) in positions.map(position) {
                    let read = self.read.entry(shard).or_default();
                    *read = number.max(*read);
                }
            }
            other => panic!("{other}: {data}"),
        }
    }

    fn was_told(&self, key: &str, (shard, number): Position) -> bool {
        let told = self.told.get(key);
        told.is_some_and(|told| told.0 == shard && told.1 >= number)
    }

    fn knows(&self, key: &str, at: Position) -> bool {
        let (shard, number) = at;
        let read = self.read.get(&shard).is_some_and(|read| *read >= number);
        read || self.was_told(key, at)
    }
}

/// See the file's description.
struct Follower {
    what: String,
    book: Arc<Mutex<Book>>,
    thread: JoinHandle<()>,
}

impl Follower {
    fn start(what: String, way: Way, stop: &Arc<AtomicBool>) -> Self {
        let book = Arc::<Mutex<Book>>::default();
        let (kept, stop) = (Arc::clone(&book), Arc::clone(stop));
        let thread = std::thread::spawn(move || follow(&way, &kept, &stop));
        Self { what, book, thread }
    }

    /// Waits until it knows of all rows; gives how many of them it was told of one by one.
    fn settle(&self, opened: &[(String, Position)]) -> usize {
        let missing = || {
            let book = self.book.lock().expect("no follower panics");
            let missing = opened.iter().filter(|(key, at)| !book.knows(key, *at));
            missing.cloned().collect::<Vec<_>>()
        };
        let settled = wait::poll(BACK_WITHIN, || missing().is_empty().then_some(()));
        let book = self.book.lock().expect("no follower panics");
        assert!(
            settled.is_some(),
            "the follower {} never heard of {:?}; {:?} {:?}",
            self.what,
            missing_of(opened, &book),
            book.read,
            book.resets
        );
        let told = opened.iter().filter(|(key, at)| book.was_told(key, *at));
        let told = told.count();
        measured(
            &format!("changes while nodes die, follower {}", self.what),
            format!(
                "{told} of {} rows told one by one, over {} streams, resets {:?}",
                opened.len(),
                book.streams,
                book.resets
            ),
        );
        told
    }
}

fn missing_of<'a>(opened: &'a [(String, Position)], book: &Book) -> Vec<&'a (String, Position)> {
    let missing = opened.iter().filter(|(key, at)| !book.knows(key, *at));
    missing.take(20).collect()
}

/// How a follower follows.
struct Way {
    /// One after the other.
    addresses: Vec<SocketAddr>,
    /// How long it stays and is away; nothing for one that stays.
    leaves: Option<Duration>,
}

/// Follows until it is stopped and its stream has ended.
fn follow(way: &Way, book: &Mutex<Book>, stop: &AtomicBool) {
    let mut last: Option<String> = None;
    for address in way.addresses.iter().cycle() {
        if stop.load(Ordering::Relaxed) {
            return;
        }
        let came = Instant::now();
        let Ok(mut stream) = Stream::try_open(*address, TARGET, last.as_deref()) else {
            wait::let_pass(Duration::from_millis(50));
            continue;
        };
        book.lock().expect("nobody panics").streams += 1;
        while let Some(message) = stream.try_message() {
            book.lock().expect("nobody panics").take(&message);
            last = Some(stream.last_id.clone()).filter(|id| !id.is_empty());
            if way.leaves.is_some_and(|leaves| came.elapsed() > leaves) {
                break;
            }
        }
        drop(stream);
        if let Some(leaves) = way.leaves.filter(|_| !stop.load(Ordering::Relaxed)) {
            wait::let_pass(leaves);
        }
    }
}

/// Opens accounts, each once, until it is stopped; gives them with their positions.
fn open(addresses: &[SocketAddr], stop: &AtomicBool) -> Vec<(String, Position)> {
    let mut http = Http::anywhere(addresses).patient_for(Duration::from_secs(5));
    let mut opened = Vec::new();
    while !stop.load(Ordering::Relaxed) {
        let id = format!("once-{}", opened.len());
        let at = wait::until("an account is opened", BACK_WITHIN, || {
            let answer = http.try_send(&client::open(&id)).ok()?;
            let at = answer.header("Phalanx-Position").map(position);
            at.filter(|_| matches!(answer.status, 200 | 201))
        });
        opened.push((id, at));
        wait::let_pass(PACE);
    }
    opened
}

/// Kills in turns the node that fills the views and the one that leads most, and starts it again.
fn kill(site: &mut Site, round: usize) {
    let victim = match round % 2 {
        0 => writer_of(site),
        _ => site.busiest().0,
    };
    let moment = site.random_ms(50..600);
    wait::let_pass(moment);
    site.cluster.kill(victim);
    wait::let_pass(CALM);
    let next = writer_of(site);
    assert_ne!(next, victim, "it is dead");
    site.cluster.start(victim);
    site.wait_whole();
    wait::let_pass(CALM);
}

#[test]
fn changes_at_any_node_are_told_or_called_lost_while_writers_and_leaders_die() {
    let Some((mut site, _server, _port)) = started("changes while nodes die", None) else {
        return;
    };
    let mut load = site.load();
    let addresses = site.cluster.addresses();
    writer_of(&site);
    wait::until("changes are told at each node", BACK_WITHIN, || {
        let told = |address: &SocketAddr| {
            let head = Request::new("HEAD", TARGET);
            let answer = Http::new(*address).try_send(&head);
            answer.is_ok_and(|answer| answer.status == 200)
        };
        addresses.iter().all(told).then_some(())
    });
    let stop = Arc::<AtomicBool>::default();
    let way = |addresses: &[SocketAddr], leaves| Way {
        addresses: addresses.to_vec(),
        leaves,
    };
    let ways = [
        ("anywhere", way(&addresses, None)),
        (LEAVES, way(&addresses, Some(AWAY))),
    ];
    let ways = ways.map(|(what, way)| (what.to_owned(), way));
    let followers: Vec<Follower> = NODES
        .map(|node| {
            (
                format!("at node {node}"),
                way(&[site.cluster.address(node)], None),
            )
        })
        .into_iter()
        .chain(ways)
        .map(|(what, way)| Follower::start(what, way, &stop))
        .collect();
    let written = Arc::<AtomicBool>::default();
    let opener = {
        let (addresses, written) = (addresses, Arc::clone(&written));
        std::thread::spawn(move || open(&addresses, &written))
    };
    for round in 0..KILLS {
        kill(&mut site, round);
        load.check();
    }
    written.store(true, Ordering::Relaxed);
    let opened = opener.join().expect("accounts are opened");
    assert!(opened.len() > 80, "{}", opened.len());
    for follower in &followers {
        let told = follower.settle(&opened);
        assert!(
            told * 2 > opened.len() || follower.what == LEAVES,
            "{}: {told} rows were told of one by one",
            follower.what
        );
    }
    stop.store(true, Ordering::Relaxed);
    // The nodes end with it, and with them the streams.
    site.finish(load);
    for follower in followers {
        follower
            .thread
            .join()
            .expect("no follower was told nonsense");
    }
}
