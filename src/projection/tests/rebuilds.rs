//! Building a read model again while it answers.

use phalanx_actors::projection::{Projection, ProjectionRegistry, Row, Rows, Subscriptions, Table};

use super::super::*;
use super::kit::{World, all, at_once, on_both_stores, rows, until};
use crate::domain::{Account, AccountEvent};

on_both_stores!(
    a_rebuild_beside_a_busy_view_fails_no_query_and_gives_the_same_rows,
    a_new_version_is_built_while_the_old_rows_answer_and_then_takes_their_place,
    a_rebuild_that_was_interrupted_goes_on_after_a_restart,
);

/// How many events each account has; the second version calls the column otherwise.
#[derive(Debug)]
struct Counts<const VERSION: u32>;

impl<const VERSION: u32> Counts<VERSION> {
    const COLUMN: &'static str = if VERSION == 1 { "events" } else { "changes" };

    fn count(
        _: &AccountEvent,
        meta: &phalanx_actors::projection::EventMeta<'_>,
        rows: &mut Rows<'_>,
    ) -> phalanx_actors::projection::Handled {
        let before = match rows.get("counts", meta.aggregate_id)? {
            Some(row) => row.integer(Self::COLUMN)?,
            None => 0,
        };
        let row = Row::default().with("id", meta.aggregate_id);
        rows.put("counts", row.with(Self::COLUMN, before + 1))
    }
}

impl<const VERSION: u32> Projection for Counts<VERSION> {
    const NAME: &'static str = "counts";
    const VERSION: u32 = VERSION;
    const DESCRIPTION: &'static str = "How many events each account has.";

    fn tables() -> Vec<Table> {
        vec![Table::new("counts", "id").text("id").integer(Self::COLUMN)]
    }

    fn subscriptions() -> Subscriptions {
        Subscriptions::default().on::<Account>(Self::count)
    }
}

fn registry<P: Projection>() -> ProjectionRegistry {
    let mut registry = ProjectionRegistry::default();
    registry.register::<P>().unwrap();
    registry
}

async fn a_rebuild_beside_a_busy_view_fails_no_query_and_gives_the_same_rows(mut world: World) {
    for n in 0..40 {
        world.open(&format!("a-{n}"), "ada", "EUR");
    }
    for n in 0..2_000 {
        world.deposit(&format!("a-{}", n % 40), 1);
    }
    let projections = world.start(&registry::<Counts<1>>()).await;
    let views = projections.views();
    let before = all(views, "counts", &world).await;
    assert_eq!(before.len(), 40);
    views.rebuild("counts").await.unwrap();
    let again = views.rebuild("counts").await;
    assert!(
        matches!(again, Err(OperationError::Rebuilding)),
        "{again:?}"
    );
    let mut seen = 0;
    let mut last = 0;
    let mut n = 0_u64;
    while views.status("counts").unwrap().rebuild.is_some() {
        n += 1;
        world.deposit("a-0", 1);
        let page = views.list("counts", &[], &at_once()).await.unwrap();
        assert_eq!(rows(&page).len(), 40);
        // What the view has shown it does not take back.
        let count = rows(&page)[0]["events"].as_u64().unwrap();
        assert!(count >= last, "{count} after {last}");
        last = count;
        seen += 1;
    }
    assert!(seen > 0);
    let after = all(views, "counts", &world).await;
    assert_eq!(after[0]["events"], 51 + n);
    assert_eq!(after[1..], before[1..]);

    // Nothing is left of the old build.
    let mut store = world.store().await;
    until("one build", async || {
        let text = match store.is_shared() {
            true => "SELECT count(*) FROM pg_tables WHERE tablename LIKE 'b%counts'",
            false => "SELECT count(*) FROM sqlite_master WHERE type = 'table' AND name LIKE 'b%'",
        };
        let types = [phalanx_actors::projection::ColumnType::Integer];
        let rows = store.rows(text, &[], &types).await.unwrap();
        rows == [[1_i64.into()]]
    })
    .await;
    projections.stop().await;
}

async fn a_new_version_is_built_while_the_old_rows_answer_and_then_takes_their_place(
    mut world: World,
) {
    world.open("a-1", "ada", "EUR");
    let projections = world.start(&registry::<Counts<1>>()).await;
    let first = all(projections.views(), "counts", &world).await;
    assert_eq!(first, [serde_json::json!({"id": "a-1", "events": 1})]);
    projections
        .views()
        .set_paused("counts", true)
        .await
        .unwrap();
    projections.stop().await;

    world.deposit("a-1", 5);
    let projections = world.start(&registry::<Counts<2>>()).await;
    let views = projections.views();
    // It is paused, so that the old rows can be seen in peace.
    let status = views.status("counts").unwrap();
    assert_eq!(
        (status.version, status.rebuild.map(|r| r.version)),
        (1, Some(2))
    );
    let old = views.list("counts", &[], &at_once()).await.unwrap();
    assert_eq!((rows(&old), old.lag.events), (first, 1));
    views.set_paused("counts", false).await.unwrap();
    // Whoever waits for more than the old rows have gets the new ones.
    let new = views.list("counts", &[], &world.now()).await.unwrap();
    assert_eq!(rows(&new), [serde_json::json!({"id": "a-1", "changes": 2})]);
    assert_eq!(views.status("counts").unwrap().version, 2);
    projections.stop().await;
}

async fn a_rebuild_that_was_interrupted_goes_on_after_a_restart(mut world: World) {
    for n in 0..500 {
        world.open(&format!("a-{n}"), "ada", "EUR");
    }
    let projections = world.start(&registry::<Counts<1>>()).await;
    all(projections.views(), "counts", &world).await;
    projections.views().rebuild("counts").await.unwrap();
    projections.stop().await;
    let projections = world.start(&registry::<Counts<1>>()).await;
    let views = projections.views();
    until("the swap", async || {
        views.status("counts").unwrap().rebuild.is_none()
    })
    .await;
    assert_eq!(all(views, "counts", &world).await.len(), 500);
    projections.stop().await;
}
