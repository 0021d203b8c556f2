//! What a node writes to standard error: one JSON object a line where that is no terminal.

use std::time::Duration;

use serde_json::{Value, json};

use crate::cases::Fixture;
use crate::support::http::Connection;
use crate::support::{client, skipped, wait};

#[test]
fn a_panic_is_a_line_like_any_other() {
    if cfg!(not(feature = "failpoints")) {
        skipped("a panic", "built without the feature `failpoints`");
        return;
    }
    let panics = |setup: crate::support::node::NodeSetup| {
        let setup = setup.variable("RUST_BACKTRACE", "1");
        setup.variable("FAILPOINTS", "http::before_reply=1*panic(as told)->off")
    };
    let fixture = Fixture::with(panics);
    let mut connection = Connection::open(fixture.node.address).expect("the node listens");
    connection.send(&client::open("p-1")).ok();
    let line = wait::poll(Duration::from_secs(60), || {
        let log = fixture.node.log();
        // The last one may be half written.
        let whole = log
            .split_inclusive('\n')
            .filter(|line| line.ends_with('\n'));
        let mut lines = whole.map(|line| {
            serde_json::from_str::<Value>(line).unwrap_or_else(|_| panic!("no JSON: {line}"))
        });
        lines.find(|line| line["message"] == json!("panicked"))
    });
    let line = line.expect("the panic is logged");
    assert_eq!(line["level"], json!("ERROR"));
    assert!(
        line["reason"]
            .as_str()
            .is_some_and(|text| text.contains("as told")),
        "{line}"
    );
    assert!(
        line["place"]
            .as_str()
            .is_some_and(|text| text.contains(".rs:")),
        "{line}"
    );
    assert!(
        line["backtrace"]
            .as_str()
            .is_some_and(|text| text.contains('\n'))
    );
    // The connection ended; the node goes on.
    client::expect_success(&mut fixture.node.client(), &client::deposit("p-1", 5));
}
