//! Whether a group stands for elections.
//!
//! Owns the reasons against it, which come and go independently of one another. Refuses to let one
//! who takes back a reason take back another's. Invariant: the group stands for elections exactly
//! while there is no reason against it.

use parking_lot::Mutex;

use super::ShardRaft;
use crate::replication::types::RaftLogId;

/// Reasons not to stand for election.
#[derive(Debug)]
struct Reasons {
    /// The process before this one may have promised a leader its silence.
    promised: bool,
    /// The node hands over what it leads and takes nothing new.
    aside: bool,
    /// The shard's leader does not count this node: the newest membership that was known here then.
    retired: Option<Option<RaftLogId>>,
}

/// See the file's description.
#[derive(Debug)]
pub(super) struct Candidacy {
    reasons: Mutex<Reasons>,
}

impl Candidacy {
    /// Stands for no election until [`Self::promises_are_over`].
    pub(super) fn new() -> Self {
        Self {
            reasons: Mutex::new(Reasons {
                promised: true,
                aside: false,
                retired: None,
            }),
        }
    }

    pub(super) fn promises_are_over(&self, raft: &ShardRaft) {
        self.change(raft, |reasons| reasons.promised = false);
    }

    pub(super) fn stand_aside(&self, raft: &ShardRaft, aside: bool) {
        self.change(raft, |reasons| reasons.aside = aside);
    }

    /// Whether that was news. `membership` is the newest one that is known here.
    pub(super) fn retire(&self, raft: &ShardRaft, membership: Option<RaftLogId>) -> bool {
        self.change(raft, |reasons| {
            let news = reasons.retired.is_none();
            reasons.retired = Some(membership);
            news
        })
    }

    /// Whether that was news.
    pub(super) fn unretire(&self, raft: &ShardRaft) -> bool {
        self.change(raft, |reasons| reasons.retired.take().is_some())
    }

    /// Whether a membership that counts this node is one of the past, because this node was retired
    /// after it.
    pub(super) fn is_over(&self, membership: Option<RaftLogId>) -> bool {
        let retired = self.reasons.lock().retired;
        retired.is_some_and(|then| membership <= then)
    }

    /// Changes the reasons; nobody else does meanwhile, so the last one to change them decides.
    fn change<T>(&self, raft: &ShardRaft, change: impl FnOnce(&mut Reasons) -> T) -> T {
        let mut reasons = self.reasons.lock();
        let outcome = change(&mut reasons);
        let stands = !reasons.promised && !reasons.aside && reasons.retired.is_none();
        raft.runtime_config().elect(stands);
        outcome
    }
}
