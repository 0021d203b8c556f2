//! The peer that only answers: accounts in a concurrent map, nothing on disk.
//!
//! It shows what HTTP alone costs. Ids come from the URL and go into JSON unescaped, which is fine
//! for a load generator's ids and for nothing else.

use std::sync::atomic::{AtomicU64, Ordering};

use dashmap::DashMap;

use crate::account::{Account, Command, Outcome, Refusal, apply, record};
use crate::http::Store;

/// Accounts by id.
#[derive(Debug, Default)]
pub(crate) struct Map {
    accounts: DashMap<String, Option<Account>>,
    position: AtomicU64,
}

impl Map {
    /// Changes an account and hands its event to `append` while the account is still locked, so
    /// that events of one account are appended in order.
    pub(crate) fn change<T>(
        &self,
        id: String,
        command: Command,
        append: impl FnOnce(Vec<u8>) -> T,
    ) -> Result<(Outcome, T), Refusal> {
        let event_type = command.event_type();
        let delta = command.delta_cents().unwrap_or(0);
        let mut slot = self.accounts.entry(id).or_default();
        let sequence_number = apply(slot.value_mut(), command)?;
        let appended = append(record(slot.key(), event_type, sequence_number, delta));
        drop(slot);
        let position = self.position.fetch_add(1, Ordering::Relaxed) + 1;
        Ok((
            Outcome {
                event_type,
                sequence_number,
                position,
            },
            appended,
        ))
    }

    /// An account's state.
    pub(crate) fn get(&self, id: &str) -> Option<Account> {
        self.accounts.get(id).and_then(|slot| slot.value().clone())
    }
}

impl Store for Map {
    async fn execute(&self, id: String, command: Command) -> Result<Outcome, Refusal> {
        // The record is made so that this differs from the other peers by their disk alone.
        let (outcome, record) = self.change(id, command, |record| record)?;
        std::hint::black_box(record);
        Ok(outcome)
    }

    async fn read(&self, id: &str) -> Result<Option<Account>, Refusal> {
        Ok(self.get(id))
    }
}
