//! What holds for a prescription after any commands in any order.

use proptest::prelude::*;

use super::{Prescription, PrescriptionCommand, PrescriptionEvent, PrescriptionStatus};
use crate::domain::random_commands;

fn command() -> impl Strategy<Value = PrescriptionCommand> {
    let text = || "[a-z]{0,3}";
    prop_oneof![
        4 => (text(), -1..5_i64, 0..4_u32).prop_map(|(words, quantity, refills_allowed)| {
            PrescriptionCommand::DraftPrescription {
                patient: words.clone(),
                prescriber: words.clone(),
                medication: words.clone(),
                dosage: words,
                quantity,
                refills_allowed,
            }
        }),
        6 => Just(PrescriptionCommand::SignPrescription {}),
        6 => text().prop_map(|pharmacy| PrescriptionCommand::TransmitPrescription { pharmacy }),
        6 => Just(PrescriptionCommand::DispensePrescription {}),
        6 => Just(PrescriptionCommand::RefillPrescription {}),
        1 => Just(PrescriptionCommand::CompletePrescription {}),
        1 => text().prop_map(|reason| PrescriptionCommand::CancelPrescription { reason }),
    ]
}

proptest! {
    #![proptest_config(random_commands::config())]

    #[test]
    fn nothing_is_handed_out_too_often_unsigned_or_after_the_end(
        commands in prop::collection::vec(command(), 0..60),
    ) {
        let mut events = Vec::new();
        random_commands::run::<Prescription>(commands, |before, _, answer, after| {
            let new: Vec<_> = answer.iter().flatten().cloned().collect();
            let final_status = matches!(
                before.status,
                PrescriptionStatus::Completed | PrescriptionStatus::Cancelled
            );
            assert!(new.is_empty() || !final_status, "{new:?} after the end");
            events.extend(new);

            let place = |event| events.iter().position(|e| *e == event);
            let signed = place(PrescriptionEvent::PrescriptionSigned {});
            let dispensed = place(PrescriptionEvent::PrescriptionDispensed {});
            assert!(dispensed.is_none() || signed < dispensed && signed.is_some());

            let refills = events
                .iter()
                .filter(|e| matches!(e, PrescriptionEvent::PrescriptionRefilled {}))
                .count();
            assert_eq!(refills, usize::try_from(after.refills_used).unwrap());
            assert!(after.refills_used <= after.refills_allowed);
        });
    }
}
