//! The stored bytes of every kind of row. A change here is a change of format: it needs a new
//! schema version and code that still reads these.

use bytes::Bytes;

use super::super::mark::{Marks, ShardMark};
use super::super::rows::{self, AppliedRow, DedupRow, EntryHeader, StreamRow, VoteRow};
use super::kit::stream;

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[test]
fn keys() {
    let mut key = Vec::new();
    assert_eq!(
        hex(&rows::log_key(1, 2, 3)),
        "00000001000000000000000200000003"
    );
    assert_eq!(
        rows::parse_log_key(&rows::log_key(1, 2, 3)),
        Some((1, 2, 3))
    );
    assert_eq!(hex(&rows::applied_key(7)), "0000000700");
    rows::stream_key(&mut key, 1, &stream("a-1"), 258);
    assert_eq!(
        hex(&key),
        "000000016163636f756e7400612d3100010000000000000102"
    );
    assert_eq!(
        hex(rows::stream_prefix(&key)),
        "000000016163636f756e7400612d3100"
    );
    assert_eq!(rows::parse_stream_sequence(&key), Some(258));
    rows::dedup_key(&mut key, 1, &stream("a-1"), 0xff);
    assert_eq!(
        hex(&key),
        "000000016163636f756e7400612d310002000000000000000000000000000000ff"
    );
    assert!(rows::is_dedup_key(&key) && rows::is_of_stream(&key));
    assert!(!rows::is_of_stream(&rows::applied_key(7)));
    rows::snapshot_key(&mut key, 1, &stream("a-1"));
    assert_eq!(hex(&key), "000000016163636f756e7400612d31");
    assert_eq!(hex(&rows::vote_key(5)), "766f746500000005");
    assert_eq!(hex(&rows::purged_key(5)), "7075726700000005");
}

#[test]
fn values() {
    let header = EntryHeader {
        records: 2,
        last_position: 300,
        meta: Bytes::from_static(b"id"),
        other: Bytes::new(),
    };
    let sealed = rows::seal_header(2, 300, b"id", b"").unwrap();
    assert_eq!(
        hex(&sealed),
        "a70103010012000000eca57982020000002c01000000000000020000006964"
    );
    let row = Bytes::from([&sealed[..], b"record"].concat());
    assert_eq!(
        rows::open_header(&row).unwrap(),
        (header, Bytes::from_static(b"record"))
    );

    let stream_row = StreamRow {
        index: 300,
        slot: 1,
        records: 2,
        event_count: 5,
        first_position: 70_000,
        ends_entry: true,
    };
    let sealed = stream_row.seal().unwrap();
    assert_eq!(
        hex(&sealed),
        "a7010801000c0000000a9c9d45fb2c0101020105fc70110100"
    );
    assert_eq!(StreamRow::open(&sealed).unwrap(), stream_row);

    let dedup = DedupRow {
        index: 300,
        slot: 1,
        nth: 2,
        expires_us: 1_700_000_000_000_000,
    };
    let sealed = dedup.seal().unwrap();
    assert_eq!(
        hex(&sealed),
        "a7010601000e000000b1573d58fb2c010102fd00803c3048140c00"
    );
    assert_eq!(DedupRow::open(&sealed).unwrap(), dedup);

    let applied = AppliedRow {
        index: 3,
        position: 9,
        state: Bytes::from_static(b"state"),
    };
    let sealed = Bytes::from(applied.seal().unwrap());
    assert_eq!(
        hex(&sealed),
        "a70105010015000000d3de92b4030000000000000009000000000000007374617465"
    );
    assert_eq!(AppliedRow::open(&sealed).unwrap(), applied);

    let vote = VoteRow {
        number: 4,
        vote: Bytes::from_static(b"vote"),
    };
    let sealed = Bytes::from(vote.seal().unwrap());
    assert_eq!(
        hex(&sealed),
        "a7010401000c000000661966130400000000000000766f7465"
    );
    assert_eq!(VoteRow::open(&sealed).unwrap(), vote);

    assert_eq!(
        hex(&rows::seal_snapshot(b"snap").unwrap()),
        "a70102010004000000c141641a736e6170"
    );
    assert_eq!(
        hex(&rows::seal_purged(b"p").unwrap()),
        "a701030100010000005788cef270"
    );
}

#[test]
fn marks() {
    let marks = Marks {
        generation: 6,
        shards: vec![ShardMark {
            first: 1,
            end: 10,
            votes: 2,
        }],
    };
    assert_eq!(
        hex(&marks.seal().unwrap()),
        "a70109010020000000f533bd9f060000000000000001000000000000000a000000000000000200000000000000"
    );
    assert_eq!(marks.slot(), 0);
}
