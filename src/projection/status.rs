//! How projections are doing, for operators.

use phalanx_actors::names::ShardId;
use serde::Serialize;

use super::build::{Build, Progress};
use super::entry::{Entry, Rebuild, Withheld};
use super::lag::{Lag, Reached};
use super::views::Views;

/// What a projection is at.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Activity {
    /// It takes events in as they come.
    Running,
    /// It was told not to.
    Paused,
    /// Some of its projectors fail and are started again.
    Failing,
    /// Only a build of another version answers; the present one is being built.
    Outdated,
    /// It answers nothing yet: its file is being checked for damage.
    Checking,
    /// It answers nothing yet: its file was damaged, and is being built again.
    Repairing,
}

/// A projection as it is on this node.
#[derive(Debug, Clone, Serialize)]
pub struct ProjectionStatus {
    /// Its name, and that of its view.
    pub name: &'static str,
    /// What it shows.
    pub description: &'static str,
    /// The version of the rows that answer queries.
    pub version: u32,
    /// The number of those rows, which grows with each rebuild.
    pub build: i64,
    /// What it is at.
    pub state: Activity,
    /// The aggregate types whose events it takes in.
    pub aggregate_types: Vec<&'static str>,
    /// How far it is behind.
    pub lag: Lag,
    /// Events that it has handled since the node started.
    pub events_handled: u64,
    /// Events that it has handled each second lately, those of a rebuild included.
    pub events_per_second: f64,
    /// Aggregates of which something was set aside.
    pub dead_letters: u64,
    /// The rebuild that is going on.
    pub rebuild: Option<RebuildStatus>,
    /// How far each shard is.
    pub shards: Vec<ShardStatus>,
}

/// How far a rebuild is.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct RebuildStatus {
    /// The version that is being built.
    pub version: u32,
    /// How much of the journal has been read, from 0 to 100.
    pub percent: f64,
    /// Events of the journal that are left.
    pub events_left: u64,
    /// How fast it reads, on average.
    pub events_per_second: f64,
    /// How long it will take at that rate; nothing before there is one.
    pub seconds_left: Option<f64>,
}

/// How far a shard is.
#[derive(Debug, Clone, Serialize)]
pub struct ShardStatus {
    /// Its number.
    pub shard: ShardId,
    /// Position number of the last event in the rows.
    pub reached: u64,
    /// Position number of the last event that is committed.
    pub committed: u64,
    /// Why its projector failed, if it did last.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub failure: Option<String>,
}

impl Views {
    /// Every projection.
    #[must_use]
    pub fn statuses(&self) -> Vec<ProjectionStatus> {
        self.0.entries.values().map(|e| self.status_of(e)).collect()
    }

    /// One projection.
    #[must_use]
    pub fn status(&self, name: &str) -> Option<ProjectionStatus> {
        self.0.entries.get(name).map(|entry| self.status_of(entry))
    }

    fn status_of(&self, entry: &Entry) -> ProjectionStatus {
        let live = entry.live();
        let reached = Reached::now(&live);
        let shards: Vec<ShardStatus> = live
            .by_shard()
            .map(|(shard, progress)| ShardStatus {
                shard,
                reached: progress.reached(),
                committed: self.0.feed.committed_position(shard),
                failure: progress.failure(),
            })
            .collect();
        let state = if let Some(why) = entry.withheld() {
            match why {
                Withheld::Checked => Activity::Checking,
                Withheld::Rebuilt => Activity::Repairing,
            }
        } else if *entry.paused.borrow() {
            Activity::Paused
        } else if live.definition.is_none() {
            Activity::Outdated
        } else if shards.iter().any(|shard| shard.failure.is_some())
            || self.standing().reason.is_some()
        {
            Activity::Failing
        } else {
            Activity::Running
        };
        let rebuild = entry.rebuild.lock().clone();
        ProjectionStatus {
            name: entry.definition.name,
            description: entry.definition.description,
            version: live.version,
            build: live.id,
            state,
            aggregate_types: entry.definition.aggregate_types().collect(),
            lag: self.lag(&live, &reached),
            events_handled: live.handled.load(std::sync::atomic::Ordering::Relaxed),
            events_per_second: f64::from_bits(
                entry.rate.load(std::sync::atomic::Ordering::Relaxed),
            ),
            dead_letters: live.letters.load(std::sync::atomic::Ordering::Relaxed),
            rebuild: rebuild.map(|rebuild| self.rebuild_status(&rebuild)),
            shards,
        }
    }

    #[expect(
        clippy::cast_precision_loss,
        reason = "percentages and rates need no more than a float holds"
    )]
    fn rebuild_status(&self, rebuild: &Rebuild) -> RebuildStatus {
        let build = &rebuild.build;
        let done = sum(build);
        let committed = |shard| self.0.feed.committed_position(shard);
        let all: u64 = build.by_shard().map(|(shard, _)| committed(shard)).sum();
        let left = all.saturating_sub(done);
        let seconds = rebuild.since.elapsed().as_secs_f64();
        let since = done.saturating_sub(rebuild.from);
        let rate = if seconds > 0.0 {
            since as f64 / seconds
        } else {
            0.0
        };
        RebuildStatus {
            version: build.version,
            percent: if all == 0 {
                100.0
            } else {
                100.0 * (done.min(all) as f64) / (all as f64)
            },
            events_left: left,
            events_per_second: rate,
            seconds_left: (rate > 0.0).then(|| left as f64 / rate),
        }
    }
}

/// The sum of a build's offsets.
pub(super) fn sum(build: &Build) -> u64 {
    build.shards.iter().map(Progress::reached).sum()
}
