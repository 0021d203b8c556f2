//! Who belongs to the cluster: an aggregate of a hidden type with a single instance.
//!
//! Owns the rules: ids and addresses are unique, an id that was removed is never used again, and
//! somebody always stays. Refuses to know where copies are: that a node may go or has arrived is
//! said by whoever has looked (`ConfirmRemoved`, `ConfirmJoined`). Invariant: its events are the one
//! durable truth about members; everything else on a node is a copy of it.
//!
//! ```text
//! AddNode -> joining --ConfirmJoined--> member --RemoveNode--> leaving --ConfirmRemoved--> removed
//!               +-----------------RemoveNode-------------------^
//! ```

use std::collections::{BTreeMap, BTreeSet};

use phalanx_actors::names::StreamName;
use phalanx_actors::{Aggregate, Context};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::NodeId;
use super::roles::{self, Role};

/// The members of the cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Members;

impl Members {
    /// The one instance.
    const ID: &'static str = "cluster";

    /// The stream that holds the truth.
    #[must_use]
    pub fn stream() -> Option<StreamName> {
        StreamName::new(Self::TYPE, Self::ID).ok()
    }
}

/// What is known of the members.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct MembersState {
    /// Who belongs to it, by id.
    pub nodes: BTreeMap<NodeId, MemberState>,
    /// Who did once.
    pub removed: BTreeSet<NodeId>,
    /// What those do who do not do everything.
    #[serde(default)]
    pub roles: BTreeMap<NodeId, BTreeSet<Role>>,
}

/// One member.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct MemberState {
    /// Where the others reach it, `host:port`.
    pub address: String,
    /// Its failure zone; empty until it has said so.
    pub zone: String,
    /// Made when its data directory was formatted; empty until it has said so.
    pub incarnation: String,
    /// How far it is in or out.
    pub standing: Standing,
}

/// How far a member is in or out.
#[derive(
    Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema,
)]
#[serde(rename_all = "snake_case")]
pub enum Standing {
    /// It is getting its share of copies.
    #[default]
    Joining,
    /// It has had it.
    Member,
    /// Its copies are being rebuilt elsewhere.
    Leaving,
    /// It belongs to the cluster no more. No member is kept with it; answers use it.
    Removed,
}

/// A node of the config files.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Founder {
    /// Its id.
    pub id: NodeId,
    /// Where the others reach it.
    pub address: String,
}

/// What can be asked of the members.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub enum MembersCommand {
    /// Begin with the nodes of the config files.
    Found {
        /// All of them.
        nodes: Vec<Founder>,
    },
    /// Let a node join.
    AddNode {
        /// Its id, never used before.
        id: NodeId,
        /// Where the others reach it.
        address: String,
    },
    /// A member says what it is like.
    Announce {
        /// The member.
        id: NodeId,
        /// Where the others reach it.
        address: String,
        /// Its failure zone.
        zone: String,
        /// Made when its data directory was formatted.
        incarnation: String,
        /// What it does; everything when it does not say.
        #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
        roles: BTreeSet<Role>,
    },
    /// A new member has its share of copies.
    ConfirmJoined {
        /// The member.
        id: NodeId,
    },
    /// Let a member leave.
    RemoveNode {
        /// The member.
        id: NodeId,
    },
    /// A leaving member holds no copy any more.
    ConfirmRemoved {
        /// The member.
        id: NodeId,
    },
}

/// What happened to the members.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum MembersEvent {
    /// The nodes of the config files were taken down.
    ClusterFounded {
        /// All of them.
        nodes: Vec<Founder>,
    },
    /// A node may join.
    NodeAdded {
        /// Its id.
        id: NodeId,
        /// Where the others reach it.
        address: String,
    },
    /// A member said what it is like.
    NodeAnnounced {
        /// The member.
        id: NodeId,
        /// Where the others reach it.
        address: String,
        /// Its failure zone.
        zone: String,
        /// Made when its data directory was formatted.
        incarnation: String,
    },
    /// A new member has its share of copies.
    NodeJoined {
        /// The member.
        id: NodeId,
    },
    /// A member is to leave.
    NodeLeaving {
        /// The member.
        id: NodeId,
    },
    /// A member has left.
    NodeRemoved {
        /// The member.
        id: NodeId,
    },
    /// A member said that it does other things than before. Releases that know no roles cannot read
    /// it; it is only written where a member does not do everything.
    NodeRolesChanged {
        /// The member.
        id: NodeId,
        /// What it does.
        roles: BTreeSet<Role>,
    },
}

/// Why members are not changed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema, thiserror::Error)]
#[serde(rename_all = "kebab-case")]
pub enum MembersRejection {
    /// The truth is not written down yet.
    #[error("the cluster has just been founded and has not noted its members yet")]
    NotFounded {},
    /// Somebody else has the id.
    #[error("node {id} is a member already, at {address}")]
    IdTaken {
        /// The id.
        id: NodeId,
        /// Where its owner is.
        address: String,
    },
    /// The id belonged to a node that has left, or is about to.
    #[error(
        "node {id} has left the cluster or is leaving, and an id is never used again: what a node \
         confirmed under it must not be taken for another's"
    )]
    IdUsed {
        /// The id.
        id: NodeId,
    },
    /// Somebody else has the address.
    #[error("node {id} is at {address}")]
    AddressTaken {
        /// Who.
        id: NodeId,
        /// Where.
        address: String,
    },
    /// A member came back with another disk.
    #[error("node {id} is known with incarnation {known}")]
    IncarnationDiffers {
        /// The member.
        id: NodeId,
        /// The one that it is known by.
        known: String,
    },
    /// There is no such member.
    #[error("there is no member {id}")]
    NotMember {
        /// The id.
        id: NodeId,
    },
    /// It is not on its way out.
    #[error("node {id} is not leaving")]
    NotLeaving {
        /// The id.
        id: NodeId,
    },
    /// Nobody would be left to hold copies of shards.
    #[error("node {id} is the last member that stays and holds copies of shards")]
    LastMember {
        /// The id.
        id: NodeId,
    },
}

impl Aggregate for Members {
    const TYPE: &'static str = "_members";
    const DESCRIPTION: &'static str = "The members of the cluster.";
    const STATE_SCHEMA_VERSION: u16 = 2;

    type State = MembersState;
    type Command = MembersCommand;
    type Event = MembersEvent;
    type Rejection = MembersRejection;

    fn decide(
        state: &MembersState,
        command: MembersCommand,
        context: &Context<'_>,
    ) -> Result<Vec<MembersEvent>, MembersRejection> {
        if let MembersCommand::Found { nodes } = command {
            let first = context.sequence_number == 0;
            return Ok(if first {
                vec![MembersEvent::ClusterFounded { nodes }]
            } else {
                Vec::new()
            });
        }
        if context.sequence_number == 0 {
            return Err(MembersRejection::NotFounded {});
        }
        let event = match command {
            MembersCommand::Found { .. } => None,
            MembersCommand::AddNode { id, address } => state.add(id, address)?,
            MembersCommand::Announce {
                id,
                address,
                zone,
                incarnation,
                roles,
            } => {
                let news = state.announce(id, address, zone, incarnation)?;
                let changed = state.change_roles(id, roles);
                return Ok(news.into_iter().chain(changed).collect());
            }
            MembersCommand::ConfirmJoined { id } => {
                let joining = state.member(id)?.standing == Standing::Joining;
                joining.then_some(MembersEvent::NodeJoined { id })
            }
            MembersCommand::RemoveNode { id } => state.remove(id)?,
            MembersCommand::ConfirmRemoved { id } => state.confirm_removed(id)?,
        };
        Ok(event.into_iter().collect())
    }

    fn evolve(state: &mut MembersState, event: &MembersEvent) {
        match event {
            MembersEvent::ClusterFounded { nodes } => {
                for Founder { id, address } in nodes {
                    state.insert(*id, address, Standing::Member);
                }
            }
            MembersEvent::NodeAdded { id, address } => {
                state.insert(*id, address, Standing::Joining);
            }
            MembersEvent::NodeAnnounced {
                id,
                address,
                zone,
                incarnation,
            } => {
                if let Some(member) = state.nodes.get_mut(id) {
                    member.address.clone_from(address);
                    member.zone.clone_from(zone);
                    member.incarnation.clone_from(incarnation);
                }
            }
            MembersEvent::NodeJoined { id } => state.set(*id, Standing::Member),
            MembersEvent::NodeLeaving { id } => state.set(*id, Standing::Leaving),
            MembersEvent::NodeRemoved { id } => {
                state.nodes.remove(id);
                state.roles.remove(id);
                state.removed.insert(*id);
            }
            MembersEvent::NodeRolesChanged { id, roles } => {
                if *roles == roles::all() {
                    state.roles.remove(id);
                } else {
                    state.roles.insert(*id, roles.clone());
                }
            }
        }
    }
}

impl MembersState {
    /// How far a node is in or out; `None` for one that was never in.
    #[must_use]
    pub fn standing(&self, id: NodeId) -> Option<Standing> {
        match self.nodes.get(&id) {
            Some(member) => Some(member.standing),
            None => self.removed.contains(&id).then_some(Standing::Removed),
        }
    }

    /// What a member does.
    #[must_use]
    pub fn roles_of(&self, id: NodeId) -> BTreeSet<Role> {
        self.roles.get(&id).cloned().unwrap_or_else(roles::all)
    }

    /// Whether a member may hold copies of shards. One that has not said what it does yet may not.
    #[must_use]
    pub fn holds_copies(&self, id: NodeId) -> bool {
        let silent = |member: &MemberState| {
            member.standing == Standing::Joining && member.incarnation.is_empty()
        };
        self.roles_of(id).contains(&Role::Command) && !self.nodes.get(&id).is_some_and(silent)
    }

    fn change_roles(&self, id: NodeId, roles: BTreeSet<Role>) -> Option<MembersEvent> {
        let roles = if roles.is_empty() {
            roles::all()
        } else {
            roles
        };
        (roles != self.roles_of(id)).then_some(MembersEvent::NodeRolesChanged { id, roles })
    }

    fn insert(&mut self, id: NodeId, address: &str, standing: Standing) {
        let member = MemberState {
            address: address.to_owned(),
            zone: String::new(),
            incarnation: String::new(),
            standing,
        };
        self.nodes.insert(id, member);
    }

    fn set(&mut self, id: NodeId, standing: Standing) {
        if let Some(member) = self.nodes.get_mut(&id) {
            member.standing = standing;
        }
    }

    fn member(&self, id: NodeId) -> Result<&MemberState, MembersRejection> {
        let member = self.nodes.get(&id);
        member.ok_or(MembersRejection::NotMember { id })
    }

    /// Nobody else is reached there.
    fn free(&self, id: NodeId, address: &str) -> Result<(), MembersRejection> {
        let mut others = self.nodes.iter().filter(|(other, _)| **other != id);
        match others.find(|(_, member)| member.address == address) {
            Some((other, member)) => Err(MembersRejection::AddressTaken {
                id: *other,
                address: member.address.clone(),
            }),
            None => Ok(()),
        }
    }

    fn add(&self, id: NodeId, address: String) -> Result<Option<MembersEvent>, MembersRejection> {
        if let Some(member) = self.nodes.get(&id) {
            return match member.standing {
                Standing::Leaving | Standing::Removed => Err(MembersRejection::IdUsed { id }),
                Standing::Joining | Standing::Member if member.address == address => Ok(None),
                Standing::Joining | Standing::Member => Err(MembersRejection::IdTaken {
                    id,
                    address: member.address.clone(),
                }),
            };
        }
        if self.removed.contains(&id) {
            return Err(MembersRejection::IdUsed { id });
        }
        self.free(id, &address)?;
        Ok(Some(MembersEvent::NodeAdded { id, address }))
    }

    fn announce(
        &self,
        id: NodeId,
        address: String,
        zone: String,
        incarnation: String,
    ) -> Result<Option<MembersEvent>, MembersRejection> {
        let member = self.member(id)?;
        if !member.incarnation.is_empty() && member.incarnation != incarnation {
            let known = member.incarnation.clone();
            return Err(MembersRejection::IncarnationDiffers { id, known });
        }
        self.free(id, &address)?;
        let same =
            member.address == address && member.zone == zone && member.incarnation == incarnation;
        Ok((!same).then_some(MembersEvent::NodeAnnounced {
            id,
            address,
            zone,
            incarnation,
        }))
    }

    fn remove(&self, id: NodeId) -> Result<Option<MembersEvent>, MembersRejection> {
        if self.removed.contains(&id) || self.member(id)?.standing == Standing::Leaving {
            return Ok(None);
        }
        let mut others = self.nodes.iter().filter(|(other, _)| **other != id);
        let holds = |id: NodeId| self.roles_of(id).contains(&Role::Command);
        if others.any(|(id, member)| member.standing != Standing::Leaving && holds(*id)) {
            Ok(Some(MembersEvent::NodeLeaving { id }))
        } else {
            Err(MembersRejection::LastMember { id })
        }
    }

    fn confirm_removed(&self, id: NodeId) -> Result<Option<MembersEvent>, MembersRejection> {
        if self.removed.contains(&id) {
            return Ok(None);
        }
        if self.member(id)?.standing == Standing::Leaving {
            Ok(Some(MembersEvent::NodeRemoved { id }))
        } else {
            Err(MembersRejection::NotLeaving { id })
        }
    }
}

#[cfg(test)]
mod tests;
