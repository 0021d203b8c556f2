//! `prescriptions`: every prescription as it is.

use phalanx_actors::projection::{EventMeta, Handled, Projection, Row, Rows, Subscriptions, Table};

use super::{own_row, sequence};
use crate::domain::prescription::PrescriptionStatus;
use crate::domain::{Prescription, PrescriptionEvent};

/// Every prescription.
#[derive(Debug)]
pub struct Prescriptions;

const TABLE: &str = "prescriptions";

impl Projection for Prescriptions {
    const NAME: &'static str = "prescriptions";
    const VERSION: u32 = 1;
    const DESCRIPTION: &'static str = "Every prescription: for whom, by whom, what, how far it is.";

    fn tables() -> Vec<Table> {
        vec![
            Table::new(TABLE, "id")
                .text("id")
                .text("patient")
                .text("prescriber")
                .text("medication")
                .text("dosage")
                .integer("quantity")
                .integer("refills_allowed")
                .integer("refills_used")
                .text("pharmacy")
                .nullable()
                .text("status")
                .text("cancel_reason")
                .nullable()
                .integer("sequence_number")
                .index(["patient"])
                .index(["status"]),
        ]
    }

    fn subscriptions() -> Subscriptions {
        Subscriptions::default().on::<Prescription>(handle)
    }
}

fn handle(event: &PrescriptionEvent, meta: &EventMeta<'_>, rows: &mut Rows<'_>) -> Handled {
    use PrescriptionStatus as Status;
    if let PrescriptionEvent::PrescriptionDrafted {
        patient,
        prescriber,
        medication,
        dosage,
        quantity,
        refills_allowed,
    } = event
    {
        let row = Row::default()
            .with("id", meta.aggregate_id)
            .with("patient", patient)
            .with("prescriber", prescriber)
            .with("medication", medication)
            .with("dosage", dosage)
            .with("quantity", *quantity)
            .with("refills_allowed", *refills_allowed)
            .with("refills_used", 0_u32)
            .with("pharmacy", None::<&str>)
            .with("status", Status::Draft.name())
            .with("cancel_reason", None::<&str>)
            .with("sequence_number", sequence(meta));
        return rows.put(TABLE, row);
    }
    let mut row = own_row(rows, TABLE, meta)?;
    row.set("sequence_number", sequence(meta));
    match event {
        PrescriptionEvent::PrescriptionDrafted { .. } => {}
        PrescriptionEvent::PrescriptionSigned {} => row.set("status", Status::Signed.name()),
        PrescriptionEvent::PrescriptionTransmitted { pharmacy } => {
            row.set("pharmacy", pharmacy);
            row.set("status", Status::Transmitted.name());
        }
        PrescriptionEvent::PrescriptionDispensed {} => row.set("status", Status::Dispensed.name()),
        PrescriptionEvent::PrescriptionRefilled {} => {
            let used = row.integer("refills_used")?;
            row.set("refills_used", used.saturating_add(1));
        }
        PrescriptionEvent::PrescriptionCompleted {} => row.set("status", Status::Completed.name()),
        PrescriptionEvent::PrescriptionCancelled { reason } => {
            row.set("cancel_reason", reason);
            row.set("status", Status::Cancelled.name());
        }
    }
    rows.put(TABLE, row)
}
