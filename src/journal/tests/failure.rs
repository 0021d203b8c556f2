//! Disks that fail, fill up or lose power.

use std::sync::mpsc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use phalanx_actors::ports::Journal as _;

use super::super::{JournalOptions, LogEntry, MemoryDisk, StorageFailure, Survivors};
use super::kit::{self, Bench, append, applied, apply, blank, history, read_all, wait};

#[test]
fn nothing_is_acknowledged_before_the_fsync_and_a_crash_loses_it() {
    let disk = MemoryDisk::default();
    let bench = Bench::memory(disk.clone());
    let journal = bench.open();
    append(&journal, 0, history(5, 1));
    disk.hold_syncs();
    let (sender, receiver) = mpsc::channel();
    let ended = Box::new(move |result| sender.send(result).unwrap());
    journal.append(0, vec![blank(5)], ended);
    wait_until(|| disk.unsynced_count() == 1);
    assert!(receiver.try_recv().is_err(), "the fsync has not returned");
    bench.crash(journal);
    assert!(matches!(
        receiver.recv().unwrap(),
        Err(StorageFailure::Closed)
    ));
    assert_eq!(read_all(&bench.open(), 0), history(5, 1));
}

#[test]
fn writing_goes_on_during_an_fsync_and_only_what_was_synced_is_acknowledged() {
    let disk = MemoryDisk::default();
    let bench = Bench::memory(disk.clone());
    let journal = bench.open();
    append(&journal, 0, history(5, 1));
    let before = disk.sync_count();
    let (sender, receiver) = mpsc::channel();
    let append_one = |index: u64| {
        let sender = sender.clone();
        let ended = move |result: Result<(), _>| sender.send((index, result.is_ok())).unwrap();
        journal.append(0, vec![blank(index)], Box::new(ended));
    };
    disk.hold_syncs();
    append_one(5);
    wait_until(|| disk.unsynced_count() == 1);
    // The disk works on the first one; the others are written meanwhile and wait for the next fsync.
    append_one(6);
    wait_until(|| disk.unsynced_count() == 2);
    append_one(7);
    wait_until(|| disk.unsynced_count() == 3);
    assert!(receiver.try_recv().is_err());
    disk.release_syncs();
    let answers = || receiver.recv_timeout(Duration::from_secs(20)).unwrap();
    assert_eq!(
        [answers(), answers(), answers()],
        [(5, true), (6, true), (7, true)]
    );
    assert_eq!(disk.sync_count(), before + 2);
    // Truncating waits for what is on its way, and takes it back.
    disk.hold_syncs();
    append_one(8);
    wait_until(|| disk.unsynced_count() == 1);
    let sender = sender.clone();
    let ended = move |result: Result<(), _>| sender.send((0, result.is_ok())).unwrap();
    journal.truncate_after(0, Some(6), Box::new(ended));
    disk.release_syncs();
    assert_eq!([answers(), answers()], [(8, true), (0, true)]);
    bench.crash(journal);
    let journal = bench.open();
    journal.shard_health(0).unwrap();
    assert_eq!(journal.log_bounds(0).unwrap().unwrap().last_index, 6);
}

#[test]
fn an_unsynced_write_may_survive_a_crash_whole() {
    let disk = MemoryDisk::default();
    let bench = Bench::memory(disk.clone());
    let journal = bench.open();
    append(&journal, 0, history(5, 1));
    disk.hold_syncs();
    journal.append(0, vec![blank(5), blank(6)], Box::new(drop));
    wait_until(|| disk.unsynced_count() == 1);
    disk.crash(Survivors {
        unsynced_writes: 1,
        lazy_writes: 0,
    });
    drop(journal);
    let journal = bench.open();
    journal.shard_health(0).unwrap();
    assert_eq!(journal.log_bounds(0).unwrap().unwrap().last_index, 6);
    append(&journal, 0, vec![blank(7)]);
}

#[test]
fn any_prefix_of_index_writes_may_survive_a_crash() {
    for lazy_writes in 0..6 {
        let disk = MemoryDisk::default();
        let bench = Bench::memory(disk.clone());
        let journal = bench.open();
        let entries = history(40, 3);
        append(&journal, 0, entries.clone());
        for chunk in entries.chunks(10) {
            apply(&journal, 0, chunk);
        }
        disk.crash(Survivors {
            unsynced_writes: 0,
            lazy_writes,
        });
        drop(journal);
        let journal = bench.open();
        journal.shard_health(0).unwrap();
        let mark = journal
            .applied(0)
            .unwrap()
            .map_or(0, |applied| applied.index + 1);
        assert_eq!(mark, 10 * lazy_writes.min(4) as u64);
        apply(
            &journal,
            0,
            &entries[usize::try_from(mark).unwrap().min(39)..],
        );
    }
}

#[test]
fn a_failed_write_calls_the_hook_once_and_acknowledges_nothing() {
    let disk = MemoryDisk::default();
    let bench = Bench::memory(disk.clone());
    let (fatal, seen) = kit::noting_hook();
    let options = JournalOptions {
        fatal,
        ..kit::options(&bench.path())
    };
    let journal = bench.try_open(&options).unwrap();
    append(&journal, 0, history(5, 1));
    disk.fail_writes();
    let failed = wait(|done| journal.append(0, vec![blank(5)], done));
    assert!(
        matches!(failed, Err(StorageFailure::Disk { .. })),
        "{failed:?}"
    );
    for _ in 0..3 {
        let closed = wait(|done| journal.save_vote(1, Bytes::new(), done));
        assert!(matches!(closed, Err(StorageFailure::Closed)), "{closed:?}");
    }
    journal.shutdown();
    let seen = seen.lock();
    assert_eq!(
        *seen,
        ["failed to write to the write-ahead log: the simulated disk fails"]
    );
}

#[test]
fn the_journal_is_full_under_the_reserve_and_has_space_again_above_it() {
    let disk = MemoryDisk::default();
    let bench = Bench::memory(disk.clone());
    let options = JournalOptions {
        reserve_free_bytes: 1000,
        ..kit::options(&bench.path())
    };
    disk.set_free_bytes(1000);
    let journal = bench.try_open(&options).unwrap();
    append(&journal, 0, history(2, 1));
    assert!(!journal.is_full());
    disk.set_free_bytes(999);
    std::thread::sleep(Duration::from_millis(120));
    append(&journal, 0, vec![blank(2)]);
    assert!(journal.is_full());
    // Without any write, the writer looks by itself; a little above the reserve is not enough.
    disk.set_free_bytes(1100);
    std::thread::sleep(Duration::from_millis(500));
    assert!(journal.is_full());
    disk.set_free_bytes(1200);
    wait_until(|| !journal.is_full());
}

/// Other nodes may commit what this one's disk does not take: it must not all be kept in memory.
#[test]
fn a_log_whose_disk_stands_still_is_behind_until_it_goes_on() {
    let disk = MemoryDisk::stepped();
    let bench = Bench::memory(disk);
    let journal = bench.try_open(&kit::options(&bench.path())).unwrap();
    let large = |index| LogEntry {
        meta: Bytes::from(vec![0; 1 << 20]),
        ..blank(index)
    };
    let taken = (1..=64).take_while(|index| {
        journal.append(0, vec![large(*index)], Box::new(|_| {}));
        !journal.is_behind(0)
    });
    assert_eq!(taken.count(), 32);
    assert!(!journal.is_behind(1), "another shard's");
    journal.step();
    let (_, last) = applied(&[blank(33)]);
    journal.apply(0, Vec::new(), last);
    journal.step();
    assert!(!journal.is_behind(0));
}

#[test]
fn a_mark_that_runs_ahead_of_the_log_refuses_the_shard() {
    let disk = MemoryDisk::default();
    let bench = Bench::memory(disk.clone());
    let journal = bench.open();
    append(&journal, 0, history(5, 1));
    append(&journal, 1, history(5, 1));
    journal.shutdown();
    drop(journal);
    disk.lose_log_row(&super::super::rows::log_key(1, 4, 0));
    let journal = bench.open();
    journal.shard_health(0).unwrap();
    let refused = journal.shard_health(1).unwrap_err().to_string();
    assert!(
        refused.contains("ends at 3, but entry 4 was synced"),
        "{refused}"
    );
    // It stays refused, even though others go on writing.
    append(&journal, 0, vec![blank(5)]);
    bench.reopen(journal).shard_health(1).unwrap_err();
}

#[test]
fn one_fsync_covers_what_waits_for_it() {
    let disk = MemoryDisk::default();
    let bench = Bench::memory(disk.clone());
    let journal = bench.open();
    disk.hold_syncs();
    journal.append(0, vec![blank(0)], Box::new(drop));
    wait_until(|| disk.unsynced_count() == 1);
    for index in 1..50 {
        journal.append(0, vec![blank(index)], Box::new(drop));
        journal.append(1, vec![blank(index - 1)], Box::new(drop));
        journal.save_vote(2, Bytes::from("v"), Box::new(drop));
    }
    disk.release_syncs();
    wait(|done| journal.save_vote(2, Bytes::from("v"), done)).unwrap();
    assert!(disk.sync_count() <= 3, "{} fsyncs", disk.sync_count());
}

fn wait_until(condition: impl Fn() -> bool) {
    let end = Instant::now() + Duration::from_secs(10);
    while !condition() {
        assert!(Instant::now() < end, "in time");
        std::thread::sleep(Duration::from_millis(1));
    }
}
