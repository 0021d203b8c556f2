//! Steps are small, safe, and end where copies belong.

use proptest::prelude::*;

use super::super::place;
use super::*;

fn member(id: NodeId, zone: &str) -> Member {
    Member {
        id,
        zone: zone.to_owned(),
        stays: true,
        reachable: true,
        roomy: true,
    }
}

fn members(ids: &[NodeId]) -> Vec<Member> {
    ids.iter().map(|id| member(*id, "here")).collect()
}

fn placed(shards: u32, ids: &[NodeId], factor: usize) -> Vec<Copies> {
    let voters = place(shards, ids, factor);
    let copies = |voters: Vec<NodeId>| Copies {
        voters: voters.into_iter().collect(),
        ..Copies::default()
    };
    voters.into_iter().map(copies).collect()
}

fn load(copies: &[Copies], node: NodeId) -> usize {
    let holds = copies.iter().filter(|found| found.voters.contains(&node));
    holds.count()
}

fn spread<'a>(copies: &[Copies], nodes: impl Iterator<Item = &'a Member>) -> usize {
    let loads: Vec<usize> = nodes.map(|node| load(copies, node.id)).collect();
    let (most, least) = (loads.iter().max(), loads.iter().min());
    most.zip(least).map_or(0, |(most, least)| most - least)
}

/// A majority of the voters can be reached, and their copies are whole.
fn can_be_counted_on(
    members: &[Member],
    voters: &BTreeSet<NodeId>,
    damaged: &BTreeSet<NodeId>,
) -> bool {
    let counts = |m: &&Member| m.reachable && voters.contains(&m.id) && !damaged.contains(&m.id);
    members.iter().filter(counts).count() * 2 > voters.len()
}

/// Takes steps until none is left, checking each; gives how many there were.
fn settle(members: &[Member], copies: &mut [Copies], factor: usize) -> usize {
    let mut steps = 0;
    loop {
        let moves = next_moves(members, copies, factor, MOVES_AT_ONCE);
        assert!(moves.len() <= MOVES_AT_ONCE);
        if moves.is_empty() {
            return steps;
        }
        let shards: BTreeSet<ShardId> = moves.iter().map(|step| step.shard).collect();
        assert_eq!(shards.len(), moves.len(), "one step for a shard: {moves:?}");
        for step in &moves {
            let Copies {
                voters: before,
                damaged,
                ..
            } = &copies[step.shard as usize];
            assert!(step.voters.difference(before).count() <= 1, "{step:?}");
            assert!(before.difference(&step.voters).count() <= 1, "{step:?}");
            assert!(!step.voters.is_empty());
            assert!(
                can_be_counted_on(members, &step.voters, damaged),
                "{before:?} {damaged:?} {step:?}"
            );
            let ill: BTreeSet<NodeId> = before.intersection(damaged).copied().collect();
            if step.voters != *before && !ill.is_empty() {
                // Nothing is done about its shard before a damaged copy is out.
                assert!(can_be_counted_on(members, before, damaged), "{step:?}");
                assert!(step.voters.is_subset(before), "{before:?} {step:?}");
                assert!(
                    before
                        .difference(&step.voters)
                        .all(|gone| ill.contains(gone))
                );
            }
            let added = step.voters.difference(before);
            assert!(
                added.copied().all(|node| !damaged.contains(&node)),
                "{step:?}"
            );
        }
        steps += moves.len();
        assert!(steps < 3000, "no end");
        apply(copies, moves);
    }
}

/// What must hold at the end, when every member that stays can be reached.
fn assert_settled(members: &[Member], copies: &[Copies], factor: usize) {
    let staying: Vec<&Member> = members.iter().filter(|member| member.stays).collect();
    let wanted = factor.min(staying.len());
    for found in copies {
        assert_eq!(found.voters.len(), wanted, "{copies:?}");
        assert!(found.learners.is_empty());
        for voter in &found.voters {
            assert!(staying.iter().any(|member| member.id == *voter));
        }
    }
    let zones: BTreeSet<&str> = staying.iter().map(|member| member.zone.as_str()).collect();
    for zone in &zones {
        let inside = staying
            .iter()
            .copied()
            .filter(|member| member.zone == **zone);
        assert!(spread(copies, inside) <= 1, "zone {zone}: {copies:?}");
    }
    if zones.len() == 1 || zones.len() == staying.len() {
        assert!(spread(copies, staying.iter().copied()) <= 1, "{copies:?}");
    }
    for found in copies {
        let mut counts: BTreeMap<&str, usize> = zones.iter().map(|zone| (*zone, 0)).collect();
        for member in staying.iter().filter(|m| found.voters.contains(&m.id)) {
            *counts.entry(&member.zone).or_default() += 1;
        }
        for (zone, most) in &counts {
            let emptier = counts.iter().any(|(other, count)| {
                let size = staying
                    .iter()
                    .filter(|member| member.zone == **other)
                    .count();
                count + 2 <= *most && *count < size
            });
            assert!(!emptier, "zone {zone} is crowded: {found:?}");
        }
    }
}

prop_compose! {
    /// Members in up to four zones, some of which leave; at least one stays.
    fn some_members()(
        list in prop::collection::btree_map(1_u64..30, (0_usize..4, prop::bool::weighted(0.8)), 1..9),
        zones in 1_usize..5,
    ) -> Vec<Member> {
        let mut members: Vec<Member> = list.into_iter().map(|(id, (zone, stays))| Member {
            stays,
            ..member(id, ["a", "b", "c", "d"][zone % zones])
        }).collect();
        if members.iter().all(|member| !member.stays) {
            members[0].stays = true;
        }
        members
    }
}

prop_compose! {
    /// Any copies at all, on nodes of which some are no members.
    fn any_copies()(
        voters in prop::collection::vec(prop::collection::btree_set(1_u64..30, 1..5), 1..40),
    ) -> Vec<BTreeSet<NodeId>> {
        voters
    }
}

proptest! {
    #[test]
    fn whatever_there_is_ends_where_it_belongs(
        mut members in some_members(),
        voters in any_copies(),
        factor in 1_usize..6,
    ) {
        let holders: BTreeSet<NodeId> = voters.iter().flatten().copied().collect();
        // Nodes with copies that nobody knows as members must go like those that leave.
        for holder in holders {
            if !members.iter().any(|member| member.id == holder) {
                members.push(Member { stays: false, ..member(holder, "a") });
            }
        }
        let mut copies: Vec<Copies> = voters
            .into_iter()
            .map(|voters| Copies { voters, ..Copies::default() })
            .collect();
        settle(&members, &mut copies, factor);
        assert_settled(&members, &copies, factor);
    }

    #[test]
    fn a_cluster_that_was_just_founded_stays_as_it_is(
        shards in 1_u32..64,
        ids in prop::collection::btree_set(1_u64..30, 1..8),
        factor in 1_usize..5,
    ) {
        let ids: Vec<NodeId> = ids.into_iter().collect();
        let copies = placed(shards, &ids, factor);
        prop_assert_eq!(next_moves(&members(&ids), &copies, factor, MOVES_AT_ONCE), []);
        prop_assert_eq!(pending(&members(&ids), &copies, factor), 0);
    }

    #[test]
    fn a_new_member_takes_its_share_and_no_more_moves_than_that(
        shards in 1_u32..64,
        count in 3_u64..7,
    ) {
        let ids: Vec<NodeId> = (1..=count).collect();
        let mut copies = placed(shards, &ids, 3);
        let more: Vec<NodeId> = (1..=count + 1).collect();
        let expected = pending(&members(&more), &copies, 3);
        let steps = settle(&members(&more), &mut copies, 3);
        assert_settled(&members(&more), &copies, 3);
        prop_assert_eq!(steps, expected);
        prop_assert_eq!(steps, load(&copies, count + 1));
    }

    #[test]
    fn with_members_that_are_away_no_step_loses_the_majority_and_steps_still_end(
        members in some_members(),
        away in prop::collection::vec(prop::bool::weighted(0.3), 9),
        voters in any_copies(),
        factor in 1_usize..6,
    ) {
        let mut members = members;
        for (member, away) in members.iter_mut().zip(away) {
            member.reachable = !away;
        }
        let mut copies: Vec<Copies> = voters
            .into_iter()
            .map(|voters| Copies { voters, ..Copies::default() })
            .collect();
        // Each step is checked on the way.
        settle(&members, &mut copies, factor);
    }

    #[test]
    fn damaged_copies_go_and_none_is_built_in_their_place_while_they_are_there(
        members in some_members(),
        away in prop::collection::vec(prop::bool::weighted(0.2), 9),
        shards in prop::collection::vec(
            (prop::collection::btree_set(0_usize..9, 1..5), prop::collection::btree_set(0_usize..9, 0..4)),
            1..30,
        ),
        factor in 1_usize..6,
    ) {
        let mut members = members;
        for (member, away) in members.iter_mut().zip(away) {
            member.reachable = !away;
        }
        let some = |places: BTreeSet<usize>| -> BTreeSet<NodeId> {
            places.into_iter().map(|place| members[place % members.len()].id).collect()
        };
        let mut copies: Vec<Copies> = shards
            .into_iter()
            .map(|(voters, damaged)| Copies {
                voters: some(voters),
                damaged: some(damaged),
                ..Copies::default()
            })
            .collect();
        let before = copies.clone();
        // Each step is checked on the way.
        settle(&members, &mut copies, factor);
        for (before, after) in before.iter().zip(&copies) {
            let ill = after.voters.intersection(&after.damaged).next();
            prop_assert!(
                ill.is_none() || !can_be_counted_on(&members, &after.voters, &after.damaged),
                "a damaged copy stays: {:?}", after
            );
            if !can_be_counted_on(&members, &before.voters, &before.damaged)
                && !before.voters.is_disjoint(&before.damaged)
            {
                prop_assert_eq!(&before.voters, &after.voters, "no majority, so all is left as it is");
            }
        }
    }

    #[test]
    fn a_copy_that_is_blank_again_comes_back_and_all_ends_where_it_belongs(
        members in some_members(),
        shards in 1_u32..40,
        ill in prop::collection::vec(prop::bool::weighted(0.3), 40),
    ) {
        let ids: Vec<NodeId> = members.iter().filter(|m| m.stays).map(|m| m.id).collect();
        let mut copies = placed(shards, &ids, 3);
        // One of each of these shards' copies.
        for (found, ill) in copies.iter_mut().zip(ill) {
            if ill {
                found.damaged.extend(found.voters.first().copied());
            }
        }
        settle(&members, &mut copies, 3);
        for found in &mut copies {
            if found.voters.is_disjoint(&found.damaged) {
                found.damaged.clear();
            }
        }
        settle(&members, &mut copies, 3);
        if ids.len() > 2 {
            assert_settled(&members, &copies, 3);
        }
    }

    #[test]
    fn a_move_is_gone_on_with_by_whoever_looks_next(
        shards in 4_u32..40,
        stop_after in 1_usize..4,
    ) {
        let all = members(&[1, 2, 3, 4]);
        let mut copies = placed(shards, &[1, 2, 3], 3);
        let begun = next_moves(&all, &copies, 3, stop_after);
        // Died where the learners were added and nothing else.
        for step in &begun {
            let found = &mut copies[step.shard as usize];
            found.learners = step.voters.difference(&found.voters).copied().collect();
        }
        let next = next_moves(&all, &copies, 3, stop_after);
        let shards_of = |moves: &[Move]| moves.iter().map(|m| m.shard).collect::<BTreeSet<_>>();
        prop_assert_eq!(shards_of(&begun), shards_of(&next));
        for step in &next {
            prop_assert!(step.voters.contains(&4), "the learner is used: {:?}", step);
        }
        settle(&all, &mut copies, 3);
        assert_settled(&all, &copies, 3);
    }
}

#[test]
fn a_dead_node_that_leaves_is_replaced_before_anything_else_moves() {
    let mut all = members(&[1, 2, 3, 4]);
    all[2].stays = false;
    all[2].reachable = false;
    let mut copies = placed(8, &[1, 2, 3], 3);
    for step in next_moves(&all, &copies, 3, MOVES_AT_ONCE) {
        assert_eq!(step.voters, BTreeSet::from([1, 2, 4]));
    }
    settle(&all, &mut copies, 3);
    assert_settled(&all, &copies, 3);
}

#[test]
fn without_anybody_to_take_over_a_leaving_node_makes_the_group_smaller() {
    let mut all = members(&[1, 2, 3]);
    all[2].stays = false;
    let mut copies = placed(4, &[1, 2, 3], 3);
    settle(&all, &mut copies, 3);
    assert!(
        copies
            .iter()
            .all(|found| found.voters == BTreeSet::from([1, 2]))
    );
}

#[test]
fn a_leave_waits_while_it_would_cost_the_majority() {
    let mut all = members(&[1, 2, 3]);
    all[0].stays = false;
    all[2].reachable = false;
    let copies = placed(4, &[1, 2, 3], 3);
    assert_eq!(next_moves(&all, &copies, 3, MOVES_AT_ONCE), []);
    all[2].reachable = true;
    assert_eq!(next_moves(&all, &copies, 3, MOVES_AT_ONCE).len(), 3);
}

#[test]
fn nothing_is_built_on_a_node_that_cannot_be_reached() {
    let mut all = members(&[1, 2, 3, 4]);
    all[3].reachable = false;
    let mut copies = placed(8, &[1, 2, 3], 3);
    assert_eq!(next_moves(&all, &copies, 3, MOVES_AT_ONCE), []);
    // A learner that died is let go, so that its place is free for another move.
    copies[5].learners.insert(4);
    let dropped = next_moves(&all, &copies, 3, MOVES_AT_ONCE);
    assert_eq!(dropped.len(), 1);
    assert_eq!(
        (dropped[0].shard, &dropped[0].voters),
        (5, &copies[5].voters)
    );
}

#[test]
fn zones_are_spread_as_soon_as_all_are_known() {
    let mut all: Vec<Member> = [(1, "a"), (2, "a"), (3, "a"), (4, "b"), (5, "c")]
        .map(|(id, zone)| member(id, zone))
        .to_vec();
    all[4].zone = String::new();
    let mut copies = placed(6, &[1, 2, 3], 3);
    let before = pending(&all, &copies, 3);
    all[4].zone = "c".to_owned();
    settle(&all, &mut copies, 3);
    assert_settled(&all, &copies, 3);
    assert!(pending(&all, &placed(6, &[1, 2, 3], 3), 3) > before);
    for found in &copies {
        assert!(
            found.voters.contains(&4) && found.voters.contains(&5),
            "{found:?}"
        );
    }
}

#[test]
fn no_copy_is_built_where_there_is_no_space_and_none_is_taken_away_for_that() {
    let mut all = members(&[1, 2, 3, 4]);
    let mut copies = placed(8, &[1, 2, 3], 3);
    let before = copies.clone();
    all[3].roomy = false;
    assert_eq!(settle(&all, &mut copies, 3), 0);
    assert_eq!(copies, before);
    all[0].roomy = false;
    all[3].roomy = true;
    settle(&all, &mut copies, 3);
    assert_settled(&all, &copies, 3);
    assert_eq!(load(&copies, 1), 6);
}

#[test]
fn a_damaged_copy_goes_first_and_comes_back_when_it_is_blank() {
    let all = members(&[1, 2, 3]);
    let mut copies = placed(2, &[1, 2, 3], 3);
    copies[1].damaged = BTreeSet::from([3]);
    assert_eq!(pending(&all, &copies, 3), 1);
    let out = next_moves(&all, &copies, 3, MOVES_AT_ONCE);
    let without = BTreeSet::from([1, 2]);
    assert_eq!(out.len(), 1);
    assert_eq!((out[0].shard, &out[0].voters), (1, &without));
    copies[1].voters = without;
    assert_eq!(next_moves(&all, &copies, 3, MOVES_AT_ONCE), []);
    copies[1].damaged.clear();
    let back = next_moves(&all, &copies, 3, MOVES_AT_ONCE);
    assert_eq!(back[0].voters, BTreeSet::from([1, 2, 3]));
}

#[test]
fn a_damaged_copy_stays_while_the_others_are_no_majority() {
    let mut all = members(&[1, 2, 3]);
    all[1].reachable = false;
    let mut copies = placed(1, &[1, 2, 3], 3);
    copies[0].damaged = BTreeSet::from([3]);
    assert_eq!(next_moves(&all, &copies, 3, MOVES_AT_ONCE), []);
    all[1].reachable = true;
    copies[0].damaged.insert(2);
    assert_eq!(next_moves(&all, &copies, 3, MOVES_AT_ONCE), []);
    // Of two copies each is needed.
    copies[0].voters = BTreeSet::from([1, 3]);
    copies[0].damaged = BTreeSet::from([3]);
    assert_eq!(next_moves(&all, &copies, 3, MOVES_AT_ONCE), []);
    copies[0].voters = BTreeSet::from([3]);
    assert_eq!(next_moves(&all, &copies, 3, MOVES_AT_ONCE), []);
}

#[test]
fn another_node_takes_the_place_of_a_damaged_copy_if_there_is_one() {
    let all = members(&[1, 2, 3, 4]);
    let mut copies = placed(1, &[1, 2, 3], 3);
    copies[0].damaged = BTreeSet::from([2]);
    settle(&all, &mut copies, 3);
    assert_eq!(copies[0].voters, BTreeSet::from([1, 3, 4]));
}
