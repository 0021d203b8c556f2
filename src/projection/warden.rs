//! Keeps watch over a file of read models: has it checked, and built again when it is damaged.
//!
//! Rows are derived, so damage is mended by deriving them again, in a new file. Refuses: to mend a part
//! of a file that has shown that it cannot be trusted. Invariant: from the moment when damage is known
//! until the new rows have caught up, the views answer nothing.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::Instant;

use super::build::Build;
use super::check::check;
use super::entry::{Entry, Withheld};
use super::error::StoreError;
use super::file::{self, Files, is_damage};
use super::metrics;
use super::patrol::patrol;
use super::plan::Planned;
use super::supervisor::SupervisorMessage;
use super::views::Shared;
use super::writer::Control;

/// The pause before a file is built again soon after the last time, at first and at most: what damages
/// it may not be over.
const BACKOFF: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(300));

/// How often it is looked whether the file is still where it was opened.
const LOOK: Duration = Duration::from_secs(1);

/// After this long without damage, the next one is the first again.
const CALM: Duration = Duration::from_secs(3600);

/// Where damage is reported. Cheap to clone.
#[derive(Debug, Clone)]
pub(super) struct Alarm(Arc<Bell>);

#[derive(Debug)]
struct Bell {
    path: PathBuf,
    rung: Mutex<Option<String>>,
    news: Notify,
    at_start: AtomicBool,
    /// What lay at the path when it was looked at last.
    files: Mutex<Files>,
}

impl Alarm {
    pub(super) fn new(path: &Path) -> Self {
        Self(Arc::new(Bell {
            path: path.to_owned(),
            rung: Mutex::new(None),
            news: Notify::new(),
            at_start: AtomicBool::new(false),
            files: Mutex::default(),
        }))
    }

    /// Reports that somebody has removed or replaced the file, if so. SQLite does not notice: it goes on
    /// with what it has open, and nothing of that would be left after a restart.
    pub(super) fn look(&self) -> bool {
        let mut files = self.0.files.lock();
        // What cannot be found out now is looked at the next time.
        let Ok(found) = file::files_at(&self.0.path) else {
            return false;
        };
        // The log appears after the file.
        let gone = |(before, found): (&Option<_>, _)| before.is_some() && *before != found;
        let is_gone = files.iter().zip(found).any(gone);
        *files = found;
        drop(files);
        if is_gone {
            self.ring(&StoreError::Damaged {
                table: "(the file)".to_owned(),
                what: "somebody has removed or replaced it".to_owned(),
            });
        }
        is_gone
    }

    /// Notes that a file was thrown away at the start because of damage.
    pub(super) fn found_at_start(&self) {
        self.0.at_start.store(true, Ordering::Relaxed);
        metrics::damaged();
    }

    /// Whether one was.
    pub(super) fn was_found_at_start(&self) -> bool {
        self.0.at_start.load(Ordering::Relaxed)
    }

    /// Reports damage.
    pub(super) fn ring(&self, error: &StoreError) {
        let first = self.0.rung.lock().replace(error.to_string()).is_none();
        if first {
            tracing::error!(
                path = %self.0.path.display(), %error,
                "the read models are damaged; building them again from the journal"
            );
            metrics::damaged();
            // Should the process end before that, the next one knows.
            file::condemn(&self.0.path);
        }
        self.0.news.notify_one();
    }

    /// Whether damage was reported that is not mended yet.
    pub(super) fn has_rung(&self) -> bool {
        self.0.rung.lock().is_some()
    }

    async fn rung(&self) {
        while !self.has_rung() {
            self.0.news.notified().await;
        }
    }

    /// Takes what lies at the path for the file that is used from now on.
    fn begin(&self) {
        let mut files = self.0.files.lock();
        *files = file::files_at(&self.0.path).unwrap_or_default();
    }

    /// Begins anew with the file that lies there now.
    fn reset(&self) {
        self.begin();
        *self.0.rung.lock() = None;
    }

    /// Lets a build answer, unless there is new damage.
    fn release(&self, entry: &Entry, build: &Arc<Build>) -> bool {
        let rung = self.0.rung.lock();
        rung.is_none() && entry.release(build)
    }
}

/// See the file's description.
pub(super) struct Warden {
    pub(super) shared: Arc<Shared>,
    pub(super) alarm: Alarm,
    pub(super) path: PathBuf,
    /// Whether the file is to be checked at the start.
    pub(super) checks: bool,
    /// How often it is checked from then on; zero for never.
    pub(super) interval: Duration,
}

impl Warden {
    /// What queries are told from the start on.
    fn withholds(&self) -> Option<Withheld> {
        match (self.alarm.was_found_at_start(), self.checks) {
            (true, _) => Some(Withheld::Rebuilt),
            (false, true) => Some(Withheld::Checked),
            (false, false) => None,
        }
    }

    /// Withholds the views until it has run.
    pub(super) fn begin(self) -> impl Future<Output = ()> + Send {
        if let Some(why) = self.withholds() {
            self.withhold(why);
        }
        self.alarm.begin();
        self.run()
    }

    /// Works until it is aborted.
    async fn run(self) {
        match self.withholds() {
            Some(Withheld::Rebuilt) => self.release_in_time(),
            Some(Withheld::Checked) => self.check_at_start().await,
            None => {}
        }
        let mut pause = Duration::ZERO;
        let mut last: Option<Instant> = None;
        loop {
            tokio::select! {
                () = self.alarm.rung() => {}
                () = self.patrol() => continue,
                () = self.look() => continue,
            }
            self.withhold(Withheld::Rebuilt);
            let (first, longest) = BACKOFF;
            pause = match last {
                Some(last) if last.elapsed() < CALM => (pause * 2).clamp(first, longest),
                _ => Duration::ZERO,
            };
            tokio::time::sleep(pause).await;
            last = Some(Instant::now());
            match self.start_over().await {
                Ok(()) => self.release_in_time(),
                Err(error) => {
                    tracing::error!(
                        %error,
                        "the read models cannot be built again now; trying again"
                    );
                    // Half of it may be done.
                    self.alarm.ring(&error);
                }
            }
        }
    }

    async fn check_at_start(&self) {
        let started = Instant::now();
        let checked = tokio::select! {
            checked = check(&self.path) => checked,
            // Somebody was quicker.
            () = self.alarm.rung() => return,
        };
        let took_ms = u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX);
        match checked {
            Ok(rows) => {
                tracing::info!(rows, took_ms, "the read models are as they were written");
            }
            Err(error) if is_damage(&error) => return self.alarm.ring(&error),
            Err(error) => tracing::error!(
                %error,
                "the read models cannot be checked; rows are checked as they are read"
            ),
        }
        for entry in self.shared.entries.values() {
            self.alarm.release(entry, &entry.live());
        }
    }

    /// Looks whether the file is where it was, until it is not.
    async fn look(&self) {
        while !self.alarm.look() {
            tokio::time::sleep(LOOK).await;
        }
    }

    /// Checks the file now and then while it is used, until damage is found.
    async fn patrol(&self) {
        if self.interval.is_zero() {
            return std::future::pending().await;
        }
        loop {
            tokio::time::sleep(self.interval).await;
            let started = Instant::now();
            match patrol(&self.path).await {
                Ok(Some(rows)) => {
                    let took_ms = u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX);
                    tracing::debug!(rows, took_ms, "the read models are as they were written");
                    metrics::checked("whole");
                }
                Ok(None) => {
                    tracing::info!(
                        "the read models change too fast to be checked now; trying later"
                    );
                    metrics::checked("put-off");
                }
                Err(error) if is_damage(&error) => {
                    metrics::checked("damaged");
                    return self.alarm.ring(&error);
                }
                Err(error) => {
                    tracing::warn!(%error, "the read models cannot be checked now; trying later");
                    metrics::checked("failed");
                }
            }
        }
    }

    fn withhold(&self, why: Withheld) {
        for entry in self.shared.entries.values() {
            entry.withhold(why);
        }
    }

    /// Throws the file away and begins to fill a new one.
    async fn start_over(&self) -> Result<(), StoreError> {
        let (reply, left) = tokio::sync::oneshot::channel();
        let leave = SupervisorMessage::LeaveAll { reply };
        let told = self.shared.supervisor.send_message(leave);
        for entry in self.shared.entries.values() {
            let rebuild = entry.rebuild.lock().take();
            if let Some(task) = rebuild.and_then(|rebuild| rebuild.task) {
                task.abort();
            }
        }
        if told.is_err() || left.await.is_err() {
            return Err(StoreError::Stopping);
        }
        // No query is under way from here on, and none begins before the new file is there.
        let readers = self.shared.readers.replace().await;
        let entries = self.shared.entries.values();
        let definitions = entries.map(|e| Arc::clone(&e.definition)).collect();
        let planned = self
            .shared
            .writer
            .ask(|reply| Control::StartOver { definitions, reply });
        let planned = planned.await.unwrap_or(Err(StoreError::Stopping))?;
        self.alarm.reset();
        for Planned {
            definition, live, ..
        } in planned
        {
            let Some(entry) = self.shared.entries.get(definition.name) else {
                continue;
            };
            entry.swap(Arc::clone(&live));
            if *entry.paused.borrow() {
                let name = entry.definition.name;
                let paused = self.shared.writer.ask(|reply| Control::Pause {
                    name,
                    paused: true,
                    reply,
                });
                paused.await.unwrap_or(Err(StoreError::Stopping))?;
            }
            self.shared.fill(entry, &live);
        }
        drop(readers);
        Ok(())
    }

    /// Lets each view answer when its rows show what was committed until now.
    fn release_in_time(&self) {
        for entry in self.shared.entries.values() {
            let (entry, feed) = (Arc::clone(entry), Arc::clone(&self.shared.feed));
            let build: Arc<Build> = entry.live();
            let ends: Vec<u64> = build
                .by_shard()
                .map(|(shard, _)| feed.committed_position(shard))
                .collect();
            tokio::spawn(release(self.alarm.clone(), entry, build, ends));
        }
    }
}

async fn release(alarm: Alarm, entry: Arc<Entry>, build: Arc<Build>, ends: Vec<u64>) {
    for (progress, end) in build.shards.iter().zip(ends) {
        progress.wait(end).await;
    }
    if alarm.release(&entry, &build) {
        tracing::info!(projection = build.name, "the rows are whole again");
    }
}
