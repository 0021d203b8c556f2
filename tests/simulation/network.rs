//! The simulated network: connections between nodes that delay, stall, break and repeat.
//!
//! It stands where TCP stands: below the product's own table of calls, so what is "not sent" and
//! what is "unknown" is decided by the real code. Invariants: a connection keeps the order of its
//! messages, as TCP does; lanes and connections overtake each other; a late copy of a request
//! overtakes nothing and still arrives; what was sent before a crash arrives after it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;
use phalanx::cluster::NodeId;
use phalanx::cluster::peers::Peers;
use phalanx::cluster::transport::{CallError, CallKind, Calls, Lane, PeerState, Pending, Services};
use phalanx::settings::TransportSettings;
use tokio::sync::oneshot;

use crate::chance::{Dice, Trace};
use crate::connection::Connection;

/// How the network of a run behaves.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Manners {
    /// How long a message travels, in microseconds.
    pub(crate) delay_us: (u64, u64),
    /// How often it takes much longer.
    pub(crate) straggles: f64,
    /// Such a time, in milliseconds.
    pub(crate) straggle_ms: (u64, u64),
    /// How often a request arrives a second time.
    pub(crate) repeats: f64,
    /// How often a message breaks its connection.
    pub(crate) breaks: f64,
}

/// One life of a node, from its start to its crash.
#[derive(Debug, Default)]
struct Life {
    number: u64,
    services: Option<Services>,
    /// Its connections do not hear that it is gone.
    silent: bool,
}

#[derive(Debug, Default)]
struct State {
    lives: BTreeMap<NodeId, Life>,
    /// Directions in which nothing passes.
    cuts: BTreeSet<(NodeId, NodeId)>,
    /// Nodes that neither send nor receive for a while.
    paused: BTreeSet<NodeId>,
    /// Lanes whose requests wait on their way: from, to, and which one.
    held: BTreeSet<(NodeId, NodeId, u8)>,
    /// Who wants to know when a node has answered such a call.
    answers: BTreeMap<(NodeId, u8), oneshot::Sender<NodeId>>,
    calm: bool,
}

/// See the file's description.
#[derive(Debug)]
pub(crate) struct Network {
    pub(crate) trace: Arc<Trace>,
    pub(crate) dice: Dice,
    pub(crate) options: TransportSettings,
    manners: Manners,
    members: Vec<NodeId>,
    state: Mutex<State>,
}

impl Network {
    pub(crate) fn new(
        members: Vec<NodeId>,
        manners: Manners,
        options: TransportSettings,
        dice: Dice,
        trace: Arc<Trace>,
    ) -> Arc<Self> {
        let mut state = State::default();
        for member in &members {
            state.lives.insert(*member, Life::default());
        }
        Arc::new(Self {
            trace,
            dice,
            options,
            manners,
            members,
            state: Mutex::new(state),
        })
    }

    /// Begins a node's life: it connects to the others.
    pub(crate) fn join(self: &Arc<Self>, me: NodeId) -> Arc<Lines> {
        let life = {
            let mut state = self.state.lock();
            let life = state.lives.get_mut(&me).unwrap();
            life.number += 1;
            life.silent = false;
            life.number
        };
        let mut lines = BTreeMap::new();
        for to in self.members.iter().copied().filter(|to| *to != me) {
            for lane in [Lane::Raft, Lane::Command, Lane::Bulk] {
                let line = Arc::<Line>::default();
                lines.insert((to, lane as u8), Arc::clone(&line));
                let net = Arc::clone(self);
                tokio::spawn(net.keep((me, life), to, lane, line));
            }
        }
        Arc::new(Lines { me, lines })
    }

    /// From now on the node answers.
    pub(crate) fn serve(&self, me: NodeId, services: Services) {
        self.state.lock().lives.get_mut(&me).unwrap().services = Some(services);
    }

    /// Ends a node's life. `silent`: nobody says so, as when the power goes.
    pub(crate) fn end(&self, me: NodeId, silent: bool) {
        let mut state = self.state.lock();
        let life = state.lives.get_mut(&me).unwrap();
        life.number += 1;
        life.services = None;
        life.silent = silent;
    }

    pub(crate) fn cut(&self, from: NodeId, to: NodeId) {
        self.state.lock().cuts.insert((from, to));
    }

    pub(crate) fn mend(&self) {
        self.state.lock().cuts.clear();
    }

    pub(crate) fn set_paused(&self, node: NodeId, paused: bool) {
        let mut state = self.state.lock();
        if paused {
            state.paused.insert(node);
        } else {
            state.paused.remove(&node);
        }
    }

    /// Lets requests of one lane wait on their way, in their order. Not for longer than a
    /// keepalive takes: the connection would end.
    pub(crate) fn hold(&self, from: NodeId, to: NodeId, lane: Lane) {
        self.state.lock().held.insert((from, to, lane as u8));
    }

    /// Lets them go on.
    pub(crate) fn release(&self) {
        self.state.lock().held.clear();
    }

    pub(crate) fn is_held(&self, from: NodeId, to: NodeId, lane: Lane) -> bool {
        self.state.lock().held.contains(&(from, to, lane as u8))
    }

    /// Tells, as soon as the node's next answer to a call of this kind is on its way, who asked.
    pub(crate) fn when_answers(&self, node: NodeId, kind: CallKind) -> oneshot::Receiver<NodeId> {
        let (sender, receiver) = oneshot::channel();
        self.state.lock().answers.insert((node, kind as u8), sender);
        receiver
    }

    /// Says that such an answer is on its way.
    pub(crate) fn answers(&self, node: NodeId, kind: CallKind, asker: NodeId) {
        let waits = self.state.lock().answers.remove(&(node, kind as u8));
        if let Some(waits) = waits {
            let _gave_up = waits.send(asker);
        }
    }

    /// Ends all misbehaviour.
    pub(crate) fn calm_down(&self) {
        let mut state = self.state.lock();
        state.cuts.clear();
        state.paused.clear();
        state.held.clear();
        state.calm = true;
    }

    pub(crate) fn is_life(&self, (node, life): (NodeId, u64)) -> bool {
        self.state.lock().lives.get(&node).unwrap().number == life
    }

    pub(crate) fn died_silently(&self, node: NodeId) -> bool {
        self.state.lock().lives.get(&node).unwrap().silent
    }

    /// Whether messages pass now.
    pub(crate) fn passes(&self, from: NodeId, to: NodeId) -> bool {
        let state = self.state.lock();
        !state.cuts.contains(&(from, to))
            && !state.paused.contains(&from)
            && !state.paused.contains(&to)
    }

    /// A node that answers, and which life it is in.
    pub(crate) fn answering(&self, node: NodeId) -> Option<(u64, Services)> {
        let state = self.state.lock();
        let life = state.lives.get(&node).unwrap();
        let services = life.services.clone()?;
        Some((life.number, services))
    }

    pub(crate) fn delay(&self) -> Duration {
        let manners = &self.manners;
        let calm = self.state.lock().calm;
        if !calm && self.dice.happens(manners.straggles) {
            let (from, to) = manners.straggle_ms;
            return self.dice.millis(from, to);
        }
        let (from, to) = manners.delay_us;
        self.dice.micros(from, to)
    }

    pub(crate) fn repeats(&self) -> bool {
        let calm = self.state.lock().calm;
        !calm && self.dice.happens(self.manners.repeats)
    }

    pub(crate) fn breaks(&self) -> bool {
        let calm = self.state.lock().calm;
        !calm && self.dice.happens(self.manners.breaks)
    }

    /// Keeps one lane connected for as long as the node lives.
    async fn keep(self: Arc<Self>, from: (NodeId, u64), to: NodeId, lane: Lane, line: Arc<Line>) {
        while self.is_life(from) {
            let pause = self.dice.millis(1, self.options.reconnect_max_ms);
            tokio::time::sleep(pause).await;
            let there = self.answering(to);
            let (Some((life, services)), true, true) =
                (there, self.passes(from.0, to), self.passes(to, from.0))
            else {
                continue;
            };
            tokio::time::sleep(self.delay() + self.delay()).await;
            if !self.is_life((to, life)) || !self.is_life(from) {
                continue;
            }
            let (calls, outgoing) = Calls::new(to, self.options.max_calls_in_flight);
            *line.calls.lock() = Some(Arc::clone(&calls));
            let connection = Connection::new(&self, from, (to, life), lane, &calls, services);
            let reason = connection.run(outgoing).await;
            *line.calls.lock() = None;
            self.trace
                .note(&format!("line {}>{to} {lane:?} ends: {reason}", from.0));
            calls.end(&reason);
        }
    }
}

#[derive(Debug, Default)]
struct Line {
    calls: Mutex<Option<Arc<Calls>>>,
}

/// A node's side of the network.
#[derive(Debug)]
pub(crate) struct Lines {
    me: NodeId,
    lines: BTreeMap<(NodeId, u8), Arc<Line>>,
}

impl Lines {
    fn calls(&self, to: NodeId, lane: Lane) -> Option<Arc<Calls>> {
        self.lines.get(&(to, lane as u8))?.calls.lock().clone()
    }
}

impl Peers for Lines {
    fn peers(&self) -> Vec<NodeId> {
        let peers: BTreeSet<NodeId> = self.lines.keys().map(|(to, _)| *to).collect();
        peers.into_iter().collect()
    }

    fn state(&self, peer: NodeId) -> Option<PeerState> {
        if peer == self.me {
            return None;
        }
        let open = |lane| self.calls(peer, lane).is_some();
        Some(if open(Lane::Raft) && open(Lane::Command) {
            PeerState::Connected
        } else {
            PeerState::Unreachable {
                since: std::time::Instant::now(),
                reason: "no connection".to_owned(),
            }
        })
    }

    fn begin(
        &self,
        to: NodeId,
        lane: Lane,
        kind: CallKind,
        request: Bytes,
        timeout: Duration,
    ) -> Result<Pending, CallError> {
        match self.calls(to, lane) {
            Some(calls) => calls.begin(kind, request, timeout),
            None => Err(CallError::NotSent {
                to,
                reason: "no connection".to_owned(),
            }),
        }
    }
}
