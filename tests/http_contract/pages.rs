//! Routes that describe, and those that do not exist.

use crate::client::Client;
use crate::node::connect;

#[test]
fn unknown_paths_and_methods_are_problems() {
    let mut client = connect();
    for path in [
        "/nothing",
        "/v1",
        "/v1/views",
        "/v1/events/",
        "/v1/clusters",
        "/v1/types/",
    ] {
        client.get(path).problem(404, "not-found");
    }
    let read = client.get("/v1/aggregates/account/a/commands/Deposit");
    read.problem(405, "method-not-allowed");
    assert_eq!(read.header("allow"), Some("POST, OPTIONS"));
    for path in [
        "/livez",
        "/v1/types",
        "/v1/aggregates/account/a",
        "/problems/internal",
    ] {
        for method in ["POST", "DELETE", "PUT", "PATCH", "TRACE", "BREW"] {
            let reply = client.request(method, path, "", "");
            reply.problem(405, "method-not-allowed");
            assert_eq!(reply.header("allow"), Some("GET, HEAD, OPTIONS"));
        }
    }
    let options = client.request("OPTIONS", "/v1/types", "", "");
    assert_eq!(
        (options.status, options.header("allow")),
        (204, Some("GET, HEAD, OPTIONS"))
    );
}

#[test]
fn head_is_get_without_the_body() {
    let mut client = connect();
    for path in ["/livez", "/v1/types", "/docs", "/nothing"] {
        let get = client.get(path);
        let head = client.request("HEAD", path, "", "");
        assert_eq!(get.status, head.status);
        assert_eq!(get.header("content-type"), head.header("content-type"));
        let length = get.body.len().to_string();
        let announced = head.header("content-length").unwrap();
        // Problems carry a trace id of their own, of the same length.
        assert_eq!(announced, length, "{path}");
    }
}

#[test]
fn health_says_why_when_asked() {
    let mut client = connect();
    for path in ["/livez", "/readyz", "/startupz"] {
        let brief = client.get(path);
        assert_eq!(brief.status, 200, "{path}");
        assert!(brief.json().get("checks").is_none());
        assert!(client.get(&format!("{path}?verbose")).json()["checks"].is_array());
        client
            .get(&format!("{path}?loud"))
            .problem(400, "invalid-query");
    }
}

#[test]
fn types_are_described_with_schemas() {
    let mut client = connect();
    let types = client.get("/v1/types").json();
    let names: Vec<&str> = types["types"]
        .as_array()
        .unwrap()
        .iter()
        .map(|t| t["name"].as_str().unwrap())
        .collect();
    assert_eq!(
        names,
        ["account", "order", "prescription", "probe", "workshop_day"]
    );
    let account = client.get("/v1/types/account").json();
    assert_eq!(account, types["types"][0]);
    for part in ["commands", "events", "rejections"] {
        for variant in account[part].as_array().unwrap() {
            assert!(variant["name"].is_string() && variant["schema"].is_object());
        }
    }
    assert!(account["state"]["properties"]["balance_cents"].is_object());
    client
        .get("/v1/types/nothing")
        .problem(404, "unknown-aggregate-type");
    client
        .get("/v1/types/account/events/Nothing/1")
        .problem(404, "not-found");
    client
        .get("/v1/types/account/events/AccountOpened/99")
        .problem(404, "not-found");
    client.get("/v1/types?x=1").problem(400, "invalid-query");
}

#[test]
fn every_problem_has_a_page_for_people_and_for_programs() {
    let mut client = connect();
    let json = "accept: application/json\r\n";
    let all = client.get_with("/problems", json).json();
    let all = all["problems"].as_array().unwrap();
    assert!(all.len() > 25);
    for problem in all {
        let page = client.get(problem["type"].as_str().unwrap());
        assert_eq!(
            page.header("content-type"),
            Some("text/html; charset=utf-8")
        );
        assert!(page.text().contains("Remedy"));
        let same = client.get_with(problem["type"].as_str().unwrap(), json);
        assert_eq!(same.json(), *problem);
    }
    client.get("/problems/nothing").problem(404, "not-found");
}

fn html(client: &mut Client, path: &str) -> String {
    let reply = client.get(path);
    assert_eq!(
        reply.header("content-type"),
        Some("text/html; charset=utf-8")
    );
    assert!(
        reply
            .header("content-security-policy")
            .unwrap()
            .contains("default-src 'none'")
    );
    reply.text()
}

#[test]
fn documents_are_served() {
    let mut client = connect();
    assert!(html(&mut client, "/").contains("href=\"/docs\""));
    let docs = html(&mut client, "/docs");
    assert!(docs.contains("openapi.json") && docs.contains("font:"));
    let openapi = client.get("/openapi.json").json();
    assert_eq!(openapi["openapi"], "3.1.0");
    assert!(openapi["paths"]["/v1/aggregates/probe/{id}/commands/Count"].is_object());
}

#[test]
fn metrics_name_routes_and_statuses() {
    let mut client = connect();
    client.get("/livez");
    let reply = client.get("/metrics");
    assert!(
        reply
            .header("content-type")
            .unwrap()
            .starts_with("text/plain; version=0.0.4")
    );
    let metrics = reply.text();
    for series in [
        "phalanx_http_requests_total{route=\"/livez\",status=\"200\"}",
        "phalanx_http_request_duration_seconds_bucket{route=\"/livez\"",
        "phalanx_http_connections ",
    ] {
        assert!(
            metrics.lines().any(|line| line.starts_with(series)),
            "{series}"
        );
    }
}
