//! An electronic prescription, from the prescriber's draft to the last refill.
//!
//! ```text
//! draft --Sign--> signed --Transmit--> transmitted --Dispense--> dispensed --Complete--> completed
//!   |               |                      |                      |    ^
//!   +--- Cancel ----+------- Cancel -------+--> cancelled         +----+ Refill
//! ```
//!
//! This file owns that state machine. It refuses to know medicine: what is prescribed is text that
//! it keeps unchanged from the draft on. Its invariant: never more refills than were allowed.
//!
//! Decisions where the rules leave a choice:
//! - Once something was handed out the prescription cannot be cancelled; completing it ends it, and
//!   the refills that are left lapse.
//! - Completed and cancelled are final.
//! - A prescription that nobody has drafted is in the state `none`, as far as a refused transition
//!   is concerned; no stored state has that name.

use phalanx_actors::{Aggregate, Context, Justification};

mod types;

#[cfg(test)]
mod properties;
#[cfg(test)]
mod tests;

pub use types::{
    PrescriptionCommand, PrescriptionEvent, PrescriptionRejection, PrescriptionState,
    PrescriptionStatus,
};

/// An electronic prescription.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Prescription;

impl Aggregate for Prescription {
    const TYPE: &'static str = "prescription";
    const DESCRIPTION: &'static str =
        "An electronic prescription: drafted, signed, transmitted, dispensed, refilled, completed.";

    type State = PrescriptionState;
    type Command = PrescriptionCommand;
    type Event = PrescriptionEvent;
    type Rejection = PrescriptionRejection;

    fn decide(
        state: &PrescriptionState,
        command: PrescriptionCommand,
        context: &Context<'_>,
    ) -> Result<Vec<PrescriptionEvent>, PrescriptionRejection> {
        let status = (context.sequence_number > 0).then_some(state.status);
        if !is_legal(status, &command) {
            return Err(PrescriptionRejection::IllegalTransition {
                from: status.map_or("none", PrescriptionStatus::name),
                command: command.name(),
            });
        }
        accept(state, command).map(|event| vec![event])
    }

    fn evolve(state: &mut PrescriptionState, event: &PrescriptionEvent) {
        match event {
            PrescriptionEvent::PrescriptionDrafted {
                patient,
                prescriber,
                medication,
                dosage,
                quantity,
                refills_allowed,
            } => {
                *state = PrescriptionState {
                    patient: patient.clone(),
                    prescriber: prescriber.clone(),
                    medication: medication.clone(),
                    dosage: dosage.clone(),
                    quantity: *quantity,
                    refills_allowed: *refills_allowed,
                    ..PrescriptionState::default()
                };
            }
            PrescriptionEvent::PrescriptionSigned {} => {
                state.status = PrescriptionStatus::Signed;
            }
            PrescriptionEvent::PrescriptionTransmitted { pharmacy } => {
                state.pharmacy = Some(pharmacy.clone());
                state.status = PrescriptionStatus::Transmitted;
            }
            PrescriptionEvent::PrescriptionDispensed {} => {
                state.status = PrescriptionStatus::Dispensed;
            }
            PrescriptionEvent::PrescriptionRefilled {} => {
                state.refills_used = state.refills_used.saturating_add(1);
            }
            PrescriptionEvent::PrescriptionCompleted {} => {
                state.status = PrescriptionStatus::Completed;
            }
            PrescriptionEvent::PrescriptionCancelled { reason } => {
                state.cancel_reason = Some(reason.clone());
                state.status = PrescriptionStatus::Cancelled;
            }
        }
    }

    fn justifications() -> Vec<Justification> {
        vec![
            Justification {
                name: "dispensing-check",
                description: "A pharmacist makes sure, before handing anything out, that the \
                              prescription is neither cancelled nor used up.",
                rate_limit_per_second: 1_000,
            },
            super::OPERATOR,
        ]
    }

    fn views() -> Vec<&'static str> {
        vec!["prescriptions"]
    }
}

/// The state machine: whether a command may be given in a status. `None`: it was never drafted.
fn is_legal(status: Option<PrescriptionStatus>, command: &PrescriptionCommand) -> bool {
    use PrescriptionStatus as Status;
    match command {
        PrescriptionCommand::DraftPrescription { .. } => status.is_none(),
        PrescriptionCommand::SignPrescription {} => status == Some(Status::Draft),
        PrescriptionCommand::TransmitPrescription { .. } => status == Some(Status::Signed),
        PrescriptionCommand::DispensePrescription {} => status == Some(Status::Transmitted),
        PrescriptionCommand::RefillPrescription {}
        | PrescriptionCommand::CompletePrescription {} => status == Some(Status::Dispensed),
        PrescriptionCommand::CancelPrescription { .. } => matches!(
            status,
            Some(Status::Draft | Status::Signed | Status::Transmitted)
        ),
    }
}

/// Decides a command that is legal in the present status.
fn accept(
    state: &PrescriptionState,
    command: PrescriptionCommand,
) -> Result<PrescriptionEvent, PrescriptionRejection> {
    match command {
        PrescriptionCommand::DraftPrescription { quantity, .. } if quantity <= 0 => {
            Err(PrescriptionRejection::QuantityNotPositive)
        }
        PrescriptionCommand::DraftPrescription {
            patient,
            prescriber,
            medication,
            dosage,
            quantity,
            refills_allowed,
        } => Ok(PrescriptionEvent::PrescriptionDrafted {
            patient,
            prescriber,
            medication,
            dosage,
            quantity,
            refills_allowed,
        }),
        PrescriptionCommand::SignPrescription {} => Ok(PrescriptionEvent::PrescriptionSigned {}),
        PrescriptionCommand::TransmitPrescription { pharmacy } => {
            Ok(PrescriptionEvent::PrescriptionTransmitted { pharmacy })
        }
        PrescriptionCommand::DispensePrescription {} => {
            Ok(PrescriptionEvent::PrescriptionDispensed {})
        }
        PrescriptionCommand::RefillPrescription {}
            if state.refills_used >= state.refills_allowed =>
        {
            Err(PrescriptionRejection::NoRefillsLeft {
                refills_allowed: state.refills_allowed,
            })
        }
        PrescriptionCommand::RefillPrescription {} => {
            Ok(PrescriptionEvent::PrescriptionRefilled {})
        }
        PrescriptionCommand::CompletePrescription {} => {
            Ok(PrescriptionEvent::PrescriptionCompleted {})
        }
        PrescriptionCommand::CancelPrescription { reason } => {
            Ok(PrescriptionEvent::PrescriptionCancelled { reason })
        }
    }
}
