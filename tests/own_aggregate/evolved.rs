// The events of a guest list that has been in use for a while, and all that it ever stored.

use phalanx_actors::evolution::{Retired, Upcast, Upcasters, first};
use phalanx_actors::{Aggregate, Context};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

#[derive(Debug)]
struct GuestList;

/// The events of today. A variant that is no longer made keeps its place: places are stored.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
enum GuestListEvent {
    /// The list was opened. Nobody changed this one.
    ListOpened { places: u32 },
    /// A guest was invited: in its third version.
    GuestInvited {
        name: String,
        plus: u32,
        table: Option<u32>,
    },
    #[schemars(skip)]
    CoupleInvited(Retired),
    #[schemars(skip)]
    ListPrinted(Retired),
    #[schemars(skip)]
    GuestRemoved(Retired),
    /// A guest will not come.
    GuestDeclined { name: String },
}

/// `GuestInvited` as it was first released: the same fields in the same order.
#[derive(Serialize, Deserialize)]
struct GuestInvitedV1 {
    name: String,
}

/// The second version: guests bring others along.
#[derive(Serialize, Deserialize)]
struct GuestInvitedV2 {
    name: String,
    plus: u32,
}

#[derive(Serialize, Deserialize)]
struct CoupleInvitedV1 {
    first: String,
    second: String,
}

#[derive(Serialize, Deserialize)]
struct ListPrintedV1 {}

#[derive(Serialize, Deserialize)]
struct GuestRemovedV1 {
    name: String,
}

fn invited(name: String) -> GuestListEvent {
    GuestListEvent::GuestInvited {
        name,
        plus: 0,
        table: None,
    }
}

impl Aggregate for GuestList {
    const TYPE: &'static str = "guest_list";
    const DESCRIPTION: &'static str = "The guest list of one evening, some years later.";
    /// The guests have tables now: snapshots of the old shape are dropped, their lists replayed.
    const STATE_SCHEMA_VERSION: u16 = 2;

    type State = GuestListState;
    type Command = GuestListCommand;
    type Event = GuestListEvent;
    type Rejection = GuestListRejection;

    fn upcasters() -> Upcasters<GuestListEvent> {
        Upcasters::default()
            // New fields get a default, version by version.
            .event(
                "GuestInvited",
                first::<GuestInvitedV1>()
                    .then(|old| GuestInvitedV2 {
                        name: old.name,
                        plus: 0,
                    })
                    .now(|old| GuestListEvent::GuestInvited {
                        name: old.name,
                        plus: old.plus,
                        table: None,
                    }),
            )
            // One event becomes two ...
            .event(
                "CoupleInvited",
                first::<CoupleInvitedV1>()
                    .now(|old| Upcast::Parts(vec![invited(old.first), invited(old.second)])),
            )
            // ... or none, and says why ...
            .event(
                "ListPrinted",
                first::<ListPrintedV1>()
                    .now(|_| Upcast::<GuestListEvent>::Dropped("nobody decides by it any more")),
            )
            // ... or has another name.
            .event(
                "GuestRemoved",
                first::<GuestRemovedV1>()
                    .now(|old| GuestListEvent::GuestDeclined { name: old.name }),
            )
    }

    fn evolve(state: &mut GuestListState, event: &GuestListEvent) {
        match event {
            GuestListEvent::ListOpened { places } => state.places = *places,
            GuestListEvent::GuestInvited { name, plus, table } => {
                state.guests.push((name.clone(), *plus, *table));
            }
            GuestListEvent::GuestDeclined { name } => state.guests.retain(|guest| guest.0 != *name),
            // Nothing can be made of these; the compiler knows it.
            GuestListEvent::CoupleInvited(never)
            | GuestListEvent::ListPrinted(never)
            | GuestListEvent::GuestRemoved(never) => match *never {},
        }
    }

    fn decide(
        _: &GuestListState,
        command: GuestListCommand,
        _: &Context<'_>,
    ) -> Result<Vec<GuestListEvent>, GuestListRejection> {
        let GuestListCommand::InviteGuest { name } = command;
        if name.is_empty() {
            return Err(GuestListRejection::NoName);
        }
        Ok(vec![invited(name)])
    }
}

#[derive(Debug, Clone, Default, Serialize, Deserialize, JsonSchema)]
struct GuestListState {
    places: u32,
    guests: Vec<(String, u32, Option<u32>)>,
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
enum GuestListCommand {
    InviteGuest { name: String },
}

#[derive(Debug, PartialEq, Serialize, JsonSchema, thiserror::Error)]
#[serde(rename_all = "kebab-case")]
enum GuestListRejection {
    #[error("a guest has a name")]
    NoName,
}

#[cfg(test)]
mod tests {
    use phalanx_actors::evolution::schema_of;
    use phalanx_actors::record::StoredEvent;

    use super::*;

    /// What stored bytes are today: the variant's place, then its fields.
    fn today(version: u16, place: u8, names: &[&str]) -> Upcast<GuestListEvent> {
        let mut bytes = vec![place];
        for name in names {
            bytes.push(u8::try_from(name.len()).unwrap());
            bytes.extend_from_slice(name.as_bytes());
        }
        let stored = StoredEvent {
            version,
            bytes: &bytes,
        };
        schema_of::<GuestList>().decode(&stored).unwrap()
    }

    #[test]
    fn everything_that_was_ever_stored_is_understood() {
        let ada = || invited("ada".to_owned());
        let bob = || invited("bob".to_owned());
        assert_eq!(today(1, 1, &["ada"]), Upcast::One(ada()));
        assert_eq!(
            today(1, 2, &["ada", "bob"]),
            Upcast::Parts(vec![ada(), bob()])
        );
        assert_eq!(
            today(1, 3, &[]),
            Upcast::Dropped("nobody decides by it any more")
        );
        let declined = GuestListEvent::GuestDeclined {
            name: "ada".to_owned(),
        };
        assert_eq!(today(1, 4, &["ada"]), Upcast::One(declined));
    }

    #[test]
    fn a_list_goes_on_where_it_was() {
        phalanx_actors::testkit::given::<GuestList>([invited("ada".to_owned())])
            .when(GuestListCommand::InviteGuest {
                name: String::new(),
            })
            .then_rejected(GuestListRejection::NoName)
            .when(GuestListCommand::InviteGuest {
                name: "bob".to_owned(),
            })
            .then([invited("bob".to_owned())]);
    }
}
