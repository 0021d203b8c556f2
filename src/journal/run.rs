//! Runs: neighbouring records of one stream within one log entry, stored in one row.
//!
//! Owns: where a run ends. A hot aggregate's commands travel together, so they cost one log row
//! and one stream row instead of many, and replaying it reads many events at once. A run never holds
//! another stream's events. Invariant: the limits are part of the stored form. Rows of the index are
//! derived again from the log after a crash, and must come out the same.

use phalanx_actors::record::Record;

/// Records of a run, at most.
const MAX_RECORDS: usize = 64;
/// Bytes of a run, at most, unless its first record alone is larger: finding one record by its
/// idempotency key reads the whole run.
const MAX_BYTES: usize = 16 << 10;

/// How many of the records, which lie side by side in one entry, form the first run. 0 only when
/// there are none.
pub(crate) fn leading_run<'a>(records: impl IntoIterator<Item = &'a Record>) -> usize {
    let mut records = records.into_iter();
    let Some(mut last) = records.next() else {
        return 0;
    };
    let mut bytes = last.bytes.len();
    let mut count = 1;
    for record in records.take(MAX_RECORDS - 1) {
        bytes += record.bytes.len();
        let follows = record.stream == last.stream
            && record.first_sequence == last.first_sequence + u64::from(last.event_count);
        if !follows || bytes > MAX_BYTES {
            break;
        }
        count += 1;
        last = record;
    }
    count
}

/// Number of events in a run.
pub(crate) fn event_count<'a>(run: impl IntoIterator<Item = &'a Record>) -> u32 {
    let counts = run.into_iter().map(|record| record.event_count);
    counts.fold(0, u32::saturating_add)
}

#[cfg(test)]
mod tests {
    use super::super::tests::kit::record;
    use super::*;

    #[test]
    fn a_run_ends_where_the_stream_changes_or_breaks() {
        let records = [
            record("a", 1, 2, 1),
            record("a", 3, 1, 3),
            record("b", 1, 1, 4),
            record("b", 3, 1, 5),
        ];
        assert_eq!(leading_run(&records), 2);
        assert_eq!(event_count(&records[..2]), 3);
        assert_eq!(leading_run(&records[2..]), 1);
        assert_eq!(leading_run(&records[4..]), 0);
    }

    #[test]
    fn a_run_is_bounded() {
        let many: Vec<_> = (1..=200).map(|n| record("a", n, 1, n)).collect();
        let run = leading_run(&many);
        let bytes: usize = many[..run].iter().map(|record| record.bytes.len()).sum();
        assert!(
            run <= MAX_RECORDS && bytes <= MAX_BYTES && run > 50,
            "{run} of {bytes} bytes"
        );
        let large: Vec<_> = (0..3)
            .map(|n| record("a", n * 900 + 1, 900, n * 900 + 1))
            .collect();
        assert_eq!(leading_run(&large), 1, "one record may be larger");
    }
}
