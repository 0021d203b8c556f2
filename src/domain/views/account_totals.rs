//! `account_totals`: how many accounts there are in each currency, closed ones included, and what
//! they hold together.
//!
//! Accounts of one currency lie in all shards, so this row is written on behalf of all of them.

use phalanx_actors::projection::{
    EventMeta, Handled, HandlerError, Projection, Row, Rows, Subscriptions, Table,
};

use super::accounts::change_cents;
use super::own_row;
use crate::domain::{Account, AccountEvent};

/// The accounts of each currency together.
#[derive(Debug)]
pub struct AccountTotals;

const TABLE: &str = "account_totals";
/// Which currency an account has: its later events do not say it.
const CURRENCIES: &str = "account_currencies";

impl Projection for AccountTotals {
    const NAME: &'static str = "account_totals";
    const VERSION: u32 = 1;
    const DESCRIPTION: &'static str =
        "For each currency, the number of accounts, closed ones included, and their balance.";

    fn tables() -> Vec<Table> {
        vec![
            Table::new(TABLE, "currency")
                .text("currency")
                .integer("accounts")
                .integer("balance_cents"),
            Table::new(CURRENCIES, "id").text("id").text("currency"),
        ]
    }

    fn subscriptions() -> Subscriptions {
        Subscriptions::default().on::<Account>(handle)
    }
}

fn handle(event: &AccountEvent, meta: &EventMeta<'_>, rows: &mut Rows<'_>) -> Handled {
    match event {
        AccountEvent::AccountOpened { currency, .. } => {
            let of_account = Row::default()
                .with("id", meta.aggregate_id)
                .with("currency", currency);
            rows.put(CURRENCIES, of_account)?;
            add(rows, currency, 1, 0)
        }
        AccountEvent::AccountClosed {} => Ok(()),
        event => {
            let of_account = own_row(rows, CURRENCIES, meta)?;
            add(rows, of_account.text("currency")?, 0, change_cents(event))
        }
    }
}

/// Adds to a currency's row.
fn add(rows: &mut Rows<'_>, currency: &str, accounts: i64, cents: i64) -> Handled {
    let row = rows.get(TABLE, currency)?.unwrap_or_else(|| {
        Row::default()
            .with("currency", currency)
            .with("accounts", 0_i64)
            .with("balance_cents", 0_i64)
    });
    let count = row.integer("accounts")?.saturating_add(accounts);
    let balance = row.integer("balance_cents")?.checked_add(cents);
    let balance = balance.ok_or_else(|| {
        HandlerError::refused(format!("the total of {currency} does not fit into 64 bits"))
    })?;
    rows.put(
        TABLE,
        row.with("accounts", count).with("balance_cents", balance),
    )
}
