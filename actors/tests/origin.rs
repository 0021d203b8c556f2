//! Who sent a command and when it happened: what decisions, records, histories and projections see.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use std::sync::Arc;

use jiff::Timestamp;
use phalanx_actors::projection::{Projection, Row, Subscriptions, Table};
use phalanx_actors::record::{Circumstances, FLAG_CIRCUMSTANCES, RecordView};
use phalanx_actors::request::{Answer, CommandRequest, Origin};
use phalanx_actors::testkit::{given, projecting};
use phalanx_actors::{Aggregate, Context};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use support::*;

/// Takes notes, of named people and of what is not over yet at the time only.
#[derive(Debug)]
struct Notes;

#[derive(Debug, Deserialize, JsonSchema)]
enum NotesCommand {
    Note { text: String },
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
enum NotesEvent {
    Noted { text: String, late: bool },
}

#[derive(Debug, PartialEq, Serialize, JsonSchema, thiserror::Error)]
#[serde(rename_all = "kebab-case")]
enum NotesRejection {
    #[error("notes need somebody who takes them")]
    Nobody,
    #[error("it has not happened yet")]
    NotYet,
}

impl Aggregate for Notes {
    const TYPE: &'static str = "tally";
    const DESCRIPTION: &'static str = "Notes for a test.";
    type State = u32;
    type Command = NotesCommand;
    type Event = NotesEvent;
    type Rejection = NotesRejection;

    fn decide(
        _: &u32,
        command: NotesCommand,
        context: &Context<'_>,
    ) -> Result<Vec<NotesEvent>, NotesRejection> {
        let NotesCommand::Note { text } = command;
        if context.principal.is_none() {
            return Err(NotesRejection::Nobody);
        }
        if context.occurred_at.is_some_and(|time| time > context.now) {
            return Err(NotesRejection::NotYet);
        }
        let late = context.occurred_at.is_some();
        Ok(vec![NotesEvent::Noted { text, late }])
    }

    fn evolve(state: &mut u32, _: &NotesEvent) {
        *state += 1;
    }
}

/// Who took the last note, and when it happened.
#[derive(Debug)]
struct Takers;

impl Projection for Takers {
    const NAME: &'static str = "takers";
    const VERSION: u32 = 1;
    const DESCRIPTION: &'static str = "Who took notes.";

    fn tables() -> Vec<Table> {
        vec![Table::new("takers", "id").text("id").text("by").text("at")]
    }

    fn subscriptions() -> Subscriptions {
        Subscriptions::default().on::<Notes>(|_, meta, rows| {
            let at = meta.occurred_at.map_or_else(String::new, |t| t.to_string());
            rows.put(
                "takers",
                Row::default()
                    .with("id", meta.aggregate_id)
                    .with("by", meta.principal.unwrap_or("nobody"))
                    .with("at", at),
            )
        })
    }
}

fn long_ago() -> Timestamp {
    "1955-06-07T08:09:10.25Z".parse().unwrap()
}

fn noted(late: bool) -> NotesEvent {
    let text = "tea".to_owned();
    NotesEvent::Noted { text, late }
}

fn note(key: &str, origin: Option<Box<Origin>>) -> CommandRequest {
    CommandRequest {
        origin,
        ..with_key(key, command("Note", r#"{"text":"tea"}"#))
    }
}

fn ada(occurred_at: Option<Timestamp>) -> Option<Box<Origin>> {
    Origin::said(Some("ada".to_owned()), occurred_at)
}

#[test]
fn decisions_see_who_and_when() {
    let text = || NotesCommand::Note {
        text: "tea".to_owned(),
    };
    given::<Notes>([])
        .when(text())
        .then_rejected(NotesRejection::Nobody)
        .by("ada")
        .when(text())
        .then([noted(false)])
        .occurred_at("2026-11-21T08:30:00Z".parse().unwrap())
        .when(text())
        .then_rejected(NotesRejection::NotYet)
        .at("2026-11-21T08:30:00Z".parse().unwrap())
        .when(text())
        .then([noted(true)]);
}

#[test]
fn projections_see_who_and_when() {
    let row = |by: &str, at: &str| {
        let row = Row::default().with("id", "a").with("by", by);
        [row.with("at", at)]
    };
    projecting::<Takers>()
        .when::<Notes>("a", noted(false))
        .then("takers", row("nobody", ""))
        .by("ada")
        .when::<Notes>("a", noted(false))
        .then("takers", row("ada", ""))
        .occurred_at(long_ago())
        .when::<Notes>("a", noted(true))
        .then("takers", row("ada", "1955-06-07T08:09:10.25Z"));
}

#[tokio::test]
async fn both_are_stored_with_the_events_and_no_part_of_what_makes_a_command_the_same() {
    let world = World::of::<Notes>(Arc::default()).await;
    let first = accepted(world.ask("a", note("k-1", ada(Some(long_ago())))).await);
    // Another caller and no time: the same command all the same.
    let again = note("k-1", Origin::said(Some("bob".to_owned()), None));
    assert!(accepted(world.ask("a", again.clone()).await).replayed);
    accepted(world.ask("a", note("k-2", ada(None))).await);
    match world.ask("a", note("k-3", None)).await {
        Answer::Rejected { code, .. } => assert_eq!(code, "nobody"),
        other => panic!("{other:?}"),
    }
    let dry = dry_run(note("k-4", ada(None)));
    assert!(matches!(world.ask("a", dry).await, Answer::Accepted(_)));

    let log = world.journal.log();
    let said: Vec<Circumstances<'_>> = log
        .iter()
        .map(|record| {
            let view = RecordView::open(&record.bytes).unwrap();
            assert!(view.state_hash().is_some());
            assert_eq!(view.head.flags & FLAG_CIRCUMSTANCES, FLAG_CIRCUMSTANCES);
            view.circumstances().unwrap()
        })
        .collect();
    let ada = |occurred_at_us| Circumstances {
        principal: "ada",
        occurred_at_us,
    };
    assert_eq!(said, [ada(Some(-459_791_449_750_000)), ada(None)]);

    // Somebody else leads, and folds what is stored.
    world.lead(2).await;
    let replayed = accepted(world.ask("a", again).await);
    assert!(replayed.replayed);
    assert_eq!(replayed.position, first.position);
    let page = world.model.history(&stream("a"), 1, 9, usize::MAX).await;
    let shown: Vec<(String, Option<Timestamp>)> = page
        .unwrap()
        .events
        .into_iter()
        .map(|event| (event.principal, event.occurred_at))
        .collect();
    let name = "ada".to_owned();
    assert_eq!(shown, [(name.clone(), Some(long_ago())), (name, None)]);
}

#[tokio::test]
async fn a_record_without_either_is_stored_as_ever() {
    let world = World::new(Options::default()).await;
    accepted(world.ask("a", add(1)).await);
    let log = world.journal.log();
    let view = RecordView::open(&log[0].bytes).unwrap();
    assert_eq!(view.head.flags & FLAG_CIRCUMSTANCES, 0);
    assert!(view.circumstances().unwrap().is_empty());
}
