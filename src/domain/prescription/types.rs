//! The words of a prescription: its state, commands, events and rejections.
//!
//! This file owns shapes, not rules. The invariant: names are part of the HTTP contract, and the
//! stored bytes of events and state change only together with their schema versions.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// What a prescription remembers.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct PrescriptionState {
    /// For whom.
    pub patient: String,
    /// By whom.
    pub prescriber: String,
    /// What.
    pub medication: String,
    /// How to take it.
    pub dosage: String,
    /// How many units are handed out each time, above 0.
    pub quantity: i64,
    /// How often it may be handed out again.
    pub refills_allowed: u32,
    /// How often it was handed out again, at most `refills_allowed`.
    pub refills_used: u32,
    /// Where it was sent to, once it was.
    pub pharmacy: Option<String>,
    /// Why it was cancelled, if it was.
    pub cancel_reason: Option<String>,
    /// How far it has come.
    pub status: PrescriptionStatus,
}

/// How far a prescription has come.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum PrescriptionStatus {
    /// Written, not yet valid.
    #[default]
    Draft,
    /// Signed by the prescriber.
    Signed,
    /// At the pharmacy.
    Transmitted,
    /// Handed out at least once.
    Dispensed,
    /// Done; nothing more is handed out.
    Completed,
    /// Withdrawn before anything was handed out.
    Cancelled,
}

impl PrescriptionStatus {
    /// The name that clients see.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Draft => "draft",
            Self::Signed => "signed",
            Self::Transmitted => "transmitted",
            Self::Dispensed => "dispensed",
            Self::Completed => "completed",
            Self::Cancelled => "cancelled",
        }
    }
}

/// What a client may ask of a prescription.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub enum PrescriptionCommand {
    /// Writes the prescription.
    DraftPrescription {
        /// For whom.
        patient: String,
        /// By whom.
        prescriber: String,
        /// What.
        medication: String,
        /// How to take it.
        dosage: String,
        /// How many units are handed out each time, above 0.
        quantity: i64,
        /// How often it may be handed out again.
        refills_allowed: u32,
    },
    /// Makes the draft valid.
    SignPrescription {},
    /// Sends it to a pharmacy.
    TransmitPrescription {
        /// Which one.
        pharmacy: String,
    },
    /// Hands it out for the first time.
    DispensePrescription {},
    /// Hands it out again.
    RefillPrescription {},
    /// Ends it; refills that are left lapse.
    CompletePrescription {},
    /// Withdraws it, before anything was handed out.
    CancelPrescription {
        /// Why, in the client's words.
        reason: String,
    },
}

impl PrescriptionCommand {
    /// The name that clients use in the path.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::DraftPrescription { .. } => "DraftPrescription",
            Self::SignPrescription {} => "SignPrescription",
            Self::TransmitPrescription { .. } => "TransmitPrescription",
            Self::DispensePrescription {} => "DispensePrescription",
            Self::RefillPrescription {} => "RefillPrescription",
            Self::CompletePrescription {} => "CompletePrescription",
            Self::CancelPrescription { .. } => "CancelPrescription",
        }
    }
}

/// What happened to a prescription.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum PrescriptionEvent {
    /// It was written.
    PrescriptionDrafted {
        /// For whom.
        patient: String,
        /// By whom.
        prescriber: String,
        /// What.
        medication: String,
        /// How to take it.
        dosage: String,
        /// How many units are handed out each time.
        quantity: i64,
        /// How often it may be handed out again.
        refills_allowed: u32,
    },
    /// The prescriber signed it.
    PrescriptionSigned {},
    /// It was sent to a pharmacy.
    PrescriptionTransmitted {
        /// Which one.
        pharmacy: String,
    },
    /// It was handed out for the first time.
    PrescriptionDispensed {},
    /// It was handed out again.
    PrescriptionRefilled {},
    /// It ended.
    PrescriptionCompleted {},
    /// It was withdrawn.
    PrescriptionCancelled {
        /// Why, in the client's words.
        reason: String,
    },
}

/// Why a prescription refuses a command.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema, thiserror::Error)]
#[serde(rename_all = "kebab-case")]
pub enum PrescriptionRejection {
    /// The command does not belong to the present status.
    #[error("{command} is not possible when the prescription's status is {from}")]
    IllegalTransition {
        /// The present status, or `none` when the prescription was never drafted.
        from: &'static str,
        /// The command that was refused.
        command: &'static str,
    },
    /// It was handed out as often as it may be.
    #[error("all {refills_allowed} allowed refills are used")]
    NoRefillsLeft {
        /// How often it may be handed out again.
        refills_allowed: u32,
    },
    /// A quantity is zero or negative.
    #[error("a quantity must be above zero")]
    QuantityNotPositive,
}
