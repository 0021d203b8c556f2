//! The words of a workshop's day: its state, commands, events and rejections.
//!
//! This file owns shapes, not rules. The invariant: names are part of the HTTP contract, and the
//! stored bytes of events and state change only together with their schema versions.

use jiff::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::slot::Slot;

/// What a workshop remembers of a day.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct WorkshopDayState {
    /// All jobs, in the order in which they were planned.
    pub jobs: Vec<Job>,
}

impl WorkshopDayState {
    /// Finds a job, whatever its status.
    #[must_use]
    pub fn job(&self, job_id: &str) -> Option<&Job> {
        self.jobs.iter().find(|job| job.job_id == job_id)
    }

    pub(super) fn job_mut(&mut self, job_id: &str) -> Option<&mut Job> {
        self.jobs.iter_mut().find(|job| job.job_id == job_id)
    }
}

/// Work on one vehicle.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Job {
    /// Names the job within the day.
    pub job_id: String,
    /// The vehicle, by its licence plate for instance.
    pub vehicle: String,
    /// When it is planned to begin.
    #[schemars(with = "String", extend("format" = "date-time"))]
    pub start: Timestamp,
    /// When it is planned to be over.
    #[schemars(with = "String", extend("format" = "date-time"))]
    pub end: Timestamp,
    /// What is to be done.
    pub description: String,
    /// Whether it is done.
    pub status: JobStatus,
    /// When it did begin, once it is finished.
    #[schemars(with = "Option<String>", extend("format" = "date-time"))]
    pub actual_start: Option<Timestamp>,
    /// When it was over, once it is finished.
    #[schemars(with = "Option<String>", extend("format" = "date-time"))]
    pub actual_end: Option<Timestamp>,
    /// What the mechanic wrote, once it is finished.
    pub notes: Option<String>,
}

impl Job {
    /// The time that the job takes: the planned time, then the actual time. `None` when cancelled.
    #[must_use]
    pub fn occupied(&self) -> Option<Slot> {
        match self.status {
            JobStatus::Planned => Slot::new(self.start, self.end),
            JobStatus::Finished => Slot::new(self.actual_start?, self.actual_end?),
            JobStatus::Cancelled => None,
        }
    }
}

/// Whether a job is done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum JobStatus {
    /// To be done.
    Planned,
    /// Done.
    Finished,
    /// Not to be done.
    Cancelled,
}

/// What a client may ask of a workshop's day.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub enum WorkshopDayCommand {
    /// Reserves a workstation for work on a vehicle.
    PlanMaintenanceJob {
        /// Names the job within the day.
        job_id: String,
        /// The vehicle, by its licence plate for instance.
        vehicle: String,
        /// When it is to begin.
        #[schemars(with = "String", extend("format" = "date-time"))]
        start: Timestamp,
        /// When it is to be over, after the start.
        #[schemars(with = "String", extend("format" = "date-time"))]
        end: Timestamp,
        /// What is to be done.
        description: String,
    },
    /// Records that the work is done, and when.
    FinishMaintenanceJob {
        /// Which job.
        job_id: String,
        /// When it did begin.
        #[schemars(with = "String", extend("format" = "date-time"))]
        actual_start: Timestamp,
        /// When it was over, after the start.
        #[schemars(with = "String", extend("format" = "date-time"))]
        actual_end: Timestamp,
        /// What the mechanic has to say.
        notes: String,
    },
    /// Gives the workstation free again.
    CancelMaintenanceJob {
        /// Which job.
        job_id: String,
    },
}

/// What happened in a workshop's planning.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum WorkshopDayEvent {
    /// A workstation was reserved for work on a vehicle.
    MaintenanceJobPlanned {
        /// Names the job within the day.
        job_id: String,
        /// The vehicle.
        vehicle: String,
        /// When it is to begin.
        #[schemars(with = "String", extend("format" = "date-time"))]
        start: Timestamp,
        /// When it is to be over.
        #[schemars(with = "String", extend("format" = "date-time"))]
        end: Timestamp,
        /// What is to be done.
        description: String,
    },
    /// The work was done.
    MaintenanceJobFinished {
        /// Which job.
        job_id: String,
        /// When it did begin.
        #[schemars(with = "String", extend("format" = "date-time"))]
        actual_start: Timestamp,
        /// When it was over.
        #[schemars(with = "String", extend("format" = "date-time"))]
        actual_end: Timestamp,
        /// What the mechanic had to say.
        notes: String,
    },
    /// The work will not be done.
    MaintenanceJobCancelled {
        /// Which job.
        job_id: String,
    },
}

/// Why a workshop's planning refuses a command.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema, thiserror::Error)]
#[serde(rename_all = "kebab-case")]
pub enum WorkshopDayRejection {
    /// All workstations are taken at some instant of that time.
    #[error("all workstations are occupied at some time between start and end")]
    WorkstationsOccupied,
    /// The vehicle has another job at some instant of that time.
    #[error("the vehicle has another job between start and end")]
    VehicleAlreadyPlanned,
    /// The time is empty or runs backwards.
    #[error("the end must be after the start")]
    EndNotAfterStart,
    /// The day knows a job of that name.
    #[error("a job with this id exists already")]
    JobAlreadyExists,
    /// The day knows no job of that name.
    #[error("no job has this id")]
    JobNotFound,
    /// It is done.
    #[error("the job is finished already")]
    JobAlreadyFinished,
    /// It was called off.
    #[error("the job is cancelled already")]
    JobAlreadyCancelled,
}
