//! Whether the copies of a cluster are the same: they have applied one log, and each node tells one
//! history from its own disk.
//!
//! Refuses to compare while clients write. What is behind may catch up for a while, what differs fails.

use std::time::Duration;

use serde_json::Value;

use crate::fixture::{Cluster, SOON};
use crate::support::client::{self, Entry};
use crate::support::http::{Http, Request};
use crate::support::node::Node;
use crate::support::wait;

const NODES: [u64; 3] = [1, 2, 3];

impl Cluster {
    /// The shards as a node sees them; `None` when it does not answer.
    pub(crate) fn shards(&self, node: u64) -> Option<Vec<Value>> {
        let mut http = Http::new(self.address(node)).patient_for(Duration::from_secs(3));
        let answer = http.try_send(&Request::get("/v1/shards")).ok()?;
        answer.json()["shards"].as_array().cloned()
    }

    /// Hands a shard to a node, waiting until that one may have it.
    pub(crate) fn transfer(&self, shard: usize, to: u64) {
        wait::until("a shard is moved", SOON, || {
            self.try_transfer(shard, to).then_some(())
        });
    }

    /// Asks for a shard to be handed to a node; says whether it was.
    pub(crate) fn try_transfer(&self, shard: usize, to: u64) -> bool {
        let target = format!("/v1/shards/{shard}/transfer");
        let request = Request::post(&target, format!("{{\"to\":{to}}}"));
        let answer = self.anywhere().try_send(&request);
        answer.is_ok_and(|answer| answer.status == 200)
    }

    /// All nodes have applied the same log, as far as its end tells.
    pub(crate) fn wait_same_logs(&self) {
        let ends = |node| -> Option<Vec<(u64, u64)>> {
            let shards = self.shards(node)?;
            let end = |shard: &Value| {
                let (last, applied) = (&shard["last_log_index"], &shard["applied_index"]);
                Some((last.as_u64()?, applied.as_u64()?))
            };
            shards.iter().map(end).collect()
        };
        let same = wait::poll(SOON, || {
            let first = ends(1)?;
            let applied = first.iter().all(|(last, applied)| last == applied);
            let same = ends(2).as_ref() == Some(&first) && ends(3).as_ref() == Some(&first);
            (applied && same).then_some(())
        });
        let seen = NODES.map(ends);
        assert!(same.is_some(), "the logs differ: {seen:?}\n{}", self.logs());
    }

    /// Lets each node lead all shards in turn: what it then tells of these accounts comes from its own
    /// disk.
    pub(crate) fn assert_copies_agree<'a>(
        &self,
        shards: usize,
        accounts: impl Iterator<Item = &'a String> + Clone,
    ) {
        let mut first: Option<Vec<Vec<Entry>>> = None;
        for node in NODES {
            let told = wait::until("a node leads all while it is asked", SOON, || {
                for shard in 0..shards {
                    self.transfer(shard, node);
                }
                let mut http = Http::new(self.address(node));
                let histories = accounts.clone().map(|id| client::history(&mut http, id));
                let told: Result<Vec<_>, _> = histories.collect();
                let seen = self.shards(node)?;
                let led = seen.len() == shards && seen.iter().all(|s| s["serving"] == true);
                led.then_some(told.ok()).flatten()
            });
            let first = first.get_or_insert_with(|| told.clone());
            assert!(*first == told, "the copy of node {node} differs");
        }
    }

    /// What every node wrote, for a failure's message.
    pub(crate) fn logs(&self) -> String {
        let log = |(node, running): (u64, &Option<Node>)| match running {
            Some(running) => format!("--- node {node}\n{}", running.log()),
            None => format!("--- node {node} does not run"),
        };
        let logs: Vec<String> = NODES.into_iter().zip(&self.nodes).map(log).collect();
        logs.join("\n")
    }
}
