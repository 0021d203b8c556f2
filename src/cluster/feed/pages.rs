//! Records of one shard that came from other nodes, for the readers that wait for them.
//!
//! Owns the bound on what is kept. Refuses records with a hole between them. Invariant: what is read
//! out behind a position begins at the next one.

use std::collections::BTreeMap;

use phalanx_actors::record::Record;

/// Pages of one shard that are kept at most: at the end of the log they are short.
const MOST_PAGES: usize = 64;
/// What a record weighs besides its bytes.
const RECORD_BYTES: usize = 160;

/// See the file's description.
#[derive(Debug, Default)]
pub(super) struct Pages {
    /// By the position behind which each begins.
    pages: BTreeMap<u64, Page>,
    bytes: usize,
    /// Of the next page.
    number: u64,
}

#[derive(Debug)]
struct Page {
    records: Vec<Record>,
    last: u64,
    bytes: usize,
    number: u64,
}

impl Pages {
    /// The records behind a position that weigh about `max_bytes`, and the position of the last
    /// event in them; `None` when none is here.
    pub(super) fn read(&self, after: u64, max_bytes: usize) -> Option<(Vec<Record>, u64)> {
        let page = self.covering(after)?;
        let mut bytes = 0_usize;
        let mut records = Vec::new();
        for record in page.records.iter().filter(|r| r.last_position() > after) {
            if !records.is_empty() && bytes >= max_bytes {
                break;
            }
            bytes = bytes.saturating_add(record.bytes.len());
            records.push(record.clone());
        }
        let last = records.last().map(Record::last_position)?;
        Some((records, last))
    }

    /// Whether something behind a position is here.
    pub(super) fn covers(&self, after: u64) -> bool {
        self.covering(after).is_some()
    }

    fn covering(&self, after: u64) -> Option<&Page> {
        let before = self.pages.range(..=after).rev();
        before.map(|(_, page)| page).find(|page| page.last > after)
    }

    /// Keeps records that [`fit`] behind a position, and forgets the oldest ones beyond `most_bytes`.
    pub(super) fn insert(&mut self, after: u64, records: Vec<Record>, most_bytes: usize) {
        let Some(last) = records.last().map(Record::last_position) else {
            return;
        };
        let weight = |record: &Record| record.bytes.len() + RECORD_BYTES;
        let bytes = records.iter().map(weight).sum();
        let page = Page {
            records,
            last,
            bytes,
            number: self.number,
        };
        self.number += 1;
        self.bytes += bytes;
        if let Some(before) = self.pages.insert(after, page) {
            self.bytes -= before.bytes;
        }
        while self.pages.len() > 1 && (self.bytes > most_bytes || self.pages.len() > MOST_PAGES) {
            let oldest = self.pages.iter().min_by_key(|(_, page)| page.number);
            let Some(page) = oldest
                .map(|(after, _)| *after)
                .and_then(|after| self.pages.remove(&after))
            else {
                break;
            };
            self.bytes -= page.bytes;
        }
    }

    /// Forgets everything.
    pub(super) fn clear(&mut self) {
        self.pages.clear();
        self.bytes = 0;
    }

    #[cfg(test)]
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }
}

/// Whether records follow a position without a hole.
pub(super) fn fit(after: u64, records: &[Record]) -> bool {
    let mut next = after + 1;
    for (at, record) in records.iter().enumerate() {
        let follows = if at == 0 {
            record.first_position <= next && record.last_position() >= next
        } else {
            record.first_position == next
        };
        if !follows || record.event_count == 0 {
            return false;
        }
        next = record.last_position() + 1;
    }
    !records.is_empty()
}
