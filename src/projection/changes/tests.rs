//! Windows over transactions of random rows: followers that are cut anywhere see each change once.

use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};

use phalanx_actors::projection::{Columns, Stored};

use super::*;

const SHARDS: u32 = 3;
const BUILD: BuildId = 7;

fn at(shard: ShardId, number: u64) -> Position {
    Position { shard, number }
}

fn note(changes: &Changes, moves: &[(ShardId, u64, u64)], rows: &[(Position, Key, bool)]) {
    let moves: Vec<OffsetMove> = moves
        .iter()
        .map(|(shard, from, to)| OffsetMove {
            build: BUILD,
            shard: *shard,
            from: *from,
            to: *to,
        })
        .collect();
    let values = [Value::Null];
    let change =
        |(position, key, removed): &'_ (Position, Key, bool)| (*position, key.clone(), *removed);
    let rows: Vec<_> = rows.iter().map(change).collect();
    let changes_of = rows.iter().map(|(position, key, removed)| Change {
        table: 0,
        key,
        values: (!removed).then_some(&values[..]),
        stored: Stored::Unknown,
        columns: Columns::ALL,
        position: *position,
    });
    changes.note(BUILD, changes_of, &moves);
}

fn flat(told: Vec<RowChanges>) -> Vec<(Position, Key, bool)> {
    let rows = |told: RowChanges| {
        let position = told.position;
        let row = move |(key, removed)| (position, key, removed);
        told.rows.into_iter().map(row).collect::<Vec<_>>()
    };
    told.into_iter().flat_map(rows).collect()
}

#[test]
fn a_follower_that_is_cut_anywhere_is_told_each_change_once_and_in_order() {
    for seed in 0..200 {
        let mut random = StdRng::seed_from_u64(seed);
        let changes = Changes::new(vec![0; SHARDS as usize], 0);
        let mut ends = [0_u64; SHARDS as usize];
        let mut place = changes.now();
        let (mut all, mut told) = (Vec::new(), Vec::new());
        for _ in 0..60 {
            let (mut moves, mut rows) = (Vec::new(), Vec::new());
            for shard in 0..SHARDS {
                if random.random_bool(0.6) {
                    let end = &mut ends[shard as usize];
                    let from = *end;
                    for _ in 0..random.random_range(1..5) {
                        *end += 1;
                        for row in 0..random.random_range(0..3) {
                            let key = format!("{shard}-{end}-{row}");
                            rows.push((at(shard, *end), Key::from(key), random.random_bool(0.3)));
                        }
                    }
                    moves.push((shard, from, *end));
                }
            }
            note(&changes, &moves, &rows);
            all.extend(rows);
            if random.random_bool(0.5) {
                told.extend(flat(
                    changes.read(&mut place, random.random_range(1..6)).unwrap(),
                ));
            }
            if random.random_bool(0.3) {
                let (era, seen) = Place::parse(&place.render(), SHARDS).unwrap();
                place = changes.resume(era, seen).unwrap();
            }
        }
        told.extend(flat(changes.read(&mut place, usize::MAX).unwrap()));
        for shard in 0..SHARDS {
            let of = |rows: &[(Position, Key, bool)]| -> Vec<_> {
                let of_shard = rows.iter().filter(|(position, ..)| position.shard == shard);
                of_shard.cloned().collect()
            };
            assert_eq!(of(&told), of(&all), "seed {seed}, shard {shard}");
        }
        assert_eq!(place, changes.now());
    }
}

#[test]
fn memory_is_bounded_and_who_falls_behind_is_told_so() {
    let changes = Changes::new(vec![0, 5, 0], 0);
    let mut slow = changes.now();
    let start = slow.render();
    assert_eq!(start, "0/1:5");
    let rows: u64 = 3 * MAX_ROWS as u64;
    for number in 1..=rows {
        let row = (
            at(0, number),
            Key::from(i64::try_from(number).unwrap()),
            false,
        );
        note(&changes, &[(0, number - 1, number)], &[row]);
        assert!(changes.window.lock().rows.len() <= MAX_ROWS);
    }
    assert_eq!(changes.read(&mut slow, 10), None);
    let (era, seen) = Place::parse(&start, SHARDS).unwrap();
    assert_eq!(changes.resume(era, seen), None, "too old");
    let oldest = rows - MAX_ROWS as u64;
    assert!(changes.resume(0, vec![oldest, 5, 0]).is_some());
    assert!(changes.resume(0, vec![oldest - 1, 5, 0]).is_none());
    assert!(
        changes.resume(0, vec![rows, 4, 0]).is_none(),
        "from before it began"
    );
    assert!(changes.resume(1, vec![rows, 5, 0]).is_none(), "another era");
    // Long keys leave the window sooner.
    for number in rows + 1..rows + 40 {
        let key = Key::from("k".repeat(100_000));
        note(
            &changes,
            &[(0, number - 1, number)],
            &[(at(0, number), key, false)],
        );
        assert!(changes.window.lock().key_bytes <= MAX_KEY_BYTES);
    }
}

#[test]
fn an_offset_that_somebody_else_moved_starts_everybody_over() {
    let changes = Changes::new(vec![0; SHARDS as usize], 0);
    let mut place = changes.now();
    note(&changes, &[(1, 0, 3)], &[(at(1, 2), "a".into(), false)]);
    note(&changes, &[(1, 9, 12)], &[(at(1, 11), "b".into(), false)]);
    assert_eq!(changes.read(&mut place, 10), None);
    let mut place = changes.now();
    assert_eq!(place.positions(), "1:12");
    changes.attempted();
    assert_eq!(changes.read(&mut place, 10), None, "rows were mended");
    assert_eq!(changes.read(&mut changes.now(), 10), Some(Vec::new()));
}

#[test]
fn a_place_is_a_text_and_nothing_else_is() {
    assert_eq!(Place::parse("4/0:17,2:3", 3), Some((4, vec![17, 0, 3])));
    assert_eq!(Place::parse("0/", 2), Some((0, vec![0, 0])));
    for bad in ["", "/", "x/0:1", "1/0", "1/3:1", "1/0:1;1:2", "0:1"] {
        assert_eq!(Place::parse(bad, 3), None, "{bad}");
    }
}
