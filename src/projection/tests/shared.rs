//! One PostgreSQL database for several nodes: who writes, what the others see, and what happens when
//! it is not there.

use std::collections::BTreeMap;
use std::time::Instant;

use phalanx_actors::projection::ProjectionRegistry;
use serde_json::Value as Json;

use super::super::*;
use super::kit::{World, all, at_once, until, writes};
use super::server::Postgres;
use crate::domain::views::{AccountTotals, Accounts, MaintenanceJobs};
use crate::domain::{Account, AccountEvent, WorkshopDay, WorkshopDayEvent};

fn registry() -> ProjectionRegistry {
    let mut registry = ProjectionRegistry::default();
    registry.register::<Accounts>().unwrap();
    registry.register::<AccountTotals>().unwrap();
    registry
}

fn part(projections: &Projections) -> Part {
    projections.views().standing().state
}

/// The totals by currency must be these: accounts and cents.
fn check_totals(totals: &[Json], expected: &BTreeMap<&str, (i64, i64)>) {
    let found: BTreeMap<&str, (i64, i64)> = totals
        .iter()
        .map(|row| {
            let number = |name: &str| row[name].as_i64().unwrap();
            let currency = row["currency"].as_str().unwrap();
            (currency, (number("accounts"), number("balance_cents")))
        })
        .collect();
    assert_eq!(found, *expected);
}

#[tokio::test(flavor = "multi_thread")]
async fn of_two_nodes_one_writes_both_answer_and_each_may_be_told_what_to_do() {
    let Some(mut world) = World::on_postgres("two nodes") else {
        return;
    };
    for n in 0..20 {
        world.open(&format!("a-{n:02}"), "ada", "EUR");
    }
    let one = world.start(&registry()).await;
    let other = world.start_as(&registry(), "2").await;
    let rows = all(one.views(), "accounts", &world).await;
    until("the other one reads", async || {
        part(&other) == Part::Following
    })
    .await;
    assert_eq!(all(other.views(), "accounts", &world).await, rows);
    assert_eq!(other.views().standing().writer.as_deref(), Some("1"));
    // Tokens hold at the one that does not write, and also for events that the view does not want.
    for n in 1..=50 {
        let position = world.deposit("a-00", 1);
        let fresh = Freshness {
            after: vec![position],
            wait: Duration::from_secs(60),
        };
        let found = other.views().row("accounts", "a-00", &fresh).await.unwrap();
        let json = format!("{{{}}}", String::from_utf8(found.members).unwrap());
        let row: Json = serde_json::from_str(&json).unwrap();
        assert_eq!(row["balance_cents"], n);
    }
    let unwanted = WorkshopDayEvent::MaintenanceJobPlanned {
        job_id: "j".to_owned(),
        vehicle: "v".to_owned(),
        start: "2026-11-21T08:30:00Z".parse().unwrap(),
        end: "2026-11-21T09:30:00Z".parse().unwrap(),
        description: String::new(),
    };
    world.commit::<WorkshopDay>("d-1", &[unwanted]);
    assert!(
        other
            .views()
            .list("accounts", &[], &world.now())
            .await
            .is_ok()
    );
    // A pause and a rebuild that the follower is told of are done by the writer.
    other.views().set_paused("accounts", true).await.unwrap();
    until("the writer pauses", async || {
        one.views().status("accounts").unwrap().state == Activity::Paused
    })
    .await;
    other.views().set_paused("accounts", false).await.unwrap();
    let before = world.sql("SELECT max(id) FROM phalanx.phalanx_builds");
    other.views().rebuild("account_totals").await.unwrap();
    until("the rebuild", async || {
        let live = "SELECT max(id) FROM phalanx.phalanx_builds WHERE state = 'live'";
        world.sql(live).parse::<i64>().unwrap() > before.parse().unwrap()
    })
    .await;
    check_totals(
        &all(other.views(), "account_totals", &world).await,
        &BTreeMap::from([("EUR", (20, 50))]),
    );
    // When the writer goes, the other one takes over.
    one.stop().await;
    writes(&other).await;
    world.deposit("a-00", 1);
    check_totals(
        &all(other.views(), "account_totals", &world).await,
        &BTreeMap::from([("EUR", (20, 51))]),
    );
    // Dead letters are dealt with by whoever is asked: the pen goes there.
    let third = world.start_as(&registry(), "3").await;
    until("the third one reads", async || {
        part(&third) == Part::Following
    })
    .await;
    let none = third.views().retry("accounts", 7, false).await;
    assert!(matches!(none, Err(OperationError::NoLetter)), "{none:?}");
    assert_eq!(
        (part(&third), part(&other)),
        (Part::Writing, Part::Following)
    );
    third.stop().await;
    other.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn sessions_that_are_cut_off_over_and_over_leave_rows_and_totals_exact() {
    let Some(mut world) = World::on_postgres("sessions cut off") else {
        return;
    };
    let nodes = [
        world.start_as(&registry(), "1").await,
        world.start_as(&registry(), "2").await,
        world.start_as(&registry(), "3").await,
    ];
    let mut expected: BTreeMap<&str, (i64, i64)> = BTreeMap::new();
    let currencies = ["EUR", "CHF"];
    for n in 0..30_usize {
        world.open(&format!("a-{n}"), "ada", currencies[n % 2]);
        expected.entry(currencies[n % 2]).or_default().0 += 1;
    }
    let began = Instant::now();
    let mut cuts = 0;
    let mut events = 0_usize;
    // A busy machine cuts fewer in the same time.
    while began.elapsed() < Duration::from_secs(if cuts > 20 { 8 } else { 60 }) {
        for _ in 0..50 {
            let amount = i64::try_from(events % 97).unwrap() + 1;
            world.deposit(&format!("a-{}", events % 30), amount);
            expected.get_mut(currencies[events % 30 % 2]).unwrap().1 += amount;
            events += 1;
        }
        let cut = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity \
                   WHERE pid <> pg_backend_pid() AND datname = current_database()";
        cuts += world.sql(cut).parse::<u64>().unwrap();
        tokio::time::sleep(Duration::from_millis(120)).await;
    }
    for node in &nodes {
        let totals = async || {
            let page = node.views().list("account_totals", &[], &world.now()).await;
            page.ok().map(|page| super::kit::rows(&page))
        };
        let mut found = None;
        until("an answer", async || {
            found = totals().await;
            found.is_some()
        })
        .await;
        check_totals(&found.unwrap(), &expected);
    }
    assert!(cuts > 20 && events > 500, "{cuts} cuts, {events} events");
    for node in nodes {
        node.stop().await;
    }
    // And once more, everything anew, the rows are the same.
    let node = world.start(&registry()).await;
    check_totals(
        &all(node.views(), "account_totals", &world).await,
        &expected,
    );
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_is_away_is_waited_for_and_queries_say_so_at_once() {
    let server: &'static Postgres = match Postgres::start() {
        Ok(server) => Box::leak(Box::new(server)),
        Err(_) => {
            assert!(World::on_postgres("a server that is away").is_none());
            return;
        }
    };
    let database = server.database();
    server.down();
    let mut world = World::new();
    world.postgres = Some((server, database));
    world.open("a-1", "ada", "EUR");
    let node = world.start_as(&registry(), "1").await;
    for round in 0..3 {
        until("it notices", async || part(&node) == Part::Away).await;
        let began = Instant::now();
        let refused = node.views().row("accounts", "a-1", &at_once()).await;
        assert!(
            matches!(refused, Err(ViewError::Away { .. })),
            "{refused:?}"
        );
        // It does not wait for the server.
        assert!(began.elapsed() < Duration::from_secs(2));
        let told = node.views().rebuild("accounts").await;
        assert!(matches!(told, Err(OperationError::Away { .. })), "{told:?}");
        let status = node.views().status("accounts").unwrap();
        assert_eq!(status.state, Activity::Failing);
        world.deposit("a-1", 1);
        server.up();
        writes(&node).await;
        let rows = all(node.views(), "accounts", &world).await;
        assert_eq!(rows[0]["balance_cents"], round + 1);
        // The last time it stays: what is up goes with this process.
        if round < 2 {
            server.down();
        }
    }
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_that_takes_no_writes_still_answers_and_goes_on_later() {
    let Some(mut world) = World::on_postgres("a database without writes") else {
        return;
    };
    world.open("a-1", "ada", "EUR");
    let node = world.start(&registry()).await;
    all(node.views(), "accounts", &world).await;
    let (_, database) = world.postgres.clone().unwrap();
    world.sql(&format!(
        "ALTER DATABASE {database} SET default_transaction_read_only = on"
    ));
    let cut = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity \
               WHERE pid <> pg_backend_pid() AND datname = current_database()";
    world.sql(cut);
    until("it notices", async || {
        let reason = node.views().standing().reason;
        reason.is_some_and(|reason| reason.contains("read-only"))
    })
    .await;
    world.deposit("a-1", 5);
    let stale = node.views().row("accounts", "a-1", &at_once()).await;
    assert_eq!(stale.unwrap().lag.events, 1);
    // From elsewhere: no session of this database may write.
    let (server, _) = world.postgres.as_ref().unwrap();
    let again = format!("ALTER DATABASE {database} SET default_transaction_read_only = off");
    server.sql("postgres", &again);
    world.sql(cut);
    let rows = until_rows(&node, &world).await;
    assert_eq!(rows[0]["balance_cents"], 5);
    node.stop().await;
}

async fn until_rows(node: &Projections, world: &World) -> Vec<Json> {
    writes(node).await;
    all(node.views(), "accounts", world).await
}

#[tokio::test(flavor = "multi_thread")]
async fn read_models_of_another_cluster_or_history_are_refused_and_left_alone() {
    let Some(mut world) = World::on_postgres("another cluster") else {
        return;
    };
    world.open("a-1", "ada", "EUR");
    let node = world.start(&registry()).await;
    let rows = all(node.views(), "accounts", &world).await;
    node.stop().await;

    let options = ProjectionOptions {
        cluster: "another".to_owned(),
        ..world.options()
    };
    let node = Projections::start(&registry(), options, world.ground())
        .await
        .unwrap();
    refuses(&node, "another").await;
    node.stop().await;

    // The same cluster by name, with a history that began anew.
    let mut anew = World::new();
    anew.postgres = world.postgres.clone();
    for _ in 0..10 {
        for id in ["a-1", "a-2", "a-3", "a-4", "a-5"] {
            anew.deposit(id, 1);
        }
    }
    let node = anew.start_as(&registry(), "1").await;
    refuses(&node, "another history").await;
    node.stop().await;

    let node = world.start(&registry()).await;
    assert_eq!(all(node.views(), "accounts", &world).await, rows);
    // Whatever is removed by hand is built again.
    world.sql("DROP SCHEMA phalanx CASCADE");
    world.deposit("a-1", 3);
    until("it is built again", async || {
        let page = node.views().list("accounts", &[], &world.now()).await;
        page.is_ok_and(|page| super::kit::rows(&page)[0]["balance_cents"] == 3)
    })
    .await;
    node.stop().await;
}

async fn refuses(node: &Projections, because: &str) {
    until("it refuses", async || {
        let stand = node.views().standing();
        stand.state != Part::Writing && stand.reason.is_some_and(|r| r.contains(because))
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_postgres_cannot_keep_holds_nothing_up() {
    let Some(mut world) = World::on_postgres("what PostgreSQL cannot keep") else {
        return;
    };
    world.open("a-1", "a\0b", "EUR");
    world.open("a-2", "a\u{fffd}b", "E\0R");
    world.open("a-3", "ada", "E\u{fffd}R");
    let planned = |start: &str| WorkshopDayEvent::MaintenanceJobPlanned {
        job_id: "j\0".to_owned(),
        vehicle: "v".to_owned(),
        start: start.parse().unwrap(),
        end: "9999-12-30T22:00:00Z".parse().unwrap(),
        description: String::new(),
    };
    world.commit::<WorkshopDay>("d-1", &[planned("-009999-01-02T02:00:00Z")]);
    let mut registry = registry();
    registry.register::<MaintenanceJobs>().unwrap();
    let node = world.start(&registry).await;
    let rows = all(node.views(), "accounts", &world).await;
    let owners: Vec<&Json> = rows.iter().map(|row| &row["owner"]).collect();
    assert_eq!(owners, ["a\u{fffd}b", "a\u{fffd}b", "ada"]);
    let pairs = [("owner".into(), "a\0b".into())];
    let page = node.views().list("accounts", &pairs, &world.now()).await;
    assert_eq!(super::kit::rows(&page.unwrap()).len(), 2);
    let jobs = all(node.views(), "maintenance_jobs", &world).await;
    assert_eq!(jobs[0]["start"], "-004712-01-01T00:00:00Z");
    assert_eq!(jobs[0]["end"], "9999-12-30T22:00:00Z");
    all(node.views(), "account_totals", &world).await;
    node.stop().await;
}

/// A certificate of an authority for this address, its key, and the certificate of the authority.
fn certificate() -> [String; 3] {
    use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
    let mut authority = CertificateParams::new(Vec::new()).unwrap();
    authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let authority_key = KeyPair::generate().unwrap();
    let root = authority.self_signed(&authority_key).unwrap();
    let issuer = Issuer::new(authority, authority_key);
    let key = KeyPair::generate().unwrap();
    let params = CertificateParams::new(vec!["127.0.0.1".to_owned()]).unwrap();
    let signed = params.signed_by(&key, &issuer).unwrap();
    [signed.pem(), key.serialize_pem(), root.pem()]
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_are_encrypted_and_servers_verified_as_the_address_says() {
    let server: &'static Postgres = match Postgres::start() {
        Ok(server) => Box::leak(Box::new(server)),
        Err(_) => {
            assert!(World::on_postgres("TLS to PostgreSQL").is_none());
            return;
        }
    };
    let mut world = World::new();
    world.open("a-1", "ada", "EUR");
    world.postgres = Some((server, server.database()));
    let [right, wrong] = ["right.pem", "wrong.pem"].map(|name| world.directory.path().join(name));
    let tried = async |parameters: &str| {
        let (server, database) = world.postgres.as_ref().unwrap();
        let text = format!("{}?{parameters}", server.url(database));
        let options = ProjectionOptions {
            address: StoreAddress::parse(&text).unwrap(),
            ..world.options()
        };
        let node = Projections::start(&registry(), options, world.ground())
            .await
            .unwrap();
        let mut stand = node.views().standing();
        until("it is clear", async || {
            stand = node.views().standing();
            matches!(stand.state, Part::Writing | Part::Away)
        })
        .await;
        let plain = "SELECT count(*) FROM pg_stat_ssl JOIN pg_stat_activity USING (pid) \
                     WHERE datname = current_database() AND pid <> pg_backend_pid() AND NOT ssl";
        let plain: u64 = world.sql(plain).parse().unwrap();
        node.stop().await;
        until("all sessions end", async || {
            let sessions = "SELECT count(*) FROM pg_stat_activity \
                            WHERE datname = current_database() AND pid <> pg_backend_pid()";
            world.sql(sessions) == "0"
        })
        .await;
        (stand.state, plain > 0)
    };
    // A server that cannot: what need not be encrypted is not, what must be is refused.
    assert_eq!(tried("sslmode=prefer").await, (Part::Writing, true));
    assert_eq!(tried("sslmode=require").await, (Part::Away, false));
    let [certificate, key, root] = certificate();
    server.secure(&certificate, &key);
    std::fs::write(&right, root).unwrap();
    std::fs::write(&wrong, self::certificate()[2].clone()).unwrap();
    let verified = |root: &std::path::Path| {
        let root = root.display();
        format!("sslmode=verify-full&sslrootcert={root}")
    };
    assert_eq!(tried("sslmode=disable").await, (Part::Writing, true));
    assert_eq!(tried("sslmode=prefer").await, (Part::Writing, false));
    assert_eq!(tried("sslmode=require").await, (Part::Writing, false));
    assert_eq!(tried(&verified(&right)).await, (Part::Writing, false));
    assert_eq!(tried(&verified(&wrong)).await, (Part::Away, false));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rebuild_takes_many_events_in_with_few_statements() {
    let Some(mut world) = World::on_postgres("a rebuild") else {
        return;
    };
    let events: u64 =
        std::env::var("PHALANX_REBUILD_EVENTS").map_or(20_000, |text| text.parse().unwrap());
    for n in 0..events / 20 {
        let id = format!("a-{}", n % 5_000);
        let deposit = AccountEvent::MoneyDeposited {
            amount_cents: 1,
            reference: None,
        };
        if n < 5_000 {
            world.open(&id, "ada", "EUR");
        }
        world.commit::<Account>(&id, &vec![deposit; 20]);
    }
    let options = ProjectionOptions {
        batch_bytes: 256 << 10,
        cache_rows: 50_000,
        ..world.options()
    };
    let mut registry = ProjectionRegistry::default();
    registry.register::<Accounts>().unwrap();
    let began = Instant::now();
    let node = Projections::start(&registry, options, world.ground())
        .await
        .unwrap();
    writes(&node).await;
    node.views()
        .list("accounts", &[], &world.now())
        .await
        .unwrap();
    let took = began.elapsed();
    let total: u64 = world.ends().iter().map(|end| end.number).sum();
    {
        use std::io::Write as _;
        let rate = total as f64 / took.as_secs_f64();
        let mut stderr = std::io::stderr().lock();
        drop(writeln!(
            stderr,
            "MEASURED: a build in PostgreSQL: {total} events in {took:?}, {rate:.0} a second"
        ));
    }
    let rows: u64 = world
        .sql("SELECT count(*) FROM phalanx.accounts")
        .parse()
        .unwrap();
    assert_eq!(rows, (events / 20).min(5_000));
    let cents: u64 = world
        .sql("SELECT sum(balance_cents) FROM phalanx.accounts")
        .parse()
        .unwrap();
    assert_eq!(cents, events / 20 * 20);
    node.stop().await;
}
