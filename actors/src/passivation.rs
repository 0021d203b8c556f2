//! Keeps the number of aggregates in memory bounded and lets unused ones go.
//!
//! One task per node. When it has to make room, it looks at every resident and lets a whole share go,
//! the least recently used first. For idle ones it looks at a few shards at a time, so that every
//! shard has had its turn within an eighth of the idle time: a look at everything each second would
//! be a tax that grows with what is in memory. It never touches one with work in flight.

use std::sync::Arc;
use std::time::Duration;

use crate::incarnation::{Incarnation, Services};
use crate::names::StreamName;
use crate::shard::ShardHandle;

/// How often idle aggregates are looked for.
const IDLE_ROUND: Duration = Duration::from_secs(1);

/// How often while there are too many: what was in use a moment ago may be free now.
const CROWDED_ROUND: Duration = Duration::from_millis(20);

/// One over the share of the idle time by which an aggregate leaves later than it could at most.
const IDLE_SHARE: u64 = 8;

/// Runs until the task is aborted.
pub async fn run(services: Arc<Services>, shards: Vec<ShardHandle>) {
    let share = shards_per_look(services.limits.idle_ns, shards.len());
    let mut turns = shards.chunks(share).cycle();
    let mut pause = IDLE_ROUND;
    loop {
        tokio::select! {
            () = services.crowded.notified() => {}
            () = tokio::time::sleep(pause) => {}
        }
        let excess = excess(&services);
        if excess > 0 {
            round(&services, &shards, excess);
            pause = CROWDED_ROUND;
        } else {
            round(&services, turns.next().unwrap_or_default(), 0);
            pause = IDLE_ROUND;
        }
    }
}

/// How many shards a look for idle ones takes, so that all have been looked at in time.
fn shards_per_look(idle_ns: u64, shards: usize) -> usize {
    let looks = idle_ns / IDLE_SHARE / IDLE_ROUND.as_nanos() as u64;
    shards
        .div_ceil(looks.clamp(1, shards.max(1) as u64) as usize)
        .max(1)
}

/// One look at what is in memory of these shards.
fn round(services: &Services, shards: &[ShardHandle], excess: usize) {
    let now_ns = services.clock.monotonic_ns();
    let idle_since = now_ns.saturating_sub(services.limits.idle_ns);
    let mut residents: Vec<(u64, Arc<Incarnation>, StreamName)> = Vec::new();
    for shard in shards {
        let Some(incarnation) = shard.serving() else {
            continue;
        };
        for entry in &incarnation.registry {
            let used = entry.value().occupancy.last_used_ns();
            if excess > 0 || used < idle_since {
                residents.push((used, Arc::clone(&incarnation), entry.key().clone()));
            }
        }
    }
    let excess = excess.min(residents.len());
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_shard_is_looked_at_within_an_eighth_of_the_idle_time() {
        let second = 1_000_000_000;
        assert_eq!(shards_per_look(120 * second, 8), 1);
        assert_eq!(shards_per_look(120 * second, 32), 3);
        assert_eq!(shards_per_look(1, 8), 8);
        assert_eq!(shards_per_look(120 * second, 0), 1);
        for idle_s in 1..200 {
            for shards in 1..70_usize {
                let looks = shards.div_ceil(shards_per_look(idle_s * second, shards)) as u64;
                assert!(
                    looks <= (idle_s / IDLE_SHARE).max(1),
                    "{idle_s} s, {shards} shards"
                );
            }
        }
    }
}
