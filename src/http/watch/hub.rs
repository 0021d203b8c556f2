//! Who watches which aggregate, and who tells them that something has happened to it.
//!
//! For each shard with watchers one task follows the committed events and notes, for aggregates that
//! are watched, the newest sequence number. A watcher sleeps until that of its own aggregate grows,
//! so that it costs nothing while others are busy. Refuses: to keep events for anybody. Invariant: the
//! number that is noted is that of an event that is committed.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::Arc;

use parking_lot::Mutex;
use phalanx_actors::names::{ShardId, StreamName};
use phalanx_actors::ports::{Feed, FeedCursor};
use tokio::sync::watch;

/// Stored bytes that are looked through before other tasks have their turn.
const READ_BYTES: usize = 128 << 10;

/// See the file's description. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Hub(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    feed: Arc<dyn Feed>,
    /// The watched aggregates of the shards that are followed.
    shards: Mutex<HashMap<ShardId, HashMap<StreamName, watch::Sender<u64>>>>,
    farewell: watch::Receiver<bool>,
}

/// A watcher's ear.
#[derive(Debug)]
pub(crate) struct Subscription {
    hub: Hub,
    shard: ShardId,
    stream: StreamName,
    newest: watch::Receiver<u64>,
}

impl Hub {
    /// Follows nothing yet. What it follows later ends with `farewell`.
    pub(crate) fn new(feed: Arc<dyn Feed>, farewell: watch::Receiver<bool>) -> Self {
        Self(Arc::new(Inner {
            feed,
            shards: Mutex::default(),
            farewell,
        }))
    }

    /// Hears of events of an aggregate that become known here from now on.
    pub(crate) fn subscribe(&self, shard: ShardId, stream: &StreamName) -> Subscription {
        let mut shards = self.0.shards.lock();
        let streams = match shards.entry(shard) {
            Entry::Occupied(followed) => followed.into_mut(),
            Entry::Vacant(vacant) => {
                let cursor = FeedCursor::after(shard, self.0.feed.committed_position(shard));
                tokio::spawn(Arc::clone(&self.0).follow(cursor));
                vacant.insert(HashMap::new())
            }
        };
        let sender = streams.entry(stream.clone()).or_default();
        Subscription {
            hub: self.clone(),
            shard,
            stream: stream.clone(),
            newest: sender.subscribe(),
        }
    }

    /// How many aggregates are watched.
    #[cfg(test)]
    fn watched(&self) -> usize {
        let shards = self.0.shards.lock();
        shards.values().map(HashMap::len).sum()
    }
}

impl Inner {
    /// Follows a shard until nobody watches anything of it any more, or it cannot be read.
    async fn follow(self: Arc<Self>, mut cursor: FeedCursor) {
        let shard = cursor.shard();
        let mut farewell = self.farewell.clone();
        loop {
            tokio::select! {
                () = self.feed.wait_committed(shard, cursor.position()) => {}
                // Without a sender the node has stopped as well.
                _ = farewell.wait_for(|over| *over) => {
                    self.shards.lock().remove(&shard);
                    return;
                }
            }
            if !self.tell(&mut cursor) {
                return;
            }
            tokio::task::yield_now().await;
        }
    }

    /// Reads on and tells who watches; `false` when the shard need not, or cannot, be followed.
    fn tell(&self, cursor: &mut FeedCursor) -> bool {
        let shard = cursor.shard();
        let records = self.feed.read_committed(cursor, READ_BYTES);
        let mut shards = self.shards.lock();
        let streams = shards.get(&shard).filter(|streams| !streams.is_empty());
        let (Some(streams), Ok(records)) = (streams, &records) else {
            if let Err(error) = records {
                tracing::error!(shard, %error, "a shard cannot be watched any more");
            }
            // Whoever still watches notices that the senders are gone.
            shards.remove(&shard);
            return false;
        };
        for record in records {
            if let Some(newest) = streams.get(&record.stream) {
                let end = record.first_sequence + u64::from(record.event_count);
                let last = end.saturating_sub(1);
                newest.send_if_modified(|newest| {
                    let grows = last > *newest;
                    *newest = last.max(*newest);
                    grows
                });
            }
        }
        true
    }
}

impl Subscription {
    /// The newest sequence number that was heard of; 0 before there was one.
    pub(crate) fn newest(&self) -> u64 {
        *self.newest.borrow()
    }

    /// Waits until an event beyond `seen` was heard of; `false` when nothing will be heard any more.
    pub(crate) async fn beyond(&mut self, seen: u64) -> bool {
        let heard = self.newest.wait_for(|newest| *newest > seen).await;
        heard.is_ok()
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        let mut shards = self.hub.0.shards.lock();
        if let Some(streams) = shards.get_mut(&self.shard)
            && let Entry::Occupied(sender) = streams.entry(self.stream.clone())
            // Its own receiver is the last.
            && sender.get().receiver_count() <= 1
        {
            sender.remove();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use phalanx_actors::ports::{BoxFuture, JournalError};
    use phalanx_actors::record::{Draft, Record, RecordHead};

    use super::*;

    /// A shard whose events stand in memory.
    #[derive(Debug)]
    struct Shard {
        records: Mutex<Vec<Record>>,
        end: watch::Sender<u64>,
        reads: std::sync::atomic::AtomicUsize,
    }

    impl Shard {
        fn commit(&self, id: &str, sequence: u64) {
            let mut records = self.records.lock();
            let position = records.len() as u64 + 1;
            let stream = name(id);
            let head = RecordHead {
                stream: stream.as_str(),
                first_sequence: sequence,
                event_count: 1,
                time_us: 0,
                command: "Test",
                key: "",
                fingerprint: [0; 16],
                flags: 0,
                traceparent: "",
            };
            let draft = Draft::new(&head, 1, &[0_u8]).unwrap();
            records.push(Record::from_stored(draft.finish(position)).unwrap());
            drop(records);
            self.end.send_replace(position);
        }
    }

    impl Feed for Shard {
        fn committed_position(&self, _: ShardId) -> u64 {
            *self.end.borrow()
        }

        fn read_committed(
            &self,
            cursor: &mut FeedCursor,
            _: usize,
        ) -> Result<Vec<Record>, JournalError> {
            self.reads
                .fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            let records = self.records.lock();
            let from = usize::try_from(cursor.position()).unwrap();
            let read = records[from..].to_vec();
            cursor.advance(records.len() as u64, 0);
            Ok(read)
        }

        fn wait_committed(&self, _: ShardId, beyond: u64) -> BoxFuture<'_, ()> {
            let mut end = self.end.subscribe();
            Box::pin(async move {
                end.wait_for(|end| *end > beyond).await.unwrap();
            })
        }
    }

    fn name(id: &str) -> StreamName {
        StreamName::new("account", id).unwrap()
    }

    #[tokio::test]
    async fn a_watcher_hears_of_its_own_aggregate_and_is_forgotten_when_it_leaves() {
        let shard = Arc::new(Shard {
            records: Mutex::default(),
            end: watch::Sender::new(0),
            reads: Default::default(),
        });
        let farewell = watch::Sender::new(false);
        let hub = Hub::new(shard.clone(), farewell.subscribe());
        shard.commit("a", 1);
        let mut one = hub.subscribe(0, &name("a"));
        let two = hub.subscribe(0, &name("a"));
        let mut other = hub.subscribe(0, &name("b"));
        assert_eq!((one.newest(), hub.watched()), (0, 2));
        shard.commit("a", 2);
        assert!(one.beyond(1).await);
        assert_eq!((one.newest(), two.newest(), other.newest()), (2, 2, 0));
        drop(one);
        assert_eq!(hub.watched(), 2, "somebody else watches it");
        drop(two);
        assert_eq!(hub.watched(), 1);
        // The farewell ends what is followed, and who watches hears of it.
        farewell.send_replace(true);
        let heard = tokio::time::timeout(Duration::from_secs(5), other.beyond(0)).await;
        assert_eq!(heard, Ok(false));
    }

    #[tokio::test]
    async fn a_shard_that_nobody_watches_is_not_read() {
        let shard = Arc::new(Shard {
            records: Mutex::default(),
            end: watch::Sender::new(0),
            reads: Default::default(),
        });
        let farewell = watch::Sender::new(false);
        let hub = Hub::new(shard.clone(), farewell.subscribe());
        drop(hub.subscribe(0, &name("a")));
        for sequence in 1..=50 {
            shard.commit("a", sequence);
            tokio::task::yield_now().await;
        }
        let reads = shard.reads.load(std::sync::atomic::Ordering::Relaxed);
        assert!(reads <= 1, "{reads}");
        // Whoever comes later is served all the same.
        let mut late = hub.subscribe(0, &name("a"));
        shard.commit("a", 51);
        assert!(late.beyond(50).await);
    }
}
