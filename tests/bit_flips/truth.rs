//! What an undamaged node says, recorded once and compared with what a damaged one says.
//!
//! An answer is right, or it is a 5xx problem; everything else is wrong, a 404 as well as a balance.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::support::client;
use crate::support::http::{Http, Request, Response};
use crate::support::node::{Node, NodeSetup};
use crate::support::wait;
use crate::views::Lists;

const ACCOUNTS: usize = 40;
const DEPOSITS: i64 = 9;
/// Long enough that a few dozen accounts fill a table.
const OWNER_BYTES: usize = 12_000;
/// A damaged shard may need a moment until it is refused.
const PATIENCE: Duration = Duration::from_secs(5);

/// What is right.
#[derive(Debug)]
pub(crate) struct Truth {
    accounts: Vec<Account>,
    lists: Lists,
}

#[derive(Debug)]
struct Account {
    id: String,
    position: String,
    deposit_reply: Response,
    history: Value,
    state: Value,
}

/// What a node showed when it showed nothing wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Seen {
    /// Every answer was right.
    AllRight,
    /// Some were a 5xx problem, the rest right.
    SomeRefused,
}

impl Truth {
    /// Fills a new node so that every kind of file exists, and kills it with records in its log.
    pub(crate) fn record(setup: &NodeSetup) -> Self {
        let mut accounts: Vec<Account> = Vec::new();
        let mut lists = None;
        // The first third ends in tables by an orderly stop, the second by the recovery after a
        // kill, and the last one stays in the log.
        for (third, orderly) in [(0, true), (1, false), (2, false)] {
            let mut node = setup.start();
            let numbers = (0..ACCOUNTS).filter(|n| n * 3 / ACCOUNTS == third);
            accounts.extend(numbers.map(|n| fill(&mut node.client(), n)));
            let positions = accounts.iter().map(|account| account.position.as_str());
            lists = Some(Lists::record(&mut node.client(), positions));
            if orderly {
                node.stop();
            } else {
                node.kill();
            }
        }
        Self {
            accounts,
            lists: lists.expect("it was filled"),
        }
    }

    /// Asks for every history, state and stored reply, then writes to every account.
    pub(crate) fn compare(&self, node: &Node) -> Result<Seen, String> {
        let mut all = self.compare_without_writing(node)?;
        let mut http = node.client();
        if self.lists.compare(&mut http)? {
            all = Seen::SomeRefused;
        }
        for account in &self.accounts {
            let request = client::deposit(&account.id, 1).key("new");
            let refused = check(&mut http, &request, |reply| {
                reply.status == 200
                    && reply.json()["sequence_number"] == json!(DEPOSITS + 2)
                    && reply.header("Idempotent-Replay").is_none()
            })?;
            if refused {
                all = Seen::SomeRefused;
            }
        }
        Ok(all)
    }

    fn compare_without_writing(&self, node: &Node) -> Result<Seen, String> {
        let mut http = node.client();
        let mut seen = Seen::AllRight;
        for account in &self.accounts {
            if account.compare(&mut http)? {
                seen = Seen::SomeRefused;
            }
        }
        Ok(seen)
    }
}

impl Account {
    /// Whether anything was refused.
    fn compare(&self, http: &mut Http) -> Result<bool, String> {
        let id = &self.id;
        let history = Request::get(&history_target(id));
        let fresh = client::fresh_after(id, &self.position);
        let replay = client::deposit(id, DEPOSITS).key(&format!("deposit-{DEPOSITS}"));
        let old = Request::get(&format!("{}?at_sequence=2", client::account_target(id)));
        let wrong_history = check(http, &history, |reply| {
            reply.status == 200 && reply.json() == self.history
        })?;
        let wrong_state = check(http, &fresh, |reply| {
            reply.status == 200 && state_of(reply) == self.state
        })?;
        let wrong_past = check(http, &old, |reply| {
            reply.status == 200 && reply.json()["state"]["balance_cents"] == json!(1)
        })?;
        let wrong_reply = check(http, &replay, |reply| {
            reply.status == self.deposit_reply.status && reply.body == self.deposit_reply.body
        })?;
        Ok(wrong_history || wrong_state || wrong_past || wrong_reply)
    }
}

/// Whether the node refused; an error when its answer is neither right nor a refusal.
fn check(
    http: &mut Http,
    request: &Request,
    right: impl Fn(&Response) -> bool,
) -> Result<bool, String> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let reply = http
            .try_send(request)
            .map_err(|error| format!("no answer to {request:?}: {error}"))?;
        if right(&reply) {
            return Ok(false);
        }
        if !matches!(reply.status, 429 | 500 | 503 | 504) || reply.code().is_empty() {
            return Err(format!(
                "a wrong answer to {request:?}: {} {}",
                reply.status,
                reply.text()
            ));
        }
        let may_come_right = matches!(reply.code().as_str(), "no-leader" | "rate-limited");
        if !may_come_right || Instant::now() > deadline {
            return Ok(true);
        }
        wait::let_pass(Duration::from_millis(20));
    }
}

fn history_target(id: &str) -> String {
    format!("{}/events?limit=1000", client::account_target(id))
}

/// The reply without the term, which grows with every start.
fn state_of(reply: &Response) -> Value {
    let mut body = reply.json();
    body["served_by"] = Value::Null;
    body
}

fn fill(http: &mut Http, n: usize) -> Account {
    let id = format!("flip-{n}");
    let owner: String = (0..OWNER_BYTES)
        .map(|at| char::from(b'a' + ((at * at + at / 7 + n * 31) % 26) as u8))
        .collect();
    let body = json!({"owner": owner, "currency": "EUR"});
    let open = Request::command("account", &id, "OpenAccount", body.to_string()).key("open");
    client::expect_success(http, &open);
    let replies: Vec<Response> = (1..=DEPOSITS)
        .map(|amount| {
            let request = client::deposit(&id, amount).key(&format!("deposit-{amount}"));
            client::expect_success(http, &request)
        })
        .collect();
    let deposit_reply = replies.last().expect("there are deposits").clone();
    let position = deposit_reply.json()["position"]
        .as_str()
        .expect("a position")
        .to_owned();
    let history = client::expect_success(http, &Request::get(&history_target(&id))).json();
    let fresh = client::expect_success(http, &client::fresh_after(&id, &position));
    Account {
        id,
        position,
        deposit_reply,
        history,
        state: state_of(&fresh),
    }
}
