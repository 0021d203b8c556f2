//! The feed of committed events, on every disk: nothing uncommitted, nothing twice, no gap, and the
//! same from every place.

use std::time::Duration;

use phalanx_actors::ports::{Feed as _, FeedCursor};
use phalanx_actors::record::Record;

use super::super::{Journal, LogEntry, LogPayload};
use super::kit::{Bench, append, apply, blank, block_on, commit, entry, history, record, wait};

/// Everything behind `after`, read in pieces of `max_bytes`.
fn read(journal: &Journal, after: u64, max_bytes: usize) -> Vec<Record> {
    let mut cursor = FeedCursor::after(0, after);
    let mut found = Vec::new();
    loop {
        let page = journal.read_committed(&mut cursor, max_bytes).unwrap();
        if page.is_empty() {
            return found;
        }
        let last = page.last().unwrap();
        let reached = last.first_position + u64::from(last.event_count) - 1;
        assert_eq!(cursor.position(), reached);
        found.extend(page);
    }
}

/// Several commands an entry, several events a command, and entries without commands between.
fn mixed(entries: u64) -> Vec<LogEntry> {
    let mut position = 1;
    let mut sequence = 1;
    let mut all = vec![blank(0)];
    for index in 1..entries {
        if index % 7 == 3 {
            all.push(blank(index));
            continue;
        }
        let records = (0..1 + index % 3).map(|n| {
            let events = 1 + u32::try_from((index + n) % 3).unwrap();
            let record = record("a", sequence, events, position);
            sequence += u64::from(events);
            position += u64::from(events);
            record
        });
        all.push(entry(index, records.collect()));
    }
    all
}

fn records(entries: &[LogEntry]) -> Vec<Record> {
    let of_entry = |entry: &LogEntry| match &entry.payload {
        LogPayload::Records(records) => records.to_vec(),
        LogPayload::Other(_) => Vec::new(),
    };
    entries.iter().flat_map(of_entry).collect()
}

#[test]
fn from_every_position_exactly_the_records_behind_it_come() {
    for bench in Bench::all() {
        let journal = bench.open();
        let entries = mixed(120);
        let all = records(&entries);
        // In two parts, so that the front is on disk alone and the end in memory as well.
        let (front, end) = entries.split_at(100);
        commit(&journal, 0, front.to_vec());
        let journal = bench.reopen(journal);
        commit(&journal, 0, end.to_vec());
        let last = journal.committed_position(0);
        assert_eq!(last, journal.last_position(0).unwrap());
        for after in 0..=last {
            let behind = |record: &&Record| {
                record.first_position + u64::from(record.event_count) > after + 1
            };
            let expected: Vec<Record> = all.iter().filter(behind).cloned().collect();
            assert_eq!(read(&journal, after, 2_000), expected, "after {after}");
        }
        assert_eq!(read(&journal, 0, usize::MAX), all);
        assert_eq!(read(&journal, last + 5, usize::MAX), [], "not there yet");
    }
}

#[test]
fn a_page_is_bounded_but_never_empty() {
    for bench in Bench::all() {
        let journal = bench.open();
        commit(&journal, 0, history(300, 3));
        let journal = bench.reopen(journal);
        let mut cursor = FeedCursor::after(0, 17);
        assert_eq!(journal.read_committed(&mut cursor, 1).unwrap().len(), 1);
        assert_eq!(cursor.position(), 18);
        let page = journal.read_committed(&mut cursor, 4_000).unwrap();
        assert!((2..100).contains(&page.len()), "{}", page.len());
    }
}

#[test]
fn what_is_not_committed_is_not_shown_and_what_was_cut_off_never_was() {
    for bench in Bench::all() {
        let journal = bench.open();
        let kept = vec![blank(0), entry(1, vec![record("a", 1, 1, 1)])];
        commit(&journal, 0, kept.clone());
        append(&journal, 0, vec![entry(2, vec![record("a", 2, 1, 2)])]);
        let mut cursor = FeedCursor::after(0, 0);
        let page = journal.read_committed(&mut cursor, usize::MAX).unwrap();
        assert_eq!(page, records(&kept));
        assert_eq!(journal.read_committed(&mut cursor, usize::MAX).unwrap(), []);
        assert_eq!(journal.committed_position(0), 1);

        wait(|done| journal.truncate_after(0, Some(1), done)).unwrap();
        let other = vec![entry(2, vec![record("b", 1, 2, 2)])];
        append(&journal, 0, other.clone());
        assert_eq!(journal.read_committed(&mut cursor, usize::MAX).unwrap(), []);
        apply(&journal, 0, &other);
        let page = journal.read_committed(&mut cursor, usize::MAX).unwrap();
        assert_eq!(page, records(&other));
        assert_eq!(journal.committed_position(0), 3);
    }
}

#[test]
fn whoever_waits_is_woken_by_the_commit_and_not_before() {
    for bench in Bench::all() {
        let journal = bench.open();
        commit(&journal, 0, history(10, 1));
        let news = vec![entry(10, vec![record("z", 1, 1, 10)])];
        append(&journal, 0, news.clone());
        block_on(async {
            journal.wait_committed(0, 8).await;
            let waiting = journal.wait_committed(0, 9);
            tokio::pin!(waiting);
            let early = tokio::time::timeout(Duration::from_millis(20), &mut waiting).await;
            assert!(early.is_err(), "nothing is committed yet");
            let (records, applied) = super::kit::applied(&news);
            journal.apply(0, records, applied);
            waiting.await;
        });
        assert_eq!(read(&journal, 9, 1).len(), 1);
    }
}

#[test]
fn a_position_that_is_missing_is_damage() {
    let bench = Bench::memory(super::super::MemoryDisk::default());
    let journal = bench.open();
    commit(&journal, 0, history(10, 1));
    let mut cursor = FeedCursor::after(0, 3);
    // As if the place had been noted for another log.
    cursor.advance(3, 7);
    let error = journal.read_committed(&mut cursor, 1).unwrap_err();
    assert!(
        error.to_string().contains("position 4 is missing"),
        "{error}"
    );
}
