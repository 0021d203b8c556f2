//! A journal, a directory or a database, and commands that are committed without raft.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use phalanx_actors::Aggregate;
use phalanx_actors::evolution::schema_of;
use phalanx_actors::names::{Position, ShardId, StreamName};
use phalanx_actors::ports::{BoxFuture, Streams, SystemClock};
use phalanx_actors::projection::ProjectionRegistry;
use phalanx_actors::record::{Behind, Draft, Record, RecordHead};
use tempfile::TempDir;

use super::super::store::Store;
use super::super::*;
use super::server::Postgres;
use crate::domain::{Account, AccountEvent};
use crate::journal::{
    Applied, AppliedRecord, Identity, Journal, JournalOptions, LogEntry, LogPayload, MemoryDisk,
    Storage,
};

pub(super) const SHARDS: u32 = 3;

/// Where commands are committed, and a read side can be started over and over.
pub(super) struct World {
    pub(super) directory: TempDir,
    pub(super) journal: Journal,
    /// Number of log entries and of events, by shard.
    ends: Vec<(u64, u64)>,
    sequences: HashMap<StreamName, u64>,
    /// The server and the name of the database, where the read models are not in a file.
    pub(super) postgres: Option<(&'static Postgres, String)>,
}

/// Makes each of these tests, which take a [`World`], one with a file and one with a database.
macro_rules! on_both_stores {
    ($($name:ident),* $(,)?) => {
        mod sqlite {
            $(
                #[tokio::test(flavor = "multi_thread")]
                async fn $name() {
                    Box::pin(super::$name(super::World::new())).await;
                }
            )*
        }
        mod postgres {
            $(
                #[tokio::test(flavor = "multi_thread")]
                async fn $name() {
                    if let Some(world) = super::World::on_postgres(stringify!($name)) {
                        Box::pin(super::$name(world)).await;
                    }
                }
            )*
        }
    };
}
pub(super) use on_both_stores;

impl World {
    pub(super) fn new() -> Self {
        let directory = TempDir::new().unwrap();
        let identity = Identity {
            cluster_name: "test".to_owned(),
            node_id: 1,
            shards: SHARDS,
        };
        let options = JournalOptions {
            reserve_free_bytes: 0,
            log_cache_bytes_per_shard: 4 << 10,
            ..JournalOptions::new(directory.path().to_owned(), identity)
        };
        let clock = Arc::new(SystemClock::default());
        let storage = Storage::Memory(MemoryDisk::inline());
        Self {
            journal: Journal::open(&options, storage, clock).unwrap(),
            directory,
            ends: vec![(0, 0); SHARDS as usize],
            sequences: HashMap::new(),
            postgres: None,
        }
    }

    /// With read models in a database of its own; `None`, loudly, where there is no server.
    pub(super) fn on_postgres(test: &str) -> Option<Self> {
        match Postgres::shared() {
            Ok(server) => Some(Self {
                postgres: Some((server, server.database())),
                ..Self::new()
            }),
            Err(why) => {
                use std::io::Write as _;
                let mut stderr = std::io::stderr().lock();
                drop(writeln!(stderr, "SKIPPED: {test} on PostgreSQL: {why}"));
                None
            }
        }
    }

    /// Runs a statement in the database; gives what it says.
    pub(super) fn sql(&self, text: &str) -> String {
        let (server, database) = self.postgres.as_ref().unwrap();
        server.sql(database, text)
    }

    /// A store beside those of read sides, without the pen.
    pub(super) async fn store(&self) -> Store {
        let options = self.options();
        match &options.address {
            StoreAddress::Sqlite => Store::open(&options.path, "journal", SHARDS).await.unwrap(),
            StoreAddress::Postgres(server) => {
                let (cluster, node) = (&options.cluster, "beside".to_owned());
                let standing = Standing::new(Part::Starting);
                let server = Server::new((**server).clone(), cluster, node, SHARDS, standing);
                let mut store = Store::on_server(server, SHARDS);
                store.ensure().await.unwrap();
                store
            }
        }
    }

    /// Commits the events of one command; gives the position of the last.
    pub(super) fn commit<A: Aggregate>(&mut self, id: &str, events: &[A::Event]) -> Position {
        let stream = StreamName::new(A::TYPE, id).unwrap();
        let shard = stream.shard(SHARDS);
        let (index, position) = &mut self.ends[shard as usize];
        let sequence = self.sequences.entry(stream.clone()).or_insert(0);
        let head = RecordHead {
            stream: stream.as_str(),
            first_sequence: *sequence + 1,
            event_count: u32::try_from(events.len()).unwrap(),
            time_us: jiff::Timestamp::now().as_microsecond(),
            command: "Test",
            key: &format!("{shard}-{index}"),
            fingerprint: [0; 16],
            flags: 0,
            traceparent: "",
        };
        let draft = Draft::of::<A>(&head, schema_of::<A>(), events, Behind::default()).unwrap();
        let record = Record::from_stored(draft.finish(*position + 1)).unwrap();
        *sequence += events.len() as u64;
        *position += events.len() as u64;
        let state = Bytes::from(format!("entry {index}"));
        let entry = LogEntry {
            index: *index,
            meta: state.clone(),
            payload: LogPayload::Records(vec![record.clone()].into()),
        };
        self.journal
            .append(shard, vec![entry], Box::new(|done| done.unwrap()));
        let applied = AppliedRecord {
            index: *index,
            slot: 0,
            record,
        };
        let mark = Applied {
            index: *index,
            state,
        };
        self.journal.apply(shard, vec![applied], mark);
        *index += 1;
        Position {
            shard,
            number: *position,
        }
    }

    pub(super) fn open(&mut self, id: &str, owner: &str, currency: &str) -> Position {
        let opened = AccountEvent::AccountOpened {
            owner: owner.to_owned(),
            currency: currency.to_owned(),
        };
        self.commit::<Account>(id, &[opened])
    }

    pub(super) fn deposit(&mut self, id: &str, amount_cents: i64) -> Position {
        let deposited = AccountEvent::MoneyDeposited {
            amount_cents,
            reference: None,
        };
        self.commit::<Account>(id, &[deposited])
    }

    pub(super) fn options(&self) -> ProjectionOptions {
        ProjectionOptions {
            address: match &self.postgres {
                Some((server, database)) => StoreAddress::parse(&server.url(database)).unwrap(),
                None => StoreAddress::Sqlite,
            },
            cluster: "test".to_owned(),
            node: "1".to_owned(),
            follow_interval: Duration::from_millis(5),
            path: self.directory.path().join("views.sqlite"),
            journal: "journal".to_owned(),
            shards: SHARDS,
            missing_shards: Arc::default(),
            batch_bytes: 4096,
            commit_interval: Duration::from_millis(2),
            cache_rows: 10,
            read_connections: 2,
            check_at_start: true,
            check_interval: Duration::ZERO,
        }
    }

    pub(super) fn ground(&self) -> ProjectionGround {
        ProjectionGround {
            feed: Arc::new(self.journal.clone()),
            journal: Arc::new(self.journal.clone()),
            streams: Arc::new(OwnStreams(self.journal.clone())),
            clock: Arc::new(SystemClock::default()),
        }
    }

    /// A read side that writes.
    pub(super) async fn start(&self, registry: &ProjectionRegistry) -> Projections {
        let projections = self.start_as(registry, "1").await;
        writes(&projections).await;
        projections
    }

    /// A read side of a node of this name, which may not be there yet for all that it needs.
    pub(super) async fn start_as(&self, registry: &ProjectionRegistry, node: &str) -> Projections {
        let options = ProjectionOptions {
            node: node.to_owned(),
            ..self.options()
        };
        Projections::start(registry, options, self.ground())
            .await
            .unwrap()
    }

    /// The last position of every shard.
    pub(super) fn ends(&self) -> Vec<Position> {
        let ends = (0..).zip(&self.ends);
        ends.map(|(shard, (_, number)): (ShardId, _)| Position {
            shard,
            number: *number,
        })
        .collect()
    }

    /// A query for everything that is committed by now.
    pub(super) fn now(&self) -> Freshness {
        Freshness {
            after: self.ends(),
            wait: Duration::from_secs(60),
        }
    }
}

/// A query that does not wait.
pub(super) fn at_once() -> Freshness {
    Freshness::default()
}

/// The rows of a page, in the order in which they came.
pub(super) fn rows(page: &Page) -> Vec<serde_json::Value> {
    serde_json::from_slice(&page.rows).unwrap()
}

/// All rows of a view once it has taken in everything, page by page.
pub(super) async fn all(views: &Views, view: &str, world: &World) -> Vec<serde_json::Value> {
    let mut found = Vec::new();
    let mut pairs = vec![("limit".into(), "7".into())];
    loop {
        let page = views.list(view, &pairs, &world.now()).await.unwrap();
        found.extend(rows(&page));
        match page.next_cursor {
            Some(cursor) => {
                pairs.truncate(1);
                pairs.push(("cursor".into(), cursor.into()));
            }
            None => return found,
        }
    }
}

/// Waits until a read side writes.
pub(super) async fn writes(projections: &Projections) {
    let views = projections.views().clone();
    until("a read side that writes", async move || {
        let withheld = [Activity::Checking, Activity::Repairing];
        let mut statuses = views.statuses().into_iter();
        views.standing().state == Part::Writing
            && !statuses.any(|status| withheld.contains(&status.state))
    })
    .await;
}

/// Polls until something holds.
pub(super) async fn until(what: &str, mut check: impl AsyncFnMut() -> bool) {
    let deadline = tokio::time::Instant::now() + Duration::from_secs(60);
    while !check().await {
        assert!(tokio::time::Instant::now() < deadline, "in vain: {what}");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

/// The streams of a node that has a copy of everything.
#[derive(Debug)]
struct OwnStreams(Journal);

impl Streams for OwnStreams {
    fn read(
        &self,
        shard: ShardId,
        stream: &StreamName,
        from_sequence: u64,
        until: u64,
    ) -> BoxFuture<'_, Result<Vec<Record>, String>> {
        let stream = stream.clone();
        Box::pin(async move {
            phalanx_actors::ports::Journal::wait_indexed(&self.0, shard, until)
                .await
                .map_err(|error| error.to_string())?;
            // A small page: an attempt takes several.
            phalanx_actors::ports::Journal::read_stream(&self.0, shard, &stream, from_sequence, 2)
                .map_err(|error| error.to_string())
        })
    }
}
