//! A counter that can also be asked to misbehave in every place where domain code runs.

use std::fmt;

use phalanx_actors::{Aggregate, Context};
use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

#[derive(Debug)]
pub struct Tally;

#[derive(Debug, Clone, Default, Serialize, Deserialize, JsonSchema)]
pub struct State {
    #[serde(deserialize_with = "read_unless_unreadable")]
    pub total: i64,
    #[serde(serialize_with = "write_unless_set")]
    pub explosive: bool,
    pub last_count: i64,
}

/// A total that the state does not want to be read with.
pub const UNREADABLE: i64 = 666_013;

fn read_unless_unreadable<'de, D: Deserializer<'de>>(deserializer: D) -> Result<i64, D::Error> {
    let total = i64::deserialize(deserializer)?;
    assert!(total != UNREADABLE, "state does not want to be read");
    Ok(total)
}

fn write_unless_set<S: Serializer>(value: &bool, serializer: S) -> Result<S::Ok, S::Error> {
    assert!(!*value, "state does not want to be written");
    serializer.serialize_bool(*value)
}

#[derive(Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub enum Command {
    Add {
        amount: i64,
    },
    /// As many events as `times`.
    AddMany {
        amount: i64,
        times: u32,
    },
    Take {
        amount: i64,
    },
    Nothing {},
    PanicInDecide {},
    PanicInEvolve {},
    PanicInEvent {},
    PanicInRejection {},
    MakeStateExplosive {},
    Count {},
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub enum Event {
    Added {
        amount: i64,
    },
    Taken {
        amount: i64,
    },
    Poison {},
    Unwritable {
        #[serde(serialize_with = "write_unless_set")]
        explosive: bool,
    },
    Explosive {},
    /// A copy of the total, as it was when it was taken.
    Counted {
        total: i64,
    },
}

#[derive(Debug, PartialEq, Serialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Rejection {
    NotEnough { total: i64 },
    Unspeakable,
}

impl fmt::Display for Rejection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotEnough { total } => write!(f, "there are only {total}"),
            Self::Unspeakable => panic!("rejection does not want to be said"),
        }
    }
}

impl std::error::Error for Rejection {}

impl Aggregate for Tally {
    const TYPE: &'static str = "tally";
    const DESCRIPTION: &'static str = "A counter for tests.";
    type State = State;
    type Command = Command;
    type Event = Event;
    type Rejection = Rejection;

    fn decide(
        state: &State,
        command: Command,
        _context: &Context<'_>,
    ) -> Result<Vec<Event>, Rejection> {
        Ok(match command {
            Command::Add { amount } => vec![Event::Added { amount }],
            Command::AddMany { amount, times } => {
                (0..times).map(|_| Event::Added { amount }).collect()
            }
            Command::Take { amount } if amount > state.total => {
                return Err(Rejection::NotEnough { total: state.total });
            }
            Command::Take { amount } => vec![Event::Taken { amount }],
            Command::Nothing {} => vec![],
            Command::PanicInDecide {} => panic!("decide does not want to"),
            Command::PanicInEvolve {} => vec![Event::Poison {}],
            Command::PanicInEvent {} => vec![Event::Unwritable { explosive: true }],
            Command::PanicInRejection {} => return Err(Rejection::Unspeakable),
            Command::MakeStateExplosive {} => vec![Event::Explosive {}],
            Command::Count {} => vec![Event::Counted { total: state.total }],
        })
    }

    fn evolve(state: &mut State, event: &Event) {
        match event {
            Event::Added { amount } => state.total += amount,
            Event::Taken { amount } => state.total -= amount,
            Event::Poison {} => panic!("evolve does not want to"),
            Event::Unwritable { .. } => {}
            Event::Explosive {} => state.explosive = true,
            Event::Counted { total } => state.last_count = *total,
        }
    }

    fn reconsider(state: &State, event: &Event) -> Event {
        match event {
            Event::Counted { .. } if state.total == 666 => panic!("it does not want to count"),
            Event::Counted { .. } => Event::Counted { total: state.total },
            event => event.clone(),
        }
    }
}
