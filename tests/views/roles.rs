//! A member without copies: it has the views and the events of all shards from the others, also while
//! leaders move and the members that it reads from die.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use serde_json::json;

use super::reading::{check_accounts, histories};
use super::support::client;
use super::support::http::{Http, Request};
use super::support::node::{Node, NodeSetup};
use super::support::sse::Stream;
use super::support::{ports, temp_dir, wait};

const SOON: Duration = Duration::from_secs(60);
const ASKS: u64 = 4;
const ROUNDS: usize = 150;

/// Sends the ids of events as they come from a node's stream, until nobody takes them.
fn follow(address: SocketAddr) -> mpsc::Receiver<String> {
    let (ids, taken) = mpsc::sync_channel(100_000);
    thread::spawn(move || {
        let mut last: Option<String> = None;
        loop {
            // A stream may be cut, and goes on where it was.
            let opened = Stream::try_open(address, "/v1/events?after=start", last.as_deref());
            let Ok(mut stream) = opened else {
                wait::let_pass(Duration::from_millis(50));
                continue;
            };
            while let Some(message) = stream.try_message() {
                last = Some(stream.last_id.clone()).filter(|id| !id.is_empty());
                if message.data.is_empty() {
                    continue;
                }
                let id = message.json()["id"].as_str().expect("an id").to_owned();
                if ids.send(id).is_err() {
                    return;
                }
            }
        }
    });
    taken
}

struct Site {
    setups: Vec<NodeSetup>,
    nodes: Vec<Node>,
    anywhere: Http,
}

impl Site {
    /// Three members with copies and a fourth one that has none.
    fn start(directory: &std::path::Path) -> Self {
        let members: Vec<(u64, SocketAddr)> =
            (1..=3).map(|id| (id, ports::free_address())).collect();
        let mut setups: Vec<NodeSetup> = (1..=3)
            .map(|id| NodeSetup::member(directory, id, &members))
            .collect();
        let own = ports::free_address();
        let known = [members[0], members[1], (ASKS, own)];
        let asks = NodeSetup::member(directory, ASKS, &known)
            .set("CLUSTER__BOOTSTRAP", false)
            .set("NODE__ROLES", "[\"query\", \"gateway\"]");
        setups.push(asks);
        let nodes: Vec<Node> = setups.iter().map(NodeSetup::spawn).collect();
        let addresses: Vec<SocketAddr> = setups.iter().take(3).map(|s| s.address).collect();
        let mut site = Self {
            setups,
            nodes,
            anywhere: Http::anywhere(&addresses).patient_for(Duration::from_secs(5)),
        };
        let body = json!({"id": ASKS, "address": own.to_string()}).to_string();
        wait::until("the fourth node is added", SOON, || {
            let added = site
                .anywhere
                .try_send(&Request::post("/v1/nodes", body.clone()));
            matches!(added.ok()?.status, 200 | 202).then_some(())
        });
        let mut http = site.asks();
        wait::until("the fourth node is ready and a member", SOON, || {
            let ready = http.try_send(&Request::get("/readyz")).ok()?.status == 200;
            let view = http.try_send(&Request::get("/v1/cluster")).ok()?.json();
            let member = view["members"]
                .as_array()?
                .iter()
                .find(|m| m["id"] == ASKS)?;
            (ready && member["role"] == "serving").then_some(())
        });
        site
    }

    fn asks(&self) -> Http {
        Http::new(self.setups[3].address).patient_for(Duration::from_secs(5))
    }

    fn store(&mut self, request: &Request) -> String {
        client::store(&mut self.anywhere, request)
    }

    /// Asks for the leader of a shard to be another one; it may be refused.
    fn move_leader(&mut self, shard: usize, to: usize) {
        let body = json!({ "to": to }).to_string();
        let target = format!("/v1/shards/{shard}/transfer");
        drop(self.anywhere.try_send(&Request::post(&target, body)));
    }
}

#[test]
fn a_node_without_copies_shows_every_event_once_while_its_sources_die() {
    let directory = temp_dir();
    let mut site = Site::start(directory.path());
    let mut http = site.asks();
    let accounts: Vec<String> = (0..12).map(|n| format!("q-{n}")).collect();
    for id in &accounts {
        site.store(&client::open(id));
    }
    let ids = wait::until("the events can be read", SOON, || {
        let head = http.try_send(&Request::new("HEAD", "/v1/events")).ok()?;
        (head.status == 200).then(|| follow(site.setups[3].address))
    });
    for round in 0..ROUNDS {
        match round {
            30 => drop(site.nodes[1].kill()),
            60 => site.nodes[1] = site.setups[1].spawn(),
            100 => drop(site.nodes[0].kill()),
            130 => site.nodes[0] = site.setups[0].spawn(),
            _ => {}
        }
        site.move_leader(round % 8, round % 3 + 1);
        let id = &accounts[round % accounts.len()];
        let deposit = client::deposit(id, 1).key(&format!("round-{round}"));
        let position = site.store(&deposit);
        let target = format!("/v1/views/accounts/{id}?after={position}&wait=9s");
        let row = wait::until("the view answers", SOON, || {
            let answer = http.try_send(&Request::get(&target)).ok()?;
            (answer.status == 200).then(|| answer.json())
        });
        assert_eq!(row["balance_cents"], round / accounts.len() + 1, "{target}");
    }
    let mut last: BTreeMap<String, usize> = BTreeMap::new();
    let deadline = Instant::now() + SOON;
    for _ in 0..ROUNDS + accounts.len() {
        let left = deadline.saturating_duration_since(Instant::now());
        let id = ids.recv_timeout(left).expect("every event comes");
        let (stream, number) = id.rsplit_once('/').expect("type/id/number");
        let number: usize = number.parse().expect("a number");
        let before = last.insert(stream.to_owned(), number).unwrap_or_default();
        assert_eq!(
            number,
            before + 1,
            "{id} is skipped, repeated or out of order"
        );
    }
    let expected = histories(&mut site.anywhere, &accounts);
    for setup in &site.setups {
        check_accounts(&mut Http::new(setup.address), &expected);
    }
    let shards = http.get("/v1/shards").json();
    for shard in shards["shards"].as_array().expect("shards") {
        let named = |list: &str| {
            shard[list]
                .as_array()
                .is_some_and(|l| l.contains(&json!(ASKS)))
        };
        assert!(!named("voters") && !named("learners"), "{shard}");
    }
    wait::until("no moves are pending", SOON, || {
        let cluster = http.try_send(&Request::get("/v1/cluster")).ok()?.json();
        assert_eq!(cluster["members"][3]["roles"], json!(["query", "gateway"]));
        (cluster["pending_moves"] == 0).then_some(())
    });
    assert!(ids.try_recv().is_err(), "more events than there are");
}
