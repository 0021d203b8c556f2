//! Where leaders are, and on how many disks a command is.

use std::collections::BTreeMap;

use super::fixture::{Cluster, SOON};
use super::support::client;
use super::support::{temp_dir, wait};

#[test]
fn leaders_are_spread_and_commands_are_on_every_disk() {
    let directory = temp_dir();
    let mut cluster = Cluster::start_all(directory.path());
    let mut accounts = cluster.open_accounts(32);
    // A node that comes late gets its share in a while.
    wait::until("leaders are spread", SOON, || {
        let leaders = cluster.leaders(&accounts);
        assert_eq!(leaders.len(), 4, "every shard is served: {leaders:?}");
        let mut led = BTreeMap::from([(1, 0), (2, 0), (3, 0)]);
        for node in leaders.values() {
            *led.entry(*node).or_insert(0) += 1;
        }
        let spread = led.values().all(|count| (1..=2).contains(count));
        spread.then_some(())
    });

    // Whoever is killed, the other two have everything; so each disk has it, and each node that
    // came back caught up.
    for victim in 1..=3 {
        cluster.kill(victim);
        let mut http = cluster.anywhere();
        for (number, (id, position)) in (1..).zip(&mut accounts) {
            let served = cluster.served_by(&mut http, id, position);
            assert_ne!(served.node, victim);
            let state = wait::until("a fresh read is answered", SOON, || {
                let answer = http.try_send(&client::fresh_after(id, position)).ok()?;
                (answer.status == 200).then(|| answer.json())
            });
            assert_eq!(state["sequence_number"].as_u64(), Some(victim), "{id}");
            let request = client::deposit(id, number).key(&format!("after-{victim}"));
            *position = client::store(&mut http, &request);
        }
        cluster.start(victim);
    }
    for node in 1..=3 {
        let log = cluster.node(node).log();
        assert!(!log.contains("ERROR"), "node {node}:\n{log}");
    }
}
