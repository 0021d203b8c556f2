//! Clients: each sends one request at a time to any node, tries again with the same key as long as
//! it does not know what became of it, and writes down what it heard and when.
//!
//! "When" is a place in one order of all beginnings and ends, so that "completed before the other
//! began" has no ties.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;
use phalanx_actors::names::StreamName;
use phalanx_actors::request::{Answer, CommandRequest, FailureKind, Precondition};

use phalanx::cluster::NodeId;
use tokio::time::Instant;

use crate::chance::{Dice, Trace};
use crate::node::Door;

/// What a client wants.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Wish {
    Open,
    Deposit(i64),
    Withdraw(i64),
    Read,
}

/// What it heard in the end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// It runs, or the client gave up while it may have happened.
    Unknown,
    /// All attempts ended with the word that nothing was stored.
    NotStored,
    Accepted {
        sequence: u64,
        position: u64,
        shard: u32,
    },
    Rejected {
        code: String,
        /// The balance that the rejection names.
        balance: Option<i64>,
    },
    Mismatch {
        sequence: u64,
    },
    State {
        sequence: u64,
        balance: i64,
    },
    NotFound,
}

/// One request from its first attempt to its end.
#[derive(Debug, Clone)]
pub(crate) struct Operation {
    pub(crate) stream: StreamName,
    pub(crate) wish: Wish,
    pub(crate) key: String,
    pub(crate) precondition: Precondition,
    pub(crate) began: u64,
    /// `u64::MAX` as long as it has no end.
    pub(crate) ended: u64,
    /// The outcome of an attempt was not known.
    pub(crate) tainted: bool,
    pub(crate) outcome: Outcome,
}

/// Everything that clients did.
#[derive(Debug, Default)]
pub(crate) struct Book {
    moment: AtomicU64,
    operations: Mutex<Vec<Operation>>,
}

impl Book {
    fn moment(&self) -> u64 {
        self.moment.fetch_add(1, Ordering::SeqCst)
    }

    fn begin(
        &self,
        stream: &StreamName,
        wish: Wish,
        key: &str,
        precondition: Precondition,
    ) -> usize {
        let mut operations = self.operations.lock();
        operations.push(Operation {
            stream: stream.clone(),
            wish,
            key: key.to_owned(),
            precondition,
            began: self.moment(),
            ended: u64::MAX,
            tainted: false,
            outcome: Outcome::Unknown,
        });
        operations.len() - 1
    }

    fn end(&self, at: usize, tainted: bool, outcome: Outcome) {
        let ended = self.moment();
        let operation = &mut self.operations.lock()[at];
        // What is unknown may happen any time later.
        if outcome != Outcome::Unknown {
            operation.ended = ended;
        }
        operation.tainted = tainted;
        operation.outcome = outcome;
    }

    pub(crate) fn operations(&self) -> Vec<Operation> {
        self.operations.lock().clone()
    }

    pub(crate) fn count(&self, which: impl Fn(&Operation) -> bool) -> usize {
        self.operations.lock().iter().filter(|o| which(o)).count()
    }
}

/// The doors of all nodes that are up.
#[derive(Default)]
pub(crate) struct Doors(Mutex<Vec<Door>>);

impl Doors {
    pub(crate) fn set(&self, doors: Vec<Door>) {
        *self.0.lock() = doors;
    }

    pub(crate) fn all(&self) -> Vec<Door> {
        self.0.lock().clone()
    }
}

/// What clients share.
pub(crate) struct Desk {
    pub(crate) doors: Doors,
    pub(crate) book: Book,
    pub(crate) trace: Arc<Trace>,
    pub(crate) streams: Vec<StreamName>,
    pub(crate) closing: AtomicBool,
    /// Aggregates to which only clients of a plot send commands now.
    pub(crate) quiet: Mutex<Vec<usize>>,
}

/// What a client does, where and for how long.
#[derive(Debug, Clone)]
pub(crate) struct Habits {
    /// The only node that it asks; any, if none is named.
    pub(crate) node: Option<NodeId>,
    /// Which aggregates it uses.
    pub(crate) streams: Vec<usize>,
    /// Reads, of a hundred requests.
    pub(crate) reads: u64,
    /// The longest pause between two requests, in milliseconds.
    pub(crate) pause_ms: u64,
    /// The most attempts at a request.
    pub(crate) attempts: u64,
    /// The end; without one it goes on until the desk closes.
    pub(crate) until: Option<Instant>,
}

impl Habits {
    /// Everything, everywhere, to the end.
    pub(crate) fn usual(streams: usize) -> Self {
        Self {
            node: None,
            streams: (0..streams).collect(),
            reads: 30,
            pause_ms: 120,
            attempts: 8,
            until: None,
        }
    }
}

/// One client.
pub(crate) struct Client {
    pub(crate) number: usize,
    pub(crate) habits: Habits,
    pub(crate) dice: Dice,
    pub(crate) desk: Arc<Desk>,
    pub(crate) requests: u64,
    /// The last sequence number that it heard of, by stream.
    pub(crate) heard: Vec<u64>,
}

/// What an attempt led to.
enum Tried {
    Settled(Outcome),
    /// Certainly nothing.
    Nothing,
    Unknown,
}

impl Client {
    /// Sends requests until the desk closes.
    pub(crate) async fn run(mut self) {
        let over = |until: Option<Instant>| until.is_some_and(|until| Instant::now() >= until);
        while !self.desk.closing.load(Ordering::SeqCst) && !over(self.habits.until) {
            tokio::time::sleep(self.dice.millis(1, self.habits.pause_ms)).await;
            let at = *self.dice.pick(&self.habits.streams);
            let quiet = self.habits.node.is_none() && self.desk.quiet.lock().contains(&at);
            let wish = if quiet || self.dice.between(0, 99) < self.habits.reads {
                Wish::Read
            } else {
                self.command()
            };
            let most = self.dice.between(1, self.habits.attempts);
            self.ask(at, wish, most).await;
        }
    }

    fn command(&self) -> Wish {
        match self.dice.between(0, 69) {
            0..=7 => Wish::Open,
            8..=47 => Wish::Deposit(i64::try_from(self.dice.between(1, 100)).unwrap()),
            _ => Wish::Withdraw(i64::try_from(self.dice.between(1, 250)).unwrap()),
        }
    }

    /// The doors that it may knock at now.
    fn doors(&self) -> Vec<Door> {
        let mut doors = self.desk.doors.all();
        doors.retain(|door| self.habits.node.is_none_or(|node| node == door.node));
        doors
    }

    /// One request with at most this many attempts; what was heard.
    pub(crate) async fn ask(&mut self, at: usize, wish: Wish, attempts: u64) -> Outcome {
        let stream = self.desk.streams[at].clone();
        self.requests += 1;
        let key = format!("{}-{}", self.number, self.requests);
        let precondition = if wish != Wish::Read && self.dice.happens(0.1) {
            Precondition::AtSequence(self.heard[at])
        } else {
            Precondition::Any
        };
        let desk = Arc::clone(&self.desk);
        let entry = desk.book.begin(&stream, wish, &key, precondition);
        let mut outcome = Outcome::NotStored;
        let mut tainted = false;
        for attempt in 1..=attempts {
            let doors = self.doors();
            let tried = if doors.is_empty() {
                Tried::Nothing
            } else {
                let door = self.dice.pick(&doors);
                desk.trace.note(&format!(
                    "client {} asks node {}: {key} {wish:?} {} {precondition:?}, attempt {attempt}",
                    self.number,
                    door.node,
                    stream.id(),
                ));
                self.attempt(door.clone(), &stream, wish, &key, precondition)
                    .await
            };
            match tried {
                Tried::Settled(settled) => {
                    outcome = settled;
                    break;
                }
                Tried::Nothing => {}
                Tried::Unknown => {
                    tainted = true;
                    outcome = Outcome::Unknown;
                }
            }
            tokio::time::sleep(self.dice.millis(1, 200)).await;
        }
        desk.trace
            .note(&format!("client {} hears {key}: {outcome:?}", self.number));
        match &outcome {
            Outcome::Accepted { sequence, .. }
            | Outcome::State { sequence, .. }
            | Outcome::Mismatch { sequence } => self.heard[at] = *sequence,
            _ => {}
        }
        desk.book.end(entry, tainted, outcome.clone());
        outcome
    }

    async fn attempt(
        &self,
        door: Door,
        stream: &StreamName,
        wish: Wish,
        key: &str,
        precondition: Precondition,
    ) -> Tried {
        let mut gone = door.gone.clone();
        let within = self.dice.millis(300, 4_000);
        // Some clients hang up earlier than they said they would.
        let patience = if self.dice.happens(0.1) {
            self.dice.millis(5, 500)
        } else {
            within + Duration::from_secs(1)
        };
        let answer = async {
            match wish {
                Wish::Read => door.router.read(stream, within).await.0,
                _ => {
                    let request = command(wish, key, precondition);
                    door.router.command(stream, &request, within).await
                }
            }
        };
        tokio::select! {
            biased;
            _ = gone.wait_for(|gone| *gone) => Tried::Unknown,
            answer = answer => self.understand(answer, key),
            () = tokio::time::sleep(patience) => Tried::Unknown,
        }
    }

    fn understand(&self, answer: Answer, key: &str) -> Tried {
        Tried::Settled(match answer {
            Answer::Accepted(accepted) => Outcome::Accepted {
                sequence: accepted.sequence_number,
                position: accepted.position.number,
                shard: accepted.position.shard,
            },
            Answer::Rejected { code, fields, .. } => Outcome::Rejected {
                code,
                balance: fields.get("balance_cents").and_then(|cents| cents.as_i64()),
            },
            Answer::SequenceMismatch {
                current_sequence_number: sequence,
            } => Outcome::Mismatch { sequence },
            Answer::State(view) => {
                let state: serde_json::Value = serde_json::from_str(view.state.get()).unwrap();
                Outcome::State {
                    sequence: view.sequence_number,
                    balance: state["balance_cents"].as_i64().unwrap(),
                }
            }
            Answer::NotFound => Outcome::NotFound,
            Answer::KeyReused => {
                let what = format!("{key} was said to belong to another command");
                self.desk.trace.violated(what);
                return Tried::Unknown;
            }
            Answer::Failed(failure) => {
                self.desk.trace.note(&format!(
                    "client {} is told of {key}: {:?}: {}",
                    self.number, failure.kind, failure.detail
                ));
                return match failure.kind {
                    FailureKind::NoLeader
                    | FailureKind::Overloaded
                    | FailureKind::ShuttingDown
                    | FailureKind::NotReady
                    | FailureKind::StorageFull => Tried::Nothing,
                    FailureKind::OutcomeUnknown => Tried::Unknown,
                    other => {
                        let detail = failure.detail;
                        let what = format!("{key} was answered with {other:?}: {detail}");
                        self.desk.trace.violated(what);
                        Tried::Unknown
                    }
                };
            }
        })
    }
}

fn command(wish: Wish, key: &str, precondition: Precondition) -> CommandRequest {
    let (name, body) = match wish {
        Wish::Open => (
            "OpenAccount",
            r#"{"owner":"Ada","currency":"EUR"}"#.to_owned(),
        ),
        Wish::Deposit(cents) => ("Deposit", format!(r#"{{"amount_cents":{cents}}}"#)),
        Wish::Withdraw(cents) => ("Withdraw", format!(r#"{{"amount_cents":{cents}}}"#)),
        Wish::Read => unreachable!("no command"),
    };
    CommandRequest {
        command: name.to_owned(),
        body: Bytes::from(body),
        idempotency_key: Some(key.to_owned()),
        key_is_new: false,
        precondition,
        representation: false,
        dry_run: false,
        traceparent: None,
        origin: None,
    }
}
