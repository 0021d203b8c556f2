//! Columns that only handlers see: kept with the row over restarts, and found by no reader.

use phalanx_actors::projection::{
    EventMeta, Handled, Key, Projection, ProjectionRegistry, Row, Rows, Subscriptions, Table,
};

use super::super::*;
use super::kit::{World, all, at_once, on_both_stores};
use crate::domain::{Account, AccountEvent};

on_both_stores!(hidden_columns_are_kept_and_never_shown);

/// Accounts that turned rich: whoever ever had 100 cents. What they have is hidden.
#[derive(Debug)]
struct Rich;

impl Rich {
    fn handle(event: &AccountEvent, meta: &EventMeta<'_>, rows: &mut Rows<'_>) -> Handled {
        let AccountEvent::MoneyDeposited { amount_cents, .. } = event else {
            return Ok(());
        };
        let row = rows.get("rich", meta.aggregate_id)?;
        let before = row.map_or(Ok(0), |row| row.integer("cents"))?;
        let cents = before + amount_cents;
        let row = Row::default()
            .with("cents", cents)
            .with("rich", cents >= 100)
            .with("id", meta.aggregate_id);
        rows.put("rich", row)
    }
}

impl Projection for Rich {
    const NAME: &'static str = "rich";
    const VERSION: u32 = 1;
    const DESCRIPTION: &'static str = "Who turned rich.";

    fn tables() -> Vec<Table> {
        let table = Table::new("rich", "id").integer("cents").hidden();
        vec![table.boolean("rich").text("id").index(["rich"])]
    }

    fn subscriptions() -> Subscriptions {
        Subscriptions::default().on::<Account>(Self::handle)
    }
}

async fn hidden_columns_are_kept_and_never_shown(mut world: World) {
    let mut registry = ProjectionRegistry::default();
    registry.register::<Rich>().unwrap();
    let projections = world.start(&registry).await;
    world.deposit("a", 60);
    let row = |rich: bool| serde_json::json!({"rich": rich, "id": "a"});
    assert_eq!(all(projections.views(), "rich", &world).await, [row(false)]);
    projections.stop().await;

    // What was kept counts after a restart.
    let projections = world.start(&registry).await;
    let views = projections.views();
    let mut follower = views.follow("rich", &[], None).unwrap();
    assert!(matches!(follower.told(9), Told::Reset { .. }));
    world.deposit("a", 30);
    let turned = world.deposit("a", 10);
    assert_eq!(all(views, "rich", &world).await, [row(true)]);
    let one = views.row("rich", "a", &at_once()).await.unwrap();
    let members = String::from_utf8(one.members).unwrap();
    assert_eq!(members, r#""rich":true,"id":"a""#);
    // Nobody is told of a change that nobody can see.
    world.deposit("a", 1);
    assert_eq!(all(views, "rich", &world).await, [row(true)]);
    let mut told = Vec::new();
    while let Told::Changed(changes) = follower.told(9) {
        told.extend(changes.into_iter().map(|(_, change)| change));
    }
    let rows = vec![(Key::from("a"), false)];
    assert_eq!(
        told,
        [RowChanges {
            position: turned,
            rows
        }]
    );
    // It has no name for queries, nor in the view for SQL tools.
    for pair in [("cents", "100"), ("cents[gte]", "1"), ("sort", "cents")] {
        let pairs = [(pair.0.into(), pair.1.into())];
        let error = views.list("rich", &pairs, &at_once()).await.unwrap_err();
        let error = error.to_string();
        assert!(error.contains("no column `cents`"), "{error}");
        assert!(error.ends_with("it has rich, id"), "{error}");
    }
    let mut store = world.store().await;
    let shown = "SELECT COUNT(*) FROM rich WHERE rich";
    let types = [phalanx_actors::projection::ColumnType::Integer];
    assert_eq!(
        store.rows(shown, &[], &types).await.unwrap(),
        [[1_i64.into()]]
    );
    let hidden = "SELECT COUNT(*) FROM rich WHERE cents > 0";
    assert!(store.rows(hidden, &[], &types).await.is_err());
    projections.stop().await;
}
