//! Two states side by side: what inserted events lead to, what they may not do, and two moments of a
//! history.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use std::sync::atomic::Ordering;

use phalanx_actors::history::{Compared, Comparison, MAX_EVENTS_BETWEEN};
use phalanx_actors::request::{Failure, FailureKind};
use serde_json::{Value, json};
use support::*;

/// Adds 10, counts, takes 3, counts.
async fn counted() -> World {
    let world = World::new(Options::default()).await;
    for request in [
        add(10),
        command("Count", "{}"),
        take(3),
        command("Count", "{}"),
    ] {
        accepted(world.ask("a", request).await);
    }
    world
}

async fn ask(world: &World, body: &Value) -> Result<Option<Compared>, Failure> {
    let body = body.to_string().into();
    let comparison = Comparison::WhatIf(body);
    world.model.compare(&stream("a"), &comparison).await
}

/// The two states.
async fn what_if(world: &World, inserts: &[(u64, &str, Value)]) -> (Value, Value) {
    let insert: Vec<Value> = inserts
        .iter()
        .map(|(after, name, data)| json!({"after_sequence": after, "type": name, "data": data}))
        .collect();
    let found = ask(world, &json!({ "insert": insert })).await;
    let found = found.unwrap().unwrap();
    let count = u64::try_from(inserts.len()).unwrap();
    assert_eq!(found.before.sequence_number, 4);
    assert_eq!(found.after.sequence_number, 4 + count);
    let json = |text: &str| serde_json::from_str(text).unwrap();
    (
        json(found.before.state.get()),
        json(found.after.state.get()),
    )
}

fn state(total: i64, last_count: i64) -> Value {
    json!({"total": total, "explosive": false, "last_count": last_count})
}

#[tokio::test]
async fn derived_facts_are_derived_again_behind_an_insertion_and_others_stay() {
    let world = counted().await;
    let actual = state(7, 7);
    for (inserts, hypothetical) in [
        (vec![], state(7, 7)),
        (vec![(0, "Added", json!({"amount": 5}))], state(12, 12)),
        (vec![(3, "Added", json!({"amount": 5}))], state(12, 12)),
        // Nothing is derived behind the last event.
        (vec![(4, "Added", json!({"amount": 5}))], state(12, 7)),
        (
            vec![
                (4, "Taken", json!({"amount": 1})),
                (0, "Added", json!({"amount": 5})),
                (2, "Added", json!({"amount": 20})),
            ],
            state(31, 32),
        ),
        // At one place, the order of the question counts. What was inserted is taken as it is.
        (
            vec![
                (4, "Counted", json!({"total": 1})),
                (4, "Counted", json!({"total": 2})),
            ],
            state(7, 2),
        ),
    ] {
        let found = what_if(&world, &inserts).await;
        assert_eq!(found, (actual.clone(), hypothetical), "{inserts:?}");
    }
}

#[tokio::test]
async fn an_insertion_may_stand_within_a_command_and_behind_a_snapshot() {
    let options = || {
        let mut options = Options::default();
        options.residency.snapshot_every_events = 2;
        options
    };
    let world = World::new(options()).await;
    let many = command("AddMany", r#"{"amount":2,"times":3}"#);
    accepted(world.ask("a", many).await);
    accepted(world.ask("a", command("Count", "{}")).await);
    assert!(world.journal.snapshots_saved.load(Ordering::Relaxed) > 0);
    for after in 0..=3 {
        let (actual, hypothetical) =
            what_if(&world, &[(after, "Taken", json!({"amount": 1}))]).await;
        assert_eq!(
            (actual, hypothetical),
            (state(6, 6), state(5, 5)),
            "{after}"
        );
    }
}

#[tokio::test]
async fn what_does_not_fit_is_refused_with_the_place() {
    let world = counted().await;
    let good = json!({"after_sequence": 1, "type": "Added", "data": {"amount": 1}});
    let with = |name: &str, value: Value| {
        let mut changed = good.clone();
        changed[name] = value;
        json!({"insert": [good, changed]})
    };
    let many: Vec<&Value> = std::iter::repeat_n(&good, 1001).collect();
    for (body, pointer) in [
        (json!([]), ""),
        (json!({}), ""),
        (json!({"insert": [], "dry_run": true}), "/dry_run"),
        (json!({"insert": {}}), "/insert"),
        (json!({ "insert": many }), "/insert"),
        (with("after_sequence", json!(5)), "/insert/1/after_sequence"),
        (
            with("after_sequence", json!(-1)),
            "/insert/1/after_sequence",
        ),
        (
            with("after_sequence", json!("1")),
            "/insert/1/after_sequence",
        ),
        (with("type", json!("Subtracted")), "/insert/1/type"),
        (with("type", json!("Add")), "/insert/1/type"),
        (with("at", json!(1)), "/insert/1/at"),
        (with("data", json!(7)), "/insert/1/data"),
        (with("data", json!({})), "/insert/1/data"),
        (
            with("data", json!({"amount": "x"})),
            "/insert/1/data/amount",
        ),
        (
            with("data", json!({"amount": 1, "a/b": 2})),
            "/insert/1/data/a~1b",
        ),
    ] {
        let failure = ask(&world, &body).await.unwrap_err();
        assert_eq!(failure.kind, FailureKind::MalformedBody, "{failure:?}");
        assert_eq!(failure.pointer.as_deref(), Some(pointer), "{failure:?}");
    }
    let unknown = ask(&world, &with("type", json!("Subtracted"))).await;
    let detail = unknown.unwrap_err().detail;
    assert!(detail.contains("Added, Taken"), "{detail}");
}

#[tokio::test]
async fn code_that_panics_along_the_line_fails_the_question_and_nothing_else() {
    let world = counted().await;
    for (data, pointer) in [
        (
            json!({"after_sequence": 2, "type": "Poison", "data": {}}),
            Some("/insert/0"),
        ),
        // The recorded count that comes next does not want to be derived again.
        (
            json!({"after_sequence": 1, "type": "Added", "data": {"amount": 656}}),
            None,
        ),
        // The state can be folded but not be shown.
        (
            json!({"after_sequence": 4, "type": "Explosive", "data": {}}),
            None,
        ),
    ] {
        let failure = ask(&world, &json!({"insert": [data]})).await.unwrap_err();
        assert_eq!(failure.kind, FailureKind::Hypothesis, "{failure:?}");
        assert_eq!(failure.pointer.as_deref(), pointer, "{failure:?}");
        // The aggregate goes on.
        assert_eq!(world.total("a").await, 7);
    }
    accepted(world.ask("a", add(1)).await);
    assert_eq!(world.journal.log().len(), 5);
}

#[tokio::test]
async fn a_question_sees_committed_events_only_and_stores_none() {
    let world = counted().await;
    world.replicator.hold();
    let waiting = world.send("a", add(100));
    settle().await;
    let inserts = [(0, "Added", json!({"amount": 1}))];
    let (actual, hypothetical) = what_if(&world, &inserts).await;
    assert_eq!((actual, hypothetical), (state(7, 7), state(8, 8)));
    assert!(!waiting.is_finished());
    world.replicator.let_go();
    accepted(soon(waiting).await);
    assert_eq!(world.journal.log().len(), 5);
    assert_eq!(world.total("a").await, 107);
}

#[tokio::test]
async fn nobody_has_no_hypothetical_history() {
    let world = World::new(Options::default()).await;
    let insert = json!({"after_sequence": 0, "type": "Added", "data": {"amount": 1}});
    let found = ask(&world, &json!({"insert": [insert]})).await;
    assert!(found.unwrap().is_none());
    let between = Comparison::Between { from: 1, to: 2 };
    let found = world.model.compare(&stream("a"), &between).await;
    assert!(found.unwrap().is_none());
}

#[tokio::test]
async fn two_moments_are_shown_with_the_events_between_them() {
    let world = World::new(Options::default()).await;
    let many = command("AddMany", r#"{"amount":1,"times":1500}"#);
    accepted(world.ask("a", many).await);
    accepted(world.ask("a", take(1)).await);
    let last = 1501;
    for (from, to, reached) in [
        (1, 1, (1, 1)),
        (2, 5, (2, 5)),
        (1499, last, (1499, last)),
        (1, last, (1, last)),
        (last, last, (last, last)),
        (5, 9999, (5, last)),
        (2000, 9999, (last, last)),
    ] {
        let comparison = Comparison::Between { from, to };
        let found = world.model.compare(&stream("a"), &comparison).await;
        let found = found.unwrap().unwrap();
        let (before, after) = (&found.before, &found.after);
        assert_eq!((before.sequence_number, after.sequence_number), reached);
        assert_eq!(before.position.number, before.sequence_number);
        let named: Vec<u64> = found.events.iter().map(|e| e.sequence_number).collect();
        let between: Vec<u64> = (reached.0 + 1..=reached.1)
            .take(MAX_EVENTS_BETWEEN)
            .collect();
        assert_eq!(named, between);
        for event in &found.events {
            let expected = if event.sequence_number == last {
                "Taken"
            } else {
                "Added"
            };
            assert_eq!(event.event_type, expected);
        }
        let total: Value = serde_json::from_str(after.state.get()).unwrap();
        let expected = if reached.1 == last { 1499 } else { reached.1 };
        assert_eq!(total["total"], expected);
    }
}
