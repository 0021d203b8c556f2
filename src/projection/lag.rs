//! How far a view is behind.

use serde::Serialize;

use phalanx_actors::ports::{Clock, Feed, FeedCursor};

use super::build::Build;

/// How far a view is behind what is committed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
pub struct Lag {
    /// Committed events that are not in the rows yet.
    pub events: u64,
    /// For how long the oldest of them has been waiting.
    pub seconds: f64,
}

/// How far each shard of a build was at some moment.
#[derive(Debug, Clone)]
pub(crate) struct Reached(Vec<u64>);

impl Reached {
    pub(crate) fn now(build: &Build) -> Self {
        Self(
            build
                .shards
                .iter()
                .map(super::build::Progress::reached)
                .collect(),
        )
    }

    /// The lag of rows that were read after this was noted. What was committed meanwhile counts, so
    /// that the rows are never older than this says.
    pub(crate) fn lag(&self, build: &Build, feed: &dyn Feed, clock: &dyn Clock) -> Lag {
        let mut events = 0;
        let mut oldest_us: Option<i64> = None;
        for ((shard, progress), reached) in build.by_shard().zip(&self.0) {
            let behind = feed.committed_position(shard).saturating_sub(*reached);
            if behind == 0 {
                continue;
            }
            events += behind;
            let decided_us = progress.oldest_us().or_else(|| {
                // Nobody is at it: it is paused, or has not been woken yet.
                let mut cursor = FeedCursor::after(shard, *reached);
                let next = feed.read_committed(&mut cursor, 1).ok()?;
                next.first().map(|record| record.time_us)
            });
            oldest_us = oldest_us.into_iter().chain(decided_us).min();
        }
        let now_us = clock.now().as_microsecond();
        let since_us = oldest_us.map_or(0, |oldest_us| now_us.saturating_sub(oldest_us).max(0));
        Lag {
            events,
            seconds: std::time::Duration::from_micros(since_us.unsigned_abs()).as_secs_f64(),
        }
    }
}
