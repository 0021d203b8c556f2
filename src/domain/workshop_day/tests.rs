//! What a workshop's planning does and refuses, one sentence each, and how it looks to a client.

use jiff::Timestamp;
use phalanx_actors::Aggregate;
use phalanx_actors::testkit::{Given, given};
use serde_json::json;

use super::{JobStatus, WorkshopDay, WorkshopDayCommand, WorkshopDayEvent, WorkshopDayRejection};

/// A time of the day, such as `"09:30"`.
fn at(time: &str) -> Timestamp {
    format!("2026-11-21T{time}:00Z").parse().unwrap()
}

fn planned(job_id: &str, vehicle: &str, start: &str, end: &str) -> WorkshopDayEvent {
    WorkshopDayEvent::MaintenanceJobPlanned {
        job_id: job_id.to_owned(),
        vehicle: vehicle.to_owned(),
        start: at(start),
        end: at(end),
        description: "brakes".to_owned(),
    }
}

fn plan(job_id: &str, vehicle: &str, start: &str, end: &str) -> WorkshopDayCommand {
    WorkshopDayCommand::PlanMaintenanceJob {
        job_id: job_id.to_owned(),
        vehicle: vehicle.to_owned(),
        start: at(start),
        end: at(end),
        description: "brakes".to_owned(),
    }
}

fn finished(job_id: &str, start: &str, end: &str) -> WorkshopDayEvent {
    WorkshopDayEvent::MaintenanceJobFinished {
        job_id: job_id.to_owned(),
        actual_start: at(start),
        actual_end: at(end),
        notes: "done".to_owned(),
    }
}

fn finish(job_id: &str, start: &str, end: &str) -> WorkshopDayCommand {
    WorkshopDayCommand::FinishMaintenanceJob {
        job_id: job_id.to_owned(),
        actual_start: at(start),
        actual_end: at(end),
        notes: "done".to_owned(),
    }
}

fn cancelled(job_id: &str) -> WorkshopDayEvent {
    WorkshopDayEvent::MaintenanceJobCancelled {
        job_id: job_id.to_owned(),
    }
}

fn cancel(job_id: &str) -> WorkshopDayCommand {
    WorkshopDayCommand::CancelMaintenanceJob {
        job_id: job_id.to_owned(),
    }
}

fn day(history: impl IntoIterator<Item = WorkshopDayEvent>) -> Given<WorkshopDay> {
    given(history).id("north@2026-11-21")
}

/// Three jobs from 9 to 11: every workstation is taken.
fn full_from_9_to_11() -> Given<WorkshopDay> {
    day([
        planned("j1", "v1", "09:00", "11:00"),
        planned("j2", "v2", "09:00", "11:00"),
        planned("j3", "v3", "09:00", "11:00"),
    ])
}

#[test]
fn a_job_is_planned() {
    let after = day([])
        .when(plan("j1", "v1", "09:00", "10:00"))
        .then([planned("j1", "v1", "09:00", "10:00")]);
    assert_eq!(
        serde_json::to_value(after.state()).unwrap(),
        json!({"jobs": [{
            "job_id": "j1",
            "vehicle": "v1",
            "start": "2026-11-21T09:00:00Z",
            "end": "2026-11-21T10:00:00Z",
            "description": "brakes",
            "status": "planned",
            "actual_start": null,
            "actual_end": null,
            "notes": null,
        }]})
    );
}

#[test]
fn three_jobs_run_in_parallel_and_a_fourth_does_not() {
    full_from_9_to_11()
        .when(plan("j4", "v4", "10:00", "12:00"))
        .then_rejected(WorkshopDayRejection::WorkstationsOccupied);
}

#[test]
fn one_full_instant_anywhere_in_the_time_is_enough_to_refuse() {
    for (start, end) in [
        ("08:00", "09:01"),
        ("10:59", "12:00"),
        ("09:30", "10:30"),
        ("08:00", "12:00"),
        ("09:00", "11:00"),
    ] {
        full_from_9_to_11()
            .when(plan("j4", "v4", start, end))
            .then_rejected(WorkshopDayRejection::WorkstationsOccupied);
    }
}

#[test]
fn touching_ends_do_not_overlap() {
    full_from_9_to_11()
        .when(plan("j4", "v1", "11:00", "12:00"))
        .then([planned("j4", "v1", "11:00", "12:00")])
        .when(plan("j5", "v1", "08:00", "09:00"))
        .then([planned("j5", "v1", "08:00", "09:00")]);
}

#[test]
fn many_jobs_one_after_the_other_take_one_workstation() {
    day([
        planned("j1", "v1", "09:00", "10:00"),
        planned("j2", "v2", "10:00", "11:00"),
        planned("j3", "v3", "11:00", "12:00"),
        planned("j4", "v4", "12:00", "13:00"),
        planned("j5", "v5", "08:00", "14:00"),
    ])
    .when(plan("j6", "v6", "08:00", "14:00"))
    .then([planned("j6", "v6", "08:00", "14:00")])
    .when(plan("j7", "v7", "09:59", "10:01"))
    .then_rejected(WorkshopDayRejection::WorkstationsOccupied);
}

#[test]
fn jobs_that_are_parallel_outside_of_the_time_do_not_count() {
    full_from_9_to_11()
        .when(plan("j4", "v4", "11:00", "13:00"))
        .then([planned("j4", "v4", "11:00", "13:00")]);
    day([
        planned("j1", "v1", "09:00", "11:00"),
        planned("j2", "v2", "09:00", "11:00"),
        planned("j3", "v3", "09:00", "10:00"),
    ])
    .when(plan("j4", "v4", "10:00", "11:00"))
    .then([planned("j4", "v4", "10:00", "11:00")]);
}

#[test]
fn one_vehicle_has_one_job_at_a_time() {
    for (start, end) in [("09:30", "09:40"), ("08:00", "09:01"), ("09:59", "12:00")] {
        day([planned("j1", "v1", "09:00", "10:00")])
            .when(plan("j2", "v1", start, end))
            .then_rejected(WorkshopDayRejection::VehicleAlreadyPlanned);
    }
}

#[test]
fn workstations_are_named_when_both_are_taken() {
    full_from_9_to_11()
        .when(plan("j4", "v1", "09:00", "10:00"))
        .then_rejected(WorkshopDayRejection::WorkstationsOccupied);
}

#[test]
fn a_time_that_is_empty_or_runs_backwards_is_refused() {
    for (start, end) in [("10:00", "10:00"), ("10:00", "09:00")] {
        day([])
            .when(plan("j1", "v1", start, end))
            .then_rejected(WorkshopDayRejection::EndNotAfterStart);
        day([planned("j1", "v1", "09:00", "10:00")])
            .when(finish("j1", start, end))
            .then_rejected(WorkshopDayRejection::EndNotAfterStart);
    }
}

#[test]
fn the_id_of_a_job_is_used_once() {
    let one = planned("j1", "v1", "09:00", "10:00");
    for history in [
        vec![one.clone()],
        vec![one.clone(), cancelled("j1")],
        vec![one, finished("j1", "09:00", "10:00")],
    ] {
        day(history)
            .when(plan("j1", "v2", "15:00", "16:00"))
            .then_rejected(WorkshopDayRejection::JobAlreadyExists);
    }
}

#[test]
fn a_job_is_finished_with_its_actual_time() {
    let after = day([planned("j1", "v1", "09:00", "10:00")])
        .when(finish("j1", "09:10", "10:20"))
        .then([finished("j1", "09:10", "10:20")]);
    let job = after.state().job("j1").unwrap();
    assert_eq!(job.status, JobStatus::Finished);
    assert_eq!((job.start, job.end), (at("09:00"), at("10:00")));
    assert_eq!(job.actual_start, Some(at("09:10")));
    assert_eq!(job.actual_end, Some(at("10:20")));
    assert_eq!(job.notes.as_deref(), Some("done"));
}

#[test]
fn a_finished_job_takes_its_actual_time_and_no_longer_the_planned_time() {
    let after = day([
        planned("j1", "v1", "09:00", "11:00"),
        finished("j1", "09:00", "10:00"),
    ])
    .when(plan("j2", "v1", "10:00", "11:00"))
    .then([planned("j2", "v1", "10:00", "11:00")]);
    after
        .when(plan("j3", "v1", "09:30", "09:45"))
        .then_rejected(WorkshopDayRejection::VehicleAlreadyPlanned);
}

#[test]
fn what_ran_late_needs_room() {
    let two_jobs_on_one_vehicle = || {
        day([
            planned("j1", "v1", "09:00", "10:00"),
            planned("j2", "v1", "10:00", "11:00"),
        ])
    };
    two_jobs_on_one_vehicle()
        .when(finish("j1", "09:00", "10:30"))
        .then_rejected(WorkshopDayRejection::VehicleAlreadyPlanned)
        .when(cancel("j2"))
        .then([cancelled("j2")])
        .when(finish("j1", "09:00", "10:30"))
        .then([finished("j1", "09:00", "10:30")]);

    full_from_9_to_11()
        .when(plan("j4", "v4", "11:00", "12:00"))
        .then([planned("j4", "v4", "11:00", "12:00")])
        .when(finish("j1", "09:00", "11:01"))
        .then([finished("j1", "09:00", "11:01")])
        .when(finish("j2", "09:00", "11:01"))
        .then([finished("j2", "09:00", "11:01")])
        .when(finish("j3", "09:00", "11:01"))
        .then_rejected(WorkshopDayRejection::WorkstationsOccupied);
}

#[test]
fn a_cancelled_job_frees_its_workstation_and_its_vehicle() {
    let after = full_from_9_to_11()
        .when(cancel("j1"))
        .then([cancelled("j1")])
        .when(plan("j4", "v1", "09:00", "11:00"))
        .then([planned("j4", "v1", "09:00", "11:00")]);
    assert_eq!(
        after.state().job("j1").unwrap().status,
        JobStatus::Cancelled
    );
}

#[test]
fn only_a_job_that_was_planned_is_finished_or_cancelled() {
    for command in [finish("j9", "09:00", "10:00"), cancel("j9")] {
        full_from_9_to_11()
            .when(command)
            .then_rejected(WorkshopDayRejection::JobNotFound);
    }
}

#[test]
fn a_job_ends_once() {
    let one = planned("j1", "v1", "09:00", "10:00");
    for (end, rejection) in [
        (
            finished("j1", "09:00", "10:00"),
            WorkshopDayRejection::JobAlreadyFinished,
        ),
        (cancelled("j1"), WorkshopDayRejection::JobAlreadyCancelled),
    ] {
        for command in [finish("j1", "09:00", "10:00"), cancel("j1")] {
            day([one.clone(), end.clone()])
                .when(command)
                .then_rejected(rejection.clone());
        }
    }
}

#[test]
fn a_client_sees_the_rejections_of_the_contract() {
    assert_eq!(
        serde_json::to_value([
            WorkshopDayRejection::WorkstationsOccupied,
            WorkshopDayRejection::VehicleAlreadyPlanned,
            WorkshopDayRejection::EndNotAfterStart,
            WorkshopDayRejection::JobAlreadyExists,
            WorkshopDayRejection::JobNotFound,
            WorkshopDayRejection::JobAlreadyFinished,
            WorkshopDayRejection::JobAlreadyCancelled,
        ])
        .unwrap(),
        json!([
            "workstations-occupied",
            "vehicle-already-planned",
            "end-not-after-start",
            "job-already-exists",
            "job-not-found",
            "job-already-finished",
            "job-already-cancelled",
        ])
    );
}

#[test]
fn commands_are_read_as_the_contract_writes_them() {
    for (json, command) in [
        (
            json!({"PlanMaintenanceJob": {
                "job_id": "j1", "vehicle": "v1", "description": "brakes",
                "start": "2026-11-21T10:00:00+01:00", "end": "2026-11-21T10:00:00.000Z",
            }}),
            plan("j1", "v1", "09:00", "10:00"),
        ),
        (
            json!({"FinishMaintenanceJob": {
                "job_id": "j1", "notes": "done",
                "actual_start": "2026-11-21T09:00:00Z", "actual_end": "2026-11-21T10:00:00Z",
            }}),
            finish("j1", "09:00", "10:00"),
        ),
        (
            json!({"CancelMaintenanceJob": {"job_id": "j1"}}),
            cancel("j1"),
        ),
    ] {
        let read: WorkshopDayCommand = serde_json::from_value(json).unwrap();
        assert_eq!(read, command);
    }
}

#[test]
fn times_without_an_offset_are_not_read() {
    for start in ["2026-11-21T09:00:00", "2026-11-21", "09:00", "", "now"] {
        let json = json!({"PlanMaintenanceJob": {
            "job_id": "j1", "vehicle": "v1", "description": "brakes",
            "start": start, "end": "2026-11-21T10:00:00Z",
        }});
        let read = serde_json::from_value::<WorkshopDayCommand>(json);
        assert!(read.is_err(), "{start:?} was read as {read:?}");
    }
}

#[test]
fn clients_are_told_why_and_where_they_may_read() {
    assert_eq!(WorkshopDay::views(), ["maintenance_jobs"]);
    let names: Vec<_> = WorkshopDay::justifications()
        .iter()
        .map(|j| j.name)
        .collect();
    assert_eq!(names, ["planning-board", "operator"]);
}
