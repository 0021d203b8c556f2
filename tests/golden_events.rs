//! The stored bytes of every event of the samples, and of their states.
//!
//! `tests/golden/<type>.txt` holds what this release writes, one line per event variant and one for
//! the state: `event v<schema version> <Variant> <hex>` and `state v<schema version> <hex>`. Journals
//! keep events for ever, so the bytes of an event variant that was once released never change.
//!
//! To add a variant: add a sample of it to the list below and run this test. It fails and prints the
//! line to append to the file. Never edit or remove an `event` line; the failure says what to do
//! instead. Lines of earlier versions must be readable through the aggregate's upcasters.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeSet;
use std::fmt::{Debug, Write as _};

use jiff::Timestamp;
use phalanx::domain::account::AccountStatus;
use phalanx::domain::order::{Coupon, OrderLine, OrderStatus};
use phalanx::domain::prescription::PrescriptionStatus;
use phalanx::domain::workshop_day::{Job, JobStatus};
use phalanx::domain::{
    Account, AccountEvent, AccountState, Order, OrderEvent, OrderState, Prescription,
    PrescriptionEvent, PrescriptionState, WorkshopDay, WorkshopDayEvent, WorkshopDayState,
};
use phalanx_actors::evolution::{Upcast, schema_of};
use phalanx_actors::record::StoredEvent;
use phalanx_actors::{Aggregate, codec};

#[test]
fn the_stored_bytes_of_an_account_are_unchanged() {
    let events = [
        AccountEvent::AccountOpened {
            owner: text("Ada Müller"),
            currency: text("EUR"),
        },
        AccountEvent::MoneyDeposited {
            amount_cents: 150,
            reference: Some(text("rent")),
        },
        AccountEvent::MoneyWithdrawn {
            amount_cents: i64::MAX,
        },
        AccountEvent::PremiumReceived {
            amount_cents: 70_000,
        },
        AccountEvent::InterestCredited {
            rate_percent: "0.25".parse().unwrap(),
            amount_cents: 4_000_000_000,
        },
        AccountEvent::AccountClosed {},
        AccountEvent::BalanceCorrected {
            amount_cents: -150,
            reason: text("booked twice"),
            refers_to: 70_000,
        },
    ];
    let state = AccountState {
        owner: text("Ada Müller"),
        currency: text("EUR"),
        balance_cents: 150,
        status: AccountStatus::Open,
    };
    check::<Account>(include_str!("golden/account.txt"), &events, &state);
}

#[test]
fn the_stored_bytes_of_an_order_are_unchanged() {
    let events = [
        OrderEvent::OrderCreated {
            customer: text("ada"),
        },
        OrderEvent::ItemAdded {
            product: text("apple"),
            quantity: 2,
            unit_price_cents: 50,
        },
        OrderEvent::ItemRemoved {
            product: text("apple"),
        },
        OrderEvent::CouponApplied {
            code: text("TEN"),
            percent: 10,
        },
        OrderEvent::OrderPaid { total_cents: 90 },
        OrderEvent::OrderShipped {},
        OrderEvent::OrderDelivered {},
        OrderEvent::OrderCancelled {
            reason: text("too slow"),
        },
    ];
    let state = OrderState {
        customer: text("ada"),
        lines: vec![OrderLine {
            product: text("apple"),
            quantity: 2,
            unit_price_cents: 50,
        }],
        status: OrderStatus::InTransit,
        total_cents: 90,
        coupon: Some(Coupon {
            code: text("TEN"),
            percent: 10,
        }),
    };
    check::<Order>(include_str!("golden/order.txt"), &events, &state);
}

#[test]
fn the_stored_bytes_of_a_prescription_are_unchanged() {
    let events = [
        PrescriptionEvent::PrescriptionDrafted {
            patient: text("p-7"),
            prescriber: text("dr-3"),
            medication: text("amoxicillin 500 mg"),
            dosage: text("1-1-1"),
            quantity: 20,
            refills_allowed: 300,
        },
        PrescriptionEvent::PrescriptionSigned {},
        PrescriptionEvent::PrescriptionTransmitted {
            pharmacy: text("corner"),
        },
        PrescriptionEvent::PrescriptionDispensed {},
        PrescriptionEvent::PrescriptionRefilled {},
        PrescriptionEvent::PrescriptionCompleted {},
        PrescriptionEvent::PrescriptionCancelled {
            reason: text("wrong dose"),
        },
    ];
    let state = PrescriptionState {
        patient: text("p-7"),
        prescriber: text("dr-3"),
        medication: text("amoxicillin 500 mg"),
        dosage: text("1-1-1"),
        quantity: 20,
        refills_allowed: 3,
        refills_used: 1,
        pharmacy: Some(text("corner")),
        cancel_reason: None,
        status: PrescriptionStatus::Dispensed,
    };
    check::<Prescription>(include_str!("golden/prescription.txt"), &events, &state);
}

#[test]
fn the_stored_bytes_of_a_workshop_day_are_unchanged() {
    let events = [
        WorkshopDayEvent::MaintenanceJobPlanned {
            job_id: text("j1"),
            vehicle: text("HH-AB 12"),
            start: time("2026-11-21T09:00:00Z"),
            end: time("2026-11-21T10:30:00.5Z"),
            description: text("brakes"),
        },
        WorkshopDayEvent::MaintenanceJobFinished {
            job_id: text("j1"),
            actual_start: time("2026-11-21T09:10:00Z"),
            actual_end: time("2026-11-21T10:20:00.123456789Z"),
            notes: text("done"),
        },
        WorkshopDayEvent::MaintenanceJobCancelled { job_id: text("j1") },
    ];
    let state = WorkshopDayState {
        jobs: vec![Job {
            job_id: text("j1"),
            vehicle: text("HH-AB 12"),
            start: time("2026-11-21T09:00:00Z"),
            end: time("2026-11-21T10:30:00.5Z"),
            description: text("brakes"),
            status: JobStatus::Finished,
            actual_start: Some(time("2026-11-21T09:10:00Z")),
            actual_end: Some(time("2026-11-21T10:20:00.123456789Z")),
            notes: None,
        }],
    };
    check::<WorkshopDay>(include_str!("golden/workshop_day.txt"), &events, &state);
}

fn text(words: &str) -> String {
    words.to_owned()
}

fn time(rfc3339: &str) -> Timestamp {
    rfc3339.parse().unwrap()
}

/// Compares the samples with the recorded lines and reports all differences at once.
#[track_caller]
fn check<A: Aggregate>(recorded: &str, events: &[A::Event], state: &A::State)
where
    A::State: PartialEq,
{
    let recorded: BTreeSet<&str> = recorded.lines().filter(|l| !l.is_empty()).collect();
    let schema = schema_of::<A>();
    let mut report = String::new();
    let mut sampled = BTreeSet::new();
    let mut compared = BTreeSet::new();
    for event in events {
        let variant = variant_name(event);
        let version = schema.version(&variant);
        let kind = format!("event v{version} {variant}");
        report += &compare(&recorded, &kind, event, ON_CHANGED_EVENT);
        for earlier in 1..version {
            let kind = format!("event v{earlier} {variant} ");
            if !recorded.iter().any(|line| line.starts_with(&kind)) {
                let _ = writeln!(report, "the line `{kind}...` is missing. {ON_LOST_LINE}\n");
            }
        }
        sampled.insert(variant);
        compared.insert(kind);
    }
    let kind = format!("state v{}", A::STATE_SCHEMA_VERSION);
    report += &compare(&recorded, &kind, state, ON_CHANGED_STATE);

    for variant in schema_variants::<A::Event>().difference(&sampled) {
        let _ = writeln!(report, "{variant} has no sample: add one to this test.\n");
    }
    for line in recorded.iter().filter(|line| line.starts_with("event ")) {
        let (kind, hex) = line.rsplit_once(' ').unwrap();
        if compared.contains(kind) {
            continue;
        }
        if let Err(reason) = read_recorded::<A>(kind, hex) {
            let _ = writeln!(
                report,
                "`{kind}` can no longer be read: {reason}. {ON_LOST}\n"
            );
        }
    }
    assert!(report.is_empty(), "tests/golden/{}.txt:\n{report}", A::TYPE);
}

/// What the bytes of a recorded line are today.
fn read_recorded<A: Aggregate>(kind: &str, hex: &str) -> Result<Upcast<A::Event>, String> {
    let version = kind.split(' ').nth(1).and_then(|v| v.strip_prefix('v'));
    let version = version.and_then(|v| v.parse().ok());
    let stored = StoredEvent {
        version: version.ok_or("the line has no version")?,
        bytes: &from_hex(hex),
    };
    let read = schema_of::<A>().decode(&stored);
    read.map_err(|error| error.to_string())
}

#[test]
fn a_deposit_of_the_first_version_is_one_without_a_reference() {
    let line = include_str!("golden/account.txt")
        .lines()
        .find_map(|line| line.strip_prefix("event v1 MoneyDeposited "));
    let read = read_recorded::<Account>("event v1 MoneyDeposited", line.unwrap()).unwrap();
    let expected = AccountEvent::MoneyDeposited {
        amount_cents: 150,
        reference: None,
    };
    assert_eq!(read, Upcast::One(expected));
}

const ON_CHANGED_EVENT: &str = "Journals that hold the recorded bytes could no longer be read. \
    Either take the change back; or give the event type a new version: keep its old fields as a \
    struct, add `.event(\"<Variant>\", first::<OldFields>().now(|old| ...))` to `upcasters` of the \
    aggregate, keep the old line and append the one that this test then prints. docs/EVOLUTION.md \
    shows it.";

const ON_LOST: &str = "Journals hold such bytes for ever: give the aggregate an upcaster for them, \
    and keep the place of the variant in the enum, as docs/EVOLUTION.md shows.";

const ON_LOST_LINE: &str = "Take it from the history of this file; lines of events stay for ever.";

const ON_CHANGED_STATE: &str = "Snapshots that hold the recorded bytes would be misread. Raise \
    STATE_SCHEMA_VERSION, so that they are dropped and replayed, and replace the `state` line.";

/// Empty when the value is stored as recorded, and read back from there.
fn compare<T>(recorded: &BTreeSet<&str>, kind: &str, value: &T, on_changed: &str) -> String
where
    T: serde::Serialize + serde::de::DeserializeOwned + PartialEq + Debug,
{
    let bytes = codec::to_bytes(value).unwrap();
    let line = format!("{kind} {}", to_hex(&bytes));
    let prefix = format!("{kind} ");
    match recorded.iter().find_map(|line| line.strip_prefix(&prefix)) {
        None => format!("nothing is recorded for `{kind}`; append this line:\n{line}\n\n"),
        Some(hex) => match codec::from_bytes::<T>(&from_hex(hex)) {
            Ok(read) if read == *value && hex == to_hex(&bytes) => String::new(),
            read => format!(
                "the bytes of `{kind}` changed. {on_changed}\n  recorded: {hex}\n  now:      {}\n  \
                 the recorded bytes read as: {read:?}\n\n",
                to_hex(&bytes)
            ),
        },
    }
}

/// The name that serde gives to the value's enum variant.
fn variant_name<T: serde::Serialize>(event: &T) -> String {
    let json = serde_json::to_value(event).unwrap();
    let name = json.as_object().and_then(|fields| fields.keys().next());
    name.expect("an event has named fields").clone()
}

/// The names of all variants of an event type.
fn schema_variants<T: schemars::JsonSchema>() -> BTreeSet<String> {
    let schema = schemars::schema_for!(T).to_value();
    let variants = schema["oneOf"].as_array().expect("an event is an enum");
    variants
        .iter()
        .map(|variant| variant["required"][0].as_str().unwrap().to_owned())
        .collect()
}

fn to_hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn from_hex(hex: &str) -> Vec<u8> {
    (0..hex.len())
        .step_by(2)
        .map(|at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap())
        .collect()
}
