//! Getting the records behind a position from a member that has them.
//!
//! Owns the choice of the member. Refuses an answer that does not continue where it should, and goes
//! to the next member then, as it does when one is silent. Invariant: at most one fetch is under way
//! for a place of a shard, and each that ends wakes whoever waits.

use std::sync::Arc;
use std::time::Duration;

use phalanx_actors::names::ShardId;
use phalanx_actors::record::Record;
use tokio::time::Instant;

use super::pages::fit;
use super::{Inner, Remote, State};
use crate::cluster::NodeId;
use crate::cluster::transport::{CallKind, Lane};
use crate::cluster::wire::{self, RecordsQuestion};

/// How long a member may take.
const WAIT: Duration = Duration::from_secs(2);
/// For how long another member is preferred to one that failed.
const BLAMED: Duration = Duration::from_secs(1);
/// Fetches of one shard at the same time. Those who wait for another place are woken when one ends.
const AT_ONCE: usize = 16;

/// Who is to be asked.
enum Choice {
    Ask(NodeId),
    /// All that have it have just failed.
    After(Instant),
    Nobody,
}

impl Inner {
    /// Sees to it that the records behind a position get here, if any member has them.
    pub(super) fn want(self: &Arc<Self>, shard: ShardId, after: u64) {
        let Some(remote) = self.remote(shard) else {
            return;
        };
        let mut state = remote.state.lock();
        let exists = state.heads.values().any(|head| *head > after);
        if exists && state.fetching.len() < AT_ONCE && state.fetching.insert(after) {
            drop(state);
            self.runtime.spawn(Arc::clone(self).fetch(shard, after));
        }
    }

    async fn fetch(self: Arc<Self>, shard: ShardId, after: u64) {
        let Some(remote) = self.remote(shard) else {
            return;
        };
        let records = self.fetch_from_somebody(shard, remote, after).await;
        let mut state = remote.state.lock();
        if let Some(records) = records {
            self.metrics.fetched(&records);
            // They may go beyond what their member had told before.
            let last = records.last().map_or(after, Record::last_position);
            state.known = state.known.max(last);
            state.pages.insert(after, records, self.shard_bytes);
        }
        state.fetching.remove(&after);
        drop(state);
        remote.changed.send_replace(());
    }

    async fn fetch_from_somebody(
        &self,
        shard: ShardId,
        remote: &Remote,
        after: u64,
    ) -> Option<Vec<Record>> {
        loop {
            let choice = remote.state.lock().choose(shard, after);
            let member = match choice {
                Choice::Ask(member) => member,
                Choice::After(when) => {
                    tokio::time::sleep_until(when).await;
                    continue;
                }
                Choice::Nobody => return None,
            };
            match self.fetch_from(member, shard, after).await {
                Ok(records) => {
                    let mut state = remote.state.lock();
                    state.blamed.remove(&member);
                    if state.source.replace(member).is_some_and(|s| s != member) {
                        self.metrics.switched();
                    }
                    return Some(records);
                }
                Err(reason) => {
                    tracing::debug!(shard, after, member, %reason, "has no events to give");
                    let until = Instant::now() + BLAMED;
                    remote.state.lock().blamed.insert(member, until);
                }
            }
        }
    }

    async fn fetch_from(
        &self,
        member: NodeId,
        shard: ShardId,
        after: u64,
    ) -> Result<Vec<Record>, String> {
        let question = RecordsQuestion {
            shard,
            after,
            max_bytes: u32::try_from(self.page_bytes).unwrap_or(u32::MAX),
        };
        let request = wire::housekeeping(&question).map_err(|error| error.to_string())?;
        let (lane, kind) = (Lane::Bulk, CallKind::Records);
        let called = self.peers.call(member, lane, kind, request, WAIT);
        let answer = called.await.map_err(|error| error.to_string())?;
        let answer = wire::read_records(&answer).map_err(|error| error.to_string())?;
        if fit(after, &answer.records) {
            Ok(answer.records)
        } else {
            let committed = answer.committed;
            Err(format!(
                "it has committed up to {committed} and tells nothing that follows"
            ))
        }
    }
}

impl State {
    /// The member that was asked before, if it has what is wanted; else whoever is furthest.
    fn choose(&mut self, shard: ShardId, after: u64) -> Choice {
        let now = Instant::now();
        self.blamed.retain(|_, until| *until > now);
        let having = self.heads.iter().filter(|(_, head)| **head > after);
        let fit = having
            .clone()
            .filter(|(member, _)| !self.blamed.contains_key(member));
        let fit: Vec<(NodeId, u64)> = fit.map(|(member, head)| (*member, *head)).collect();
        let before = self.source.filter(|s| fit.iter().any(|(id, _)| id == s));
        // Among equals, shards choose different ones.
        let turned = |id: NodeId| id.wrapping_add(u64::from(shard)) % 7;
        let furthest = fit.iter().max_by_key(|(id, head)| (*head, turned(*id)));
        if let Some(member) = before.or(furthest.map(|(id, _)| *id)) {
            return Choice::Ask(member);
        }
        let again = having
            .filter_map(|(member, _)| self.blamed.get(member))
            .min();
        again.map_or(Choice::Nobody, |when| Choice::After(*when))
    }
}
