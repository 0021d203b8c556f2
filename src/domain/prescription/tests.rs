//! What a prescription does and refuses, one sentence each, and how it looks to a client.

use phalanx_actors::Aggregate;
use phalanx_actors::testkit::{Given, given};
use serde_json::json;

use super::PrescriptionCommand::*;
use super::PrescriptionEvent::*;
use super::{
    Prescription, PrescriptionCommand, PrescriptionEvent, PrescriptionRejection, PrescriptionStatus,
};

fn text(words: &str) -> String {
    words.to_owned()
}

fn draft(quantity: i64, refills_allowed: u32) -> PrescriptionCommand {
    DraftPrescription {
        patient: text("p-7"),
        prescriber: text("dr-3"),
        medication: text("amoxicillin 500 mg"),
        dosage: text("1-1-1"),
        quantity,
        refills_allowed,
    }
}

fn drafted(refills_allowed: u32) -> PrescriptionEvent {
    PrescriptionDrafted {
        patient: text("p-7"),
        prescriber: text("dr-3"),
        medication: text("amoxicillin 500 mg"),
        dosage: text("1-1-1"),
        quantity: 20,
        refills_allowed,
    }
}

fn transmit() -> PrescriptionCommand {
    TransmitPrescription {
        pharmacy: text("corner"),
    }
}

fn transmitted() -> PrescriptionEvent {
    PrescriptionTransmitted {
        pharmacy: text("corner"),
    }
}

fn cancel() -> PrescriptionCommand {
    CancelPrescription {
        reason: text("wrong dose"),
    }
}

fn cancelled() -> PrescriptionEvent {
    PrescriptionCancelled {
        reason: text("wrong dose"),
    }
}

/// A prescription with one refill that has come to `status`; `none` is one that nobody drafted.
fn in_status(status: &str) -> Given<Prescription> {
    let way = [
        drafted(1),
        PrescriptionSigned {},
        transmitted(),
        PrescriptionDispensed {},
        PrescriptionCompleted {},
    ];
    match status {
        "none" => given([]),
        "draft" => given(way[..1].to_vec()),
        "signed" => given(way[..2].to_vec()),
        "transmitted" => given(way[..3].to_vec()),
        "dispensed" => given(way[..4].to_vec()),
        "completed" => given(way),
        "cancelled" => given([drafted(1), cancelled()]),
        _ => panic!("no such status: {status}"),
    }
}

/// The state machine once more, as a table: what each command does in the statuses that allow it.
fn legal() -> Vec<(&'static str, PrescriptionCommand, PrescriptionEvent)> {
    vec![
        ("none", draft(20, 1), drafted(1)),
        ("draft", SignPrescription {}, PrescriptionSigned {}),
        ("signed", transmit(), transmitted()),
        (
            "transmitted",
            DispensePrescription {},
            PrescriptionDispensed {},
        ),
        ("dispensed", RefillPrescription {}, PrescriptionRefilled {}),
        (
            "dispensed",
            CompletePrescription {},
            PrescriptionCompleted {},
        ),
        ("draft", cancel(), cancelled()),
        ("signed", cancel(), cancelled()),
        ("transmitted", cancel(), cancelled()),
    ]
}

#[test]
fn every_status_allows_its_commands_and_refuses_all_others() {
    let statuses = [
        "none",
        "draft",
        "signed",
        "transmitted",
        "dispensed",
        "completed",
        "cancelled",
    ];
    let commands = [
        (draft(20, 1), "DraftPrescription"),
        (SignPrescription {}, "SignPrescription"),
        (transmit(), "TransmitPrescription"),
        (DispensePrescription {}, "DispensePrescription"),
        (RefillPrescription {}, "RefillPrescription"),
        (CompletePrescription {}, "CompletePrescription"),
        (cancel(), "CancelPrescription"),
    ];
    for from in statuses {
        for (sent, command) in &commands {
            let event = legal()
                .into_iter()
                .find(|(status, legal, _)| *status == from && legal == sent)
                .map(|(_, _, event)| event);
            let outcome = in_status(from).when(sent.clone());
            match event {
                Some(event) => outcome.then([event]),
                None => outcome
                    .then_rejected(PrescriptionRejection::IllegalTransition { from, command }),
            };
        }
    }
}

#[test]
fn a_prescription_goes_all_the_way() {
    let done = given::<Prescription>([])
        .when(draft(20, 1))
        .then([drafted(1)])
        .when(SignPrescription {})
        .then([PrescriptionSigned {}])
        .when(transmit())
        .then([transmitted()])
        .when(DispensePrescription {})
        .then([PrescriptionDispensed {}])
        .when(RefillPrescription {})
        .then([PrescriptionRefilled {}])
        .when(CompletePrescription {})
        .then([PrescriptionCompleted {}]);
    assert_eq!(
        serde_json::to_value(done.state()).unwrap(),
        json!({
            "patient": "p-7",
            "prescriber": "dr-3",
            "medication": "amoxicillin 500 mg",
            "dosage": "1-1-1",
            "quantity": 20,
            "refills_allowed": 1,
            "refills_used": 1,
            "pharmacy": "corner",
            "cancel_reason": null,
            "status": "completed",
        })
    );
}

#[test]
fn each_command_leads_to_its_status() {
    for status in [
        PrescriptionStatus::Draft,
        PrescriptionStatus::Signed,
        PrescriptionStatus::Transmitted,
        PrescriptionStatus::Dispensed,
        PrescriptionStatus::Completed,
        PrescriptionStatus::Cancelled,
    ] {
        assert_eq!(in_status(status.name()).state().status, status);
        assert_eq!(
            serde_json::to_value(status).unwrap(),
            status.name(),
            "a status has one name"
        );
    }
}

#[test]
fn it_is_refilled_as_often_as_it_was_allowed() {
    let mut dispensed = given::<Prescription>([
        drafted(2),
        PrescriptionSigned {},
        transmitted(),
        PrescriptionDispensed {},
    ]);
    for used in 1..=2 {
        dispensed = dispensed
            .when(RefillPrescription {})
            .then([PrescriptionRefilled {}]);
        assert_eq!(dispensed.state().refills_used, used);
        assert_eq!(dispensed.state().status, PrescriptionStatus::Dispensed);
    }
    dispensed
        .when(RefillPrescription {})
        .then_rejected(PrescriptionRejection::NoRefillsLeft { refills_allowed: 2 });
}

#[test]
fn it_may_be_completed_with_refills_left() {
    in_status("dispensed")
        .when(CompletePrescription {})
        .then([PrescriptionCompleted {}])
        .when(RefillPrescription {})
        .then_rejected(PrescriptionRejection::IllegalTransition {
            from: "completed",
            command: "RefillPrescription",
        });
}

#[test]
fn the_reason_of_a_cancellation_is_kept() {
    let after = in_status("signed").when(cancel()).then([cancelled()]);
    assert_eq!(after.state().cancel_reason.as_deref(), Some("wrong dose"));
}

#[test]
fn a_quantity_of_zero_or_less_is_refused() {
    for quantity in [0, -1, i64::MIN] {
        given::<Prescription>([])
            .when(draft(quantity, 0))
            .then_rejected(PrescriptionRejection::QuantityNotPositive);
    }
}

#[test]
fn a_client_sees_the_rejections_of_the_contract() {
    let rejection = PrescriptionRejection::IllegalTransition {
        from: "draft",
        command: "DispensePrescription",
    };
    assert_eq!(
        serde_json::to_value(&rejection).unwrap(),
        json!({"illegal-transition": {"from": "draft", "command": "DispensePrescription"}})
    );
    assert_eq!(
        rejection.to_string(),
        "DispensePrescription is not possible when the prescription's status is draft"
    );
    assert_eq!(
        serde_json::to_value(PrescriptionRejection::NoRefillsLeft { refills_allowed: 2 }).unwrap(),
        json!({"no-refills-left": {"refills_allowed": 2}})
    );
}

#[test]
fn commands_are_read_by_the_names_that_rejections_show() {
    for (json, command) in [
        (
            json!({"DraftPrescription": {
                "patient": "p-7", "prescriber": "dr-3", "medication": "amoxicillin 500 mg",
                "dosage": "1-1-1", "quantity": 20, "refills_allowed": 1,
            }}),
            draft(20, 1),
        ),
        (json!({"SignPrescription": {}}), SignPrescription {}),
        (
            json!({"TransmitPrescription": {"pharmacy": "corner"}}),
            transmit(),
        ),
        (json!({"DispensePrescription": {}}), DispensePrescription {}),
        (json!({"RefillPrescription": {}}), RefillPrescription {}),
        (json!({"CompletePrescription": {}}), CompletePrescription {}),
        (
            json!({"CancelPrescription": {"reason": "wrong dose"}}),
            cancel(),
        ),
    ] {
        let read: PrescriptionCommand = serde_json::from_value(json.clone()).unwrap();
        assert_eq!(read, command);
        assert!(json.get(command.name()).is_some(), "{json}");
    }
}

#[test]
fn malformed_commands_are_not_read() {
    for json in [
        json!({"SignPrescription": {"by": "me"}}),
        json!({"TransmitPrescription": {}}),
        json!({"DraftPrescription": {
            "patient": "p-7", "prescriber": "dr-3", "medication": "x", "dosage": "1-1-1",
            "quantity": 20, "refills_allowed": -1,
        }}),
    ] {
        let read = serde_json::from_value::<PrescriptionCommand>(json.clone());
        assert!(read.is_err(), "{json} was read as {read:?}");
    }
}

#[test]
fn clients_are_told_why_and_where_they_may_read() {
    assert_eq!(Prescription::views(), ["prescriptions"]);
    let names: Vec<_> = Prescription::justifications()
        .iter()
        .map(|j| j.name)
        .collect();
    assert_eq!(names, ["dispensing-check", "operator"]);
}
