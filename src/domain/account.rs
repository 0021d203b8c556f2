//! A savings account: money in, money out, interest, and a balance that never falls below zero.
//!
//! This file owns the rules of one account. It refuses to know other accounts, so a transfer is not
//! its business. Its invariant: the balance is the sum of the recorded amounts, at least 0, and
//! fits into 64 bits; an amount that would break this is a rejection.
//!
//! Decisions where the rules leave a choice:
//! - An id names one account for ever: an account that was closed is not opened again.
//! - Interest that rounds to 0 cents is still recorded. That the rate was credited is a fact, and a
//!   history with a late payment inserted before it derives another amount from the same rate.
//! - Owner and currency are taken as they are given.
//! - A correction names the recorded event that it puts right, and may add or take away. It is a fact
//!   of its own: the event that it refers to stays as it was recorded.
//! - Along a hypothetical history the balance may be below zero, which shows what would be owed, and
//!   interest on it is derived by the same formula.

use phalanx_actors::evolution::{Upcasters, first};
use phalanx_actors::{Aggregate, Context, Justification};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

#[cfg(test)]
mod properties;
mod rate;
#[cfg(test)]
mod tests;

pub use rate::{MAX_DIGITS, RateError, RatePercent};

/// A savings account.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Account;

/// What an account remembers.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct AccountState {
    /// Whose money it is.
    pub owner: String,
    /// The currency of all amounts, such as `EUR`.
    pub currency: String,
    /// The balance in cents, never negative.
    pub balance_cents: i64,
    /// Whether money may move.
    pub status: AccountStatus,
}

/// Whether money may move.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum AccountStatus {
    /// Money may move.
    Open,
    /// No money may move; also the state of an account that nobody has opened.
    #[default]
    Closed,
}

/// What a client may ask of an account.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub enum AccountCommand {
    /// Opens the account with a balance of 0.
    OpenAccount {
        /// Whose money it will be.
        owner: String,
        /// The currency of all amounts, such as `EUR`.
        currency: String,
    },
    /// Pays money in.
    Deposit {
        /// How much, in cents, above 0.
        amount_cents: i64,
        /// What it is for, in the words of whoever pays.
        #[serde(default)]
        reference: Option<String>,
    },
    /// Pays money out, at most the balance.
    Withdraw {
        /// How much, in cents, above 0.
        amount_cents: i64,
    },
    /// Receives a savings premium from a third party.
    ReceivePremium {
        /// How much, in cents, above 0.
        amount_cents: i64,
    },
    /// Credits interest on the present balance, rounded half-up to the cent.
    CreditInterest {
        /// The rate in percent of the balance, above 0.
        rate_percent: RatePercent,
    },
    /// Closes the account for ever; its balance must be 0.
    CloseAccount {},
    /// Puts an earlier mistake right; the balance stays at 0 or above.
    Correct {
        /// What to add to the balance, in cents; below 0 takes away, and 0 is refused.
        amount_cents: i64,
        /// Why.
        reason: String,
        /// Sequence number of the event that was wrong, or after which something was missing.
        refers_to: u64,
    },
}

/// What happened to an account.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum AccountEvent {
    /// The account was opened.
    AccountOpened {
        /// Whose money it is.
        owner: String,
        /// The currency of all amounts.
        currency: String,
    },
    /// Money was paid in.
    MoneyDeposited {
        /// How much, in cents.
        amount_cents: i64,
        /// What it is for.
        reference: Option<String>,
    },
    /// Money was paid out.
    MoneyWithdrawn {
        /// How much, in cents.
        amount_cents: i64,
    },
    /// A savings premium arrived.
    PremiumReceived {
        /// How much, in cents.
        amount_cents: i64,
    },
    /// Interest was credited on the balance of that moment.
    InterestCredited {
        /// The rate in percent.
        rate_percent: RatePercent,
        /// What the rate gave, in cents; 0 when it rounds to nothing.
        amount_cents: i64,
    },
    /// The account was closed.
    AccountClosed {},
    /// An earlier mistake was put right.
    BalanceCorrected {
        /// What was added to the balance, in cents; below 0 when it was taken away.
        amount_cents: i64,
        /// Why.
        reason: String,
        /// Sequence number of the event that this refers to.
        refers_to: u64,
    },
}

/// `MoneyDeposited` as it was first released.
#[derive(Serialize, Deserialize)]
struct MoneyDepositedV1 {
    amount_cents: i64,
}

/// Why an account refuses a command.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema, thiserror::Error)]
#[serde(rename_all = "kebab-case")]
pub enum AccountRejection {
    /// It was never opened, or it is closed.
    #[error("the account is not open")]
    AccountNotOpen,
    /// It was opened before; a closed account is not opened again.
    #[error("the account has been opened before")]
    AccountAlreadyOpen,
    /// An amount or a rate is zero or negative; of a correction, zero.
    #[error("an amount or a rate must be above zero, and a correction must not be zero")]
    AmountNotPositive,
    /// The balance would not fit into 64 bits.
    #[error("the amount is too large: the balance would exceed {} cents", i64::MAX)]
    AmountTooLarge,
    /// More was asked for than is there.
    #[error("the balance of {balance_cents} cents does not cover the amount")]
    InsufficientFunds {
        /// What is there, in cents.
        balance_cents: i64,
    },
    /// Money is left on the account.
    #[error("the balance must be zero before the account is closed")]
    BalanceNotZero,
    /// A correction refers to an event that there is not.
    #[error("there is no event {refers_to} of this account")]
    EventNotFound {
        /// The sequence number that was named.
        refers_to: u64,
    },
}

impl Aggregate for Account {
    const TYPE: &'static str = "account";
    const DESCRIPTION: &'static str =
        "A savings account: deposits, withdrawals, premiums and interest, never below zero.";

    type State = AccountState;
    type Command = AccountCommand;
    type Event = AccountEvent;
    type Rejection = AccountRejection;

    fn decide(
        state: &AccountState,
        command: AccountCommand,
        context: &Context<'_>,
    ) -> Result<Vec<AccountEvent>, AccountRejection> {
        if let AccountCommand::OpenAccount { owner, currency } = command {
            return if context.sequence_number == 0 {
                Ok(vec![AccountEvent::AccountOpened { owner, currency }])
            } else {
                Err(AccountRejection::AccountAlreadyOpen)
            };
        }
        if state.status != AccountStatus::Open {
            return Err(AccountRejection::AccountNotOpen);
        }
        if let AccountCommand::Correct { refers_to, .. } = command
            && !(1..=context.sequence_number).contains(&refers_to)
        {
            return Err(AccountRejection::EventNotFound { refers_to });
        }
        decide_open(state.balance_cents, command).map(|event| vec![event])
    }

    fn evolve(state: &mut AccountState, event: &AccountEvent) {
        match event {
            AccountEvent::AccountOpened { owner, currency } => {
                owner.clone_into(&mut state.owner);
                currency.clone_into(&mut state.currency);
                state.status = AccountStatus::Open;
            }
            // `decide` lets no amount through that saturates; a hypothetical history may.
            AccountEvent::MoneyDeposited { amount_cents, .. }
            | AccountEvent::PremiumReceived { amount_cents }
            | AccountEvent::InterestCredited { amount_cents, .. }
            | AccountEvent::BalanceCorrected { amount_cents, .. } => {
                state.balance_cents = state.balance_cents.saturating_add(*amount_cents);
            }
            AccountEvent::MoneyWithdrawn { amount_cents } => {
                state.balance_cents = state.balance_cents.saturating_sub(*amount_cents);
            }
            AccountEvent::AccountClosed {} => state.status = AccountStatus::Closed,
        }
    }

    fn upcasters() -> Upcasters<AccountEvent> {
        Upcasters::default().event(
            "MoneyDeposited",
            first::<MoneyDepositedV1>().now(|old| AccountEvent::MoneyDeposited {
                amount_cents: old.amount_cents,
                reference: None,
            }),
        )
    }

    fn reconsider(state: &AccountState, event: &AccountEvent) -> AccountEvent {
        match event {
            // The rate was agreed upon; what it gives follows from the balance. What would not fit
            // into 64 bits stays as it was recorded.
            AccountEvent::InterestCredited {
                rate_percent,
                amount_cents,
            } => AccountEvent::InterestCredited {
                rate_percent: *rate_percent,
                amount_cents: rate_percent
                    .interest_cents(state.balance_cents)
                    .unwrap_or(*amount_cents),
            },
            other => other.clone(),
        }
    }

    fn justifications() -> Vec<Justification> {
        vec![
            Justification {
                name: "fraud-check",
                description: "An automatic check that must see the balance before it lets a \
                              payment pass.",
                rate_limit_per_second: 1_000,
            },
            Justification {
                name: "teller-screen",
                description: "A teller looks at the account while the customer stands at the \
                              counter.",
                rate_limit_per_second: 100,
            },
            super::OPERATOR,
        ]
    }

    fn views() -> Vec<&'static str> {
        vec!["accounts", "account_totals"]
    }
}

/// Decides for an open account.
fn decide_open(
    balance_cents: i64,
    command: AccountCommand,
) -> Result<AccountEvent, AccountRejection> {
    match command {
        AccountCommand::OpenAccount { .. } => Err(AccountRejection::AccountAlreadyOpen),
        AccountCommand::Deposit {
            amount_cents,
            reference,
        } => {
            check_credit(balance_cents, amount_cents)?;
            Ok(AccountEvent::MoneyDeposited {
                amount_cents,
                reference,
            })
        }
        AccountCommand::ReceivePremium { amount_cents } => {
            check_credit(balance_cents, amount_cents)?;
            Ok(AccountEvent::PremiumReceived { amount_cents })
        }
        AccountCommand::Withdraw { amount_cents } => {
            if amount_cents <= 0 {
                return Err(AccountRejection::AmountNotPositive);
            }
            if amount_cents > balance_cents {
                return Err(AccountRejection::InsufficientFunds { balance_cents });
            }
            Ok(AccountEvent::MoneyWithdrawn { amount_cents })
        }
        AccountCommand::CreditInterest { rate_percent } => interest(balance_cents, rate_percent),
        AccountCommand::CloseAccount {} if balance_cents != 0 => {
            Err(AccountRejection::BalanceNotZero)
        }
        AccountCommand::CloseAccount {} => Ok(AccountEvent::AccountClosed {}),
        AccountCommand::Correct {
            amount_cents,
            reason,
            refers_to,
        } => {
            check_correction(balance_cents, amount_cents)?;
            Ok(AccountEvent::BalanceCorrected {
                amount_cents,
                reason,
                refers_to,
            })
        }
    }
}

/// A correction goes up or down, and leaves a balance from 0 to the largest that fits into 64 bits.
fn check_correction(balance_cents: i64, amount_cents: i64) -> Result<(), AccountRejection> {
    if amount_cents >= 0 {
        return check_credit(balance_cents, amount_cents);
    }
    match balance_cents.checked_add(amount_cents) {
        Some(0..) => Ok(()),
        Some(_) | None => Err(AccountRejection::InsufficientFunds { balance_cents }),
    }
}

/// An amount may be added when it is positive and the new balance fits into 64 bits.
fn check_credit(balance_cents: i64, amount_cents: i64) -> Result<(), AccountRejection> {
    if amount_cents <= 0 {
        return Err(AccountRejection::AmountNotPositive);
    }
    match balance_cents.checked_add(amount_cents) {
        Some(_) => Ok(()),
        None => Err(AccountRejection::AmountTooLarge),
    }
}

/// Derives the interest of a balance, 0 cents included.
fn interest(
    balance_cents: i64,
    rate_percent: RatePercent,
) -> Result<AccountEvent, AccountRejection> {
    if !rate_percent.is_positive() {
        return Err(AccountRejection::AmountNotPositive);
    }
    let amount_cents = rate_percent
        .interest_cents(balance_cents)
        .filter(|amount_cents| balance_cents.checked_add(*amount_cents).is_some())
        .ok_or(AccountRejection::AmountTooLarge)?;
    Ok(AccountEvent::InterestCredited {
        rate_percent,
        amount_cents,
    })
}
