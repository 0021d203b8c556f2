//! Puts the parts together that send a request to the right node and keep house in the cluster.

use std::sync::Arc;
use std::time::Duration;

use phalanx_actors::CommandModel;
use phalanx_actors::shard::ShardHandle;
use tokio::task::JoinHandle;

use super::groups::NodeGroups;
use super::members;
use crate::cluster::NodeId;
use crate::cluster::leaders::Leaders;
use crate::cluster::peers::Peers;
use crate::cluster::roster::Roster;
use crate::cluster::router::{Router, RouterLimits};
use crate::cluster::steward::{Membership, Steward};
use crate::journal::Journal;
use crate::replication::service::RaftCalls;
use crate::settings::Settings;

/// What requests and housekeeping go through.
pub(super) struct Routing {
    pub(super) router: Router,
    pub(super) steward: Arc<Steward>,
    pub(super) leaders: Arc<Leaders>,
    pub(super) background: Vec<JoinHandle<()>>,
}

impl Routing {
    /// Starts to follow the groups.
    pub(super) fn start(
        settings: &Settings,
        journal: &Journal,
        model: CommandModel,
        shards: &[ShardHandle],
        groups: &Arc<RaftCalls>,
        peers: Arc<dyn Peers>,
        roster: Arc<Roster>,
    ) -> Self {
        let leaders = Arc::new(Leaders::new(first_voters(settings, &roster)));
        let node_groups = NodeGroups::new(
            shards,
            Arc::clone(groups),
            Arc::clone(&leaders),
            journal.clone(),
        );
        let mut background: Vec<JoinHandle<()>> = groups
            .all()
            .into_iter()
            .map(|group| tokio::spawn(group.report(Arc::clone(&leaders))))
            .collect();
        // A leader hears from its followers once per heartbeat; this is as long as they wait for it.
        let silence = Duration::from_millis(settings.raft.election_timeout_max_ms);
        background.push(tokio::spawn(node_groups.clone().watch(silence)));
        let router = if members::is_alone(settings, &roster) {
            Router::alone(model)
        } else {
            let limits = RouterLimits {
                leader_wait: Duration::from_millis(settings.cluster.leader_wait_ms),
                isolated_wait: Duration::from_millis(settings.cluster.isolated_wait_ms),
                // The rest is for what surrounds a message.
                answer_bytes: settings.transport.max_message_bytes.saturating_sub(1024),
                lapse: silence * 2,
            };
            Router::new(model, Arc::clone(&peers), Arc::clone(&leaders), limits)
        };
        background.push(tokio::spawn(router.clone().watch_readiness()));
        let steward = Arc::new(Steward::new(
            membership(settings, journal, roster),
            peers,
            Arc::clone(&leaders),
            Arc::new(node_groups),
        ));
        Self {
            router,
            steward,
            leaders,
            background,
        }
    }
}

/// The voters of each shard, until its group or another node says who they are now.
fn first_voters(settings: &Settings, roster: &Roster) -> Vec<Vec<NodeId>> {
    let mut placed = members::founding_placement(settings, roster);
    if roster.heard().is_some() {
        // Copies may have moved since.
        placed.fill(Vec::new());
    }
    placed
}

fn membership(settings: &Settings, journal: &Journal, roster: Arc<Roster>) -> Membership {
    Membership {
        name: settings.cluster.name.clone(),
        me: settings.node.id,
        incarnation: journal.incarnation().to_string(),
        zone: settings.node.zone.clone(),
        roles: settings.node.roles.iter().copied().collect(),
        replication_factor: members::factor(settings),
        roster,
    }
}
