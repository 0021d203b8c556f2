//! What an account does and refuses, one sentence each, and how it looks to a client.

use phalanx_actors::Aggregate;
use phalanx_actors::testkit::{Given, WhatIf, given, what_if};
use serde_json::json;

use super::AccountCommand::*;
use super::AccountEvent::*;
use super::{
    Account, AccountCommand, AccountEvent, AccountRejection, AccountState, AccountStatus,
    RatePercent,
};

fn opened() -> AccountEvent {
    AccountOpened {
        owner: "ada".to_owned(),
        currency: "EUR".to_owned(),
    }
}

fn open_account() -> AccountCommand {
    OpenAccount {
        owner: "ada".to_owned(),
        currency: "EUR".to_owned(),
    }
}

fn rate(text: &str) -> RatePercent {
    text.parse().unwrap()
}

fn credit_interest(text: &str) -> AccountCommand {
    CreditInterest {
        rate_percent: rate(text),
    }
}

fn deposit(amount_cents: i64) -> AccountCommand {
    Deposit {
        amount_cents,
        reference: None,
    }
}

fn deposited(amount_cents: i64) -> AccountEvent {
    MoneyDeposited {
        amount_cents,
        reference: None,
    }
}

fn correct(amount_cents: i64, refers_to: u64) -> AccountCommand {
    Correct {
        amount_cents,
        reason: "booked twice".to_owned(),
        refers_to,
    }
}

fn corrected(amount_cents: i64, refers_to: u64) -> AccountEvent {
    BalanceCorrected {
        amount_cents,
        reason: "booked twice".to_owned(),
        refers_to,
    }
}

fn nothing() -> Given<Account> {
    given([])
}

fn open() -> Given<Account> {
    given([opened()])
}

fn open_with(amount_cents: i64) -> Given<Account> {
    given([opened(), deposited(amount_cents)])
}

fn closed() -> Given<Account> {
    given([opened(), AccountClosed {}])
}

/// Every command but `OpenAccount`, with fields that an open account would accept.
fn commands_for_an_open_account() -> [AccountCommand; 6] {
    [
        deposit(1),
        Withdraw { amount_cents: 1 },
        ReceivePremium { amount_cents: 1 },
        credit_interest("1"),
        CloseAccount {},
        correct(1, 1),
    ]
}

#[test]
fn an_account_is_opened_with_a_balance_of_zero() {
    let after = nothing().when(open_account()).then([opened()]);
    let expected = AccountState {
        owner: "ada".to_owned(),
        currency: "EUR".to_owned(),
        balance_cents: 0,
        status: AccountStatus::Open,
    };
    assert_eq!(after.state(), &expected);
}

#[test]
fn an_account_is_opened_once() {
    open()
        .when(open_account())
        .then_rejected(AccountRejection::AccountAlreadyOpen);
}

#[test]
fn a_closed_account_is_not_opened_again() {
    closed()
        .when(open_account())
        .then_rejected(AccountRejection::AccountAlreadyOpen);
}

#[test]
fn an_account_that_was_never_opened_takes_no_other_command() {
    for command in commands_for_an_open_account() {
        nothing()
            .when(command)
            .then_rejected(AccountRejection::AccountNotOpen);
    }
}

#[test]
fn a_closed_account_takes_no_other_command() {
    for command in commands_for_an_open_account() {
        closed()
            .when(command)
            .then_rejected(AccountRejection::AccountNotOpen);
    }
}

#[test]
fn a_deposit_raises_the_balance() {
    let after = open_with(100).when(deposit(50)).then([deposited(50)]);
    assert_eq!(after.state().balance_cents, 150);
}

#[test]
fn a_deposit_keeps_what_it_is_for() {
    let reference = || Some("rent, May".to_owned());
    open()
        .when(Deposit {
            amount_cents: 50,
            reference: reference(),
        })
        .then([MoneyDeposited {
            amount_cents: 50,
            reference: reference(),
        }]);
}

#[test]
fn a_premium_raises_the_balance() {
    let after = open_with(100)
        .when(ReceivePremium { amount_cents: 50 })
        .then([PremiumReceived { amount_cents: 50 }]);
    assert_eq!(after.state().balance_cents, 150);
}

#[test]
fn a_withdrawal_may_take_the_whole_balance() {
    let after = open_with(100)
        .when(Withdraw { amount_cents: 100 })
        .then([MoneyWithdrawn { amount_cents: 100 }]);
    assert_eq!(after.state().balance_cents, 0);
}

#[test]
fn a_withdrawal_of_more_than_the_balance_is_refused() {
    for amount_cents in [101, i64::MAX] {
        let after = open_with(100)
            .when(Withdraw { amount_cents })
            .then_rejected(AccountRejection::InsufficientFunds { balance_cents: 100 });
        assert_eq!(after.state().balance_cents, 100);
    }
}

#[test]
fn an_amount_of_zero_or_less_is_refused() {
    for amount_cents in [0, -1, i64::MIN] {
        for command in [
            deposit(amount_cents),
            Withdraw { amount_cents },
            ReceivePremium { amount_cents },
        ] {
            open_with(100)
                .when(command)
                .then_rejected(AccountRejection::AmountNotPositive);
        }
    }
}

#[test]
fn a_rate_of_zero_or_less_is_refused() {
    for text in ["0", "0.00", "-1", "-0.01"] {
        open_with(100)
            .when(credit_interest(text))
            .then_rejected(AccountRejection::AmountNotPositive);
    }
}

#[test]
fn a_balance_that_does_not_fit_is_refused() {
    for command in [
        deposit(1),
        ReceivePremium { amount_cents: 1 },
        credit_interest("0.01"),
        credit_interest("999999999999999999"),
    ] {
        open_with(i64::MAX)
            .when(command)
            .then_rejected(AccountRejection::AmountTooLarge);
    }
    open()
        .when(deposit(i64::MAX))
        .then([deposited(i64::MAX)])
        .when(Withdraw {
            amount_cents: i64::MAX,
        })
        .then([MoneyWithdrawn {
            amount_cents: i64::MAX,
        }]);
}

#[test]
fn interest_is_credited_on_the_balance_and_rounded_half_up() {
    for (balance_cents, text, amount_cents) in [
        (10_000, "1", 100),
        (150, "1", 2),
        (149, "1", 1),
        (10_000, "0.25", 25),
        (200, "0.25", 1),
        (199, "0.25", 0),
        (333, "100", 333),
    ] {
        let after = open_with(balance_cents)
            .when(credit_interest(text))
            .then([InterestCredited {
                rate_percent: rate(text),
                amount_cents,
            }]);
        assert_eq!(after.state().balance_cents, balance_cents + amount_cents);
    }
}

#[test]
fn interest_on_nothing_is_recorded_as_nothing() {
    open().when(credit_interest("1")).then([InterestCredited {
        rate_percent: rate("1"),
        amount_cents: 0,
    }]);
}

#[test]
fn an_empty_account_is_closed() {
    let after = open().when(CloseAccount {}).then([AccountClosed {}]);
    assert_eq!(after.state().status, AccountStatus::Closed);
    assert_eq!(after.state().owner, "ada");
}

#[test]
fn an_account_with_money_on_it_is_not_closed() {
    open_with(1)
        .when(CloseAccount {})
        .then_rejected(AccountRejection::BalanceNotZero);
}

#[test]
fn a_client_sees_the_state_of_the_contract() {
    assert_eq!(
        serde_json::to_value(open_with(150).state()).unwrap(),
        json!({"owner": "ada", "currency": "EUR", "balance_cents": 150, "status": "open"})
    );
    assert_eq!(
        serde_json::to_value(closed().state()).unwrap()["status"],
        "closed"
    );
}

#[test]
fn a_client_sees_the_events_of_the_contract() {
    assert_eq!(
        serde_json::to_value([
            opened(),
            deposited(1),
            MoneyWithdrawn { amount_cents: 2 },
            PremiumReceived { amount_cents: 3 },
            InterestCredited {
                rate_percent: rate("0.25"),
                amount_cents: 4,
            },
            AccountClosed {},
        ])
        .unwrap(),
        json!([
            {"AccountOpened": {"owner": "ada", "currency": "EUR"}},
            {"MoneyDeposited": {"amount_cents": 1, "reference": null}},
            {"MoneyWithdrawn": {"amount_cents": 2}},
            {"PremiumReceived": {"amount_cents": 3}},
            {"InterestCredited": {"rate_percent": "0.25", "amount_cents": 4}},
            {"AccountClosed": {}},
        ])
    );
}

#[test]
fn a_client_sees_the_rejections_of_the_contract() {
    assert_eq!(
        serde_json::to_value([
            AccountRejection::AccountNotOpen,
            AccountRejection::AccountAlreadyOpen,
            AccountRejection::AmountNotPositive,
            AccountRejection::AmountTooLarge,
            AccountRejection::InsufficientFunds { balance_cents: 7 },
            AccountRejection::BalanceNotZero,
        ])
        .unwrap(),
        json!([
            "account-not-open",
            "account-already-open",
            "amount-not-positive",
            "amount-too-large",
            {"insufficient-funds": {"balance_cents": 7}},
            "balance-not-zero",
        ])
    );
    assert_eq!(
        AccountRejection::InsufficientFunds { balance_cents: 7 }.to_string(),
        "the balance of 7 cents does not cover the amount"
    );
}

#[test]
fn commands_are_read_as_the_contract_writes_them() {
    for (json, command) in [
        (
            json!({"OpenAccount": {"owner": "ada", "currency": "EUR"}}),
            open_account(),
        ),
        (json!({"Deposit": {"amount_cents": 1}}), deposit(1)),
        (
            json!({"Withdraw": {"amount_cents": 1}}),
            Withdraw { amount_cents: 1 },
        ),
        (
            json!({"ReceivePremium": {"amount_cents": 1}}),
            ReceivePremium { amount_cents: 1 },
        ),
        (
            json!({"CreditInterest": {"rate_percent": "0.25"}}),
            credit_interest("0.25"),
        ),
        (json!({"CloseAccount": {}}), CloseAccount {}),
    ] {
        assert_eq!(
            serde_json::from_value::<AccountCommand>(json).unwrap(),
            command
        );
    }
}

#[test]
fn malformed_commands_are_not_read() {
    for json in [
        json!({"Deposit": {}}),
        json!({"Deposit": {"amount_cents": 1, "amout_cents": 2}}),
        json!({"Deposit": {"amount_cents": "1"}}),
        json!({"Deposit": {"amount_cents": 1.5}}),
        json!({"Deposit": {"amount_cents": null}}),
        json!({"Deposit": {"amount_cents": 9_223_372_036_854_775_808_u64}}),
        json!({"CreditInterest": {"rate_percent": 1}}),
        json!({"CreditInterest": {"rate_percent": "one"}}),
        json!({"CloseAccount": {"force": true}}),
        json!({"deposit": {"amount_cents": 1}}),
    ] {
        let read = serde_json::from_value::<AccountCommand>(json.clone());
        assert!(read.is_err(), "{json} was read as {read:?}");
    }
}

#[test]
fn the_rate_has_a_schema_that_tells_its_form() {
    let schema = schemars::schema_for!(AccountCommand).to_value().to_string();
    assert!(schema.contains("[1-9][0-9]*"), "{schema}");
}

#[test]
fn clients_are_told_why_and_where_they_may_read() {
    assert_eq!(Account::views(), ["accounts", "account_totals"]);
    let names: Vec<_> = Account::justifications().iter().map(|j| j.name).collect();
    assert_eq!(names, ["fraud-check", "teller-screen", "operator"]);
}

#[test]
fn a_correction_adds_or_takes_away() {
    for (amount, balance) in [(50, 150), (-40, 60), (-100, 0), (i64::MAX - 100, i64::MAX)] {
        let after = open_with(100)
            .when(correct(amount, 2))
            .then([corrected(amount, 2)]);
        assert_eq!(after.state().balance_cents, balance);
    }
}

#[test]
fn a_correction_of_nothing_is_refused() {
    open_with(100)
        .when(correct(0, 2))
        .then_rejected(AccountRejection::AmountNotPositive);
}

#[test]
fn a_correction_takes_no_more_than_there_is() {
    for amount in [-101, i64::MIN] {
        open_with(100)
            .when(correct(amount, 2))
            .then_rejected(AccountRejection::InsufficientFunds { balance_cents: 100 });
    }
}

#[test]
fn a_correction_that_does_not_fit_is_refused() {
    open_with(100)
        .when(correct(i64::MAX - 99, 2))
        .then_rejected(AccountRejection::AmountTooLarge);
}

#[test]
fn a_correction_refers_to_an_event_that_happened() {
    for refers_to in [0, 3, u64::MAX] {
        open_with(100)
            .when(correct(1, refers_to))
            .then_rejected(AccountRejection::EventNotFound { refers_to });
    }
    open_with(100).when(correct(1, 1)).then([corrected(1, 1)]);
}

/// Opened, 100.50 paid in, then three times a premium of 20.00 and 1 % of interest.
fn three_months() -> Vec<AccountEvent> {
    let mut account = open_with(10_050);
    let mut history = vec![opened(), deposited(10_050)];
    for interest in [121, 142, 163] {
        let premium = PremiumReceived {
            amount_cents: 2_000,
        };
        let credited = InterestCredited {
            rate_percent: rate("1"),
            amount_cents: interest,
        };
        account = account
            .when(ReceivePremium {
                amount_cents: 2_000,
            })
            .then([premium.clone()]);
        account = account.when(credit_interest("1")).then([credited.clone()]);
        history.extend([premium, credited]);
    }
    history
}

#[test]
fn a_late_payment_earns_the_interest_that_it_would_have_earned() {
    let paid = deposited(5_055);
    let found: WhatIf<Account> = what_if(three_months(), [(2, paid)]);
    assert_eq!(found.actual.balance_cents, 16_476);
    // 151.05 with the payment; 171.05 gives 1.71, 192.76 gives 1.93, 214.69 gives 2.15.
    assert_eq!(found.hypothetical.balance_cents, 21_684);
    assert_eq!(
        serde_json::to_value(found.difference()).unwrap(),
        json!([{"op": "replace", "path": "/balance_cents", "value": 21_684}])
    );
}

#[test]
fn a_hypothetical_balance_may_be_below_zero_and_owes_interest() {
    let taken = MoneyWithdrawn {
        amount_cents: 30_050,
    };
    let found: WhatIf<Account> = what_if(three_months(), [(2, taken)]);
    // -200.00; -180.00 owes 1.80, -161.80 owes 1.62, -143.42 owes 1.43.
    assert_eq!(found.hypothetical.balance_cents, -14_485);
}
