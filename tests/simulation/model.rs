//! A second opinion: the same histories, in small, put to somebody else's linearizability tester.
//!
//! `checks.rs` reads the order of commands off the log, which makes its question easy. This one knows
//! nothing of logs, positions or versions but what clients heard: it searches for any order in which
//! an account could have given these answers. It searches long, so it gets the beginning of each
//! history only; the beginning of a linearizable history is linearizable.

use std::collections::BTreeMap;

use phalanx_actors::names::StreamName;
use phalanx_actors::request::Precondition;
use stateright::semantics::{ConsistencyTester, LinearizabilityTester, SequentialSpec};

use crate::chance::Trace;
use crate::clients::{Operation, Outcome, Wish};

/// Requests of one history that are looked at.
const MOST_REQUESTS: usize = 16;
/// Of these, how many may have no end: each doubles the search.
const MOST_OPEN: usize = 4;

/// An account by its rules, one request after the other.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
struct Account {
    sequence: u64,
    open: bool,
    balance: i64,
}

impl Account {
    fn happened(&mut self) -> Outcome {
        self.sequence += 1;
        accepted(self.sequence)
    }
}

fn accepted(sequence: u64) -> Outcome {
    // Where it lies in its shard is not for the account to say.
    Outcome::Accepted {
        sequence,
        position: 0,
        shard: 0,
    }
}

fn rejected(code: &str, balance: Option<i64>) -> Outcome {
    Outcome::Rejected {
        code: code.to_owned(),
        balance,
    }
}

impl SequentialSpec for Account {
    type Op = (Wish, Precondition);
    type Ret = Outcome;

    fn invoke(&mut self, (wish, precondition): &Self::Op) -> Outcome {
        let sequence = self.sequence;
        if *wish == Wish::Read {
            let balance = self.balance;
            return match sequence {
                0 => Outcome::NotFound,
                _ => Outcome::State { sequence, balance },
            };
        }
        let holds = match precondition {
            Precondition::Any => true,
            Precondition::AtSequence(at) => *at == sequence,
            Precondition::Exists => sequence > 0,
            Precondition::Absent => sequence == 0,
            Precondition::Never => false,
        };
        if !holds {
            return Outcome::Mismatch { sequence };
        }
        match wish {
            Wish::Open if self.open => rejected("account-already-open", None),
            Wish::Open => {
                self.open = true;
                self.happened()
            }
            _ if !self.open => rejected("account-not-open", None),
            Wish::Withdraw(cents) if *cents > self.balance => {
                rejected("insufficient-funds", Some(self.balance))
            }
            Wish::Withdraw(cents) => {
                self.balance -= cents;
                self.happened()
            }
            Wish::Deposit(cents) => {
                self.balance += cents;
                self.happened()
            }
            Wish::Read => unreachable!("answered above"),
        }
    }
}

/// Whether some order explains the beginning of a history. An operation is a thread of its own.
fn is_linearizable(operations: &[&Operation]) -> bool {
    let mut moments: BTreeMap<u64, (usize, bool)> = BTreeMap::new();
    for (at, operation) in operations.iter().enumerate() {
        moments.insert(operation.began, (at, true));
        moments.insert(operation.ended, (at, false));
    }
    moments.remove(&u64::MAX);
    let mut tester = LinearizabilityTester::new(Account::default());
    let (mut begun, mut open) = (0, 0);
    for (at, begins) in moments.into_values() {
        let operation = operations[at];
        let request = (operation.wish, operation.precondition);
        let has_end = !matches!(operation.outcome, Outcome::Unknown | Outcome::NotStored);
        // An attempt that nobody answered may still come through, whatever the last one heard.
        let lingers = operation.wish != Wish::Read
            && (operation.outcome == Outcome::Unknown
                || operation.tainted && !matches!(operation.outcome, Outcome::Accepted { .. }));
        if begins {
            begun += 1;
            open += usize::from(lingers);
            if begun > MOST_REQUESTS || open > MOST_OPEN {
                break;
            }
            if has_end {
                tester.on_invoke((at, 0), request).expect("it begins once");
            }
            if lingers {
                tester.on_invoke((at, 1), request).expect("it begins once");
            }
        } else if has_end {
            let outcome = match &operation.outcome {
                Outcome::Accepted { sequence, .. } => accepted(*sequence),
                other => other.clone(),
            };
            tester.on_return((at, 0), outcome).expect("it has begun");
        }
    }
    tester.is_consistent()
}

/// What clients heard of one account must be explained by some order.
pub(crate) fn agrees(trace: &Trace, stream: &StreamName, operations: &[&Operation]) {
    if !is_linearizable(operations) {
        let id = stream.id();
        trace.violated(format!("{id}: no order explains what clients heard of it"));
    }
}

/// Histories that the tester must and must not believe.
#[test]
fn the_tester_believes_what_can_be_and_nothing_else() {
    let operation = |began, ended, wish, outcome| Operation {
        stream: StreamName::new("account", "a").unwrap(),
        wish,
        key: format!("k{began}"),
        precondition: Precondition::Any,
        began,
        ended,
        tainted: false,
        outcome,
    };
    let state = |sequence, balance| Outcome::State { sequence, balance };
    let open = operation(0, 1, Wish::Open, accepted(1));
    let deposit = operation(2, 5, Wish::Deposit(7), accepted(2));
    let early = operation(3, 4, Wish::Read, state(1, 0));
    let late = operation(6, 7, Wish::Read, state(2, 7));
    assert!(is_linearizable(&[&open, &deposit, &early, &late]));
    let stale = operation(6, 7, Wish::Read, state(1, 0));
    assert!(!is_linearizable(&[&open, &deposit, &stale]), "a stale read");
    let back = [
        operation(2, 9, Wish::Deposit(7), accepted(2)),
        operation(3, 4, Wish::Read, state(2, 7)),
        operation(5, 6, Wish::Read, state(1, 0)),
    ];
    assert!(
        !is_linearizable(&[&open, &back[0], &back[1], &back[2]]),
        "back in time"
    );
    let mut lost = operation(2, u64::MAX, Wish::Deposit(7), Outcome::Unknown);
    assert!(
        is_linearizable(&[&open, &lost, &late]),
        "unknown, and it came through"
    );
    assert!(
        is_linearizable(&[&open, &lost, &stale]),
        "unknown, and it did not"
    );
    lost.outcome = Outcome::NotStored;
    assert!(
        !is_linearizable(&[&open, &lost, &late]),
        "refused, and it came through"
    );
    lost.tainted = true;
    lost.outcome = rejected("account-not-open", None);
    lost.ended = 3;
    assert!(
        !is_linearizable(&[&open, &lost]),
        "a rejection without a reason"
    );
}
