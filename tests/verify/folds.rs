//! Accounts with code that somebody broke.

use std::fmt::Debug;
use std::marker::PhantomData;

use phalanx::domain::Account;
use phalanx::domain::account::{AccountCommand, AccountEvent, AccountRejection, AccountState};
use phalanx_actors::evolution::Upcasters;
use phalanx_actors::{Aggregate, Context};

/// What somebody broke; the rest is as it was.
pub(crate) trait Mistake: Debug + Send + Sync + 'static {
    const DESCRIPTION: &'static str;

    fn evolve(state: &mut AccountState, event: &AccountEvent) {
        Account::evolve(state, event);
    }

    fn upcasters() -> Upcasters<AccountEvent> {
        Account::upcasters()
    }
}

/// An account with a mistake.
#[derive(Debug)]
pub(crate) struct Broken<M>(PhantomData<M>);

impl<M: Mistake> Aggregate for Broken<M> {
    const TYPE: &'static str = "account";
    const DESCRIPTION: &'static str = M::DESCRIPTION;
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
        M::evolve(state, event);
    }

    fn upcasters() -> Upcasters<AccountEvent> {
        M::upcasters()
    }
}

/// Premiums count twice: a fold that somebody broke.
#[derive(Debug)]
pub(crate) struct Generous;

impl Mistake for Generous {
    const DESCRIPTION: &'static str = "Counts premiums twice.";

    fn evolve(state: &mut AccountState, event: &AccountEvent) {
        Account::evolve(state, event);
        if let AccountEvent::PremiumReceived { amount_cents } = event {
            state.balance_cents += amount_cents;
        }
    }
}

/// It has forgotten how deposits were stored first.
#[derive(Debug)]
pub(crate) struct Forgetful;

impl Mistake for Forgetful {
    const DESCRIPTION: &'static str = "Has no upcasters.";

    fn upcasters() -> Upcasters<AccountEvent> {
        Upcasters::default()
    }
}
