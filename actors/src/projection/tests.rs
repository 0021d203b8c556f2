//! Definitions, DDL, and handlers over rows that are not all in memory.

use serde::{Deserialize, Serialize};

use super::*;
use crate::aggregate::{Aggregate, Context};
use crate::names::{ShardId, StreamName};
use crate::record::{Draft, Record, RecordHead};
use crate::types::TypeRegistry;

#[derive(Debug)]
struct Purse;

#[derive(Debug, Deserialize, schemars::JsonSchema)]
enum PurseCommand {
    Nothing {},
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, schemars::JsonSchema)]
enum PurseEvent {
    Opened { owner: String },
    Paid { cents: i64 },
    Burnt {},
}

#[derive(Debug, PartialEq, Serialize, schemars::JsonSchema, thiserror::Error)]
#[error("no")]
enum Never {
    Never,
}

impl Aggregate for Purse {
    const TYPE: &'static str = "purse";
    const DESCRIPTION: &'static str = "Money of somebody.";
    type State = ();
    type Command = PurseCommand;
    type Event = PurseEvent;
    type Rejection = Never;

    fn decide(_: &(), _: PurseCommand, _: &Context<'_>) -> Result<Vec<PurseEvent>, Never> {
        Err(Never::Never)
    }

    fn evolve(_state: &mut (), _: &PurseEvent) {}
}

/// What each owner has in all purses: two rows are read, the second one by what the first one says.
#[derive(Debug)]
struct Owners;

impl Projection for Owners {
    const NAME: &'static str = "owners";
    const VERSION: u32 = 1;
    const DESCRIPTION: &'static str = "What each owner has in all purses.";

    fn tables() -> Vec<Table> {
        vec![
            Table::new("owners", "owner")
                .text("owner")
                .integer("cents")
                .time("since")
                .nullable()
                .index(["cents", "owner"]),
            Table::new("purses", "id").text("id").text("owner"),
        ]
    }

    fn subscriptions() -> Subscriptions {
        Subscriptions::default().on::<Purse>(|event, meta, rows| match event {
            PurseEvent::Opened { owner } => rows.put(
                "purses",
                Row::default()
                    .with("id", meta.aggregate_id)
                    .with("owner", owner),
            ),
            PurseEvent::Paid { cents } => {
                let purse = rows.get("purses", meta.aggregate_id)?;
                let purse = purse.ok_or_else(|| HandlerError::refused("no such purse"))?;
                let owner = purse.text("owner")?;
                let row = rows.get("owners", owner)?.unwrap_or_else(|| {
                    Row::default()
                        .with("owner", owner)
                        .with("cents", 0)
                        .with("since", meta.time)
                });
                let sum = row.integer("cents")?.checked_add(*cents);
                let sum = sum.ok_or_else(|| HandlerError::refused("too much money"))?;
                rows.put("owners", row.with("cents", sum))
            }
            PurseEvent::Burnt {} => {
                rows.delete("purses", meta.aggregate_id)?;
                assert_ne!(meta.aggregate_id, "cursed", "boo");
                Ok(())
            }
        })
    }
}

fn definition() -> ProjectionDefinition {
    ProjectionDefinition::of::<Owners>().unwrap()
}

fn record(id: &str, sequence: u64, position: u64, events: &[PurseEvent]) -> Record {
    let stream = StreamName::new("purse", id).unwrap();
    let head = RecordHead {
        stream: stream.as_str(),
        first_sequence: sequence,
        event_count: u32::try_from(events.len()).unwrap(),
        time_us: 5_000_000,
        command: "Nothing",
        key: "k",
        fingerprint: [0; 16],
        flags: 0,
        traceparent: "",
    };
    Record::from_stored(Draft::new(&head, 1, events).unwrap().finish(position)).unwrap()
}

const SHARD: ShardId = 2;

fn decoded(records: &[Record]) -> Vec<DecodedEvent> {
    let mut out = Vec::new();
    for record in records {
        definition().decode(SHARD, record, 1, &mut out);
    }
    out
}

fn opened(owner: &str) -> PurseEvent {
    PurseEvent::Opened {
        owner: owner.to_owned(),
    }
}

fn paid(cents: i64) -> PurseEvent {
    PurseEvent::Paid { cents }
}

const fn none(_: &DecodedEvent) -> bool {
    false
}

/// Runs to the end, answering every want with "there is none".
fn finish(workspace: &mut Workspace, events: &[DecodedEvent]) -> Run {
    let mut from = 0;
    loop {
        match workspace.run(&events[from..], &none) {
            Run::Wants { at, rows } => {
                from += at;
                workspace.insert(rows.into_iter().map(|(table, key)| Loaded {
                    table,
                    key,
                    values: None,
                }));
            }
            Run::Refused { at, reason } => {
                return Run::Refused {
                    at: from + at,
                    reason,
                };
            }
            Run::Done => return Run::Done,
        }
    }
}

fn stored(workspace: &Workspace) -> Vec<(usize, Key, Option<Vec<Value>>)> {
    let change = |c: Change<'_>| (c.table, c.key.clone(), c.values.map(<[Value]>::to_vec));
    let mut changes: Vec<_> = workspace.changes().map(change).collect();
    changes.sort();
    changes
}

#[test]
fn a_run_asks_for_all_rows_of_a_batch_at_once_and_gives_the_sums() {
    let events = decoded(&[
        record("p-1", 1, 1, &[opened("ada")]),
        record("p-2", 1, 2, &[opened("bob"), paid(5)]),
        record("p-1", 2, 4, &[paid(1), paid(2)]),
    ]);
    let mut workspace = Workspace::new(Owners::tables(), 100);
    let Run::Wants { at, rows } = workspace.run(&events, &none) else {
        panic!("nothing is in memory yet");
    };
    // What comes behind is looked at as well: p-1 was opened in this very run, so it is known.
    assert_eq!((at, rows), (2, vec![(0, "ada".into()), (0, "bob".into())]));
    assert_eq!(finish(&mut workspace, &events[2..]), Run::Done);
    let since = Value::time(Timestamp::from_second(5).unwrap());
    let owner = |name: &str, cents: i64| {
        let values = vec![name.into(), cents.into(), since.clone()];
        (0, Value::from(name), Some(values))
    };
    let purse = |id: &str, name: &str| (1, Value::from(id), Some(vec![id.into(), name.into()]));
    let expected = [
        owner("ada", 3),
        owner("bob", 5),
        purse("p-1", "ada"),
        purse("p-2", "bob"),
    ];
    assert_eq!(stored(&workspace), expected);
    workspace.stored();
    assert_eq!(stored(&workspace), []);
}

#[test]
fn what_an_event_changed_before_it_failed_is_undone() {
    let mut workspace = Workspace::new(Owners::tables(), 100);
    let events = decoded(&[
        record("cursed", 1, 1, &[opened("ada"), PurseEvent::Burnt {}]),
        record("p-1", 1, 3, &[paid(1)]),
    ]);
    let Run::Refused { at, reason } = finish(&mut workspace, &events) else {
        panic!("the handler panics");
    };
    assert_eq!(at, 1);
    assert!(reason.contains("boo"), "{reason}");
    assert_eq!(stored(&workspace).len(), 1, "the purse is still there");
    let run = finish(&mut workspace, &events[2..]);
    assert!(matches!(run, Run::Refused { at: 0, .. }), "{run:?}");
}

#[test]
fn an_event_that_cannot_be_decoded_is_refused() {
    let mut broken = record("p-1", 1, 1, &[paid(1)]);
    broken.bytes = broken.bytes.slice(..20);
    let events = decoded(&[broken]);
    assert_eq!(events[0].event_type(), None);
    let mut workspace = Workspace::new(Owners::tables(), 100);
    assert!(matches!(
        workspace.run(&events, &none),
        Run::Refused { at: 0, .. }
    ));
}

#[test]
fn a_row_that_does_not_fit_is_refused() {
    let mut workspace = Workspace::new(Owners::tables(), 100);
    let mut rows = Rows::new(&mut workspace);
    let good = || Row::default().with("id", "p").with("owner", "ada");
    assert_eq!(rows.put("purses", good()), Ok(()));
    for (bad, what) in [
        (good().with("owner", 5_i64), "owner"),
        (good().with("owner", Value::Null), "owner"),
        (good().with("colour", "red"), "colour"),
        (Row::default().with("id", "p"), "owner"),
    ] {
        let error = rows.put("purses", bad).unwrap_err().to_string();
        assert!(error.contains(what), "{error}");
    }
    assert!(rows.put("elsewhere", good()).is_err());
    assert!(rows.get("elsewhere", "x").is_err());
    assert!(rows.get("purses", 5).is_err(), "not a key of this table");
}

#[test]
fn one_definition_gives_the_tables_of_both_stores() {
    let [owners, purses] = &definition().tables[..] else {
        panic!("two tables");
    };
    assert_eq!(
        create_table(owners, Dialect::Sqlite, "owners_1"),
        [
            "CREATE TABLE \"owners_1\" (\"owner\" TEXT NOT NULL, \"cents\" INTEGER NOT NULL, \
             \"since\" INTEGER, \"_sum\" INTEGER NOT NULL, PRIMARY KEY (\"owner\")) \
             STRICT, WITHOUT ROWID",
            "CREATE INDEX \"owners_1_by_1\" ON \"owners_1\" (\"cents\", \"owner\")",
        ]
    );
    assert_eq!(
        create_table(owners, Dialect::Postgres, "o")[0],
        "CREATE TABLE \"o\" (\"owner\" TEXT COLLATE \"C\" NOT NULL, \"cents\" BIGINT NOT NULL, \
         \"since\" TIMESTAMPTZ, PRIMARY KEY (\"owner\"))"
    );
    assert_eq!(create_table(purses, Dialect::Sqlite, "p").len(), 1);
}

#[test]
fn definitions_that_cannot_work_are_refused() {
    let table = || Table::new("t", "id").text("id").integer("n");
    let why = |table: Table| table.check("p").unwrap_err().to_string();
    assert!(table().check("p").is_ok());
    assert!(why(table().text("sort")).contains("sort"));
    assert!(why(table().text("n")).contains("twice"));
    assert!(why(table().text("N")).contains("`N`"));
    assert!(why(table().index(["nothing"])).contains("nothing"));
    assert!(why(Table::new("t", "key").text("id")).contains("key"));
    assert!(why(Table::new("t", "id").text("id").nullable()).contains("nullable"));
    assert!(why(Table::new("t", "id").text("id").hidden()).contains("key must not be hidden"));
    assert!(why(table().text("h").hidden().index(["n", "h"])).contains("`h`, which is hidden"));
    assert!(why(Table::new("T; DROP", "id").text("id")).contains("name"));

    let mut registry = ProjectionRegistry::default();
    registry.register::<Owners>().unwrap();
    let taken = registry.register::<Owners>().unwrap_err();
    assert_eq!(
        taken,
        ProjectionError::Taken {
            projection: "owners"
        }
    );
    let mut types = TypeRegistry::default();
    assert!(
        registry.check(&types).is_err(),
        "the type is not registered"
    );
    types.register::<Purse>().unwrap();
    registry.check(&types).unwrap();
}
