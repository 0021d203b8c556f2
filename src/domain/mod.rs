//! The sample aggregates that the stock node ships: a savings account, an order, a prescription
//! and a workshop's day; and the views over them.
//!
//! This directory owns business rules and nothing else: no I/O, no clock but the one in
//! [`phalanx_actors::Context`], no knowledge of how events are stored or served. Names of commands,
//! fields, statuses and rejections are part of the HTTP contract and therefore never change; the
//! stored bytes of the events are pinned by `tests/golden_events.rs`.

use phalanx_actors::Justification;

pub mod account;
pub mod order;
pub mod prescription;
pub mod views;
pub mod workshop_day;

#[cfg(test)]
mod random_commands;

pub use account::{Account, AccountCommand, AccountEvent, AccountRejection, AccountState};
pub use order::{Order, OrderCommand, OrderEvent, OrderRejection, OrderState};
pub use prescription::{
    Prescription, PrescriptionCommand, PrescriptionEvent, PrescriptionRejection, PrescriptionState,
};
pub use workshop_day::{
    WorkshopDay, WorkshopDayCommand, WorkshopDayEvent, WorkshopDayRejection, WorkshopDayState,
};

/// Declared by every sample. Its rate is far above what one node serves, so that the limit shows up
/// neither in a benchmark nor in an incident.
const OPERATOR: Justification = Justification {
    name: "operator",
    description: "The people who run the node look at one aggregate, or measure the node.",
    rate_limit_per_second: 1_000_000,
};
