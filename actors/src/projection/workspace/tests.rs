//! Memory that is bounded, and changes that say what they differ from.

use super::*;

fn row(id: &str, n: i64) -> Vec<Value> {
    vec![id.into(), n.into(), "as it was".into()]
}

fn loaded(id: &str, values: Option<Vec<Value>>) -> Loaded {
    Loaded {
        table: 0,
        key: id.into(),
        values,
    }
}

fn workspace() -> Workspace {
    let tables = vec![Table::new("t", "id").text("id").integer("n").text("s")];
    Workspace::new(tables, 100)
}

/// Keys, and the places where they differ.
fn changed(workspace: &Workspace) -> Vec<(Key, Vec<usize>)> {
    let places = |columns: Columns| (0..3).filter(|at| columns.contains(*at)).collect();
    let changes = workspace.changes();
    changes
        .map(|c| (c.key.clone(), places(c.columns)))
        .collect()
}

#[test]
fn a_change_names_the_columns_that_differ_from_what_is_stored() {
    let mut workspace = workspace();
    let key = || Key::from("a");
    workspace.insert([loaded("a", Some(row("a", 1)))]);
    workspace.change(0, key(), Some(row("a", 2)));
    assert_eq!(changed(&workspace), [(key(), vec![1])]);
    workspace.undo.clear();
    workspace.change(0, key(), None);
    workspace.change(0, key(), Some(row("a", 9)));
    workspace.undo_event();
    assert_eq!(changed(&workspace), [(key(), vec![1])], "an undone event");
    workspace.change(0, key(), None);
    let removed = workspace.changes().next().unwrap();
    assert_eq!(removed.values, None);
    assert_eq!(removed.stored, Stored::Row(&row("a", 1)));
    workspace.change(0, key(), Some(row("a", 1)));
    assert_eq!(changed(&workspace), [], "it is as it was");
    workspace.change(0, key(), Some(row("a", 3)));
    workspace.undo.clear();
    workspace.stored();
    assert_eq!(changed(&workspace), []);
    workspace.change(0, key(), Some(row("a", 3)));
    assert_eq!(changed(&workspace), [], "put as it is stored");
}

#[test]
fn what_was_compared_is_compared_again_after_another_change() {
    let mut workspace = workspace();
    let key = || Key::from("a");
    workspace.insert([loaded("a", Some(row("a", 1)))]);
    workspace.change(0, key(), Some(row("a", 2)));
    workspace.undo.clear();
    workspace.compare();
    assert_eq!(changed(&workspace), [(key(), vec![1])]);
    workspace.change(0, key(), Some(row("a", 1)));
    assert_eq!(changed(&workspace), [], "it is as it was");
    workspace.compare();
    workspace.undo_event();
    assert_eq!(changed(&workspace), [(key(), vec![1])], "an undone event");
    workspace.change(0, Key::from("b"), Some(row("b", 1)));
    workspace.compare();
    workspace.settle([loaded("b", Some(row("b", 1)))]);
    assert_eq!(changed(&workspace), [(key(), vec![1])], "nobody had looked");
}

#[test]
fn what_nobody_has_looked_at_is_told_apart_from_what_is_not_there() {
    let mut workspace = workspace();
    workspace.insert([loaded("gone", None)]);
    workspace.change(0, "gone".into(), Some(row("gone", 1)));
    workspace.change(0, "new".into(), Some(row("new", 1)));
    workspace.change(0, "old".into(), None);
    workspace.undo.clear();
    let stored = |workspace: &Workspace| {
        let stored = workspace.changes().map(|change| match change.stored {
            Stored::Unknown => "unknown",
            Stored::Absent => "absent",
            Stored::Row(_) => "row",
        });
        stored.collect::<Vec<_>>()
    };
    assert_eq!(stored(&workspace), ["absent", "unknown", "unknown"]);
    assert_eq!(workspace.blind(), [(0, "new".into()), (0, "old".into())]);
    workspace.settle([loaded("new", Some(row("new", 0))), loaded("old", None)]);
    assert_eq!(stored(&workspace), ["absent", "row"], "a removed nothing");
    assert_eq!(changed(&workspace)[1], ("new".into(), vec![1]));
    workspace.change(0, "gone".into(), None);
    assert_eq!(stored(&workspace), ["row"], "it never was there");
    workspace.undo_event();
    assert_eq!(stored(&workspace), ["absent", "row"]);
}

#[test]
fn memory_is_bounded_and_rows_in_use_stay() {
    let tables = vec![Table::new("t", "id").text("id")];
    let mut workspace = Workspace::new(tables, 100);
    let mut kept = 0;
    for n in 0..2_000 {
        if workspace.look_up(0, &"hot".into()).is_some() {
            kept += 1;
        }
        workspace.wanted.clear();
        let loaded = |key: Key| Loaded {
            table: 0,
            key,
            values: None,
        };
        workspace.insert([loaded("hot".into()), loaded(format!("cold {n}").into())]);
        workspace.stored();
        assert!(workspace.known() <= 101, "{}", workspace.known());
    }
    assert!(kept > 1_900, "a row in use stays: {kept}");
}
