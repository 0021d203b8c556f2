//! `maintenance_jobs`: every job of every workshop's day.
//!
//! A job's id is unique within its day only, so the key is `day/job`. No day has a slash in its id,
//! which makes that unambiguous.

use phalanx_actors::projection::{
    EventMeta, Handled, HandlerError, Projection, Row, Rows, Subscriptions, Table,
};

use super::sequence;
use crate::domain::{WorkshopDay, WorkshopDayEvent};

/// Every maintenance job.
#[derive(Debug)]
pub struct MaintenanceJobs;

const TABLE: &str = "maintenance_jobs";

impl Projection for MaintenanceJobs {
    const NAME: &'static str = "maintenance_jobs";
    const VERSION: u32 = 1;
    const DESCRIPTION: &'static str =
        "Every job of every workshop's day: which vehicle, when it is planned, when it was done.";

    fn tables() -> Vec<Table> {
        vec![
            Table::new(TABLE, "id")
                .text("id")
                .text("workshop_day")
                .text("job_id")
                .text("vehicle")
                .time("start")
                .time("end")
                .text("description")
                .text("status")
                .time("actual_start")
                .nullable()
                .time("actual_end")
                .nullable()
                .text("notes")
                .nullable()
                .integer("sequence_number")
                .index(["workshop_day", "start"])
                .index(["vehicle", "start"])
                .index(["status"]),
        ]
    }

    fn subscriptions() -> Subscriptions {
        Subscriptions::default().on::<WorkshopDay>(handle)
    }
}

fn handle(event: &WorkshopDayEvent, meta: &EventMeta<'_>, rows: &mut Rows<'_>) -> Handled {
    let day = meta.aggregate_id;
    match event {
        WorkshopDayEvent::MaintenanceJobPlanned {
            job_id,
            vehicle,
            start,
            end,
            description,
        } => {
            let row = Row::default()
                .with("id", key(day, job_id))
                .with("workshop_day", day)
                .with("job_id", job_id)
                .with("vehicle", vehicle)
                .with("start", *start)
                .with("end", *end)
                .with("description", description)
                .with("status", "planned")
                .with("actual_start", None::<&str>)
                .with("actual_end", None::<&str>)
                .with("notes", None::<&str>)
                .with("sequence_number", sequence(meta));
            rows.put(TABLE, row)
        }
        WorkshopDayEvent::MaintenanceJobFinished {
            job_id,
            actual_start,
            actual_end,
            notes,
        } => {
            let mut row = job(rows, day, job_id)?;
            row.set("status", "finished");
            row.set("actual_start", *actual_start);
            row.set("actual_end", *actual_end);
            row.set("notes", notes);
            row.set("sequence_number", sequence(meta));
            rows.put(TABLE, row)
        }
        WorkshopDayEvent::MaintenanceJobCancelled { job_id } => {
            let mut row = job(rows, day, job_id)?;
            row.set("status", "cancelled");
            row.set("sequence_number", sequence(meta));
            rows.put(TABLE, row)
        }
    }
}

fn key(day: &str, job_id: &str) -> String {
    format!("{day}/{job_id}")
}

fn job(rows: &mut Rows<'_>, day: &str, job_id: &str) -> Result<Row, HandlerError> {
    let row = rows.get(TABLE, key(day, job_id))?;
    row.ok_or_else(|| HandlerError::refused(format!("no job `{job_id}` was planned")))
}
