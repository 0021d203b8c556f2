//! One run: a cluster, its clients, what is done to it, and the checks at the end. Everything follows
//! from the seed.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use phalanx::cluster::NodeId;
use phalanx::cluster::status::{MemberRole, MemberView, ShardView};
use phalanx::settings::{Peer, ReadMode, Settings};
use phalanx_actors::names::StreamName;
use phalanx_actors::ports::Journal as _;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use crate::chance::{Dice, Trace};
use crate::checks::{self, Copy};
use crate::clients::{Client, Desk, Doors, Habits, Outcome, Wish};
use crate::faults::{self, Mischief};
use crate::network::{Manners, Network};
use crate::node::{DISK_US, Node};
use crate::watch::Terms;
use crate::wounds::{Tally, Wounds};

/// After everything is mended, the time until every shard must answer on every node.
const RECOVERY: Duration = Duration::from_secs(12);
/// The time until all damaged copies are whole: one that was damaged several times has to wait.
const REPAIR: Duration = Duration::from_secs(120);
/// Aggregates of a run.
const STREAMS: usize = 6;
/// A run in which fewer commands were acknowledged says nothing.
const FLOOR: usize = 1;

/// The last index of each copy's log, and the one up to which it is applied.
type Ends = Vec<(Option<u64>, Option<u64>)>;

/// What a run came to.
#[derive(Debug)]
pub(crate) struct Report {
    pub(crate) hash: u64,
    pub(crate) steps: u64,
    pub(crate) acknowledged: usize,
    pub(crate) reads: usize,
    pub(crate) unknown: usize,
    pub(crate) mischief: Mischief,
    pub(crate) tally: Tally,
    pub(crate) simulated: Duration,
    pub(crate) violations: Vec<String>,
}

/// A cluster with everything around it.
pub(crate) struct World {
    pub(crate) nodes: Vec<Node>,
    pub(crate) network: Arc<Network>,
    pub(crate) trace: Arc<Trace>,
    pub(crate) desk: Arc<Desk>,
    pub(crate) dice: Dice,
    /// A node that did not found the cluster and waits to be added.
    pub(crate) newcomer: Option<NodeId>,
    /// Changes of the members that were asked for.
    pub(crate) changes_asked: u32,
    pub(crate) shards: u32,
    /// Whether rows on disks are damaged in this run.
    pub(crate) damages: bool,
    pub(crate) wounds: Arc<Wounds>,
    /// Voters of a shard.
    factor: usize,
    /// Everybody who asks.
    clients: Vec<JoinHandle<()>>,
    client_numbers: usize,
}

/// Runs a seed. To be called on a runtime with paused time.
pub(crate) async fn run(seed: u64, prints: bool) -> Report {
    let trace = Trace::new(prints);
    let dice = Dice::new(seed);
    let mut world = World::found(&dice, Arc::clone(&trace));
    for node in &mut world.nodes {
        node.start().await;
    }
    world.open_doors();
    for _ in 0..dice.between(3, 6) {
        world.send_client(Habits::usual(STREAMS));
    }
    let mischief = Box::pin(faults::make(&mut world)).await;
    world.mend().await;
    world.desk.closing.store(true, Ordering::SeqCst);
    world.recover().await;
    for client in std::mem::take(&mut world.clients) {
        client.await.unwrap();
    }
    world.heal().await;
    world.settle().await;
    world.check();
    let book = &world.desk.book;
    let acknowledged = book.count(|o| matches!(o.outcome, Outcome::Accepted { .. }));
    if acknowledged < FLOOR {
        trace.violated(format!("only {acknowledged} commands were acknowledged"));
    }
    Report {
        acknowledged,
        reads: book.count(|o| matches!(o.outcome, Outcome::State { .. } | Outcome::NotFound)),
        unknown: book.count(|o| o.outcome == Outcome::Unknown),
        mischief,
        tally: world.wounds.tally(),
        simulated: trace.elapsed(),
        hash: trace.hash(),
        steps: trace.steps(),
        violations: trace.violations(),
    }
}

impl World {
    fn found(dice: &Dice, trace: Arc<Trace>) -> Self {
        let count = if dice.happens(0.25) { 5 } else { 3 };
        let newcomer = (count == 3 && dice.happens(0.4)).then_some(4);
        let members: Vec<NodeId> = (1..=newcomer.unwrap_or(count)).collect();
        let shards = u32::try_from(dice.between(1, 3)).unwrap();
        let manners = Manners {
            delay_us: *dice.pick(&[(50, 400), (200, 2_000), (1_000, 15_000)]),
            straggles: *dice.pick(&[0.0, 0.002, 0.02]),
            straggle_ms: *dice.pick(&[(10, 60), (50, 700)]),
            repeats: *dice.pick(&[0.0, 0.005, 0.05]),
            breaks: *dice.pick(&[0.0, 0.0005, 0.005]),
        };
        let all = settings(&members, newcomer, shards, dice);
        trace.note(&format!(
            "{count} nodes, newcomer {newcomer:?}, {shards} shards, {manners:?}"
        ));
        let transport = all[0].transport.clone();
        let network = Network::new(members, manners, transport, dice.fork(), Arc::clone(&trace));
        let began = Instant::now();
        let terms = Terms::new(Arc::clone(&trace));
        let wounds = Wounds::new(Arc::clone(&trace));
        let factor = usize::try_from(all[0].cluster.replication_factor).unwrap();
        let nodes = all
            .into_iter()
            .map(|settings| {
                let (network, terms) = (Arc::clone(&network), Arc::clone(&terms));
                let wounds = Arc::clone(&wounds);
                Node::new(settings, network, terms, wounds, dice.fork(), began)
            })
            .collect();
        let stream = |number| StreamName::new("account", &format!("a{number}")).unwrap();
        let desk = Arc::new(Desk {
            doors: Doors::default(),
            book: Default::default(),
            trace: Arc::clone(&trace),
            streams: (0..STREAMS).map(stream).collect(),
            closing: AtomicBool::new(false),
            quiet: Mutex::default(),
        });
        Self {
            nodes,
            network,
            trace,
            desk,
            dice: dice.fork(),
            newcomer,
            changes_asked: 0,
            shards,
            damages: dice.happens(0.6),
            wounds,
            factor,
            clients: Vec::new(),
            client_numbers: 0,
        }
    }

    fn client(&mut self, habits: Habits) -> Client {
        self.client_numbers += 1;
        Client {
            number: self.client_numbers,
            habits,
            dice: self.dice.fork(),
            desk: Arc::clone(&self.desk),
            requests: 0,
            heard: vec![0; STREAMS],
        }
    }

    /// Lets one more client ask.
    pub(crate) fn send_client(&mut self, habits: Habits) {
        let client = self.client(habits);
        self.clients.push(tokio::spawn(client.run()));
    }

    /// Where a node stands in the list.
    pub(crate) fn place(&self, node: NodeId) -> usize {
        self.nodes.iter().position(|n| n.id == node).unwrap()
    }

    /// Tells clients which nodes there are.
    pub(crate) fn open_doors(&self) {
        let doors = self.nodes.iter().filter_map(Node::door).collect();
        self.desk.doors.set(doors);
    }

    /// How a shard's leader sees it.
    pub(crate) fn led(&self, shard: u32) -> Option<(NodeId, ShardView)> {
        let views = self.nodes.iter().filter_map(Node::core);
        let leads = views.filter_map(|core| {
            let view = core.steward.node_view();
            let at = view.shards.into_iter().find(|at| at.shard == shard)?;
            (at.leader == Some(view.node) && at.serving).then_some((view.node, at))
        });
        leads.max_by_key(|(_, at)| at.term)
    }

    /// Damages one node's copy of a shard, if that is allowed; whether it was.
    pub(crate) fn damage(&self, at: usize, shard: u32) -> bool {
        let allowed = self.may_damage(at);
        if allowed {
            let bits = *self.dice.pick(&[1, 8, 64]);
            self.nodes[at].damage(shard, bits);
        }
        allowed
    }

    /// Whether a node's copies may be damaged: of each shard a majority of the voters has whole copies
    /// elsewhere, and will have, whatever is done about the damaged ones.
    fn may_damage(&self, at: usize) -> bool {
        let node = self.nodes[at].id;
        let whole = |other: &Node| other.is_up() && !self.wounds.has(other.id);
        let others_are_whole = self
            .nodes
            .iter()
            .all(|other| other.id == node || whole(other));
        let suffice = |shard| {
            let Some((_, led)) = self.led(shard) else {
                return false;
            };
            let newest = self.newest_term(shard) == led.term;
            let others = led.voters.iter().filter(|voter| **voter != node).count();
            newest && !led.changing && others > self.factor / 2
        };
        self.nodes[at].is_up() && others_are_whole && (0..self.shards).all(suffice)
    }

    /// The newest term of a shard that anybody knows of.
    fn newest_term(&self, shard: u32) -> u64 {
        let views = self.nodes.iter().filter_map(Node::core);
        let shards = views.flat_map(|core| core.steward.node_view().shards);
        let terms = shards.filter(|at| at.shard == shard).map(|at| at.term);
        terms.max().unwrap_or_default()
    }

    /// Ends all harm.
    async fn mend(&mut self) {
        self.trace.note("all is mended");
        self.network.calm_down();
        for node in &mut self.nodes {
            *node.disk_us.lock() = DISK_US;
            node.fill_disk(false);
            if !node.is_up() {
                node.start().await;
            }
        }
        self.open_doors();
    }

    /// Every aggregate must be usable through every node before long.
    async fn recover(&mut self) {
        let mut prober = self.client(Habits::usual(STREAMS));
        let doors = self.desk.doors.all();
        let deadline = Instant::now() + RECOVERY;
        for at in 0..STREAMS {
            for door in &doors {
                self.desk.doors.set(vec![door.clone()]);
                loop {
                    let read = prober.ask(at, Wish::Read, 1).await;
                    if matches!(read, Outcome::State { .. } | Outcome::NotFound) {
                        break;
                    }
                    if Instant::now() > deadline {
                        let stream = self.desk.streams[at].id();
                        self.trace.violated(format!(
                            "{stream} cannot be read through node {} {RECOVERY:?} after all was \
                             mended: {read:?}",
                            door.node
                        ));
                        break;
                    }
                }
            }
            self.desk.doors.set(doors.clone());
            loop {
                let wish = if prober.heard[at] == 0 {
                    Wish::Open
                } else {
                    Wish::Deposit(1)
                };
                let stored = prober.ask(at, wish, 5).await;
                if matches!(stored, Outcome::Accepted { .. }) {
                    break;
                }
                if Instant::now() > deadline {
                    let stream = self.desk.streams[at].id();
                    self.trace.violated(format!(
                        "{stream} takes no commands {RECOVERY:?} after all was mended: {stored:?}"
                    ));
                    break;
                }
            }
        }
    }

    /// Has all copies read, so that all damage is found, and waits until they are whole. What only a start
    /// reads is found by one.
    async fn heal(&mut self) {
        if !self.damages {
            return;
        }
        self.read_copies().await;
        for at in 0..self.nodes.len() {
            let node = self.nodes[at].id;
            let is_left = |shard| self.votes(node, shard) && self.nodes[at].has_flipped_bits(shard);
            if (0..self.shards).any(is_left) {
                self.nodes[at].crash();
                self.nodes[at].start().await;
            }
        }
        self.open_doors();
        self.read_copies().await;
        for (node, shard) in self
            .nodes
            .iter()
            .flat_map(|n| (0..self.shards).map(move |s| (n, s)))
        {
            if self.votes(node.id, shard) && node.has_flipped_bits(shard) {
                let what = format!("node {}, shard {shard}: damage is left", node.id);
                self.trace.violated(what);
            }
        }
    }

    fn votes(&self, node: NodeId, shard: u32) -> bool {
        let led = self.led(shard);
        led.is_some_and(|(_, at)| at.voters.contains(&node))
    }

    /// Reads all copies, and waits until those of which that found damage are whole.
    async fn read_copies(&self) {
        self.repair().await;
        for shard in 0..self.shards {
            for node in self.copies(shard) {
                let read = Copy::read(node.journal().unwrap(), shard);
                let what = read.map_or_else(|error| error.to_string(), |_| "whole".to_owned());
                self.trace
                    .note(&format!("node {}, shard {shard} is read: {what}", node.id));
            }
        }
        self.repair().await;
    }

    /// Waits until each shard has as many whole copies as it should, and nobody refuses any.
    async fn repair(&self) {
        let deadline = Instant::now() + REPAIR;
        while let Some(lacks) = self.lacks() {
            if Instant::now() > deadline {
                self.trace
                    .violated(format!("a damaged copy is not repaired: {lacks}"));
                return;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    /// What a shard lacks, if anything. A node that is no member any more keeps what it has.
    fn lacks(&self) -> Option<String> {
        (0..self.shards).find_map(|shard| {
            let Some((leader, led)) = self.led(shard) else {
                return Some(format!("shard {shard} has no leader"));
            };
            if led.voters.len() < self.factor || led.changing {
                return Some(format!("shard {shard}: {led:?}"));
            }
            let members = self.nodes[self.place(leader)].members();
            let mut refusing = self.nodes.iter().filter(|node| {
                members.contains(&node.id) && node.journal().unwrap().is_damaged(shard)
            });
            let refusing = refusing.next()?.id;
            Some(format!("node {refusing} refuses shard {shard}: {led:?}"))
        })
    }

    /// Waits until no change of the members is under way.
    async fn arrive(&self) {
        let deadline = Instant::now() + RECOVERY * 2;
        loop {
            let mut views = Vec::new();
            for node in &self.nodes {
                views.push(node.core().unwrap().steward.cluster().await);
            }
            let under_way = views.iter().find(|view| {
                let changing =
                    |m: &MemberView| matches!(m.role, MemberRole::Joining | MemberRole::Leaving);
                view.pending_moves > 0 || view.members.iter().any(changing)
            });
            let Some(view) = under_way else {
                return;
            };
            if Instant::now() > deadline {
                self.trace
                    .violated(format!("a change of the members does not end: {view:?}"));
                return;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    /// Waits until all copies of every shard are applied to the same end, at one moment: a late
    /// election adds an entry to a shard that had met before.
    async fn settle(&self) {
        self.arrive().await;
        let deadline = Instant::now() + RECOVERY;
        while let Some((shard, ends)) = self.apart() {
            if Instant::now() > deadline {
                self.trace
                    .violated(format!("shard {shard}: copies do not meet: {ends:?}"));
                return;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// A shard whose copies do not end alike, with the last and the applied index of each.
    fn apart(&self) -> Option<(u32, Ends)> {
        (0..self.shards).find_map(|shard| {
            let ends: Ends = self
                .copies(shard)
                .map(|node| {
                    let journal = node.journal().unwrap();
                    let last = journal.log_bounds(shard).unwrap().map(|b| b.last_index);
                    let applied = journal.applied(shard).unwrap().map(|a| a.index);
                    (last, applied)
                })
                .collect();
            let first = ends.first().copied().unwrap_or_default();
            let indexed = self.copies(shard).all(|node| {
                let journal = node.journal().unwrap();
                journal.indexed_position(shard) == journal.last_position(shard).unwrap()
            });
            let meet = indexed && ends.iter().all(|end| *end == first && end.0 == end.1);
            let meet = meet && !ends.is_empty();
            (!meet).then_some((shard, ends))
        })
    }

    /// The nodes that vote in a shard, as its leader says: every node runs a group for each shard.
    fn copies(&self, shard: u32) -> impl Iterator<Item = &Node> {
        let voters = self.led(shard).map(|(_, at)| at.voters);
        let voters = voters.unwrap_or_default();
        self.nodes
            .iter()
            .filter(move |node| voters.contains(&node.id))
    }

    fn check(&self) {
        let mut longest = BTreeMap::new();
        for shard in 0..self.shards {
            let read = |node: &Node| Copy::read(node.journal().unwrap(), shard).unwrap();
            let copies: Vec<_> = self
                .copies(shard)
                .map(|node| (node.id, read(node)))
                .collect();
            checks::copies_agree(&self.trace, shard, &copies);
            let logs = copies.into_iter().map(|(_, copy)| copy.log);
            let log = logs.max_by_key(Vec::len);
            let log = log.unwrap_or_default();
            self.trace
                .note(&format!("shard {shard}: {} entries", log.len()));
            longest.insert(shard, log);
        }
        let book = self.desk.book.operations();
        checks::history_fits(&self.trace, &longest, &book);
    }
}

/// The settings of every node.
fn settings(
    members: &[NodeId],
    newcomer: Option<NodeId>,
    shards: u32,
    dice: &Dice,
) -> Vec<Settings> {
    let reads = *dice.pick(&[ReadMode::Lease, ReadMode::Lease, ReadMode::ReadIndex]);
    let resident = usize::try_from(*dice.pick(&[2, 1_000])).unwrap();
    let of = |id: &NodeId| {
        let mut settings = Settings::default();
        settings.node.id = *id;
        settings.cluster.name = "simulated".to_owned();
        settings.cluster.advertise = format!("node-{id}:7080");
        settings.cluster.shards = shards;
        settings.cluster.reads = reads;
        settings.cluster.peers = members
            .iter()
            .filter(|member| *member != id && (newcomer == Some(*id) || newcomer != Some(**member)))
            .map(|member| Peer {
                id: *member,
                address: format!("node-{member}:7080"),
            })
            .collect();
        settings.cluster.bootstrap = newcomer != Some(*id);
        if members.len() == 5 {
            settings.cluster.replication_factor = 5;
        }
        // Much comes and goes, and snapshots are taken often.
        settings.actors.max_resident = resident;
        settings.actors.idle_timeout_s = 1;
        settings.actors.snapshot_every_events = 4;
        settings.actors.snapshot_on_passivation_events = 2;
        settings.raft.max_batch_commands = 8;
        settings
    };
    members.iter().map(of).collect()
}
