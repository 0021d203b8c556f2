//! Chapter "Description, health, operation": what a node says about itself.

use serde_json::{Value, json};

use crate::cases::{Fixture, case, run};
use crate::support::client;
use crate::support::http::Request;

#[test]
fn a_running_node_is_live_started_and_ready_and_can_say_why() {
    let fixture = Fixture::new();
    run(
        &fixture.node,
        &[
            case("live", Request::get("/livez"), 200, ""),
            case("started", Request::get("/startupz"), 200, ""),
            case("ready", Request::get("/readyz"), 200, ""),
            case("live, verbose", Request::get("/livez?verbose"), 200, ""),
            case("ready, verbose", Request::get("/readyz?verbose"), 200, ""),
        ],
    );
    let verbose = fixture.send(&Request::get("/readyz?verbose")).text();
    assert!(verbose.contains("shard"), "{verbose}");
}

#[test]
fn types_lists_the_samples_with_schemas_reasons_and_views() {
    let fixture = Fixture::new();
    let types = fixture.send(&Request::get("/v1/types")).text();
    for name in [
        "account",
        "order",
        "prescription",
        "workshop_day",
        "OpenAccount",
        "AccountOpened",
        "Deposit",
        "CreateOrder",
        "PlanMaintenanceJob",
        "fraud-check",
        "account_totals",
        "amount_cents",
    ] {
        assert!(
            types.contains(&format!("\"{name}\"")),
            "{name} is missing: {types}"
        );
    }
}

#[test]
fn the_openapi_description_is_3_1_and_its_references_resolve() {
    let fixture = Fixture::new();
    let response = fixture.send(&Request::get("/openapi.json"));
    assert_eq!(response.status, 200);
    let document = response.json();
    let version = document["openapi"].as_str().unwrap_or_default();
    assert!(version.starts_with("3.1"), "{version}");
    let paths = document["paths"].as_object().expect("paths");
    for path in [
        "/v1/aggregates/account/{id}/commands/Deposit",
        "/v1/aggregates/{type}/{id}/commands/{Command}",
        "/v1/aggregates/{type}/{id}/commands/{command}",
    ] {
        if paths.contains_key(path) {
            let mut broken = Vec::new();
            check_references(&document, &document, &mut broken);
            assert!(broken.is_empty(), "{broken:?}");
            return;
        }
    }
    panic!("no command is described: {:?}", paths.keys());
}

fn check_references(document: &Value, part: &Value, broken: &mut Vec<String>) {
    match part {
        Value::Object(fields) => {
            if let Some(Value::String(reference)) = fields.get("$ref") {
                let target = reference.strip_prefix('#');
                if target.is_none_or(|pointer| document.pointer(pointer).is_none()) {
                    broken.push(reference.clone());
                }
            }
            fields
                .values()
                .for_each(|field| check_references(document, field, broken));
        }
        Value::Array(items) => items
            .iter()
            .for_each(|item| check_references(document, item, broken)),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

#[test]
fn the_documentation_is_a_page_that_loads_nothing_from_elsewhere() {
    let fixture = Fixture::new();
    let page = fixture.send(&Request::get("/docs"));
    assert_eq!(page.status, 200);
    let kind = page.header("Content-Type").unwrap_or_default();
    assert!(kind.starts_with("text/html"), "{kind}");
    let text = page.text();
    for foreign in [
        "src=\"http",
        "src='http",
        "href=\"http",
        "url(http",
        "@import",
        "src=\"//",
    ] {
        assert!(!text.contains(foreign), "{foreign} in /docs");
    }
}

#[test]
fn metrics_have_the_prefix_and_never_an_id() {
    let fixture = Fixture::new();
    client::expect_success(&mut fixture.node.client(), &client::open("very-secret-id"));
    let metrics = fixture.send(&Request::get("/metrics"));
    assert_eq!(metrics.status, 200);
    let text = metrics.text();
    let names = text
        .lines()
        .filter(|line| !line.starts_with('#') && !line.is_empty());
    for line in names {
        assert!(line.starts_with("phalanx_"), "{line}");
    }
    assert!(text.contains("phalanx_actors_resident"), "{text}");
    assert!(!text.contains("very-secret-id"), "{text}");
}

#[test]
fn every_metric_is_explained_where_operators_look() {
    let fixture = Fixture::new();
    client::expect_success(&mut fixture.node.client(), &client::open("metered"));
    fixture.send(&client::fresh("metered"));
    let explained = include_str!("../../docs/OPERATIONS.md");
    let text = fixture.send(&Request::get("/metrics")).text();
    let mut seen = 0;
    for line in text.lines().filter(|line| line.starts_with("# TYPE ")) {
        let name = line.split(' ').nth(2).expect("a name");
        assert!(explained.contains(&format!("| `{name}` |")), "{name}");
        seen += 1;
    }
    assert!(seen > 15, "{text}");
    for name in [
        "read_gate_answers",
        "elections_won_total",
        "requests_in_flight",
    ] {
        assert!(
            text.contains(&format!("phalanx_{name}")),
            "{name} in {text}"
        );
    }
}

#[test]
fn a_secret_in_a_header_or_body_reaches_no_log() {
    let fixture = Fixture::with(|setup| setup.set("LOG__LEVEL", "trace"));
    let secret = "hunter2-very-secret";
    let open = json!({"owner": secret, "currency": "EUR"}).to_string();
    let requests = [
        Request::command("account", "s-1", "OpenAccount", open),
        Request::command(
            "account",
            "s-1",
            "Deposit",
            format!(r#"{{"amount_cents":"{secret}"}}"#),
        ),
        client::fresh("s-1").header("Authorization", &format!("Bearer {secret}")),
        client::fresh("s-1").header("Cookie", &format!("session={secret}")),
    ];
    for request in &requests {
        fixture.send(request);
    }
    let log = fixture.node.log();
    assert!(!log.is_empty());
    let leak = log.lines().find(|line| line.contains(secret));
    assert_eq!(leak, None);
}
