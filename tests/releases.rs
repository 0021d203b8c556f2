//! Events that one release stored and another one reads, over HTTP: split, dropped, with defaults, and
//! too new. The same data directory is run by an old build, by today's, and by the old one again.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

#[expect(dead_code, reason = "each test binary uses its own part")]
mod support;

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use phalanx::node::{Node, NodeBuilder};
use phalanx::settings::Settings;
use phalanx_actors::evolution::{Retired, Upcast, Upcasters, first};
use phalanx_actors::projection::{Projection, Row, Subscriptions, Table};
use phalanx_actors::{Aggregate, Context, Justification};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::runtime::Runtime;

use support::http::{Http, Request, Response};
use support::sse::Stream;
use support::{temp_dir, wait};

const SOON: Duration = Duration::from_secs(20);

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
struct Books {
    name: String,
    country: String,
    total: i64,
}

#[derive(Debug, PartialEq, Serialize, JsonSchema, thiserror::Error)]
#[error("no")]
#[expect(dead_code, reason = "nothing is refused here")]
enum Never {
    Refused,
}

#[derive(Debug, Deserialize, JsonSchema)]
enum Command {
    Open { name: String },
    Pay { amount: i64, fee: i64 },
    Note { text: String },
}

/// Anybody may look at any time.
fn always() -> Vec<Justification> {
    vec![Justification {
        name: "test",
        description: "A test looks.",
        rate_limit_per_second: 1000,
    }]
}

fn ledger(name: &'static str) -> Vec<Table> {
    vec![
        Table::new(name, "id")
            .text("id")
            .integer("total")
            .integer("fees"),
    ]
}

/// The first release: a payment with its fee is one event, and notes are kept.
mod old {
    use super::*;

    #[derive(Debug)]
    pub(super) struct Release;

    #[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
    pub(super) enum Event {
        Opened { name: String },
        Paid { amount: i64, fee: i64 },
        NoteAdded { text: String },
    }

    impl Aggregate for Release {
        const TYPE: &'static str = "books";
        const DESCRIPTION: &'static str = "Books, first release.";
        type State = Books;
        type Command = Command;
        type Event = Event;
        type Rejection = Never;

        fn decide(_: &Books, command: Command, _: &Context<'_>) -> Result<Vec<Event>, Never> {
            Ok(vec![match command {
                Command::Open { name } => Event::Opened { name },
                Command::Pay { amount, fee } => Event::Paid { amount, fee },
                Command::Note { text } => Event::NoteAdded { text },
            }])
        }

        fn evolve(state: &mut Books, event: &Event) {
            match event {
                Event::Opened { name } => name.clone_into(&mut state.name),
                Event::Paid { amount, fee } => state.total += amount - fee,
                Event::NoteAdded { .. } => {}
            }
        }

        fn justifications() -> Vec<Justification> {
            always()
        }
    }

    #[derive(Debug)]
    pub(super) struct Ledger;

    impl Projection for Ledger {
        const NAME: &'static str = "old_ledger";
        const VERSION: u32 = 1;
        const DESCRIPTION: &'static str = "What is in the books.";

        fn tables() -> Vec<Table> {
            ledger(Self::NAME)
        }

        fn subscriptions() -> Subscriptions {
            Subscriptions::default().on::<Release>(|event, meta, rows| {
                let (total, fees) = match event {
                    Event::Paid { amount, fee } => (amount - fee, *fee),
                    Event::Opened { .. } | Event::NoteAdded { .. } => (0, 0),
                };
                book("old_ledger", meta.aggregate_id, total, fees, rows)
            })
        }
    }
}

fn book(
    table: &'static str,
    id: &str,
    total: i64,
    fees: i64,
    rows: &mut phalanx_actors::projection::Rows<'_>,
) -> phalanx_actors::projection::Handled {
    let before = match rows.get(table, id)? {
        Some(row) => (row.integer("total")?, row.integer("fees")?),
        None => (0, 0),
    };
    let row = Row::default()
        .with("id", id)
        .with("total", before.0 + total)
        .with("fees", before.1 + fees);
    rows.put(table, row)
}

/// Today's: a payment and its fee are two events, books have a country, and notes are gone.
mod new {
    use super::*;

    #[derive(Debug)]
    pub(super) struct Release;

    #[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
    pub(super) enum Event {
        Opened {
            name: String,
            country: String,
        },
        #[schemars(skip)]
        Paid(Retired),
        #[schemars(skip)]
        NoteAdded(Retired),
        Deposited {
            amount: i64,
        },
        FeeTaken {
            fee: i64,
        },
    }

    #[derive(Serialize, Deserialize)]
    struct OpenedV1 {
        name: String,
    }

    #[derive(Serialize, Deserialize)]
    struct PaidV1 {
        amount: i64,
        fee: i64,
    }

    #[derive(Serialize, Deserialize)]
    struct NoteAddedV1 {
        text: String,
    }

    impl Aggregate for Release {
        const TYPE: &'static str = "books";
        const DESCRIPTION: &'static str = "Books, second release.";
        const STATE_SCHEMA_VERSION: u16 = 2;
        type State = Books;
        type Command = Command;
        type Event = Event;
        type Rejection = Never;

        fn decide(_: &Books, command: Command, _: &Context<'_>) -> Result<Vec<Event>, Never> {
            let country = "CH".to_owned();
            Ok(match command {
                Command::Open { name } => vec![Event::Opened { name, country }],
                Command::Pay { amount, fee } => {
                    vec![Event::Deposited { amount }, Event::FeeTaken { fee }]
                }
                Command::Note { .. } => vec![],
            })
        }

        fn evolve(state: &mut Books, event: &Event) {
            match event {
                Event::Opened { name, country } => {
                    name.clone_into(&mut state.name);
                    country.clone_into(&mut state.country);
                }
                Event::Deposited { amount } => state.total += amount,
                Event::FeeTaken { fee } => state.total -= fee,
                Event::Paid(never) | Event::NoteAdded(never) => match *never {},
            }
        }

        fn upcasters() -> Upcasters<Event> {
            Upcasters::default()
                .event(
                    "Opened",
                    first::<OpenedV1>().now(|old| Event::Opened {
                        name: old.name,
                        country: "unknown".to_owned(),
                    }),
                )
                .event(
                    "Paid",
                    first::<PaidV1>().now(|PaidV1 { amount, fee }| {
                        let deposited = Event::Deposited { amount };
                        Upcast::Parts(vec![deposited, Event::FeeTaken { fee }])
                    }),
                )
                .event(
                    "NoteAdded",
                    first::<NoteAddedV1>()
                        .now(|_| Upcast::<Event>::Dropped("notes were never shown to anybody")),
                )
        }

        fn justifications() -> Vec<Justification> {
            always()
        }
    }

    #[derive(Debug)]
    pub(super) struct Ledger;

    impl Projection for Ledger {
        const NAME: &'static str = "ledger";
        const VERSION: u32 = 1;
        const DESCRIPTION: &'static str = "What is in the books.";

        fn tables() -> Vec<Table> {
            ledger(Self::NAME)
        }

        fn subscriptions() -> Subscriptions {
            Subscriptions::default().on::<Release>(|event, meta, rows| {
                let (total, fees) = match event {
                    Event::Deposited { amount } => (*amount, 0),
                    Event::FeeTaken { fee } => (-fee, *fee),
                    Event::Opened { .. } => (0, 0),
                    Event::Paid(never) | Event::NoteAdded(never) => match *never {},
                };
                book("ledger", meta.aggregate_id, total, fees, rows)
            })
        }
    }
}

/// A node of some release in this process.
struct Running {
    runtime: Runtime,
    node: Option<Node>,
    address: SocketAddr,
}

impl Running {
    fn start(data_dir: &Path, build: NodeBuilder) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .unwrap();
        let mut settings = Settings::default();
        settings.node.data_dir = data_dir.to_owned();
        settings.http.listen = "127.0.0.1:0".parse().unwrap();
        settings.http.shutdown_linger_ms = 0;
        settings.cluster.listen = "127.0.0.1:0".parse().unwrap();
        settings.cluster.shards = 1;
        settings.journal.reserve_free_bytes = 0;
        settings.actors.snapshot_every_events = 4;
        let node = runtime.block_on(build.start(settings)).unwrap();
        let address = node.http_address();
        let running = Self {
            runtime,
            node: Some(node),
            address,
        };
        wait::until("the node is ready", SOON, || {
            let ready = Http::new(address).try_send(&Request::get("/readyz")).ok()?;
            (ready.status == 200).then_some(())
        });
        running
    }

    fn old(data_dir: &Path) -> Self {
        let build = Node::builder().aggregate::<old::Release>();
        Self::start(data_dir, build.projection::<old::Ledger>())
    }

    fn new(data_dir: &Path) -> Self {
        let build = Node::builder().aggregate::<new::Release>();
        Self::start(data_dir, build.projection::<new::Ledger>())
    }

    fn stop(mut self) {
        let node = self.node.take().unwrap();
        self.runtime.block_on(node.shutdown()).unwrap();
    }

    fn send(&self, request: &Request) -> Response {
        Http::new(self.address).send(request)
    }

    fn get(&self, path: &str) -> Response {
        self.send(&Request::get(path))
    }

    /// An answer that must be 200.
    fn read(&self, path: &str) -> Value {
        let answer = self.get(path);
        assert_eq!(answer.status, 200, "{path}: {}", answer.text());
        answer.json()
    }

    fn done(&self, id: &str, command: &str, fields: &Value) -> Response {
        let answer = self.send(&to(id, command, fields));
        assert!(matches!(answer.status, 200 | 201), "{}", answer.text());
        answer
    }

    fn state(&self, id: &str) -> Value {
        let read = Request::get(&format!("/v1/aggregates/books/{id}"));
        let answer = self.send(&read.header("Phalanx-Justification", "test"));
        assert_eq!(answer.status, 200, "{}", answer.text());
        answer.json()["state"].clone()
    }
}

/// A command with a key that says what it is.
fn to(id: &str, command: &str, fields: &Value) -> Request {
    let key = fields.to_string().replace([' ', '"'], "");
    Request::command("books", id, command, fields.to_string()).key(&format!("{command}-{key}"))
}

/// What the old build stores: of `a` an opening, a payment, a note and a payment; of `b` notes only;
/// of `c` an opening. Gives the answer to the first payment.
fn fill(node: &Running) -> Response {
    node.done("a", "Open", &json!({"name": "ada"}));
    let paid = node.done("a", "Pay", &json!({"amount": 100, "fee": 1}));
    node.done("a", "Note", &json!({"text": "for the file"}));
    node.done("a", "Pay", &json!({"amount": 50, "fee": 2}));
    for text in ["one", "two"] {
        node.done("b", "Note", &json!({ "text": text }));
    }
    node.done("c", "Open", &json!({"name": "cleo"}));
    paid
}

/// Ids, types and data of events.
fn seen(events: &[Value]) -> Vec<(String, String, Value)> {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    events
        .iter()
        .map(|event| {
            (
                text(&event["id"]),
                text(&event["type"]),
                event["data"].clone(),
            )
        })
        .collect()
}

/// `a` as today's build shows it.
fn todays() -> Vec<(String, String, Value)> {
    let event =
        |number: &str, name: &str, data| (format!("books/a/{number}"), name.to_owned(), data);
    vec![
        event("1", "Opened", json!({"name": "ada", "country": "unknown"})),
        event("2", "Deposited", json!({"amount": 100})),
        event("2.2", "FeeTaken", json!({"fee": 1})),
        event("4", "Deposited", json!({"amount": 50})),
        event("4.2", "FeeTaken", json!({"fee": 2})),
    ]
}

#[test]
fn splits_and_drops_are_shown_alike_wherever_events_are_shown() {
    let directory = temp_dir();
    let data_dir = directory.path().join("data");
    let before = Running::old(&data_dir);
    let paid = fill(&before);
    before.stop();

    let node = Running::new(&data_dir);
    let history = node.read("/v1/aggregates/books/a/events");
    assert_eq!(seen(history.as_array().unwrap()), todays());
    let [last] = &history.as_array().unwrap()[4..] else {
        panic!("{history}");
    };
    assert_eq!(
        (&last["sequence"], &last["part"]),
        (&json!("4"), &json!("2"))
    );
    // The state after the numbers of the stored events.
    for (sequence, total) in [(1, 0), (2, 99), (3, 99), (4, 147)] {
        let past = node.read(&format!("/v1/aggregates/books/a?at_sequence={sequence}"));
        assert_eq!(past["state"]["total"], total, "{sequence}");
        assert_eq!(past["sequence_number"], sequence);
    }
    // The last one was dropped: nothing is missing in the list, and no link leads anywhere.
    let diff = node.get("/v1/aggregates/books/a/diff?from=1&to=3");
    assert_eq!(diff.header("Link"), None);
    assert_eq!(diff.json()["difference"][0]["value"], 99);
    let named = diff.json()["events"].clone();
    let named = named.as_array().unwrap().iter();
    let named: Vec<_> = named.map(|event| event["type"].clone()).collect();
    assert_eq!(named, ["Deposited", "FeeTaken"]);
    // The stream, and a resumption between the parts of an event.
    let mut stream = Stream::open(node.address, "/v1/events?after=start", None);
    let first = stream.events(2);
    assert_eq!(seen(&first), todays()[..2]);
    let mut stream = Stream::open(node.address, "/v1/events", Some(&stream.last_id));
    let rest = stream.events(4);
    assert_eq!(seen(&rest[..3]), todays()[2..]);
    assert_eq!(rest[3]["id"], "books/c/1");
    // The read model, and a retry over the release.
    let position = paid.header("Phalanx-Position").unwrap();
    let again = node.send(&to("a", "Pay", &json!({"amount": 100, "fee": 1})));
    assert_eq!((again.body.clone(), again.status), (paid.body.clone(), 200));
    assert_eq!(again.header("Phalanx-Position"), Some(position));
    node.stop();

    // Snapshots are of today's shape now, and a restart goes on from them.
    for round in 0..2 {
        let node = Running::new(&data_dir);
        assert_eq!(node.state("a")["total"], 147 + 8 * round);
        let last = node.done("a", "Pay", &json!({"amount": 9, "fee": 1, "round": round}));
        let after = last.header("Phalanx-Position").unwrap();
        let row = node.read(&format!("/v1/views/ledger/a?after={after}&wait=9s"));
        assert_eq!(row["total"], 147 + 8 * (round + 1), "{row}");
        assert_eq!(row["fees"], 3 + round + 1, "{row}");
        node.stop();
    }
}

#[test]
fn an_aggregate_of_which_nothing_is_left_exists_all_the_same() {
    let directory = temp_dir();
    let data_dir = directory.path().join("data");
    let before = Running::old(&data_dir);
    fill(&before);
    before.stop();

    let node = Running::new(&data_dir);
    assert_eq!(node.read("/v1/aggregates/books/b/events"), json!([]));
    assert_eq!(
        node.read("/v1/aggregates/books/b/events?from_sequence=3"),
        json!([])
    );
    let past = node.read("/v1/aggregates/books/b?at_sequence=2");
    assert_eq!(past["sequence_number"], 2);
    assert_eq!(past["state"]["total"], 0);
    assert_eq!(node.state("b")["total"], 0);
    let taken = to("b", "Open", &json!({"name": "bob"})).header("If-None-Match", "*");
    assert_eq!(node.send(&taken).status, 412);
    let next = node.done("b", "Pay", &json!({"amount": 5, "fee": 0}));
    assert_eq!(
        (next.status, next.json()["sequence_number"].clone()),
        (200, json!(4))
    );
    let nobody = node.get("/v1/aggregates/books/nobody/events");
    assert_eq!(
        (nobody.status, nobody.code()),
        (404, "aggregate-not-found".to_owned())
    );
    node.stop();
}

#[test]
fn an_event_of_a_newer_build_stops_its_aggregate_and_nothing_else() {
    let directory = temp_dir();
    let data_dir = directory.path().join("data");
    let before = Running::old(&data_dir);
    fill(&before);
    before.stop();
    let newer = Running::new(&data_dir);
    newer.done("a", "Pay", &json!({"amount": 9, "fee": 1}));
    newer.stop();

    let node = Running::old(&data_dir);
    let newer = "a newer build wrote it";
    let a = "/v1/aggregates/books/a";
    let fresh = Request::get(a).header("Phalanx-Justification", "test");
    for answer in [
        node.send(&to("a", "Pay", &json!({"amount": 1, "fee": 0}))),
        node.send(&Request::post(
            &format!("{a}/commands/Pay?dry_run=true"),
            r#"{"amount":1,"fee":0}"#,
        )),
        node.send(&fresh),
        node.get(&format!("{a}?at_sequence=5")),
        node.get(&format!("{a}?as_of=2999-01-01T00:00:00Z")),
        node.get(&format!("{a}/events")),
        node.get(&format!("{a}/diff?from=1&to=5")),
        node.send(&Request::post(&format!("{a}/what-if"), r#"{"insert":[]}"#)),
    ] {
        assert_eq!(
            (answer.status, answer.code()),
            (500, "aggregate-quarantined".to_owned())
        );
        assert!(answer.text().contains(newer), "{}", answer.text());
    }
    // What happened before it can be read, and others go on.
    assert_eq!(
        node.read("/v1/aggregates/books/a?at_sequence=4")["state"]["total"],
        147
    );
    let others = node.done("c", "Pay", &json!({"amount": 7, "fee": 2}));
    let after = others.header("Phalanx-Position").unwrap();

    // A reader of all events gets those before it, hears why there are no more, and how to go on.
    let mut stream = Stream::open(node.address, "/v1/events?after=start", None);
    assert_eq!(stream.events(7).len(), 7);
    let seen_until = stream.last_id.clone();
    for last_id in [None, Some(&*seen_until)] {
        if let Some(id) = last_id {
            stream = Stream::open(node.address, "/v1/events", Some(id));
        }
        let told = stream.told();
        assert_eq!(told.kind, "error", "{told:?}");
        let error = told.json();
        assert_eq!(error["code"], "aggregate-quarantined", "{error}");
        assert_eq!(error["aggregate"], "books/a", "{error}");
        assert_eq!(error["position"], "0:8", "{error}");
        assert!(error["detail"].as_str().unwrap().contains(newer), "{error}");
        let behind = error["resume_after"].as_str().unwrap().to_owned();
        let mut rest = Stream::open(node.address, "/v1/events", Some(&behind));
        assert_eq!(rest.event()["id"], "books/c/2");
    }

    // The projection sets the aggregate aside with the reason and takes the others in.
    let row = node.read(&format!("/v1/views/old_ledger/c?after={after}&wait=9s"));
    assert_eq!((&row["total"], &row["fees"]), (&json!(5), &json!(2)));
    let letters = node
        .read("/v1/projections/old_ledger/dead-letters")
        .to_string();
    assert!(
        letters.contains(newer) && letters.contains("\"a\""),
        "{letters}"
    );
    let kept = node.read("/v1/views/old_ledger/a");
    assert_eq!(kept["total"], 147);
    node.stop();
}
