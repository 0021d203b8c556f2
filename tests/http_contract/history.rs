//! Histories as CloudEvents.

use crate::node::{connect, fresh_id};

#[test]
fn a_history_is_a_batch_of_cloud_events() {
    let mut client = connect();
    let id = fresh_id("history");
    let path = format!("/v1/aggregates/account/{id}");
    let parent = "traceparent: 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01\r\n";
    let open = r#"{"owner":"ada","currency":"EUR"}"#;
    let key = format!("idempotency-key: open-1\r\n{parent}");
    client.post_with(&format!("{path}/commands/OpenAccount"), &key, open);
    let deposit = client.post(&format!("{path}/commands/Deposit"), r#"{"amount_cents":7}"#);
    let reply = client.get(&format!("{path}/events"));
    assert_eq!(reply.status, 200);
    let media_type = "application/cloudevents-batch+json";
    assert_eq!(reply.header("content-type"), Some(media_type));
    assert_eq!(reply.header("link"), None);
    let events = reply.json();
    let events = events.as_array().unwrap();
    assert_eq!(events.len(), 2);
    let first = &events[0];
    assert_eq!(first["specversion"], "1.0");
    assert_eq!(first["id"], format!("account/{id}/1"));
    assert_eq!(first["source"], path);
    assert_eq!(first["type"], "AccountOpened");
    assert_eq!(first["datacontenttype"], "application/json");
    assert_eq!(first["data"]["owner"], "ada");
    assert_eq!(first["causationid"], "open-1");
    assert_eq!(first["correlationid"], "0af7651916cd43dd8448eb211c80319c");
    let second = &events[1];
    assert_eq!(
        (&second["sequence"], &second["id"]),
        (&"2".into(), &format!("account/{id}/2").into())
    );
    assert_eq!(second["position"], deposit.json()["position"]);
    for event in events {
        for (name, value) in event.as_object().unwrap() {
            assert!(
                name.bytes()
                    .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit()),
                "{name}"
            );
            assert!(
                name == "data" || value.as_str().is_some_and(|v| !v.is_empty()),
                "{name}"
            );
        }
        // An absolute URI, as the specification wants it.
        let schema = event["dataschema"].as_str().unwrap();
        let path = schema.strip_prefix("phalanx:").unwrap();
        let schema = client.get(path);
        assert_eq!(schema.status, 200);
        assert_eq!(
            schema.header("content-type"),
            Some("application/schema+json")
        );
        assert_eq!(schema.json()["type"], "object");
    }
}

#[test]
fn pages_follow_each_other_by_their_links() {
    let mut client = connect();
    let path = format!("/v1/aggregates/probe/{}", fresh_id("pages"));
    // Several events per command, so that pages cut through commands.
    for _ in 0..5 {
        client.post(&format!("{path}/commands/Count"), r#"{"times":5}"#);
    }
    let mut next = Some(format!("{path}/events?limit=4"));
    let mut seen = Vec::new();
    while let Some(page) = next.take() {
        let reply = client.get(&page);
        let events = reply.json();
        let events = events.as_array().unwrap();
        assert!(!events.is_empty() && events.len() <= 4);
        seen.extend(
            events
                .iter()
                .map(|e| e["sequence"].as_str().unwrap().to_owned()),
        );
        next = reply.header("link").map(|link| {
            let (address, relation) = link.split_once('>').unwrap();
            assert_eq!(relation, "; rel=\"next\"");
            address.strip_prefix('<').unwrap().to_owned()
        });
    }
    let expected: Vec<String> = (1..=25).map(|n| n.to_string()).collect();
    assert_eq!(seen, expected);
    let exact = client.get(&format!("{path}/events?limit=25"));
    assert_eq!(exact.header("link"), None);
    let beyond = client.get(&format!("{path}/events?from_sequence=26"));
    assert_eq!((beyond.status, beyond.text().as_str()), (200, "[]"));
    for bad in [
        "limit=0",
        "limit=1001",
        "limit=x",
        "limit=-1",
        "from_sequence=0",
        "from_sequence=x",
        "from_sequence=1&from_sequence=1",
        "offset=3",
    ] {
        client
            .get(&format!("{path}/events?{bad}"))
            .problem(400, "invalid-query");
    }
    client
        .request("POST", &format!("{path}/events"), "", "")
        .problem(405, "method-not-allowed");
}
