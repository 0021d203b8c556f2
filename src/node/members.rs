//! The other members of the cluster: connections to them, and which shards this node founds.
//!
//! Owns what follows from `[cluster]` and `[transport]`. A cluster of one opens no socket here, so
//! that nobody can connect to it by mistake.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::task::JoinHandle;

use super::NodeError;
use super::builder::listen;
use crate::cluster::NodeId;
use crate::cluster::peers::{NoPeers, Peers};
use crate::cluster::placement::place;
use crate::cluster::roster::Roster;
use crate::cluster::tls::{Security, Tls, TlsFiles};
use crate::cluster::transport::{Services, Transport, TransportIdentity, TransportOptions};
use crate::journal::Journal;
use crate::settings::Settings;

/// The way to the other members and from them.
#[derive(Debug)]
pub(super) struct Members {
    transport: Transport,
    listener: Option<TcpListener>,
    security: Security,
}

impl Members {
    /// The others as raft and the router see them.
    pub(super) fn peers(&self) -> Arc<dyn Peers> {
        if self.listener.is_none() {
            Arc::new(NoPeers)
        } else {
            Arc::new(self.transport.clone())
        }
    }

    /// Begins to take the connections of other members; none in a cluster of one.
    pub(super) fn listen(self, services: Services) -> Vec<JoinHandle<()>> {
        let mut tasks = Vec::new();
        if let Security::Tls(tls) = self.security {
            tasks.push(tokio::spawn(tls.watch()));
        }
        if let Some(listener) = self.listener {
            tasks.push(tokio::spawn(self.transport.serve(listener, services)));
        }
        tasks
    }
}

/// Whether there are no other members and none to be looked for.
pub(super) fn is_alone(settings: &Settings, roster: &Roster) -> bool {
    let cluster = &settings.cluster;
    cluster.bootstrap && cluster.peers.is_empty() && roster.members().len() <= 1
}

/// What this node knows of the members; a new data directory notes the founders.
pub(super) fn roster(settings: &Settings) -> Result<Roster, NodeError> {
    Roster::open(
        &settings.node.data_dir,
        settings.node.id,
        addresses(settings),
        settings.cluster.bootstrap,
    )
    .map_err(NodeError::KnownMembers)
}

/// Begins to connect, and takes the address at which other members connect.
pub(super) fn connect(
    settings: &Settings,
    journal: &Journal,
    roster: &Roster,
) -> Result<Members, NodeError> {
    let security = security(settings)?;
    let alone = is_alone(settings, roster);
    let who = TransportIdentity {
        node: settings.node.id,
        cluster: settings.cluster.name.clone(),
        shards: settings.cluster.shards,
        incarnation: journal.incarnation(),
        process: rand::random_range(1..=u64::MAX),
        data_dir: settings.node.data_dir.clone(),
        contacts: roster.contacts(),
        security: security.clone(),
    };
    let transport = Transport::start(who, options(settings)).map_err(NodeError::KnownMembers)?;
    let address = settings.cluster.listen;
    let failed = |source| NodeError::ListenForMembers { address, source };
    let listener = (!alone)
        .then(|| listen(address))
        .transpose()
        .map_err(failed)?;
    Ok(Members {
        transport,
        listener,
        security,
    })
}

/// The members of the config file and their addresses, this node included.
pub(super) fn addresses(settings: &Settings) -> BTreeMap<NodeId, String> {
    let cluster = &settings.cluster;
    let mut all: BTreeMap<NodeId, String> = cluster
        .peers
        .iter()
        .map(|peer| (peer.id, peer.address.clone()))
        .collect();
    all.insert(settings.node.id, cluster.advertised_address());
    all
}

/// The replicas of every shard when the cluster is founded, the preferred leader first; none as far
/// as a node knows that joined later.
pub(super) fn founding_placement(settings: &Settings, roster: &Roster) -> Vec<Vec<NodeId>> {
    let founders: Vec<NodeId> = roster.founders().iter().copied().collect();
    place(settings.cluster.shards, &founders, factor(settings))
}

/// Copies of each shard that are wanted.
pub(super) fn factor(settings: &Settings) -> usize {
    usize::try_from(settings.cluster.replication_factor).unwrap_or(usize::MAX)
}

fn security(settings: &Settings) -> Result<Security, NodeError> {
    let Some(files) = TlsFiles::of(&settings.transport.tls) else {
        return Ok(Security::Plaintext);
    };
    let loaded = Tls::load(settings.node.id, &settings.cluster.name, files)?;
    Ok(Security::Tls(loaded))
}

fn options(settings: &Settings) -> TransportOptions {
    let transport = &settings.transport;
    TransportOptions {
        connect_timeout: Duration::from_millis(transport.connect_timeout_ms),
        reconnect_max: Duration::from_millis(transport.reconnect_max_ms),
        keepalive_interval: Duration::from_millis(transport.keepalive_interval_ms),
        keepalive_timeout: Duration::from_millis(transport.keepalive_timeout_ms),
        calls_in_flight: transport.max_calls_in_flight,
        max_message_bytes: transport.max_message_bytes,
    }
}
