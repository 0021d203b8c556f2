//! Kill -9 under load: views are the fold of the journal, exactly.

use std::time::Duration;

use rand::Rng as _;

use super::reading::{check_accounts, histories};
use super::support::books::{Tellers, open_accounts};
use super::support::http::Request;
use super::support::node::{Node, NodeSetup, was_killed};
use super::support::postgres::Postgres;
use super::support::{measured, number_from_env, seeded, skipped, temp_dir, wait};

/// The named steps of the writer of read models.
const FAILPOINTS: [&str; 2] = ["projection::before_commit", "projection::after_commit"];
/// There is always something to commit, so a node that does not get there hangs.
const GETS_THERE_WITHIN: Duration = Duration::from_secs(60);

#[test]
fn killed_over_and_over_under_load_views_are_the_fold_of_the_journal() {
    let kills = number_from_env("PHALANX_KILLS", 30);
    kill_over_and_over("kills with views", kills, "sqlite");
}

#[test]
fn killed_over_and_over_under_load_views_in_postgres_are_the_fold_of_the_journal() {
    let name = "kills with views in PostgreSQL";
    match Postgres::shared() {
        Ok(server) => {
            let kills = number_from_env("PHALANX_KILLS", 16);
            kill_over_and_over(name, kills, &server.url(&server.database()));
        }
        Err(why) => skipped(name, &why),
    }
}

fn kill_over_and_over(name: &str, kills: u64, store: &str) {
    let mut rng = seeded(name);
    let directory = temp_dir();
    let setup = NodeSetup::new(directory.path())
        .set("PROJECTIONS__STORE", store)
        .set("PROJECTIONS__CACHE_ROWS", 8)
        .set("PROJECTIONS__BATCH_BYTES", 4096)
        .set("ACTORS__SNAPSHOT_EVERY_EVENTS", 16);
    let mut node = setup.start();
    let accounts = open_accounts(node.address, 16);
    let mut tellers = Tellers::start(8, node.address, &accounts, &mut rng);
    tellers.progress(20);
    node.kill();
    let mut fired = [0; 2];
    for round in 0..kills {
        // Some at the writer's own steps, some in the midst of a rebuild, all others anywhere.
        let step = usize::try_from(round % 4).expect("fits");
        match FAILPOINTS.get(step) {
            Some(failpoint) if cfg!(feature = "failpoints") => {
                let passes = rng.random_range(0..60);
                let action = format!("{failpoint}={passes}*off->return");
                let mut node: Node = setup.clone().variable("FAILPOINTS", &action).spawn();
                match node.wait_end(GETS_THERE_WITHIN) {
                    Some(status) => {
                        assert!(was_killed(status), "{action}: {status}\n{}", node.log());
                        fired[step] += 1;
                    }
                    None => drop(node.kill()),
                }
            }
            _ => {
                let mut node = setup.start();
                if step == 3 {
                    let rebuild = Request::post("/v1/projections/account_totals/rebuild", "");
                    let begun = node.send(&rebuild);
                    // A store on a server may not have been found yet.
                    let allowed = [200, 409, 503];
                    let allowed = &allowed[..if store == "sqlite" { 2 } else { 3 }];
                    assert!(allowed.contains(&begun.status), "{}", begun.text());
                }
                tellers.progress(20);
                wait::let_pass(Duration::from_millis(rng.random_range(0..400)));
                let status = node.kill();
                assert!(was_killed(status), "{status}\n{}", node.log());
            }
        }
        tellers.check();
    }
    let mut node = setup.start();
    drop(tellers.stop());
    let expected = histories(&mut node.client(), &accounts);
    let total = check_accounts(&mut node.client(), &expected);
    // And once more from what is on disk.
    node.kill();
    let node = setup.start();
    assert_eq!(check_accounts(&mut node.client(), &expected), total);
    let events: usize = expected.values().map(Vec::len).sum();
    measured(
        name,
        format!("{kills} kills, {events} events, at failpoints {fired:?}"),
    );
    let least = usize::try_from(kills).expect("fits") * 10;
    assert!(events >= least, "too little happened: {events} events");
    if cfg!(feature = "failpoints") && kills >= 8 {
        assert!(fired.iter().all(|count| *count > 0), "{fired:?}");
    }
    let letters = node.send(&Request::get("/v1/projections/account_totals/dead-letters"));
    assert_eq!(
        letters.json()["dead_letters"].as_array().map(Vec::len),
        Some(0)
    );
}
