//! What reading costs, counted in bytes rather than by a clock.

use phalanx_actors::ports::Journal as _;

use super::kit::{Bench, commit, entry, record, stream};

/// 200 commands of as many streams per entry, one of them ours, 60 entries.
const NEIGHBOURS: u64 = 200;
const ENTRIES: u64 = 60;

#[test]
fn reading_a_stream_reads_its_own_events_and_not_its_neighbours() {
    let bench = Bench::rocks();
    let journal = bench.open();
    let batch = |index: u64| {
        let command = |n: u64| {
            let position = (index - 1) * NEIGHBOURS + n + 1;
            record(&format!("s-{n}"), index, 1, position)
        };
        entry(index, (0..NEIGHBOURS).map(command).collect())
    };
    commit(&journal, 0, (1..=ENTRIES).map(batch).collect());
    let journal = bench.reopen(journal);
    let cold = bytes_per_event(&journal, "s-77");
    let warm = bytes_per_event(&journal, "s-78");
    println!("per event: {} bytes stored", warm.stored);
    println!(
        "read with nothing in the cache {}, with the keys in it {}",
        cold.read, warm.read
    );
    // Tables hold keys only. Reading them all costs far less than the entries' payloads would.
    assert!(
        cold.read < NEIGHBOURS * cold.stored / 10,
        "{} bytes",
        cold.read
    );
    // With the keys in the cache, a record comes with its key, a checksum and its stream row.
    assert!(
        warm.read >= warm.stored && warm.read < warm.stored * 2,
        "{} bytes",
        warm.read
    );
}

struct Bytes {
    stored: u64,
    read: u64,
}

fn bytes_per_event(journal: &super::super::Journal, id: &str) -> Bytes {
    let before = bytes_read();
    let records = journal.read_stream(0, &stream(id), 1, usize::MAX).unwrap();
    let read = bytes_read() - before;
    assert_eq!(u64::try_from(records.len()).unwrap(), ENTRIES);
    let stored: usize = records.iter().map(|record| record.bytes.len()).sum();
    Bytes {
        stored: u64::try_from(stored).unwrap() / ENTRIES,
        read: read / ENTRIES,
    }
}

/// Bytes that this thread got out of read calls so far.
fn bytes_read() -> u64 {
    let io = std::fs::read_to_string("/proc/thread-self/io").unwrap();
    let line = io.lines().find_map(|line| line.strip_prefix("rchar: "));
    line.unwrap().parse().unwrap()
}
