//! `accounts`: every savings account as it is.

use phalanx_actors::projection::{EventMeta, Handled, Projection, Row, Rows, Subscriptions, Table};

use super::{own_row, sequence};
use crate::domain::{Account, AccountEvent};

/// Every savings account.
#[derive(Debug)]
pub struct Accounts;

const TABLE: &str = "accounts";

impl Projection for Accounts {
    const NAME: &'static str = "accounts";
    const VERSION: u32 = 1;
    const DESCRIPTION: &'static str = "Every savings account: its owner, its balance, its status.";

    fn tables() -> Vec<Table> {
        vec![
            Table::new(TABLE, "id")
                .text("id")
                .text("owner")
                .text("currency")
                .integer("balance_cents")
                .text("status")
                .integer("sequence_number")
                .index(["owner"])
                .index(["balance_cents"]),
        ]
    }

    fn subscriptions() -> Subscriptions {
        Subscriptions::default().on::<Account>(handle)
    }
}

fn handle(event: &AccountEvent, meta: &EventMeta<'_>, rows: &mut Rows<'_>) -> Handled {
    if let AccountEvent::AccountOpened { owner, currency } = event {
        let row = Row::default()
            .with("id", meta.aggregate_id)
            .with("owner", owner)
            .with("currency", currency)
            .with("balance_cents", 0_i64)
            .with("status", "open")
            .with("sequence_number", sequence(meta));
        return rows.put(TABLE, row);
    }
    let mut row = own_row(rows, TABLE, meta)?;
    if let AccountEvent::AccountClosed {} = event {
        row.set("status", "closed");
    }
    // An account's balance fits by the rules of the account.
    let balance = row.integer("balance_cents")?;
    row.set("balance_cents", balance.saturating_add(change_cents(event)));
    row.set("sequence_number", sequence(meta));
    rows.put(TABLE, row)
}

/// What an event adds to the balance.
pub(super) fn change_cents(event: &AccountEvent) -> i64 {
    match event {
        AccountEvent::MoneyDeposited { amount_cents, .. }
        | AccountEvent::PremiumReceived { amount_cents }
        | AccountEvent::InterestCredited { amount_cents, .. }
        | AccountEvent::BalanceCorrected { amount_cents, .. } => *amount_cents,
        AccountEvent::MoneyWithdrawn { amount_cents } => amount_cents.saturating_neg(),
        AccountEvent::AccountOpened { .. } | AccountEvent::AccountClosed {} => 0,
    }
}
