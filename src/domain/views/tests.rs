//! Given/when/then for the views, and properties: after random commands, the rows are the fold of the
//! events.

use phalanx_actors::projection::{Row, Value};
use phalanx_actors::testkit::projecting;

use super::*;
use crate::domain::{Account, AccountEvent, Order, OrderEvent};

fn opened(owner: &str, currency: &str) -> AccountEvent {
    AccountEvent::AccountOpened {
        owner: owner.to_owned(),
        currency: currency.to_owned(),
    }
}

fn deposited(amount_cents: i64) -> AccountEvent {
    AccountEvent::MoneyDeposited {
        amount_cents,
        reference: None,
    }
}

fn withdrawn(amount_cents: i64) -> AccountEvent {
    AccountEvent::MoneyWithdrawn { amount_cents }
}

fn account(id: &str, owner: &str, cents: i64, status: &str, sequence: i64) -> Row {
    Row::default()
        .with("id", id)
        .with("owner", owner)
        .with("currency", "EUR")
        .with("balance_cents", cents)
        .with("status", status)
        .with("sequence_number", sequence)
}

#[test]
fn an_account_is_a_row_from_its_opening_on() {
    projecting::<Accounts>()
        .given::<Account>("a-1", [opened("ada", "EUR"), deposited(500)])
        .when::<Account>("a-1", withdrawn(120))
        .then("accounts", [account("a-1", "ada", 380, "open", 3)])
        .given::<Account>("a-2", [opened("bob", "EUR")])
        .when::<Account>("a-2", AccountEvent::AccountClosed {})
        .then(
            "accounts",
            [
                account("a-1", "ada", 380, "open", 3),
                account("a-2", "bob", 0, "closed", 2),
            ],
        );
}

#[test]
fn an_account_without_an_opening_is_set_aside() {
    let _refused = projecting::<Accounts>()
        .when::<Account>("a-1", deposited(1))
        .then_refused("first event");
}

#[test]
fn totals_are_by_currency_over_all_accounts() {
    let total = |currency: &str, accounts: i64, cents: i64| {
        Row::default()
            .with("currency", currency)
            .with("accounts", accounts)
            .with("balance_cents", cents)
    };
    let _refused = projecting::<AccountTotals>()
        .given::<Account>("a-1", [opened("ada", "EUR"), deposited(500)])
        .given::<Account>("a-2", [opened("bob", "CHF"), deposited(70), withdrawn(70)])
        .given::<Account>("a-2", [AccountEvent::AccountClosed {}])
        .given::<Account>("a-3", [opened("eve", "EUR")])
        .when::<Account>("a-3", deposited(5))
        .then("account_totals", [total("EUR", 2, 505), total("CHF", 1, 0)])
        .when::<Account>("a-3", deposited(i64::MAX))
        .then_refused("64 bits");
}

#[test]
fn an_order_has_the_total_of_its_lines_and_its_coupon() {
    let order = |status: &str, lines: i64, cents: i64, coupon: Option<&str>, sequence: i64| {
        Row::default()
            .with("id", "o-1")
            .with("customer", "ada")
            .with("status", status)
            .with("lines", lines)
            .with("total_cents", cents)
            .with("coupon", coupon)
            .with("sequence_number", sequence)
    };
    let added = |product: &str, quantity, unit_price_cents| OrderEvent::ItemAdded {
        product: product.to_owned(),
        quantity,
        unit_price_cents,
    };
    projecting::<Orders>()
        .when::<Order>(
            "o-1",
            OrderEvent::OrderCreated {
                customer: "ada".to_owned(),
            },
        )
        .then("orders", [order("created", 0, 0, None, 1)])
        .given::<Order>("o-1", [added("tea", 2, 300), added("cup", 1, 400)])
        .when::<Order>(
            "o-1",
            OrderEvent::CouponApplied {
                code: "TEN".to_owned(),
                percent: 10,
            },
        )
        .then("orders", [order("created", 2, 900, Some("TEN"), 4)])
        .given::<Order>("o-1", [OrderEvent::OrderPaid { total_cents: 900 }])
        .when::<Order>("o-1", OrderEvent::OrderShipped {})
        .then("orders", [order("in_transit", 2, 900, Some("TEN"), 6)]);
}

mod folds {
    //! Rows against states that the aggregates themselves fold.

    use phalanx_actors::variant::variant_name;
    use phalanx_actors::{Aggregate, Context};
    use proptest::prelude::*;

    use super::*;
    use crate::domain::prescription::PrescriptionCommand;
    use crate::domain::{
        AccountCommand, OrderCommand, Prescription, WorkshopDay, WorkshopDayCommand,
        random_commands,
    };
    use jiff::Timestamp;

    const IDS: [&str; 3] = ["a", "b", "c"];

    /// Which events happened to whom, and each aggregate's state with its last sequence number.
    type Lived<A> = (
        Vec<(&'static str, <A as Aggregate>::Event)>,
        Vec<(u64, <A as Aggregate>::State)>,
    );

    /// Decides the commands on a few aggregates; gives the events in order and the states.
    fn live<A: Aggregate>(commands: Vec<(usize, A::Command)>) -> Lived<A> {
        let mut states: Vec<(u64, A::State)> = IDS.iter().map(|_| Default::default()).collect();
        let mut events = Vec::new();
        for (at, command) in commands {
            let (sequence_number, state) = &mut states[at];
            let context = Context {
                aggregate_id: IDS[at],
                sequence_number: *sequence_number,
                now: Timestamp::UNIX_EPOCH,
                principal: None,
                occurred_at: None,
            };
            for event in A::decide(state, command, &context).into_iter().flatten() {
                A::evolve(state, &event);
                *sequence_number += 1;
                events.push((IDS[at], event));
            }
        }
        (events, states)
    }

    /// The states of aggregates that exist, with id and sequence number.
    fn existing<S>(states: &[(u64, S)]) -> impl Iterator<Item = (&'static str, i64, &S)> {
        let all = IDS.into_iter().zip(states);
        all.filter(|(_, (sequence, _))| *sequence > 0)
            .map(|(id, (sequence, state))| (id, i64::try_from(*sequence).unwrap(), state))
    }

    fn at() -> impl Strategy<Value = usize> {
        0..IDS.len()
    }

    fn account_command() -> impl Strategy<Value = AccountCommand> {
        prop_oneof![
            2 => prop_oneof![Just("EUR"), Just("CHF")].prop_map(|currency| {
                AccountCommand::OpenAccount { owner: "ada".to_owned(), currency: currency.to_owned() }
            }),
            6 => (0_i64..1_000).prop_map(|amount_cents| AccountCommand::Deposit {
            amount_cents,
            reference: None,
        }),
            4 => (0_i64..1_000).prop_map(|amount_cents| AccountCommand::Withdraw { amount_cents }),
            2 => (0_i64..500).prop_map(|amount_cents| AccountCommand::ReceivePremium { amount_cents }),
            1 => Just(AccountCommand::CreditInterest { rate_percent: "1.5".parse().unwrap() }),
            1 => Just(AccountCommand::CloseAccount {}),
            3 => (-900_i64..900).prop_map(|amount_cents| AccountCommand::Correct {
                amount_cents, reason: "late".to_owned(), refers_to: 1,
            }),
        ]
    }

    fn order_command() -> impl Strategy<Value = OrderCommand> {
        let product = || prop_oneof![Just("tea".to_owned()), Just("cup".to_owned())];
        prop_oneof![
            2 => Just(OrderCommand::CreateOrder { customer: "ada".to_owned() }),
            6 => (product(), 1_i64..9, 0_i64..900).prop_map(|(product, quantity, unit_price_cents)| {
                OrderCommand::AddItem { product, quantity, unit_price_cents }
            }),
            2 => product().prop_map(|product| OrderCommand::RemoveItem { product }),
            2 => (0_i64..=100).prop_map(|percent| {
                OrderCommand::ApplyCoupon { code: format!("C{percent}"), percent }
            }),
            1 => Just(OrderCommand::Pay {}),
            1 => Just(OrderCommand::Ship {}),
            1 => Just(OrderCommand::Deliver {}),
            1 => Just(OrderCommand::Cancel { reason: "no".to_owned() }),
        ]
    }

    fn prescription_command() -> impl Strategy<Value = PrescriptionCommand> {
        prop_oneof![
            3 => (1_i64..5, 0_u32..3).prop_map(|(quantity, refills_allowed)| {
                PrescriptionCommand::DraftPrescription {
                    patient: "pat".to_owned(),
                    prescriber: "doc".to_owned(),
                    medication: "pill".to_owned(),
                    dosage: "daily".to_owned(),
                    quantity,
                    refills_allowed,
                }
            }),
            3 => Just(PrescriptionCommand::SignPrescription {}),
            3 => Just(PrescriptionCommand::TransmitPrescription { pharmacy: "corner".to_owned() }),
            3 => Just(PrescriptionCommand::DispensePrescription {}),
            2 => Just(PrescriptionCommand::RefillPrescription {}),
            1 => Just(PrescriptionCommand::CompletePrescription {}),
            1 => Just(PrescriptionCommand::CancelPrescription { reason: "no".to_owned() }),
        ]
    }

    fn workshop_command() -> impl Strategy<Value = WorkshopDayCommand> {
        let job = || (0..6).prop_map(|n| format!("j{n}"));
        let time = |second: i64| Timestamp::from_second(second).unwrap();
        prop_oneof![
            4 => (job(), 0..4, 0_i64..50, 1_i64..20).prop_map(move |(job_id, car, start, length)| {
                WorkshopDayCommand::PlanMaintenanceJob {
                    job_id,
                    vehicle: format!("v{car}"),
                    start: time(start),
                    end: time(start + length),
                    description: "oil".to_owned(),
                }
            }),
            2 => (job(), 0_i64..50, 1_i64..20).prop_map(move |(job_id, start, length)| {
                WorkshopDayCommand::FinishMaintenanceJob {
                    job_id,
                    actual_start: time(start),
                    actual_end: time(start + length),
                    notes: "done".to_owned(),
                }
            }),
            1 => job().prop_map(|job_id| WorkshopDayCommand::CancelMaintenanceJob { job_id }),
        ]
    }

    proptest! {
        #![proptest_config(random_commands::config())]

        #[test]
        fn accounts_and_totals(commands in prop::collection::vec((at(), account_command()), 0..60)) {
            let (events, states) = live::<Account>(commands);
            let mut accounts = projecting::<Accounts>();
            let mut totals = projecting::<AccountTotals>();
            for (id, event) in events {
                accounts = accounts.given::<Account>(id, [event.clone()]);
                totals = totals.given::<Account>(id, [event]);
            }
            accounts.then("accounts", existing(&states).map(|(id, sequence, state)| {
                Row::default()
                    .with("id", id)
                    .with("owner", &state.owner)
                    .with("currency", &state.currency)
                    .with("balance_cents", state.balance_cents)
                    .with("status", variant_name(&state.status).unwrap())
                    .with("sequence_number", sequence)
            }));
            let of = |currency: &'static str| {
                let all = existing(&states).filter(move |(_, _, state)| state.currency == currency);
                let (count, cents) = all.fold((0_i64, 0), |(count, cents), (_, _, state)| {
                    (count + 1, cents + state.balance_cents)
                });
                (count > 0).then(|| {
                    Row::default()
                        .with("currency", currency)
                        .with("accounts", count)
                        .with("balance_cents", cents)
                })
            };
            totals.then("account_totals", ["EUR", "CHF"].into_iter().filter_map(of));
        }

        #[test]
        fn orders(commands in prop::collection::vec((at(), order_command()), 0..60)) {
            let (events, states) = live::<Order>(commands);
            let mut orders = projecting::<Orders>();
            for (id, event) in events {
                orders = orders.given::<Order>(id, [event]);
            }
            orders.then("orders", existing(&states).map(|(id, sequence, state)| {
                Row::default()
                    .with("id", id)
                    .with("customer", &state.customer)
                    .with("status", variant_name(&state.status).unwrap())
                    .with("lines", i64::try_from(state.lines.len()).unwrap())
                    .with("total_cents", state.total_cents)
                    .with("coupon", state.coupon.as_ref().map(|coupon| &coupon.code))
                    .with("sequence_number", sequence)
            }));
        }

        #[test]
        fn prescriptions(commands in prop::collection::vec((at(), prescription_command()), 0..60)) {
            let (events, states) = live::<Prescription>(commands);
            let mut prescriptions = projecting::<Prescriptions>();
            for (id, event) in events {
                prescriptions = prescriptions.given::<Prescription>(id, [event]);
            }
            prescriptions.then("prescriptions", existing(&states).map(|(id, sequence, state)| {
                Row::default()
                    .with("id", id)
                    .with("patient", &state.patient)
                    .with("prescriber", &state.prescriber)
                    .with("medication", &state.medication)
                    .with("dosage", &state.dosage)
                    .with("quantity", state.quantity)
                    .with("refills_allowed", state.refills_allowed)
                    .with("refills_used", state.refills_used)
                    .with("pharmacy", state.pharmacy.as_ref())
                    .with("status", state.status.name())
                    .with("cancel_reason", state.cancel_reason.as_ref())
                    .with("sequence_number", sequence)
            }));
        }

        #[test]
        fn maintenance_jobs(commands in prop::collection::vec((at(), workshop_command()), 0..60)) {
            let (events, states) = live::<WorkshopDay>(commands);
            let mut jobs = projecting::<MaintenanceJobs>();
            let mut touched = std::collections::BTreeMap::new();
            let mut sequences = std::collections::BTreeMap::new();
            for (id, event) in events {
                let sequence = sequences.entry(id).or_insert(0_i64);
                *sequence += 1;
                let job_id = match &event {
                    crate::domain::WorkshopDayEvent::MaintenanceJobPlanned { job_id, .. }
                    | crate::domain::WorkshopDayEvent::MaintenanceJobFinished { job_id, .. }
                    | crate::domain::WorkshopDayEvent::MaintenanceJobCancelled { job_id } => job_id,
                };
                touched.insert((id, job_id.clone()), *sequence);
                jobs = jobs.given::<WorkshopDay>(id, [event]);
            }
            let rows = existing(&states).flat_map(|(id, _, state)| {
                state.jobs.iter().map(|job| {
                    Row::default()
                        .with("id", format!("{id}/{}", job.job_id))
                        .with("workshop_day", id)
                        .with("job_id", &job.job_id)
                        .with("vehicle", &job.vehicle)
                        .with("start", job.start)
                        .with("end", job.end)
                        .with("description", &job.description)
                        .with("status", variant_name(&job.status).unwrap())
                        .with("actual_start", job.actual_start)
                        .with("actual_end", job.actual_end)
                        .with("notes", job.notes.as_ref())
                        .with("sequence_number", Value::Integer(touched[&(id, job.job_id.clone())]))
                }).collect::<Vec<_>>()
            });
            jobs.then("maintenance_jobs", rows);
        }
    }
}
