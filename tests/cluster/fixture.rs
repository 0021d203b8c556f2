//! A cluster of three processes and the questions that the tests ask it.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use super::support::client;
use super::support::http::{Http, Request, Response};
use super::support::node::{Node, NodeSetup};
use super::support::{ports, wait};

/// For an election, with room for a busy machine.
pub(crate) const SOON: Duration = Duration::from_secs(60);
/// For a node that has to catch up, with room for a busy machine.
const READY_WITHIN: Duration = Duration::from_secs(90);

/// Three nodes, each with a directory of its own.
#[derive(Debug)]
pub(crate) struct Cluster {
    pub(crate) setups: Vec<NodeSetup>,
    pub(crate) nodes: Vec<Option<Node>>,
}

/// Who serves an account.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Served {
    pub(crate) node: u64,
    pub(crate) shard: u64,
}

impl Cluster {
    /// Three members that are not started yet.
    pub(crate) fn new(directory: &Path) -> Self {
        let members: Vec<(u64, SocketAddr)> =
            (1..=3).map(|id| (id, ports::free_address())).collect();
        let setups = members
            .iter()
            .map(|(id, _)| NodeSetup::member(directory, *id, &members))
            .collect();
        Self {
            setups,
            nodes: vec![None, None, None],
        }
    }

    /// Changes how each is set up, before it starts.
    pub(crate) fn set_up(&mut self, change: impl Fn(NodeSetup) -> NodeSetup) {
        for setup in &mut self.setups {
            *setup = change(setup.clone());
        }
    }

    /// Starts all three and waits until each says that it is ready.
    pub(crate) fn start_ready(&mut self) {
        for node in 1..=3 {
            self.start(node);
        }
        for node in 1..=3 {
            self.wait_ready(node);
        }
    }

    /// Starts a node that does not run; nodes are counted from 1.
    pub(crate) fn start(&mut self, node: u64) {
        let at = index(node);
        self.nodes[at] = Some(self.setups[at].spawn());
    }

    /// Starts all and waits until every account's shard is served.
    pub(crate) fn start_all(directory: &Path) -> Self {
        let mut cluster = Self::new(directory);
        for node in 1..=3 {
            cluster.start(node);
        }
        cluster
    }

    pub(crate) fn node(&self, node: u64) -> &Node {
        self.nodes[index(node)].as_ref().expect("the node runs")
    }

    pub(crate) fn kill(&mut self, node: u64) {
        let mut killed = self.nodes[index(node)].take().expect("the node runs");
        killed.kill();
    }

    pub(crate) fn addresses(&self) -> Vec<SocketAddr> {
        self.setups.iter().map(|setup| setup.address).collect()
    }

    pub(crate) fn address(&self, node: u64) -> SocketAddr {
        self.setups[index(node)].address
    }

    /// A client of whichever node can serve.
    pub(crate) fn anywhere(&self) -> Http {
        Http::anywhere(&self.addresses()).patient_for(Duration::from_secs(5))
    }

    /// Opens accounts `a-0`, `a-1`, ..., waiting for leaders, and gives each one's position.
    pub(crate) fn open_accounts(&self, count: usize) -> Vec<(String, String)> {
        let mut http = self.anywhere();
        (0..count)
            .map(|n| {
                let id = format!("a-{n}");
                let position = client::store(&mut http, &client::open(&id));
                (id, position)
            })
            .collect()
    }

    /// Waits until a node that runs says that it is ready.
    pub(crate) fn wait_ready(&self, node: u64) {
        let ready = wait::poll(READY_WITHIN, || {
            let mut http = Http::new(self.address(node));
            let answer = http.try_send(&Request::get("/readyz")).ok()?;
            (answer.status == 200).then_some(())
        });
        assert!(
            ready.is_some(),
            "node {node} does not become ready:\n{}",
            self.node(node).log()
        );
    }

    /// Who serves an account, found out by a fresh read.
    pub(crate) fn served_by(&self, http: &mut Http, id: &str, position: &str) -> Served {
        let request = client::fresh_after(id, position);
        wait::until("a fresh read is answered", SOON, || {
            let response = http.try_send(&request).ok()?;
            match response.status {
                200 => {
                    let served = &response.json()["served_by"];
                    Some(Served {
                        node: served["node"].as_u64()?,
                        shard: served["shard"].as_u64()?,
                    })
                }
                503 | 504 => None,
                status => panic!("{request:?}: {status} {}", response.text()),
            }
        })
    }

    /// Which node leads each shard that these accounts lie in.
    pub(crate) fn leaders(&self, accounts: &[(String, String)]) -> BTreeMap<u64, u64> {
        let mut http = self.anywhere();
        let served = accounts
            .iter()
            .map(|(id, position)| self.served_by(&mut http, id, position));
        served.map(|served| (served.shard, served.node)).collect()
    }

    /// What a node answers, as soon as it listens.
    pub(crate) fn ask(&self, node: u64, request: &super::support::http::Request) -> Response {
        wait::until("a node listens", SOON, || {
            Http::new(self.address(node)).try_send(request).ok()
        })
    }

    /// Sends a command to one node until it is stored.
    pub(crate) fn store_at(&self, node: u64, request: &super::support::http::Request) -> Response {
        wait::until("a command is stored", SOON, || {
            let answer = self.ask(node, request);
            match answer.status {
                200 | 201 => Some(answer),
                503 | 504 => None,
                status => panic!("{request:?}: {status} {}", answer.text()),
            }
        })
    }

    /// Waits until each of the three nodes leads a shard of these accounts.
    pub(crate) fn wait_spread(&self, accounts: &[(String, String)]) {
        wait::until("every node leads something", SOON, || {
            let leaders: BTreeSet<u64> = self.leaders(accounts).into_values().collect();
            (leaders.len() == 3).then_some(())
        });
    }

    /// Waits until a node's log says something.
    pub(crate) fn wait_log(&self, node: u64, words: &str) {
        let at = self.node(node);
        let found = wait::poll(SOON, || at.log().contains(words).then_some(()));
        assert!(
            found.is_some(),
            "node {node} never said {words:?}:\n{}",
            at.log()
        );
    }
}

fn index(node: u64) -> usize {
    usize::try_from(node - 1).expect("fits")
}
