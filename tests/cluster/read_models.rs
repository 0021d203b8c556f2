//! A cluster whose members have one role each: whoever takes requests answers those about read models
//! as well, by asking a member that keeps them, also while that one dies.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::path::Path;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::support::client;
use super::support::http::{Http, Request, Response};
use super::support::node::{Node, NodeSetup};
use super::support::sse::Stream;
use super::support::{ports, temp_dir, wait};

const SOON: Duration = Duration::from_secs(60);
/// Two found the cluster, two keep its read models, the last one only takes requests.
const ROLES: [(u64, &str); 5] = [
    (1, "[\"command\", \"gateway\"]"),
    (2, "[\"command\", \"gateway\"]"),
    (3, "[\"query\"]"),
    (4, "[\"query\"]"),
    (5, "[\"gateway\"]"),
];
/// Those that take requests of clients.
const GATES: [u64; 3] = [1, 2, 5];

struct Site {
    setups: Vec<NodeSetup>,
    nodes: Vec<Node>,
}

impl Site {
    fn start(directory: &Path) -> Self {
        let members: Vec<(u64, SocketAddr)> = ROLES
            .iter()
            .map(|(id, _)| (*id, ports::free_address()))
            .collect();
        let setup = |(id, roles): &(u64, &str)| {
            let founds = *id <= 2;
            let known = if founds {
                members[..2].to_vec()
            } else {
                let own = members[at(*id)];
                [&members[..2], &[own]].concat()
            };
            NodeSetup::member(directory, *id, &known)
                .set("NODE__ROLES", roles)
                .set("CLUSTER__BOOTSTRAP", founds)
        };
        let setups: Vec<NodeSetup> = ROLES.iter().map(setup).collect();
        let nodes = setups.iter().map(NodeSetup::spawn).collect();
        let site = Self { setups, nodes };
        let mut http = site.http(1);
        for (id, address) in &members[2..] {
            let body = json!({"id": id, "address": address.to_string()}).to_string();
            wait::until("a node is added", SOON, || {
                let added = http
                    .try_send(&Request::post("/v1/nodes", body.clone()))
                    .ok()?;
                matches!(added.status, 200 | 202).then_some(())
            });
        }
        for gate in GATES {
            let mut http = site.http(gate);
            wait::until("every member's roles are known", SOON, || {
                let view = http.try_send(&Request::get("/v1/cluster")).ok()?.json();
                let members = view["members"].as_array()?;
                let known = ROLES.iter().zip(members).all(|((_, roles), member)| {
                    let roles: Value = serde_json::from_str(roles).expect("JSON");
                    member["roles"] == roles && member["role"] == "serving"
                });
                (known && members.len() == ROLES.len()).then_some(())
            });
            wait::until("views can be read there", SOON, || {
                let page = http.try_send(&Request::get("/v1/views/accounts")).ok()?;
                (page.status == 200).then_some(())
            });
        }
        site
    }

    fn http(&self, node: u64) -> Http {
        Http::new(self.setups[at(node)].address).patient_for(Duration::from_secs(20))
    }

    /// Stores through a node, as soon as it can; gives the position.
    fn store(&self, node: u64, request: &Request) -> String {
        client::store(&mut self.http(node), request)
    }

    /// What a node answers, as soon as it says more than that nobody can be asked for now.
    fn ask(&self, node: u64, request: &Request) -> Response {
        self.http(node).send_until_answered(request)
    }

    fn get(&self, node: u64, target: &str) -> Response {
        self.ask(node, &Request::get(target))
    }

    /// What a node shows of a view behind a position, as soon as it is there.
    fn shown(&self, node: u64, target: &str) -> Value {
        wait::until("a view has taken in a position", SOON, || {
            let answer = self.get(node, target);
            // A machine may stand still for longer than a request waits.
            if answer.code() == "view-behind" {
                return None;
            }
            assert_eq!(answer.status, 200, "{target}: {}", answer.text());
            Some(answer.json())
        })
    }

    /// Who answers for read models at a node.
    fn keeper(&self, node: u64) -> u64 {
        let told = self.get(node, "/v1/projections");
        assert_eq!(told.status, 200, "{}", told.text());
        told.json()["node"].as_u64().expect("a node")
    }

    fn kill(&mut self, node: u64) {
        self.nodes[at(node)].kill();
    }

    fn restart(&mut self, node: u64) {
        self.nodes[at(node)] = self.setups[at(node)].spawn();
    }
}

fn at(node: u64) -> usize {
    usize::try_from(node - 1).expect("fits")
}

fn names_the_role(answer: &Response, role: &str) {
    assert_eq!(answer.status, 503, "{}", answer.text());
    assert!(answer.header("Retry-After").is_some());
    let problem = answer.json();
    assert_eq!(
        (&problem["code"], &problem["role"]),
        (&json!("not-ready"), &json!(role))
    );
}

/// Deposits through each gate in turns and reads at the others what must be there by then.
fn write_and_read(site: &Site, from: u64, rounds: u64) {
    for round in from..from + rounds {
        let writes = GATES[usize::try_from(round % 3).expect("small")];
        let id = format!("r-{}", round % 4);
        let deposit = client::deposit(&id, 1).key(&format!("round-{round}"));
        let position = site.store(writes, &deposit);
        for reads in GATES {
            let row = format!("/v1/views/accounts/{id}?after={position}&wait=9s");
            let expected = round / 4 + 1;
            let shown = site.shown(reads, &row);
            assert_eq!(shown["balance_cents"], expected, "{row} at {reads}");
            let list = format!("/v1/views/accounts?id={id}&after={position}&wait=9s");
            let shown = site.shown(reads, &list);
            assert_eq!(shown["rows"][0]["balance_cents"], expected, "{list}");
        }
    }
}

/// Each answer is the same at every gate, whether it is one of rows or of a problem.
fn same_everywhere(site: &Site) {
    // Answers say how far behind the rows are; only rows that are not can be told alike.
    for (gate, view) in GATES
        .map(|gate| [(gate, "accounts"), (gate, "account_totals")])
        .concat()
    {
        wait::until("the rows show everything", SOON, || {
            let rows = site.get(gate, &format!("/v1/views/{view}")).json();
            (rows["lag"]["events"] == 0).then_some(())
        });
    }
    let sorted = "/v1/views/accounts?balance_cents[gte]=0&sort=-balance_cents,id&limit=2";
    let page = site.get(5, sorted).json();
    let cursor = page["next_cursor"].as_str().expect("more than one page");
    let next = format!("{sorted}&cursor={cursor}");
    let requests = [
        (200, Request::get(sorted)),
        (200, Request::get(&next)),
        (200, Request::get("/v1/views/accounts/r-1")),
        (
            200,
            Request::get("/v1/views/account_totals/EUR").header("Prefer", "wait=2"),
        ),
        (
            200,
            Request::get("/v1/views/accounts?after=0:0").header("Prefer", "wait=2"),
        ),
        (404, Request::get("/v1/views/nothing")),
        (404, Request::get("/v1/views/accounts/nobody")),
        (400, Request::get("/v1/views/accounts?colour=red")),
        (400, Request::get("/v1/views/accounts?after=99:1")),
        (405, Request::post("/v1/views/accounts", "{}")),
        (400, Request::get("/v1/projections/accounts?node=none")),
        (404, Request::get("/v1/projections/accounts?node=9")),
        (404, Request::get("/v1/projections?node=9")),
        (404, Request::get("/v1/projections/nothing")),
    ];
    let trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    for (status, request) in requests {
        let request = request.header("traceparent", trace);
        let [first, second, third] = GATES.map(|gate| site.ask(gate, &request));
        assert_eq!(first.status, status, "{request:?}: {}", first.text());
        for other in [second, third] {
            assert_eq!(first.status, other.status);
            assert_eq!(first.text(), other.text(), "{request:?}");
            for name in ["Content-Type", "Preference-Applied", "Allow", "Retry-After"] {
                assert_eq!(
                    first.header(name),
                    other.header(name),
                    "{name}: {request:?}"
                );
            }
            assert_eq!(other.header("phalanx-ask"), None);
        }
    }
    let stranger = site.get(5, "/v1/projections?node=9");
    assert_eq!(stranger.code(), "unknown-node", "{}", stranger.text());
    let problem = stranger.json();
    assert_eq!(problem["parameter"], "node", "{problem}");
    assert_eq!(problem["members"], json!([1, 2, 3, 4, 5]), "{problem}");
    // A wait travels with the request and ends by itself.
    let began = Instant::now();
    let behind = site.get(5, "/v1/views/accounts?after=0:999999&wait=700ms");
    assert_eq!(
        (behind.status, behind.code().as_str()),
        (504, "view-behind")
    );
    let took = began.elapsed();
    assert!(
        took >= Duration::from_millis(600) && took < Duration::from_secs(15),
        "{took:?}"
    );
}

/// Whoever is asked describes all that the cluster answers.
fn described_alike(site: &Site) {
    let described = site.http(3).get("/openapi.json");
    let paths = &described.json()["paths"];
    for path in ["/v1/views/accounts", "/v1/views/account_totals/{key}"] {
        assert!(paths[path].is_object(), "{path}");
    }
    for (node, _) in ROLES {
        let other = site.http(node).get("/openapi.json");
        assert!(described.body == other.body, "node {node}");
    }
    let [first, second, third] = GATES.map(|gate| site.get(gate, "/v1/types"));
    assert_eq!(first.status, 200);
    assert!(first.body == second.body && first.body == third.body);
}

/// The keys of the rows that a stream tells of, until all of these have come.
fn follow(site: &Site, id: &str, mut wanted: BTreeSet<String>) {
    let mut last = id.to_owned();
    let deadline = Instant::now() + SOON;
    let mut stream = None;
    while !wanted.is_empty() {
        assert!(Instant::now() < deadline, "never told of {wanted:?}");
        let address = site.setups[at(5)].address;
        let opened = stream.take().or_else(|| {
            let opened = Stream::try_open(address, "/v1/views/accounts/changes", Some(&last));
            opened
                .ok()
                .filter(|stream| stream.head.starts_with("http/1.1 200"))
        });
        let Some(mut open) = opened else {
            wait::let_pass(Duration::from_millis(50));
            continue;
        };
        let Some(message) = open.try_message() else {
            continue;
        };
        if !open.last_id.is_empty() {
            last.clone_from(&open.last_id);
        }
        stream = Some(open);
        if message.data.is_empty() {
            continue;
        }
        if message.kind == "reset" {
            // All rows are to be read then, so nothing is missed.
            if message.json()["reason"] != "begin" {
                wanted.clear();
            }
            continue;
        }
        for row in message.json()["rows"].as_array().expect("rows") {
            wanted.remove(row["key"].as_str().expect("a key"));
        }
    }
}

#[test]
fn every_gate_answers_for_read_models_that_other_members_keep() {
    let directory = temp_dir();
    let mut site = Site::start(directory.path());
    for n in 0..4 {
        site.store(GATES[n % 3], &client::open(&format!("r-{n}")));
    }
    write_and_read(&site, 0, 24);
    same_everywhere(&site);
    described_alike(&site);
    // Who does not take requests says so, and operates all the same.
    names_the_role(&site.http(3).get("/v1/types"), "gateway");
    // What it keeps it shows, and the events that this is made of.
    wait::until("a node without a gate shows its rows", SOON, || {
        let rows = site.http(3).get("/v1/views/accounts").json();
        (rows["rows"].as_array().map(Vec::len) == Some(4)).then_some(())
    });
    let own = site.http(3).send(&Request::new("HEAD", "/v1/events"));
    assert_eq!(own.status, 200, "{}", own.text());
    assert_eq!(site.keeper(3), 3);
    let events: Vec<String> = {
        let address = site.setups[at(5)].address;
        let mut stream = Stream::open(address, "/v1/events?after=start", None);
        let id = |event: Value| event["id"].as_str().expect("an id").to_owned();
        stream.events(28).into_iter().map(id).collect()
    };
    assert_eq!(
        events.iter().collect::<BTreeSet<_>>().len(),
        28,
        "each once"
    );

    let place = {
        let address = site.setups[at(5)].address;
        let mut stream = Stream::open(address, "/v1/views/accounts/changes", None);
        let begin = stream.told();
        assert_eq!(
            (&*begin.kind, &begin.json()["reason"]),
            ("reset", &json!("begin"))
        );
        write_and_read(&site, 24, 4);
        let mut told: BTreeSet<String> = BTreeSet::new();
        while told.len() < 4 {
            for row in stream.event()["rows"].as_array().expect("rows") {
                told.insert(row["key"].as_str().expect("a key").to_owned());
            }
        }
        stream.last_id
    };
    // Whoever has answered so far dies; the next one goes on, for rows, lists and streams.
    let served = site.keeper(5);
    site.kill(served);
    let began = Instant::now();
    write_and_read(&site, 28, 12);
    let other = site.keeper(5);
    assert!(other != served && began.elapsed() < SOON);
    let keys = (0..4).map(|n| format!("r-{n}")).collect();
    follow(&site, &place, keys);
    // Without any keeper the truth is told, by each gate.
    site.kill(other);
    for gate in GATES {
        let mut http = site.http(gate);
        for target in [
            "/v1/views/accounts/r-1",
            "/v1/views/accounts",
            "/v1/projections",
        ] {
            let refused = wait::until("nobody keeps read models", SOON, || {
                let answer = http.get(target);
                (answer.status == 503 && answer.json()["role"] == "query").then_some(answer)
            });
            names_the_role(&refused, "query");
        }
        // Commands do not care.
        site.store(gate, &client::open(&format!("alone-{gate}")));
    }
    site.restart(served);
    site.restart(other);
    for gate in GATES {
        wait::until("views are back", SOON, || {
            let row = Request::get("/v1/views/accounts/alone-5");
            let row = site.http(gate).try_send(&row).ok()?;
            (row.status == 200).then_some(())
        });
    }
    write_and_read(&site, 40, 12);
    let forwarded = site.nodes[at(5)].metric("phalanx_forwards_total");
    assert!(forwarded.is_some_and(|count| count > 50.0), "{forwarded:?}");
}

#[test]
fn operations_go_to_the_node_that_is_named_and_to_no_other() {
    let directory = temp_dir();
    let site = Site::start(directory.path());
    let state = |asked: u64, of: u64| {
        let told = site.get(asked, &format!("/v1/projections/orders?node={of}"));
        assert_eq!(told.status, 200, "{}", told.text());
        let told = told.json();
        assert_eq!(told["node"], of);
        told["state"].as_str().expect("a state").to_owned()
    };
    let post = |asked: u64, what: &str, of: u64| {
        let target = format!("/v1/projections/orders/{what}?node={of}");
        let answer = || site.http(asked).send(&Request::post(&target, ""));
        let mut last = answer();
        // A connection to it may be lost for a moment, on a busy machine.
        wait::poll(SOON, || {
            let away = last.status == 503 && !last.text().contains("keeps no read models");
            if away {
                last = answer();
            }
            (!away).then_some(())
        });
        last
    };
    for (asked, paused, other) in [(5, 3, 4), (1, 4, 3), (3, 4, 3)] {
        let answer = post(asked, "pause", paused);
        assert_eq!(answer.status, 200, "{}", answer.text());
        assert_eq!(answer.json()["node"], paused);
        assert_eq!(
            (state(5, paused), state(5, other)),
            ("paused".into(), "running".into())
        );
        assert_eq!(post(asked, "resume", paused).status, 200);
        assert_eq!(state(asked, paused), "running");
    }
    let build = |of: u64| {
        site.get(5, &format!("/v1/projections/orders?node={of}"))
            .json()["build"]
            .as_i64()
    };
    let before = (build(3), build(4));
    let answer = post(5, "rebuild", 4);
    assert_eq!(answer.status, 200, "{}", answer.text());
    wait::until("it is rebuilt there", SOON, || {
        (build(4) > before.1).then_some(())
    });
    assert_eq!(build(3), before.0);
    // Without a name, whoever answers says who it is.
    let letters = site.get(5, "/v1/projections/orders/dead-letters?limit=5");
    assert_eq!(letters.status, 200, "{}", letters.text());
    assert_eq!(letters.json()["node"], site.keeper(5));
    let retried = post(5, "dead-letters/7/retry", 3);
    assert_eq!(retried.status, 404, "{}", retried.text());
    let none = post(5, "pause", 1);
    assert_eq!(none.status, 503, "{}", none.text());
    assert!(
        none.json()["detail"]
            .to_string()
            .contains("keeps no read models"),
        "{}",
        none.text()
    );
}

#[test]
fn roles_that_do_not_fit_keep_a_node_from_starting() {
    let directory = temp_dir();
    let members = [(1, ports::free_address()), (2, ports::free_address())];
    let setup =
        |roles: &str| NodeSetup::member(directory.path(), 1, &members).set("NODE__ROLES", roles);
    let refused = |setup: NodeSetup, words: &[&str]| {
        let mut node = setup.spawn();
        let status = node.wait_end(SOON).expect("it does not start");
        let log = node.log();
        assert!(!status.success(), "{log}");
        for word in words {
            assert!(log.contains(word), "{word:?} is not in {log}");
        }
    };
    refused(setup("[]"), &["node.roles", "command, query, gateway"]);
    refused(setup("[\"query\", \"query\"]"), &["node.roles"]);
    refused(setup("[\"queries\"]"), &["queries"]);
    for roles in ["[\"query\"]", "[\"gateway\"]", "[\"query\", \"gateway\"]"] {
        refused(setup(roles), &["node.roles", "cluster.bootstrap"]);
    }
    // A node that holds copies does not fall silent.
    let founds = NodeSetup::new(directory.path());
    let mut node = founds.start();
    client::expect_success(&mut node.client(), &client::open("a-1"));
    node.stop();
    let silent = founds
        .set("NODE__ROLES", "[\"query\"]")
        .set("CLUSTER__BOOTSTRAP", false);
    refused(silent, &["command"]);
}

#[test]
fn what_was_set_aside_is_attempted_where_there_is_no_copy_of_its_shard() {
    let directory = temp_dir();
    let site = Site::start(directory.path());
    for id in ["d-1", "d-2"] {
        site.store(5, &client::open(id));
    }
    // The totals cannot hold both; whichever comes second is set aside.
    site.store(5, &client::deposit("d-1", i64::MAX).key("rich"));
    site.store(5, &client::deposit("d-2", 7).key("poor"));
    let letters = "/v1/projections/account_totals/dead-letters";
    let mut http = site.http(5);
    // Neither keeps a copy of any shard: both have read what they attempt from another member.
    for keeper in [3, 4] {
        let list = format!("{letters}?node={keeper}");
        let letter = wait::until("a dead letter", SOON, || {
            http.get(&list).json()["dead_letters"][0]["id"].as_i64()
        });
        let post =
            |what: &str| Request::post(&format!("{letters}/{letter}/{what}?node={keeper}"), "");
        let again = http.send_until_answered(&post("retry"));
        assert_eq!(again.status, 200, "{}", again.text());
        let again = again.json();
        assert_eq!(
            (&again["node"], &again["resolved"]),
            (&json!(keeper), &json!(false))
        );
        assert!(again["reason"].to_string().contains("64 bits"), "{again}");
        let skipped = http.send_until_answered(&post("skip"));
        assert_eq!(skipped.json()["resolved"], true, "{}", skipped.text());
        assert_eq!(site.get(5, &list).json()["dead_letters"], json!([]));
    }
}
