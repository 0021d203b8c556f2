//! Taking events in, waiting for them, and doing so exactly once over restarts.

use std::collections::BTreeMap;

use phalanx_actors::projection::ProjectionRegistry;
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};

use super::super::server::Pen;
use super::super::store::{BuildState, OffsetMove};
use super::super::*;
use super::kit::{World, all, at_once, on_both_stores, rows};
use crate::domain::views::{AccountTotals, Accounts, Orders};
use crate::domain::{Order, OrderEvent};

on_both_stores!(
    however_often_it_is_restarted_the_totals_are_the_fold_of_the_journal,
    a_query_with_a_position_never_misses_it_and_one_without_says_how_far_it_is,
    events_that_a_view_does_not_want_end_a_wait_as_well,
    of_two_writers_that_begin_at_the_same_offset_one_wins,
);

fn registry() -> ProjectionRegistry {
    let mut registry = ProjectionRegistry::default();
    registry.register::<Accounts>().unwrap();
    registry.register::<AccountTotals>().unwrap();
    registry.register::<Orders>().unwrap();
    registry
}

async fn however_often_it_is_restarted_the_totals_are_the_fold_of_the_journal(mut world: World) {
    let mut rng = StdRng::seed_from_u64(7);
    let mut expected: BTreeMap<&str, (i64, i64)> = BTreeMap::new();
    for round in 0..12 {
        let projections = world.start(&registry()).await;
        let currencies = ["EUR", "CHF"];
        for n in 0..rng.random_range(1..120) {
            let currency = currencies[n % 2];
            let id = format!("a-{round}-{}", n % 9);
            let total = expected.entry(currency).or_default();
            if n < 9 {
                world.open(&id, "ada", ["EUR", "CHF"][n % 2]);
                total.0 += 1;
            } else {
                let of = ["EUR", "CHF"][(n % 9) % 2];
                world.deposit(&id, i64::try_from(n).unwrap());
                expected.get_mut(of).unwrap().1 += i64::try_from(n).unwrap();
            }
            if n % 17 == 0 {
                tokio::task::yield_now().await;
            }
        }
        if round % 3 == 0 {
            let totals = all(projections.views(), "account_totals", &world).await;
            assert_eq!(totals.len(), expected.len());
        }
        // Mostly in the midst of it.
        projections.stop().await;
    }
    let projections = world.start(&registry()).await;
    let totals = all(projections.views(), "account_totals", &world).await;
    let found: BTreeMap<&str, (i64, i64)> = totals
        .iter()
        .map(|row| {
            let number = |name: &str| row[name].as_i64().unwrap();
            let currency = row["currency"].as_str().unwrap();
            (currency, (number("accounts"), number("balance_cents")))
        })
        .collect();
    assert_eq!(found, expected);
    let accounts = all(projections.views(), "accounts", &world).await;
    let sum: i64 = accounts
        .iter()
        .map(|a| a["balance_cents"].as_i64().unwrap())
        .sum();
    assert_eq!(sum, expected.values().map(|(_, cents)| cents).sum::<i64>());
    projections.stop().await;
}

async fn a_query_with_a_position_never_misses_it_and_one_without_says_how_far_it_is(
    mut world: World,
) {
    world.open("a-1", "ada", "EUR");
    let projections = world.start(&registry()).await;
    let views = projections.views();
    for n in 1..=300 {
        let position = world.deposit("a-1", 1);
        let fresh = Freshness {
            after: vec![position],
            wait: Duration::from_secs(20),
        };
        let found = views.row("accounts", "a-1", &fresh).await.unwrap();
        let json = format!("{{{}}}", String::from_utf8(found.members).unwrap());
        let row: serde_json::Value = serde_json::from_str(&json).unwrap();
        assert_eq!(row["balance_cents"], n);
        assert_eq!((found.lag.events, found.lag.seconds), (0, 0.0));
    }
    views.set_paused("accounts", true).await.unwrap();
    let position = world.deposit("a-1", 1);
    let fresh = Freshness {
        after: vec![position],
        wait: Duration::from_millis(30),
    };
    match views.row("accounts", "a-1", &fresh).await {
        Err(ViewError::Behind { lag, .. }) => assert_eq!(lag.events, 1),
        other => panic!("{other:?}"),
    }
    let stale = views.row("accounts", "a-1", &at_once()).await.unwrap();
    assert!(
        stale.lag.events == 1 && stale.lag.seconds >= 0.02,
        "{:?}",
        stale.lag
    );
    // Another view is not held up by that.
    assert!(
        views
            .list("account_totals", &[], &world.now())
            .await
            .is_ok()
    );
    projections.stop().await;

    // It stays paused over a restart, and goes on from there when it is told to.
    let projections = world.start(&registry()).await;
    let views = projections.views();
    assert_eq!(views.status("accounts").unwrap().state, Activity::Paused);
    views.set_paused("accounts", false).await.unwrap();
    assert!(views.row("accounts", "a-1", &world.now()).await.is_ok());
    projections.stop().await;
}

/// A start must not read again what the process before it went past.
#[tokio::test(flavor = "multi_thread")]
async fn a_stop_stores_how_far_a_view_came_past_what_it_does_not_want() {
    let mut world = World::new();
    let projections = world.start(&registry()).await;
    for n in 0..30 {
        world.open(&format!("a-{n}"), "ada", "EUR");
    }
    let views = projections.views().clone();
    let orders = views.list("orders", &[], &world.now()).await.unwrap();
    assert_eq!(rows(&orders).len(), 0);
    let build = views.0.entries["orders"].live().id;
    projections.stop().await;
    let ends: Vec<u64> = world.ends().into_iter().map(|end| end.number).collect();
    assert!(ends.iter().all(|end| *end > 0), "{ends:?}");
    let mut store = world.store().await;
    assert_eq!(store.offsets(build).await.unwrap(), ends);
    store.close().await;
    let projections = world.start(&registry()).await;
    let accounts = all(projections.views(), "accounts", &world).await;
    assert_eq!(accounts.len(), 30);
    projections.stop().await;
}

async fn events_that_a_view_does_not_want_end_a_wait_as_well(mut world: World) {
    let projections = world.start(&registry()).await;
    let created = OrderEvent::OrderCreated {
        customer: "ada".to_owned(),
    };
    let position = world.commit::<Order>("o-1", &[created]);
    let fresh = Freshness {
        after: vec![position],
        wait: Duration::from_secs(20),
    };
    let page = projections
        .views()
        .list("accounts", &[], &fresh)
        .await
        .unwrap();
    assert_eq!((page.rows, page.lag.events), (b"[]".to_vec(), 0));
    projections.stop().await;
}

async fn of_two_writers_that_begin_at_the_same_offset_one_wins(world: World) {
    let mut one = world.store().await;
    let registry = registry();
    let definition = registry.get("accounts").unwrap();
    if one.is_shared() {
        let pen = one.reach_for_pen(&[], [&**definition], false).await;
        assert!(matches!(pen, Ok(Pen::Held)), "{pen:?}");
    }
    let build = one.create(definition, BuildState::Live).await.unwrap();
    let mut other = world.store().await;
    if other.is_shared() {
        let pen = other.reach_for_pen(&[], [&**definition], false).await;
        assert!(matches!(pen, Ok(Pen::Elsewhere)), "{pen:?}");
    }
    let moved = |from, to| OffsetMove {
        build: build.id,
        shard: 1,
        from,
        to,
    };
    one.begin().await.unwrap();
    one.move_offsets(&[moved(0, 5)]).await.unwrap();
    one.commit().await.unwrap();
    other.begin().await.unwrap();
    let fenced = other.move_offsets(&[moved(0, 9)]).await;
    assert!(
        matches!(fenced, Err(StoreError::Fenced { shard: 1, .. })),
        "{fenced:?}"
    );
    other.roll_back().await;
    let text = "SELECT position FROM phalanx_offsets WHERE build = ? ORDER BY shard";
    let types = [phalanx_actors::projection::ColumnType::Integer];
    let offsets = one.rows(text, &[build.id.into()], &types).await.unwrap();
    assert_eq!(offsets.concat(), [0, 5, 0].map(Into::into));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_is_gone_or_broken_or_of_another_journal_is_built_again() {
    let mut world = World::new();
    world.open("a-1", "ada", "EUR");
    world.deposit("a-1", 5);
    let path = world.options().path;
    let mut before = None;
    for harm in 0..4 {
        match harm {
            0 => {}
            1 => super::super::file::remove(&path).unwrap(),
            2 => std::fs::write(&path, b"this is no database, but long enough to be one").unwrap(),
            _ => {}
        }
        let mut options = world.options();
        if harm == 3 {
            options.journal = "another".to_owned();
        }
        let projections = Projections::start(&registry(), options, world.ground())
            .await
            .unwrap();
        let rows = all(projections.views(), "accounts", &world).await;
        assert_eq!(rows.len(), 1, "harm {harm}");
        assert_eq!(*before.get_or_insert(rows.clone()), rows, "harm {harm}");
        projections.stop().await;
    }
}
