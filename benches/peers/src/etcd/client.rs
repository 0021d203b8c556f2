//! One client of etcd: the rule, checked before each change, and the loop.
//!
//! A client that wants one round trip for a command keeps what it knows of an account and lets etcd
//! refuse the change when somebody else was faster, in which case it learns the new state from the
//! refusal and decides again. That is the cheapest way of checking a rule over etcd; all clients
//! here share what they know, as they would in one server.

use std::sync::{Arc, Mutex, PoisonError};

use serde::{Deserialize, Serialize};
use thiserror::Error;
use tokio::time::Instant;

use super::grpc::{Channel, GrpcError};
use super::messages::{self, Change, Changed, KeyValue};
use super::wire::Malformed;
use crate::account::record;
use crate::driver::{Choices, Next, Seen, Window, event_type};

/// Attempts of one command. Each failed one means that another client's succeeded.
const ATTEMPTS: usize = 100;

/// Why a client gave up.
#[derive(Debug, Error)]
pub(crate) enum ClientError {
    /// A call failed.
    #[error(transparent)]
    Grpc(#[from] GrpcError),
    /// An answer cannot be read.
    #[error(transparent)]
    Answer(#[from] Malformed),
    /// A stored account cannot be read.
    #[error("a stored account cannot be read: {0}")]
    Account(#[from] serde_json::Error),
    /// An account is gone.
    #[error("account {0} does not exist")]
    Missing(u64),
    /// Others were always faster.
    #[error("account {0} was changed by others {ATTEMPTS} times in a row")]
    Contended(u64),
    /// A histogram cannot be made.
    #[error(transparent)]
    Histogram(#[from] hdrhistogram::CreationError),
}

/// An account as it is stored.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Account {
    pub(super) owner: String,
    pub(super) currency: String,
    pub(super) balance_cents: i64,
    pub(super) sequence_number: i64,
}

impl Account {
    /// As the other peers' accounts are when the measurement begins.
    pub(super) fn opened() -> Self {
        Self {
            owner: "x".repeat(16),
            currency: "EUR".to_owned(),
            balance_cents: 1_000,
            sequence_number: 2,
        }
    }

    /// The account after a change; `None` when the balance does not cover it.
    fn changed(&self, delta_cents: i64) -> Option<Self> {
        let balance = self.balance_cents.checked_add(delta_cents);
        Some(Self {
            balance_cents: balance.filter(|&balance| balance >= 0)?,
            sequence_number: self.sequence_number + 1,
            ..self.clone()
        })
    }
}

/// What is known of an account: its state and the revision that wrote it.
#[derive(Debug, Clone)]
struct Version {
    account: Account,
    revision: u64,
}

/// What the clients know of all accounts.
#[derive(Debug)]
pub(super) struct Known(Mutex<Vec<Option<Version>>>);

impl Known {
    /// Nothing, of so many accounts.
    pub(super) fn new(accounts: usize) -> Self {
        Self(Mutex::new(vec![None; accounts]))
    }

    /// Learns what an account holds, unless something newer is known.
    pub(super) fn learn(&self, number: u64, account: Account, revision: u64) {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let slot = usize::try_from(number).ok().and_then(|at| all.get_mut(at));
        if let Some(slot) = slot
            && slot.as_ref().is_none_or(|known| known.revision < revision)
        {
            *slot = Some(Version { account, revision });
        }
    }

    fn get(&self, number: u64) -> Option<Version> {
        let all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let slot = usize::try_from(number).ok().and_then(|at| all.get(at))?;
        slot.clone()
    }
}

/// The key of an account.
pub(super) fn account_key(number: u64) -> String {
    format!("account/{number:08}")
}

/// The number in the key of an account.
pub(super) fn account_number(key: &[u8]) -> Option<u64> {
    let digits = key.strip_prefix(b"account/")?;
    std::str::from_utf8(digits).ok()?.parse().ok()
}

/// One client.
#[derive(Debug)]
pub(super) struct Client {
    channel: Channel,
    known: Arc<Known>,
    choices: Choices,
}

impl Client {
    pub(super) fn new(channel: Channel, known: Arc<Known>, choices: Choices) -> Self {
        Self {
            channel,
            known,
            choices,
        }
    }

    /// Sends the next request when the last one is answered, until the window ends.
    pub(super) async fn run(mut self, window: Window) -> Result<Seen, ClientError> {
        let mut seen = Seen::new()?;
        let mut now = Instant::now();
        while now < window.end {
            let begun = now;
            let next = self.choices.next();
            match next {
                Next::Read(number) => self.read(number).await?,
                Next::Change(number, delta_cents) => self.change(number, delta_cents).await?,
            }
            now = Instant::now();
            if begun >= window.from {
                seen.answer(next, now.duration_since(begun));
            }
        }
        Ok(seen)
    }

    /// A linearizable read.
    async fn read(&mut self, number: u64) -> Result<(), ClientError> {
        let request = messages::get(account_key(number).as_bytes());
        let answer = self.channel.call(messages::RANGE, &request).await?;
        let page = messages::found(&answer)?;
        match page.found.first() {
            Some(_) => Ok(()),
            None => Err(ClientError::Missing(number)),
        }
    }

    /// A command: decided on what is known, stored if that is still so, decided again if not.
    async fn change(&mut self, number: u64, delta_cents: i64) -> Result<(), ClientError> {
        for _ in 0..ATTEMPTS {
            let known = self.known.get(number);
            let known = known.ok_or(ClientError::Missing(number))?;
            let Some(account) = known.account.changed(delta_cents) else {
                // The refusal must rest on what is there now, like every other answer.
                return self.read(number).await;
            };
            match self
                .store(number, &account, known.revision, delta_cents)
                .await?
            {
                Changed::Done { revision } => {
                    self.known.learn(number, account, revision);
                    return Ok(());
                }
                Changed::Stale { current } => {
                    let current = current.ok_or(ClientError::Missing(number))?;
                    let account = serde_json::from_slice(&current.value)?;
                    self.known.learn(number, account, current.revision);
                }
            }
        }
        Err(ClientError::Contended(number))
    }

    /// Opens an account, unless it is there.
    pub(super) async fn open(&mut self, number: u64) -> Result<(), ClientError> {
        self.store(number, &Account::opened(), 0, 1_000).await?;
        Ok(())
    }

    /// Writes the account and its event in one transaction.
    async fn store(
        &mut self,
        number: u64,
        account: &Account,
        revision: u64,
        delta_cents: i64,
    ) -> Result<Changed, ClientError> {
        let sequence = account.sequence_number;
        let name = format!("bench-{number:08}");
        let change = Change {
            key: account_key(number).as_bytes(),
            revision,
            value: &serde_json::to_vec(account)?,
            also_key: format!("event/{number:08}/{sequence:010}").as_bytes(),
            also_value: &record(&name, event_type(delta_cents), sequence, delta_cents),
        }
        .encode();
        let answer = self.channel.call(messages::TXN, &change).await?;
        Ok(messages::changed(&answer)?)
    }
}

/// Learns every account that is stored, a page at a time.
pub(super) async fn learn_all(channel: &mut Channel, known: &Known) -> Result<u64, ClientError> {
    // The end is the first key behind all that begin with the prefix.
    let (mut from, end) = (b"account/".to_vec(), b"account0");
    let mut learned = 0;
    loop {
        let request = messages::page(&from, end, 1_000);
        let answer = channel.call(messages::RANGE, &request).await?;
        let page = messages::found(&answer)?;
        for KeyValue {
            key,
            value,
            revision,
        } in &page.found
        {
            if let Some(number) = account_number(key) {
                known.learn(number, serde_json::from_slice(value)?, *revision);
                learned += 1;
            }
        }
        match page.found.last() {
            Some(last) if page.more => {
                from = last.key.clone();
                from.push(0);
            }
            _ => return Ok(learned),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rule_is_checked() {
        let account = Account::opened();
        let more = account.changed(5).unwrap();
        assert_eq!((more.balance_cents, more.sequence_number), (1_005, 3));
        assert_eq!(account.changed(-1_000).unwrap().balance_cents, 0);
        assert_eq!(account.changed(-1_001), None);
        assert_eq!(account.changed(i64::MIN), None);
    }

    #[test]
    fn only_newer_knowledge_replaces_older() {
        let known = Known::new(2);
        known.learn(1, Account::opened(), 5);
        known.learn(1, Account::opened().changed(7).unwrap(), 4);
        assert_eq!(known.get(1).unwrap().account, Account::opened());
        known.learn(1, Account::opened().changed(7).unwrap(), 6);
        assert_eq!(known.get(1).unwrap().revision, 6);
        assert!(known.get(0).is_none());
        assert_eq!(account_number(account_key(42).as_bytes()), Some(42));
        assert!(account_key(99_999_999).as_str() < "account0");
    }
}
