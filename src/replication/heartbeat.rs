//! The heartbeats of every shard that this node leads, all at the same moment.
//!
//! openraft would send them group by group, each at a moment of its own, and wake up the processor
//! for each message on both sides. Sent together they share the writes, the wake-ups and the
//! answers. Refuses to decide who leads: a group that does not lead lets the beat pass.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::MissedTickBehavior;

use super::service::RaftCalls;

/// Sends heartbeats until it is dropped.
pub async fn beat(groups: Arc<RaftCalls>, interval: Duration) {
    let mut rounds = tokio::time::interval(interval);
    // After a pause one beat is as good as the ones that were missed.
    rounds.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        rounds.tick().await;
        for group in groups.all() {
            group.heartbeat().await;
        }
    }
}
