//! The workloads that need no description: what is sent to accounts and to orders.
//!
//! It owns bodies, amounts and shares. Accounts are what a newcomer looks at; their events hold a
//! number and take three bytes. Orders are for figures on events of a given length: a line's
//! product is as long as it takes. Invariant: every event of an order's measured part is stored in
//! exactly the bytes that were asked for, its metadata apart, and no order grows beyond one line.

use phalanx_actors::codec;

use super::plan::WeightedCommand;
use super::run::BenchError;
use super::template::{Shape, Template};
use crate::domain::order::OrderEvent;

/// The stored length of an order's events when nothing else is said.
pub(super) const EVENT_BYTES: usize = 100;
/// The longest event: far below what a node takes for one command.
const MAX_EVENT_BYTES: usize = 60_000;
/// Quantities take three digits in a request and the same number of bytes in every stored event.
const QUANTITIES: (u64, u64) = (200, 999);
/// The price of everything: one price makes one line, whatever is added to it.
const UNIT_PRICE_CENTS: i64 = 100;

/// A type whose commands are known here.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Builtin {
    /// Deposits and withdrawals.
    Account {
        /// The share of withdrawals.
        withdrawals: f64,
    },
    /// More of the same product.
    Order {
        /// The length of its name.
        product_bytes: usize,
    },
}

impl Builtin {
    /// The commands of the measured part.
    pub(super) fn commands(self, shape: Shape<'_>) -> Vec<WeightedCommand> {
        match self {
            Self::Account { withdrawals } => {
                let body = r#"{"amount_cents":{amount}}"#;
                // Deposits are larger than withdrawals, so that balances grow and a refusal is rare.
                vec![
                    WeightedCommand {
                        template: Template::command(shape, "Withdraw", body),
                        share: withdrawals,
                        amounts: (100, 199),
                    },
                    WeightedCommand {
                        template: Template::command(shape, "Deposit", body),
                        share: 1.0 - withdrawals,
                        amounts: (200, 999),
                    },
                ]
            }
            Self::Order { product_bytes } => vec![WeightedCommand {
                template: add_item(shape, product_bytes),
                share: 1.0,
                amounts: QUANTITIES,
            }],
        }
    }

    /// What each aggregate gets first.
    pub(super) fn setup(self, shape: Shape<'_>) -> Vec<Template> {
        match self {
            Self::Account { .. } => vec![
                Template::command(
                    shape,
                    "OpenAccount",
                    r#"{"owner":"{pad}","currency":"EUR"}"#,
                ),
                Template::command(shape, "Deposit", r#"{"amount_cents":1000}"#),
            ],
            Self::Order { product_bytes } => vec![
                Template::command(shape, "CreateOrder", r#"{"customer":"{pad}"}"#),
                add_item(shape, product_bytes),
            ],
        }
    }
}

fn add_item(shape: Shape<'_>, product_bytes: usize) -> Template {
    let shape = Shape {
        payload_bytes: product_bytes,
        ..shape
    };
    let body = format!(
        r#"{{"product":"{{pad}}","quantity":{{amount}},"unit_price_cents":{UNIT_PRICE_CENTS}}}"#
    );
    Template::command(shape, "AddItem", &body)
}

/// How long a product's name must be for an event that is stored in `event_bytes`.
///
/// Found by encoding such events with the node's own codec, so that it cannot drift from what the
/// node stores.
pub(super) fn product_bytes(event_bytes: usize) -> Result<usize, BenchError> {
    let refused = |why: String| Err(BenchError::Arguments(why));
    let shortest = stored_bytes(1)?;
    if !(shortest..=MAX_EVENT_BYTES).contains(&event_bytes) {
        return refused(format!(
            "--event-bytes must be from {shortest} to {MAX_EVENT_BYTES}"
        ));
    }
    // The length of the name takes one to three bytes itself.
    for around in event_bytes.saturating_sub(shortest + 8)..=event_bytes {
        if around > 0 && stored_bytes(around)? == event_bytes {
            return Ok(around);
        }
    }
    refused(format!(
        "no event is stored in exactly {event_bytes} bytes; take a few more or fewer"
    ))
}

/// The stored length of an event whose product's name has this length.
fn stored_bytes(product_bytes: usize) -> Result<usize, BenchError> {
    let event = OrderEvent::ItemAdded {
        product: "x".repeat(product_bytes),
        quantity: i64::try_from(QUANTITIES.0).unwrap_or(i64::MAX),
        unit_price_cents: UNIT_PRICE_CENTS,
    };
    let bytes = codec::to_bytes(&event);
    bytes
        .map(|bytes| bytes.len())
        .map_err(|error| BenchError::Arguments(error.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn encoded(product_bytes: usize, quantity: u64) -> usize {
        let event = OrderEvent::ItemAdded {
            product: "x".repeat(product_bytes),
            quantity: quantity.try_into().unwrap(),
            unit_price_cents: UNIT_PRICE_CENTS,
        };
        codec::to_bytes(&event).unwrap().len()
    }

    #[test]
    fn events_of_every_quantity_have_the_length_that_was_asked_for() {
        for wanted in [7, 50, 100, 256, 259, 1_000, 60_000] {
            let product_bytes = product_bytes(wanted).unwrap();
            for quantity in QUANTITIES.0..=QUANTITIES.1 {
                assert_eq!(encoded(product_bytes, quantity), wanted, "{quantity}");
            }
        }
    }

    #[test]
    fn lengths_that_no_event_has_are_refused() {
        for wanted in [0, 6, 257, 258, 60_001] {
            let refused = product_bytes(wanted);
            assert!(matches!(refused, Err(BenchError::Arguments(_))), "{wanted}");
        }
    }
}
