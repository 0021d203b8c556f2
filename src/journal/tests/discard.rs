//! Throwing damaged shards away: blank or still refused, whatever happens in between.

use std::fs;

use bytes::Bytes;
use phalanx_actors::ports::{Feed as _, Journal as _};
use phalanx_actors::record::hash_key;

use super::super::{Journal, LogEntry, MemoryDisk, StorageFailure, Survivors};
use super::damage::{ENTRIES, STREAMS, files, image, inspect_shard, kind};
use super::kit::{self, Bench, SHARDS, append, commit, copy_dir, history, read_all, stream, wait};

const KEPT: Bytes = Bytes::from_static(b"the vote that stays");

/// Gives every shard a history, a vote and a snapshot.
fn fill(journal: &Journal) {
    for shard in 0..SHARDS {
        wait(|done| journal.save_vote(shard, Bytes::from("a vote"), done)).unwrap();
        commit(journal, shard, history(30, 3));
        journal.save_snapshot(shard, &stream("a-0"), b"snapshot".to_vec());
    }
    wait(|done| journal.save_purged(1, Bytes::from("purged"), done)).unwrap();
}

/// Damages a shard: a committed record that does not follow is one that was lost.
fn damage(journal: &Journal, shard: u32) {
    let (mut records, mark) = kit::applied(&history(40, 3)[30..]);
    records.remove(0);
    journal.apply(shard, records, mark);
    spin("the damage is noticed", || journal.is_damaged(shard));
}

fn spin(what: &str, holds: impl Fn() -> bool) {
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(20);
    while !holds() {
        assert!(std::time::Instant::now() < deadline, "in vain: {what}");
        std::thread::yield_now();
    }
}

/// Commits the rest of a history of 50 entries, while no task of this thread gets its turn.
fn commit_at_once(journal: &Journal, shard: u32, rest: &[LogEntry]) {
    append(journal, shard, rest.to_vec());
    let (records, mark) = kit::applied(rest);
    journal.apply(shard, records, mark);
    spin("it is indexed", || journal.indexed_position(shard) == 49);
}

fn discard(journal: &Journal, shard: u32) -> Result<(), StorageFailure> {
    wait(|done| journal.discard(shard, KEPT, done))
}

fn assert_blank(journal: &Journal, shard: u32) {
    journal.shard_health(shard).unwrap();
    assert_eq!(journal.log_bounds(shard).unwrap(), None);
    assert_eq!(journal.applied(shard).unwrap(), None);
    assert_eq!(journal.read_purged(shard).unwrap(), None);
    assert_eq!(journal.read_vote(shard).unwrap(), Some(KEPT));
    assert_eq!(journal.last_position(shard).unwrap(), 0);
    assert_eq!(journal.indexed_position(shard), 0);
    assert_eq!(journal.committed_position(shard), 0);
    assert_eq!(read_all(journal, shard), []);
    assert_eq!(
        journal.read_stream(shard, &stream("a-0"), 1, 10).unwrap(),
        []
    );
    assert_eq!(journal.read_snapshot(shard, &stream("a-0")).unwrap(), None);
    let at = jiff::Timestamp::from_microsecond(1_000_000).unwrap();
    let found = journal.find_key(shard, &stream("a-0"), hash_key("key-1"), at);
    assert_eq!(found.unwrap(), None);
}

fn assert_whole(journal: &Journal, shard: u32) {
    assert_eq!(read_all(journal, shard), history(30, 3));
    assert_eq!(journal.read_vote(shard).unwrap(), Some("a vote".into()));
    let read = journal.read_stream(shard, &stream("a-2"), 1, 100).unwrap();
    assert!(!read.is_empty());
}

#[test]
fn a_damaged_shard_is_blank_afterwards_and_takes_another_history() {
    for bench in Bench::all() {
        let journal = bench.open();
        fill(&journal);
        damage(&journal, 1);
        assert_eq!(journal.vote_of_damaged(1), Some("a vote".into()));
        discard(&journal, 1).unwrap();
        assert_blank(&journal, 1);
        let journal = bench.reopen(journal);
        assert_blank(&journal, 1);
        commit(&journal, 1, history(50, 4));
        assert_eq!(read_all(&journal, 1), history(50, 4));
        let journal = bench.reopen(journal);
        assert_eq!(read_all(&journal, 1), history(50, 4));
        assert_eq!(journal.indexed_position(1), 49);
        assert_eq!(journal.read_vote(1).unwrap(), Some(KEPT));
        for other in [0, 2] {
            assert_whole(&journal, other);
        }
    }
}

#[test]
fn without_a_restart_as_well_and_a_crash_after_it_changes_nothing() {
    for bench in Bench::all() {
        let journal = bench.open();
        fill(&journal);
        damage(&journal, 1);
        discard(&journal, 1).unwrap();
        bench.crash(journal);
        let journal = bench.open();
        assert_blank(&journal, 1);
        append(&journal, 1, history(50, 4));
        bench.crash(journal);
        let journal = bench.open();
        assert_eq!(read_all(&journal, 1), history(50, 4));
        journal.shard_health(1).unwrap();
    }
}

#[test]
fn who_waits_for_the_index_of_a_damaged_shard_is_told_and_never_of_rows_that_are_gone() {
    for bench in Bench::all() {
        let journal = bench.open();
        fill(&journal);
        kit::block_on(async {
            let wait = |shard, position| {
                let journal = journal.clone();
                tokio::spawn(async move { journal.wait_indexed(shard, position).await })
            };
            let (waiting, of_another) = (wait(1, 35), wait(2, 35));
            tokio::task::yield_now().await;
            damage(&journal, 1);
            let told = waiting.await.unwrap().unwrap_err().to_string();
            assert!(told.contains("shard 1"), "{told}");
            // What the old rows had is refused like all of them.
            assert!(journal.wait_indexed(1, 1).await.is_err());
            assert!(!of_another.is_finished());
            discard(&journal, 1).unwrap();
            // It waits for the rows that come now.
            let waiting = wait(1, 35);
            tokio::task::yield_now().await;
            damage(&journal, 1);
            discard(&journal, 1).unwrap();
            commit_at_once(&journal, 1, &history(50, 4));
            let told = waiting.await.unwrap().unwrap_err().to_string();
            assert!(told.contains("thrown away"), "{told}");
            commit_at_once(&journal, 2, &history(50, 3)[30..]);
            of_another.await.unwrap().unwrap();
        });
    }
}

#[test]
fn what_is_whole_is_not_thrown_away() {
    for bench in Bench::all() {
        let journal = bench.open();
        fill(&journal);
        let refused = discard(&journal, 1).unwrap_err();
        assert!(
            matches!(refused, StorageFailure::Refused { .. }),
            "{refused}"
        );
        assert!(wait(|done| journal.discard(9, KEPT, done)).is_err());
        assert_whole(&journal, 1);
    }
}

#[test]
fn a_crash_in_the_midst_leaves_the_shard_refused_until_it_is_thrown_away_again() {
    for unsynced_writes in [0, 1] {
        let disk = MemoryDisk::default();
        let bench = Bench::memory(disk.clone());
        let journal = bench.open();
        fill(&journal);
        damage(&journal, 1);
        disk.crash_in_sync(Survivors {
            unsynced_writes,
            lazy_writes: 100,
        });
        assert!(discard(&journal, 1).is_err());
        drop(journal);
        let journal = bench.open();
        let why = journal.shard_health(1).unwrap_err().to_string();
        assert!(why.contains("it was being thrown away"), "{why}");
        assert!(journal.is_damaged(1));
        assert!(wait(|done| journal.append(1, history(5, 1), done)).is_err());
        for other in [0, 2] {
            assert_whole(&journal, other);
        }
        // Refused it stays, also when nothing is done about it.
        let journal = bench.reopen(journal);
        assert!(journal.is_damaged(1));
        discard(&journal, 1).unwrap();
        assert_blank(&journal, 1);
        assert_blank(&bench.reopen(journal), 1);
    }
}

/// Throws away what a flipped bit has damaged, and fills it again. Gives how many shards were mended and
/// how many were not; those stay refused.
fn mend(bench: &Bench) -> Option<(usize, usize)> {
    let (fatal, _failures) = kit::noting_hook();
    let options = super::super::JournalOptions {
        fatal,
        ..kit::options(&bench.path())
    };
    let journal = bench.try_open(&options).ok()?;
    for shard in 0..SHARDS {
        let _found = inspect_shard(&journal, shard);
    }
    let damaged: Vec<u32> = (0..SHARDS)
        .filter(|shard| journal.is_damaged(*shard))
        .collect();
    let mut mended = Vec::new();
    for shard in &damaged {
        match discard(&journal, *shard) {
            Ok(()) => mended.push(*shard),
            Err(failure) => {
                assert!(journal.is_damaged(*shard), "{failure}");
            }
        }
    }
    for shard in &mended {
        assert_blank(&journal, *shard);
        commit(&journal, *shard, history(ENTRIES, STREAMS));
        wait(|done| journal.save_vote(*shard, Bytes::from("newer vote"), done)).unwrap();
    }
    journal.shutdown();
    drop(journal);
    let journal = bench.try_open(&options).ok()?;
    for shard in 0..SHARDS {
        let found = inspect_shard(&journal, shard);
        if mended.contains(&shard) {
            found.expect("what was mended is whole");
        }
    }
    journal.shutdown();
    Some((mended.len(), damaged.len() - mended.len()))
}

#[test]
fn what_a_flipped_bit_damaged_can_be_thrown_away_without_reading_it() {
    /// Places per file.
    const PLACES: usize = 8;
    let original = image();
    let mut tally = std::collections::BTreeMap::<String, (usize, usize)>::new();
    for file in files(&original.path()) {
        let kind = kind(&file);
        if ![".blob", ".sst"].contains(&kind.as_str()) {
            continue;
        }
        let relative = file.strip_prefix(original.path()).unwrap();
        let bytes = fs::read(&file).unwrap();
        for place in 0..PLACES {
            let bench = Bench::rocks();
            copy_dir(&original.path(), &bench.path());
            let mut flipped = bytes.clone();
            flipped[place * (bytes.len() - 1) / (PLACES - 1)] ^= 0x20;
            fs::write(bench.path().join(relative), flipped).unwrap();
            if let Some((mended, left)) = mend(&bench) {
                let so_far = tally.entry(kind.clone()).or_default();
                *so_far = (so_far.0 + mended, so_far.1 + left);
            }
        }
    }
    println!("(mended, refused still) by kind: {tally:?}");
    let (mended, left) = tally[".blob"];
    assert!(mended > 0 && left == 0, "{tally:?}");
}
