//! The document against the route table and the rules of OpenAPI 3.1.

use super::*;
use crate::domain::{Account, Order, Prescription, WorkshopDay};

fn sample() -> Value {
    let mut registry = TypeRegistry::default();
    registry.register::<Account>().unwrap();
    registry.register::<Order>().unwrap();
    registry.register::<Prescription>().unwrap();
    registry.register::<WorkshopDay>().unwrap();
    document(&registry, &[], &Callers::default())
}

#[test]
fn the_header_that_names_callers_appears_where_it_is_read() {
    let settings = crate::settings::HttpSettings {
        principal_header: "X-Forwarded-User".to_owned(),
        require_principal: true,
        ..Default::default()
    };
    let document = document(&TypeRegistry::default(), &[], &Callers::from(&settings));
    for route in Route::ALL.into_iter().filter(|route| *route != Route::None) {
        let operations = document["paths"][route.template()].as_object().unwrap();
        for operation in operations.values() {
            let parameters = operation["parameters"].as_array();
            let named = parameters.into_iter().flatten();
            let named = named.filter(|p| p["name"] == "x-forwarded-user").count();
            let read = crate::http::callers::needs_principal(route);
            assert_eq!(named, usize::from(read), "{route:?}");
            assert_eq!(operation["responses"]["401"].is_object(), read, "{route:?}");
        }
    }
}

/// Calls `check` for every object in a value.
fn walk(value: &Value, check: &mut impl FnMut(&Map<String, Value>)) {
    match value {
        Value::Object(object) => {
            check(object);
            object.values().for_each(|v| walk(v, check));
        }
        Value::Array(items) => items.iter().for_each(|v| walk(v, check)),
        _ => {}
    }
}

#[test]
fn every_route_appears_with_the_methods_it_answers() {
    let document = sample();
    for route in Route::ALL.into_iter().filter(|route| *route != Route::None) {
        let item = &document["paths"][route.template()];
        let methods = route.allow().split(", ");
        let told = methods.filter(|method| !matches!(*method, "HEAD" | "OPTIONS"));
        for method in told.map(str::to_ascii_lowercase) {
            let answers = &item[&method]["responses"];
            assert!(answers["200"].is_object(), "{method} {route:?}");
        }
    }
}

#[tokio::test]
async fn every_path_leads_to_a_route() {
    let document = sample();
    let paths = document["paths"].as_object().unwrap();
    assert!(paths.contains_key("/v1/aggregates/account/{id}/commands/Deposit"));
    for path in paths.keys() {
        let found = crate::http::routes::found(path).await;
        assert_ne!(found, Route::None.template(), "{path}");
    }
}

#[test]
fn every_reference_resolves() {
    let document = sample();
    let mut seen = 0;
    walk(&document, &mut |object| {
        if let Some(Value::String(reference)) = object.get("$ref") {
            let pointer = reference.strip_prefix('#').unwrap_or(reference);
            assert!(document.pointer(pointer).is_some(), "{reference}");
            seen += 1;
        }
        assert!(!object.contains_key("$defs") && !object.contains_key("$schema"));
    });
    assert!(seen > 100, "{seen}");
}

#[test]
fn operations_have_unique_ids_and_declare_their_path_parameters() {
    let document = sample();
    let mut ids = std::collections::BTreeSet::new();
    for (path, item) in document["paths"].as_object().unwrap() {
        for operation in item.as_object().unwrap().values() {
            let id = operation["operationId"].as_str().unwrap();
            assert!(ids.insert(id.to_owned()), "{id}");
            let parameters = operation["parameters"].as_array();
            let declared: Vec<&str> = parameters
                .into_iter()
                .flatten()
                .map(|p| match p["$ref"].as_str() {
                    Some(reference) => document.pointer(&reference[1..]).unwrap(),
                    None => p,
                })
                .filter(|p| p["in"] == "path")
                .map(|p| p["name"].as_str().unwrap())
                .collect();
            let wanted: Vec<&str> = path
                .split('/')
                .filter_map(|s| s.strip_prefix('{')?.strip_suffix('}'))
                .collect();
            assert_eq!(declared, wanted, "{path}");
            for tag in operation["tags"].as_array().unwrap() {
                let known = document["tags"].as_array().unwrap();
                assert!(known.iter().any(|t| t["name"] == *tag), "{tag}");
            }
            for (status, response) in operation["responses"].as_object().unwrap() {
                assert!(status.parse::<u16>().is_ok());
                assert!(response["$ref"].is_string() || response["description"].is_string());
            }
        }
    }
}

#[test]
fn component_names_have_the_allowed_characters() {
    let document = sample();
    for name in document["components"]["schemas"]
        .as_object()
        .unwrap()
        .keys()
    {
        let allowed = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
        assert!(name.chars().all(allowed), "{name}");
    }
}
