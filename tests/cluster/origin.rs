//! Who sent a command and when it happened: the node that takes the request reads it, the leader
//! stores it, every node shows it; a leader that cannot store it is not asked.

use serde_json::Value;

use super::fixture::{Cluster, SOON};
use super::support::client;
use super::support::http::Request;
use super::support::{skipped, temp_dir, wait};

const HEADER: &str = "X-Forwarded-User";
const WHEN: &str = "Phalanx-Occurred-At";

/// Accounts that are tried, if leaders stay where they are.
const ENOUGH: usize = 12;

fn behind_a_proxy(cluster: &mut Cluster) {
    for setup in &mut cluster.setups {
        *setup = setup.clone().set("HTTP__PRINCIPAL_HEADER", HEADER);
    }
}

fn told(id: &str, key: &str) -> Request {
    client::deposit(id, 5)
        .key(key)
        .header(HEADER, "ada")
        .header(WHEN, "2026-02-03T10:00:00Z")
}

/// The last event of an account, as a node shows it.
fn last_event(cluster: &Cluster, node: u64, id: &str) -> Value {
    wait::until("a history is shown", SOON, || {
        let target = format!("/v1/aggregates/account/{id}/events");
        let page = cluster.ask(node, &Request::get(&target));
        let events = (page.status == 200).then(|| page.json())?;
        Some(events.as_array()?.last()?.clone())
    })
}

#[test]
fn a_command_takes_them_to_whichever_node_leads() {
    let directory = temp_dir();
    let mut cluster = Cluster::new(directory.path());
    behind_a_proxy(&mut cluster);
    for node in 1..=3 {
        cluster.start(node);
    }
    let accounts = cluster.open_accounts(8);
    for (id, _) in &accounts {
        for node in 1..=3 {
            let paid = told(id, &format!("at-{node}"));
            let answer = cluster.store_at(node, &paid);
            for other in 1..=3 {
                let event = last_event(&cluster, other, id);
                assert_eq!(event["position"], answer.json()["position"]);
                assert_eq!(event["authid"], "ada", "{event}");
                assert_eq!(event["occurredat"], "2026-02-03T10:00:00Z", "{event}");
            }
        }
        // A retry at another node, which is told of somebody else.
        let again = client::deposit(id, 5).key("at-1").header(HEADER, "bob");
        let again = cluster.store_at(3, &again);
        assert_eq!(
            again.header("Idempotent-Replay"),
            Some("true"),
            "{}",
            again.text()
        );
        assert_eq!(last_event(&cluster, 2, id)["authid"], "ada");
    }
    // Wherever the leaders were, each node was asked about every account: most were handed on.
    let forwards = |node| cluster.node(node).metric("phalanx_forwards_total");
    assert!((1..=3).filter_map(forwards).sum::<f64>() > 0.0);
}

#[test]
fn a_leader_that_is_too_old_to_store_them_is_not_asked_to() {
    if cfg!(not(feature = "failpoints")) {
        skipped(
            "an older leader and origins",
            "built without the feature `failpoints`",
        );
        return;
    }
    let directory = temp_dir();
    let mut cluster = Cluster::new(directory.path());
    behind_a_proxy(&mut cluster);
    let setup = &mut cluster.setups[2];
    *setup = setup
        .clone()
        .variable("FAILPOINTS", "cluster::protocol=return(1-1)");
    for node in 1..=3 {
        cluster.start(node);
    }
    let accounts = cluster.open_accounts(200);
    cluster.wait_spread(&accounts[..ENOUGH]);
    let (mut stored, mut refused) = (0, 0);
    for (number, (id, _)) in accounts.iter().enumerate() {
        if number >= ENOUGH {
            if stored > 0 && refused > 0 {
                break;
            }
            // The older one led nothing for a while, on a busy machine.
            cluster.wait_spread(&accounts[..ENOUGH]);
        }
        // A leader may be missing for a moment, which says nothing.
        let answer = wait::until("an answer that means something", SOON, || {
            let answer = cluster.ask(1, &told(id, "told"));
            let missing =
                matches!(answer.status, 503 | 504) && !answer.text().contains("Upgrade that node");
            (!missing).then_some(answer)
        });
        if answer.status == 200 {
            stored += 1;
            // The older member is told the history in words that it knows.
            let shown = last_event(&cluster, 3, id);
            assert_eq!(shown["data"]["amount_cents"], 5);
            continue;
        }
        refused += 1;
        assert_eq!(answer.code(), "no-leader", "{}", answer.text());
        assert_eq!(answer.json()["outcome"], "not_applied");
        let detail = answer.json()["detail"].to_string();
        assert!(detail.contains("Upgrade that node"), "{detail}");
        // Nothing was stored without what was said of it, and a command that says nothing passes.
        assert_eq!(last_event(&cluster, 1, id)["type"], "AccountOpened");
        let plain = cluster.store_at(1, &client::deposit(id, 5).key("told"));
        assert_eq!(plain.header("Idempotent-Replay"), None);
    }
    assert!(stored > 0 && refused > 0, "{stored} {refused}");
}
