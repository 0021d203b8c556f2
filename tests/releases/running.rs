//! A node of some release in this process, and what is asked of it.
//!
//! Invariant: a node that is stopped has let go of its data directory.

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use phalanx::node::{Node, NodeBuilder};
use phalanx::settings::Settings;
use serde_json::Value;
use tokio::runtime::Runtime;

use crate::builds::{Ledger, new, old};
use crate::support::http::{Http, Request, Response};
use crate::support::wait;

const SOON: Duration = Duration::from_secs(60);

/// A node of some release in this process.
pub(crate) struct Running {
    runtime: Runtime,
    node: Option<Node>,
    pub(crate) address: SocketAddr,
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

    pub(crate) fn old(data_dir: &Path) -> Self {
        let build = Node::builder().aggregate::<old::Release>();
        Self::start(data_dir, build.projection::<Ledger<old::Release>>())
    }

    pub(crate) fn new(data_dir: &Path) -> Self {
        let build = Node::builder().aggregate::<new::Release>();
        Self::start(data_dir, build.projection::<Ledger<new::Release>>())
    }

    pub(crate) fn stop(mut self) {
        let node = self.node.take().unwrap();
        self.runtime.block_on(node.shutdown()).unwrap();
    }

    pub(crate) fn send(&self, request: &Request) -> Response {
        Http::new(self.address).send(request)
    }

    pub(crate) fn get(&self, path: &str) -> Response {
        self.send(&Request::get(path))
    }

    /// An answer that must be 200.
    pub(crate) fn read(&self, path: &str) -> Value {
        let answer = self.get(path);
        assert_eq!(answer.status, 200, "{path}: {}", answer.text());
        answer.json()
    }

    pub(crate) fn done(&self, id: &str, command: &str, fields: &Value) -> Response {
        let answer = self.send(&to(id, command, fields));
        assert!(matches!(answer.status, 200 | 201), "{}", answer.text());
        answer
    }

    pub(crate) fn state(&self, id: &str) -> Value {
        let read = Request::get(&format!("/v1/aggregates/books/{id}"));
        let answer = self.send(&read.header("Phalanx-Justification", "test"));
        assert_eq!(answer.status, 200, "{}", answer.text());
        answer.json()["state"].clone()
    }
}

/// A command with a key that says what it is.
pub(crate) fn to(id: &str, command: &str, fields: &Value) -> Request {
    let key = fields.to_string().replace([' ', '"'], "");
    Request::command("books", id, command, fields.to_string()).key(&format!("{command}-{key}"))
}
