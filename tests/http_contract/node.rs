//! One real node for all tests of this file, with listeners of different limits in front.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, OnceLock};
use std::time::{Duration, Instant};

use phalanx::http::{HttpApp, HttpLimits};
use phalanx::node::Node;
use phalanx::settings::Settings;
use phalanx_actors::{Aggregate, Context, Justification};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tokio::runtime::Runtime;

use crate::client::Client;

/// Limits that run out soon, and not before a client on a busy machine has said its first word.
pub(crate) const HEADER_MS: u64 = 1_000;
pub(crate) const BODY_MS: u64 = 1_000;
pub(crate) const IDLE_MS: u64 = 2_000;

/// These limits, and others as they are.
pub(crate) fn impatient() -> HttpLimits {
    HttpLimits {
        header_timeout_ms: HEADER_MS,
        body_timeout_ms: BODY_MS,
        idle_timeout_ms: IDLE_MS,
        ..HttpLimits::default()
    }
}

/// An aggregate that does what tests need.
#[derive(Debug)]
pub(crate) struct Probe;

/// For how long it has begun to think; each test has a time of its own.
static THINKS: Mutex<BTreeSet<u64>> = Mutex::new(BTreeSet::new());

/// Waits until an aggregate has begun to think for so long.
pub(crate) fn wait_until_it_thinks(millis: u64) {
    eventually(&format!("it thinks for {millis} ms"), || {
        THINKS.lock().unwrap().contains(&millis)
    });
}

/// Polls until something holds; the limit is only there so that nothing hangs.
#[track_caller]
pub(crate) fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(60);
    while !holds() {
        assert!(Instant::now() < deadline, "in vain: {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
pub(crate) struct ProbeState {
    count: u64,
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) enum ProbeCommand {
    /// Adds so many events.
    Count { times: u64 },
    /// Thinks for a while.
    Think { millis: u64 },
    /// Panics.
    Panic {},
    /// Says no.
    Refuse {},
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub(crate) enum ProbeEvent {
    /// One more.
    Counted { count: u64 },
}

#[derive(Debug, PartialEq, Serialize, JsonSchema, thiserror::Error)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum ProbeRejection {
    #[error("not today")]
    NotToday { count: u64 },
}

impl Aggregate for Probe {
    const TYPE: &'static str = "probe";
    const DESCRIPTION: &'static str = "An aggregate for tests.";
    type State = ProbeState;
    type Command = ProbeCommand;
    type Event = ProbeEvent;
    type Rejection = ProbeRejection;

    fn decide(
        state: &ProbeState,
        command: ProbeCommand,
        _: &Context<'_>,
    ) -> Result<Vec<ProbeEvent>, ProbeRejection> {
        match command {
            ProbeCommand::Count { times } => Ok((1..=times)
                .map(|more| ProbeEvent::Counted {
                    count: state.count + more,
                })
                .collect()),
            ProbeCommand::Think { millis } => {
                THINKS.lock().unwrap().insert(millis);
                std::thread::sleep(Duration::from_millis(millis));
                Ok(Vec::new())
            }
            ProbeCommand::Panic {} => panic!("asked to"),
            ProbeCommand::Refuse {} => Err(ProbeRejection::NotToday { count: state.count }),
        }
    }

    fn evolve(state: &mut ProbeState, event: &ProbeEvent) {
        let ProbeEvent::Counted { count } = event;
        state.count = *count;
    }

    fn justifications() -> Vec<Justification> {
        let declare = |name, rate_limit_per_second| Justification {
            name,
            description: "For a test.",
            rate_limit_per_second,
        };
        vec![
            declare("often", 1_000_000),
            declare("rare", 1),
            declare("off", 0),
        ]
    }

    fn views() -> Vec<&'static str> {
        vec!["probes"]
    }
}

struct Running {
    runtime: Runtime,
    node: Node,
    _directory: tempfile::TempDir,
}

fn running() -> &'static Running {
    static RUNNING: OnceLock<Running> = OnceLock::new();
    RUNNING.get_or_init(|| {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(4)
            .enable_all()
            .build()
            .unwrap();
        let directory = tempfile::tempdir().unwrap();
        let mut settings = Settings::default();
        settings.node.data_dir = directory.path().join("data");
        settings.http.listen = "127.0.0.1:0".parse().unwrap();
        settings.cluster.shards = 4;
        settings.journal.reserve_free_bytes = 0;
        let node = runtime
            .block_on(
                Node::builder()
                    .samples()
                    .aggregate::<Probe>()
                    .start(settings),
            )
            .unwrap();
        let running = Running {
            runtime,
            node,
            _directory: directory,
        };
        wait_until_ready(running.node.http_address());
        running
    })
}

fn wait_until_ready(address: SocketAddr) {
    eventually("the node is ready", || {
        Client::connect(address).get("/readyz").status == 200
    });
}

/// A connection to the node with its default limits.
pub(crate) fn connect() -> Client {
    Client::connect(running().node.http_address())
}

/// Where the node itself listens.
pub(crate) fn address() -> SocketAddr {
    running().node.http_address()
}

/// A further listener of the same node. It stops when the value is dropped.
pub(crate) struct Listener {
    pub(crate) address: SocketAddr,
    stop: Option<tokio::sync::oneshot::Sender<()>>,
    ended: Option<tokio::task::JoinHandle<()>>,
}

impl Listener {
    pub(crate) fn start(limits: HttpLimits) -> Self {
        Self::serving(limits, false)
    }

    /// One with event streams.
    pub(crate) fn with_events(limits: HttpLimits) -> Self {
        Self::serving(limits, true)
    }

    fn serving(limits: HttpLimits, events: bool) -> Self {
        let running = running();
        let metrics = phalanx::telemetry::metrics::install().unwrap();
        let node = &running.node;
        let mut app = HttpApp::new(node.router().clone(), node.steward().clone(), metrics);
        app.feed = events.then(|| node.feed());
        let bound = tokio::net::TcpListener::bind("127.0.0.1:0");
        let listener = running.runtime.block_on(bound).unwrap();
        let address = listener.local_addr().unwrap();
        let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
        let ended = running
            .runtime
            .spawn(phalanx::http::serve(listener, app, limits, async {
                stopped.await.ok();
            }));
        Self {
            address,
            stop: Some(stop),
            ended: Some(ended),
        }
    }

    pub(crate) fn connect(&self) -> Client {
        Client::connect(self.address)
    }

    /// Asks it to wind down.
    pub(crate) fn stop(&mut self) {
        self.stop.take().unwrap().send(()).unwrap();
    }

    /// Waits until it has wound down.
    pub(crate) fn wait(&mut self) {
        let ended = self.ended.take().unwrap();
        let limit = Duration::from_secs(60);
        let waited = async { tokio::time::timeout(limit, ended).await };
        running().runtime.block_on(waited).unwrap().unwrap();
    }
}

/// An id that no other test uses.
pub(crate) fn fresh_id(name: &str) -> String {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    format!("{name}-{}", NEXT.fetch_add(1, Ordering::Relaxed))
}
