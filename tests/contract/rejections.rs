//! Chapter "The sample aggregates": each rejection that the contract names, as a client sees it.

use serde_json::{Value, json};

use crate::cases::{Fixture, assert_problem};
use crate::support::http::{Http, Request};

/// A step of a scenario: a command, and the rejection it must meet, empty for success.
type Step = (&'static str, Value, &'static str);

fn play(http: &mut Http, kind: &str, id: &str, steps: &[Step]) {
    for (command, body, rejection) in steps {
        let reply = http.send(&Request::command(kind, id, command, body.to_string()));
        if rejection.is_empty() {
            let success = matches!(reply.status, 200 | 201);
            assert!(
                success,
                "{command} {body}: {} {}",
                reply.status,
                reply.text()
            );
            continue;
        }
        assert_problem(&reply, 422, "command-rejected");
        let problem = reply.json();
        assert_eq!(
            problem["rejection"],
            json!(rejection),
            "{command} {body}: {problem}"
        );
        assert_eq!(problem["outcome"], json!("not_applied"));
    }
}

#[test]
fn accounts_reject_what_their_rules_forbid() {
    let fixture = Fixture::new();
    let open = json!({"owner": "ada", "currency": "EUR"});
    let cents = |amount: i64| json!({ "amount_cents": amount });
    let correct = |amount: i64, refers_to: u64| json!({"amount_cents": amount, "reason": "booked twice", "refers_to": refers_to});
    play(
        &mut fixture.node.client(),
        "account",
        "a",
        &[
            ("Deposit", cents(1), "account-not-open"),
            ("CloseAccount", json!({}), "account-not-open"),
            ("OpenAccount", open.clone(), ""),
            ("OpenAccount", open, "account-already-open"),
            ("Deposit", cents(0), "amount-not-positive"),
            ("Deposit", cents(-1), "amount-not-positive"),
            ("Withdraw", cents(1), "insufficient-funds"),
            ("Deposit", cents(1_050), ""),
            ("ReceivePremium", cents(100), ""),
            ("CreditInterest", json!({"rate_percent": "1"}), ""),
            ("CloseAccount", json!({}), "balance-not-zero"),
            ("Correct", correct(0, 1), "amount-not-positive"),
            ("Correct", correct(1, 6), "event-not-found"),
            ("Correct", correct(1, 0), "event-not-found"),
            ("Correct", correct(-1_163, 2), "insufficient-funds"),
            ("Correct", correct(i64::MAX, 2), "amount-too-large"),
            ("Correct", correct(-500, 2), ""),
            ("Correct", correct(500, 5), ""),
            ("Withdraw", cents(1_163), "insufficient-funds"),
            ("Withdraw", cents(1_162), ""),
            ("CloseAccount", json!({}), ""),
            ("Deposit", cents(1), "account-not-open"),
        ],
    );
}

#[test]
fn a_rejection_carries_the_fields_of_its_domain() {
    let fixture = Fixture::new();
    let mut http = fixture.node.client();
    let open = json!({"owner": "ada", "currency": "EUR"});
    let steps = [
        ("OpenAccount", open, ""),
        ("Deposit", json!({"amount_cents": 70}), ""),
    ];
    play(&mut http, "account", "a", &steps);
    let reply = http.send(&Request::command(
        "account",
        "a",
        "Withdraw",
        r#"{"amount_cents":71}"#,
    ));
    assert_problem(&reply, 422, "command-rejected");
    assert_eq!(reply.json()["balance_cents"], json!(70), "{}", reply.text());
}

#[test]
fn an_amount_that_would_overflow_is_rejected() {
    let fixture = Fixture::new();
    let mut http = fixture.node.client();
    let open = json!({"owner": "ada", "currency": "EUR"});
    let steps = [
        ("OpenAccount", open, ""),
        ("Deposit", json!({"amount_cents": i64::MAX}), ""),
    ];
    play(&mut http, "account", "a", &steps);
    let one_more = http.send(&Request::command(
        "account",
        "a",
        "Deposit",
        r#"{"amount_cents":1}"#,
    ));
    assert_problem(&one_more, 422, "command-rejected");
}

#[test]
fn orders_reject_what_their_rules_forbid() {
    let fixture = Fixture::new();
    let item =
        |quantity: i64| json!({"product": "tea", "quantity": quantity, "unit_price_cents": 250});
    let create = json!({"customer": "ada"});
    play(
        &mut fixture.node.client(),
        "order",
        "o",
        &[
            ("Pay", json!({}), "order-not-found"),
            ("CreateOrder", create.clone(), ""),
            ("CreateOrder", create, "order-already-exists"),
            ("Pay", json!({}), "order-empty"),
            ("AddItem", item(0), "quantity-not-positive"),
            ("AddItem", item(2), ""),
            ("RemoveItem", json!({"product": "milk"}), "item-not-found"),
            ("Ship", json!({}), "not-paid"),
            ("Pay", json!({}), ""),
            ("AddItem", item(1), "order-not-open"),
            ("Ship", json!({}), ""),
            ("Cancel", json!({"reason": "late"}), "too-late-to-cancel"),
            ("Deliver", json!({}), ""),
        ],
    );
}

#[test]
fn workshop_days_never_plan_more_jobs_than_workstations() {
    let fixture = Fixture::new();
    let job = |id: &str, vehicle: &str| {
        json!({
            "job_id": id, "vehicle": vehicle, "description": "brakes",
            "start": "2026-11-21T08:00:00Z", "end": "2026-11-21T09:00:00Z",
        })
    };
    play(
        &mut fixture.node.client(),
        "workshop_day",
        "north@2026-11-21",
        &[
            ("PlanMaintenanceJob", job("1", "v-1"), ""),
            (
                "PlanMaintenanceJob",
                job("2", "v-1"),
                "vehicle-already-planned",
            ),
            ("PlanMaintenanceJob", job("2", "v-2"), ""),
            ("PlanMaintenanceJob", job("3", "v-3"), ""),
            (
                "PlanMaintenanceJob",
                job("4", "v-4"),
                "workstations-occupied",
            ),
            ("CancelMaintenanceJob", json!({"job_id": "2"}), ""),
            ("PlanMaintenanceJob", job("4", "v-4"), ""),
        ],
    );
}

#[test]
fn a_prescription_goes_no_way_that_its_state_machine_does_not_know() {
    let fixture = Fixture::new();
    let mut http = fixture.node.client();
    let draft = json!({
        "patient": "p", "prescriber": "d", "medication": "m", "dosage": "1-0-1",
        "quantity": 20, "refills_allowed": 1,
    });
    play(
        &mut http,
        "prescription",
        "rx",
        &[
            ("DraftPrescription", draft, ""),
            ("DispensePrescription", json!({}), "illegal-transition"),
            ("SignPrescription", json!({}), ""),
            ("TransmitPrescription", json!({"pharmacy": "corner"}), ""),
            ("DispensePrescription", json!({}), ""),
            ("RefillPrescription", json!({}), ""),
        ],
    );
    let refused = http.send(&Request::command(
        "prescription",
        "rx",
        "SignPrescription",
        "{}",
    ));
    assert_problem(&refused, 422, "command-rejected");
    let problem = refused.json();
    assert!(problem["from"].is_string(), "{problem}");
    assert_eq!(problem["command"], json!("SignPrescription"));
}
