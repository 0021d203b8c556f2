//! What is done to the cluster while clients use it.

use std::time::Duration;

use phalanx::cluster::NodeId;
use tokio::time::Instant;

use crate::node::DISK_US;
use crate::plots;
use crate::world::World;

/// How much of it there was.
#[derive(Debug, Default, Clone, Copy)]
pub(crate) struct Mischief {
    pub(crate) crashes: u32,
    pub(crate) cuts: u32,
    pub(crate) pauses: u32,
    pub(crate) slow_disks: u32,
    pub(crate) full_disks: u32,
    pub(crate) damages: u32,
    pub(crate) moves: u32,
    pub(crate) changes: u32,
    pub(crate) plots: u32,
}

/// Something that ends by itself.
enum Later {
    Mend,
    Continue(usize),
    Start(usize),
    FastDisk(usize),
    Space(usize),
}

/// Harms the cluster for a while; some of it is still in force at the end.
pub(crate) async fn make(world: &mut World) -> Mischief {
    let mut mischief = Mischief::default();
    // Let there be leaders first.
    tokio::time::sleep(Duration::from_secs(2)).await;
    let end = Instant::now() + world.dice.millis(6_000, 16_000);
    let tempo = *world.dice.pick(&[300, 900, 2_500]);
    let plots = *world.dice.pick(&[0.0, 0.1, 1.0]);
    let mut later: Vec<(Instant, Later)> = Vec::new();
    let mut next = Instant::now();
    while Instant::now() < end {
        let due = later.iter().map(|(at, _)| *at).min().unwrap_or(next);
        tokio::time::sleep_until(due.min(next)).await;
        let now = Instant::now();
        while let Some(at) = later.iter().position(|(due, _)| *due <= now) {
            let (_, what) = later.remove(at);
            undo(world, what).await;
        }
        if now < next {
            continue;
        }
        if world.dice.happens(plots) {
            // A plot takes a cluster that is whole, and nothing comes between.
            for (_, what) in std::mem::take(&mut later) {
                undo(world, what).await;
            }
            mischief.plots += u32::from(plots::unfold(world, &mut mischief.damages).await);
            next = Instant::now() + world.dice.millis(20, tempo);
            continue;
        }
        next = now + world.dice.millis(20, tempo);
        let until = now + world.dice.millis(50, 3_000);
        harm(world, &mut mischief, until, &mut later);
    }
    mischief
}

fn harm(
    world: &mut World,
    mischief: &mut Mischief,
    until: Instant,
    later: &mut Vec<(Instant, Later)>,
) {
    let last = world.nodes.len() as u64 - 1;
    let at = usize::try_from(world.dice.between(0, last)).unwrap();
    match world.dice.between(0, 99) {
        0..=29 => {
            if world.nodes[at].is_up() {
                mischief.crashes += 1;
                world.nodes[at].crash();
                world.open_doors();
                later.push((until, Later::Start(at)));
            }
        }
        30..=41 if world.damages => {
            let shard = u32::try_from(world.dice.between(0, u64::from(world.shards) - 1)).unwrap();
            mischief.damages += u32::from(world.damage(at, shard));
        }
        30..=64 => {
            mischief.cuts += 1;
            cut(world);
            later.push((until, Later::Mend));
        }
        65..=79 => {
            mischief.pauses += 1;
            let node = world.nodes[at].id;
            world
                .trace
                .note(&format!("node {node} is cut off for a while"));
            world.network.set_paused(node, true);
            later.push((until, Later::Continue(at)));
        }
        80..=84 => {
            mischief.full_disks += 1;
            world.nodes[at].fill_disk(true);
            later.push((until, Later::Space(at)));
        }
        85..=89 => {
            mischief.slow_disks += 1;
            world
                .trace
                .note(&format!("slow disk on {}", world.nodes[at].id));
            *world.nodes[at].disk_us.lock() = (20_000, 900_000);
            later.push((until, Later::FastDisk(at)));
        }
        90..=94 => {
            mischief.moves += 1;
            move_leader(world, at);
        }
        _ => change_members(world, mischief, at),
    }
}

/// Lets the newcomer join, if there is one; once it was asked for, lets one node leave.
fn change_members(world: &mut World, mischief: &mut Mischief, at: usize) {
    let (Some(core), Some(newcomer)) = (world.nodes[at].core(), world.newcomer) else {
        return;
    };
    let (steward, router) = (std::sync::Arc::clone(&core.steward), core.router.clone());
    let trace = std::sync::Arc::clone(&world.trace);
    let asked = world.nodes[at].id;
    let ids: Vec<NodeId> = world.nodes.iter().map(|node| node.id).collect();
    match world.changes_asked {
        0 => {
            tokio::spawn(async move {
                let address = format!("node-{newcomer}:7080");
                let noted = steward.add_node(&router, newcomer, address).await.is_ok();
                trace.note(&format!(
                    "node {asked} was asked to add node {newcomer}: {noted}"
                ));
            });
        }
        // Of two copies none may be damaged.
        1 if world.damages && world.nodes[at].members().len() <= 3 => return,
        1 => {
            let leaves = *world.dice.pick(&ids);
            tokio::spawn(async move {
                let noted = steward.remove_node(&router, leaves).await.is_ok();
                trace.note(&format!(
                    "node {asked} was asked to remove node {leaves}: {noted}"
                ));
            });
        }
        _ => return,
    }
    mischief.changes += 1;
    world.changes_asked += 1;
}

async fn undo(world: &mut World, what: Later) {
    match what {
        Later::Mend => {
            world.trace.note("the network is whole");
            world.network.mend();
        }
        Later::Continue(at) => world.network.set_paused(world.nodes[at].id, false),
        Later::Space(at) => world.nodes[at].fill_disk(false),
        Later::FastDisk(at) => *world.nodes[at].disk_us.lock() = DISK_US,
        Later::Start(at) => {
            world.nodes[at].start().await;
            world.open_doors();
        }
    }
}

/// A partition of one of many shapes; it comes on top of those in force.
fn cut(world: &World) {
    let ids: Vec<NodeId> = world.nodes.iter().map(|node| node.id).collect();
    let both = |a: NodeId, b: NodeId| {
        world.network.cut(a, b);
        world.network.cut(b, a);
    };
    let one = *world.dice.pick(&ids);
    let others: Vec<NodeId> = ids.iter().copied().filter(|id| *id != one).collect();
    let other = *world.dice.pick(&others);
    let shape = world.dice.between(0, 5);
    world
        .trace
        .note(&format!("a cut of shape {shape} at {one} and {other}"));
    match shape {
        // One node alone.
        0 => others.iter().for_each(|id| both(one, *id)),
        // It hears and cannot speak, or speaks and cannot hear.
        1 => others.iter().for_each(|id| world.network.cut(one, *id)),
        2 => others.iter().for_each(|id| world.network.cut(*id, one)),
        // Two that cannot talk to each other, the rest between them.
        3 => both(one, other),
        4 => world.network.cut(one, other),
        // Two halves with one node that talks to both.
        _ => {
            let (left, right) = others.split_at(others.len() / 2);
            for a in left {
                right.iter().for_each(|b| both(*a, *b));
            }
        }
    }
}

/// Asks one node to hand all that it leads to others, or one shard to a certain node.
fn move_leader(world: &World, at: usize) {
    let Some(core) = world.nodes[at].core() else {
        return;
    };
    let steward = std::sync::Arc::clone(&core.steward);
    let shard = u32::try_from(world.dice.between(0, core.shards.len() as u64 - 1)).unwrap();
    let ids: Vec<NodeId> = world.nodes.iter().map(|node| node.id).collect();
    let to = *world.dice.pick(&ids);
    let trace = std::sync::Arc::clone(&world.trace);
    let asked = world.nodes[at].id;
    tokio::spawn(async move {
        let moved = steward.transfer(shard, to).await;
        let moved = moved.is_ok();
        trace.note(&format!(
            "node {asked} was asked to move shard {shard} to {to}: {moved}"
        ));
    });
}
