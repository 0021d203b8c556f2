//! Read models: rows, lists, tokens, and operating projections.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::cases::{Fixture, case, run};
use crate::support::client;
use crate::support::http::{Http, Request, Response};
use crate::support::wait;

fn position(response: &Response) -> String {
    let position = response.header("Phalanx-Position");
    position.expect("a command has a position").to_owned()
}

fn command(http: &mut Http, kind: &str, id: &str, name: &str, body: &Value) -> String {
    let request = Request::command(kind, id, name, body.to_string());
    position(&client::expect_success(http, &request))
}

/// Reads what must answer with 200.
fn read(http: &mut Http, target: &str) -> Value {
    let response = http.get(target);
    assert_eq!(response.status, 200, "{target}: {}", response.text());
    response.json()
}

/// The row of a key, without the lag, which must be none after a wait.
fn row_after(http: &mut Http, view: &str, key: &str, position: &str) -> Value {
    let target = format!("/v1/views/{view}/{key}?after={position}&wait=9s");
    let mut row = read(http, &target);
    let lag = row.as_object_mut().and_then(|row| row.remove("lag"));
    let lag = lag.expect("every answer has its lag");
    assert!(lag["events"].is_u64() && lag["seconds"].is_f64(), "{lag}");
    row
}

#[test]
fn each_sample_has_its_view_with_the_columns_of_the_contract() {
    let fixture = Fixture::new();
    let http = &mut fixture.node.client();
    client::expect_success(http, &client::open("v-1"));
    let at = position(&client::expect_success(http, &client::deposit("v-1", 150)));
    assert_eq!(
        row_after(http, "accounts", "v-1", &at),
        json!({
            "id": "v-1", "owner": "owner of v-1", "currency": "EUR", "balance_cents": 150,
            "status": "open", "sequence_number": 2,
        })
    );
    assert_eq!(
        row_after(http, "account_totals", "EUR", &at),
        json!({"currency": "EUR", "accounts": 1, "balance_cents": 150})
    );

    command(
        http,
        "order",
        "o-1",
        "CreateOrder",
        &json!({"customer": "ada"}),
    );
    let item = json!({"product": "tea", "quantity": 2, "unit_price_cents": 300});
    let at = command(http, "order", "o-1", "AddItem", &item);
    let order = row_after(http, "orders", "o-1", &at);
    assert_eq!(order["customer"], "ada");
    assert_eq!(order["status"], "created");
    assert_eq!(order["total_cents"], 600);
    assert_eq!(order["state"], Value::Null, "that is the view's own");

    let draft = json!({
        "patient": "pat", "prescriber": "doc", "medication": "pill", "dosage": "daily",
        "quantity": 1, "refills_allowed": 2,
    });
    let at = command(http, "prescription", "p-1", "DraftPrescription", &draft);
    let prescription = row_after(http, "prescriptions", "p-1", &at);
    assert_eq!(prescription["status"], "draft");
    assert_eq!(prescription["patient"], "pat");
    assert_eq!(prescription["pharmacy"], Value::Null);

    let day = "north@2026-11-21";
    let job = json!({
        "job_id": "j1", "vehicle": "ZH 1", "description": "oil",
        "start": "2026-11-21T08:00:00Z", "end": "2026-11-21T09:00:00Z",
    });
    let at = command(http, "workshop_day", day, "PlanMaintenanceJob", &job);
    let planned = row_after(http, "maintenance_jobs", &format!("{day}%2Fj1"), &at);
    assert_eq!(planned["id"], format!("{day}/j1"));
    assert_eq!(planned["start"], "2026-11-21T08:00:00Z");
    assert_eq!(planned["status"], "planned");
}

#[test]
fn a_list_is_filtered_sorted_and_paged() {
    let fixture = Fixture::new();
    let http = &mut fixture.node.client();
    let mut ends = std::collections::BTreeMap::new();
    for n in 0..30 {
        let id = format!("v-{n:02}");
        client::expect_success(http, &client::open(&id));
        let at = position(&client::expect_success(
            http,
            &client::deposit(&id, n % 10 + 1),
        ));
        let (shard, _) = at.split_once(':').expect("shard:number");
        ends.insert(shard.to_owned(), at.clone());
    }
    let after: Vec<String> = ends.into_values().collect();
    let after = format!("after={}&wait=9s", after.join(","));
    let page = read(
        http,
        &format!(
            "/v1/views/accounts?balance_cents[gte]=4&balance_cents%5Blt%5D=9&status=open\
             &id[ne]=v-03&sort=-balance_cents,id&limit=4&{after}"
        ),
    );
    let pairs = |page: &Value| -> Vec<(i64, String)> {
        let rows = page["rows"].as_array().expect("rows");
        let pair = |row: &Value| {
            let id = row["id"].as_str().unwrap_or_default().to_owned();
            (row["balance_cents"].as_i64().unwrap_or_default(), id)
        };
        rows.iter().map(pair).collect()
    };
    let expected = |list: &[(i64, &str)]| -> Vec<(i64, String)> {
        list.iter()
            .map(|(cents, id)| (*cents, (*id).to_owned()))
            .collect()
    };
    assert_eq!(
        pairs(&page),
        expected(&[(8, "v-07"), (8, "v-17"), (8, "v-27"), (7, "v-06")])
    );
    assert_eq!(page["lag"], json!({"events": 0, "seconds": 0.0}));
    let cursor = page["next_cursor"].as_str().expect("there is more");
    let next = read(
        http,
        &format!(
            "/v1/views/accounts?balance_cents[gte]=4&balance_cents[lt]=9&status=open\
             &id[ne]=v-03&sort=-balance_cents,id&limit=100&cursor={cursor}"
        ),
    );
    assert_eq!(next["rows"].as_array().map(Vec::len), Some(15 - 4 - 1));
    assert_eq!(next["next_cursor"], Value::Null);
    let all = read(http, "/v1/views/accounts");
    assert_eq!(all["rows"].as_array().map(Vec::len), Some(30));
    // A cursor is good for the query that it is from, of the view that it is from.
    let page = read(http, "/v1/views/accounts?limit=4");
    let cursor = page["next_cursor"].as_str().expect("there is more");
    read(http, &format!("/v1/views/accounts?cursor={cursor}"));
    for other in ["orders?", "prescriptions?", "accounts?sort=-id&"] {
        let refused = http.get(&format!("/v1/views/{other}cursor={cursor}"));
        let said = (refused.status, refused.code());
        assert_eq!(said, (400, "invalid-query".to_owned()), "{other}");
    }
}

/// Takes a row out of the file of read models, as somebody who is not the node.
fn take_out(file: &std::path::Path, id: &str) {
    use sqlx::{Connection as _, Row as _, SqliteConnection};
    let runtime = tokio::runtime::Builder::new_current_thread().build();
    runtime.expect("a runtime").block_on(async {
        let address = format!("sqlite://{}", file.display());
        let mut file = SqliteConnection::connect(&address)
            .await
            .expect("the file opens");
        let build = sqlx::query(
            "SELECT id FROM phalanx_builds WHERE projection = 'accounts' AND state = 'live'",
        );
        let build = build.fetch_one(&mut file).await.expect("a build");
        let build: i64 = build.get(0);
        let text = format!("DELETE FROM b{build}_accounts WHERE id = ?");
        let taken = sqlx::query(sqlx::AssertSqlSafe(text)).bind(id);
        let taken = taken.execute(&mut file).await.expect("it can be written");
        assert_eq!(taken.rows_affected(), 1);
        file.close().await.expect("it is closed");
    });
}

#[test]
fn a_row_that_is_gone_from_the_file_is_noticed_without_a_restart_and_comes_back() {
    let fixture = Fixture::with(|setup| setup.set("PROJECTIONS__CHECK_INTERVAL_S", 1));
    let http = &mut fixture.node.client();
    for id in ["g-1", "g-2", "g-3"] {
        let at = position(&client::expect_success(http, &client::open(id)));
        row_after(http, "accounts", id, &at);
    }
    take_out(&fixture.setup.data_dir.join("views.sqlite"), "g-2");
    let damage = || fixture.node.metric("phalanx_projection_damage_total");
    wait::until("the damage is noticed", Duration::from_secs(60), || {
        (damage() >= Some(1.0)).then_some(())
    });
    wait::until("the rows are whole again", Duration::from_secs(60), || {
        let page = http.get("/v1/views/accounts");
        let whole = page.status == 200 && page.json()["lag"]["events"] == 0;
        let rows = whole.then(|| page.json()["rows"].as_array().map(Vec::len));
        (rows == Some(Some(3))).then_some(())
    });
    wait::until("the log says so", Duration::from_secs(60), || {
        let log = fixture.node.log();
        log.contains("the read models are damaged").then_some(())
    });
}

#[test]
fn what_is_wrong_with_a_query_is_said() {
    let fixture = Fixture::new();
    let http = &mut fixture.node.client();
    client::expect_success(http, &client::open("v-1"));
    let get = Request::get;
    let list = |query: &str| get(&format!("/v1/views/accounts?{query}"));
    let row = |query: &str| get(&format!("/v1/views/accounts/v-1?{query}"));
    let mut cases = vec![
        case(
            "no such view",
            get("/v1/views/nothing"),
            404,
            "unknown-view",
        ),
        case(
            "no such view, a row",
            get("/v1/views/nothing/x"),
            404,
            "unknown-view",
        ),
        case(
            "names are exact",
            get("/v1/views/Accounts"),
            404,
            "unknown-view",
        ),
        case(
            "no such row",
            get("/v1/views/accounts/v-2"),
            404,
            "row-not-found",
        ),
        case(
            "a key that is no text",
            get("/v1/views/accounts/%ff"),
            404,
            "row-not-found",
        ),
        case(
            "a view is read only",
            Request::post("/v1/views/accounts", "{}"),
            405,
            "*",
        ),
        case(
            "a filter on a row",
            row("status=open"),
            400,
            "invalid-query",
        ),
    ];
    for bad in [
        "colour=red",
        "owner%22%20OR%201=1",
        "balance_cents=five",
        "balance_cents[gte]=1.5",
        "balance_cents[like]=1",
        "balance_cents[gte]=1&balance_cents[gte]=2",
        "sort=colour",
        "sort=",
        "limit=0",
        "limit=1001",
        "limit=ten",
        "cursor=abc",
        "owner=%ff",
    ] {
        cases.push(case(
            format!("a list with {bad}"),
            list(bad),
            400,
            "invalid-query",
        ));
    }
    for bad in [
        "after=1",
        "after=x:1",
        "after=99:1",
        "after=1:1&after=1:1",
        "after=1:1&wait=2",
        "after=1:1&wait=soon",
        "after=1:1&wait=1s&wait=2s",
    ] {
        cases.push(case(
            format!("a list with {bad}"),
            list(bad),
            400,
            "invalid-query",
        ));
        cases.push(case(
            format!("a row with {bad}"),
            row(bad),
            400,
            "invalid-query",
        ));
    }
    run(&fixture.node, &cases);
    let named = http.send(&list("balance_cents=five")).json();
    assert_eq!(named["parameter"], "balance_cents");
    let evil = "x' OR '1'='1";
    let found = read(http, "/v1/views/accounts?owner=x'%20OR%20'1'='1");
    assert_eq!(found["rows"], json!([]), "{evil} is a name like any other");
}

#[test]
fn a_view_that_is_behind_says_so_and_one_that_catches_up_answers_at_once() {
    let fixture = Fixture::new();
    let http = &mut fixture.node.client();
    let opened = position(&client::expect_success(http, &client::open("v-1")));
    read(
        http,
        &format!("/v1/views/accounts/v-1?after={opened}&wait=9s"),
    );
    let paused = http.send(&Request::post("/v1/projections/accounts/pause", ""));
    assert_eq!(paused.status, 200, "{}", paused.text());
    assert_eq!(paused.json()["state"], "paused");
    let at = position(&client::expect_success(http, &client::deposit("v-1", 5)));
    let target = format!("/v1/views/accounts/v-1?after={at}");
    let began = Instant::now();
    let behind = http.get(&format!("{target}&wait=300ms"));
    assert!(began.elapsed() >= Duration::from_millis(300), "it waits");
    assert_eq!(
        (behind.status, behind.code().as_str()),
        (504, "view-behind")
    );
    let problem = behind.json();
    assert_eq!(problem["retryable"], true);
    assert_eq!(problem["outcome"], "not_applied");
    assert_eq!(problem["position"], at);
    assert!(problem["lag"]["events"].as_u64() >= Some(1), "{problem}");
    let at_once = http.get(&format!("{target}&wait=0s"));
    assert_eq!(at_once.status, 504);
    let list = http.get(&format!("/v1/views/accounts?after={at}&wait=10ms"));
    assert_eq!((list.status, list.code().as_str()), (504, "view-behind"));
    // Without a position, the old row comes with its lag.
    let stale = read(http, "/v1/views/accounts/v-1");
    assert!(stale["lag"]["events"].as_u64() >= Some(1), "{stale}");

    // `Prefer` is the same, in seconds; it is answered as soon as the view is there.
    let waiting = std::thread::spawn({
        let (address, target) = (fixture.node.address, target);
        move || {
            let request = Request::get(&target).header("Prefer", "wait=8");
            let began = Instant::now();
            (Http::new(address).send(&request), began.elapsed())
        }
    });
    let status = |http: &mut Http| read(http, "/v1/projections/accounts");
    assert_eq!(status(http)["state"], "paused");
    let resumed = http.send(&Request::post("/v1/projections/accounts/resume", ""));
    assert_eq!(resumed.status, 200, "{}", resumed.text());
    let (answer, took) = waiting.join().expect("no panic");
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert_eq!(answer.header("Preference-Applied"), Some("wait=8"));
    assert_eq!(answer.json()["balance_cents"], 5);
    // It did not wait for its time to run out.
    assert!(took < Duration::from_secs(8), "{took:?}");
}

#[test]
fn projections_are_listed_and_rebuilt_while_they_answer() {
    let fixture = Fixture::new();
    let http = &mut fixture.node.client();
    client::expect_success(http, &client::open("v-1"));
    let at = position(&client::expect_success(http, &client::deposit("v-1", 5)));
    let before = row_after(http, "accounts", "v-1", &at);
    let listed = read(http, "/v1/projections");
    let names: Vec<&str> = listed["projections"]
        .as_array()
        .expect("a list")
        .iter()
        .filter_map(|projection| projection["name"].as_str())
        .collect();
    let expected = [
        "account_totals",
        "accounts",
        "maintenance_jobs",
        "orders",
        "prescriptions",
    ];
    assert_eq!(names, expected);
    let begun = http.send(&Request::post("/v1/projections/accounts/rebuild", ""));
    assert_eq!(begun.status, 200, "{}", begun.text());
    wait::until("the rebuild ends", Duration::from_secs(60), || {
        assert_eq!(row_after(http, "accounts", "v-1", &at), before);
        let status = read(http, "/v1/projections/accounts");
        status["rebuild"].is_null().then_some(())
    });
    assert_eq!(row_after(http, "accounts", "v-1", &at), before);
    let letters = read(http, "/v1/projections/accounts/dead-letters");
    assert_eq!(letters, json!({"node": 1, "dead_letters": []}));
    let metric = "phalanx_projection_lag_events";
    wait::until("the gauges", Duration::from_secs(60), || {
        fixture.node.metric(metric).filter(|lag| *lag == 0.0)
    });

    let post = |target: &str| Request::post(target, "");
    run(
        &fixture.node,
        &[
            case(
                "unknown",
                post("/v1/projections/nothing/pause"),
                404,
                "unknown-view",
            ),
            case(
                "unknown",
                post("/v1/projections/nothing/dead-letters/1/skip"),
                404,
                "unknown-view",
            ),
            case(
                "unknown",
                Request::get("/v1/projections/nothing/dead-letters"),
                404,
                "unknown-view",
            ),
            case(
                "unknown",
                Request::get("/v1/projections/nothing"),
                404,
                "unknown-view",
            ),
            case(
                "no such route",
                post("/v1/projections/accounts/stop"),
                404,
                "not-found",
            ),
            case(
                "no such letter",
                post("/v1/projections/accounts/dead-letters/7/retry"),
                404,
                "not-found",
            ),
            case(
                "no letter's number",
                post("/v1/projections/accounts/dead-letters/x/skip"),
                404,
                "not-found",
            ),
            case(
                "only POST",
                Request::get("/v1/projections/accounts/pause"),
                405,
                "*",
            ),
        ],
    );
}

#[test]
fn an_event_that_cannot_be_taken_in_is_set_aside_and_the_rest_goes_on() {
    let fixture = Fixture::new();
    let http = &mut fixture.node.client();
    // Two accounts whose sum exceeds 64 bits: the totals cannot hold it.
    for id in ["v-1", "v-2", "v-3"] {
        client::expect_success(http, &client::open(id));
    }
    client::expect_success(http, &client::deposit("v-1", i64::MAX));
    let set_aside = position(&client::expect_success(http, &client::deposit("v-2", 7)));
    // Whichever of the two comes second is set aside; the third account goes on.
    let other = json!({"owner": "eve", "currency": "CHF"});
    command(http, "account", "v-4", "OpenAccount", &other);
    let at = position(&client::expect_success(http, &client::deposit("v-4", 3)));
    assert_eq!(
        row_after(http, "account_totals", "CHF", &at),
        json!({"currency": "CHF", "accounts": 1, "balance_cents": 3})
    );
    row_after(http, "account_totals", "EUR", &set_aside);
    let target = "/v1/projections/account_totals/dead-letters";
    let letter = wait::until("a dead letter", Duration::from_secs(60), || {
        let letters = read(http, target);
        letters["dead_letters"].get(0).cloned()
    });
    assert_eq!(letter["event_type"], "MoneyDeposited");
    assert_eq!(letter["sequence_number"], 2);
    let reason = letter["reason"].as_str().unwrap_or_default();
    assert!(reason.contains("64 bits"), "{letter}");
    let id = letter["id"].as_i64().expect("a number");
    let again = http.send(&Request::post(&format!("{target}/{id}/retry"), ""));
    assert_eq!(again.status, 200, "{}", again.text());
    assert_eq!(again.json()["resolved"], false);
    // Make room, then it fits.
    let withdraw = json!({"amount_cents": 1_000});
    let rich = if letter["aggregate_id"] == "v-1" {
        "v-2"
    } else {
        "v-1"
    };
    if rich == "v-1" {
        let at = command(http, "account", rich, "Withdraw", &withdraw);
        row_after(http, "account_totals", "EUR", &at);
        let mended = http.send(&Request::post(&format!("{target}/{id}/retry"), ""));
        assert_eq!(mended.json()["resolved"], true, "{}", mended.text());
    } else {
        let skipped = http.send(&Request::post(&format!("{target}/{id}/skip"), ""));
        assert_eq!(skipped.json()["resolved"], true, "{}", skipped.text());
    }
    assert_eq!(read(http, target), json!({"node": 1, "dead_letters": []}));
}

#[test]
fn a_node_without_projections_has_no_views() {
    let fixture = Fixture::with(|setup| setup.set("PROJECTIONS__ENABLED", false));
    let http = &mut fixture.node.client();
    client::expect_success(http, &client::open("v-1"));
    let view = http.get("/v1/views/accounts");
    assert_eq!((view.status, view.code().as_str()), (404, "unknown-view"));
    assert_eq!(read(http, "/v1/projections")["projections"], json!([]));
    assert!(!fixture.setup.data_dir.join("views.sqlite").exists());
}
