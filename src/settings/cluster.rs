//! Section `[cluster]`: the members, how the data is divided among them, and how fresh reads are
//! made safe.
//!
//! Refuses to resolve names: an address is `host:port` text that the transport resolves when it
//! connects. Invariant: a node without peers is a cluster of one, by the same rules as a larger
//! one.

use std::net::{Ipv4Addr, SocketAddr};

use serde::{Deserialize, Serialize};

/// The other members and how the data is divided.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ClusterSettings {
    /// Name that all members share; it keeps the members of two clusters from talking to each
    /// other.
    ///
    /// Default `phalanx`, 1 to 64 characters of `a-z 0-9 -`. Written into the data directory when
    /// it is formatted.
    pub name: String,
    /// Address and port for the other members.
    ///
    /// Default `127.0.0.1:7080`; any `ip:port`, not the one of `http.listen`. Only members should
    /// reach it.
    pub listen: SocketAddr,
    /// Address as `host:port` at which the other members reach this node.
    ///
    /// Default empty: the same as `cluster.listen`. Needed when that one is a wildcard or hidden
    /// behind a translation.
    pub advertise: String,
    /// Whether an empty node founds the cluster together with the peers of this file.
    ///
    /// Default true. False makes an empty node wait until the running cluster adds it.
    pub bootstrap: bool,
    /// Number of shards, each with its own leader and log.
    ///
    /// Default 8, range 1 to 4096; fixed when the data directory is formatted. More shards spread
    /// the work over more cores and members; each costs memory, timers and heartbeats.
    pub shards: u32,
    /// Copies of each shard; the smaller of this and the number of members is used. The same on
    /// every member: whoever moves copies goes by its own.
    ///
    /// Default 3, range 1 to 9. More copies survive more failures and make each commit wait for
    /// more disks; odd numbers are best, as a majority must agree.
    pub replication_factor: u32,
    /// How a leader proves before a fresh read that it still leads.
    ///
    /// Default `lease`, or `read_index`. A lease needs no message but trusts that clocks run at a
    /// similar rate; `read_index` trusts no clock and costs one round to a majority.
    pub reads: ReadMode,
    /// Time that a request waits for its shard to have a leader that can be asked, in milliseconds;
    /// afterwards it is answered 503 `no-leader`. Never longer than `http.request_timeout_ms`.
    ///
    /// Default 3000, range 0 to 600000. Larger hides elections from clients; smaller tells them
    /// sooner.
    pub leader_wait_ms: u64,
    /// How often a node looks whether it leads more shards than others and hands some over, in
    /// milliseconds.
    ///
    /// Default 2000, range 0 to 3600000; 0 never moves a leader. Larger leaves a node that came
    /// back in peace for longer; smaller evens the load out sooner.
    pub balance_interval_ms: u64,
    /// The same while this node is connected to no majority of the shard's voters, in milliseconds.
    ///
    /// Default 500, range 0 to 600000. Larger hides short losses of connections; smaller sends
    /// clients to the other side of a split network sooner.
    pub isolated_wait_ms: u64,
    /// The other members, as `[[cluster.peers]]` blocks; never this node itself.
    ///
    /// Default none: a cluster of one.
    pub peers: Vec<Peer>,
}

impl ClusterSettings {
    /// Number of members: the peers and this node.
    #[must_use]
    pub fn member_count(&self) -> usize {
        self.peers.len() + 1
    }

    /// Copies of each shard that this cluster can really keep: the smaller of the factor and the
    /// number of members.
    #[must_use]
    pub fn effective_replication_factor(&self) -> usize {
        usize::try_from(self.replication_factor)
            .unwrap_or(usize::MAX)
            .min(self.member_count())
    }

    /// Address as `host:port` at which the other members reach this node.
    #[must_use]
    pub fn advertised_address(&self) -> String {
        if self.advertise.is_empty() {
            self.listen.to_string()
        } else {
            self.advertise.clone()
        }
    }
}

impl Default for ClusterSettings {
    fn default() -> Self {
        Self {
            name: "phalanx".to_owned(),
            listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 7080)),
            advertise: String::new(),
            bootstrap: true,
            shards: 8,
            replication_factor: 3,
            reads: ReadMode::Lease,
            leader_wait_ms: 3_000,
            balance_interval_ms: 2_000,
            isolated_wait_ms: 500,
            peers: Vec::new(),
        }
    }
}

/// Another member of the cluster; both keys must be given.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Peer {
    /// Its `node.id`: from 1, not the id of this node, and not that of another peer.
    pub id: u64,
    /// Where it listens for members, as `host:port`: a name, an IPv4 address or an IPv6 address in
    /// brackets.
    pub address: String,
}

/// How a leader proves before a fresh read that it still leads.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ReadMode {
    /// By the time that followers promised not to elect another one.
    Lease,
    /// By asking a majority at each read.
    ReadIndex,
}
