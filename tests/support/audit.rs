//! The audit: what the node's histories say, against the tellers' books.
//!
//! Holds when every promise is kept exactly once, in the place that was promised, and every balance
//! that was ever shown existed. Refuses a run in which too little happened to mean anything.

use std::collections::HashSet;
use std::net::SocketAddr;
use std::time::Duration;

use super::books::{AMOUNTS_PER_TELLER, Books, Promise, Sighting};
use super::client::{self, Entry};
use super::http::{Http, Response};
use super::wait;

/// What was checked.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Checked {
    /// Acknowledged commands, each found once.
    pub(crate) promises: usize,
    /// Events in all histories.
    pub(crate) events: usize,
    /// Balances that were shown and found in a history.
    pub(crate) sightings: usize,
    /// Attempts of tellers that were answered with a stored reply.
    pub(crate) replays: u64,
    /// Attempts of tellers that had to be repeated.
    pub(crate) retries: u64,
}

/// Audits all books of a run on these accounts.
///
/// # Panics
/// At the first broken promise.
pub(crate) fn audit(address: SocketAddr, accounts: &[String], books: &[Books]) -> Checked {
    audit_by(Http::new(address), accounts, books)
}

/// Audits all books of a run through this client.
///
/// # Panics
/// At the first broken promise.
pub(crate) fn audit_by(mut http: Http, accounts: &[String], books: &[Books]) -> Checked {
    let mut checked = Checked::default();
    for (account, id) in accounts.iter().enumerate() {
        let entries = client::history(&mut http, id)
            .unwrap_or_else(|refused| panic!("history of {id}: {}", refused.text()));
        check_order(id, &entries);
        check_state(&mut http, id, &entries);
        check_deposits(id, account, &entries, books);
        let balances = client::balances(&entries);
        for sighting in all_sightings(books).filter(|seen| seen.account == account) {
            check_sighting(id, &balances, sighting);
            checked.sightings += 1;
        }
        checked.events += entries.len();
    }
    for promise in books.iter().flat_map(|books| &books.promises) {
        check_replay(&mut http, &accounts[promise.account], promise);
        checked.promises += 1;
    }
    checked.replays = books.iter().map(|books| books.replays).sum();
    checked.retries = books.iter().map(|books| books.retries).sum();
    checked
}

fn all_sightings(books: &[Books]) -> impl Iterator<Item = &Sighting> {
    books.iter().flat_map(|books| &books.sightings)
}

/// Sequence numbers 1, 2, 3 ... and growing positions of one shard.
fn check_order(id: &str, entries: &[Entry]) {
    let place = |entry: &Entry| {
        let (shard, number) = entry
            .position
            .split_once(':')
            .expect("a position has two parts");
        (
            shard.to_owned(),
            number.parse::<u64>().expect("a position ends in a number"),
        )
    };
    let mut before: Option<(String, u64)> = None;
    for (entry, expected) in entries.iter().zip(1..) {
        assert_eq!(
            entry.sequence, expected,
            "{id}: a gap or a repeat: {entries:?}"
        );
        let place = place(entry);
        if let Some((shard, number)) = before {
            assert_eq!(shard, place.0, "{id}: an aggregate lives in one shard");
            assert!(number < place.1, "{id}: positions must grow: {entry:?}");
        }
        before = Some(place);
    }
    let opened = entries
        .iter()
        .filter(|entry| entry.kind == "AccountOpened")
        .count();
    assert_eq!(opened, 1, "{id}: opened once");
}

/// The state in memory is the history folded.
fn check_state(http: &mut Http, id: &str, entries: &[Entry]) {
    let last = entries.last().expect("an opened account has a history");
    let request = client::fresh_after(id, &last.position);
    let state = wait::until("an answer to a fresh read", Duration::from_secs(60), || {
        let response = http.try_send(&request).ok()?;
        (response.status == 200).then(|| response.json())
    });
    assert_eq!(
        state["sequence_number"].as_u64(),
        Some(last.sequence),
        "{id}"
    );
    let balance = entries.iter().map(Entry::balance_change).sum::<i64>();
    assert_eq!(
        state["state"]["balance_cents"].as_i64(),
        Some(balance),
        "{id}"
    );
}

/// Every event belongs to a command that was issued, no command took effect twice, and promised
/// ones stand where the promise said.
fn check_deposits(id: &str, account: usize, entries: &[Entry], books: &[Books]) {
    let deposits = client::deposits(entries);
    for (amount, sequences) in &deposits {
        assert_eq!(
            sequences.len(),
            1,
            "{id}: {amount} was paid in twice: {sequences:?}"
        );
        let (teller, n) = (amount / AMOUNTS_PER_TELLER, amount % AMOUNTS_PER_TELLER);
        let issued = books
            .iter()
            .any(|books| books.teller == teller && n >= 1 && n <= books.issued);
        assert!(issued, "{id}: nobody ever paid in {amount}");
    }
    let mut promised = HashSet::new();
    for promise in books
        .iter()
        .flat_map(|books| &books.promises)
        .filter(|promise| promise.account == account)
    {
        let found = deposits.get(&promise.amount);
        assert_eq!(
            found,
            Some(&vec![promise.sequence]),
            "{id}: an acknowledged deposit is lost or moved: {promise:?}"
        );
        promised.insert(promise.amount);
    }
    let unasked = deposits.keys().find(|amount| !promised.contains(amount));
    assert_eq!(unasked, None, "{id}: tellers retry until they are answered");
}

/// A balance that was shown existed, and was not older than what its reader knew.
fn check_sighting(id: &str, balances: &[i64], seen: &Sighting) {
    let known = usize::try_from(seen.known).expect("fits");
    match seen.sequence {
        Some(sequence) => {
            let at = usize::try_from(sequence).expect("fits");
            assert_eq!(
                balances.get(at),
                Some(&seen.balance),
                "{id}: never existed: {seen:?}"
            );
            assert!(at >= known, "{id}: a stale read: {seen:?}");
        }
        None => assert!(
            balances
                .iter()
                .skip(known)
                .any(|balance| *balance == seen.balance),
            "{id}: a rejection tells of a balance that never was, or no longer: {seen:?}"
        ),
    }
}

/// The stored reply is the one that was promised, byte for byte.
fn check_replay(http: &mut Http, id: &str, promise: &Promise) {
    let request = client::deposit(id, promise.amount).key(&promise.key);
    // A node without a copy that lost an attempt of its own at this request cannot tell that the reply is
    // older; it can the next time.
    let what = format!("{id}: a reply that says it is a replay: {promise:?}");
    wait::until(&what, Duration::from_secs(20), || {
        let again = http.send_until_answered(&request);
        assert_same_reply(&promise.reply, &again);
        (again.header("Idempotent-Replay") == Some("true")).then_some(())
    });
}

/// Status, body, `ETag` and `Phalanx-Position` are those of the first reply.
pub(crate) fn assert_same_reply(first: &Response, again: &Response) {
    assert_eq!(first.text(), again.text(), "the body of the stored reply");
    assert_eq!(
        first.body, again.body,
        "the body of the stored reply, byte for byte"
    );
    assert_eq!(first.status, again.status, "the status of the stored reply");
    for name in ["ETag", "Phalanx-Position", "Content-Type"] {
        assert_eq!(
            first.header(name),
            again.header(name),
            "{name} of the stored reply"
        );
    }
}
