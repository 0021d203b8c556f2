//! The keeper: what a node does about a database of read models that it shares with others.
//!
//! ```text
//!            the pen is free                      the session breaks, a transaction fails
//! follow ----------------------> write (projectors run) ------------------------------> follow
//!   |  reads how far it is                             another node asks for the pen
//!   '--> away: the database cannot be read; tried again after a pause that doubles
//! ```
//! While it follows it reads the offsets: often while a query waits for one, seldom otherwise, always
//! with one statement however many wait. A notification for each commit would spare that, but all
//! commits with notifications stand in one line in PostgreSQL, and a lost one would have to be made up
//! for by reading all the same.
//!
//! Owns: when this node reaches for the pen, and what is filled here. Refuses: to log the same trouble
//! more than once a minute. Invariant: projectors run only while the pen is held.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use phalanx_actors::names::ShardId;
use phalanx_actors::ports::{Feed, FeedCursor};
use sqlx::postgres::{PgConnectOptions, PgConnection};
use tokio::sync::Notify;
use tokio::time::Instant;

use super::entry::Rebuild;
use super::error::{OperationError, StoreError};
use super::follow::{Seen, look};
use super::plan::Planned;
use super::server::{Pen, ShardEnd, connect, is_unmade, owner};
use super::standing::Part;
use super::supervisor::SupervisorMessage;
use super::views::Shared;
use super::writer::Control;

/// How often a node that writes looks what others have asked for.
const TEND: Duration = Duration::from_millis(500);

/// How often a node that follows looks while nobody waits, and reaches for the pen.
const IDLE: Duration = Duration::from_millis(500);

/// How long a node leaves the pen to who has asked for it.
const LEAVE_TO_OTHERS: Duration = Duration::from_secs(3);

/// How long the pen must have been free until a node with older projections takes it.
const OLDER_WAITS: Duration = Duration::from_secs(30);

/// How long somebody waits for the pen.
const ACQUIRE: Duration = Duration::from_secs(8);

/// The pause after the first failure, and the longest one.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(5));

/// After this long without one, the next failure is the first again.
const CALM: Duration = Duration::from_secs(10);

/// How often the same trouble is logged.
const TELL: Duration = Duration::from_secs(60);

/// Who wants this node to write.
#[derive(Debug, Default)]
pub(super) struct Wanted {
    count: AtomicUsize,
    news: Notify,
}

/// See the file's description.
pub(super) struct Keeper {
    shared: Arc<Shared>,
    options: PgConnectOptions,
    /// How often to look while a query waits.
    interval: Duration,
    /// What this node is called in the database.
    node: String,
    /// Whose read models it may show.
    owner: String,
    /// How the history of each shard begins, which never changes.
    firsts: Vec<Option<String>>,
    connection: Option<PgConnection>,
    trouble: Trouble,
    /// Until when the pen is left to others.
    rest_until: Instant,
    next_reach: Instant,
    /// Since when the pen could have been taken by a node with newer projections.
    free_since: Option<Instant>,
}

/// Failures in a row, and what was told of them.
#[derive(Debug, Default)]
struct Trouble {
    failures: u32,
    last: Option<Instant>,
    told: Option<Instant>,
    unsolved: bool,
}

impl Trouble {
    /// Notes a failure; gives the pause until the next attempt.
    fn failed(&mut self, reason: &str) -> Duration {
        let now = Instant::now();
        if self.last.is_none_or(|last| now - last > CALM) {
            self.failures = 0;
        }
        self.last = Some(now);
        self.failures += 1;
        if !self.unsolved || self.told.is_none_or(|told| now - told > TELL) {
            self.told = Some(now);
            self.unsolved = true;
            tracing::warn!(
                reason,
                "the database of read models cannot be used; commands go on, views stand still"
            );
        }
        let (first, longest) = BACKOFF;
        let pause = first.saturating_mul(1 << self.failures.min(10).saturating_sub(1));
        pause.min(longest)
    }

    /// Tells that it is over, once it has been for a while.
    fn went_well(&mut self) {
        if self.unsolved && self.last.is_none_or(|last| last.elapsed() > CALM / 5) {
            self.unsolved = false;
            tracing::info!("the database of read models can be used again");
        }
    }
}

impl Keeper {
    pub(super) fn new(
        shared: Arc<Shared>,
        options: PgConnectOptions,
        interval: Duration,
        node: String,
        cluster: &str,
    ) -> Self {
        let now = Instant::now();
        let shards = shared.shards;
        Self {
            owner: owner(cluster, shards),
            firsts: (0..shards).map(|_| None).collect(),
            shared,
            options,
            interval,
            node,
            connection: None,
            trouble: Trouble::default(),
            rest_until: now,
            next_reach: now,
            free_since: None,
        }
    }

    /// Works until it is aborted.
    pub(super) async fn run(mut self) {
        loop {
            let done = if self.shared.standing.is(Part::Writing) {
                self.tend().await
            } else {
                self.follow().await
            };
            match done {
                Ok(()) => self.trouble.went_well(),
                Err(error) => {
                    self.connection = None;
                    self.step_down().await;
                    let state = self.shared.standing.now().state;
                    self.shared.standing.hindered(state, error.to_string());
                    let pause = self.trouble.failed(&error.to_string());
                    tokio::time::sleep(pause).await;
                }
            }
        }
    }

    async fn look(&mut self) -> Result<Seen, StoreError> {
        let mut connection = match self.connection.take() {
            Some(connection) => connection,
            None => connect(&self.options).await?,
        };
        let seen = look(&mut connection).await;
        // One that failed is not used again.
        if seen.as_ref().err().is_none_or(is_unmade) {
            self.connection = Some(connection);
        }
        seen
    }

    /// One round of a node that writes.
    async fn tend(&mut self) -> Result<(), StoreError> {
        let mut changes = self.shared.standing.subscribe();
        let lost = changes.wait_for(|stand| stand.state != Part::Writing);
        // Without an answer in time it still writes.
        let lost = tokio::time::timeout(TEND, lost).await.is_ok();
        if lost {
            let reason = self.shared.standing.now().reason;
            let reason = reason.unwrap_or_else(|| "a transaction failed".to_owned());
            return Err(StoreError::Away(reason));
        }
        let ends = self.ends();
        let good = self
            .shared
            .writer
            .ask(|reply| Control::Ping { ends, reply });
        good.await.unwrap_or(Err(StoreError::Stopping))?;
        let seen = self.look().await?;
        self.obey(&seen);
        let wished = seen.wish.as_ref().is_some_and(|wish| *wish != self.node);
        let incomplete = self.shared.missing.load(Ordering::Relaxed) > 0;
        if wished || incomplete {
            self.rest_until = Instant::now() + LEAVE_TO_OTHERS;
            tracing::info!("another node fills the read models from now on");
            self.step_down().await;
        }
        Ok(())
    }

    /// What others have asked of whoever writes.
    fn obey(&self, seen: &Seen) {
        for entry in self.shared.entries.values() {
            let name = entry.definition.name;
            let paused = seen.paused.iter().any(|paused| paused == name);
            if *entry.paused.borrow() != paused {
                entry.paused.send_replace(paused);
            }
            if entry.rebuild.lock().is_some() {
                continue;
            }
            let live = entry.live().id;
            let next = seen.building(&entry.definition, self.shared.shards);
            if let Some(next) = next.filter(|next| next.id > live) {
                self.shared.raise(entry, Arc::new(next));
            }
        }
    }

    /// One round of a node that reads.
    async fn follow(&mut self) -> Result<(), StoreError> {
        let ends = self.ends();
        let seen = self.look().await.and_then(|seen| {
            seen.check(&self.owner, &ends)?;
            Ok(seen)
        });
        match seen {
            Ok(seen) => {
                seen.show(&self.shared);
                self.shared.standing.set_writer(seen.writer.clone());
                if !self.shared.standing.is(Part::Following) {
                    self.shared.standing.set(Part::Following);
                }
            }
            Err(error) if is_unmade(&error) => {}
            Err(error) => {
                let reason = error.to_string();
                self.shared.standing.hindered(Part::Away, reason);
                return Err(error);
            }
        }
        let wanted = self.shared.wanted.as_ref();
        let wanted = wanted.is_some_and(|wanted| wanted.count.load(Ordering::Relaxed) > 0);
        let now = Instant::now();
        let due = now >= self.next_reach && now >= self.rest_until;
        if (due || wanted) && self.shared.missing.load(Ordering::Relaxed) == 0 {
            self.reach(wanted).await?;
        }
        if self.shared.standing.is(Part::Writing) {
            return Ok(());
        }
        let shared = Arc::clone(&self.shared);
        if wanted {
            tokio::time::sleep(self.interval).await;
            return Ok(());
        }
        let news = async {
            match &shared.wanted {
                Some(wanted) => wanted.news.notified().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = tokio::time::sleep(IDLE) => {}
            () = news => {}
            () = async {
                shared.writer.hurried().await;
                tokio::time::sleep(self.interval).await;
            } => {}
        }
        Ok(())
    }

    /// Reaches for the pen; with it, begins to write.
    async fn reach(&mut self, wanted: bool) -> Result<(), StoreError> {
        self.next_reach = Instant::now() + IDLE;
        if wanted {
            let wished = self
                .shared
                .writer
                .ask(|reply| Control::WishForPen { reply });
            wished.await.unwrap_or(Err(StoreError::Stopping))?;
        }
        let definitions = self.shared.entries.values();
        let definitions = definitions.map(|e| Arc::clone(&e.definition)).collect();
        let ends = self.ends();
        let patient = self
            .free_since
            .is_some_and(|since| since.elapsed() > OLDER_WAITS);
        let taken = self.shared.writer.ask(|reply| Control::TakePen {
            ends,
            definitions,
            patient,
            reply,
        });
        match taken.await.unwrap_or(Err(StoreError::Stopping))? {
            (Pen::Held, planned) => {
                self.free_since = None;
                self.write(planned);
            }
            (Pen::Elsewhere, _) => {
                self.free_since = None;
                let state = self.shared.standing.now().state;
                self.shared.standing.set(state);
            }
            (Pen::NotYet(reason), _) => {
                self.free_since.get_or_insert_with(Instant::now);
                let state = self.shared.standing.now().state;
                self.shared.standing.hindered(state, reason);
            }
        }
        Ok(())
    }

    /// Begins to write. Whoever sees that this node does must see the builds that it has from then on;
    /// and a projector that fails is started again only by a node that writes.
    fn write(&self, planned: Vec<Planned>) {
        let mut begun = Vec::new();
        for planned in planned {
            let Some(entry) = self.shared.entries.get(planned.definition.name) else {
                continue;
            };
            entry.paused.send_replace(planned.paused);
            entry.swap(Arc::clone(&planned.live));
            if let Some(next) = &planned.next {
                Shared::reserve(entry, next);
            }
            begun.push((entry, planned));
        }
        self.shared.standing.set(Part::Writing);
        self.shared.standing.set_writer(Some(self.node.clone()));
        tracing::info!("this node fills the read models");
        for (entry, planned) in begun {
            self.shared.fill(entry, &planned.live);
            if let Some(next) = planned.next {
                self.shared.lift(entry, next);
            }
        }
    }

    /// Stops to write, whether this node still holds the pen or not.
    async fn step_down(&self) {
        let (reply, left) = tokio::sync::oneshot::channel();
        let told = self
            .shared
            .supervisor
            .send_message(SupervisorMessage::LeaveAll { reply });
        for entry in self.shared.entries.values() {
            let rebuild = entry.rebuild.lock().take();
            if let Some(task) = rebuild.and_then(|rebuild| rebuild.task) {
                task.abort();
            }
        }
        if told.is_ok() {
            // Without an answer the supervisor is gone, and its projectors with it.
            let _gone = left.await;
        }
        if self.shared.standing.is(Part::Writing) {
            let laid = self
                .shared
                .writer
                .ask(|reply| Control::LayPenDown { reply });
            // A writer that is gone holds nothing.
            let _gone = laid.await;
            self.shared.standing.set(Part::Following);
        }
    }

    fn ends(&mut self) -> Vec<ShardEnd> {
        let feed = &*self.shared.feed;
        let firsts = (0..).zip(&mut self.firsts);
        firsts
            .map(|(shard, first)| {
                if first.is_none() {
                    *first = first_record(feed, shard);
                }
                ShardEnd {
                    shard,
                    committed: feed.committed_position(shard),
                    first: first.clone(),
                }
            })
            .collect()
    }
}

/// Tells a history from others: when its first record was decided, and the sum of its bytes.
fn first_record(feed: &dyn Feed, shard: ShardId) -> Option<String> {
    let first = feed.read_committed(&mut FeedCursor::after(shard, 0), 1);
    let first = first.ok()?;
    let record = first.first()?;
    let sum = crc32c::crc32c(&record.bytes);
    Some(format!("{} {sum:08x}", record.time_us))
}

/// Wants this node to write, until it is dropped.
struct Wanting<'a>(&'a Wanted);

impl<'a> Wanting<'a> {
    fn begin(wanted: &'a Wanted) -> Self {
        wanted.count.fetch_add(1, Ordering::Relaxed);
        wanted.news.notify_one();
        Self(wanted)
    }
}

impl Drop for Wanting<'_> {
    fn drop(&mut self) {
        self.0.count.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Shared {
    /// Returns when this node writes: at once with a file of its own, and after another one has laid
    /// the pen down with a database that they share.
    pub(super) async fn begin_to_write(&self) -> Result<(), OperationError> {
        let Some(wanted) = &self.wanted else {
            return Ok(());
        };
        if self.standing.is(Part::Writing) {
            return Ok(());
        }
        let _wanting = Wanting::begin(wanted);
        let mut changes = self.standing.subscribe();
        let writes = changes.wait_for(|stand| stand.state == Part::Writing);
        if tokio::time::timeout(ACQUIRE, writes).await.is_ok() {
            return Ok(());
        }
        let reason = self.standing.now().reason;
        Err(OperationError::Away {
            reason: reason.unwrap_or_else(|| "another node writes and goes on".to_owned()),
        })
    }

    /// Notes a build that another node fills.
    pub(super) fn note_rebuild(
        entry: &super::entry::Entry,
        build: Option<Arc<super::build::Build>>,
    ) {
        let mut slot = entry.rebuild.lock();
        match (&*slot, build) {
            (Some(known), Some(build)) if known.build.id == build.id => {
                for (known, now) in known.build.shards.iter().zip(&build.shards) {
                    known.advance(now.reached());
                }
            }
            (_, None) => *slot = None,
            (_, Some(build)) => {
                *slot = Some(Rebuild {
                    since: Instant::now(),
                    from: super::status::sum(&build),
                    build,
                    task: None,
                });
            }
        }
    }
}
