//! Values at the edges of what there is: rows with them are stored and read like others, and nothing
//! waits for them.

use phalanx_actors::projection::ProjectionRegistry;
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};

use super::kit::{World, all, on_both_stores, rows};
use crate::domain::views::{AccountTotals, Accounts, MaintenanceJobs};
use crate::domain::{WorkshopDay, WorkshopDayEvent};

on_both_stores!(
    a_long_text_keeps_nothing_from_its_view,
    the_first_and_the_last_moment_are_read_as_they_were_written,
);

/// A text that no database makes shorter.
fn long(seed: u64, bytes: usize) -> String {
    let mut rng = StdRng::seed_from_u64(seed);
    (0..bytes)
        .map(|_| char::from(rng.random_range(b'a'..=b'z')))
        .collect()
}

fn registry() -> ProjectionRegistry {
    let mut registry = ProjectionRegistry::default();
    registry.register::<Accounts>().unwrap();
    registry.register::<AccountTotals>().unwrap();
    registry
}

async fn a_long_text_keeps_nothing_from_its_view(mut world: World) {
    let projections = world.start(&registry()).await;
    let views = projections.views();
    let mut owners: Vec<String> = [2_500, 2_700, 6_000, 9_000, 100_000]
        .into_iter()
        .map(|bytes| long(bytes, usize::try_from(bytes).unwrap()))
        .collect();
    owners.push("ada".to_owned());
    for (n, owner) in owners.iter().enumerate() {
        world.open(&format!("a-{n}"), owner, "EUR");
    }
    // The owner has an index, and is what lists are filtered and sorted by.
    let by = |pairs: &[(&str, &str)]| {
        let pairs = pairs.iter().map(|(name, value)| (*name, *value));
        let owned = pairs.map(|(n, v)| (n.to_owned().into(), v.to_owned().into()));
        owned.collect::<Vec<_>>()
    };
    for (n, owner) in owners.iter().enumerate() {
        let query = by(&[("owner", owner)]);
        let page = views.list("accounts", &query, &world.now()).await;
        let found = rows(&page.unwrap());
        assert_eq!(found.len(), 1, "{} bytes", owner.len());
        assert_eq!(found[0]["id"], format!("a-{n}"));
    }
    let sorted = by(&[("sort", "-owner"), ("limit", "1000")]);
    let page = views.list("accounts", &sorted, &world.now()).await.unwrap();
    let found: Vec<String> = rows(&page)
        .iter()
        .map(|row| row["owner"].as_str().unwrap().to_owned())
        .collect();
    owners.sort_unstable_by(|one, other| other.cmp(one));
    assert!(found == owners);

    // A currency is a key. One that cannot be is set aside, and the rest goes on.
    world.open("b-1", "ada", &long(1, 6_000));
    world.open("b-2", "ada", &long(2, 2_000));
    world.open("b-3", "ada", "CHF");
    let fits = world.postgres.is_none();
    let totals = all(views, "account_totals", &world).await;
    assert_eq!(totals.len(), if fits { 4 } else { 3 });
    let letters = views.dead_letters("account_totals", 0, 9).await.unwrap();
    assert_eq!(letters.len(), usize::from(!fits));
    for letter in letters {
        assert_eq!(letter.aggregate_id, "b-1");
        assert!(letter.reason.contains("6000 bytes"), "{}", letter.reason);
        let skipped = views
            .retry("account_totals", letter.id, true)
            .await
            .unwrap();
        assert!(skipped.resolved);
    }
    // It is so again when all of it is built again.
    views.rebuild("accounts").await.unwrap();
    let build = views.status("accounts").unwrap().build;
    super::kit::until("the rows were built again", async || {
        views.status("accounts").unwrap().build > build
    })
    .await;
    assert_eq!(all(views, "accounts", &world).await.len(), owners.len() + 3);
    projections.stop().await;
}

async fn the_first_and_the_last_moment_are_read_as_they_were_written(mut world: World) {
    let mut registry = ProjectionRegistry::default();
    registry.register::<MaintenanceJobs>().unwrap();
    let times = [
        "-009999-01-02T01:59:59Z",
        "1969-12-31T23:59:59.999999Z",
        "9999-12-30T22:00:00Z",
        "9999-12-30T22:00:00.9999999Z",
        "9999-12-30T22:00:00.999999999Z",
    ];
    for (n, time) in times.into_iter().enumerate() {
        let planned = WorkshopDayEvent::MaintenanceJobPlanned {
            job_id: n.to_string(),
            vehicle: "v".to_owned(),
            start: time.parse().unwrap(),
            end: jiff::Timestamp::MAX,
            description: String::new(),
        };
        world.commit::<WorkshopDay>("d", &[planned]);
    }
    // PostgreSQL knows no earlier one.
    let first = if world.postgres.is_some() {
        "-004712-01-01T00:00:00Z"
    } else {
        times[0]
    };
    // Once as they are taken in, once as they lie there.
    for _ in 0..2 {
        let projections = world.start(&registry).await;
        let found = all(projections.views(), "maintenance_jobs", &world).await;
        let starts: Vec<&str> = found
            .iter()
            .map(|row| row["start"].as_str().unwrap())
            .collect();
        let last = "9999-12-30T22:00:00.999999Z";
        assert_eq!(starts, [first, times[1], times[2], last, last]);
        assert!(found.iter().all(|row| row["end"] == last));
        let by_start = [
            ("sort".into(), "-start".into()),
            ("limit".into(), "1".into()),
        ];
        let mut pairs = by_start.to_vec();
        for job in ["3", "4", "2", "1", "0"] {
            let page = projections
                .views()
                .list("maintenance_jobs", &pairs, &world.now())
                .await;
            let page = page.unwrap();
            assert_eq!(rows(&page)[0]["job_id"], job);
            pairs.truncate(2);
            pairs.extend(
                page.next_cursor
                    .map(|cursor| ("cursor".into(), cursor.into())),
            );
        }
        assert_eq!(pairs.len(), 2, "the last page has none behind it");
        projections.stop().await;
    }
}
