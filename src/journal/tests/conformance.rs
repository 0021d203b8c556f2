//! What must hold on every disk.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use jiff::Timestamp;
use parking_lot::Mutex;
use phalanx_actors::ports::{Journal as _, STREAM_READ_BYTES, reached_end};
use phalanx_actors::record::{FLAG_GENERATED_KEY, hash_key};

use super::super::{LogPayload, StorageFailure};
use super::kit::{
    self, Bench, append, apply, blank, commit, entry, history, read_all, record, stream, wait,
};

#[test]
fn entries_read_back_from_memory_and_from_disk() {
    for bench in Bench::all() {
        let journal = bench.open();
        let entries = history(50, 4);
        append(&journal, 1, entries.clone());
        assert_eq!(read_all(&journal, 1), entries);
        assert_eq!(read_all(&journal, 0), []);
        let journal = bench.reopen(journal);
        assert_eq!(read_all(&journal, 1), entries);
        assert_eq!(
            journal.read_log(1, 7..9, usize::MAX).unwrap(),
            entries[7..9]
        );
        let bounds = journal.log_bounds(1).unwrap().unwrap();
        assert_eq!((bounds.first_index, bounds.last_index), (0, 49));
        assert_eq!(bounds.last_meta, kit::meta(49));
        assert_eq!(journal.last_position(1).unwrap(), 49);
        assert_eq!(journal.log_bounds(2).unwrap(), None);
    }
}

#[test]
fn entries_of_several_commands_read_back_whole() {
    for bench in Bench::all() {
        let journal = bench.open();
        let batch = vec![
            record("a", 1, 3, 1),
            record("b", 1, 1, 4),
            record("a", 4, 2, 5),
        ];
        let entries = vec![
            entry(1, batch.clone()),
            blank(2),
            entry(3, vec![record("b", 2, 1, 7)]),
        ];
        commit(&journal, 0, entries.clone());
        let journal = bench.reopen(journal);
        assert_eq!(read_all(&journal, 0), entries);
        let a = journal.read_stream(0, &stream("a"), 1, 10).unwrap();
        assert_eq!(a, [batch[0].clone(), batch[2].clone()]);
        assert_eq!(journal.indexed_position(0), 7);
    }
}

#[test]
fn entries_are_readable_before_they_are_on_disk() {
    let disk = super::super::MemoryDisk::default();
    let bench = Bench::memory(disk.clone());
    let journal = bench.open();
    disk.hold_syncs();
    let entries = history(40, 1);
    journal.append(0, entries.clone(), Box::new(drop));
    assert_eq!(read_all(&journal, 0), entries);
    disk.release_syncs();
}

#[test]
fn a_read_of_the_log_is_limited_but_never_empty() {
    for bench in Bench::all() {
        let journal = bench.open();
        commit(&journal, 0, history(200, 2));
        let journal = bench.reopen(journal);
        let one = journal.read_log(0, 3..200, 1).unwrap();
        assert_eq!(one.len(), 1);
        assert_eq!(one[0].index, 3);
        let some = journal.read_log(0, 3..200, 4000).unwrap();
        assert!((2..100).contains(&some.len()), "{}", some.len());
        assert_eq!(journal.read_log(0, 200..300, 1).unwrap(), []);
        commit(&journal, 0, vec![blank(200), blank(201)]);
        assert_eq!(journal.read_log(0, 200..300, 1).unwrap().len(), 1);
    }
}

#[test]
fn votes_survive_and_the_last_one_counts() {
    for bench in Bench::all() {
        let journal = bench.open();
        assert_eq!(journal.read_vote(2).unwrap(), None);
        for vote in ["one", "two"] {
            wait(|done| journal.save_vote(2, Bytes::from(vote), done)).unwrap();
        }
        wait(|done| journal.save_purged(2, Bytes::from("p"), done)).unwrap();
        bench.crash(journal);
        let journal = bench.open();
        assert_eq!(journal.read_vote(2).unwrap(), Some(Bytes::from("two")));
        assert_eq!(journal.read_purged(2).unwrap(), Some(Bytes::from("p")));
        assert_eq!(journal.read_vote(1).unwrap(), None);
    }
}

#[test]
fn votes_appends_and_truncations_end_in_the_order_of_calls() {
    for bench in Bench::all() {
        let journal = bench.open();
        let order = Arc::new(Mutex::new(Vec::new()));
        let note = |step: u32| {
            let order = Arc::clone(&order);
            Box::new(move |result: Result<(), StorageFailure>| {
                result.unwrap();
                order.lock().push(step);
            })
        };
        journal.append(0, history(10, 1), note(1));
        journal.save_vote(0, Bytes::from("v"), note(2));
        journal.truncate_after(0, Some(4), note(3));
        let again = entry(5, vec![record("other", 1, 2, 5)]);
        journal.append(0, vec![again.clone()], note(4));
        journal.truncate_after(0, Some(4), note(5));
        journal.append(0, vec![again.clone(), blank(6)], note(6));
        wait(|done| journal.save_vote(0, Bytes::from("w"), done)).unwrap();
        assert_eq!(*order.lock(), [1, 2, 3, 4, 5, 6]);
        let mut expected = history(5, 1);
        expected.extend([again, blank(6)]);
        assert_eq!(read_all(&journal, 0), expected);
        bench.crash(journal);
        let journal = bench.open();
        assert_eq!(read_all(&journal, 0), expected);
        assert_eq!(journal.last_position(0).unwrap(), 6);
    }
}

#[test]
fn a_whole_log_can_be_truncated_and_begun_again() {
    for bench in Bench::all() {
        let journal = bench.open();
        append(&journal, 0, history(10, 1));
        wait(|done| journal.truncate_after(0, None, done)).unwrap();
        assert_eq!(journal.log_bounds(0).unwrap(), None);
        let journal = bench.reopen(journal);
        assert_eq!(journal.log_bounds(0).unwrap(), None);
        assert_eq!(journal.last_position(0).unwrap(), 0);
        append(&journal, 0, history(3, 1));
        assert_eq!(read_all(&bench.reopen(journal), 0), history(3, 1));
    }
}

#[test]
fn truncation_after_a_restart_removes_rows_that_are_only_on_disk() {
    for bench in Bench::all() {
        let journal = bench.open();
        append(&journal, 0, history(300, 1));
        let journal = bench.reopen(journal);
        wait(|done| journal.truncate_after(0, Some(120), done)).unwrap();
        assert_eq!(journal.last_position(0).unwrap(), 120);
        let next = entry(121, vec![record("late", 1, 1, 121)]);
        append(&journal, 0, vec![next.clone()]);
        bench.crash(journal);
        let all = read_all(&bench.open(), 0);
        assert_eq!(all.len(), 122);
        assert_eq!(all[121], next);
    }
}

#[test]
fn appends_that_do_not_follow_are_refused_and_change_nothing() {
    for bench in Bench::all() {
        let journal = bench.open();
        let entries = history(5, 1);
        commit(&journal, 0, entries.clone());
        for wrong in [
            vec![blank(6)],
            vec![blank(4)],
            vec![blank(5), blank(7)],
            vec![entry(5, vec![record("a", 9, 1, 9)])],
        ] {
            let refused = wait(|done| journal.append(0, wrong, done));
            assert!(
                matches!(refused, Err(StorageFailure::OutOfOrder { .. })),
                "{refused:?}"
            );
        }
        let refused = wait(|done| journal.truncate_after(0, Some(3), done));
        assert!(
            matches!(refused, Err(StorageFailure::OutOfOrder { .. })),
            "applied entries stay"
        );
        assert_eq!(read_all(&journal, 0), entries);
        append(&journal, 0, vec![blank(5)]);
    }
}

#[test]
fn streams_read_in_order_from_anywhere() {
    for bench in Bench::all() {
        let journal = bench.open();
        // Stream a: 1-2, 3-5, 6, 7-9; the others are its neighbours in the table.
        let a = [
            record("a", 1, 2, 1),
            record("a", 3, 3, 5),
            record("a", 6, 1, 8),
            record("a", 7, 3, 10),
        ];
        let batch = vec![
            a[0].clone(),
            record("a0", 1, 1, 3),
            record("A", 1, 1, 4),
            a[1].clone(),
            a[2].clone(),
            record("a0", 2, 1, 9),
            a[3].clone(),
        ];
        commit(&journal, 0, vec![entry(1, batch)]);
        let read = |from, limit| journal.read_stream(0, &stream("a"), from, limit).unwrap();
        assert_eq!(read(1, 100), a);
        assert_eq!(read(0, 100), a);
        assert_eq!(read(1, 2), a[..2]);
        assert_eq!(read(2, 100), a, "the record that covers 2 begins at 1");
        assert_eq!(read(3, 100), a[1..]);
        assert_eq!(read(5, 2), a[1..3]);
        assert_eq!(read(6, 1), a[2..3]);
        assert_eq!(read(9, 100), a[3..]);
        assert_eq!(read(10, 100), []);
        assert_eq!(read(u64::MAX, 100), []);
        assert_eq!(journal.read_stream(0, &stream("b"), 1, 9).unwrap(), []);
        assert_eq!(journal.read_stream(0, &stream("b"), 5, 9).unwrap(), []);
        assert_eq!(journal.read_stream(1, &stream("a"), 1, 9).unwrap(), []);
    }
}

#[test]
fn long_streams_read_in_order_across_calls() {
    for bench in Bench::all() {
        let journal = bench.open();
        commit(&journal, 0, history(3001, 2));
        let journal = bench.reopen(journal);
        let mut next = 1;
        loop {
            let records = journal.read_stream(0, &stream("a-1"), next, 700).unwrap();
            for record in &records {
                assert_eq!(record.first_sequence, next);
                next += 1;
            }
            if records.is_empty() {
                break;
            }
        }
        assert_eq!(next, 1501);
    }
}

/// However many records somebody asks for, large ones come a few at a time.
#[test]
fn large_records_do_not_come_all_at_once() {
    const LARGE: usize = 150_000;
    const EACH: u64 = 40;
    // Side by side in the log, and with another stream's records in between.
    for streams in [1, 2] {
        for bench in Bench::all() {
            let journal = bench.open();
            let command = |index: u64| {
                let n = index - 1;
                let id = format!("a-{}", n % streams);
                entry(index, vec![kit::large(&id, n / streams + 1, index, LARGE)])
            };
            let entries = std::iter::once(kit::blank(0));
            let entries = entries.chain((1..=EACH * streams).map(command)).collect();
            commit(&journal, 0, entries);
            let journal = bench.reopen(journal);
            for first in [1, 7] {
                let mut next = first;
                loop {
                    let records = journal.read_stream(0, &stream("a-0"), next, 256).unwrap();
                    let bytes: usize = records.iter().map(|record| record.bytes.len()).sum();
                    assert!(
                        bytes < STREAM_READ_BYTES + 20 * LARGE,
                        "{bytes} bytes at once"
                    );
                    for record in &records {
                        assert_eq!(record.first_sequence, next);
                        next += 1;
                    }
                    if reached_end(&records, 256) {
                        break;
                    }
                    assert!(!records.is_empty());
                }
                assert_eq!(next, EACH + 1);
            }
        }
    }
}

#[test]
fn a_hot_stream_travels_in_runs_and_reads_back_one_by_one() {
    for bench in Bench::all() {
        let journal = bench.open();
        let mut entries = Vec::new();
        let mut hot = Vec::new();
        let mut position = 1;
        for index in 1..20 {
            let mut batch = Vec::new();
            for n in 0..100 {
                let events = n % 3 + 1;
                if n == 50 {
                    batch.push(record("cold", index, 1, position));
                    position += 1;
                }
                let next = hot
                    .last()
                    .map_or(1, |last: &phalanx_actors::record::Record| {
                        last.first_sequence + u64::from(last.event_count)
                    });
                hot.push(record("hot", next, events, position));
                batch.extend(hot.last().cloned());
                position += u64::from(events);
            }
            entries.push(entry(index, batch));
        }
        commit(&journal, 0, entries.clone());
        let journal = bench.reopen(journal);
        assert_eq!(read_all(&journal, 0), entries);
        let read = |from, limit| journal.read_stream(0, &stream("hot"), from, limit).unwrap();
        assert_eq!(read(1, usize::MAX), hot);
        for (skip, record) in hot.iter().enumerate().step_by(37) {
            let last = record.first_sequence + u64::from(record.event_count) - 1;
            let end = (skip + 130).min(hot.len());
            assert_eq!(read(last, 130), hot[skip..end]);
        }
        assert_eq!(
            journal
                .read_stream(0, &stream("cold"), 1, 99)
                .unwrap()
                .len(),
            19
        );
        let at = Timestamp::from_microsecond(1_000_000).unwrap();
        for record in hot.iter().step_by(41) {
            let hash = hash_key(&format!("key-{}", record.first_position));
            let found = journal.find_key(0, &stream("hot"), hash, at).unwrap();
            assert_eq!(found.as_ref(), Some(record));
        }
    }
}

#[test]
fn keys_are_found_until_they_expire() {
    for bench in Bench::all() {
        let journal = bench.open();
        let known = kit::keyed("a", 1, 1, 1, "known", 0);
        let generated = kit::keyed("a", 2, 1, 2, "generated", FLAG_GENERATED_KEY);
        commit(&journal, 0, vec![entry(1, vec![known.clone(), generated])]);
        let day = Duration::from_secs(24 * 3600);
        let decided = Timestamp::from_microsecond(1_000_000).unwrap();
        let journal = bench.reopen(journal);
        let find =
            |id: &str, key: &str, at| journal.find_key(0, &stream(id), hash_key(key), at).unwrap();
        assert_eq!(find("a", "known", decided), Some(known.clone()));
        let last = decided + day - Duration::from_micros(1);
        assert_eq!(find("a", "known", last), Some(known));
        assert_eq!(find("a", "known", decided + day), None);
        assert_eq!(find("a", "other", decided), None);
        assert_eq!(find("b", "known", decided), None);
        assert_eq!(find("a", "generated", decided), None);
    }
}

#[test]
fn the_newest_snapshot_reads_back() {
    for bench in Bench::all() {
        let journal = bench.open();
        assert_eq!(journal.read_snapshot(0, &stream("a")).unwrap(), None);
        for snapshot in ["first", "second"] {
            journal.save_snapshot(0, &stream("a"), snapshot.into());
        }
        commit(&journal, 0, history(2, 1));
        assert_eq!(
            journal.read_snapshot(0, &stream("a")).unwrap(),
            Some(b"second".to_vec())
        );
        let journal = bench.reopen(journal);
        assert_eq!(
            journal.read_snapshot(0, &stream("a")).unwrap(),
            Some(b"second".to_vec())
        );
        assert_eq!(journal.read_snapshot(1, &stream("a")).unwrap(), None);
    }
}

#[test]
fn after_a_crash_the_applied_mark_is_where_its_rows_are() {
    for bench in Bench::all() {
        let journal = bench.open();
        let entries = history(30, 3);
        commit(&journal, 0, entries[..10].to_vec());
        let journal = bench.reopen(journal);
        append(&journal, 0, entries[10..].to_vec());
        apply(&journal, 0, &entries[10..]);
        assert_eq!(journal.indexed_position(0), 29);
        bench.crash(journal);
        let journal = bench.open();
        journal.shard_health(0).unwrap();
        let mark = journal.applied(0).unwrap().unwrap();
        let rows = journal.read_stream(0, &stream("a-0"), 1, 100).unwrap();
        assert_eq!(
            rows.len() as u64,
            mark.index.div_ceil(3),
            "applied up to {}",
            mark.index
        );
        // Applying again from the mark, and once more from the beginning, gives the whole.
        let rest = usize::try_from(mark.index).unwrap() + 1;
        if rest < entries.len() {
            apply(&journal, 0, &entries[rest..]);
        }
        apply(&journal, 0, &entries);
        let rows = journal.read_stream(0, &stream("a-0"), 1, 100).unwrap();
        assert_eq!(rows.len(), 10);
        assert_eq!(journal.applied(0).unwrap().unwrap().state, "applied 29");
        let journal = bench.reopen(journal);
        assert_eq!(journal.indexed_position(0), 29);
    }
}

#[test]
fn what_was_acknowledged_survives_a_crash() {
    for bench in Bench::all() {
        let journal = bench.open();
        let entries = history(500, 7);
        for (shard, batch) in (0..).zip(entries.chunks(50)) {
            if shard == 0 {
                append(&journal, 0, batch.to_vec());
            }
            let own: Vec<_> = history(20, 2);
            if shard == 1 {
                append(&journal, 1, own);
            }
        }
        bench.crash(journal);
        let journal = bench.open();
        assert_eq!(read_all(&journal, 0), entries[..50]);
        assert_eq!(read_all(&journal, 1), history(20, 2));
    }
}

#[test]
fn waiting_for_the_index_ends_when_it_is_there() {
    for bench in Bench::all() {
        let journal = bench.open();
        let entries = history(20, 1);
        append(&journal, 0, entries.clone());
        assert_eq!(journal.indexed_position(0), 0);
        let waiter = {
            let journal = journal.clone();
            std::thread::spawn(move || {
                kit::block_on(journal.wait_indexed(0, 19)).unwrap();
                journal.read_stream(0, &stream("a-0"), 19, 5).unwrap().len()
            })
        };
        let (records, mark) = kit::applied(&entries);
        journal.apply(0, records, mark);
        assert_eq!(waiter.join().unwrap(), 1);
        kit::block_on(journal.wait_indexed(0, 5)).unwrap();
        kit::block_on(journal.wait_indexed(0, 0)).unwrap();
    }
}

#[test]
fn a_gap_in_what_is_applied_stops_the_shard() {
    for bench in Bench::all() {
        let journal = bench.open();
        let entries = history(20, 1);
        append(&journal, 0, entries.clone());
        let (records, mark) = kit::applied(&entries[5..]);
        journal.apply(0, records, mark);
        let end = std::time::Instant::now() + Duration::from_secs(10);
        while journal.shard_health(0).is_ok() && std::time::Instant::now() < end {
            std::thread::yield_now();
        }
        journal.shard_health(0).unwrap_err();
        journal.shard_health(1).unwrap();
        let refused = wait(|done| journal.append(0, vec![blank(20)], done));
        assert!(matches!(refused, Err(StorageFailure::Refused { .. })));
    }
}

#[test]
fn a_journal_that_was_shut_down_takes_no_writes() {
    for bench in Bench::all() {
        let journal = bench.open();
        append(&journal, 0, history(3, 1));
        journal.shutdown();
        journal.shutdown();
        let closed = wait(|done| journal.append(0, vec![blank(3)], done));
        assert!(matches!(closed, Err(StorageFailure::Closed)));
        let unknown = wait(|done| journal.save_vote(99, Bytes::new(), done));
        assert!(matches!(unknown, Err(StorageFailure::Refused { .. })));
        journal.read_vote(99).unwrap_err();
    }
}

#[test]
fn old_entries_leave_memory_only_when_written_and_applied() {
    for bench in Bench::all() {
        let journal = bench.open();
        let entries = history(400, 2);
        append(&journal, 0, entries.clone());
        let cached = |journal: &super::super::Journal| {
            let shard = journal.0.shared.shard(0).unwrap();
            let (from, _) = shard.log.lock().cached(&(0..u64::MAX));
            from
        };
        assert_eq!(cached(&journal), 0, "nothing is applied");
        apply(&journal, 0, &entries[..100]);
        assert_eq!(cached(&journal), 100);
        apply(&journal, 0, &entries[100..]);
        assert!(cached(&journal) > 350);
        assert_eq!(
            read_all(&journal, 0),
            entries,
            "half from disk, half from memory"
        );
        assert!(matches!(entries[1].payload, LogPayload::Records(_)));
    }
}
