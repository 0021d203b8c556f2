// A node with one aggregate type of its own, the guest list of an evening, and a view over it.

use std::process::ExitCode;

use phalanx::node::Node;
use phalanx_actors::projection::{Projection, Row, Subscriptions, Table};
use phalanx_actors::{Aggregate, Context, Justification};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The guest list of one evening.
#[derive(Debug)]
struct GuestList;

/// What the list remembers. `Default` is the state before the first event.
#[derive(Debug, Clone, Default, Serialize, Deserialize, JsonSchema)]
struct GuestListState {
    /// How many guests fit in.
    places: u32,
    /// Who is invited, in the order of the invitations.
    guests: Vec<String>,
}

/// What a client may ask for: imperative names, named fields.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
enum GuestListCommand {
    /// Opens the list for so many guests.
    OpenList { places: u32 },
    /// Puts a guest on the list; inviting a guest again changes nothing.
    InviteGuest { name: String },
}

/// What happened: past tense. These are stored for ever.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
enum GuestListEvent {
    /// The list was opened.
    ListOpened { places: u32 },
    /// A guest was invited.
    GuestInvited { name: String },
}

/// Why the list says no. The text becomes the problem's `detail`, the name its `rejection`.
#[derive(Debug, PartialEq, Serialize, JsonSchema, thiserror::Error)]
#[serde(rename_all = "kebab-case")]
enum GuestListRejection {
    /// There is no list yet.
    #[error("the list is not open yet")]
    ListNotOpen,
    /// There is one already.
    #[error("the list is open already")]
    ListAlreadyOpen,
    /// Nobody else fits in.
    #[error("all {places} places are taken")]
    HouseFull { places: u32 },
}

impl Aggregate for GuestList {
    const TYPE: &'static str = "guest_list";
    const DESCRIPTION: &'static str = "The guest list of one evening, never longer than the house.";

    type State = GuestListState;
    type Command = GuestListCommand;
    type Event = GuestListEvent;
    type Rejection = GuestListRejection;

    fn decide(
        state: &GuestListState,
        command: GuestListCommand,
        context: &Context<'_>,
    ) -> Result<Vec<GuestListEvent>, GuestListRejection> {
        let exists = context.sequence_number > 0;
        match command {
            GuestListCommand::OpenList { .. } if exists => Err(GuestListRejection::ListAlreadyOpen),
            GuestListCommand::OpenList { places } => {
                Ok(vec![GuestListEvent::ListOpened { places }])
            }
            GuestListCommand::InviteGuest { .. } if !exists => Err(GuestListRejection::ListNotOpen),
            GuestListCommand::InviteGuest { name } if state.guests.contains(&name) => Ok(vec![]),
            GuestListCommand::InviteGuest { .. } if state.guests.len() >= state.places as usize => {
                Err(GuestListRejection::HouseFull {
                    places: state.places,
                })
            }
            GuestListCommand::InviteGuest { name } => {
                Ok(vec![GuestListEvent::GuestInvited { name }])
            }
        }
    }

    fn evolve(state: &mut GuestListState, event: &GuestListEvent) {
        match event {
            GuestListEvent::ListOpened { places } => state.places = *places,
            GuestListEvent::GuestInvited { name } => state.guests.push(name.clone()),
        }
    }

    fn justifications() -> Vec<Justification> {
        vec![Justification {
            name: "door",
            description: "Somebody stands at the door and wants to come in.",
            rate_limit_per_second: 50,
        }]
    }

    fn views() -> Vec<&'static str> {
        vec!["guests"]
    }
}

/// Everybody who is invited to anything: a question across all lists.
#[derive(Debug)]
struct Guests;

impl Projection for Guests {
    const NAME: &'static str = "guests";
    const VERSION: u32 = 1;
    const DESCRIPTION: &'static str = "Every guest, with the number of lists that have them.";

    fn tables() -> Vec<Table> {
        vec![
            Table::new("guests", "name")
                .text("name")
                .integer("lists")
                .time("invited_last")
                .index(["lists"]),
        ]
    }

    fn subscriptions() -> Subscriptions {
        Subscriptions::default().on::<GuestList>(|event, meta, rows| {
            let GuestListEvent::GuestInvited { name } = event else {
                return Ok(());
            };
            let lists = match rows.get("guests", name)? {
                Some(row) => row.integer("lists")?,
                None => 0,
            };
            let row = Row::default()
                .with("name", name)
                .with("lists", lists + 1)
                .with("invited_last", meta.time);
            rows.put("guests", row)
        })
    }
}

fn main() -> ExitCode {
    phalanx::cli::run(std::env::args_os(), || {
        Node::builder()
            .aggregate::<GuestList>()
            .projection::<Guests>()
    })
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;
    use phalanx_actors::testkit::{given, projecting};

    use super::*;

    fn invited(name: &str) -> GuestListEvent {
        GuestListEvent::GuestInvited { name: name.into() }
    }

    fn invite(name: &str) -> GuestListCommand {
        GuestListCommand::InviteGuest { name: name.into() }
    }

    #[test]
    fn a_guest_is_invited_once() {
        given::<GuestList>([GuestListEvent::ListOpened { places: 2 }])
            .when(invite("ada"))
            .then([invited("ada")])
            .when(invite("ada"))
            .then([]);
    }

    #[test]
    fn a_full_house_takes_nobody_else() {
        given::<GuestList>([GuestListEvent::ListOpened { places: 1 }, invited("ada")])
            .when(invite("grace"))
            .then_rejected(GuestListRejection::HouseFull { places: 1 });
    }

    #[test]
    fn nobody_is_invited_to_a_list_that_is_not_open() {
        given::<GuestList>([])
            .when(invite("ada"))
            .then_rejected(GuestListRejection::ListNotOpen);
    }

    #[test]
    fn a_guest_of_two_lists_is_one_row() {
        projecting::<Guests>()
            .given::<GuestList>("friday", [invited("ada"), invited("grace")])
            .when::<GuestList>("saturday", invited("ada"))
            .then(
                "guests",
                [("ada", 2), ("grace", 1)].map(|(name, lists)| {
                    Row::default()
                        .with("name", name)
                        .with("lists", lists)
                        .with("invited_last", Timestamp::UNIX_EPOCH)
                }),
            );
    }
}
