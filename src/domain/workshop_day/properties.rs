//! What holds for a workshop's planning after any commands in any order, checked by looking at every
//! minute of the day.

use jiff::Timestamp;
use proptest::prelude::*;

use super::{
    Job, JobStatus, WORKSTATIONS, WorkshopDay, WorkshopDayCommand, WorkshopDayRejection,
    WorkshopDayState,
};
use crate::domain::random_commands;

/// The length of the generated days.
const MINUTES: i64 = 24;

fn minute(number: i64) -> Timestamp {
    Timestamp::from_second(number * 60).unwrap()
}

/// Few vehicles, few ids and a short day, so that jobs meet.
fn command() -> impl Strategy<Value = WorkshopDayCommand> {
    let job_id = || "[a-p]";
    let time = || (0..MINUTES, -1..8_i64).prop_map(|(start, length)| (start, start + length));
    prop_oneof![
        5 => (job_id(), "[v-z]", time()).prop_map(|(job_id, vehicle, (start, end))| {
            WorkshopDayCommand::PlanMaintenanceJob {
                job_id,
                vehicle,
                start: minute(start),
                end: minute(end),
                description: String::new(),
            }
        }),
        2 => (job_id(), time()).prop_map(|(job_id, (start, end))| {
            WorkshopDayCommand::FinishMaintenanceJob {
                job_id,
                actual_start: minute(start),
                actual_end: minute(end),
                notes: String::new(),
            }
        }),
        1 => job_id().prop_map(|job_id| WorkshopDayCommand::CancelMaintenanceJob { job_id }),
    ]
}

/// The vehicles that are worked on in the minute that begins at `now`.
fn in_work(jobs: &[Job], now: Timestamp) -> Vec<&str> {
    jobs.iter()
        .filter(|job| match job.status {
            JobStatus::Planned => job.start <= now && now < job.end,
            JobStatus::Finished => {
                job.actual_start.unwrap() <= now && now < job.actual_end.unwrap()
            }
            JobStatus::Cancelled => false,
        })
        .map(|job| job.vehicle.as_str())
        .collect()
}

/// Whether every minute of the day keeps to the number of workstations, and whether it keeps to one
/// job per vehicle.
fn keeps_invariants(jobs: &[Job]) -> (bool, bool) {
    let minutes = || (0..MINUTES + 8).map(|number| in_work(jobs, minute(number)));
    let workstations = minutes().all(|vehicles| vehicles.len() <= WORKSTATIONS);
    let vehicles = minutes().all(|mut vehicles| {
        let jobs = vehicles.len();
        vehicles.sort_unstable();
        vehicles.dedup();
        vehicles.len() == jobs
    });
    (workstations, vehicles)
}

/// The jobs as they would be if the command were accepted without looking.
fn as_if_accepted(state: &WorkshopDayState, command: &WorkshopDayCommand) -> Vec<Job> {
    let mut jobs = state.jobs.clone();
    match command.clone() {
        WorkshopDayCommand::PlanMaintenanceJob {
            job_id,
            vehicle,
            start,
            end,
            description,
        } => jobs.push(Job {
            job_id,
            vehicle,
            start,
            end,
            description,
            status: JobStatus::Planned,
            actual_start: None,
            actual_end: None,
            notes: None,
        }),
        WorkshopDayCommand::FinishMaintenanceJob {
            job_id,
            actual_start,
            actual_end,
            ..
        } => {
            let job = jobs.iter_mut().find(|job| job.job_id == job_id).unwrap();
            job.status = JobStatus::Finished;
            job.actual_start = Some(actual_start);
            job.actual_end = Some(actual_end);
        }
        WorkshopDayCommand::CancelMaintenanceJob { .. } => {}
    }
    jobs
}

proptest! {
    #![proptest_config(random_commands::config())]

    #[test]
    fn never_four_jobs_at_once_and_never_two_on_one_vehicle(
        commands in prop::collection::vec(command(), 0..80),
    ) {
        random_commands::run::<WorkshopDay>(commands, |_, _, _, after| {
            assert_eq!(keeps_invariants(&after.jobs), (true, true), "{after:?}");
        });
    }

    #[test]
    fn room_is_refused_only_when_there_is_none(
        commands in prop::collection::vec(command(), 0..80),
    ) {
        random_commands::run::<WorkshopDay>(commands, |before, command, answer, _| {
            let accepted = || keeps_invariants(&as_if_accepted(before, command));
            match answer {
                Err(WorkshopDayRejection::WorkstationsOccupied) => {
                    assert!(!accepted().0, "{command:?} on {before:?}");
                }
                Err(WorkshopDayRejection::VehicleAlreadyPlanned) => {
                    assert_eq!(accepted(), (true, false), "{command:?} on {before:?}");
                }
                _ => {}
            }
        });
    }
}
