//! Queries against rows that are known: filters, sorts and cursors are compared with a plain model.

use std::borrow::Cow;
use std::cmp::Ordering;
use std::sync::atomic;

use jiff::Timestamp;
use phalanx_actors::projection::ProjectionRegistry;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom as _;
use rand::{Rng as _, SeedableRng as _};
use serde_json::Value as Json;

use super::super::*;
use super::kit::{World, all, at_once, on_both_stores, rows};
use crate::domain::views::{Accounts, MaintenanceJobs};
use crate::domain::{WorkshopDay, WorkshopDayEvent};

on_both_stores!(
    filters_sorts_and_cursors_agree_with_a_plain_model,
    a_cursor_neither_repeats_nor_skips_while_rows_come_and_change,
    what_cannot_be_answered_says_why,
    who_asks_for_rows_at_once_each_gets_their_own,
);

fn time(second: i64) -> Timestamp {
    Timestamp::from_second(second).unwrap()
}

/// Jobs with few different values, some of them without any.
fn jobs(world: &mut World, rng: &mut StdRng) {
    for n in 0..60 {
        let day = format!("day-{}", n % 7);
        let job_id = format!("j{n}");
        let start = time(1_000 + rng.random_range(0..5));
        world.commit::<WorkshopDay>(
            &day,
            &[WorkshopDayEvent::MaintenanceJobPlanned {
                job_id: job_id.clone(),
                vehicle: format!("v{}", rng.random_range(0..4)),
                start,
                end: time(2_000),
                description: String::new(),
            }],
        );
        if rng.random_bool(0.5) {
            let actual_start = time(3_000 + rng.random_range(0..3));
            world.commit::<WorkshopDay>(
                &day,
                &[WorkshopDayEvent::MaintenanceJobFinished {
                    job_id,
                    actual_start,
                    actual_end: time(4_000),
                    notes: "ok".to_owned(),
                }],
            );
        }
    }
}

/// The order of values in one column: without one first, then as numbers or texts. Times of this
/// test have texts of one length.
fn order(one: &Json, other: &Json) -> Ordering {
    match (one.as_i64(), other.as_i64()) {
        (Some(one), Some(other)) => one.cmp(&other),
        _ => one.as_str().cmp(&other.as_str()),
    }
}

fn holds(operator: &str, found: &Json, wanted: &Json) -> bool {
    let order = order(found, wanted);
    if operator == "ne" {
        return order.is_ne();
    }
    !found.is_null()
        && match operator {
            "" => order.is_eq(),
            "gt" => order.is_gt(),
            "gte" => order.is_ge(),
            "lt" => order.is_lt(),
            _ => order.is_le(),
        }
}

async fn filters_sorts_and_cursors_agree_with_a_plain_model(mut world: World) {
    let mut rng = StdRng::seed_from_u64(11);
    jobs(&mut world, &mut rng);
    let mut registry = ProjectionRegistry::default();
    registry.register::<MaintenanceJobs>().unwrap();
    let projections = world.start(&registry).await;
    let views = projections.views();
    let everything = all(views, "maintenance_jobs", &world).await;
    assert_eq!(everything.len(), 60);
    let columns = [
        "vehicle",
        "start",
        "actual_start",
        "status",
        "sequence_number",
        "id",
        "notes",
    ];
    let operators = ["", "ne", "gt", "gte", "lt", "lte"];
    let mut found_some = 0;
    for _ in 0..400 {
        let mut pairs: Vec<(Cow<'_, str>, Cow<'_, str>)> = Vec::new();
        let mut expected = everything.clone();
        for _ in 0..rng.random_range(0..3) {
            let column = *columns.choose(&mut rng).unwrap();
            let operator = *operators.choose(&mut rng).unwrap();
            let wanted = everything.choose(&mut rng).unwrap()[column].clone();
            let name = match operator {
                "" => column.to_owned(),
                operator => format!("{column}[{operator}]"),
            };
            if wanted.is_null() || pairs.iter().any(|(taken, _)| *taken == name) {
                continue;
            }
            let text = wanted
                .as_str()
                .map_or_else(|| wanted.to_string(), str::to_owned);
            pairs.push((name.into(), text.into()));
            expected.retain(|row| holds(operator, &row[column], &wanted));
        }
        let mut sort: Vec<(&str, bool)> = Vec::new();
        for _ in 0..rng.random_range(0..3) {
            let column = *columns.choose(&mut rng).unwrap();
            if !sort.iter().any(|(taken, _)| *taken == column) {
                sort.push((column, rng.random()));
            }
        }
        if !sort.is_empty() {
            let text: Vec<String> = sort
                .iter()
                .map(|(name, descends)| format!("{}{name}", if *descends { "-" } else { "" }))
                .collect();
            pairs.push(("sort".into(), text.join(",").into()));
        }
        expected.sort_by(|one, other| {
            let by = |(column, descends): &(&str, bool)| {
                let order = order(&one[*column], &other[*column]);
                if *descends { order.reverse() } else { order }
            };
            let key = order(&one["id"], &other["id"]);
            sort.iter().map(by).find(|o| o.is_ne()).unwrap_or(key)
        });
        let limit = rng.random_range(1..20);
        pairs.push(("limit".into(), limit.to_string().into()));
        let mut found: Vec<Json> = Vec::new();
        let fixed = pairs.len();
        loop {
            let page = views
                .list("maintenance_jobs", &pairs, &at_once())
                .await
                .unwrap();
            let page_rows = rows(&page);
            assert!(page_rows.len() <= limit);
            found.extend(page_rows);
            let Some(cursor) = page.next_cursor else {
                break;
            };
            pairs.truncate(fixed);
            pairs.push(("cursor".into(), cursor.into()));
        }
        assert_eq!(found, expected, "{pairs:?}");
        found_some += usize::from(!found.is_empty());
    }
    assert!(found_some > 150, "{found_some}");
    projections.stop().await;
}

async fn a_cursor_neither_repeats_nor_skips_while_rows_come_and_change(mut world: World) {
    for n in 0..50 {
        world.open(&format!("a-{n:02}"), "ada", "EUR");
    }
    let mut registry = ProjectionRegistry::default();
    registry.register::<Accounts>().unwrap();
    let projections = world.start(&registry).await;
    let views = projections.views();
    let mut pairs: Vec<(Cow<'_, str>, Cow<'_, str>)> = vec![("limit".into(), "10".into())];
    let mut seen: Vec<String> = Vec::new();
    loop {
        let page = views.list("accounts", &pairs, &world.now()).await.unwrap();
        let ids = rows(&page);
        seen.extend(ids.iter().map(|row| row["id"].as_str().unwrap().to_owned()));
        let Some(cursor) = page.next_cursor else {
            break;
        };
        pairs.truncate(1);
        pairs.push(("cursor".into(), cursor.into()));
        // One more before what was seen, and changes of what was seen and what is to come.
        world.open(&format!("a-0{}x", seen.len()), "eve", "EUR");
        world.deposit(&seen[0].clone(), 5);
        world.deposit("a-49", 5);
    }
    let old: Vec<String> = seen
        .iter()
        .filter(|id| !id.ends_with('x'))
        .cloned()
        .collect();
    let expected: Vec<String> = (0..50).map(|n| format!("a-{n:02}")).collect();
    assert_eq!(old, expected);
    projections.stop().await;
}

async fn what_cannot_be_answered_says_why(mut world: World) {
    world.open("a-1", "ada", "EUR");
    let mut registry = ProjectionRegistry::default();
    registry.register::<Accounts>().unwrap();
    let projections = world.start(&registry).await;
    let views = projections.views();
    let unknown = views.list("nothing", &[], &at_once()).await;
    assert!(matches!(unknown, Err(ViewError::Unknown)), "{unknown:?}");
    let none = views.row("accounts", "a-2", &world.now()).await;
    assert!(matches!(none, Err(ViewError::NoRow { .. })), "{none:?}");
    let mut elsewhere = at_once();
    elsewhere.after = vec!["9:1".parse().unwrap()];
    let refused = views.row("accounts", "a-1", &elsewhere).await;
    assert!(
        matches!(refused, Err(ViewError::Query { .. })),
        "{refused:?}"
    );
    projections.stop().await;

    let missing = Arc::<AtomicUsize>::new(1.into());
    let options = ProjectionOptions {
        missing_shards: Arc::clone(&missing),
        ..world.options()
    };
    let projections = Projections::start(&registry, options, world.ground())
        .await
        .unwrap();
    let partial = projections.views().list("accounts", &[], &at_once()).await;
    assert!(
        matches!(partial, Err(ViewError::Incomplete { shards: 1 })),
        "{partial:?}"
    );
    // A copy that has left this node is followed elsewhere in a moment: who may wait does.
    let patient = Freshness {
        wait: Duration::from_secs(60),
        ..at_once()
    };
    let found = async {
        tokio::time::sleep(Duration::from_millis(50)).await;
        missing.store(0, atomic::Ordering::Relaxed);
    };
    let (complete, ()) = tokio::join!(projections.views().list("accounts", &[], &patient), found);
    assert!(complete.is_ok(), "{complete:?}");
    projections.stop().await;
}

async fn who_asks_for_rows_at_once_each_gets_their_own(mut world: World) {
    let mut rng = StdRng::seed_from_u64(12);
    jobs(&mut world, &mut rng);
    let mut registry = ProjectionRegistry::default();
    registry.register::<MaintenanceJobs>().unwrap();
    let projections = world.start(&registry).await;
    let views = projections.views();
    assert_eq!(all(views, "maintenance_jobs", &world).await.len(), 60);
    let mut asking = Vec::new();
    for n in 0..600 {
        let views = views.clone();
        let job = n % 75;
        let task = tokio::spawn(async move {
            let key = match job {
                ..60 => format!("day-{}/j{job}", job % 7),
                60 => "day-\0/j1".to_owned(),
                _ => format!("day-1/none-{job}"),
            };
            let found = views.row("maintenance_jobs", &key, &at_once()).await;
            (job, key, found)
        });
        asking.push((n, task));
    }
    // Some leave before they hear anything, among them perhaps the one whose question it is.
    for (n, task) in &asking {
        if n % 10 == 0 {
            task.abort();
        }
    }
    let mut heard = 0;
    for (n, task) in asking {
        match task.await {
            Ok((job, key, found)) if job < 60 => {
                let members = String::from_utf8(found.unwrap().members).unwrap();
                assert!(
                    members.contains(&format!("\"id\":\"{key}\"")),
                    "{key}: {members}"
                );
                heard += 1;
            }
            Ok((_, key, found)) => {
                assert!(
                    matches!(found, Err(ViewError::NoRow { .. })),
                    "{key}: {found:?}"
                );
            }
            Err(left) => assert!(left.is_cancelled() && n % 10 == 0, "{left}"),
        }
    }
    assert!(heard > 300, "{heard}");
    projections.stop().await;
}
