//! How a node tells how it is, in every version.

use super::super::*;
use super::Golden;
use crate::cluster::handshake::{PROTOCOL_MAX, PROTOCOL_WITH_SPACE};
use crate::cluster::status::{FollowerView, NodeView, ShardView};

fn sample() -> NodeView {
    let led = ShardView {
        shard: 0,
        voters: vec![1, 2, 3, 4],
        learners: vec![5],
        becoming: vec![2, 3, 4],
        changing: true,
        leader: Some(2),
        term: 300,
        last_log_index: Some(70_000),
        applied_index: Some(69_999),
        followers: vec![
            FollowerView {
                node: 3,
                matched_index: Some(69_000),
                lag: 1_000,
            },
            FollowerView {
                node: 5,
                matched_index: None,
                lag: 70_001,
            },
        ],
        serving: true,
        refusal: None,
    };
    let elsewhere = ShardView {
        shard: 1,
        voters: vec![1, 3],
        learners: Vec::new(),
        becoming: Vec::new(),
        changing: false,
        leader: None,
        term: 0,
        last_log_index: None,
        applied_index: None,
        followers: Vec::new(),
        serving: false,
        refusal: Some("damaged".to_owned()),
    };
    NodeView {
        node: 2,
        incarnation: "0198c0de".to_owned(),
        draining: true,
        shards: vec![led, elsewhere],
        full: false,
    }
}

#[test]
fn how_a_node_is_in_every_version() {
    for version in 1..=PROTOCOL_MAX {
        let mut golden = Golden::version(version);
        for (draining, full) in [(true, false), (false, false), (false, true)] {
            let view = NodeView {
                draining,
                full,
                ..sample()
            };
            let name = match (draining, full) {
                (false, false) => "status.answer.takes_shards",
                (_, true) => "status.answer.full",
                _ => "status.answer",
            };
            let knows = version >= PROTOCOL_WITH_SPACE;
            if full && !knows {
                // It has no word for it, so it says the next best.
                let written = node_view(&view, version).unwrap();
                let read = read_node_view(&written, version).unwrap();
                assert_eq!((read.draining, read.full), (true, false));
                continue;
            }
            let stored = golden.check(name, &node_view(&view, version).unwrap());
            assert_eq!(read_node_view(&stored, version).unwrap(), view);
            // No version takes another one's bytes for its own.
            let other = if knows { 1 } else { PROTOCOL_WITH_SPACE };
            assert!(read_node_view(&stored, other).is_err());
        }
        if version >= PROTOCOL_WITH_SPACE {
            golden.check("status.ask", &WITH_DAMAGE);
        }
        golden.end();
    }
}
