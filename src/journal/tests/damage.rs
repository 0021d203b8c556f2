//! Damaged files: reported or harmless, never a wrong answer.

use std::fs;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use jiff::Timestamp;
use phalanx_actors::ports::Journal as _;
use phalanx_actors::record::hash_key;

use super::super::{Journal, JournalOptions, MemoryDisk, OpenError};
use super::kit::{self, Bench, SHARDS, append, commit, copy_dir, history, read_all, stream, wait};

/// Entries per shard and streams among them.
pub(super) const ENTRIES: u64 = 120;
pub(super) const STREAMS: u64 = 5;

/// A journal with tables, blobs and a write-ahead log, as `kill -9` leaves it.
pub(super) fn image() -> Bench {
    filled(Bench::rocks())
}

fn filled(bench: Bench) -> Bench {
    let journal = bench.open();
    let entries = history(ENTRIES, STREAMS);
    let middle = entries.len() / 2;
    for shard in 0..SHARDS {
        wait(|done| journal.save_vote(shard, Bytes::from("vote"), done)).unwrap();
        journal.save_snapshot(shard, &stream("a-0"), b"snapshot".to_vec());
        commit(&journal, shard, entries[..middle].to_vec());
    }
    let journal = bench.reopen(journal);
    for shard in 0..SHARDS {
        commit(&journal, shard, entries[middle..].to_vec());
        wait(|done| journal.save_vote(shard, Bytes::from("newer vote"), done)).unwrap();
    }
    bench.crash(journal);
    bench
}

/// Opens a copy, reads everything, and says what was reported. Panics on a wrong answer.
fn inspect(dir: &Path) -> Result<(), String> {
    let (fatal, failures) = kit::noting_hook();
    let options = JournalOptions {
        fatal,
        ..kit::options(dir)
    };
    let clock = std::sync::Arc::new(phalanx_actors::ports::SystemClock::default());
    let journal = match Journal::open(&options, super::super::Storage::RocksDb, clock) {
        Ok(journal) => journal,
        Err(error) => {
            assert!(matches!(error, OpenError::Damaged { .. }), "{error:?}");
            return Err(error.to_string());
        }
    };
    let mut reported = Ok(());
    for shard in 0..SHARDS {
        if let Err(error) = inspect_shard(&journal, shard) {
            assert!(journal.shard_health(shard).is_err(), "{error}");
            reported = Err(error);
        }
    }
    journal.shutdown();
    if let Some(failure) = failures.lock().first() {
        reported = Err(failure.clone());
    }
    reported
}

pub(super) fn inspect_shard(journal: &Journal, shard: u32) -> Result<(), String> {
    let text = |error: phalanx_actors::ports::JournalError| error.to_string();
    let expected = history(ENTRIES, STREAMS);
    let vote = journal.read_vote(shard).map_err(text)?;
    assert_eq!(vote, Some(Bytes::from("newer vote")), "a wrong vote");
    let entries = journal
        .read_log(shard, 0..u64::MAX, usize::MAX)
        .map_err(text)?;
    assert_eq!(entries, expected, "a wrong log");
    // What openraft does at a start: apply from the mark on.
    let mark = journal
        .applied(shard)
        .map_err(text)?
        .map_or(0, |applied| applied.index + 1);
    let rest = usize::try_from(mark).unwrap();
    if rest < expected.len() {
        kit::apply(journal, shard, &expected[rest..]);
    }
    let (records, _) = kit::applied(&expected);
    for id in 0..STREAMS {
        let name = stream(&format!("a-{id}"));
        let read = journal.read_stream(shard, &name, 1, 1000).map_err(text)?;
        let own = records
            .iter()
            .map(|applied| &applied.record)
            .filter(|r| r.stream == name);
        assert!(read.iter().eq(own), "a wrong stream");
    }
    let at = Timestamp::from_microsecond(1_000_000).unwrap();
    for applied in &records {
        let record = &applied.record;
        let hash = hash_key(&format!("key-{}", record.first_position));
        let found = journal
            .find_key(shard, &record.stream, hash, at)
            .map_err(text)?;
        assert_eq!(found.as_ref(), Some(record), "a forgotten key");
    }
    let snapshot = journal.read_snapshot(shard, &stream("a-0")).map_err(text)?;
    assert!(
        snapshot.is_none_or(|bytes| bytes == b"snapshot"),
        "a wrong snapshot"
    );
    Ok(())
}

pub(super) fn files(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(files(&path));
        } else {
            found.push(path);
        }
    }
    found.sort();
    found
}

/// The kind of a file, by its name without digits.
pub(super) fn kind(path: &Path) -> String {
    let name = path.file_name().unwrap().to_string_lossy();
    name.chars().filter(|c| !c.is_ascii_digit()).collect()
}

#[test]
fn a_flipped_bit_in_any_file_is_reported_or_harmless() {
    /// Places per file: spread evenly, and at both ends.
    const PLACES: usize = 12;
    let bench = image();
    inspect(&bench.path()).expect("the image is sound before it is damaged");
    let bench = image();
    let mut kinds = std::collections::BTreeMap::<String, (u32, u32)>::new();
    for file in files(&bench.path()) {
        let relative = file.strip_prefix(bench.path()).unwrap().to_owned();
        let bytes = fs::read(&file).unwrap();
        if bytes.is_empty() || kind(&file).starts_with("LOG") {
            continue;
        }
        for place in 0..PLACES {
            let byte = place * (bytes.len() - 1) / (PLACES - 1);
            let mut flipped = bytes.clone();
            flipped[byte] ^= 1 << (place % 8);
            let copy = bench.dir.path().join("copy");
            copy_dir(&bench.path(), &copy);
            fs::write(copy.join(&relative), flipped).unwrap();
            let tally = kinds.entry(kind(&file)).or_default();
            tally.0 += 1;
            if let Err(report) = inspect(&copy) {
                tally.1 += 1;
                assert!(!report.is_empty());
            }
            fs::remove_dir_all(&copy).unwrap();
        }
    }
    for (kind, (flips, reports)) in &kinds {
        println!("{kind}: {reports} of {flips} reported");
    }
    for needed in [
        "format",
        "mark",
        "MANIFEST-",
        "CURRENT",
        ".sst",
        ".blob",
        ".log",
        "IDENTITY",
    ] {
        assert!(kinds.contains_key(needed), "no {needed} among {kinds:?}");
    }
    for reporting in ["format", "MANIFEST-", ".sst", ".blob", ".log"] {
        assert!(
            kinds[reporting].1 > 0,
            "nothing reported in {reporting}: {kinds:?}"
        );
    }
}

#[test]
fn a_flipped_bit_in_any_row_is_reported_unless_it_is_in_a_snapshot() {
    let mut tables = std::collections::BTreeMap::<&str, u32>::new();
    for seed in 0..60 {
        let disk = MemoryDisk::inline();
        let bench = filled(Bench::memory(disk.clone()));
        let mut number = seed;
        let mut below = |end: usize| {
            number = (number * 1_103_515_245 + 12_345) % (1 << 31);
            number / 64 % end
        };
        let said = disk.flip_bit(1, &mut below).unwrap();
        let names = ["log", "index", "snapshot", "meta"];
        let table = names.into_iter().find(|t| said.contains(t)).unwrap();
        *tables.entry(table).or_default() += 1;
        let journal = bench.open();
        let reported = inspect_shard(&journal, 1);
        assert_eq!(reported.is_err(), table != "snapshot", "{said}");
        assert_eq!(disk.has_flipped_bits(1), table != "snapshot", "{said}");
        for other in [0, 2] {
            inspect_shard(&journal, other).unwrap();
            assert!(!disk.has_flipped_bits(other));
        }
        if journal.is_damaged(1) {
            kit::wait(|done| journal.discard(1, Bytes::from("vote"), done)).unwrap();
        }
        assert!(!disk.has_flipped_bits(1), "{said}");
    }
    assert_eq!(tables.len(), 4, "{tables:?}");
}

/// The write-ahead log with the most in it.
fn largest_log(dir: &Path) -> PathBuf {
    let logs = files(dir).into_iter().filter(|path| kind(path) == ".log");
    logs.max_by_key(|path| fs::metadata(path).unwrap().len())
        .unwrap()
}

#[test]
fn a_damaged_write_ahead_log_is_named() {
    let bench = image();
    let log = largest_log(&bench.path());
    let mut bytes = fs::read(&log).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 0x10;
    fs::write(&log, bytes).unwrap();
    let error = bench.try_open(&kit::options(&bench.path())).unwrap_err();
    let OpenError::Damaged { file, shards, .. } = &error else {
        panic!("{error:?}");
    };
    assert_eq!(file.file_name(), log.file_name(), "{error}");
    assert_eq!(shards, "0 to 2");
}

#[test]
fn a_cleanly_cut_log_is_noticed_by_the_mark() {
    let bench = image();
    let log = largest_log(&bench.path());
    let bytes = fs::read(&log).unwrap();
    let mut refused = 0;
    for tenth in 0..10 {
        let copy = bench.dir.path().join("copy");
        copy_dir(&bench.path(), &copy);
        let cut = &bytes[..bytes.len() * tenth / 10];
        fs::write(copy.join("db").join(log.file_name().unwrap()), cut).unwrap();
        if let Err(report) = inspect(&copy) {
            assert!(report.contains("write-ahead log"), "{report}");
            refused += 1;
        }
        fs::remove_dir_all(&copy).unwrap();
    }
    assert_eq!(refused, 10);
}

#[test]
fn a_torn_tail_that_was_never_acknowledged_opens_by_itself() {
    let bench = Bench::rocks();
    let journal = bench.open();
    commit(&journal, 0, history(20, 2));
    // The mark of now, with a log that goes on a little.
    let mark = fs::read(bench.path().join("mark")).unwrap();
    append(&journal, 0, kit::history(30, 2)[20..].to_vec());
    bench.crash(journal);
    fs::write(bench.path().join("mark"), mark).unwrap();
    let log = largest_log(&bench.path());
    let bytes = fs::read(&log).unwrap();
    for cut in 1..40 {
        let copy = Bench::rocks();
        copy_dir(&bench.path(), &copy.path());
        let log = copy.path().join("db").join(log.file_name().unwrap());
        fs::write(log, &bytes[..bytes.len() - cut]).unwrap();
        let journal = copy.open();
        journal.shard_health(0).unwrap();
        assert_eq!(read_all(&journal, 0), history(20, 2), "cut by {cut}");
        append(&journal, 0, kit::history(30, 2)[20..].to_vec());
    }
}
