//! Chapter "Description": what a running node answers is what its OpenAPI document says.
//!
//! A schema is held against an answer in both directions: what it demands is there and of its type,
//! and what is there is named by it. Only the words of JSON Schema that the document uses for these
//! routes are known; another one fails the test.

use serde_json::{Value, json};

use crate::cases::Fixture;
use crate::support::client;
use crate::support::http::Request;
use crate::support::wait;

/// Words that say nothing about an instance.
const SILENT: [&str; 4] = ["description", "format", "default", "minimum"];

/// What is wrong with a value, by place.
fn wrong(document: &Value, schema: &Value, value: &Value, at: &str, found: &mut Vec<String>) {
    if let Some(reference) = schema["$ref"].as_str() {
        let target = document.pointer(&reference[1..]).expect("it resolves");
        return wrong(document, target, value, at, found);
    }
    for (word, said) in schema.as_object().expect("a schema") {
        match word.as_str() {
            "type" => {
                let types = said
                    .as_array()
                    .cloned()
                    .unwrap_or_else(|| vec![said.clone()]);
                if !types.iter().any(|name| is_of(value, name)) {
                    found.push(format!("{at}: {value} is no {said}"));
                }
            }
            "enum" if !said.as_array().is_some_and(|all| all.contains(value)) => {
                found.push(format!("{at}: {value} is none of {said}"));
            }
            "const" if said != value => found.push(format!("{at}: {value} is not {said}")),
            "required" => {
                for name in said
                    .as_array()
                    .into_iter()
                    .flatten()
                    .filter_map(Value::as_str)
                {
                    if value.get(name).is_none() {
                        found.push(format!("{at}: lacks {name}"));
                    }
                }
            }
            "properties" => {
                for (name, part) in value.as_object().into_iter().flatten() {
                    let at = format!("{at}/{name}");
                    match said.get(name) {
                        Some(schema) => wrong(document, schema, part, &at, found),
                        None => found.push(format!("{at}: is not described")),
                    }
                }
            }
            "items" => {
                for (number, part) in value.as_array().into_iter().flatten().enumerate() {
                    wrong(document, said, part, &format!("{at}/{number}"), found);
                }
            }
            "enum" | "const" => {}
            silent => assert!(SILENT.contains(&silent), "{at}: what is {silent}?"),
        }
    }
}

fn is_of(value: &Value, name: &Value) -> bool {
    match name.as_str().expect("a type") {
        "object" => value.is_object(),
        "array" => value.is_array(),
        "string" => value.is_string(),
        "integer" => value.is_i64() || value.is_u64(),
        "number" => value.is_number(),
        "boolean" => value.is_boolean(),
        "null" => value.is_null(),
        other => panic!("no type: {other}"),
    }
}

#[test]
fn answers_about_the_cluster_and_its_projections_are_as_described() {
    let fixture = Fixture::new();
    let http = &mut fixture.node.client();
    let document = http.get("/openapi.json").json();
    // The totals cannot hold both, so one of them is set aside.
    for (id, amount) in [("s-1", i64::MAX), ("s-2", 7)] {
        client::expect_success(http, &client::open(id));
        client::expect_success(http, &client::deposit(id, amount));
    }
    let letters = "/v1/projections/account_totals/dead-letters";
    let letter = wait::until("a dead letter", std::time::Duration::from_secs(60), || {
        http.get(letters).json()["dead_letters"][0]["id"].as_i64()
    });
    let one = "/v1/projections/{projection}";
    let post = |target: &str| Request::post(target, "");
    let asked = [
        ("/v1/cluster", "get", Request::get("/v1/cluster")),
        ("/v1/projections", "get", Request::get("/v1/projections")),
        (one, "get", Request::get("/v1/projections/accounts?node=1")),
        (&format!("{one}/dead-letters"), "get", Request::get(letters)),
        (
            &format!("{one}/pause"),
            "post",
            post("/v1/projections/orders/pause"),
        ),
        (
            &format!("{one}/resume"),
            "post",
            post("/v1/projections/orders/resume"),
        ),
        (
            &format!("{one}/rebuild"),
            "post",
            post("/v1/projections/orders/rebuild"),
        ),
        (
            &format!("{one}/dead-letters/{{letter}}/retry"),
            "post",
            post(&format!("{letters}/{letter}/retry")),
        ),
    ];
    for (path, method, request) in asked {
        let answer = http.send(&request);
        assert_eq!(answer.status, 200, "{request:?}: {}", answer.text());
        let described = &document["paths"][path][method]["responses"]["200"];
        let schema = &described["content"]["application/json"]["schema"];
        assert!(schema.is_object(), "{path} has no schema: {described}");
        let mut found = Vec::new();
        wrong(&document, schema, &answer.json(), path, &mut found);
        assert_eq!(found, [""; 0], "{}", answer.text());
    }
    let cluster = http.get("/v1/cluster").json();
    assert_eq!(
        cluster["members"][0]["roles"],
        json!(["command", "query", "gateway"])
    );
}
