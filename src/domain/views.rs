//! The read models of the sample aggregates: what can be asked across them.
//!
//! This directory owns projections and nothing else. Names of views and columns are part of the HTTP
//! contract. Invariant: a row says what the fold of its aggregate's events says.

mod account_totals;
mod accounts;
mod maintenance_jobs;
mod orders;
mod prescriptions;
#[cfg(test)]
mod tests;

pub use account_totals::AccountTotals;
pub use accounts::Accounts;
pub use maintenance_jobs::MaintenanceJobs;
pub use orders::Orders;
pub use prescriptions::Prescriptions;

use phalanx_actors::projection::{EventMeta, HandlerError, Row, Rows};

/// The row of the event's aggregate, which an earlier event must have made.
fn own_row(
    rows: &mut Rows<'_>,
    table: &'static str,
    meta: &EventMeta<'_>,
) -> Result<Row, HandlerError> {
    let row = rows.get(table, meta.aggregate_id)?;
    row.ok_or_else(|| HandlerError::refused("no row: the first event is missing"))
}

/// A sequence number as a column holds it.
fn sequence(meta: &EventMeta<'_>) -> i64 {
    i64::try_from(meta.sequence_number).unwrap_or(i64::MAX)
}
