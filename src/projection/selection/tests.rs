//! What queries are understood and refused. That the statements do what they say is tested on real
//! rows, beside the views.

use super::*;

fn table() -> Table {
    Table::new("jobs", "id")
        .text("id")
        .integer("cents")
        .boolean("done")
        .time("start")
        .nullable()
}

fn parse(query: &[(&str, &str)]) -> Result<Selection, ViewError> {
    let pairs: Vec<_> = query
        .iter()
        .map(|(name, value)| (Cow::from(*name), Cow::from(*value)))
        .collect();
    Selection::parse(&table(), 1, &pairs)
}

fn text(query: &[(&str, &str)]) -> String {
    let selection = parse(query).unwrap();
    let (text, bound) = selection.statement(&table(), Dialect::Postgres, "t");
    assert_eq!(bound.len() + 1, text.matches('?').count());
    text
}

#[test]
fn values_are_bound_and_never_part_of_the_text() {
    let evil = "x' OR 1=1; DROP TABLE t; --";
    let text = text(&[("id", evil), ("cents[gte]", "-5"), ("done[ne]", "true")]);
    assert_eq!(
        text,
        "SELECT \"id\", \"cents\", \"done\", \"start\" FROM \"t\" WHERE \"id\" = ? \
         AND \"cents\" >= ? AND \"done\" IS DISTINCT FROM ? ORDER BY \"id\" LIMIT ?"
    );
}

#[test]
fn what_does_not_fit_is_refused_and_named() {
    for (name, value) in [
        ("colour", "red"),
        ("id\" = 'x' --", "1"),
        ("cents[like]", "5"),
        ("cents[gte", "5"),
        ("[gte]", "5"),
        ("cents", "five"),
        ("cents", "+5"),
        ("cents", "1.0"),
        ("cents", "9223372036854775808"),
        ("cents", ""),
        ("done", "1"),
        ("start", "yesterday"),
        ("start", "9999-12-31"),
        ("start", "9999-12-31T23:59:59"),
        ("start", "10000-01-01T00:00:00Z"),
        ("sort", ""),
        ("sort", "colour"),
        ("sort", "id,-id"),
        ("sort", "--id"),
        ("limit", "0"),
        ("limit", "1001"),
        ("limit", "+1"),
        ("limit", ""),
        ("cursor", ""),
        ("cursor", "zz"),
        ("cursor", "5b5d"),
    ] {
        match parse(&[(name, value)]) {
            Err(ViewError::Query { parameter, .. }) => assert_eq!(parameter, name),
            other => panic!("{name}={value}: {other:?}"),
        }
    }
    let twice = parse(&[("cents[gt]", "1"), ("cents[gt]", "2")]);
    assert!(matches!(twice, Err(ViewError::Query { .. })));
    assert!(parse(&[("cents[gt]", "1"), ("cents[lt]", "2")]).is_ok());
}

#[test]
fn a_time_without_an_end_is_the_last_one() {
    let value = |text| parse(&[("start", text)]).unwrap().filters[0].value.clone();
    let last = Value::from(jiff::Timestamp::MAX);
    assert_eq!(value("9999-12-31T23:59:59Z"), last);
    assert_eq!(value("9999-12-31T23:59:59.999999-01:00"), last);
    assert_eq!(value("9999-12-31T00:00:00+01:00"), last);
    let before: jiff::Timestamp = "9999-12-30T21:00:00Z".parse().unwrap();
    assert_eq!(value("9999-12-30T22:00:00+01:00"), Value::from(before));
}

#[test]
fn a_cursor_belongs_to_its_query() {
    let query = [("sort", "-start,cents"), ("cents[gt]", "1")];
    let selection = parse(&query).unwrap();
    let row = [
        Value::from("a"),
        Value::from(5_i64),
        Value::from(true),
        Value::Null,
    ];
    let cursor = selection.cursor_behind(&row);
    let again = parse(&[query[0], query[1], ("cursor", &cursor), ("limit", "7")]).unwrap();
    assert_eq!(
        again.behind,
        Some(vec![Value::Null, Value::from(5_i64), Value::from("a")])
    );
    for other in [
        vec![("sort", "start,cents"), ("cents[gt]", "1")],
        vec![("sort", "-start,cents"), ("cents[gt]", "2")],
        vec![("sort", "-start,cents")],
    ] {
        let mut other = other;
        other.push(("cursor", &cursor));
        assert!(parse(&other).is_err(), "{other:?}");
    }
    // Another view may have the same columns.
    let pairs: Vec<_> = [query[0], query[1], ("cursor", &cursor)]
        .map(|(name, value)| (Cow::from(name), Cow::from(value)))
        .into();
    let other = Table {
        name: "tasks".into(),
        ..table()
    };
    assert!(Selection::parse(&table(), 1, &pairs).is_ok());
    assert!(Selection::parse(&other, 1, &pairs).is_err());
    assert!(Selection::parse(&table(), 2, &pairs).is_err());
}

#[test]
fn a_page_ends_where_its_cursor_can_be_sent() {
    let selection = parse(&[("sort", "-id,cents")]).unwrap();
    let row = |text: String| {
        let time = jiff::Timestamp::MIN;
        [text.into(), i64::MIN.into(), true.into(), time.into()]
    };
    let mut ends = [0, 0];
    for letter in ["a", "é", "\"", "\u{1}", "\u{10FFFF}"] {
        for count in (0..2200).step_by(7) {
            let row = row(letter.repeat(count));
            let fits = selection.cursor_behind(&row).len() <= MAX_CURSOR_BYTES;
            assert_eq!(selection.can_end_at(&row), fits, "{letter:?} {count} times");
            ends[usize::from(fits)] += 1;
        }
    }
    assert!(ends.iter().all(|count| *count > 100), "{ends:?}");
}
