//! A node whose disk has no space for commands hands over what it leads, for its followers may have
//! some.
//!
//! Owns the moment to do so. Refuses to hand anything to a node that has no space either, and to
//! stand aside: a shard whose leader is full can be read, and one without a leader cannot. Invariant:
//! nobody without space is given a shard unless whoever has it must go.

use std::sync::Arc;
use std::time::Duration;

use super::Steward;
use super::moves::{HandedOver, Need};

impl Steward {
    /// Looks every `interval` whether this node has space, until it is dropped.
    pub async fn make_room(self: Arc<Self>, interval: Duration) {
        let mut rounds = tokio::time::interval(interval);
        loop {
            rounds.tick().await;
            self.hand_over_for_space().await;
        }
    }

    /// Hands over what others have space for, if this node has none.
    pub(super) async fn hand_over_for_space(&self) {
        if !self.groups.is_full() || self.leaders.led_by(self.membership.me).is_empty() {
            return;
        }
        let HandedOver { moved, kept, .. } = self.hand_over_all(Need::None).await;
        if moved.is_empty() {
            tracing::debug!(?kept, "no space here, and nobody to hand over to");
        } else {
            let (moved, kept) = (moved.len(), kept.len());
            tracing::info!(moved, kept, "handed shards over: no space here");
        }
    }
}
