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

/// The same while there are too many: what was in use a moment ago may be free now.
const CROWDED_ROUND: Duration = Duration::from_millis(20);

/// Runs until the task is aborted.
pub async fn run(services: Arc<Services>, shards: Vec<ShardHandle>) {
    let mut pause = IDLE_ROUND;
    loop {
        tokio::select! {
            () = services.crowded.notified() => {}
            () = tokio::time::sleep(pause) => {}
        }
        round(&services, &shards);
        pause = if excess(&services) > 0 {
            CROWDED_ROUND
        } else {
            IDLE_ROUND
        };
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
    let excess = excess(services).min(residents.len());
    if excess > 0 && excess < residents.len() {
        residents.select_nth_unstable_by_key(excess, |(used, ..)| *used);
    }
    let (oldest, rest) = residents.split_at_mut(excess);
    let mut missing = excess - oldest.iter().filter(|found| let_go(found)).count();
    if missing > 0 {
        // Some of the oldest are in use: their turn goes to the next in line.
        rest.sort_unstable_by_key(|(used, ..)| *used);
    }
    for found in rest {
        if (missing > 0 || found.0 < idle_since) && let_go(found) {
            missing = missing.saturating_sub(1);
        }
    }
}

fn let_go((_, incarnation, stream): &(u64, Arc<Incarnation>, StreamName)) -> bool {
    incarnation.passivate(stream)
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
