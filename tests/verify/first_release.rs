//! Journals as the first release wrote them.

use std::path::Path;
use std::sync::{Arc, mpsc};

use bytes::Bytes;
use phalanx::journal::{
    Applied, AppliedRecord, Identity, Journal, JournalOptions, LogEntry, LogPayload, Storage,
};
use phalanx_actors::names::StreamName;
use phalanx_actors::ports::{Journal as _, SystemClock};
use phalanx_actors::record::{Draft, Record, RecordHead};
use serde::Serialize;

/// The events of an account as the first release stored them.
#[derive(Serialize)]
enum FirstRelease {
    AccountOpened { owner: String, currency: String },
    MoneyDeposited { amount_cents: i64 },
}

/// A journal of one shard in which the first release stored so many events of `accounts` accounts.
pub(crate) fn first_release(data_dir: &Path, accounts: u64, events: u64) {
    let identity = Identity {
        cluster_name: "test".to_owned(),
        node_id: 1,
        shards: 1,
    };
    let options = JournalOptions::new(data_dir.to_owned(), identity);
    let clock = Arc::new(SystemClock::default());
    let journal = Journal::open(&options, Storage::RocksDb, clock).expect("a new journal");
    let mut position = 0;
    for index in 0.. {
        if position == events {
            break;
        }
        let until = events.min(position + 1000);
        let records: Vec<Record> = (position..until).map(|n| old_record(n, accounts)).collect();
        position = until;
        let applied = |(slot, record): (u32, &Record)| AppliedRecord {
            index,
            slot,
            record: record.clone(),
        };
        let to_apply = (0..).zip(&records).map(applied).collect();
        let meta = Bytes::from(index.to_string());
        let entry = LogEntry {
            index,
            meta: meta.clone(),
            payload: LogPayload::Records(records.into()),
        };
        let (done, written) = mpsc::channel();
        journal.append(
            0,
            vec![entry],
            Box::new(move |result| done.send(result).expect("somebody waits")),
        );
        written.recv().expect("an answer").expect("it is written");
        journal.apply(0, to_apply, Applied { index, state: meta });
    }
    let runtime = tokio::runtime::Builder::new_current_thread().build();
    runtime
        .expect("a runtime")
        .block_on(journal.wait_indexed(0, events))
        .expect("it is indexed");
    journal.shutdown();
}

/// The n-th event of all, counted from 0; accounts take turns.
fn old_record(n: u64, accounts: u64) -> Record {
    let stream = StreamName::new("account", &format!("a-{}", n % accounts)).expect("a name");
    let head = RecordHead {
        stream: stream.as_str(),
        first_sequence: n / accounts + 1,
        event_count: 1,
        time_us: 1_700_000_000_000_000,
        command: "Deposit",
        key: &format!("k-{n}"),
        fingerprint: [0; 16],
        flags: 0,
        traceparent: "",
    };
    let event = if n < accounts {
        FirstRelease::AccountOpened {
            owner: "ada".to_owned(),
            currency: "EUR".to_owned(),
        }
    } else {
        FirstRelease::MoneyDeposited { amount_cents: 5 }
    };
    let draft = Draft::new(&head, 1, &[event]).expect("it can be stored");
    Record::from_stored(draft.finish(n + 1)).expect("it can be read")
}
