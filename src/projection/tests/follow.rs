//! Following the rows of a view over a real store.

use phalanx_actors::projection::{
    EventMeta, Handled, Key, Projection, ProjectionRegistry, Row, Rows, Subscriptions, Table,
};

use super::super::*;
use super::kit::{World, at_once};
use crate::domain::{Account, AccountEvent};

/// Accounts with something in them: a row comes with a deposit and goes with a withdrawal.
#[derive(Debug)]
struct Filled;

impl Filled {
    fn handle(event: &AccountEvent, meta: &EventMeta<'_>, rows: &mut Rows<'_>) -> Handled {
        match event {
            AccountEvent::MoneyDeposited { .. } => {
                let row = Row::default().with("id", meta.aggregate_id);
                rows.put("filled", row)
            }
            AccountEvent::MoneyWithdrawn { .. } => rows.delete("filled", meta.aggregate_id),
            _ => Ok(()),
        }
    }
}

impl Projection for Filled {
    const NAME: &'static str = "filled";
    const VERSION: u32 = 1;
    const DESCRIPTION: &'static str = "Accounts with something in them.";

    fn tables() -> Vec<Table> {
        vec![Table::new("filled", "id").text("id")]
    }

    fn subscriptions() -> Subscriptions {
        Subscriptions::default().on::<Account>(Self::handle)
    }
}

/// The next changes of one follower, waiting for them.
async fn told(follower: &mut Follower) -> Vec<RowChanges> {
    loop {
        match follower.told(100) {
            Told::Changed(told) => return told.into_iter().map(|(_, changed)| changed).collect(),
            Told::Nothing => follower.wait().await,
            other => panic!("{other:?}"),
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_that_come_and_go_are_told_with_the_event_that_did_it() {
    let mut world = World::new();
    let mut registry = ProjectionRegistry::default();
    registry.register::<Filled>().unwrap();
    let projections = world.start(&registry).await;
    let views = projections.views();
    let mut follower = views.follow("filled", &[], None).unwrap();
    let begin = follower.told(100);
    assert!(
        matches!(&begin, Told::Reset { reason: Reset::Begin, positions, .. } if positions.is_empty()),
        "{begin:?}"
    );
    world.open("a", "ada", "EUR");
    let came = world.deposit("a", 5);
    let row = |position, removed| {
        let rows = vec![(Key::from("a"), removed)];
        RowChanges { position, rows }
    };
    assert_eq!(told(&mut follower).await, [row(came, false)]);
    assert_eq!(
        views.list("filled", &[], &at_once()).await.unwrap().rows,
        br#"[{"id":"a"}]"#
    );
    let went = world.commit::<Account>("a", &[AccountEvent::MoneyWithdrawn { amount_cents: 5 }]);
    let changes = told(&mut follower).await;
    assert_eq!(changes, [row(went, true)]);
    let json = String::from_utf8(changes[0].to_json()).unwrap();
    let expected = format!(r#"{{"position":"{went}","rows":[{{"key":"a","removed":true}}]}}"#);
    assert_eq!(json, expected);
    // The id leads back to here, and only to this view's rows.
    let id = ChangeId::parse(&follower.id(), super::kit::SHARDS).unwrap();
    let mut resumed = views.follow("filled", &[], Some(id)).unwrap();
    assert!(matches!(resumed.told(100), Told::Nothing));
    let back = world.deposit("a", 1);
    assert_eq!(told(&mut resumed).await, [row(back, false)]);
    projections.stop().await;
}
