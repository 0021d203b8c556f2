//! Tells the sequencer how a proposal ended.
//!
//! The commit is reported before the entry is applied, in log order: the reply does not wait for
//! index rows. A responder that is dropped without a word reports an unknown outcome, so nobody
//! waits for ever.

use std::any::Any;
use std::fmt;
use std::marker::PhantomData;
use std::sync::Arc;

use openraft::OptionalSend;
use openraft::errors::ClientWriteError;
use openraft::raft::ClientWriteResult;
use openraft::raft::responder::Responder;
use phalanx_actors::ports::{Proposed, ProposedCallback};

use super::types::{Entered, RaftLogId, TypeConfig};
use crate::failpoints::crash_point;

/// See the file's description.
pub struct ProposalResponder<T> {
    done: Option<ProposedCallback>,
    entered: Option<Arc<Entered>>,
    _result: PhantomData<fn() -> T>,
}

impl<T> fmt::Debug for ProposalResponder<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ProposalResponder").finish_non_exhaustive()
    }
}

impl<T> ProposalResponder<T> {
    pub(crate) fn new(done: ProposedCallback, entered: Arc<Entered>) -> Self {
        Self {
            done: Some(done),
            entered: Some(entered),
            _result: PhantomData,
        }
    }

    fn report(&mut self, outcome: Proposed) {
        if let Some(done) = self.done.take() {
            done(outcome);
        }
        // After the outcome is known, so that nothing is proposed behind a refusal.
        if let Some(entered) = self.entered.take() {
            entered.signal();
        }
    }
}

impl<T: OptionalSend + 'static> Responder<TypeConfig, T> for ProposalResponder<T> {
    fn on_commit(&mut self, _log_id: RaftLogId) {
        crash_point!("replication::after_commit");
        self.report(Proposed::Committed);
    }

    fn on_complete(mut self, result: T) {
        // A refusal to forward comes from the door, before anything was appended. Everything else
        // that arrives here without a commit may have left traces.
        let refused = (&result as &dyn Any)
            .downcast_ref::<ClientWriteResult<TypeConfig>>()
            .is_some_and(|r| matches!(r, Err(ClientWriteError::ForwardToLeader(_))));
        self.report(if refused {
            Proposed::NotProposed
        } else {
            Proposed::Unknown
        });
    }
}

impl<T> Drop for ProposalResponder<T> {
    fn drop(&mut self) {
        self.report(Proposed::Unknown);
    }
}
