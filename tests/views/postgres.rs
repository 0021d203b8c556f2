//! Real nodes with their read models in one PostgreSQL database, which goes away and comes back.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use super::reading::{check_accounts, histories};
use super::support::client;
use super::support::http::{Http, Request};
use super::support::node::{Node, NodeSetup};
use super::support::postgres::{PASSWORD, Postgres};
use super::support::{ports, skipped, temp_dir, wait};

const SOON: Duration = Duration::from_secs(60);

#[test]
fn while_postgres_is_away_commands_go_on_views_say_503_and_nothing_shows_the_password() {
    let name = "PostgreSQL away";
    let server = match Postgres::start() {
        Ok(server) => server,
        Err(why) => return skipped(name, &why),
    };
    let database = server.database();
    server.down();
    let began = Instant::now();
    let directory = temp_dir();
    let node = NodeSetup::new(directory.path())
        .set("PROJECTIONS__STORE", server.url(&database))
        .set("LOG__LEVEL", "debug")
        .start();
    let mut http = node.client();
    client::expect_success(&mut http, &client::open("a-1"));
    for round in 1..=3 {
        client::expect_success(&mut http, &client::deposit("a-1", 1));
        let refused = wait::until("views notice", SOON, || {
            let answer = http.get("/v1/views/accounts/a-1");
            (answer.status == 503).then_some(answer)
        });
        assert_eq!(refused.json()["code"], "not-ready", "{}", refused.text());
        assert!(refused.header("Retry-After").is_some());
        // A query may notice before the node does.
        let told = wait::until("the node notices", SOON, || {
            let told = http.get("/v1/projections").json();
            let away = told["store"]["standing"]["state"] == "away";
            (away && told["projections"][0]["state"] == "failing").then_some(told)
        });
        assert_eq!(told["store"]["kind"], "postgres");
        wait::until("the gauge falls", SOON, || {
            (node.metric("phalanx_projection_store_up") == Some(0.0)).then_some(())
        });
        server.up();
        let row = wait::until("views are back", SOON, || {
            let answer = http.get("/v1/views/accounts/a-1");
            let row = (answer.status == 200).then(|| answer.json())?;
            // The lag is taken before the rows are read, so it may be of a moment before.
            (row["balance_cents"] == round && row["lag"]["events"] == 0).then_some(row)
        });
        assert_eq!(row["lag"]["seconds"], 0.0, "{row}");
        server.down();
    }
    let log = node.log();
    assert!(!log.contains(PASSWORD), "the log shows the password");
    let told = log
        .matches("the database of read models cannot be used; commands go on")
        .count();
    // Each time that it goes away, and once more after each minute.
    let most = 3 + began.elapsed().as_secs() / 60;
    let told = u64::try_from(told).expect("fits");
    assert!((1..=most).contains(&told), "told {told} times:\n{log}");
}

#[test]
fn nodes_of_a_cluster_share_a_database_and_take_over_from_one_that_dies() {
    let name = "a cluster on PostgreSQL";
    let server = match Postgres::shared() {
        Ok(server) => server,
        Err(why) => return skipped(name, &why),
    };
    let url = server.url(&server.database());
    let directory = temp_dir();
    let members: Vec<(u64, SocketAddr)> = (1..=3).map(|id| (id, ports::free_address())).collect();
    let setup =
        |id: u64| NodeSetup::member(directory.path(), id, &members).set("PROJECTIONS__STORE", &url);
    let setups = [setup(1), setup(2), setup(3)];
    let mut nodes: Vec<Node> = setups.iter().map(NodeSetup::spawn).collect();
    let addresses: Vec<SocketAddr> = setups.iter().map(|setup| setup.address).collect();
    let mut anywhere = Http::anywhere(&addresses).patient_for(Duration::from_secs(5));
    let accounts: Vec<String> = (0..12).map(|n| format!("p-{n}")).collect();
    for id in &accounts {
        client::store(&mut anywhere, &client::open(id));
    }
    let mut deposited = 0;
    for round in 0..4 {
        for n in 0..60 {
            let id = &accounts[n % accounts.len()];
            let key = format!("round-{round}-{n}");
            client::store(&mut anywhere, &client::deposit(id, 1).key(&key));
            deposited += 1;
        }
        // Whoever writes dies in the midst of it, and somebody else goes on.
        let writer = wait::until("somebody writes", SOON, || {
            let told = anywhere
                .try_send(&Request::get("/v1/projections"))
                .ok()?
                .json();
            told["store"]["standing"]["writer"]
                .as_str()?
                .parse::<usize>()
                .ok()
        });
        nodes[writer - 1].kill();
        for n in 0..60 {
            let id = &accounts[n % accounts.len()];
            let key = format!("again-{round}-{n}");
            client::store(&mut anywhere, &client::deposit(id, 1).key(&key));
            deposited += 1;
        }
        nodes[writer - 1] = setups[writer - 1].spawn();
    }
    let expected = histories(&mut anywhere, &accounts);
    for address in &addresses {
        // The one that was started last may not listen yet.
        wait::until("it listens", SOON, || {
            let mut http = Http::new(*address);
            http.try_send(&Request::get("/livez")).ok()
        });
        assert_eq!(
            check_accounts(&mut Http::new(*address), &expected),
            deposited
        );
    }
}
