//! Files that are damaged: a view shows the right rows or none, and comes back by itself.

use std::path::Path;

use phalanx_actors::projection::ProjectionRegistry;
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};
use serde_json::Value;

use super::super::check::check;
use super::super::entry::Withheld;
use super::super::patrol::{patrol, patrol_within};
use super::super::*;
use super::kit::{World, at_once, rows, until};
use crate::domain::views::{AccountTotals, Accounts};

fn registry() -> ProjectionRegistry {
    let mut registry = ProjectionRegistry::default();
    registry.register::<Accounts>().unwrap();
    registry.register::<AccountTotals>().unwrap();
    registry
}

fn fill(world: &mut World, from: usize, to: usize) {
    for n in from..to {
        let owner = ["ada", "grace", "edsger"][n % 3];
        world.open(&format!("a-{n}"), owner, ["EUR", "CHF"][n % 2]);
        for cents in 0..n % 7 {
            world.deposit(&format!("a-{n}"), i64::try_from(cents * n).unwrap());
        }
    }
}

/// Lists that go through the key, through each index, and through columns without one.
const QUERIES: [(&str, &[(&str, &str)]); 7] = [
    ("accounts", &[]),
    ("accounts", &[("owner", "ada")]),
    (
        "accounts",
        &[("currency", "CHF"), ("sort", "-sequence_number")],
    ),
    (
        "accounts",
        &[("balance_cents[gte]", "100"), ("sort", "-balance_cents")],
    ),
    ("accounts", &[("status", "open"), ("sort", "owner")]),
    ("account_totals", &[]),
    ("account_totals", &[("accounts[gt]", "1")]),
];

async fn ask(views: &Views, at: usize, fresh: &Freshness) -> Result<Vec<Value>, ViewError> {
    page(views, at, fresh).await.map(|page| rows(&page))
}

async fn page(views: &Views, at: usize, fresh: &Freshness) -> Result<Page, ViewError> {
    let (view, query) = QUERIES[at];
    let mut pairs = vec![("limit".into(), "1000".into())];
    pairs.extend(
        query
            .iter()
            .map(|(name, value)| ((*name).into(), (*value).into())),
    );
    views.list(view, &pairs, fresh).await
}

/// What each query says once everything is taken in; whatever is said before must not be wrong.
async fn answers(world: &World, what: &str, truth: Option<&[Vec<Value>]>) -> Vec<Vec<Value>> {
    let projections = world.start_as(&registry(), "1").await;
    let views = projections.views();
    if let Some(truth) = truth {
        for (at, truth) in truth.iter().enumerate() {
            match page(views, at, &at_once()).await {
                // A view may be behind, and then it says so with the same answer.
                Ok(page) if page.lag.events > 0 => {}
                Ok(page) => assert_eq!(&rows(&page), truth, "{what}: {:?}", QUERIES[at]),
                Err(ViewError::Away { .. }) => {}
                Err(error) => panic!("{what}: {error}"),
            }
        }
    }
    let mut all = Vec::new();
    for at in 0..QUERIES.len() {
        let mut said = None;
        until(what, async || {
            said = ask(views, at, &world.now()).await.ok();
            said.is_some()
        })
        .await;
        all.extend(said);
    }
    if let Some(truth) = truth {
        for (at, (said, truth)) in all.iter().zip(truth).enumerate() {
            assert_eq!(said, truth, "{what}: {:?}", QUERIES[at]);
        }
    }
    projections.stop().await;
    all
}

/// Puts this file there as if a node had been stopped with it.
fn lay(path: &Path, bytes: &[u8]) {
    super::super::file::remove(path).unwrap();
    std::fs::write(path, bytes).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bit_that_is_flipped_anywhere_is_mended_and_never_shown() {
    let mut world = World::new();
    fill(&mut world, 0, 60);
    let truth = answers(&world, "nothing", None).await;
    assert!(truth.iter().all(|rows| !rows.is_empty()), "{truth:?}");
    let path = world.options().path;
    let whole = std::fs::read(&path).unwrap();
    let rows = check(&path).await.unwrap();
    assert_eq!(rows, 60 + 2 + 60, "accounts, totals, currencies");
    let mut rng = StdRng::seed_from_u64(21);
    let mut found = 0;
    for round in 0..120 {
        let mut bytes = whole.clone();
        let at = match round % 4 {
            // Half of a small file is empty. The first page has the header and the schema.
            0 => rng.random_range(0..4096),
            _ => loop {
                let at = rng.random_range(0..whole.len());
                if whole[at] != 0 {
                    break at;
                }
            },
        };
        let bit = rng.random_range(0..8);
        bytes[at] ^= 1 << bit;
        lay(&path, &bytes);
        found += usize::from(check(&path).await.is_err());
        lay(&path, &bytes);
        answers(&world, &format!("byte {at}, bit {bit}"), Some(&truth)).await;
    }
    assert!(found > 60, "{found} of 120 were found");
}

#[tokio::test(flavor = "multi_thread")]
async fn pages_that_are_older_than_others_are_noticed() {
    const PAGE: usize = 4096;
    let mut world = World::new();
    fill(&mut world, 0, 40);
    answers(&world, "nothing", None).await;
    let path = world.options().path;
    let old = std::fs::read(&path).unwrap();
    // No row comes or goes, and no tree changes its shape.
    for n in 0..40 {
        world.deposit(&format!("a-{n}"), 1);
    }
    let truth = answers(&world, "nothing", None).await;
    let new = std::fs::read(&path).unwrap();
    assert_eq!(old.len(), new.len());
    let pages = (0..new.len()).step_by(PAGE);
    // The first page counts transactions, and nothing else in it changes.
    let differing: Vec<usize> = pages
        .skip(1)
        .filter(|at| old[*at..at + PAGE] != new[*at..at + PAGE])
        .collect();
    assert!(differing.len() > 3, "{differing:?}");
    for at in differing {
        let mut mixed = new.clone();
        mixed[at..at + PAGE].copy_from_slice(&old[at..at + PAGE]);
        lay(&path, &mixed);
        let found = check(&path).await;
        assert!(found.is_err(), "page {}", at / PAGE + 1);
        lay(&path, &mixed);
        answers(&world, &format!("page {}", at / PAGE + 1), Some(&truth)).await;
    }
}

/// Waits for the views to have been built again.
async fn mended(projections: &Projections, world: &World, build: i64) -> Vec<Value> {
    let views = projections.views();
    until("rows that are built again", async || {
        // Whoever meets the damage first reports it.
        let _asked = ask(views, 0, &at_once()).await;
        views.status("accounts").unwrap().build > build
    })
    .await;
    ask(views, 0, &world.now()).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn damage_that_is_met_while_it_runs_is_mended_without_a_restart() {
    let mut world = World::new();
    fill(&mut world, 0, 30);
    let truth = answers(&world, "nothing", None).await;
    let projections = world.start(&registry()).await;
    let views = projections.views();
    views.set_paused("account_totals", true).await.unwrap();
    let balance = |rows: &[Value]| {
        let row = rows.iter().find(|row| row["id"] == "a-1").unwrap();
        row["balance_cents"].as_i64().unwrap()
    };

    // A query meets it.
    let build = views.status("accounts").unwrap().build;
    let mut beside = world.store().await;
    let table = format!("b{build}_accounts");
    let text = format!("UPDATE {table} SET balance_cents = 12345 WHERE id = 'a-1'");
    assert_eq!(beside.run(&text, &[]).await.unwrap(), 1);
    beside.close().await;
    let met = views.row("accounts", "a-1", &at_once()).await;
    assert!(matches!(met, Err(ViewError::Away { .. })), "{met:?}");
    let again = mended(&projections, &world, build).await;
    assert_eq!(again, truth[0]);

    // What was paused still is, and answers nothing rather than rows that it does not have.
    let total = views.list("account_totals", &[], &at_once()).await;
    assert!(matches!(total, Err(ViewError::Away { .. })), "{total:?}");
    views.set_paused("account_totals", false).await.unwrap();
    let total = views.list("account_totals", &[], &world.now()).await;
    assert_eq!(rows(&total.unwrap()), truth[5]);

    // The writer meets it: a row that it has in memory and means to change is gone.
    let position = world.deposit("a-1", 4);
    let fresh = Freshness {
        after: vec![position],
        ..world.now()
    };
    views.row("accounts", "a-1", &fresh).await.unwrap();
    let build = views.status("accounts").unwrap().build;
    let mut beside = world.store().await;
    let text = format!("DELETE FROM b{build}_accounts WHERE id = 'a-1'");
    assert_eq!(beside.run(&text, &[]).await.unwrap(), 1);
    beside.close().await;
    world.deposit("a-1", 5);
    let again = mended(&projections, &world, build).await;
    assert_eq!(balance(&again), balance(&truth[0]) + 9);
    projections.stop().await;

    // Nothing of it is left to the next start.
    assert!(check(&world.options().path).await.is_ok());
    assert!(
        !world
            .options()
            .path
            .with_extension("sqlite.damaged")
            .exists()
    );
}

/// A read side that looks at its whole file every few milliseconds.
async fn watchful(world: &World) -> Projections {
    let options = ProjectionOptions {
        check_interval: std::time::Duration::from_millis(20),
        ..world.options()
    };
    let registry = registry();
    let projections = Projections::start(&registry, options, world.ground());
    let projections = projections.await.unwrap();
    super::kit::writes(&projections).await;
    projections
}

/// Waits, without asking for any row, for the views to have been built again.
async fn noticed(projections: &Projections, what: &str, build: i64) {
    let views = projections.views();
    until(what, async || {
        views.status("accounts").unwrap().build > build
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_missing_from_lists_is_noticed_while_it_runs_and_nobody_reads_it() {
    let mut world = World::new();
    fill(&mut world, 0, 30);
    let truth = answers(&world, "nothing", None).await;
    let projections = watchful(&world).await;
    let views = projections.views();
    let path = world.options().path;

    // A row is gone, and with it whatever points to it: each tree is in order.
    let build = views.status("accounts").unwrap().build;
    let mut beside = world.store().await;
    let text = format!("DELETE FROM b{build}_accounts WHERE id = 'a-1'");
    assert_eq!(beside.run(&text, &[]).await.unwrap(), 1);
    beside.close().await;
    noticed(&projections, "a row that is gone", build).await;
    assert_eq!(ask(views, 0, &world.now()).await.unwrap(), truth[0]);

    // An entry of an index is another one: the row is where it was, and lists by its owner lack it.
    let build = views.status("accounts").unwrap().build;
    let mut beside = world.store().await;
    until("everything is in the file itself", async || {
        let types = [phalanx_actors::projection::ColumnType::Integer; 3];
        let text = "PRAGMA wal_checkpoint(TRUNCATE)";
        let done = beside.rows(text, &[], &types).await.unwrap();
        done.first().is_some_and(|done| done[0] == 0_i64.into())
    })
    .await;
    let text = "SELECT rootpage, 0, 0 FROM sqlite_schema WHERE type = 'index' AND sql LIKE ?";
    let like = format!("%b{build}_accounts%owner%").into();
    let types = [phalanx_actors::projection::ColumnType::Integer; 3];
    let page = beside.rows(text, &[like], &types).await.unwrap();
    let phalanx_actors::projection::Value::Integer(page) = page[0][0] else {
        panic!("{page:?}");
    };
    beside.close().await;
    let from = (usize::try_from(page).unwrap() - 1) * 4096;
    let whole = std::fs::read(&path).unwrap();
    let name = b"grace";
    let at = whole[from..from + 4096].windows(name.len());
    let at = from + at.into_iter().position(|bytes| bytes == name).unwrap();
    let file = std::fs::File::options().write(true).open(&path).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&file, b"gracf", at as u64).unwrap();
    noticed(&projections, "an entry of an index that is another", build).await;
    let by_owner = [("owner".into(), "grace".into())];
    let page = views.list("accounts", &by_owner, &world.now()).await;
    assert_eq!(rows(&page.unwrap()).len(), 10);
    projections.stop().await;
    assert!(check(&path).await.is_ok());
}

#[tokio::test(flavor = "multi_thread")]
async fn looking_at_the_whole_file_all_the_time_finds_nothing_wrong_with_a_busy_one() {
    let mut world = World::new();
    fill(&mut world, 0, 20);
    let projections = watchful(&world).await;
    let views = projections.views();
    for round in 0..40 {
        for n in 0..20 {
            world.deposit(&format!("a-{n}"), round);
        }
        match round {
            10 | 25 => views.rebuild("accounts").await.unwrap(),
            18 => views.rebuild("account_totals").await.unwrap(),
            _ => {}
        }
        let listed = views.list("accounts", &[], &world.now()).await;
        assert_eq!(rows(&listed.unwrap()).len(), 20);
        until("no rebuild is under way in the end", async || {
            round < 39
                || views
                    .statuses()
                    .iter()
                    .all(|status| status.rebuild.is_none())
        })
        .await;
    }
    let built: Vec<i64> = views.statuses().iter().map(|status| status.build).collect();
    assert_eq!(
        built.iter().max(),
        Some(&5),
        "{built:?}: nothing else was built again"
    );
    projections.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn it_is_put_off_while_it_holds_up_the_log_and_takes_place_afterwards() {
    let mut world = World::new();
    for n in 0..20 {
        world.open(&format!("a-{n}"), "ada", "EUR");
    }
    let projections = world.start(&registry()).await;
    projections
        .views()
        .list("accounts", &[], &world.now())
        .await
        .unwrap();
    let path = world.options().path;
    assert_eq!(patrol(&path).await.unwrap(), Some(20 + 1 + 20));
    // Somebody who reads keeps the log from beginning anew, so each commit makes it longer.
    let mut reader = world.store().await;
    reader.run("BEGIN", &[]).await.unwrap();
    let text = "SELECT count(*) FROM phalanx_builds";
    reader
        .rows(
            text,
            &[],
            &[phalanx_actors::projection::ColumnType::Integer],
        )
        .await
        .unwrap();
    until("a patrol that is put off", async || {
        world.deposit("a-1", 1);
        let patrol = patrol_within(&path, 0, 1);
        let commits = async {
            for _ in 0..20 {
                world.deposit("a-1", 1);
                tokio::time::sleep(std::time::Duration::from_millis(2)).await;
            }
        };
        let (patrolled, ()) = tokio::join!(patrol, commits);
        patrolled.unwrap().is_none()
    })
    .await;
    reader.close().await;
    // The other view may still have something to commit.
    until("a patrol that takes place", async || {
        let patrolled = patrol_within(&path, 0, 1).await.unwrap();
        assert!(patrolled.is_none_or(|rows| rows == 20 + 1 + 20));
        patrolled.is_some()
    })
    .await;
    projections.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn while_a_file_is_checked_no_rows_are_shown_and_changes_are_told() {
    let mut world = World::new();
    fill(&mut world, 0, 1);
    let projections = world.start_as(&registry(), "1").await;
    let views = projections.views();
    until("the row is shown", async || {
        ask(views, 0, &world.now()).await.is_ok()
    })
    .await;
    let entry = Arc::clone(&views.0.entries["accounts"]);
    entry.withhold(Withheld::Checked);
    let refused = ask(views, 0, &at_once()).await;
    assert!(
        matches!(refused, Err(ViewError::Away { .. })),
        "{refused:?}"
    );
    let mut follower = views.follow("accounts", &[], None).unwrap();
    assert!(matches!(follower.told(9), Told::Reset { .. }));
    world.deposit("a-0", 5);
    until(
        "the change is told",
        async || matches!(follower.told(9), Told::Changed(told) if !told.is_empty()),
    )
    .await;
    entry.withhold(Withheld::Rebuilt);
    assert!(views.follow("accounts", &[], None).is_err());
    assert!(matches!(follower.told(9), Told::Incomplete));
    projections.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_is_removed_while_it_is_used_is_built_again_without_a_restart() {
    let mut world = World::new();
    fill(&mut world, 0, 30);
    let projections = world.start(&registry()).await;
    let views = projections.views();
    let truth = ask(views, 0, &world.now()).await.unwrap();
    let path = world.options().path;
    let beside = |suffix: &str| {
        let mut name = path.as_os_str().to_owned();
        name.push(suffix);
        std::path::PathBuf::from(name)
    };
    // All of it, then only its log, then another file in its place.
    for (what, removed) in [
        ("everything", &["", "-wal", "-shm"][..]),
        ("the log", &["-wal"][..]),
        ("the file", &[""][..]),
    ] {
        let build = views.status("accounts").unwrap().build;
        for suffix in removed {
            std::fs::remove_file(beside(suffix)).unwrap();
        }
        if what == "the file" {
            std::fs::write(&path, b"somebody else's").unwrap();
        }
        until(what, async || {
            match ask(views, 0, &world.now()).await {
                Ok(rows) => assert_eq!(rows, truth, "{what}"),
                Err(ViewError::Away { .. }) => {}
                Err(error) => panic!("{what}: {error}"),
            }
            views.status("accounts").unwrap().build > build
        })
        .await;
        assert_eq!(ask(views, 0, &world.now()).await.unwrap(), truth, "{what}");
        assert!(check(&path).await.is_ok(), "{what}");
    }
    assert!(!beside(".damaged").exists());
    projections.stop().await;
}

/// SQLite removes the write-ahead log, by its name, when the last connection to a file is closed. One that
/// could not be made to the end is closed later, and may be at that when the next file is there.
#[tokio::test(flavor = "multi_thread")]
async fn a_new_file_waits_until_nobody_has_the_damaged_one_open() {
    use sqlx::{ConnectOptions as _, Connection as _};

    let world = World::new();
    let projections = world.start(&registry()).await;
    projections.stop().await;
    let path = world.options().path;
    let options = super::super::file::connect_options(&path);
    let mut held = options.connect().await.unwrap();
    let count = "SELECT count(*) FROM phalanx_store";
    sqlx::query(count).fetch_one(&mut held).await.unwrap();
    let mut bytes = std::fs::read(&path).unwrap();
    bytes[..16].fill(0);
    std::fs::write(&path, bytes).unwrap();
    let opening = {
        let path = path.clone();
        tokio::spawn(async move { super::super::store::Store::open(&path, "journal", 3).await })
    };
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert!(!opening.is_finished());
    held.close().await.unwrap();
    let store = opening.await.unwrap().unwrap();
    let mut reader = options.connect().await.unwrap();
    sqlx::query(count).fetch_one(&mut reader).await.unwrap();
    reader.close().await.unwrap();
    store.close().await;
}
