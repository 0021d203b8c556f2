//! Harm that chance alone would hardly ever put together: steps in a certain order, at certain
//! moments, while clients ask where it matters.
//!
//! Each plot aims at one promise that only holds because of one line of the product. It begins in a
//! cluster that is whole, and leaves one. Which nodes, how long and what else goes wrong is chance.

use std::time::Duration;

use phalanx::cluster::NodeId;
use phalanx::cluster::transport::{CallKind, Lane};
use tokio::time::Instant;

use crate::clients::Habits;
use crate::node::DISK_US;
use crate::world::World;

/// How long a plot waits for its shard's leader.
const LEADER_WAIT: Duration = Duration::from_secs(3);
/// How long it waits for a vote: longer than a lease and two elections.
const VOTE_WAIT: Duration = Duration::from_secs(4);
/// How long it waits until a damaged copy is thrown away.
const BLANK_WAIT: Duration = Duration::from_secs(6);

/// Clients that ask one node.
const CROWD: usize = 4;

/// Who plays what in one shard.
struct Stage {
    shard: u32,
    streams: Vec<usize>,
    leader: NodeId,
    /// The leader and whoever stays with it: with the pivot a majority.
    left: Vec<NodeId>,
    /// The others: with the pivot a majority as well.
    right: Vec<NodeId>,
    pivot: NodeId,
}

/// Lets a plot take its course; `false` when the cluster is in no state for it.
pub(crate) async fn unfold(world: &mut World, damages: &mut u32) -> bool {
    world.network.mend();
    let Some(stage) = set(world).await else {
        return false;
    };
    let mut number = *world.dice.pick(&[0, 0, 0, 0, 1, 1, 2, 2, 2, 3, 4, 4]);
    if world.damages && world.dice.happens(0.4) {
        number = 5;
    }
    world.trace.note(&format!(
        "plot {number}: shard {}, {:?} | {} | {:?}",
        stage.shard, stage.left, stage.pivot, stage.right
    ));
    match number {
        0 => promise_forgotten(world, &stage).await,
        1 => vote_lost(world, &stage).await,
        2 => stragglers(world, &stage).await,
        3 => heir_is_behind(world, &stage).await,
        4 => copy_lost(world, &stage).await,
        _ => *damages += u32::from(copy_damaged(world, &stage).await),
    }
    world.network.release();
    world.network.mend();
    *world.nodes[world.place(stage.pivot)].disk_us.lock() = DISK_US;
    world.trace.note("the plot ends");
    true
}

/// A shard with a leader, and an odd number of voters.
async fn set(world: &World) -> Option<Stage> {
    let dice = &world.dice;
    let all = (0..world.desk.streams.len()).collect::<Vec<_>>();
    let shard = world.desk.streams[*dice.pick(&all)].shard(world.shards);
    let of_shard = |at: &usize| world.desk.streams[*at].shard(world.shards) == shard;
    let streams = all.into_iter().filter(of_shard).collect();
    let deadline = Instant::now() + LEADER_WAIT;
    let (leader, voters) = loop {
        if let Some(found) = leader_of(world, shard) {
            break found;
        }
        if Instant::now() > deadline {
            return None;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    };
    let mut others: Vec<NodeId> = voters.iter().copied().filter(|id| *id != leader).collect();
    if others.len() < 2 || others.len() % 2 == 1 {
        return None;
    }
    let take = |others: &mut Vec<NodeId>| {
        let last = others.len() as u64 - 1;
        others.swap_remove(usize::try_from(dice.between(0, last)).unwrap())
    };
    let pivot = take(&mut others);
    let right: Vec<NodeId> = (0..voters.len() / 2).map(|_| take(&mut others)).collect();
    let all = world.nodes.iter().map(|node| node.id);
    let left = all
        .filter(|id| *id != pivot && !right.contains(id))
        .collect();
    Some(Stage {
        shard,
        streams,
        leader,
        left,
        right,
        pivot,
    })
}

/// Who serves a shard, and who votes in it.
fn leader_of(world: &World, shard: u32) -> Option<(NodeId, Vec<NodeId>)> {
    let (leader, led) = world.led(shard)?;
    Some((leader, led.voters))
}

/// Nothing passes between these and those.
fn part(world: &World, these: &[NodeId], those: &[NodeId]) {
    for (a, b) in these
        .iter()
        .flat_map(|a| those.iter().map(move |b| (*a, *b)))
    {
        world.network.cut(a, b);
        world.network.cut(b, a);
    }
}

/// Clients that ask one node for a while, for aggregates of one shard.
fn crowd(
    world: &mut World,
    stage: &Stage,
    (node, clients): (NodeId, usize),
    reads: u64,
    lasts: Duration,
) {
    for _ in 0..clients {
        world.send_client(Habits {
            node: Some(node),
            streams: stage.streams.clone(),
            reads,
            pause_ms: 20,
            attempts: 2,
            until: Some(Instant::now() + lasts),
        });
    }
}

async fn rest(world: &World, from: u64, to: u64) {
    tokio::time::sleep(world.dice.millis(from, to)).await;
}

async fn start(world: &mut World, node: NodeId) {
    let at = world.place(node);
    world.nodes[at].start().await;
    world.open_doors();
}

/// The pivot promised the leader to elect nobody for a lease, and is started anew within it, when the
/// leader cannot tell. The others have asked it for votes all the time; nothing is stored meanwhile,
/// so that they may have them. The leader still answers reads by that lease.
async fn promise_forgotten(world: &mut World, stage: &Stage) {
    world.desk.quiet.lock().clone_from(&stage.streams);
    rest(world, 50, 300).await;
    part(world, &stage.left, &stage.right);
    rest(world, 900, 1_500).await;
    // Somebody asks again half a second after the last time.
    let asked = world.network.when_answers(stage.pivot, CallKind::PreVote);
    let _silence = tokio::time::timeout(VOTE_WAIT, asked).await;
    rest(world, 100, 400).await;
    part(world, &stage.left, &[stage.pivot]);
    let at = world.place(stage.pivot);
    world.nodes[at].crash();
    world.open_doors();
    let down = *world.dice.pick(&[0, 0, 20, 100]);
    rest(world, 0, down).await;
    start(world, stage.pivot).await;
    let lasts = world.dice.millis(600, 1_000);
    crowd(world, stage, (stage.leader, CROWD), 100, lasts);
    let writes_at = *world.dice.pick(&stage.right);
    crowd(world, stage, (writes_at, CROWD), 10, lasts);
    crowd(world, stage, (stage.pivot, CROWD), 10, lasts);
    tokio::time::sleep(lasts).await;
    world.desk.quiet.lock().clear();
}

/// The pivot votes and crashes as soon as the vote is on its way. It comes back to the old leader,
/// which knows nothing of the new term, and later to the one that it voted for.
async fn vote_lost(world: &mut World, stage: &Stage) {
    let at = world.place(stage.pivot);
    // Time enough for a vote to be sent before it is safe, if somebody does so.
    *world.nodes[at].disk_us.lock() = (50_000, 600_000);
    part(world, &stage.left, &stage.right);
    part(world, &stage.left, &[stage.pivot]);
    let voted = world.network.when_answers(stage.pivot, CallKind::Vote);
    let Ok(Ok(candidate)) = tokio::time::timeout(VOTE_WAIT, voted).await else {
        return;
    };
    world.trace.note(&format!(
        "node {} has voted for node {candidate}",
        stage.pivot
    ));
    world.nodes[at].crash_and_lose();
    *world.nodes[at].disk_us.lock() = DISK_US;
    world.open_doors();
    rest(world, 1, 60).await;
    world.network.mend();
    part(world, &stage.left, &stage.right);
    part(world, &stage.right, &[stage.pivot]);
    start(world, stage.pivot).await;
    let lasts = world.dice.millis(500, 1_500);
    crowd(world, stage, (stage.leader, CROWD), 20, lasts);
    crowd(world, stage, (candidate, CROWD), 20, lasts);
    tokio::time::sleep(lasts).await;
    world.network.mend();
    part(world, &stage.left, &stage.right);
    part(world, &stage.left, &[stage.pivot]);
    rest(world, 500, 1_500).await;
}

/// Commands for the leader take their time on the way. Meanwhile another node leads and answers them
/// when they are sent again; they arrive when the first one leads once more.
async fn stragglers(world: &mut World, stage: &Stage) {
    let asks = *world.dice.pick(&[stage.pivot, stage.right[0]]);
    let heir = *world.dice.pick(&[stage.pivot, stage.right[0]]);
    world.network.hold(asks, stage.leader, Lane::Command);
    let lasts = world.dice.millis(800, 1_600);
    let end = Instant::now() + lasts;
    crowd(world, stage, (asks, CROWD * 2), 0, lasts);
    crowd(world, stage, (heir, CROWD), 10, lasts);
    rest(world, 30, 150).await;
    transfer(world, stage.shard, stage.leader, heir).await;
    rest(world, 50, 200).await;
    transfer(world, stage.shard, heir, stage.leader).await;
    if world.dice.happens(0.8) {
        rest(world, 20, 300).await;
    } else {
        tokio::time::sleep_until(end).await;
    }
    world.network.release();
    rest(world, 200, 600).await;
}

/// The next leader's disk is slow, so that it has much in its log that is not applied.
async fn heir_is_behind(world: &mut World, stage: &Stage) {
    let at = world.place(stage.pivot);
    *world.nodes[at].disk_us.lock() = (20_000, 300_000);
    let lasts = world.dice.millis(600, 1_500);
    crowd(world, stage, (stage.leader, CROWD), 20, lasts);
    crowd(world, stage, (stage.pivot, CROWD), 40, lasts * 2);
    tokio::time::sleep(lasts).await;
    if world.dice.happens(0.5) {
        transfer(world, stage.shard, stage.leader, stage.pivot).await;
        rest(world, 300, 900).await;
        return;
    }
    let leader = world.place(stage.leader);
    world.nodes[leader].crash();
    world.open_doors();
    rest(world, 500, 2_500).await;
    start(world, stage.leader).await;
}

/// Every majority needs the pivot, whose disk is slow, for what the clients are told. It loses its power
/// and all that was not synced, the leader is gone for as long, and what is left elects somebody who
/// knows no more than the pivot's disk.
async fn copy_lost(world: &mut World, stage: &Stage) {
    let at = world.place(stage.pivot);
    *world.nodes[at].disk_us.lock() = (20_000, 300_000);
    part(world, &stage.left, &stage.right);
    part(world, &stage.right, &[stage.pivot]);
    let lasts = world.dice.millis(300, 1_200);
    crowd(world, stage, (stage.leader, CROWD), 10, lasts);
    tokio::time::sleep(lasts).await;
    world.nodes[at].crash_and_lose();
    *world.nodes[at].disk_us.lock() = DISK_US;
    let leader_dies = world.dice.happens(0.5);
    if leader_dies {
        let leader = world.place(stage.leader);
        world.nodes[leader].crash();
    }
    world.open_doors();
    world.network.mend();
    part(world, &stage.left, &stage.right);
    part(world, &stage.left, &[stage.pivot]);
    rest(world, 1, 60).await;
    start(world, stage.pivot).await;
    others_elect(world, stage).await;
    if leader_dies {
        start(world, stage.leader).await;
    }
}

/// Waits until somebody leads who is not on the left, and lets clients ask there.
async fn others_elect(world: &mut World, stage: &Stage) {
    let heir = *world.dice.pick(&stage.right);
    let deadline = Instant::now() + VOTE_WAIT;
    while leader_of(world, stage.shard).is_none_or(|(leader, _)| stage.left.contains(&leader)) {
        if Instant::now() > deadline {
            break;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let lasts = world.dice.millis(300, 900);
    crowd(world, stage, (heir, CROWD), 50, lasts);
    crowd(world, stage, (stage.pivot, CROWD), 50, lasts);
    tokio::time::sleep(lasts).await;
}

/// The pivot's copy, which perhaps every answer needs, is damaged, and found out in one of several ways.
/// Somewhere on its way out of the shard and back it crashes, perhaps, and finds itself with the others,
/// who elect somebody.
async fn copy_damaged(world: &mut World, stage: &Stage) -> bool {
    let at = world.place(stage.pivot);
    if world.dice.happens(0.5) {
        part(world, &stage.left, &stage.right);
    }
    let lasts = world.dice.millis(100, 800);
    crowd(world, stage, (stage.leader, CROWD), 10, lasts);
    tokio::time::sleep(lasts).await;
    if !world.damage(at, stage.shard) {
        return false;
    }
    match world.dice.between(0, 3) {
        0 => transfer(world, stage.shard, stage.leader, stage.pivot).await,
        1 => {}
        // A start finds most of it.
        _ => {
            world.nodes[at].crash();
            world.open_doors();
            rest(world, 1, 100).await;
            start(world, stage.pivot).await;
        }
    }
    crowd(world, stage, (stage.leader, CROWD), 30, lasts);
    crowd(world, stage, (stage.pivot, CROWD), 70, lasts);
    let healed = world.dice.happens(0.7);
    if healed {
        rest(world, 1, 1_000).await;
        world.network.mend();
    }
    let long = *world.dice.pick(&[300, 1_500, 5_000]);
    if healed && world.dice.happens(0.7) {
        let blank = world.wounds.when_blank(stage.pivot, stage.shard);
        let _in_vain = tokio::time::timeout(BLANK_WAIT, blank).await;
        rest(world, 1, long / 10).await;
    } else {
        rest(world, 1, long).await;
    }
    let crashes = world.dice.happens(0.5);
    if crashes {
        world.nodes[at].crash();
        world.open_doors();
    }
    part(world, &stage.left, &stage.right);
    part(world, &stage.left, &[stage.pivot]);
    if crashes {
        rest(world, 1, 100).await;
        start(world, stage.pivot).await;
    }
    others_elect(world, stage).await;
    true
}

/// Moves a shard, asking whoever leads it; gives up soon.
async fn transfer(world: &World, shard: u32, from: NodeId, to: NodeId) {
    let Some(core) = world.nodes[world.place(from)].core() else {
        return;
    };
    let steward = std::sync::Arc::clone(&core.steward);
    let moved = tokio::time::timeout(Duration::from_millis(500), steward.transfer(shard, to)).await;
    let moved = moved.is_ok_and(|moved| moved.is_ok());
    world
        .trace
        .note(&format!("shard {shard} goes from {from} to {to}: {moved}"));
}
