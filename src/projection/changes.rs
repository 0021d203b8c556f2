//! Which rows of a build have changed lately: a bounded window, in memory, of keys and positions.
//!
//! The writer notes what it has committed; followers read on from where they stand. Refuses: to keep
//! anything for a follower. One that falls out of the window, or that comes back with a place from
//! before it, is told so and reads the rows again. Invariant: for a follower that has seen every
//! shard up to the window's floor, all later changes are in the window.
//!
//! A place is how far a follower has seen each shard. So it means the same before and after a restart,
//! and wherever the same build is filled from the same events. What an attempt of a dead letter changes
//! moves no shard on, so such attempts are counted, and the count is stored with what they change: an
//! *era* is that count and what this process has noticed besides.

use std::collections::VecDeque;
use std::fmt::Write as _;

use parking_lot::Mutex;
use phalanx_actors::names::{Position, ShardId};
use phalanx_actors::projection::{Change, Key, Value};
use tokio::sync::watch;

use super::build::BuildId;
use super::store::OffsetMove;

/// Rows that a window holds, at most.
const MAX_ROWS: usize = 8192;
/// Bytes of their keys, at most, without the bytes of the window itself.
const MAX_KEY_BYTES: usize = 1 << 20;

/// Eras between two attempts, for what a process notices: a shard that has moved on by a transaction which
/// it does not know of. Who has not seen that is behind the floor after the next start in any case.
const ERAS: u64 = 1 << 20;

/// The last change of a row in a transaction.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Noted {
    position: Position,
    key: Key,
    removed: bool,
}

/// What a follower is told of one event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RowChanges {
    /// The event: with it as `after`, a query shows what it has changed.
    pub position: Position,
    /// The keys of the rows that it has changed, and whether the row is gone.
    pub rows: Vec<(Key, bool)>,
}

/// How far a follower has seen a build. See the file's description.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Place {
    era: u64,
    seen: Vec<u64>,
    /// The next row in the window, which numbers them.
    next: u64,
}

/// See the file's description.
#[derive(Debug)]
pub(crate) struct Changes {
    window: Mutex<Window>,
    news: watch::Sender<u64>,
}

#[derive(Debug)]
struct Window {
    rows: VecDeque<Noted>,
    /// The number of the first of them.
    first: u64,
    key_bytes: usize,
    /// What is not in the window any more, by shard.
    floor: Vec<u64>,
    /// What the rows of the build show, by shard.
    reached: Vec<u64>,
    /// Grows when rows have changed in a way that the window does not tell.
    era: u64,
}

impl Changes {
    /// An empty window over a build whose offsets are these, and whose rows so many attempts of dead letters
    /// have changed.
    pub(crate) fn new(offsets: Vec<u64>, attempts: u64) -> Self {
        Self {
            window: Mutex::new(Window {
                rows: VecDeque::new(),
                first: 0,
                key_bytes: 0,
                floor: offsets.clone(),
                reached: offsets,
                era: attempts.saturating_mul(ERAS),
            }),
            news: watch::Sender::new(0),
        }
    }

    /// Notes a committed transaction: the rows of the view that it has changed, and the offsets that it
    /// moved.
    pub(crate) fn note<'a>(
        &self,
        build: BuildId,
        changes: impl Iterator<Item = Change<'a>>,
        moves: &[OffsetMove],
    ) {
        let mut noted: Vec<Noted> = changes
            .map(|change| Noted {
                position: change.position,
                key: change.key.clone(),
                removed: change.values.is_none(),
            })
            .collect();
        noted.sort_by_key(|noted| (noted.position.shard, noted.position.number));
        let mut window = self.window.lock();
        for moved in moves.iter().filter(|moved| moved.build == build) {
            window.advance(moved.shard, moved.from, moved.to);
        }
        window.push(noted);
        drop(window);
        self.news.send_modify(|news| *news += 1);
    }

    /// How many attempts of dead letters have changed rows.
    pub(crate) fn attempts(&self) -> u64 {
        self.window.lock().era / ERAS
    }

    /// Notes that one more attempt has changed rows, out of order: whoever follows must read them again.
    pub(crate) fn attempted(&self) {
        let mut window = self.window.lock();
        let attempts = window.era / ERAS + 1;
        window.start_over();
        window.era = attempts.saturating_mul(ERAS);
        drop(window);
        self.news.send_modify(|news| *news += 1);
    }

    /// Wakes who waits for more.
    pub(super) fn news(&self) -> watch::Receiver<u64> {
        self.news.subscribe()
    }

    /// The place of somebody who reads the rows from now on.
    pub(super) fn now(&self) -> Place {
        self.window.lock().now()
    }

    /// The place of somebody who has seen this much; `None` when the window does not go back so far.
    pub(super) fn resume(&self, era: u64, seen: Vec<u64>) -> Option<Place> {
        let window = self.window.lock();
        let missed = |(seen, floor): (&u64, &u64)| seen < floor;
        if era != window.era
            || seen.len() != window.floor.len()
            || seen.iter().zip(&window.floor).any(missed)
        {
            return None;
        }
        Some(Place {
            era,
            seen,
            next: window.first,
        })
    }

    /// What has changed behind a place, about `limit` rows of it, and moves it; `None` when the
    /// window has gone on without it.
    pub(super) fn read(&self, place: &mut Place, limit: usize) -> Option<Vec<RowChanges>> {
        self.window.lock().read(place, limit)
    }
}

impl Window {
    fn now(&self) -> Place {
        Place {
            era: self.era,
            seen: self.reached.clone(),
            next: self.end(),
        }
    }

    fn end(&self) -> u64 {
        self.first + self.rows.len() as u64
    }

    fn advance(&mut self, shard: ShardId, from: u64, to: u64) {
        let slot = usize::try_from(shard).ok();
        let Some(reached) = slot.and_then(|slot| self.reached.get_mut(slot)) else {
            return;
        };
        // Somebody else has moved the offset meanwhile, or a commit that seemed to fail did not.
        let unseen = *reached != from;
        *reached = to;
        if unseen {
            self.start_over();
        }
    }

    fn start_over(&mut self) {
        self.first = self.end();
        self.rows.clear();
        self.key_bytes = 0;
        self.floor.clone_from(&self.reached);
        self.era += 1;
    }

    fn push(&mut self, noted: Vec<Noted>) {
        for row in noted {
            self.key_bytes += key_bytes(&row.key);
            self.rows.push_back(row);
            while self.rows.len() > MAX_ROWS || self.key_bytes > MAX_KEY_BYTES {
                let Some(oldest) = self.rows.pop_front() else {
                    break;
                };
                self.first += 1;
                self.key_bytes -= key_bytes(&oldest.key);
                let slot = usize::try_from(oldest.position.shard).ok();
                if let Some(floor) = slot.and_then(|slot| self.floor.get_mut(slot)) {
                    *floor = oldest.position.number.max(*floor);
                }
            }
        }
    }

    fn read(&self, place: &mut Place, limit: usize) -> Option<Vec<RowChanges>> {
        if place.era != self.era || place.next < self.first {
            return None;
        }
        let mut told: Vec<RowChanges> = Vec::new();
        let mut count = 0;
        let skipped = usize::try_from(place.next - self.first).unwrap_or(usize::MAX);
        for row in self.rows.range(skipped.min(self.rows.len())..) {
            let same = told
                .last()
                .is_some_and(|last| last.position == row.position);
            // Rows that one event has changed are told together, or a place could fall between them.
            if count >= limit && !same {
                return Some(told);
            }
            place.next += 1;
            let slot = usize::try_from(row.position.shard).ok();
            let Some(seen) = slot.and_then(|slot| place.seen.get_mut(slot)) else {
                continue;
            };
            let change = (row.key.clone(), row.removed);
            if same && let Some(last) = told.last_mut() {
                last.rows.push(change);
            } else if row.position.number > *seen {
                *seen = row.position.number;
                let (position, rows) = (row.position, vec![change]);
                told.push(RowChanges { position, rows });
            } else {
                continue;
            }
            count += 1;
        }
        for (seen, reached) in place.seen.iter_mut().zip(&self.reached) {
            *seen = (*reached).max(*seen);
        }
        Some(told)
    }
}

/// Bytes that a key holds beside its place in the window.
fn key_bytes(key: &Key) -> usize {
    match key {
        Value::Text(text) => text.len(),
        Value::Null | Value::Integer(_) | Value::Boolean(_) | Value::Time(_) => 0,
    }
}

impl Place {
    /// Notes that everything of a shard up to this event was seen.
    pub(super) fn see(&mut self, position: Position) {
        let slot = usize::try_from(position.shard).ok();
        if let Some(seen) = slot.and_then(|slot| self.seen.get_mut(slot)) {
            *seen = position.number.max(*seen);
        }
    }

    /// The era, and what was seen of each shard with something in it: `0/0:17,3:204`.
    pub(super) fn render(&self) -> String {
        let mut text = format!("{}/", self.era);
        let mut comma = "";
        for (shard, number) in (0_u32..).zip(&self.seen).filter(|(_, number)| **number > 0) {
            // Writing to a string cannot fail.
            let _written = write!(text, "{comma}{shard}:{number}");
            comma = ",";
        }
        text
    }

    /// The era and the shards of such a text.
    pub(super) fn parse(text: &str, shards: u32) -> Option<(u64, Vec<u64>)> {
        let (era, list) = text.split_once('/')?;
        let mut seen: Vec<u64> = (0..shards).map(|_| 0).collect();
        for position in list.split(',').filter(|position| !position.is_empty()) {
            let position: Position = position.parse().ok()?;
            *seen.get_mut(usize::try_from(position.shard).ok()?)? = position.number;
        }
        Some((era.parse().ok()?, seen))
    }

    /// The positions that the rows showed when the place was made, for `after`.
    pub(super) fn positions(&self) -> String {
        let text = self.render();
        let list = text.split_once('/').map(|(_, list)| list.to_owned());
        list.unwrap_or_default()
    }
}

#[cfg(test)]
mod tests;
