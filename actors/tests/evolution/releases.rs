//! Books as the first release had them, as one in between stored them, and as they are.

use phalanx_actors::evolution::{Retired, Upcast, Upcasters, first};
use phalanx_actors::{Aggregate, Context};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub(crate) struct Books {
    pub(crate) name: String,
    pub(crate) country: String,
    pub(crate) total: i64,
    pub(crate) welcomed: bool,
}

#[derive(Debug, PartialEq, Serialize, JsonSchema, thiserror::Error)]
#[error("no")]
#[expect(dead_code, reason = "nothing is refused here")]
pub(crate) enum Never {
    Refused,
}

/// The first release.
pub(crate) mod old {
    use super::*;

    #[derive(Debug)]
    pub(crate) struct Release;

    #[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
    pub(crate) enum Event {
        Opened { name: String },
        Paid { amount: i64, fee: i64 },
        NoteAdded { text: String },
        Greeted {},
    }

    #[derive(Debug, Deserialize, JsonSchema)]
    pub(crate) enum Command {
        Open { name: String },
        Pay { amount: i64, fee: i64 },
        PayWithNote { amount: i64, fee: i64 },
    }

    impl Aggregate for Release {
        const TYPE: &'static str = "tally";
        const DESCRIPTION: &'static str = "Books, first release.";
        type State = Books;
        type Command = Command;
        type Event = Event;
        type Rejection = Never;

        fn decide(_: &Books, command: Command, _: &Context<'_>) -> Result<Vec<Event>, Never> {
            let text = "for the file".to_owned();
            Ok(match command {
                Command::Open { name } => vec![Event::Opened { name }, Event::Greeted {}],
                Command::Pay { amount, fee } => vec![Event::Paid { amount, fee }],
                Command::PayWithNote { amount, fee } => {
                    vec![Event::NoteAdded { text }, Event::Paid { amount, fee }]
                }
            })
        }

        fn evolve(state: &mut Books, event: &Event) {
            match event {
                Event::Opened { name } => name.clone_into(&mut state.name),
                Event::Paid { amount, fee } => state.total += amount - fee,
                Event::NoteAdded { .. } => {}
                Event::Greeted {} => state.welcomed = true,
            }
        }
    }
}

/// Between the two, `Opened` had tags.
#[derive(Serialize, Deserialize)]
pub(crate) enum MiddleEvent {
    Opened { name: String, tags: Vec<String> },
}

/// The present release.
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
        #[schemars(skip)]
        Greeted(Retired),
        Deposited {
            amount: i64,
            note: Option<String>,
        },
        FeeTaken {
            fee: i64,
        },
        Welcomed {},
    }

    #[derive(Debug, Deserialize, JsonSchema)]
    pub(crate) enum Command {
        Open { name: String },
        Pay { amount: i64, fee: i64 },
        PayWithNote { amount: i64, fee: i64 },
    }

    #[derive(Serialize, Deserialize)]
    struct OpenedV1 {
        name: String,
    }

    #[derive(Serialize, Deserialize)]
    struct OpenedV2 {
        name: String,
        tags: Vec<String>,
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

    #[derive(Serialize, Deserialize)]
    struct GreetedV1 {}

    impl Aggregate for Release {
        const TYPE: &'static str = "tally";
        const DESCRIPTION: &'static str = "Books, third release.";
        type State = Books;
        type Command = Command;
        type Event = Event;
        type Rejection = Never;

        fn decide(_: &Books, command: Command, _: &Context<'_>) -> Result<Vec<Event>, Never> {
            let country = "CH".to_owned();
            Ok(match command {
                Command::Open { name } => {
                    vec![Event::Opened { name, country }, Event::Welcomed {}]
                }
                Command::Pay { amount, fee } => {
                    let amount = amount - fee;
                    vec![Event::Deposited { amount, note: None }]
                }
                Command::PayWithNote { amount, fee } => {
                    vec![
                        Event::Deposited { amount, note: None },
                        Event::FeeTaken { fee },
                    ]
                }
            })
        }

        fn evolve(state: &mut Books, event: &Event) {
            match event {
                Event::Opened { name, country } => {
                    name.clone_into(&mut state.name);
                    country.clone_into(&mut state.country);
                }
                Event::Deposited { amount, .. } => state.total += amount,
                Event::FeeTaken { fee } => state.total -= fee,
                Event::Welcomed {} => state.welcomed = true,
                Event::Paid(never) | Event::NoteAdded(never) | Event::Greeted(never) => {
                    match *never {}
                }
            }
        }

        fn upcasters() -> Upcasters<Event> {
            Upcasters::default()
                .event(
                    "Opened",
                    first::<OpenedV1>()
                        .then(|old| OpenedV2 {
                            name: old.name,
                            tags: vec!["untagged".to_owned()],
                        })
                        .now(|old| Event::Opened {
                            name: old.name,
                            country: old.tags.concat(),
                        }),
                )
                .event(
                    "Paid",
                    first::<PaidV1>().now(|old| {
                        let PaidV1 { amount, fee } = old;
                        let deposited = Event::Deposited { amount, note: None };
                        Upcast::Parts(vec![deposited, Event::FeeTaken { fee }])
                    }),
                )
                .event(
                    "NoteAdded",
                    first::<NoteAddedV1>()
                        .now(|_| Upcast::<Event>::Dropped("notes were never shown to anybody")),
                )
                .event("Greeted", first::<GreetedV1>().now(|_| Event::Welcomed {}))
        }
    }
}
