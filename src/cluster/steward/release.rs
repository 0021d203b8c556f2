//! Whether a damaged copy of this node may be thrown away.
//!
//! Owns that one answer. Refuses to go by what this node remembers, for its copy may be what is wrong.
//! Invariant: it says so only when the shard's leader has committed a membership without this node, and
//! a majority of that membership knows of no later term. So no later leader has been elected that could
//! have counted this node in again, and nothing that this node has confirmed is counted on any more.

use phalanx_actors::names::ShardId;

use super::Steward;
use super::conduct::leader_view;
use crate::cluster::NodeId;
use crate::cluster::status::{NodeView, ShardView};
use crate::cluster::wire::Led;

impl Steward {
    /// Which of these shards count no copy of this node any more, and by whose word. Asks all members
    /// anew.
    pub async fn released(&self, shards: &[ShardId]) -> Vec<(ShardId, Led)> {
        if shards.is_empty() {
            return Vec::new();
        }
        let views = self.views().await;
        let released = shards.iter().filter_map(|shard| {
            let known = self.leaders.known(*shard).term;
            let led = releases(&views, *shard, self.membership.me, known)?;
            Some((*shard, led))
        });
        released.collect()
    }
}

/// Who releases `me` from a shard, if anybody does. `known` is the newest term that `me` has heard of.
fn releases(views: &[NodeView], shard: ShardId, me: NodeId, known: u64) -> Option<Led> {
    let view = leader_view(views, shard)?;
    let settled = !view.changing && view.becoming.is_empty() && !view.voters.is_empty();
    let counted = view.voters.contains(&me) || view.learners.contains(&me);
    let followed = followers(views, view) * 2 > view.voters.len();
    let released = settled && !counted && followed && view.term >= known;
    let (node, term) = (view.leader?, view.term);
    released.then_some(Led { node, term })
}

/// How many voters of a leader's membership say that they know of no later term. Who does not count
/// itself goes by hearsay.
fn followers(views: &[NodeView], leads: &ShardView) -> usize {
    let follows = |voter: &&NodeId| {
        let view = views.iter().find(|view| view.node == **voter);
        let at = view.and_then(|v| v.shards.iter().find(|s| s.shard == leads.shard));
        at.is_some_and(|at| {
            at.term == leads.term && at.voters.contains(voter) && at.last_log_index.is_some()
        })
    };
    leads.voters.iter().filter(follows).count()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// How a node sees shard 0, led by node 1 in term 7 with the voters 1, 2 and 3; this node is 4.
    fn view(node: NodeId) -> NodeView {
        let shard = ShardView {
            shard: 0,
            voters: vec![1, 2, 3],
            learners: Vec::new(),
            becoming: Vec::new(),
            changing: false,
            leader: Some(1),
            term: 7,
            last_log_index: Some(100),
            applied_index: Some(100),
            followers: Vec::new(),
            serving: node == 1,
            refusal: None,
        };
        NodeView {
            node,
            incarnation: String::new(),
            draining: false,
            shards: vec![shard],
            full: false,
        }
    }

    fn views() -> Vec<NodeView> {
        (1..=3).map(view).collect()
    }

    fn released(views: &[NodeView]) -> bool {
        releases(views, 0, 4, 7).is_some()
    }

    #[test]
    fn a_leader_that_a_majority_follows_releases_whom_it_does_not_count() {
        let led = releases(&views(), 0, 4, 7).unwrap();
        assert_eq!((led.node, led.term), (1, 7));
        assert!(released(&views()[..2]), "two of three are enough");
        assert!(releases(&views(), 1, 4, 7).is_none(), "no such shard");
    }

    #[test]
    fn whoever_is_counted_is_not_released() {
        assert!(releases(&views(), 0, 3, 7).is_none(), "a voter");
        let changes: [fn(&mut ShardView); 4] = [
            |shard| shard.learners = vec![4],
            |shard| shard.changing = true,
            |shard| shard.becoming = vec![1, 2],
            |shard| shard.voters = Vec::new(),
        ];
        for change in changes {
            let mut views = views();
            change(&mut views[0].shards[0]);
            assert!(!released(&views), "{:?}", views[0]);
        }
    }

    #[test]
    fn a_leader_that_may_have_been_replaced_releases_nobody() {
        assert!(
            releases(&views(), 0, 4, 8).is_none(),
            "a later term is known"
        );
        assert!(!released(&views()[..1]), "nobody else answers");
        assert!(!released(&views()[1..]), "the leader does not");
        let changes: [fn(&mut ShardView); 3] = [
            |shard| shard.term = 8,
            |shard| shard.voters = vec![1],
            |shard| shard.last_log_index = None,
        ];
        for change in changes {
            let mut views = views();
            for view in &mut views[1..] {
                change(&mut view.shards[0]);
            }
            assert!(!released(&views), "{:?}", views[1]);
        }
        let mut views = views();
        views[0].shards[0].serving = false;
        assert!(!released(&views), "it does not serve");
    }
}
