//! What this node knows of the members, and who founded the cluster with it.
//!
//! Owns the file `data_dir/members`: the founders, written once before anything is founded, and the
//! members as last heard. Refuses older news, and to take founders from an edited config file.
//! Invariant: the copy never runs ahead of `_members/cluster`; it may lag, and a node that was away
//! begins with what it knew.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::Mutex;
use phalanx_actors::codec::{self, CodecError, ValueType};
use serde::{Deserialize, Serialize};
use tokio::sync::watch;
use uuid::Uuid;

use super::NodeId;
use super::members::{Founder, MemberState, MembersState, Standing};

const FILE: &str = "members";
const DRAFT: &str = "members.new";
/// Before there were roles; still written where every member does everything, so that the release
/// before this one can go back to it.
const SCHEMA_WITHOUT_ROLES: u16 = 1;
const SCHEMA: u16 = 2;

/// The members as of some moment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Heard {
    /// The aggregate's sequence number then.
    pub sequence: u64,
    /// Its state.
    pub members: MembersState,
}

/// The file.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Stored {
    founders: BTreeSet<NodeId>,
    heard: Option<Heard>,
}

/// The file as it was before there were roles.
type Before = (
    BTreeSet<NodeId>,
    Option<(u64, (BTreeMap<NodeId, MemberState>, BTreeSet<NodeId>))>,
);

impl Stored {
    fn read(bytes: &[u8]) -> Result<Self, CodecError> {
        let (schema, payload) = codec::open(ValueType::Members, bytes)?;
        if schema != SCHEMA_WITHOUT_ROLES {
            return codec::from_bytes(payload);
        }
        let (founders, heard): Before = codec::from_bytes(payload)?;
        let heard = heard.map(|(sequence, (nodes, removed))| Heard {
            sequence,
            members: MembersState {
                nodes,
                removed,
                roles: BTreeMap::new(),
            },
        });
        Ok(Self { founders, heard })
    }

    fn write(self) -> Result<Vec<u8>, CodecError> {
        let roles = |heard: &Heard| !heard.members.roles.is_empty();
        if self.heard.as_ref().is_some_and(roles) {
            return codec::seal(ValueType::Members, SCHEMA, &self);
        }
        let heard = self.heard.map(|heard| {
            let MembersState { nodes, removed, .. } = heard.members;
            (heard.sequence, (nodes, removed))
        });
        let before: Before = (self.founders, heard);
        codec::seal(ValueType::Members, SCHEMA_WITHOUT_ROLES, &before)
    }
}

/// Whom the transport should know.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Contacts {
    /// The other members.
    pub peers: BTreeMap<NodeId, Contact>,
    /// Who was one once, and is to be told so.
    pub removed: BTreeSet<NodeId>,
}

/// How another member is known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Contact {
    /// `host:port`.
    pub address: String,
    /// The incarnation that it has announced.
    pub incarnation: Option<Uuid>,
}

/// See the file's description.
#[derive(Debug)]
pub struct Roster {
    me: NodeId,
    /// Addresses by the config file, this node's own included.
    configured: BTreeMap<NodeId, String>,
    founders: BTreeSet<NodeId>,
    heard: watch::Sender<Option<Arc<Heard>>>,
    dir: Option<PathBuf>,
    /// Held from the look at what is known until the news are written down and known.
    taking: Mutex<()>,
}

impl Roster {
    /// Reads what the data directory holds. A new one notes the founders first: everybody in
    /// `configured` if this node founds, nobody if it waits to be added.
    ///
    /// # Errors
    /// When the file is damaged or cannot be written.
    pub fn open(
        dir: &Path,
        me: NodeId,
        configured: BTreeMap<NodeId, String>,
        founds: bool,
    ) -> io::Result<Self> {
        let file = dir.join(FILE);
        let stored = match fs::read(&file) {
            Ok(bytes) => Some(Stored::read(&bytes).map_err(|error| {
                let text = format!("{} is damaged: {error}", file.display());
                io::Error::new(io::ErrorKind::InvalidData, text)
            })?),
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => return Err(error),
        };
        let found = stored.is_some();
        let mut roster = Self::in_memory(me, configured, founds);
        if let Some(stored) = stored {
            roster.founders = stored.founders;
            roster.heard.send_replace(stored.heard.map(Arc::new));
        }
        roster.dir = Some(dir.to_owned());
        if !found {
            roster.save(None)?;
        }
        Ok(roster)
    }

    /// One that forgets everything with the process.
    #[must_use]
    pub fn in_memory(me: NodeId, configured: BTreeMap<NodeId, String>, founds: bool) -> Self {
        let founders = if founds {
            configured.keys().copied().collect()
        } else {
            BTreeSet::new()
        };
        Self {
            me,
            configured,
            founders,
            heard: watch::Sender::new(None),
            dir: None,
            taking: Mutex::default(),
        }
    }

    /// This node.
    #[must_use]
    pub fn me(&self) -> NodeId {
        self.me
    }

    /// Who founded the cluster with this node; nobody if it joined later.
    #[must_use]
    pub fn founders(&self) -> &BTreeSet<NodeId> {
        &self.founders
    }

    /// The founders with their addresses, as far as they are known here.
    #[must_use]
    pub fn founding(&self) -> Vec<Founder> {
        let founder = |id: &NodeId| {
            let address = self.configured.get(id)?.clone();
            Some(Founder { id: *id, address })
        };
        self.founders.iter().filter_map(founder).collect()
    }

    /// Where the others reach this node, by its own account.
    #[must_use]
    pub fn own_address(&self) -> String {
        self.configured.get(&self.me).cloned().unwrap_or_default()
    }

    /// What was heard last.
    #[must_use]
    pub fn heard(&self) -> Option<Arc<Heard>> {
        self.heard.borrow().clone()
    }

    /// Tells of news.
    #[must_use]
    pub fn watch(&self) -> watch::Receiver<Option<Arc<Heard>>> {
        self.heard.subscribe()
    }

    /// Takes news, if they are news. Whether they were.
    ///
    /// # Errors
    /// When they cannot be written down; they are not taken then.
    pub fn hear(&self, heard: Heard) -> io::Result<bool> {
        let _one = self.taking.lock();
        let old = self.heard();
        if old.is_some_and(|old| old.sequence >= heard.sequence) {
            return Ok(false);
        }
        self.save(Some(&heard))?;
        self.heard.send_replace(Some(Arc::new(heard)));
        Ok(true)
    }

    /// How far a node is in or out; `None` when nothing is known of it.
    #[must_use]
    pub fn standing(&self, node: NodeId) -> Option<Standing> {
        match self.heard() {
            Some(heard) => heard.members.standing(node),
            // It has been written down nowhere yet.
            None => self.founders.contains(&node).then_some(Standing::Member),
        }
    }

    /// Those whom the config file named as founders beside this node, and of whom the cluster that came
    /// of it knows nothing: another founder's file did not name them.
    #[must_use]
    pub fn left_out(&self) -> Vec<NodeId> {
        let founders = self.founders.iter().copied();
        founders.filter(|id| self.standing(*id).is_none()).collect()
    }

    /// Every member with its address, this one included, by id. Before anything was heard, whoever
    /// the config file names.
    #[must_use]
    pub fn members(&self) -> Vec<(NodeId, String)> {
        let Some(heard) = self.heard() else {
            let all = self.configured.iter();
            let known =
                all.filter(|(id, _)| self.founders.is_empty() || self.founders.contains(id));
            return known.map(|(id, address)| (*id, address.clone())).collect();
        };
        let address = |id: &NodeId, announced: &str| {
            let own = self.configured.get(id);
            own.map_or_else(|| announced.to_owned(), Clone::clone)
        };
        let members = heard.members.nodes.iter();
        members
            .map(|(id, member)| (*id, address(id, &member.address)))
            .collect()
    }

    /// Whom the transport should know.
    #[must_use]
    pub fn contacts(&self) -> Contacts {
        let heard = self.heard();
        let incarnation = |id: &NodeId| {
            let member = heard.as_ref()?.members.nodes.get(id)?;
            Uuid::parse_str(&member.incarnation).ok()
        };
        // Whoever was removed has nobody to talk to.
        let gone = self.standing(self.me) == Some(Standing::Removed);
        let others = self.members().into_iter();
        let others = others.filter(|(id, _)| *id != self.me && !gone);
        let peers = others
            .map(|(id, address)| {
                let incarnation = incarnation(&id);
                let contact = Contact {
                    address,
                    incarnation,
                };
                (id, contact)
            })
            .collect();
        let removed = heard.as_ref().map(|heard| heard.members.removed.clone());
        Contacts {
            peers,
            removed: removed.unwrap_or_default(),
        }
    }

    fn save(&self, heard: Option<&Heard>) -> io::Result<()> {
        let Some(dir) = &self.dir else {
            return Ok(());
        };
        let stored = Stored {
            founders: self.founders.clone(),
            heard: heard.cloned(),
        };
        let bytes = stored.write().map_err(io::Error::other)?;
        let draft = dir.join(DRAFT);
        let mut file = File::create(&draft)?;
        file.write_all(&bytes)?;
        file.sync_all()?;
        fs::rename(&draft, dir.join(FILE))?;
        File::open(dir)?.sync_all()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::roles::Role;

    fn configured(ids: &[NodeId]) -> BTreeMap<NodeId, String> {
        ids.iter().map(|id| (*id, format!("host-{id}:1"))).collect()
    }

    fn heard(sequence: u64, ids: &[NodeId], removed: &[NodeId]) -> Heard {
        let member = |id: &NodeId| MemberState {
            address: format!("new-{id}:1"),
            zone: String::new(),
            incarnation: String::new(),
            standing: Standing::Member,
        };
        Heard {
            sequence,
            members: MembersState {
                nodes: ids.iter().map(|id| (*id, member(id))).collect(),
                removed: removed.iter().copied().collect(),
                roles: BTreeMap::new(),
            },
        }
    }

    #[test]
    fn roles_are_kept_and_without_any_the_file_is_as_it_was() {
        #[derive(Serialize)]
        struct Members {
            nodes: BTreeMap<NodeId, MemberState>,
            removed: BTreeSet<NodeId>,
        }
        #[derive(Serialize)]
        struct Known {
            sequence: u64,
            members: Members,
        }
        #[derive(Serialize)]
        struct File {
            founders: BTreeSet<NodeId>,
            heard: Option<Known>,
        }
        let news = heard(7, &[1, 2], &[3]);
        let stored = Stored {
            founders: BTreeSet::from([1]),
            heard: Some(news.clone()),
        };
        let file = File {
            founders: BTreeSet::from([1]),
            heard: Some(Known {
                sequence: 7,
                members: Members {
                    nodes: news.members.nodes.clone(),
                    removed: news.members.removed.clone(),
                },
            }),
        };
        let before = codec::seal(ValueType::Members, 1, &file).unwrap();
        assert_eq!(stored.clone().write().unwrap(), before);
        assert_eq!(Stored::read(&before).unwrap().heard, Some(news.clone()));
        let mut other = stored;
        let mut news = news;
        news.members.roles.insert(2, BTreeSet::from([Role::Query]));
        other.heard = Some(news.clone());
        let bytes = other.write().unwrap();
        assert_eq!(Stored::read(&bytes).unwrap().heard, Some(news));
    }

    #[test]
    fn founders_are_those_of_the_first_start_whatever_the_file_says_later() {
        let dir = tempfile::tempdir().unwrap();
        let first = Roster::open(dir.path(), 1, configured(&[1, 2, 3]), true).unwrap();
        assert_eq!(*first.founders(), BTreeSet::from([1, 2, 3]));
        let again = Roster::open(dir.path(), 1, configured(&[1, 2, 3, 4]), true).unwrap();
        assert_eq!(*again.founders(), BTreeSet::from([1, 2, 3]));
        let ids: Vec<NodeId> = again.members().iter().map(|(id, _)| *id).collect();
        assert_eq!(ids, [1, 2, 3]);
        let other = tempfile::tempdir().unwrap();
        let joins = Roster::open(other.path(), 4, configured(&[1, 4]), false).unwrap();
        assert!(joins.founders().is_empty() && joins.founding().is_empty());
        let joined = Roster::open(other.path(), 4, configured(&[1, 4]), true).unwrap();
        assert!(joined.founders().is_empty(), "it never founds");
    }

    #[test]
    fn news_are_kept_across_a_restart_and_older_ones_are_none() {
        let dir = tempfile::tempdir().unwrap();
        let roster = Roster::open(dir.path(), 1, configured(&[1, 2]), true).unwrap();
        assert_eq!(roster.standing(2), Some(Standing::Member));
        assert!(roster.hear(heard(5, &[1, 2, 4], &[3])).unwrap());
        assert!(!roster.hear(heard(5, &[1], &[])).unwrap());
        assert!(!roster.hear(heard(4, &[1], &[])).unwrap());
        drop(roster);
        let roster = Roster::open(dir.path(), 1, configured(&[1, 2]), true).unwrap();
        assert_eq!(roster.standing(3), Some(Standing::Removed));
        assert_eq!(roster.standing(5), None);
        // The file's addresses stay in force for those whom it names.
        let contacts = roster.contacts();
        let addresses: Vec<&str> = contacts
            .peers
            .values()
            .map(|c| c.address.as_str())
            .collect();
        assert_eq!(addresses, ["host-2:1", "new-4:1"]);
        assert_eq!(contacts.removed, BTreeSet::from([3]));
    }

    #[test]
    fn founders_whom_the_cluster_does_not_know_are_left_out_and_those_that_left_are_not() {
        let roster = Roster::in_memory(1, configured(&[1, 2, 3, 4]), true);
        assert!(roster.left_out().is_empty(), "nothing was heard yet");
        assert!(roster.hear(heard(1, &[1, 3], &[4])).unwrap());
        assert_eq!(roster.left_out(), [2]);
        let joined = Roster::in_memory(5, configured(&[1, 2, 5]), false);
        assert!(joined.hear(heard(1, &[1, 5], &[])).unwrap());
        assert!(joined.left_out().is_empty());
    }

    #[test]
    fn of_news_that_come_at_once_the_newest_stay() {
        for round in 0..20_u64 {
            let dir = tempfile::tempdir().unwrap();
            let roster = Roster::open(dir.path(), 1, configured(&[1]), true).unwrap();
            let start = std::sync::Barrier::new(4);
            std::thread::scope(|scope| {
                for sequence in 1..=4 {
                    let (roster, start) = (&roster, &start);
                    scope.spawn(move || {
                        start.wait();
                        roster.hear(heard(sequence, &[1, sequence], &[])).unwrap();
                    });
                }
            });
            assert_eq!(roster.heard().unwrap().sequence, 4, "round {round}");
            drop(roster);
            let kept = Roster::open(dir.path(), 1, configured(&[1]), true).unwrap();
            assert_eq!(kept.heard().unwrap().sequence, 4, "round {round}");
        }
    }

    #[test]
    fn a_damaged_file_is_reported_and_not_forgotten() {
        let dir = tempfile::tempdir().unwrap();
        drop(Roster::open(dir.path(), 1, configured(&[1]), true).unwrap());
        let file = dir.path().join(FILE);
        let mut bytes = fs::read(&file).unwrap();
        let last = bytes.len() - 1;
        bytes[last] ^= 1;
        fs::write(&file, bytes).unwrap();
        let refused = Roster::open(dir.path(), 1, configured(&[1]), true).unwrap_err();
        assert!(refused.to_string().contains("damaged"));
    }
}
