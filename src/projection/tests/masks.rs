//! Changes of the columns that differ leave the same rows behind as whole rows do.

use std::collections::BTreeMap;

use phalanx_actors::names::Position;
use phalanx_actors::projection::{
    Change, ColumnType, Columns, Dialect, Key, Stored, Table, Value, create_table,
};
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};

use super::super::sql::TableSql;
use super::super::store::Store;
use super::kit::World;

type Row = Vec<Value>;

/// Enough columns for more sets of them than have texts of their own, and indexes over some.
fn table() -> Table {
    Table::new("t", "id")
        .integer("a")
        .text("b")
        .text("id")
        .boolean("c")
        .time("d")
        .nullable()
        .text("e")
        .nullable()
        .index(["a", "b"])
        .index(["e"])
}

fn row(key: &Key, rng: &mut StdRng) -> Row {
    let text = |rng: &mut StdRng| Value::from(["", "x", "a\0b", "ü"][rng.random_range(0..4)]);
    let time = |rng: &mut StdRng| {
        let time = jiff::Timestamp::from_second(rng.random_range(-5..5)).unwrap();
        Value::from(rng.random_bool(0.5).then_some(time))
    };
    vec![
        [i64::MIN, -1, 0, i64::MAX][rng.random_range(0..4)].into(),
        text(rng),
        key.clone(),
        rng.random_bool(0.5).into(),
        time(rng),
        if rng.random_bool(0.3) {
            Value::Null
        } else {
            text(rng)
        },
    ]
}

async fn rows(store: &mut Store, table: &Table) -> Vec<Row> {
    let types: Vec<ColumnType> = table.columns.iter().map(|c| c.column_type).collect();
    let text = "SELECT a, b, id, c, d, e FROM t ORDER BY id";
    store.rows(text, &[], &types).await.unwrap()
}

async fn write(sql: &mut TableSql, store: &mut Store, model: &Rows, next: &Rows) {
    let keys: std::collections::BTreeSet<&Key> = model.keys().chain(next.keys()).collect();
    let changes = keys.into_iter().rev().filter_map(|key| {
        let (old, new) = (model.get(key), next.get(key));
        let columns = match (old, new) {
            (Some(old), Some(new)) => Columns::differing(old, new),
            _ => Columns::ALL,
        };
        let change = Change {
            table: 0,
            key,
            values: new.map(Vec::as_slice),
            stored: old.map_or(Stored::Absent, |old| Stored::Row(old)),
            columns,
            position: Position {
                shard: 0,
                number: 1,
            },
        };
        (!columns.is_empty()).then_some(change)
    });
    let changes: Vec<Change<'_>> = changes.collect();
    store.begin().await.unwrap();
    sql.write(store.connection().unwrap(), changes)
        .await
        .unwrap();
    store.commit().await.unwrap();
}

type Rows = BTreeMap<Key, Row>;

#[tokio::test]
async fn changed_columns_leave_the_same_rows_as_whole_rows() {
    let world = World::new();
    let mut store = world.store().await;
    let table = table();
    for text in create_table(&table, Dialect::Sqlite, "t") {
        store.run(&text, &[]).await.unwrap();
    }
    let mut sql = TableSql::new(&table, Dialect::Sqlite, "t");
    let mut rng = StdRng::seed_from_u64(11);
    let mut model = Rows::new();
    for round in 0..150 {
        let mut next = model.clone();
        for _ in 0..rng.random_range(1..120) {
            let key = Key::from(format!("key {}", rng.random_range(0..90)));
            match (rng.random_range(0..4), next.get_mut(&key)) {
                (0, _) => drop(next.remove(&key)),
                (1, _) | (_, None) => {
                    let row = row(&key, &mut rng);
                    next.insert(key, row);
                }
                (_, Some(known)) => {
                    let at = rng.random_range(0..known.len());
                    let other = row(&key, &mut rng);
                    known[at] = other[at].clone();
                }
            }
        }
        write(&mut sql, &mut store, &model, &next).await;
        let whole: Vec<Row> = next.values().cloned().collect();
        assert_eq!(rows(&mut store, &table).await, whole, "round {round}");
        model = next;
    }
    let sound = "PRAGMA integrity_check";
    let sound = store.rows(sound, &[], &[ColumnType::Text]).await.unwrap();
    assert_eq!(sound, [["ok".into()]]);
}

#[tokio::test]
async fn a_row_that_is_not_as_it_was_stored_is_noticed_when_it_is_changed() {
    let world = World::new();
    let mut store = world.store().await;
    let table = table();
    for text in create_table(&table, Dialect::Sqlite, "t") {
        store.run(&text, &[]).await.unwrap();
    }
    let mut rng = StdRng::seed_from_u64(12);
    let key = Key::from("gone");
    let old = row(&key, &mut rng);
    let mut new = old.clone();
    new[1] = "other".into();
    let change = |values, stored, columns| Change {
        table: 0,
        key: &key,
        values,
        stored,
        columns,
        position: Position {
            shard: 0,
            number: 1,
        },
    };
    let differing = Columns::differing(&old, &new);
    let stored = Stored::Row(&old);
    for wrong in [
        change(Some(&new[..]), stored, differing),
        change(None, stored, Columns::ALL),
        change(Some(&new[..]), Stored::Unknown, Columns::ALL),
    ] {
        let mut sql = TableSql::new(&table, Dialect::Sqlite, "t");
        let written = sql.write(store.connection().unwrap(), vec![wrong]).await;
        let error = written.unwrap_err();
        assert!(super::super::file::is_damage(&error), "{error:?}");
    }
}
