//! Two releases of one aggregate and of a projection over it: the first one, and today's, which splits,
//! drops and completes what the first one stored.
//!
//! Refuses to know how a node runs.

use std::marker::PhantomData;

use phalanx_actors::evolution::{Retired, Upcast, Upcasters, first};
use phalanx_actors::projection::{Projection, Row, Subscriptions, Table};
use phalanx_actors::{Aggregate, Context, Justification};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub(crate) struct Books {
    name: String,
    country: String,
    total: i64,
}

#[derive(Debug, PartialEq, Serialize, JsonSchema, thiserror::Error)]
#[error("no")]
#[expect(dead_code, reason = "nothing is refused here")]
pub(crate) enum Never {
    Refused,
}

#[derive(Debug, Deserialize, JsonSchema)]
pub(crate) enum Command {
    Open { name: String },
    Pay { amount: i64, fee: i64 },
    Note { text: String },
}

/// Anybody may look at any time.
pub(crate) fn always() -> Vec<Justification> {
    vec![Justification {
        name: "test",
        description: "A test looks.",
        rate_limit_per_second: 1000,
    }]
}

pub(crate) fn ledger(name: &'static str) -> Vec<Table> {
    vec![
        Table::new(name, "id")
            .text("id")
            .integer("total")
            .integer("fees"),
    ]
}

/// The first release: a payment with its fee is one event, and notes are kept.
pub(crate) mod old {
    use super::*;

    #[derive(Debug)]
    pub(crate) struct Release;

    #[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
    pub(crate) enum Event {
        Opened { name: String },
        Paid { amount: i64, fee: i64 },
        NoteAdded { text: String },
    }

    impl Aggregate for Release {
        const TYPE: &'static str = "books";
        const DESCRIPTION: &'static str = "Books, first release.";
        type State = Books;
        type Command = Command;
        type Event = Event;
        type Rejection = Never;

        fn decide(_: &Books, command: Command, _: &Context<'_>) -> Result<Vec<Event>, Never> {
            Ok(vec![match command {
                Command::Open { name } => Event::Opened { name },
                Command::Pay { amount, fee } => Event::Paid { amount, fee },
                Command::Note { text } => Event::NoteAdded { text },
            }])
        }

        fn evolve(state: &mut Books, event: &Event) {
            match event {
                Event::Opened { name } => name.clone_into(&mut state.name),
                Event::Paid { amount, fee } => state.total += amount - fee,
                Event::NoteAdded { .. } => {}
            }
        }

        fn justifications() -> Vec<Justification> {
            always()
        }
    }

    impl Booked for Release {
        const LEDGER: &'static str = "old_ledger";

        fn booked(event: &Event) -> (i64, i64) {
            match event {
                Event::Paid { amount, fee } => (amount - fee, *fee),
                Event::Opened { .. } | Event::NoteAdded { .. } => (0, 0),
            }
        }
    }
}

/// A release of which a ledger is kept.
pub(crate) trait Booked: Aggregate {
    /// The ledger's name.
    const LEDGER: &'static str;

    /// What an event adds to the total and to the fees.
    fn booked(event: &Self::Event) -> (i64, i64);
}

/// What is in the books.
#[derive(Debug)]
pub(crate) struct Ledger<R>(PhantomData<R>);

impl<R: Booked> Projection for Ledger<R> {
    const NAME: &'static str = R::LEDGER;
    const VERSION: u32 = 1;
    const DESCRIPTION: &'static str = "What is in the books.";

    fn tables() -> Vec<Table> {
        ledger(Self::NAME)
    }

    fn subscriptions() -> Subscriptions {
        Subscriptions::default().on::<R>(|event, meta, rows| {
            let (total, fees) = R::booked(event);
            book(R::LEDGER, meta.aggregate_id, total, fees, rows)
        })
    }
}

fn book(
    table: &'static str,
    id: &str,
    total: i64,
    fees: i64,
    rows: &mut phalanx_actors::projection::Rows<'_>,
) -> phalanx_actors::projection::Handled {
    let before = match rows.get(table, id)? {
        Some(row) => (row.integer("total")?, row.integer("fees")?),
        None => (0, 0),
    };
    let row = Row::default()
        .with("id", id)
        .with("total", before.0 + total)
        .with("fees", before.1 + fees);
    rows.put(table, row)
}

/// Today's: a payment and its fee are two events, books have a country, and notes are gone.
pub(crate) mod new {
    use super::*;

    #[derive(Debug)]
    pub(crate) struct Release;

    #[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
    pub(crate) enum Event {
        Opened {
            name: String,
            country: String,
        },
        #[schemars(skip)]
        Paid(Retired),
        #[schemars(skip)]
        NoteAdded(Retired),
        Deposited {
            amount: i64,
        },
        FeeTaken {
            fee: i64,
        },
    }

    #[derive(Serialize, Deserialize)]
    struct OpenedV1 {
        name: String,
    }

    #[derive(Serialize, Deserialize)]
    struct PaidV1 {
        amount: i64,
        fee: i64,
    }

    #[derive(Serialize, Deserialize)]
    struct NoteAddedV1 {
        text: String,
    }

    impl Aggregate for Release {
        const TYPE: &'static str = "books";
        const DESCRIPTION: &'static str = "Books, second release.";
        const STATE_SCHEMA_VERSION: u16 = 2;
        type State = Books;
        type Command = Command;
        type Event = Event;
        type Rejection = Never;

        fn decide(_: &Books, command: Command, _: &Context<'_>) -> Result<Vec<Event>, Never> {
            let country = "CH".to_owned();
            Ok(match command {
                Command::Open { name } => vec![Event::Opened { name, country }],
                Command::Pay { amount, fee } => {
                    vec![Event::Deposited { amount }, Event::FeeTaken { fee }]
                }
                Command::Note { .. } => vec![],
            })
        }

        fn evolve(state: &mut Books, event: &Event) {
            match event {
                Event::Opened { name, country } => {
                    name.clone_into(&mut state.name);
                    country.clone_into(&mut state.country);
                }
                Event::Deposited { amount } => state.total += amount,
                Event::FeeTaken { fee } => state.total -= fee,
                Event::Paid(never) | Event::NoteAdded(never) => match *never {},
            }
        }

        fn upcasters() -> Upcasters<Event> {
            Upcasters::default()
                .event(
                    "Opened",
                    first::<OpenedV1>().now(|old| Event::Opened {
                        name: old.name,
                        country: "unknown".to_owned(),
                    }),
                )
                .event(
                    "Paid",
                    first::<PaidV1>().now(|PaidV1 { amount, fee }| {
                        let deposited = Event::Deposited { amount };
                        Upcast::Parts(vec![deposited, Event::FeeTaken { fee }])
                    }),
                )
                .event(
                    "NoteAdded",
                    first::<NoteAddedV1>()
                        .now(|_| Upcast::<Event>::Dropped("notes were never shown to anybody")),
                )
        }

        fn justifications() -> Vec<Justification> {
            always()
        }
    }

    impl Booked for Release {
        const LEDGER: &'static str = "ledger";

        fn booked(event: &Event) -> (i64, i64) {
            match event {
                Event::Deposited { amount } => (*amount, 0),
                Event::FeeTaken { fee } => (-fee, *fee),
                Event::Opened { .. } => (0, 0),
                Event::Paid(never) | Event::NoteAdded(never) => match *never {},
            }
        }
    }
}
