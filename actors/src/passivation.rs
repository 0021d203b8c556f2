//! Keeps the number of aggregates in memory bounded and lets unused ones go.
//!
//! One task per node. It looks at every resident once per round, so a round that has to make room
//! lets a whole share go, the least recently used first. It never touches one with work in flight.

use std::sync::Arc;
use std::time::Duration;

use crate::incarnation::{Incarnation, Services};
use crate::names::StreamName;
use crate::shard::ShardHandle;

/// How often idle aggregates are looked for.
const IDLE_ROUND: Duration = Duration::from_secs(1);

/// Runs until the task is aborted.
pub async fn run(services: Arc<Services>, shards: Vec<ShardHandle>) {
    loop {
        tokio::select! {
            () = services.crowded.notified() => {}
            () = tokio::time::sleep(IDLE_ROUND) => {}
        }
        round(&services, &shards);
    }
}

/// One look at everything in memory.
fn round(services: &Services, shards: &[ShardHandle]) {
    let now_ns = services.clock.monotonic_ns();
    let idle_since = now_ns.saturating_sub(services.limits.idle_ns);
    let mut residents: Vec<(u64, Arc<Incarnation>, StreamName)> = Vec::new();
    let crowded = services.resident() > services.limits.max_resident;
    for shard in shards {
        let Some(incarnation) = shard.serving() else {
            continue;
        };
        for entry in &incarnation.registry {
            let used = entry.value().occupancy.last_used_ns();
            if crowded || used < idle_since {
                residents.push((used, Arc::clone(&incarnation), entry.key().clone()));
            }
        }
    }
    let excess = excess(services);
    if excess > 0 && excess < residents.len() {
        residents.select_nth_unstable_by_key(excess, |(used, ..)| *used);
    }
    let mut let_go = 0;
    for (place, (used, incarnation, stream)) in residents.iter().enumerate() {
        let wanted = *used < idle_since || place < excess || (crowded && let_go < excess);
        if wanted && incarnation.passivate(stream) {
            let_go += 1;
        }
    }
}

/// How many have to go so that there is room for a while.
fn excess(services: &Services) -> usize {
    let max = services.limits.max_resident;
    let resident = services.resident();
    if resident <= max {
        return 0;
    }
    resident - max + max / 32
}
