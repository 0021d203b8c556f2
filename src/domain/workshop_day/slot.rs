//! A stretch of time, from its start up to but not including its end.
//!
//! This file owns the arithmetic of overlaps and knows no jobs. Its invariant: a slot is never
//! empty, its end is after its start.

use jiff::Timestamp;

/// A stretch of time, from its start up to but not including its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Slot {
    start: Timestamp,
    end: Timestamp,
}

impl Slot {
    /// `None` when the end is not after the start.
    #[must_use]
    pub fn new(start: Timestamp, end: Timestamp) -> Option<Self> {
        (start < end).then_some(Self { start, end })
    }

    /// Whether the two have an instant in common; touching ends have none.
    #[must_use]
    pub fn overlaps(self, other: Self) -> bool {
        self.start < other.end && other.start < self.end
    }
}

/// The largest number of slots that have one instant in common.
///
/// It walks over all starts and ends in time order; at one instant, ends come before starts.
pub(super) fn most_at_once(slots: impl Iterator<Item = Slot>) -> usize {
    let mut changes: Vec<(Timestamp, bool)> = slots
        .flat_map(|slot| [(slot.start, true), (slot.end, false)])
        .collect();
    changes.sort_unstable();
    let mut now = 0_usize;
    let mut most = 0;
    for (_, begins) in changes {
        now = if begins {
            now + 1
        } else {
            now.saturating_sub(1)
        };
        most = most.max(now);
    }
    most
}
