//! Releases that speak different versions of the protocol between nodes, made by a failpoint.

use super::fixture::{Cluster, SOON};
use super::support::client;
use super::support::http::Request;
use super::support::{skipped, temp_dir, wait};

/// Versions that this release speaks, from and to.
const OURS: (u32, u32) = (1, 2);

/// Lets a node speak these versions instead.
fn speaking(cluster: &mut Cluster, node: u64, (least, most): (u32, u32)) {
    let setup = &mut cluster.setups[usize::try_from(node - 1).expect("fits")];
    let action = format!("cluster::protocol=return({least}-{most})");
    *setup = setup.clone().variable("FAILPOINTS", &action);
}

fn without_failpoints(test: &str) -> bool {
    if cfg!(not(feature = "failpoints")) {
        skipped(test, "built without the feature `failpoints`");
        return true;
    }
    false
}

/// Waits until a node says that it is connected to another one in this version.
fn wait_spoken(cluster: &Cluster, node: u64, other: u64, version: u32) {
    let words = format!("\"peer\":{other},\"lane\":\"Command\",\"protocol\":{version}");
    cluster.wait_log(node, &words);
}

#[test]
fn neighbouring_versions_run_together_in_the_newest_that_both_speak() {
    if without_failpoints("neighbouring versions") {
        return;
    }
    let (least, most) = OURS;
    // Older releases, and the one behind this one.
    for neighbour in [(least - 1, most), (least, most - 1), (least, most + 1)] {
        let common = most.min(neighbour.1);
        let directory = temp_dir();
        let mut cluster = Cluster::new(directory.path());
        speaking(&mut cluster, 2, neighbour);
        speaking(&mut cluster, 3, neighbour);
        for node in 1..=3 {
            cluster.start(node);
        }
        let accounts = cluster.open_accounts(16);
        for (id, _) in &accounts {
            for node in 1..=3 {
                let deposit = client::deposit(id, 5).key(&format!("at-{node}"));
                cluster.store_at(node, &deposit);
            }
        }
        for (node, other) in [(1, 2), (1, 3), (2, 1), (3, 1)] {
            wait_spoken(&cluster, node, other, common);
        }
        // They understand one another's answers about how they are, and move leaders.
        for node in 1..=3 {
            wait::until("all are seen to serve", SOON, || {
                let view = cluster.ask(node, &Request::get("/v1/cluster")).json();
                let mut members = view["members"].as_array()?.iter();
                members.all(|m| m["role"] == "serving").then_some(())
            });
        }
        for (asked, drained) in [(1, 3), (3, 1)] {
            let drain = Request::post(&format!("/v1/nodes/{drained}/drain"), String::new());
            // A copy may lag for a moment and be kept; who drains twice drains the rest.
            wait::until("a node is drained", SOON, || {
                let answer = cluster.ask(asked, &drain);
                if matches!(answer.status, 503 | 504) {
                    return None;
                }
                assert_eq!(answer.status, 200, "{}", answer.text());
                (answer.json()["kept"] == serde_json::json!([])).then_some(())
            });
        }
        wait::until("the third one has heard of it", SOON, || {
            let view = cluster.ask(2, &Request::get("/v1/cluster")).json();
            let roles = [0, 1, 2].map(|at| view["members"][at]["role"].clone());
            (roles == ["draining", "serving", "draining"]).then_some(())
        });
        // Among themselves the neighbours speak their newest.
        wait_spoken(&cluster, 2, 3, neighbour.1);
        wait_spoken(&cluster, 3, 2, neighbour.1);
    }
}

#[test]
fn versions_without_an_overlap_refuse_each_other_with_both_ranges() {
    if without_failpoints("versions without an overlap") {
        return;
    }
    let (least, most) = OURS;
    let directory = temp_dir();
    let mut cluster = Cluster::new(directory.path());
    speaking(&mut cluster, 3, (most + 1, most + 2));
    for node in 1..=3 {
        cluster.start(node);
    }
    let theirs = format!("versions {} to {}", most + 1, most + 2);
    let ours = format!("versions {least} to {most}");
    for node in 1..=3 {
        cluster.wait_log(node, &theirs);
        cluster.wait_log(node, &ours);
        cluster.wait_log(node, "upgrade over a release that speaks both");
    }
    for (node, other) in [(1, 3), (2, 3), (3, 1), (3, 2)] {
        let reason = wait::until("a member is refused", SOON, || {
            let view = cluster.ask(node, &Request::get("/v1/cluster")).json();
            let member = &view["members"][other - 1];
            let reason = member["reason"].as_str().unwrap_or_default();
            (member["state"] == "refused").then(|| reason.to_owned())
        });
        assert!(
            reason.contains(&theirs) && reason.contains(&ours),
            "{reason}"
        );
    }
}

#[test]
fn an_older_leader_is_not_asked_what_it_does_not_know() {
    if without_failpoints("an older leader") {
        return;
    }
    let directory = temp_dir();
    let mut cluster = Cluster::new(directory.path());
    speaking(&mut cluster, 3, (1, 1));
    for node in 1..=3 {
        cluster.start(node);
    }
    let accounts = cluster.open_accounts(16);
    cluster.wait_spread(&accounts);
    let (mut answered, mut refused) = (0, 0);
    for (number, (id, _)) in accounts.iter().cycle().enumerate() {
        // The older one may lead nothing for a while, on a busy machine.
        if number >= accounts.len() {
            if answered > 0 && refused > 0 {
                break;
            }
            assert!(number < 20 * accounts.len(), "{answered} {refused}");
            cluster.wait_spread(&accounts);
        }
        let place = format!("/v1/aggregates/account/{id}");
        // A question of the first version is answered by all of them.
        let past = Request::get(&format!("{place}?at_sequence=1"));
        let leader = || {
            wait::until("the past is told", SOON, || {
                let past = cluster.ask(1, &past);
                (past.status == 200).then(|| past.json()["served_by"]["node"].as_u64())
            })
        };
        let question = Request::post(
            &format!("{place}/what-if"),
            "{\"insert\":[{\"after_sequence\":1,\"type\":\"MoneyDeposited\",\
             \"data\":{\"amount_cents\":5}}]}",
        );
        // Leaders may move at any time: what counts is an answer between two that name the same one.
        let (leader, answer) = wait::until("a leader that stays", SOON, || {
            let before = leader();
            let answer = cluster.ask(1, &question);
            let upgrade = answer.text().contains("Upgrade that node");
            let missing = matches!(answer.status, 503 | 504) && !upgrade;
            (!missing && leader() == before).then_some((before, answer))
        });
        if leader == Some(3) {
            refused += 1;
            assert_eq!(answer.status, 503, "{}", answer.text());
            let detail = answer.json()["detail"].to_string();
            assert!(detail.contains("Upgrade that node"), "{detail}");
        } else {
            answered += 1;
            assert_eq!(answer.status, 200, "{}", answer.text());
        }
    }
}
