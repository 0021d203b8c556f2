//! What holds for an account after any commands in any order, checked against a second, independent
//! bookkeeping in 128 bits.

use phalanx_actors::Aggregate;
use proptest::prelude::*;

use super::{Account, AccountCommand, AccountEvent, AccountRejection, AccountStatus};
use crate::domain::random_commands;

/// Small amounts that meet often, and the ends of the range.
fn amount_cents() -> impl Strategy<Value = i64> {
    prop_oneof![
        4 => 1..2_000_i64,
        1 => -2..=0_i64,
        1 => Just(i64::MAX),
        1 => Just(i64::MIN),
        1 => any::<i64>(),
    ]
}

/// A rate with no digit after the point or two.
fn rate_percent() -> impl Strategy<Value = String> {
    (-1..300_i64, 0..100_i64).prop_map(|(whole, hundredths)| match hundredths {
        0 => whole.to_string(),
        _ => format!("{whole}.{hundredths:02}"),
    })
}

fn command() -> impl Strategy<Value = AccountCommand> {
    let text = || "[a-zA-Z]{0,4}";
    prop_oneof![
        2 => (text(), text())
            .prop_map(|(owner, currency)| AccountCommand::OpenAccount { owner, currency }),
        6 => (amount_cents(), proptest::option::of("[a-z]{1,3}")).prop_map(
            |(amount_cents, reference)| AccountCommand::Deposit { amount_cents, reference }
        ),
        6 => amount_cents().prop_map(|amount_cents| AccountCommand::Withdraw { amount_cents }),
        2 => amount_cents()
            .prop_map(|amount_cents| AccountCommand::ReceivePremium { amount_cents }),
        3 => rate_percent().prop_map(|text| AccountCommand::CreditInterest {
            rate_percent: text.parse().unwrap(),
        }),
        1 => Just(AccountCommand::CloseAccount {}),
        4 => (amount_cents(), 0..4_u64).prop_map(|(amount_cents, refers_to)| {
            AccountCommand::Correct { amount_cents, reason: "late".to_owned(), refers_to }
        }),
    ]
}

/// The bookkeeping to compare with: what `command` should add to the balance, or why it should not.
fn expected(balance: i128, command: &AccountCommand) -> Result<i128, AccountRejection> {
    let limited = |amount: i128| match amount {
        _ if balance + amount > i128::from(i64::MAX) => Err(AccountRejection::AmountTooLarge),
        _ => Ok(amount),
    };
    match command {
        AccountCommand::Deposit { amount_cents, .. }
        | AccountCommand::Withdraw { amount_cents }
        | AccountCommand::ReceivePremium { amount_cents }
            if *amount_cents <= 0 =>
        {
            Err(AccountRejection::AmountNotPositive)
        }
        AccountCommand::Deposit { amount_cents, .. }
        | AccountCommand::ReceivePremium { amount_cents } => limited((*amount_cents).into()),
        AccountCommand::Withdraw { amount_cents } if i128::from(*amount_cents) > balance => {
            Err(AccountRejection::InsufficientFunds {
                balance_cents: balance.try_into().unwrap(),
            })
        }
        AccountCommand::Withdraw { amount_cents } => Ok(-i128::from(*amount_cents)),
        AccountCommand::CreditInterest { rate_percent } => {
            let text = rate_percent.to_string();
            let (whole, fraction) = text.split_once('.').unwrap_or((&text, "00"));
            let rate: i128 = format!("{whole}{fraction}").parse().unwrap();
            if rate <= 0 {
                return Err(AccountRejection::AmountNotPositive);
            }
            let (cents, rest) = (balance * rate / 10_000, balance * rate % 10_000);
            limited(cents + i128::from(rest >= 5_000))
        }
        AccountCommand::CloseAccount {} if balance != 0 => Err(AccountRejection::BalanceNotZero),
        AccountCommand::CloseAccount {} | AccountCommand::OpenAccount { .. } => Ok(0),
        AccountCommand::Correct {
            amount_cents: 0, ..
        } => Err(AccountRejection::AmountNotPositive),
        AccountCommand::Correct { amount_cents, .. } => {
            let amount = i128::from(*amount_cents);
            if balance + amount < 0 {
                return Err(AccountRejection::InsufficientFunds {
                    balance_cents: balance.try_into().unwrap(),
                });
            }
            limited(amount)
        }
    }
}

proptest! {
    #![proptest_config(random_commands::config())]

    #[test]
    fn an_account_agrees_with_an_independent_bookkeeping(
        commands in prop::collection::vec(command(), 0..60),
    ) {
        let mut ever_opened = false;
        let mut events_so_far = 0;
        random_commands::run::<Account>(commands, |before, command, answer, after| {
            let expected = match command {
                AccountCommand::OpenAccount { .. } if ever_opened => {
                    Err(AccountRejection::AccountAlreadyOpen)
                }
                AccountCommand::OpenAccount { .. } => Ok(0),
                _ if before.status != AccountStatus::Open => Err(AccountRejection::AccountNotOpen),
                AccountCommand::Correct { refers_to, .. }
                    if *refers_to == 0 || *refers_to > events_so_far =>
                {
                    let refers_to = *refers_to;
                    Err(AccountRejection::EventNotFound { refers_to })
                }
                _ => expected(before.balance_cents.into(), command),
            };
            let change = i128::from(after.balance_cents) - i128::from(before.balance_cents);
            assert_eq!(answer.as_ref().map(|_| change), expected.as_ref().copied());
            assert!(after.balance_cents >= 0);
            ever_opened |= answer.is_ok();
            events_so_far += u64::from(answer.is_ok());
        });
    }

    #[test]
    fn the_balance_is_the_sum_of_the_recorded_amounts(
        commands in prop::collection::vec(command(), 0..60),
    ) {
        let mut sum = 0_i128;
        random_commands::run::<Account>(commands, |_, _, answer, after| {
            for event in answer.iter().flatten() {
                sum += match event {
                    AccountEvent::MoneyDeposited { amount_cents, .. }
                    | AccountEvent::PremiumReceived { amount_cents }
                    | AccountEvent::InterestCredited { amount_cents, .. }
                    | AccountEvent::BalanceCorrected { amount_cents, .. } => {
                        i128::from(*amount_cents)
                    }
                    AccountEvent::MoneyWithdrawn { amount_cents } => -i128::from(*amount_cents),
                    AccountEvent::AccountOpened { .. } | AccountEvent::AccountClosed {} => 0,
                };
            }
            assert_eq!(i128::from(after.balance_cents), sum);
        });
    }

    #[test]
    fn events_reconsidered_where_they_were_recorded_stay_as_they_are(
        commands in prop::collection::vec(command(), 0..60),
    ) {
        random_commands::run::<Account>(commands, |before, _, answer, _| {
            for event in answer.iter().flatten() {
                assert_eq!(&Account::reconsider(before, event), event);
            }
        });
    }
}
