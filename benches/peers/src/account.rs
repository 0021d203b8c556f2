//! The account: the rule that every peer checks, and the record that every peer stores.
//!
//! It refuses I/O. An amount that does not fit is refused like one that is not covered.

use serde::{Deserialize, Serialize};
use thiserror::Error;

/// A command as it comes in: the name from the URL, the fields from the body.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Command {
    /// Opens the account.
    Open(OpenAccount),
    /// Adds to the balance.
    Deposit(u64),
    /// Takes from the balance if it is covered.
    Withdraw(u64),
}

/// The fields of `OpenAccount`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct OpenAccount {
    pub(crate) owner: String,
    pub(crate) currency: String,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Amount {
    amount_cents: u64,
}

/// An account's state.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Account {
    pub(crate) owner: String,
    pub(crate) currency: String,
    pub(crate) balance_cents: i64,
    pub(crate) status: &'static str,
    #[serde(skip)]
    pub(crate) sequence_number: i64,
}

/// What a command did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Outcome {
    pub(crate) event_type: &'static str,
    pub(crate) sequence_number: i64,
    pub(crate) position: u64,
}

/// Why a command was refused.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub(crate) enum Refusal {
    /// The body or the command's name cannot be understood.
    #[error("malformed-body")]
    Malformed,
    /// The rule says no; the text is the contract's code.
    #[error("{0}")]
    Rejected(&'static str),
    /// The store failed.
    #[error("internal: {0}")]
    Store(String),
}

impl Command {
    /// Reads a command.
    pub(crate) fn parse(name: &str, body: &[u8]) -> Result<Self, Refusal> {
        let amount = || match serde_json::from_slice(body) {
            Ok(Amount { amount_cents: 0 }) => Err(Refusal::Rejected("amount-not-positive")),
            Ok(Amount { amount_cents }) => Ok(amount_cents),
            Err(_) => Err(Refusal::Malformed),
        };
        match name {
            "OpenAccount" => serde_json::from_slice(body)
                .map(Self::Open)
                .map_err(|_| Refusal::Malformed),
            "Deposit" => amount().map(Self::Deposit),
            "Withdraw" => amount().map(Self::Withdraw),
            _ => Err(Refusal::Malformed),
        }
    }

    /// The event that this command leads to.
    pub(crate) fn event_type(&self) -> &'static str {
        match self {
            Self::Open(_) => "AccountOpened",
            Self::Deposit(_) => "MoneyDeposited",
            Self::Withdraw(_) => "MoneyWithdrawn",
        }
    }

    /// By how much the balance changes; `None` when the amount is too large to count.
    pub(crate) fn delta_cents(&self) -> Option<i64> {
        match self {
            Self::Open(_) => Some(0),
            Self::Deposit(amount) => i64::try_from(*amount).ok(),
            Self::Withdraw(amount) => i64::try_from(*amount).ok().map(i64::wrapping_neg),
        }
    }
}

/// Checks the rule and changes the state: the part that is the same wherever state is in memory.
pub(crate) fn apply(slot: &mut Option<Account>, command: Command) -> Result<i64, Refusal> {
    let delta = command
        .delta_cents()
        .ok_or(Refusal::Rejected("insufficient-funds"))?;
    match (slot.as_mut(), command) {
        (Some(_), Command::Open(_)) => Err(Refusal::Rejected("account-already-open")),
        (None, Command::Open(OpenAccount { owner, currency })) => {
            *slot = Some(Account {
                owner,
                currency,
                balance_cents: 0,
                status: "open",
                sequence_number: 1,
            });
            Ok(1)
        }
        (Some(account), Command::Deposit(_) | Command::Withdraw(_)) => {
            let balance = account
                .balance_cents
                .checked_add(delta)
                .filter(|&balance| balance >= 0);
            account.balance_cents = balance.ok_or(Refusal::Rejected("insufficient-funds"))?;
            account.sequence_number += 1;
            Ok(account.sequence_number)
        }
        (None, _) => Err(Refusal::Rejected("account-not-open")),
    }
}

/// How long an event's record is, as in the figures this is compared with.
pub(crate) const EVENT_BYTES: usize = 100;

/// The stored form of an event, filled up with spaces to the common length.
pub(crate) fn record(
    id: &str,
    event_type: &str,
    sequence_number: i64,
    delta_cents: i64,
) -> Vec<u8> {
    let amount = delta_cents.unsigned_abs();
    let mut record = format!(
        r#"{{"type":"{event_type}","id":"{id}","sequence":{sequence_number},"amount":{amount}}}"#
    )
    .into_bytes();
    if record.len() < EVENT_BYTES {
        record.resize(EVENT_BYTES, b' ');
    }
    record
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rule_is_checked() {
        let mut slot = None;
        let open =
            || Command::parse("OpenAccount", br#"{"owner":"ada","currency":"EUR"}"#).unwrap();
        assert_eq!(
            apply(&mut slot, Command::Deposit(5)),
            Err(Refusal::Rejected("account-not-open"))
        );
        assert_eq!(apply(&mut slot, open()), Ok(1));
        assert_eq!(
            apply(&mut slot, open()),
            Err(Refusal::Rejected("account-already-open"))
        );
        assert_eq!(apply(&mut slot, Command::Deposit(5)), Ok(2));
        for too_much in [6, u64::MAX] {
            let refused = apply(&mut slot, Command::Withdraw(too_much));
            assert_eq!(refused, Err(Refusal::Rejected("insufficient-funds")));
        }
        assert_eq!(apply(&mut slot, Command::Withdraw(5)), Ok(3));
        assert_eq!(slot.unwrap().balance_cents, 0);
        assert!(Command::parse("Deposit", br#"{"amount_cents":-1}"#).is_err());
    }

    #[test]
    fn records_have_the_common_length() {
        assert_eq!(
            record("bench-00000001", "MoneyDeposited", 12, 345).len(),
            EVENT_BYTES
        );
    }
}
