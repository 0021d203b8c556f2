//! Steps of moving copies that are refused.

use super::*;
use crate::cluster::steward::conduct::Round;

/// One that is refused in every round keeps nobody else from being moved.
#[tokio::test(start_paused = true)]
async fn a_refused_step_lets_others_go_first() {
    let world = World::new(Options::default()).await;
    let leaders = Arc::new(Leaders::new(vec![vec![2]]));
    let router = Router::new(world.model.clone(), Arc::new(NoPeers), leaders, LIMITS);
    let house = house(ALL_THERE, &[(2, 0), (3, 0)], None);
    let mut heard = with_fourth(9, Standing::Member);
    heard.members.nodes.get_mut(&3).unwrap().standing = Standing::Leaving;
    heard.members.nodes.remove(&4);
    house.steward.hear(heard);
    let mut steps = Vec::new();
    for _ in 0..4 {
        assert_eq!(house.steward.conduct(&router).await, Round::Stuck);
        steps.push(std::mem::take(&mut *house.groups.steps.lock()));
    }
    // Four shards have to give up the copy of node 3, and three of them may at once.
    assert_eq!(steps, [[0, 1, 2], [3, 0, 1], [2, 3, 0], [1, 2, 3]]);
    // One that is taken is not behind others any more.
    *house.groups.reshaped.lock() = Some(Reshaped::Done);
    assert_eq!(house.steward.conduct(&router).await, Round::Progress);
    assert_eq!(*house.groups.steps.lock(), [0, 1, 2]);
    house.groups.steps.lock().clear();
    house.steward.conduct(&router).await;
    assert_eq!(*house.groups.steps.lock(), [0, 3, 1]);
}
