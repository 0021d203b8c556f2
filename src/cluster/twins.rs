//! Two processes of one node.
//!
//! A lock keeps two processes off one data directory, but not off two copies of it: a restored backup, a
//! cloned machine. What both confirm under one id is no history, and a majority that counts one of them
//! need not meet a majority that counts the other. So each process makes up a number, and says it in its
//! first words. Owns which process of each peer is connected here, and whether a peer has told this process
//! that another one of its own node is. Refuses to judge which of two is the right one: that takes a person.
//!
//! Invariant: while one process of a node is connected here, in either direction, no word of another is
//! listened to. A restarted node waits until the connections of the process before it have ended, which the
//! system does when a process ends and the keepalive does when a machine is gone.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::watch;

use super::NodeId;

/// The number of a process of a release that does not say it.
const UNKNOWN: u64 = 0;

/// See the file's description.
#[derive(Debug)]
pub(crate) struct Twins {
    me: u64,
    connected: Mutex<HashMap<NodeId, (u64, Weak<()>)>>,
    /// On how many lanes the last attempt ended with being told of another process.
    told: watch::Sender<usize>,
}

/// A process of a peer is connected, as long as this is kept.
#[derive(Debug)]
pub(crate) struct Attendance {
    _present: Option<Arc<()>>,
}

impl Twins {
    /// Of a process with this number, which no other process of the node has, and which is not 0.
    pub(crate) fn new(me: u64) -> Self {
        Self {
            me,
            connected: Mutex::default(),
            told: watch::Sender::new(0),
        }
    }

    /// The number of this process.
    pub(crate) fn me(&self) -> u64 {
        self.me
    }

    /// Lets a process of a peer connect, unless another one of that peer is connected.
    pub(crate) fn attend(&self, node: NodeId, process: u64) -> Option<Attendance> {
        if process == UNKNOWN {
            return Some(Attendance { _present: None });
        }
        let mut connected = self.connected.lock();
        let now = connected.get(&node).and_then(|(other, present)| {
            let present = present.upgrade()?;
            Some((*other, present))
        });
        let present = match now {
            Some((other, _)) if other != process => return None,
            Some((_, present)) => present,
            None => {
                let present = Arc::new(());
                connected.insert(node, (process, Arc::downgrade(&present)));
                present
            }
        };
        Some(Attendance {
            _present: Some(present),
        })
    }

    /// What is known of one lane; nothing so far.
    pub(crate) fn lane(self: &Arc<Self>) -> Telling {
        Telling {
            twins: Arc::clone(self),
            told: AtomicBool::new(false),
        }
    }

    /// Whether a peer says that another process of this node is connected to it.
    pub(crate) fn is_told(&self) -> bool {
        *self.told.borrow() > 0
    }

    /// Returns when peers have said so all along for longer than it can be a mistake. Safe to cancel.
    pub(crate) async fn displaced(&self, patience: Duration) {
        let mut told = self.told.subscribe();
        loop {
            // The sender lives as long as this is borrowed.
            drop(told.wait_for(|lanes| *lanes > 0).await);
            let taken_back = told.wait_for(|lanes| *lanes == 0);
            if tokio::time::timeout(patience, taken_back).await.is_err() {
                return;
            }
        }
    }
}

/// Whether the last attempt to open a lane ended with being told of another process.
#[derive(Debug)]
pub(crate) struct Telling {
    twins: Arc<Twins>,
    told: AtomicBool,
}

impl Telling {
    pub(crate) fn note(&self, told: bool) {
        if self.told.swap(told, Ordering::AcqRel) == told {
            return;
        }
        self.twins.told.send_modify(|lanes| {
            *lanes = if told { *lanes + 1 } else { *lanes - 1 };
        });
    }
}

impl Drop for Telling {
    fn drop(&mut self) {
        self.note(false);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_process_of_a_node_is_connected_at_a_time() {
        let twins = Twins::new(1);
        let first = twins.attend(2, 7).unwrap();
        let second = twins.attend(2, 7).unwrap();
        assert!(twins.attend(2, 8).is_none());
        assert!(twins.attend(3, 8).is_some(), "another node");
        drop(first);
        assert!(twins.attend(2, 8).is_none(), "one connection is left");
        drop(second);
        let other = twins.attend(2, 8).unwrap();
        assert!(twins.attend(2, 7).is_none());
        assert!(twins.attend(2, UNKNOWN).is_some(), "an older release");
        drop(other);
    }

    #[tokio::test(start_paused = true)]
    async fn only_what_is_said_all_along_counts() {
        let second = Duration::from_secs(1);
        let twins = Arc::new(Twins::new(1));
        let lanes = [twins.lane(), twins.lane()];
        let displaced = twins.displaced(10 * second);
        tokio::pin!(displaced);
        let mut is_displaced = async |wait: Duration| {
            let ended = tokio::time::timeout(wait, &mut displaced).await;
            ended.is_ok()
        };
        assert!(!is_displaced(60 * second).await);
        lanes[0].note(true);
        assert!(twins.is_told());
        assert!(!is_displaced(9 * second).await);
        lanes[0].note(false);
        assert!(!twins.is_told());
        assert!(!is_displaced(60 * second).await);
        lanes[0].note(true);
        assert!(!is_displaced(6 * second).await);
        lanes[1].note(true);
        lanes[0].note(false);
        assert!(twins.is_told());
        assert!(is_displaced(5 * second).await);
        drop(lanes);
        assert!(!twins.is_told());
    }
}
