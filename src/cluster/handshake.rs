//! Who may talk to whom.
//!
//! Each new connection opens with a `Hello` and is answered by a `Welcome` or by a refusal in
//! words (`refusal.rs`), which both sides log. Owns the checks; refuses to repair anything. Invariant: what
//! was not checked is not believed.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use parking_lot::RwLock;
use phalanx_actors::codec::{self, CodecError};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

pub use self::refusal::Refusal;
pub(crate) use self::refusal::TWIN;
use self::refusal::{EMPTIED, REMOVED};
use super::NodeId;
use super::pins::{PinError, Pins};
use super::tls::{Proof, Security, member_name};
use super::twins::{Attendance, Twins};

mod refusal;

/// The oldest version of the protocol between nodes that this release speaks.
pub const PROTOCOL_MIN: u32 = 1;
/// The newest. Two neighbouring releases share at least one version, so that nodes can be replaced
/// one at a time.
pub const PROTOCOL_MAX: u32 = 2;
/// The first version in which a node says whether it has space.
pub const PROTOCOL_WITH_SPACE: u32 = 2;
/// The first version in which nodes ask one another for committed events
/// ([`CallKind::Copies`](super::transport::CallKind::Copies) and
/// [`CallKind::Records`](super::transport::CallKind::Records)).
pub const PROTOCOL_WITH_FEEDS: u32 = 2;
/// The first version in which a drain can be taken back
/// ([`CallKind::Undrain`](super::transport::CallKind::Undrain)).
pub const PROTOCOL_WITH_UNDRAIN: u32 = 2;

/// The oldest and the newest version that this process speaks. Tests make it an older or a newer
/// release: `FAILPOINTS='cluster::protocol=return(1-2)'`.
pub(crate) fn spoken() -> (u32, u32) {
    fail::fail_point!("cluster::protocol", |range| {
        let range = range.unwrap_or_default();
        let (least, most) = range.split_once('-').unwrap_or((&range, &range));
        (
            least.parse().unwrap_or(PROTOCOL_MIN),
            most.parse().unwrap_or(PROTOCOL_MAX),
        )
    });
    (PROTOCOL_MIN, PROTOCOL_MAX)
}

/// What a node says of itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Introduction {
    pub(crate) node: NodeId,
    pub(crate) cluster: String,
    pub(crate) shards: u32,
    pub(crate) incarnation: [u8; 16],
    pub(crate) protocol_min: u32,
    pub(crate) protocol_max: u32,
}

/// The first words on a connection.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Hello {
    pub(crate) from: Introduction,
    /// Whom the caller believes to reach.
    pub(crate) to: NodeId,
    /// Which of the lanes this connection is.
    pub(crate) lane: u8,
}

/// The consent to it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Welcome {
    pub(crate) from: Introduction,
    /// The version that both speak from now on.
    pub(crate) protocol: u32,
}

/// Who opened a connection, and what it is told.
#[derive(Debug)]
pub(crate) struct Caller {
    pub(crate) hello: Hello,
    pub(crate) welcome: Welcome,
    /// Kept as long as the connection lasts.
    pub(crate) attendance: Attendance,
}

/// This node, as it introduces itself, and whom it accepts.
#[derive(Debug)]
pub(crate) struct Identity {
    pub(crate) me: Introduction,
    pub(crate) security: Security,
    pub(crate) pins: Pins,
    pub(crate) twins: Arc<Twins>,
    /// Every other member and its address.
    pub(crate) members: RwLock<BTreeMap<NodeId, String>>,
    /// Who was a member once.
    pub(crate) removed: RwLock<BTreeSet<NodeId>>,
    /// A member has said that this node was removed.
    cast_out: AtomicBool,
    /// A member has said that it knows this node from before its data directory was emptied.
    emptied: AtomicBool,
    /// This node has heard of a cluster that was founded and has members.
    founded: AtomicBool,
    /// What is spoken with each node, since the newest handshake with it. One version serves both
    /// directions and all lanes: it follows from what the two processes speak, and a process that
    /// was replaced has lost its connections.
    pub(crate) spoken: RwLock<BTreeMap<NodeId, u32>>,
}

impl Identity {
    pub(crate) fn new(me: Introduction, process: u64, security: Security, pins: Pins) -> Self {
        Self {
            me,
            security,
            pins,
            twins: Arc::new(Twins::new(process)),
            spoken: RwLock::default(),
            members: RwLock::default(),
            removed: RwLock::default(),
            cast_out: AtomicBool::new(false),
            emptied: AtomicBool::new(false),
            founded: AtomicBool::new(false),
        }
    }

    /// Whether calls of a node may still be answered; it was a member when it connected.
    ///
    /// A node that was told of its emptied disk admits nobody before it has heard of a founded cluster:
    /// together with others whose disks were emptied it would found a new one beside the old. Once
    /// founded, a node that comes back from the past cannot put the others out of service.
    pub(crate) fn admits(&self, node: NodeId) -> Result<(), Refusal> {
        if self.emptied.load(Ordering::Acquire) && !self.founded.load(Ordering::Acquire) {
            let me = self.me.node;
            return Err(Refusal::Emptied { node, me });
        }
        if self.members.read().contains_key(&node) {
            return Ok(());
        }
        let me = self.me.node;
        Err(if self.removed.read().contains(&node) {
            Refusal::Removed { node, me }
        } else {
            Refusal::Stranger { node, me }
        })
    }

    /// Takes note of what a refusal by another node means.
    pub(crate) fn refused(&self, code: u64) {
        match code {
            REMOVED => self.cast_out.store(true, Ordering::Release),
            EMPTIED => self.emptied.store(true, Ordering::Release),
            _ => {}
        }
    }

    /// Takes note that the cluster has been founded.
    pub(crate) fn note_founded(&self) {
        self.founded.store(true, Ordering::Release);
    }

    /// Whether a member has said that this node was removed.
    pub(crate) fn is_cast_out(&self) -> bool {
        self.cast_out.load(Ordering::Acquire)
    }

    /// Checks the caller of a new connection: what it says of itself, and the number of its process.
    pub(crate) fn receive(
        &self,
        bytes: &[u8],
        process: u64,
        proof: &Proof,
    ) -> Result<Caller, Refusal> {
        let hello: Hello =
            codec::from_bytes(bytes).map_err(|error| Refusal::Unreadable(error.to_string()))?;
        // Words that fit every release come first: a stranger may mean anything by the rest.
        let protocol = self.check(&hello.from)?;
        self.prove(hello.from.node, proof)?;
        if hello.to != self.me.node {
            return Err(Refusal::Misdirected {
                wanted: hello.to,
                me: self.me.node,
            });
        }
        let attendance = self.pin(&hello.from, process)?;
        self.spoken.write().insert(hello.from.node, protocol);
        let welcome = Welcome {
            from: self.me.clone(),
            protocol,
        };
        Ok(Caller {
            hello,
            welcome,
            attendance,
        })
    }

    /// Checks that the other side's certificate is that of the node which it is taken for.
    pub(crate) fn prove(&self, node: NodeId, proof: &Proof) -> Result<(), Refusal> {
        let expected = member_name(node, &self.me.cluster);
        let carried = match (&self.security, proof) {
            (Security::Plaintext, _) => return Ok(()),
            (Security::Tls(_), Proof::NotNeeded) => &[],
            (Security::Tls(_), Proof::Names(names)) => &names[..],
        };
        if carried.contains(&expected) {
            return Ok(());
        }
        Err(Refusal::Certificate {
            node,
            expected,
            carried: carried.to_vec(),
        })
    }

    /// Checks whom a connection has reached: what it says of itself, and the number of its process.
    pub(crate) fn reached(
        &self,
        wanted: NodeId,
        bytes: &[u8],
        process: u64,
    ) -> Result<Attendance, Refusal> {
        let welcome: Welcome =
            codec::from_bytes(bytes).map_err(|error| Refusal::Unreadable(error.to_string()))?;
        let newest = self.check(&welcome.from)?;
        if welcome.from.node != wanted {
            return Err(Refusal::Misdirected {
                wanted,
                me: welcome.from.node,
            });
        }
        if welcome.protocol != newest {
            return Err(Refusal::Chosen {
                node: wanted,
                chosen: welcome.protocol,
                newest,
            });
        }
        let attendance = self.pin(&welcome.from, process)?;
        self.spoken.write().insert(wanted, newest);
        Ok(attendance)
    }

    /// The first words to `to`.
    pub(crate) fn hello(&self, to: NodeId, lane: u8) -> Result<Bytes, CodecError> {
        let hello = Hello {
            from: self.me.clone(),
            to,
            lane,
        };
        Ok(codec::to_bytes(&hello)?.into())
    }

    fn check(&self, other: &Introduction) -> Result<u32, Refusal> {
        let (node, me) = (other.node, self.me.node);
        if other.cluster != self.me.cluster {
            return Err(Refusal::Cluster {
                node,
                me,
                theirs: other.cluster.clone(),
                ours: self.me.cluster.clone(),
            });
        }
        let newest = other.protocol_max.min(self.me.protocol_max);
        if newest < other.protocol_min.max(self.me.protocol_min) {
            return Err(Refusal::Protocol {
                node,
                me,
                theirs_min: other.protocol_min,
                theirs_max: other.protocol_max,
                ours_min: self.me.protocol_min,
                ours_max: self.me.protocol_max,
            });
        }
        if other.shards != self.me.shards {
            return Err(Refusal::Shards {
                node,
                me,
                theirs: other.shards,
                ours: self.me.shards,
            });
        }
        Ok(newest)
    }

    fn pin(&self, other: &Introduction, process: u64) -> Result<Attendance, Refusal> {
        let (node, me) = (other.node, self.me.node);
        self.admits(node)?;
        let found = Uuid::from_bytes(other.incarnation);
        self.pins.check(node, found).map_err(|error| match error {
            PinError::Other { known } => Refusal::Incarnation {
                node,
                me,
                found,
                known,
            },
            PinError::Io(error) => Refusal::Pin {
                node,
                reason: error.to_string(),
            },
        })?;
        let attendance = self.twins.attend(node, process);
        attendance.ok_or(Refusal::Twin { node, me })
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::cluster::wire::golden::Golden;

    fn introduction(node: NodeId) -> Introduction {
        Introduction {
            node,
            cluster: "phalanx".to_owned(),
            shards: 8,
            incarnation: [u8::try_from(node).unwrap(); 16],
            protocol_min: PROTOCOL_MIN,
            protocol_max: PROTOCOL_MAX,
        }
    }

    fn identity(dir: &std::path::Path) -> Identity {
        let identity = Identity::new(
            introduction(1),
            1,
            Security::Plaintext,
            Pins::open(dir).unwrap(),
        );
        *identity.members.write() = BTreeMap::from([(2, "b:1".to_owned()), (3, "c:1".to_owned())]);
        identity.removed.write().insert(5);
        identity
    }

    /// What a node of the cluster `phalanx` with 8 shards says on the lane for commands.
    pub(crate) fn hello_of(from: NodeId, to: NodeId) -> Vec<u8> {
        let from = introduction(from);
        codec::to_bytes(&Hello { from, to, lane: 2 }).unwrap()
    }

    fn hello(change: impl FnOnce(&mut Hello)) -> Vec<u8> {
        let mut hello = Hello {
            from: introduction(2),
            to: 1,
            lane: 1,
        };
        change(&mut hello);
        codec::to_bytes(&hello).unwrap()
    }

    #[test]
    fn every_version_introduces_itself_alike() {
        let mut golden = Golden::version(1);
        let from = Introduction {
            protocol_min: 1,
            protocol_max: 1,
            ..introduction(2)
        };
        let hello = Hello {
            from: from.clone(),
            to: 1,
            lane: 1,
        };
        let stored = golden.check("hello", &codec::to_bytes(&hello).unwrap());
        assert_eq!(codec::from_bytes::<Hello>(&stored).unwrap(), hello);
        let welcome = Welcome { from, protocol: 1 };
        let stored = golden.check("welcome", &codec::to_bytes(&welcome).unwrap());
        assert_eq!(codec::from_bytes::<Welcome>(&stored).unwrap(), welcome);
        golden.end();
    }

    #[test]
    fn whoever_fits_is_welcome_and_every_difference_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let identity = identity(dir.path());
        let caller = identity.receive(&hello(|_| ()), 2, &Proof::NotNeeded);
        let welcome = caller.unwrap().welcome;
        assert_eq!((welcome.from.node, welcome.protocol), (1, PROTOCOL_MAX));

        let refusal = |change: fn(&mut Hello)| {
            identity
                .receive(&hello(change), 2, &Proof::NotNeeded)
                .unwrap_err()
        };
        let text = refusal(|h| h.from.cluster = "other".to_owned()).to_string();
        assert!(text.contains("cluster.name"), "{text}");
        let text = refusal(|h| h.from.shards = 9).to_string();
        assert!(
            text.contains("9 shards") && text.contains("has 8"),
            "{text}"
        );
        let text = refusal(|h| (h.from.protocol_min, h.from.protocol_max) = (7, 8)).to_string();
        assert!(text.contains("versions 7 to 8"), "{text}");
        let text = refusal(|h| h.to = 3).to_string();
        assert!(text.contains("wanted node 3"), "{text}");
        let text = refusal(|h| h.from.node = 4).to_string();
        assert!(text.contains("no member that node 1 knows"), "{text}");
        let removed = refusal(|h| h.from.node = 5);
        assert!(
            removed.to_string().contains("was removed from the cluster"),
            "{removed}"
        );
        assert!(!identity.is_cast_out());
        identity.refused(refusal(|h| h.from.node = 4).code());
        assert!(!identity.is_cast_out());
        identity.refused(removed.code());
        assert!(identity.is_cast_out());
        let text = refusal(|h| h.from.incarnation = [9; 16]).to_string();
        assert!(text.contains("new node.id"), "{text}");
        assert!(matches!(
            identity.receive(b"GET / HTTP/1.1", 2, &Proof::NotNeeded),
            Err(Refusal::Unreadable(_))
        ));
    }

    #[test]
    fn a_node_that_was_told_of_its_emptied_disk_founds_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let identity = identity(dir.path());
        let connect = || identity.receive(&hello(|_| ()), 2, &Proof::NotNeeded);
        connect().unwrap();
        let told = identity.receive(
            &hello(|h| h.from.incarnation = [9; 16]),
            3,
            &Proof::NotNeeded,
        );
        identity.refused(told.unwrap_err().code());
        let (node, me) = (2, 1);
        assert_eq!(connect().unwrap_err(), Refusal::Emptied { node, me });
        assert_eq!(identity.admits(2), Err(Refusal::Emptied { node, me }));
        // A cluster that lives does not end because somebody comes from the past.
        identity.note_founded();
        connect().unwrap();
        assert_eq!(identity.admits(2), Ok(()));
    }

    #[test]
    fn the_newest_common_version_is_spoken_and_known_to_encoders() {
        let dir = tempfile::tempdir().unwrap();
        let mut identity = identity(dir.path());
        (identity.me.protocol_min, identity.me.protocol_max) = (3, 5);
        for (theirs, common) in [
            ((1, 3), Some(3)),
            ((2, 4), Some(4)),
            ((5, 5), Some(5)),
            ((5, 9), Some(5)),
            ((1, 2), None),
            ((6, 7), None),
        ] {
            let of = |from: &mut Introduction| {
                (from.protocol_min, from.protocol_max) = theirs;
            };
            identity.spoken.write().clear();
            let received = identity.receive(&hello(|h| of(&mut h.from)), 2, &Proof::NotNeeded);
            match received {
                Ok(caller) => assert_eq!(Some(caller.welcome.protocol), common),
                Err(refusal) => {
                    assert_eq!(common, None);
                    let text = refusal.to_string();
                    let (least, most) = theirs;
                    assert!(text.contains(&format!("node 2 speaks versions {least} to {most}")));
                    assert!(text.contains("node 1 versions 3 to 5"), "{text}");
                }
            }
            assert_eq!(identity.spoken.read().get(&2).copied(), common);
        }
    }

    #[test]
    fn a_version_that_was_not_to_be_chosen_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let mut identity = identity(dir.path());
        (identity.me.protocol_min, identity.me.protocol_max) = (1, 2);
        let mut from = introduction(2);
        (from.protocol_min, from.protocol_max) = (1, 3);
        let welcome = |protocol| {
            let from = from.clone();
            codec::to_bytes(&Welcome { from, protocol }).unwrap()
        };
        for chosen in [0, 1, 3] {
            let refused = identity.reached(2, &welcome(chosen), 2).unwrap_err();
            let newest = 2;
            let node = 2;
            assert_eq!(
                refused,
                Refusal::Chosen {
                    node,
                    chosen,
                    newest
                }
            );
            assert_eq!(identity.pins.of(2), None);
        }
        identity.reached(2, &welcome(2), 2).unwrap();
        assert_eq!(identity.spoken.read().get(&2), Some(&2));
    }
}
