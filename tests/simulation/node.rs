//! A simulated node: the real journal on a simulated disk, and the real core on top.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use parking_lot::Mutex;
use phalanx::cluster::NodeId;
use phalanx::cluster::peers::Peers;
use phalanx::cluster::roster::Roster;
use phalanx::cluster::router::Router;
use phalanx::domain::Account;
use phalanx::journal::{
    FatalHook, Identity, Journal, JournalOptions, MemoryDisk, Storage, Survivors,
};
use phalanx::node::core::{Core, Ground};
use phalanx::settings::Settings;
use phalanx_actors::names::ShardId;
use phalanx_actors::ports::Clock;
use phalanx_actors::types::TypeRegistry;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use crate::chance::{Dice, Trace};
use crate::network::Network;
use crate::watch::Terms;
use crate::wounds::Wounds;

/// Simulated time, for the core.
#[derive(Debug)]
pub(crate) struct SimulatedClock {
    began: Instant,
}

impl Clock for SimulatedClock {
    fn now(&self) -> Timestamp {
        let since = i64::try_from(self.began.elapsed().as_micros()).unwrap();
        Timestamp::from_microsecond(1_700_000_000_000_000 + since).unwrap()
    }

    fn monotonic_ns(&self) -> u64 {
        u64::try_from(self.began.elapsed().as_nanos()).unwrap()
    }
}

/// See the file's description.
pub(crate) struct Node {
    pub(crate) id: NodeId,
    settings: Settings,
    /// Outlives crashes: the product syncs it before it goes by it.
    roster: Arc<Roster>,
    disk: MemoryDisk,
    network: Arc<Network>,
    trace: Arc<Trace>,
    dice: Arc<Dice>,
    clock: Arc<SimulatedClock>,
    /// Who served which shard in which term, over all nodes.
    terms: Arc<Terms>,
    /// Which copies were damaged, over all nodes.
    wounds: Arc<Wounds>,
    /// How long the disk takes for a write, in microseconds.
    pub(crate) disk_us: Arc<Mutex<(u64, u64)>>,
    running: Option<Running>,
}

struct Running {
    core: Core,
    journal: Journal,
    disk: JoinHandle<()>,
    watches: Vec<JoinHandle<()>>,
    gone: watch::Sender<bool>,
}

/// How a client uses a node.
#[derive(Clone)]
pub(crate) struct Door {
    pub(crate) node: NodeId,
    pub(crate) router: Router,
    /// Turns true when the node crashes.
    pub(crate) gone: watch::Receiver<bool>,
}

/// How often a writer looks for space though it has nothing to write.
const SPACE_POLL: Duration = Duration::from_millis(100);

/// How long a healthy disk takes, in microseconds.
pub(crate) const DISK_US: (u64, u64) = (80, 1_500);

impl Node {
    pub(crate) fn new(
        settings: Settings,
        network: Arc<Network>,
        terms: Arc<Terms>,
        wounds: Arc<Wounds>,
        dice: Dice,
        began: Instant,
    ) -> Self {
        Self {
            id: settings.node.id,
            roster: Arc::new(roster(&settings)),
            settings,
            disk: MemoryDisk::stepped(),
            trace: Arc::clone(&network.trace),
            network,
            dice: Arc::new(dice),
            clock: Arc::new(SimulatedClock { began }),
            terms,
            wounds,
            disk_us: Arc::new(Mutex::new(DISK_US)),
            running: None,
        }
    }

    pub(crate) fn is_up(&self) -> bool {
        self.running.is_some()
    }

    pub(crate) fn door(&self) -> Option<Door> {
        let running = self.running.as_ref()?;
        Some(Door {
            node: self.id,
            router: running.core.router.clone(),
            gone: running.gone.subscribe(),
        })
    }

    pub(crate) fn core(&self) -> Option<&Core> {
        self.running.as_ref().map(|running| &running.core)
    }

    pub(crate) fn journal(&self) -> Option<&Journal> {
        self.running.as_ref().map(|running| &running.journal)
    }

    /// Takes the disk's space for commands away, or gives it back.
    pub(crate) fn fill_disk(&self, full: bool) {
        self.trace
            .note(&format!("the disk of node {} is full: {full}", self.id));
        self.disk.set_free_bytes(if full { 0 } else { u64::MAX });
    }

    /// Flips so many bits of a copy. What is thereby damaged is found when it is read.
    pub(crate) fn damage(&self, shard: ShardId, bits: usize) {
        let dice = &self.dice;
        let mut below = |end: usize| usize::try_from(dice.between(0, end as u64 - 1)).unwrap();
        let flipped: Vec<_> = (0..bits)
            .filter_map(|_| self.disk.flip_bit(shard, &mut below))
            .collect();
        self.trace.note(&format!(
            "node {}, shard {shard}: {} bits are flipped, such as {:?}",
            self.id,
            flipped.len(),
            flipped.first(),
        ));
        self.wounds.inflict(self.id, shard);
    }

    /// Whether a flipped bit is left in a copy.
    pub(crate) fn has_flipped_bits(&self, shard: ShardId) -> bool {
        self.disk.has_flipped_bits(shard)
    }

    /// The members that it knows of.
    pub(crate) fn members(&self) -> Vec<NodeId> {
        let members = self.roster.members().into_iter();
        members.map(|(id, _)| id).collect()
    }

    /// Starts from what the disk holds.
    pub(crate) async fn start(&mut self) {
        assert!(!self.is_up());
        self.trace.note(&format!("node {} starts", self.id));
        let journal = self.open();
        let disk = tokio::spawn(work(
            self.disk.clone(),
            journal.clone(),
            Arc::clone(&self.dice),
            Arc::clone(&self.disk_us),
        ));
        let mut types = TypeRegistry::default();
        types.register::<Account>().unwrap();
        let lines = self.network.join(self.id);
        let ground = Ground {
            types,
            journal: journal.clone(),
            clock: Arc::clone(&self.clock) as Arc<dyn Clock>,
            peers: lines as Arc<dyn Peers>,
            roster: Arc::clone(&self.roster),
            key_seed: self.dice.number(),
        };
        let core = Core::start(&self.settings, ground).await.unwrap();
        for handle in &core.shards {
            // What is damaged is the watch's business.
            if let Some(reason) = handle.refusal()
                && !journal.is_damaged(handle.shard())
            {
                let shard = handle.shard();
                self.trace.violated(format!(
                    "node {} refuses shard {shard} after a crash: {reason}",
                    self.id
                ));
            }
        }
        self.network.serve(self.id, core.services());
        let mut watches = self.terms.watch(self.id, &core, &journal);
        watches.push(self.wounds.watch(&core, &journal, &self.disk));
        self.running = Some(Running {
            core,
            journal,
            disk,
            watches,
            gone: watch::Sender::new(false),
        });
    }

    fn open(&self) -> Journal {
        let identity = Identity {
            cluster_name: self.settings.cluster.name.clone(),
            node_id: self.id,
            shards: self.settings.cluster.shards,
        };
        let (trace, id) = (Arc::clone(&self.trace), self.id);
        let options = JournalOptions {
            // Small, so that the log is read from the disk as well.
            log_cache_bytes_per_shard: 4 << 10,
            fatal: FatalHook::new(move |failure| {
                trace.violated(format!("node {id}: the disk failed by itself: {failure}"));
            }),
            ..JournalOptions::new(PathBuf::from("simulated"), identity)
        };
        let clock = Arc::clone(&self.clock) as Arc<dyn Clock>;
        Journal::open(&options, Storage::Memory(self.disk.clone()), clock).unwrap()
    }

    /// Cuts the power. What was written and not synced survives in part or not at all.
    pub(crate) fn crash(&mut self) {
        let survivors = Survivors {
            unsynced_writes: usize::try_from(self.dice.between(0, 3)).unwrap(),
            lazy_writes: usize::try_from(self.dice.between(0, 400)).unwrap(),
        };
        self.crash_with(survivors, self.dice.happens(0.5));
    }

    /// Cuts the power; nothing survives that was not synced.
    pub(crate) fn crash_and_lose(&mut self) {
        self.crash_with(Survivors::default(), false);
    }

    fn crash_with(&mut self, survivors: Survivors, in_sync: bool) {
        let Some(running) = self.running.take() else {
            return;
        };
        let silent = self.dice.happens(0.5);
        self.trace.note(&format!(
            "node {} crashes, silent {silent}, in a sync {in_sync}, {survivors:?}",
            self.id
        ));
        self.network.end(self.id, silent);
        running.disk.abort();
        for watch in &running.watches {
            watch.abort();
        }
        if in_sync {
            self.disk.crash_in_sync(survivors);
            running.journal.step();
        }
        self.disk.crash(survivors);
        // Clients see their connections break.
        running.gone.send_replace(true);
        tokio::spawn(bury(running));
    }
}

/// Everybody whom the settings name founded the cluster, or nobody whom this node knows of.
fn roster(settings: &Settings) -> Roster {
    let peers = settings.cluster.peers.iter();
    let mut all: BTreeMap<NodeId, String> =
        peers.map(|peer| (peer.id, peer.address.clone())).collect();
    all.insert(settings.node.id, settings.cluster.advertised_address());
    Roster::in_memory(settings.node.id, all, settings.cluster.bootstrap)
}

/// Removes what is left of a node. It has neither disk nor network any more.
async fn bury(running: Running) {
    for task in &running.core.background {
        task.abort();
    }
    for shard in &running.core.shards {
        shard.stop();
    }
    for group in running.core.groups.all() {
        let stopped = tokio::time::timeout(Duration::from_secs(5), group.shutdown());
        let _late = stopped.await;
    }
}

/// The disk's work: each write takes its time.
async fn work(disk: MemoryDisk, journal: Journal, dice: Arc<Dice>, pace: Arc<Mutex<(u64, u64)>>) {
    loop {
        tokio::select! {
            biased;
            () = disk.queued() => {}
            () = tokio::time::sleep(SPACE_POLL) => {
                journal.look_for_space();
                continue;
            }
        }
        let (from, to) = *pace.lock();
        tokio::time::sleep(dice.micros(from, to)).await;
        journal.step();
    }
}
