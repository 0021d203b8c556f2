//! Events that cannot be handled.

use std::sync::atomic::{AtomicBool, Ordering};

use phalanx_actors::projection::{
    EventMeta, Handled, HandlerError, Projection, ProjectionRegistry, Row, Rows, Subscriptions,
    Table,
};

use super::super::*;
use super::kit::{World, all, on_both_stores, until};
use crate::domain::{Account, AccountEvent};

on_both_stores!(
    what_cannot_be_handled_is_set_aside_and_taken_in_later_in_order,
    what_an_attempt_has_changed_is_not_passed_over_after_a_restart,
);

/// Whether the handler below is broken.
static BROKEN: AtomicBool = AtomicBool::new(true);
/// One test at a time has it.
static HANDLER: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());

/// Counts deposits; while it is broken, it cannot do so for amounts of 13 and panics at 31.
#[derive(Debug)]
struct Deposits;

impl Projection for Deposits {
    const NAME: &'static str = "deposits";
    const VERSION: u32 = 1;
    const DESCRIPTION: &'static str = "What was paid in, as a text of all amounts.";

    fn tables() -> Vec<Table> {
        vec![Table::new("deposits", "id").text("id").text("amounts")]
    }

    fn subscriptions() -> Subscriptions {
        Subscriptions::default().on_only::<Account, 1>(["MoneyDeposited"], count)
    }
}

fn count(event: &AccountEvent, meta: &EventMeta<'_>, rows: &mut Rows<'_>) -> Handled {
    let AccountEvent::MoneyDeposited { amount_cents, .. } = event else {
        return Err(HandlerError::refused("not asked for"));
    };
    let before = rows.get("deposits", meta.aggregate_id)?;
    let before = before.map_or(Ok(String::new()), |row| {
        row.text("amounts").map(str::to_owned)
    })?;
    let amounts = format!("{before} {amount_cents}");
    let row = Row::default()
        .with("id", meta.aggregate_id)
        .with("amounts", amounts);
    rows.put("deposits", row)?;
    if BROKEN.load(Ordering::SeqCst) {
        assert_ne!(*amount_cents, 31, "thirty-one");
        if *amount_cents == 13 {
            return Err(HandlerError::refused("thirteen"));
        }
    }
    Ok(())
}

fn registry() -> ProjectionRegistry {
    let mut registry = ProjectionRegistry::default();
    registry.register::<Deposits>().unwrap();
    registry
}

fn row(id: &str, amounts: &str) -> serde_json::Value {
    serde_json::json!({"id": id, "amounts": amounts})
}

/// What a follower is told at first.
fn first(views: &Views, id: &str) -> Told {
    let id = ChangeId::parse(id, super::kit::SHARDS).unwrap();
    views.follow("deposits", &[], Some(id)).unwrap().told(9)
}

async fn what_an_attempt_has_changed_is_not_passed_over_after_a_restart(mut world: World) {
    let _handler = HANDLER.lock().await;
    BROKEN.store(true, Ordering::SeqCst);
    let projections = world.start(&registry()).await;
    let views = projections.views();
    world.open("a-1", "ada", "EUR");
    for cents in [1, 13, 2] {
        world.deposit("a-1", cents);
    }
    assert_eq!(all(views, "deposits", &world).await, [row("a-1", " 1")]);
    let mut follower = views.follow("deposits", &[], None).unwrap();
    assert!(matches!(follower.told(9), Told::Reset { .. }));
    let before = follower.id();
    BROKEN.store(false, Ordering::SeqCst);
    let letter = views.dead_letters("deposits", 0, 1).await.unwrap()[0].id;
    let mended = views.retry("deposits", letter, false).await.unwrap();
    assert!(mended.resolved, "{mended:?}");
    let told = follower.told(9);
    let Told::Reset { reason, id, .. } = told else {
        panic!("{told:?}");
    };
    assert_eq!(reason, Reset::Lost);
    // Nothing else happens: every shard is where it was when the first id was told.
    projections.stop().await;
    let projections = world.start(&registry()).await;
    let views = projections.views();
    let told = first(views, &before);
    assert!(
        matches!(
            told,
            Told::Reset {
                reason: Reset::TooOld,
                ..
            }
        ),
        "{told:?}"
    );
    let told = first(views, &id);
    assert!(matches!(told, Told::Nothing), "{told:?}");
    projections.stop().await;
}

async fn what_cannot_be_handled_is_set_aside_and_taken_in_later_in_order(mut world: World) {
    let _handler = HANDLER.lock().await;
    BROKEN.store(true, Ordering::SeqCst);
    let projections = world.start(&registry()).await;
    for id in ["a-1", "a-2", "a-3"] {
        world.open(id, "ada", "EUR");
        world.deposit(id, 1);
    }
    world.deposit("a-1", 13);
    world.deposit("a-2", 31);
    for n in 2..6 {
        for id in ["a-1", "a-2", "a-3"] {
            world.deposit(id, n);
        }
    }
    let views = projections.views();
    let expected = [row("a-1", " 1"), row("a-2", " 1"), row("a-3", " 1 2 3 4 5")];
    assert_eq!(all(views, "deposits", &world).await, expected);

    let letters = views.dead_letters("deposits", 0, 10).await.unwrap();
    let mut told: Vec<_> = letters
        .iter()
        .map(|l| {
            (
                &*l.aggregate_id,
                l.sequence_number,
                l.attempts,
                l.reason.contains("thirt"),
            )
        })
        .collect();
    told.sort_unstable();
    assert_eq!(told, [("a-1", 3, 1, true), ("a-2", 3, 1, true)]);
    let letter = |id: &str| letters.iter().find(|l| l.aggregate_id == id).unwrap().id;
    assert_eq!(letters[0].event_type.as_deref(), Some("MoneyDeposited"));
    until("both are counted", async || {
        views.status("deposits").unwrap().dead_letters == 2
    })
    .await;

    // An attempt in vain changes nothing but the count.
    let tried = views.retry("deposits", letter("a-1"), false).await.unwrap();
    assert!(!tried.resolved && tried.handled == 0, "{tried:?}");
    assert_eq!(all(views, "deposits", &world).await, expected);
    let again = views.dead_letters("deposits", 0, 10).await.unwrap();
    let again = again.iter().find(|l| l.aggregate_id == "a-1").unwrap();
    assert_eq!((again.id, again.attempts), (letter("a-1"), 2));

    // It stays set aside over a restart.
    projections.stop().await;
    let projections = world.start(&registry()).await;
    let views = projections.views();
    world.deposit("a-1", 6);
    world.deposit("a-2", 6);
    let expected = [row("a-1", " 1"), row("a-2", " 1"), row("a-3", " 1 2 3 4 5")];
    assert_eq!(all(views, "deposits", &world).await, expected);

    // Without the event that fails, the others are taken in.
    let skipped = views.retry("deposits", letter("a-2"), true).await.unwrap();
    assert!(skipped.resolved && skipped.handled == 5, "{skipped:?}");
    // And once the handler is mended, so is that.
    BROKEN.store(false, Ordering::SeqCst);
    let mended = views.retry("deposits", letter("a-1"), false).await.unwrap();
    assert!(mended.resolved && mended.handled == 6, "{mended:?}");
    world.deposit("a-1", 7);
    world.deposit("a-2", 7);
    let expected = [
        row("a-1", " 1 13 2 3 4 5 6 7"),
        row("a-2", " 1 2 3 4 5 6 7"),
        row("a-3", " 1 2 3 4 5"),
    ];
    assert_eq!(all(views, "deposits", &world).await, expected);
    assert!(
        views
            .dead_letters("deposits", 0, 10)
            .await
            .unwrap()
            .is_empty()
    );
    until("the count", async || {
        views.status("deposits").unwrap().dead_letters == 0
    })
    .await;
    let gone = views.retry("deposits", letter("a-1"), false).await;
    assert!(matches!(gone, Err(OperationError::NoLetter)), "{gone:?}");
    projections.stop().await;
}
