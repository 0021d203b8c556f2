//! How this node stands towards the database of read models.
//!
//! Owns: the one answer to "who writes, and is the database there", which queries, projectors and
//! operators look at. A node with a file of its own always writes.

use std::sync::Arc;

use serde::Serialize;
use tokio::sync::watch;

/// What a node is to the read models.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Part {
    /// It has not found out yet.
    Starting,
    /// It fills them.
    Writing,
    /// Another node fills them, or nobody just now; this one reads.
    Following,
    /// The database cannot be read.
    Away,
}

/// A node's part and what is in the way, if anything is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Stand {
    /// What it is.
    pub state: Part,
    /// The node that fills the read models, as far as this one knows.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub writer: Option<String>,
    /// What went wrong last, as long as it matters.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// See the file's description. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Standing(Arc<watch::Sender<Stand>>);

impl Standing {
    pub(super) fn new(state: Part) -> Self {
        Self(Arc::new(watch::Sender::new(Stand {
            state,
            writer: None,
            reason: None,
        })))
    }

    pub(super) fn now(&self) -> Stand {
        self.0.borrow().clone()
    }

    pub(super) fn is(&self, state: Part) -> bool {
        self.0.borrow().state == state
    }

    pub(super) fn subscribe(&self) -> watch::Receiver<Stand> {
        self.0.subscribe()
    }

    /// Notes a part without anything in the way.
    pub(super) fn set(&self, state: Part) {
        self.change(|stand| {
            stand.state = state;
            stand.reason = None;
        });
    }

    /// Notes a part and what is in the way.
    pub(super) fn hindered(&self, state: Part, reason: String) {
        self.change(|stand| {
            stand.state = state;
            stand.reason = Some(reason);
        });
    }

    /// Notes that this node does not write any more, and why, if that is known.
    pub(super) fn lost(&self, reason: Option<String>) {
        self.change(|stand| {
            if stand.state == Part::Writing {
                stand.state = Part::Following;
            }
            stand.reason = reason.or(stand.reason.take());
        });
    }

    pub(super) fn set_writer(&self, writer: Option<String>) {
        self.change(|stand| stand.writer = writer);
    }

    fn change(&self, change: impl FnOnce(&mut Stand)) {
        self.0.send_if_modified(|stand| {
            let before = stand.clone();
            change(stand);
            *stand != before
        });
    }
}
