//! A cluster that is cut to pieces: three real nodes, each in a network namespace of its own, that are
//! parted, slowed down, stopped, killed and left without disk, while clients go on.
//!
//! Two kinds of clients use it meanwhile. *Tellers* retry each command with its key at any node until
//! it is answered; *sentries* stand at one node, never retry, and note what it says and when. After
//! each harm is mended, every acknowledged command is there once and in its place, what was refused is
//! not, no fresh read was older than what had been acknowledged before it began, and all copies hold
//! the same log. A run in which too little happened fails.
//!
//! Needs root, `ip`, `nft`, `nsenter` and `setpriv` (Debian: iproute2, nftables, util-linux) and says
//! `SKIPPED` otherwise. `PHALANX_FAILOVERS=100 cargo test --release --features phalanx/failpoints
//! --test cluster_faults failovers -- --nocapture` measures failover over more harms (default 10).

#![expect(clippy::panic, reason = "a test fails by panicking")]

#[expect(dead_code, reason = "each test binary uses its own part")]
mod support;

#[expect(dead_code, reason = "other tests of clusters use the rest")]
#[path = "cluster/fixture.rs"]
mod fixture;

#[path = "cluster/copies.rs"]
mod copies;

#[expect(dead_code, reason = "other tests of clusters use the rest")]
#[path = "cluster_routing/load.rs"]
mod load;

#[path = "cluster_faults/calm.rs"]
mod calm;

#[path = "cluster_faults/net.rs"]
mod net;

#[path = "cluster_faults/sentries.rs"]
mod sentries;

#[path = "cluster_faults/site.rs"]
mod site;

#[path = "cluster_faults/partitions.rs"]
mod partitions;

#[path = "cluster_faults/readiness.rs"]
mod readiness;

#[path = "cluster_faults/links.rs"]
mod links;

#[path = "cluster_faults/pauses.rs"]
mod pauses;

#[path = "cluster_faults/disks.rs"]
mod disks;

#[path = "cluster_faults/failovers.rs"]
mod failovers;

#[path = "cluster_faults/moves.rs"]
mod moves;

#[path = "cluster_faults/clock.rs"]
mod clock;

#[path = "views/reading.rs"]
mod reading;

#[path = "cluster_faults/database.rs"]
mod database;
