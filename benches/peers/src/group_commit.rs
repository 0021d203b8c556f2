//! Accounts in memory over a disk that commits whatever waits with one fsync.
//!
//! It owns the one writer thread and the replies that wait for it. It refuses to go on after a
//! failed write: the process ends, because nothing is known about the disk any more.

use std::io;
use std::sync::mpsc::{Receiver, Sender, channel};

use tokio::sync::oneshot;

use crate::account::{Account, Command, Outcome, Refusal};
use crate::http::Store;
use crate::map::Map;

/// The largest group; far more than clients wait at once.
const MAX_GROUP: usize = 4_096;

/// A disk.
pub(crate) trait Disk: Send + 'static {
    /// Makes all records durable, in this order.
    fn commit(&mut self, records: &[Vec<u8>]) -> io::Result<()>;
}

/// A record on its way to the disk.
struct Waiting {
    record: Vec<u8>,
    durable: oneshot::Sender<()>,
}

/// The map and its way to the disk.
#[derive(Debug)]
pub(crate) struct GroupCommit {
    map: Map,
    queue: Sender<Waiting>,
}

impl GroupCommit {
    /// Starts the writer thread.
    pub(crate) fn start(disk: impl Disk) -> io::Result<Self> {
        let (queue, waiting) = channel();
        std::thread::Builder::new()
            .name("writer".to_owned())
            .spawn(move || write_groups(disk, &waiting))?;
        Ok(Self {
            map: Map::default(),
            queue,
        })
    }
}

impl Store for GroupCommit {
    async fn execute(&self, id: String, command: Command) -> Result<Outcome, Refusal> {
        let (outcome, durable) = self.map.change(id, command, |record| {
            let (done, durable) = oneshot::channel();
            // A closed queue shows as a dropped reply below.
            self.queue
                .send(Waiting {
                    record,
                    durable: done,
                })
                .ok();
            durable
        })?;
        durable
            .await
            .map_err(|_| Refusal::Store("the writer is gone".to_owned()))?;
        Ok(outcome)
    }

    async fn read(&self, id: &str) -> Result<Option<Account>, Refusal> {
        Ok(self.map.get(id))
    }
}

fn write_groups(mut disk: impl Disk, waiting: &Receiver<Waiting>) {
    let mut records = Vec::with_capacity(MAX_GROUP);
    let mut replies = Vec::with_capacity(MAX_GROUP);
    while let Ok(first) = waiting.recv() {
        for next in std::iter::once(first).chain(waiting.try_iter().take(MAX_GROUP - 1)) {
            records.push(next.record);
            replies.push(next.durable);
        }
        if let Err(error) = disk.commit(&records) {
            eprintln!("phalanx-peers: failed to write: {error}");
            std::process::exit(1);
        }
        records.clear();
        for reply in replies.drain(..) {
            // A client that went away does not need its reply.
            reply.send(()).ok();
        }
    }
}
