//! Requests about accounts, and what their answers mean, in the words of the tests.
//!
//! Invariant: a history that is returned is complete, from the first event to the last.

use std::collections::HashMap;
use std::time::Duration;

use serde_json::{Value, json};

use super::http::{Http, Request, Response};
use super::wait;

/// For an election, with room for a busy machine.
const STORED_WITHIN: Duration = Duration::from_secs(60);

/// One event of an account's history, in the order in which it was listed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Entry {
    pub(crate) sequence: u64,
    pub(crate) kind: String,
    pub(crate) amount: i64,
    pub(crate) position: String,
}

impl Entry {
    fn from_cloud_event(event: &Value) -> Self {
        Self {
            sequence: number(&event["sequence"])
                .unwrap_or_else(|| panic!("no sequence number: {event}")),
            kind: event["type"].as_str().unwrap_or_default().to_owned(),
            amount: event["data"]["amount_cents"].as_i64().unwrap_or(0),
            position: event["position"].as_str().unwrap_or_default().to_owned(),
        }
    }

    /// What it adds to the balance.
    pub(crate) fn balance_change(&self) -> i64 {
        match self.kind.as_str() {
            "MoneyWithdrawn" => -self.amount,
            _ => self.amount,
        }
    }
}

/// CloudEvents writes the extension `sequence` as text; a number is as good.
fn number(value: &Value) -> Option<u64> {
    value
        .as_u64()
        .or_else(|| value.as_str().and_then(|text| text.parse().ok()))
}

/// Opens an account.
pub(crate) fn open(id: &str) -> Request {
    let body = json!({"owner": format!("owner of {id}"), "currency": "EUR"});
    Request::command("account", id, "OpenAccount", body.to_string()).key("open")
}

/// Pays money in.
pub(crate) fn deposit(id: &str, amount_cents: i64) -> Request {
    let body = json!({"amount_cents": amount_cents});
    Request::command("account", id, "Deposit", body.to_string())
}

/// Asks for more money than any account holds.
pub(crate) fn overdraw(id: &str) -> Request {
    let body = json!({"amount_cents": i64::MAX});
    Request::command("account", id, "Withdraw", body.to_string())
}

/// Where the state of an account is read.
pub(crate) fn account_target(id: &str) -> String {
    format!("/v1/aggregates/account/{id}")
}

/// Reads the state from memory, with a declared reason that is rate limited.
pub(crate) fn fresh(id: &str) -> Request {
    Request::get(&account_target(id)).header("Phalanx-Justification", "fraud-check")
}

/// Reads the state from memory after a write, which is always allowed.
pub(crate) fn fresh_after(id: &str, position: &str) -> Request {
    Request::get(&format!("{}?after={position}", account_target(id)))
}

/// The whole history of an account, over as many pages as it takes; the first answer that is no
/// 200 as an error, if it says more than that there is none for now.
pub(crate) fn history(http: &mut Http, id: &str) -> Result<Vec<Entry>, Response> {
    let mut target = format!("{}/events?limit=1000", account_target(id));
    let mut entries = Vec::new();
    loop {
        let page = http.send_until_answered(&Request::get(&target));
        if page.status != 200 {
            return Err(page);
        }
        let events = page.json();
        let events = events.as_array().expect("a history is an array");
        entries.extend(events.iter().map(Entry::from_cloud_event));
        match next_page(&page) {
            Some(next) => target = next,
            None => return Ok(entries),
        }
    }
}

/// The target of `Link: <...>; rel="next"`.
pub(crate) fn next_page(page: &Response) -> Option<String> {
    let link = page.header("Link")?;
    let (address, parameters) = link.strip_prefix('<')?.split_once('>')?;
    assert!(parameters.contains("rel=\"next\""), "{link}");
    let path = match address.split_once("://") {
        Some((_, rest)) => &rest[rest.find('/').expect("an absolute link has a path")..],
        None => address,
    };
    Some(path.to_owned())
}

/// Sends until the node is able to decide; for preparations that are not themselves under test.
///
/// # Panics
/// When the answer is no success.
pub(crate) fn expect_success(http: &mut Http, request: &Request) -> Response {
    let response = http.send_until_answered(request);
    assert!(
        matches!(response.status, 200 | 201),
        "{request:?}: {} {}",
        response.status,
        response.text()
    );
    response
}

/// Sends a request until it is carried out, to whichever node the client knows; gives its position.
///
/// # Panics
/// When the answer is another one than "later", or it takes too long.
pub(crate) fn store(http: &mut Http, request: &Request) -> String {
    wait::until("a command is stored", STORED_WITHIN, || {
        let response = http.try_send(request).ok()?;
        match response.status {
            200 | 201 => Some(response.header("Phalanx-Position")?.to_owned()),
            503 | 504 => None,
            status => panic!("{request:?}: {status} {}", response.text()),
        }
    })
}

/// Whether this is one of the answers by which a node tells a client to come again, complete as the
/// contract has it.
pub(crate) fn may_come_again(response: &Response) -> bool {
    let code = response.code();
    let outcome = || response.json()["outcome"].clone();
    match (response.status, code.as_str()) {
        (429, "rate-limited") => response.header("Retry-After").is_some(),
        (503, "overloaded" | "no-leader" | "shutting-down" | "not-ready") => {
            response.header("Retry-After").is_some() && outcome() == "not_applied"
        }
        (504, "outcome-unknown") => outcome() == "unknown",
        (507, "storage-full") => outcome() == "not_applied",
        _ => false,
    }
}

/// The balance after each sequence number, 0 included.
pub(crate) fn balances(entries: &[Entry]) -> Vec<i64> {
    let mut balance = 0;
    let changes = entries.iter().map(|entry| {
        balance += entry.balance_change();
        balance
    });
    std::iter::once(0).chain(changes).collect()
}

/// How often each amount was paid in.
pub(crate) fn deposits(entries: &[Entry]) -> HashMap<i64, Vec<u64>> {
    let mut found: HashMap<i64, Vec<u64>> = HashMap::new();
    for entry in entries
        .iter()
        .filter(|entry| entry.kind == "MoneyDeposited")
    {
        found.entry(entry.amount).or_default().push(entry.sequence);
    }
    found
}
