//! Damaged copies: who tells of them, and who looks then.

use super::*;

/// A conductor that finds all as it should be looks again in a while, or once it hears of damage.
#[tokio::test(start_paused = true)]
async fn a_conductor_looks_when_somebody_says_that_a_copy_is_damaged() {
    let world = World::new(Options::default()).await;
    world.step_down().await;
    let leaders = Arc::new(Leaders::new(vec![vec![2]]));
    let router = Router::new(world.model.clone(), Arc::new(NoPeers), leaders, LIMITS);
    let house = house(ALL_THERE, &[(2, 0), (3, 0)], None);
    house.steward.hear(with_fourth(8, Standing::Member));
    let steward = Arc::new(house.steward);
    let following = tokio::spawn(Arc::clone(&steward).follow(router, Duration::from_secs(1)));
    let asked_within = |seconds| {
        let there = Arc::clone(&house.there);
        async move {
            let before = there.asked.load(Ordering::Acquire);
            tokio::time::sleep(Duration::from_secs(seconds)).await;
            there.asked.load(Ordering::Acquire) - before
        }
    };
    assert_eq!(asked_within(3).await, 2, "one look");
    for (request, expected) in [(Bytes::new(), 0), (wire::WITH_DAMAGE, 2)] {
        let told = steward.receive(2, CallKind::Status, &request).await;
        assert!(told.is_ok());
        assert_eq!(asked_within(3).await, expected, "{request:?}");
    }
    following.abort();
}

#[tokio::test]
async fn who_has_damaged_copies_says_so_when_it_asks() {
    let house = house(ALL_THERE, &[], None);
    house.steward.views().await;
    assert!(!house.there.told_of_damage.load(Ordering::Acquire));
    house.groups.refused.store(true, Ordering::Release);
    house.steward.views().await;
    assert!(house.there.told_of_damage.load(Ordering::Acquire));
}
