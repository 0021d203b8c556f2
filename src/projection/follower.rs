//! Following the rows of a view: which have changed, as it happens.
//!
//! Owns: how far one follower has seen a view, and the id by which it goes on. Refuses: to tell less
//! than everything without saying so. Where changes cannot be told one by one (the place is too old,
//! the view was rebuilt, what was set aside has been taken in) the follower is told to read the rows
//! again, and the changes behind that come. Invariant: whoever reads the rows at each reset, and those
//! that it is told of, knows all rows.

use std::sync::Arc;

use phalanx_actors::names::Position;
use phalanx_actors::projection::Key;
use tokio::sync::watch;

use super::build::{Build, BuildId};
use super::changes::{Changes, Place, RowChanges};
use super::entry::Entry;
use super::error::ViewError;
use super::json::append_value;
use super::selection::parse_key_filter;
use super::standing::{Part, Stand};
use super::views::{Pairs, Views, view_table};

/// A place in the changes of a view, as a client brings it back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChangeId {
    version: u32,
    build: BuildId,
    era: u64,
    seen: Vec<u64>,
}

/// Why a follower has to read the rows again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reset {
    /// It has just begun.
    Begin,
    /// What changed since it was here last is not known any more.
    TooOld,
    /// The rows were built again.
    Rebuilt,
    /// It did not keep up, or rows were changed out of order.
    Lost,
}

impl Reset {
    /// Its name.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Begin => "begin",
            Self::TooOld => "too-old",
            Self::Rebuilt => "rebuilt",
            Self::Lost => "lost",
        }
    }
}

/// What a follower is told next.
#[derive(Debug)]
pub enum Told {
    /// To read the rows again. Changes behind these positions follow.
    Reset {
        /// Why.
        reason: Reset,
        /// What the rows show at least, for `after`.
        positions: String,
        /// Its place now.
        id: String,
    },
    /// Rows that have changed, by event, each with the place behind it. None when all of them are
    /// nothing to this follower.
    Changed(Vec<(String, RowChanges)>),
    /// Nothing yet.
    Nothing,
    /// This node has lost a copy of some shard, or another one fills the rows: it does not know any
    /// more which change.
    Incomplete,
}

/// One follower of one view.
#[derive(Debug)]
pub struct Follower {
    views: Views,
    entry: Arc<Entry>,
    swaps: watch::Receiver<Arc<Build>>,
    of: Followed,
    place: Place,
    reset: Option<Reset>,
    only: Option<Key>,
}

/// The build that is followed. It is not held itself: it may be removed meanwhile.
#[derive(Debug)]
struct Followed {
    version: u32,
    build: BuildId,
    changes: Arc<Changes>,
    news: watch::Receiver<u64>,
}

impl Followed {
    fn new(build: &Build) -> Self {
        Self {
            version: build.version,
            build: build.id,
            changes: Arc::clone(&build.changes),
            news: build.changes.news(),
        }
    }
}

impl ChangeId {
    /// The place of an id that a follower was given; `None` when it is none.
    #[must_use]
    pub fn parse(text: &str, shards: u32) -> Option<Self> {
        let (version, rest) = text.split_once('.')?;
        let (build, rest) = rest.split_once('.')?;
        let (era, seen) = Place::parse(rest, shards)?;
        Some(Self {
            version: version.parse().ok()?,
            build: build.parse().ok()?,
            era,
            seen,
        })
    }
}

impl Views {
    /// Follows the rows of a view, or the one row whose key the pairs name, from a place on.
    ///
    /// # Errors
    /// See [`ViewError`].
    pub fn follow(
        &self,
        view: &str,
        pairs: &Pairs<'_>,
        from: Option<ChangeId>,
    ) -> Result<Follower, ViewError> {
        let entry = self.entry(view)?;
        self.fills()?;
        let swaps = entry.swaps();
        let (build, _) = self.followed(entry)?;
        let only = parse_key_filter(view_table(&build)?, pairs)?;
        let of = Followed::new(&build);
        let resumed = from.as_ref().and_then(|id| {
            let same = (id.version, id.build) == (of.version, of.build);
            let place = of.changes.resume(id.era, id.seen.clone());
            place.filter(|_| same)
        });
        let reset = match (&from, &resumed) {
            (None, _) => Some(Reset::Begin),
            (Some(_), None) => Some(Reset::TooOld),
            (Some(_), Some(_)) => None,
        };
        Ok(Follower {
            views: self.clone(),
            entry: Arc::clone(entry),
            swaps,
            place: resumed.unwrap_or_else(|| of.changes.now()),
            of,
            reset,
            only,
        })
    }
}

impl Views {
    /// An error where another node fills the views: only that one knows which rows change.
    fn fills(&self) -> Result<(), ViewError> {
        let Stand { state, writer, .. } = self.standing();
        if state == Part::Writing {
            return Ok(());
        }
        let writer = writer.unwrap_or_else(|| "nobody just now".to_owned());
        Err(ViewError::Elsewhere { writer })
    }
}

impl Follower {
    /// Its place, as an id.
    #[must_use]
    pub fn id(&self) -> String {
        self.id_of(&self.place)
    }

    fn id_of(&self, place: &Place) -> String {
        let Followed { version, build, .. } = &self.of;
        format!("{version}.{build}.{}", place.render())
    }

    /// What it is told next, of about `limit` rows.
    pub fn told(&mut self, limit: usize) -> Told {
        if self.views.fills().is_err() || self.views.followed(&self.entry).is_err() {
            return Told::Incomplete;
        }
        // What changes from here on wakes it again.
        self.of.news.mark_unchanged();
        let swapped = {
            let live = self.swaps.borrow_and_update();
            (live.id != self.of.build).then(|| Followed::new(&live))
        };
        if let Some(of) = swapped {
            self.of = of;
            self.start_over(Reset::Rebuilt);
        }
        if let Some(reason) = self.reset.take() {
            return Told::Reset {
                reason,
                positions: self.place.positions(),
                id: self.id(),
            };
        }
        let mut shown = self.place.clone();
        let Some(told) = self.of.changes.read(&mut self.place, limit) else {
            self.start_over(Reset::Lost);
            return self.told(limit);
        };
        if told.is_empty() {
            return Told::Nothing;
        }
        let wanted = |(key, _): &(Key, bool)| self.only.as_ref().is_none_or(|only| only == key);
        let told = told.into_iter().filter_map(|mut changed| {
            shown.see(changed.position);
            changed.rows.retain(wanted);
            (!changed.rows.is_empty()).then(|| (self.id_of(&shown), changed))
        });
        Told::Changed(told.collect())
    }

    fn start_over(&mut self, reason: Reset) {
        self.place = self.of.changes.now();
        // Whoever has not read the rows at all begins, whatever else has happened.
        self.reset = self.reset.or(Some(reason));
    }

    /// Waits until there may be more to tell. Costs nothing while it waits.
    pub async fn wait(&mut self) {
        // Senders live as long as the build and its entry; a build that is gone was swapped.
        tokio::select! {
            Ok(()) = self.of.news.changed() => {}
            Ok(()) = self.swaps.changed() => {}
            else => std::future::pending().await,
        }
    }
}

impl RowChanges {
    /// A JSON object: the position, and each row with its key and whether it is gone.
    #[must_use]
    pub fn to_json(&self) -> Vec<u8> {
        let Position { shard, number } = self.position;
        let mut out = format!("{{\"position\":\"{shard}:{number}\",\"rows\":[").into_bytes();
        for (at, (key, removed)) in self.rows.iter().enumerate() {
            if at > 0 {
                out.push(b',');
            }
            out.extend_from_slice(b"{\"key\":");
            append_value(&mut out, key);
            out.extend_from_slice(format!(",\"removed\":{removed}}}").as_bytes());
        }
        out.extend_from_slice(b"]}");
        out
    }
}
