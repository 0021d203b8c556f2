//! Accounts with code that somebody broke.

use phalanx::domain::Account;
use phalanx::domain::account::{AccountCommand, AccountEvent, AccountRejection, AccountState};
use phalanx_actors::evolution::Upcasters;
use phalanx_actors::{Aggregate, Context};

/// An account whose premiums count twice: a fold that somebody broke.
#[derive(Debug)]
pub(crate) struct Generous;

impl Aggregate for Generous {
    const TYPE: &'static str = "account";
    const DESCRIPTION: &'static str = "Counts premiums twice.";
    type State = AccountState;
    type Command = AccountCommand;
    type Event = AccountEvent;
    type Rejection = AccountRejection;

    fn decide(
        state: &AccountState,
        command: AccountCommand,
        context: &Context<'_>,
    ) -> Result<Vec<AccountEvent>, AccountRejection> {
        Account::decide(state, command, context)
    }

    fn evolve(state: &mut AccountState, event: &AccountEvent) {
        Account::evolve(state, event);
        if let AccountEvent::PremiumReceived { amount_cents } = event {
            state.balance_cents += amount_cents;
        }
    }

    fn upcasters() -> Upcasters<AccountEvent> {
        Account::upcasters()
    }
}

/// An account that has forgotten how deposits were stored first.
#[derive(Debug)]
pub(crate) struct Forgetful;

impl Aggregate for Forgetful {
    const TYPE: &'static str = "account";
    const DESCRIPTION: &'static str = "Has no upcasters.";
    type State = AccountState;
    type Command = AccountCommand;
    type Event = AccountEvent;
    type Rejection = AccountRejection;

    fn decide(
        state: &AccountState,
        command: AccountCommand,
        context: &Context<'_>,
    ) -> Result<Vec<AccountEvent>, AccountRejection> {
        Account::decide(state, command, context)
    }

    fn evolve(state: &mut AccountState, event: &AccountEvent) {
        Account::evolve(state, event);
    }
}
