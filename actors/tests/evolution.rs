//! What an earlier release stored is read by this one: with defaults, renamed, split, or dropped.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

mod support;

#[path = "evolution/releases.rs"]
mod releases;

use std::sync::Arc;

use phalanx_actors::evolution::{Upcasters, first, schema_of};
use phalanx_actors::history::{Comparison, MAX_EVENTS_BETWEEN, parts};
use phalanx_actors::model::At;
use phalanx_actors::projection::{
    Projection, ProjectionDefinition, Row, Run, Subscriptions, Table, Workspace,
};
use phalanx_actors::record::{Draft, MIXED, Record, RecordHead, RecordView};
use phalanx_actors::request::{Answer, FailureKind};
use phalanx_actors::types::{RegistrationError, TypeRegistry};
use phalanx_actors::{Aggregate, Context};
use releases::{Books, MiddleEvent, Never, new, old};
use serde::Serialize;
use serde_json::{Value, json};
use support::*;

/// A journal in which the first release stored `a`: opened and greeted, a payment, a note and a payment.
async fn old_journal() -> Arc<MemoryJournal> {
    let world = World::of::<old::Release>(Arc::default()).await;
    for (name, body) in [
        ("Open", r#"{"name":"ada"}"#),
        ("Pay", r#"{"amount":100,"fee":1}"#),
        ("PayWithNote", r#"{"amount":50,"fee":2}"#),
    ] {
        let mut request = with_key(name, command(name, body));
        request.representation = true;
        accepted(world.ask("a", request).await);
    }
    world.step_down().await;
    Arc::clone(&world.journal)
}

/// A record of one event that an unknown build might have written.
fn foreign<E: Serialize>(id: &str, version: u16, position: u64, event: E) -> Record {
    let stream = stream(id);
    let head = RecordHead {
        stream: stream.as_str(),
        first_sequence: 1,
        event_count: 1,
        time_us: 0,
        command: "Test",
        key: "test",
        fingerprint: [0; 16],
        flags: 0,
        traceparent: "",
    };
    let draft = Draft::new(&head, version, &[event]).unwrap();
    Record::from_stored(draft.finish(position)).unwrap()
}

/// The state after so many events.
async fn state(world: &World, id: &str, sequence: u64) -> Books {
    let past = world
        .model
        .state_at(&stream(id), At::Sequence(sequence))
        .await;
    serde_json::from_str(past.unwrap().unwrap().state.get()).unwrap()
}

#[tokio::test]
async fn a_journal_of_the_first_release_gives_todays_states() {
    let world = World::of::<new::Release>(old_journal().await).await;
    let totals = async |sequence| state(&world, "a", sequence).await.total;
    assert_eq!(totals(2).await, 0);
    assert_eq!(totals(3).await, 99);
    assert_eq!(totals(4).await, 99);
    assert_eq!(totals(5).await, 147);
    let expected = Books {
        name: "ada".to_owned(),
        country: "untagged".to_owned(),
        total: 147,
        welcomed: true,
    };
    assert_eq!(state(&world, "a", 5).await, expected);
    // The live aggregate goes on with the next number.
    let answer = accepted(
        world
            .ask("a", command("Pay", r#"{"amount":1,"fee":0}"#))
            .await,
    );
    assert_eq!(answer.sequence_number, 6);
    assert_eq!(world.total("a").await, 148);
}

#[tokio::test]
async fn a_history_shows_todays_events_with_the_numbers_of_the_stored_ones() {
    let world = World::of::<new::Release>(old_journal().await).await;
    let page = async |from, limit| {
        let page = world
            .model
            .history(&stream("a"), from, limit, usize::MAX)
            .await
            .unwrap();
        let seen: Vec<(u64, usize, String)> = parts(&page.events)
            .map(|(part, e)| (e.sequence_number, part, e.event_type.to_string()))
            .collect();
        (seen, page.next_sequence)
    };
    let event = |sequence, part, name: &str| (sequence, part, name.to_owned());
    let (opened, welcomed) = (event(1, 0, "Opened"), event(2, 0, "Welcomed"));
    let paid = [event(3, 0, "Deposited"), event(3, 1, "FeeTaken")];
    let paid_again = [event(5, 0, "Deposited"), event(5, 1, "FeeTaken")];
    // The note's number 4 is not used by anything else.
    let mut all = vec![opened, welcomed];
    all.extend(paid.clone());
    all.extend(paid_again.clone());
    assert_eq!(page(1, 100).await, (all, None));
    // No page ends between the parts of an event.
    assert_eq!(page(3, 1).await, (paid.to_vec(), Some(4)));
    assert_eq!(page(4, 1).await, (paid_again.to_vec(), None));
    let events = world
        .model
        .history(&stream("a"), 1, 1, usize::MAX)
        .await
        .unwrap()
        .events;
    assert_eq!(events[0].schema_version, 3);
    assert_eq!(
        events[0].data.get(),
        r#"{"name":"ada","country":"untagged"}"#
    );
}

#[tokio::test]
async fn what_lies_between_two_moments_is_named_with_all_parts_of_the_last_one() {
    let world = World::of::<old::Release>(Arc::default()).await;
    let asked = [("Open", r#"{"name":"ada"}"#.to_owned())];
    let paid = (0..600).map(|_| ("Pay", r#"{"amount":2,"fee":1}"#.to_owned()));
    for (name, body) in asked.into_iter().chain(paid) {
        accepted(world.ask("a", command(name, &body)).await);
    }
    world.step_down().await;
    let world = World::of::<new::Release>(Arc::clone(&world.journal)).await;
    let between = Comparison::Between { from: 1, to: 602 };
    let found = world.model.compare(&stream("a"), &between).await;
    let found = found.unwrap().unwrap();
    assert_eq!(found.after.sequence_number, 602);
    // One event of one part, and then pairs.
    assert_eq!(found.events.len(), MAX_EVENTS_BETWEEN + 1);
    let [.., before, last] = &found.events[..] else {
        panic!("{found:?}");
    };
    assert_eq!((before.sequence_number, last.sequence_number), (502, 502));
    assert_eq!(
        (&*before.event_type, &*last.event_type),
        ("Deposited", "FeeTaken")
    );
}

#[tokio::test]
async fn a_retry_over_the_release_gets_the_reply_of_the_first_attempt() {
    let journal = old_journal().await;
    let before = World::of::<old::Release>(Arc::clone(&journal)).await;
    let after = World::of::<new::Release>(journal).await;
    for (name, body) in [
        ("Open", r#"{"name":"ada"}"#),
        ("Pay", r#"{"amount":100,"fee":1}"#),
        ("PayWithNote", r#"{"amount":50,"fee":2}"#),
    ] {
        let mut replies = Vec::new();
        for world in [&before, &after] {
            let mut request = with_key(name, command(name, body));
            request.representation = true;
            let reply = accepted(world.ask("a", request).await);
            assert!(reply.replayed);
            let data = |event: &phalanx_actors::request::EventView| {
                let data = event.data.as_ref().map(|data| data.get().to_owned());
                (event.event_type.to_string(), event.sequence_number, data)
            };
            replies.push(reply.events.iter().map(data).collect::<Vec<_>>());
        }
        assert_eq!(replies[0], replies[1], "{name}");
        assert!(replies[0].iter().all(|(_, _, data)| data.is_some()));
    }
}

#[tokio::test]
async fn a_version_in_the_middle_enters_the_chain_there() {
    let journal = Arc::new(MemoryJournal::default());
    let tags = vec!["li".to_owned(), "ch".to_owned()];
    let name = "ada".to_owned();
    journal.commit(&[foreign("a", 2, 1, MiddleEvent::Opened { name, tags })]);
    journal.index_all();
    let world = World::of::<new::Release>(journal).await;
    assert_eq!(state(&world, "a", 1).await.country, "lich");
}

#[tokio::test]
async fn an_event_of_a_newer_build_stops_its_aggregate_and_says_why() {
    #[derive(Serialize)]
    enum Future {
        Opened { name: String },
    }
    let opened = || Future::Opened {
        name: "ada".to_owned(),
    };
    let journal = Arc::new(MemoryJournal::default());
    let other = new::Event::Welcomed {};
    journal.commit(&[
        foreign("version", 4, 1, opened()),
        foreign("zero", 0, 2, opened()),
        foreign("type", 1, 3, 7_u32),
        foreign("good", 1, 4, other),
    ]);
    journal.index_all();
    let world = World::of::<new::Release>(journal).await;
    for (id, words) in [
        (
            "version",
            "`Opened` is stored in version 4, and this build knows versions 1 to 3",
        ),
        ("zero", "`Opened` is stored in version 0"),
        (
            "type",
            "event type number 7, and this build knows the 7 types",
        ),
    ] {
        match world
            .ask(id, command("Pay", r#"{"amount":1,"fee":0}"#))
            .await
        {
            Answer::Failed(failure) => {
                assert_eq!(failure.kind, FailureKind::Quarantined);
                assert!(failure.detail.contains(words), "{failure}");
            }
            other => panic!("{other:?}"),
        }
    }
    accepted(
        world
            .ask("good", command("Pay", r#"{"amount":1,"fee":0}"#))
            .await,
    );
    assert_eq!(world.total("good").await, 1);
}

#[tokio::test]
async fn events_of_one_command_keep_their_own_versions() {
    let world = World::of::<new::Release>(Arc::default()).await;
    accepted(world.ask("a", command("Open", r#"{"name":"ada"}"#)).await);
    let log = world.journal.log();
    let view = RecordView::open(&log[0].bytes).unwrap();
    assert_eq!(view.event_schema_version, MIXED);
    let versions: Vec<u16> = view.events().map(|event| event.unwrap().version).collect();
    assert_eq!(versions, [3, 1]);
    world.lead(2).await;
    assert_eq!(state(&world, "a", 2).await.country, "CH");
    // Where all are of one version, no byte is spent.
    accepted(
        world
            .ask("b", command("PayWithNote", r#"{"amount":1,"fee":1}"#))
            .await,
    );
    let log = world.journal.log();
    let view = RecordView::open(&log[1].bytes).unwrap();
    assert_eq!(view.event_schema_version, 1);
}

#[test]
fn optional_fields_that_are_absent_are_not_shown() {
    let shown = |note: Option<&str>| -> Value {
        let note = note.map(str::to_owned);
        let event = new::Event::Deposited { amount: 1, note };
        let fields = phalanx_actors::variant::variant_fields(&event, "Deposited");
        serde_json::from_str(fields.unwrap().get()).unwrap()
    };
    assert_eq!(shown(None), json!({"amount": 1}));
    assert_eq!(
        shown(Some("a:null")),
        json!({"amount": 1, "note": "a:null"})
    );
}

#[derive(Debug)]
struct Fees;

impl Projection for Fees {
    const NAME: &'static str = "fees";
    const VERSION: u32 = 1;
    const DESCRIPTION: &'static str = "What was taken.";

    fn tables() -> Vec<Table> {
        vec![Table::new("fees", "id").text("id").text("seen")]
    }

    fn subscriptions() -> Subscriptions {
        let wanted = ["Deposited", "FeeTaken"];
        Subscriptions::default().on_only::<new::Release, 2>(wanted, |event, meta, rows| {
            let before = rows.get("fees", meta.aggregate_id)?;
            let before =
                before.map_or(Ok(String::new()), |row| row.text("seen").map(str::to_owned));
            let what = match event {
                new::Event::Deposited { amount, .. } => format!(" +{amount}"),
                new::Event::FeeTaken { fee } => format!(" -{fee}"),
                other => panic!("{other:?}"),
            };
            let seen = before? + &what;
            rows.put(
                "fees",
                Row::default()
                    .with("id", meta.aggregate_id)
                    .with("seen", seen),
            )
        })
    }
}

#[tokio::test]
async fn a_projection_sees_todays_events_and_those_of_one_split_together() {
    let definition = ProjectionDefinition::of::<Fees>().unwrap();
    let mut events = Vec::new();
    for record in old_journal().await.log() {
        definition.decode(0, &record, 1, &mut events);
    }
    let numbers: Vec<u64> = events.iter().map(|event| event.position.number).collect();
    assert_eq!(
        numbers,
        [3, 5],
        "one step for each stored event of which anything is left"
    );
    let mut workspace = Workspace::new(definition.tables.clone(), 10);
    let mut ran = workspace.run(&events, &|_| false);
    if let Run::Wants { rows, .. } = ran {
        workspace.insert(
            rows.into_iter()
                .map(|(table, key)| phalanx_actors::projection::Loaded {
                    table,
                    key,
                    values: None,
                }),
        );
        ran = workspace.run(&events, &|_| false);
    }
    assert!(matches!(ran, Run::Done), "{ran:?}");
    let change = workspace.changes().next().unwrap();
    let values = format!("{:?}", change.values.unwrap());
    assert!(values.contains("+100 -1 +50 -2"), "{values}");
    // What is too new is refused, which makes it a dead letter.
    events.clear();
    definition.decode(
        0,
        &foreign("a", 9, 6, new::Event::Welcomed {}),
        1,
        &mut events,
    );
    match workspace.run(&events, &|_| false) {
        Run::Refused { reason, .. } => {
            assert!(
                reason.contains("`Welcomed` is stored in version 9"),
                "{reason}"
            );
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn upcasters_that_fit_no_event_type_are_refused() {
    #[derive(Debug)]
    struct Misspelt;

    impl Aggregate for Misspelt {
        const TYPE: &'static str = "misspelt";
        const DESCRIPTION: &'static str = "Has a chain for nothing.";
        type State = Books;
        type Command = old::Command;
        type Event = old::Event;
        type Rejection = Never;

        fn decide(_: &Books, _: old::Command, _: &Context<'_>) -> Result<Vec<old::Event>, Never> {
            Ok(vec![])
        }

        fn evolve(_: &mut Books, _: &old::Event) {}

        fn upcasters() -> Upcasters<old::Event> {
            Upcasters::default().event("Greetet", first::<()>().now(|()| old::Event::Greeted {}))
        }
    }

    let refused = TypeRegistry::default().register::<Misspelt>().unwrap_err();
    assert!(
        matches!(refused, RegistrationError::Upcasters { .. }),
        "{refused}"
    );
    assert!(refused.to_string().contains("`Greetet`"), "{refused}");
    assert_eq!(schema_of::<new::Release>().version("Opened"), 3);
}
