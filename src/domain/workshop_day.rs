//! One workshop's planning for a day: which vehicle is worked on when.
//!
//! This file owns the rules of one day. It refuses to know staff, parts or opening hours, and does
//! not look into the id. Its invariant, over all jobs that are not cancelled, at every instant: at
//! most [`WORKSTATIONS`] jobs, and at most one on each vehicle.
//!
//! Decisions where the rules leave a choice:
//! - A job takes its time from the start up to, but not including, the end: the next job may begin
//!   at the instant at which one ends.
//! - A finished job counts with the time that it actually took. The invariant holds for that time
//!   as well: what ran late must first be given room, by cancelling the plan that stands in its way.
//! - When a plan fails on both counts, the workstations are named.
//! - The id of a job is used once, also after the job was cancelled.

use phalanx_actors::{Aggregate, Context, Justification};

mod slot;
mod types;

#[cfg(test)]
mod properties;
#[cfg(test)]
mod tests;

pub use slot::Slot;
pub use types::{
    Job, JobStatus, WorkshopDayCommand, WorkshopDayEvent, WorkshopDayRejection, WorkshopDayState,
};

/// How many jobs a workshop can work on at once.
pub const WORKSTATIONS: usize = 3;

/// One workshop's planning for a day.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WorkshopDay;

impl Aggregate for WorkshopDay {
    const TYPE: &'static str = "workshop_day";
    const DESCRIPTION: &'static str =
        "One workshop's planning for a day: three workstations, one job per vehicle at a time.";

    type State = WorkshopDayState;
    type Command = WorkshopDayCommand;
    type Event = WorkshopDayEvent;
    type Rejection = WorkshopDayRejection;

    fn decide(
        state: &WorkshopDayState,
        command: WorkshopDayCommand,
        _: &Context<'_>,
    ) -> Result<Vec<WorkshopDayEvent>, WorkshopDayRejection> {
        match command {
            WorkshopDayCommand::PlanMaintenanceJob {
                job_id,
                vehicle,
                start,
                end,
                description,
            } => {
                if state.job(&job_id).is_some() {
                    return Err(WorkshopDayRejection::JobAlreadyExists);
                }
                let slot = Slot::new(start, end).ok_or(WorkshopDayRejection::EndNotAfterStart)?;
                check_room(state, &job_id, &vehicle, slot)?;
                Ok(vec![WorkshopDayEvent::MaintenanceJobPlanned {
                    job_id,
                    vehicle,
                    start,
                    end,
                    description,
                }])
            }
            WorkshopDayCommand::FinishMaintenanceJob {
                job_id,
                actual_start,
                actual_end,
                notes,
            } => {
                let job = planned_job(state, &job_id)?;
                let slot = Slot::new(actual_start, actual_end)
                    .ok_or(WorkshopDayRejection::EndNotAfterStart)?;
                check_room(state, &job_id, &job.vehicle, slot)?;
                Ok(vec![WorkshopDayEvent::MaintenanceJobFinished {
                    job_id,
                    actual_start,
                    actual_end,
                    notes,
                }])
            }
            WorkshopDayCommand::CancelMaintenanceJob { job_id } => {
                planned_job(state, &job_id)?;
                Ok(vec![WorkshopDayEvent::MaintenanceJobCancelled { job_id }])
            }
        }
    }

    fn evolve(state: &mut WorkshopDayState, event: &WorkshopDayEvent) {
        match event {
            WorkshopDayEvent::MaintenanceJobPlanned {
                job_id,
                vehicle,
                start,
                end,
                description,
            } => state.jobs.push(Job {
                job_id: job_id.clone(),
                vehicle: vehicle.clone(),
                start: *start,
                end: *end,
                description: description.clone(),
                status: JobStatus::Planned,
                actual_start: None,
                actual_end: None,
                notes: None,
            }),
            WorkshopDayEvent::MaintenanceJobFinished {
                job_id,
                actual_start,
                actual_end,
                notes,
            } => {
                if let Some(job) = state.job_mut(job_id) {
                    job.status = JobStatus::Finished;
                    job.actual_start = Some(*actual_start);
                    job.actual_end = Some(*actual_end);
                    job.notes = Some(notes.clone());
                }
            }
            WorkshopDayEvent::MaintenanceJobCancelled { job_id } => {
                if let Some(job) = state.job_mut(job_id) {
                    job.status = JobStatus::Cancelled;
                }
            }
        }
    }

    fn justifications() -> Vec<Justification> {
        vec![
            Justification {
                name: "planning-board",
                description: "A planner looks for a free workstation while the customer waits on \
                              the telephone.",
                rate_limit_per_second: 100,
            },
            super::OPERATOR,
        ]
    }

    fn views() -> Vec<&'static str> {
        vec!["maintenance_jobs"]
    }
}

/// Finds a job that is still to be done.
fn planned_job<'a>(
    state: &'a WorkshopDayState,
    job_id: &str,
) -> Result<&'a Job, WorkshopDayRejection> {
    let job = state.job(job_id).ok_or(WorkshopDayRejection::JobNotFound)?;
    match job.status {
        JobStatus::Planned => Ok(job),
        JobStatus::Finished => Err(WorkshopDayRejection::JobAlreadyFinished),
        JobStatus::Cancelled => Err(WorkshopDayRejection::JobAlreadyCancelled),
    }
}

/// There must be a free workstation and an idle vehicle during all of `slot`. The job itself, when
/// it is already planned, does not stand in its own way.
fn check_room(
    state: &WorkshopDayState,
    job_id: &str,
    vehicle: &str,
    slot: Slot,
) -> Result<(), WorkshopDayRejection> {
    let others = || {
        state
            .jobs
            .iter()
            .filter(|job| job.job_id != job_id)
            .filter_map(|job| Some((job, job.occupied()?)))
            .filter(|(_, occupied)| occupied.overlaps(slot))
    };
    // Stretches of time that pairwise overlap have an instant in common. So jobs that all overlap
    // `slot` and are parallel at some instant are parallel within `slot` as well.
    if slot::most_at_once(others().map(|(_, occupied)| occupied)) >= WORKSTATIONS {
        return Err(WorkshopDayRejection::WorkstationsOccupied);
    }
    if others().any(|(job, _)| job.vehicle == vehicle) {
        return Err(WorkshopDayRejection::VehicleAlreadyPlanned);
    }
    Ok(())
}
