//! Who the members are, and changing that.

use super::*;

/// Takes commands of the members, which nobody can read afterwards.
#[derive(Debug)]
struct Taker;

impl Answering for Taker {
    fn members(&self) -> Vec<NodeId> {
        vec![2]
    }

    fn answer(
        &self,
        to: NodeId,
        _lane: Lane,
        kind: CallKind,
        request: Bytes,
        _timeout: Duration,
    ) -> BoxFuture<'_, Result<Bytes, CallError>> {
        let (heading, _) = wire::read_question(&request).unwrap();
        let said = if kind == CallKind::Command {
            Said::Answer(Answer::Accepted(Accepted {
                stream: heading.stream,
                sequence_number: 2,
                position: Position {
                    shard: 0,
                    number: 2,
                },
                created: false,
                replayed: false,
                events: Arc::new([]),
            }))
        } else {
            Said::failed(FailureKind::NoLeader, "an election")
        };
        let answer = wire::said(to, &said, PROTOCOL_MAX).unwrap();
        Box::pin(std::future::ready(Ok(answer)))
    }
}

#[test]
fn the_transport_goes_by_the_newest_members_also_when_two_hear_at_once() {
    let house = house(ALL_THERE, &[(2, 0), (3, 0)], None);
    let mut without = with_fourth(9, Standing::Leaving);
    without.members.nodes.remove(&4);
    house.there.slow.store(true, Ordering::Release);
    std::thread::scope(|scope| {
        scope.spawn(|| house.steward.hear(with_fourth(8, Standing::Leaving)));
        while house.steward.membership.roster.heard().is_none() {
            std::thread::yield_now();
        }
        house.steward.hear(without);
    });
    assert_eq!(*house.there.told.lock(), [vec![2, 3, 4], vec![2, 3]]);
}

#[tokio::test]
async fn nobody_is_removed_by_a_look_from_before_it_was_told_to_leave() {
    let house = house(ALL_THERE, &[(2, 0), (3, 0)], None);
    house.steward.hear(with_fourth(8, Standing::Joining));
    let views = house.steward.views().await;
    let survey = house.steward.survey(&views);
    // The copies that it is given now are not in the survey.
    house.steward.hear(with_fourth(9, Standing::Leaving));
    assert_eq!(survey.confirmations(true), (Vec::new(), true));
    let survey = house.steward.survey(&house.steward.views().await);
    let removed = MembersCommand::ConfirmRemoved { id: 4 };
    assert_eq!(survey.confirmations(false), (vec![removed], false));
}

#[tokio::test(start_paused = true)]
async fn a_change_that_is_noted_is_never_said_to_have_come_to_nothing() {
    let world = World::new(Options::default()).await;
    world.step_down().await;
    let leaders = Arc::new(Leaders::new(vec![vec![2]]));
    let leader = Some(2);
    leaders.report(0, Known { term: 1, leader });
    let router = Router::new(world.model.clone(), Arc::new(Taker), leaders, LIMITS);
    let house = house(ALL_THERE, &[], None);
    let address = "host-4:1".to_owned();
    let changed = house.steward.add_node(&router, 4, address).await;
    assert!(
        matches!(changed, Err(ChangeError::Unseen(_))),
        "{changed:?}"
    );
}
