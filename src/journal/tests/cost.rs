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
    let own = stream("s-77");
    let warm = journal.read_stream(0, &own, 1, 1).unwrap();
    assert_eq!(warm.len(), 1);

    let before = bytes_read();
    let records = journal.read_stream(0, &own, 1, usize::MAX).unwrap();
    let read = bytes_read() - before;

    let events = u64::try_from(records.len()).unwrap();
    assert_eq!(events, ENTRIES);
    let own_bytes: usize = records.iter().map(|record| record.bytes.len()).sum();
    let own_bytes = u64::try_from(own_bytes).unwrap();
    println!(
        "per event: {} bytes stored, {} bytes read",
        own_bytes / events,
        read / events
    );
    // A record comes with its key and a checksum, and a share of the tables, which hold keys only.
    assert!(read >= own_bytes, "{read} read of {own_bytes}");
    assert!(read < 3 * own_bytes, "{read} read of {own_bytes}");
}

/// Bytes that this thread got out of read calls so far.
fn bytes_read() -> u64 {
    let io = std::fs::read_to_string("/proc/thread-self/io").unwrap();
    let line = io.lines().find_map(|line| line.strip_prefix("rchar: "));
    line.unwrap().parse().unwrap()
}
