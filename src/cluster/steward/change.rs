//! Adding and removing members, as people ask for it.
//!
//! Owns the way from a request to the command and back. Refuses to wait until copies have moved:
//! that takes as long as it takes, and `GET /v1/cluster` shows how far it is.

use std::time::Duration;

use bytes::Bytes;
use phalanx_actors::request::{Answer, CommandRequest, Failure, FailureKind, Precondition};
use serde_json::{Map, Value, json};

use super::Steward;
use crate::cluster::NodeId;
use crate::cluster::members::{Members, MembersCommand, MembersRejection, MembersState, Standing};
use crate::cluster::roster::Heard;
use crate::cluster::router::Router;
use crate::cluster::status::MemberChange;

/// How long the leader of the members may take.
const COMMAND_WAIT: Duration = Duration::from_secs(5);

/// Why members were not changed.
#[derive(Debug, thiserror::Error)]
pub enum ChangeError {
    /// The members themselves forbid it.
    #[error("{detail}")]
    Rejected {
        /// The rejection's code; see `MembersRejection`.
        code: String,
        /// In words.
        detail: String,
        /// Its fields.
        fields: Map<String, Value>,
    },
    /// No answer could be had.
    #[error("{0}")]
    Failed(Failure),
    /// The change is noted, and how far it is cannot be seen now.
    #[error("the change is noted, but how far it is cannot be seen now: {0}; ask again")]
    Unseen(Failure),
    /// The node was started as a cluster of one, and listens to nobody.
    #[error(
        "this node was started without [[cluster.peers]] and does not listen for members; name the \
         new node there, restart this one, and ask again"
    )]
    Alone,
}

impl Steward {
    /// Lets a node join. Safe to repeat.
    ///
    /// # Errors
    /// See [`ChangeError`].
    pub async fn add_node(
        &self,
        router: &Router,
        id: NodeId,
        address: String,
    ) -> Result<MemberChange, ChangeError> {
        self.change(router, id, &MembersCommand::AddNode { id, address })
            .await
    }

    /// Lets a member leave. Safe to repeat.
    ///
    /// # Errors
    /// See [`ChangeError`].
    pub async fn remove_node(
        &self,
        router: &Router,
        id: NodeId,
    ) -> Result<MemberChange, ChangeError> {
        if !router.has_peers() {
            // Nobody has written down who the members of a cluster of one are.
            let me = self.membership.me;
            let (code, rejection) = if id == me {
                ("last-member", MembersRejection::LastMember { id })
            } else {
                ("not-member", MembersRejection::NotMember { id })
            };
            return Err(ChangeError::Rejected {
                code: code.to_owned(),
                detail: rejection.to_string(),
                fields: Map::from_iter([("id".to_owned(), json!(id))]),
            });
        }
        self.change(router, id, &MembersCommand::RemoveNode { id })
            .await
    }

    async fn change(
        &self,
        router: &Router,
        id: NodeId,
        command: &MembersCommand,
    ) -> Result<MemberChange, ChangeError> {
        if !router.has_peers() {
            return Err(ChangeError::Alone);
        }
        self.command(router, command).await?;
        let members = self.look(router).await.map_err(ChangeError::Unseen)?;
        self.nudge.notify_one();
        let members = members.unwrap_or_default();
        let member = members.nodes.get(&id);
        Ok(MemberChange {
            id,
            address: member.map(|member| member.address.clone()),
            standing: members.standing(id).unwrap_or(Standing::Removed),
        })
    }

    /// Gives the members a command.
    pub(super) async fn command(
        &self,
        router: &Router,
        command: &MembersCommand,
    ) -> Result<(), ChangeError> {
        let broken = |reason: String| {
            let failure = Failure::new(FailureKind::Internal, reason);
            ChangeError::Failed(failure)
        };
        let value = json!(command);
        let variant = value.as_object().and_then(|all| all.iter().next());
        let (Some((name, body)), Some(stream)) = (variant, Members::stream()) else {
            return Err(broken("a command without a name".to_owned()));
        };
        let request = CommandRequest {
            command: name.clone(),
            body: Bytes::from(body.to_string()),
            idempotency_key: None,
            key_is_new: false,
            precondition: Precondition::Any,
            representation: false,
            dry_run: false,
            traceparent: None,
            origin: None,
        };
        match router.command(&stream, &request, COMMAND_WAIT).await {
            Answer::Accepted(_) => Ok(()),
            Answer::Rejected {
                code,
                detail,
                fields,
            } => Err(ChangeError::Rejected {
                code,
                detail,
                fields,
            }),
            Answer::Failed(failure) => Err(ChangeError::Failed(failure)),
            other => Err(broken(format!("an answer to another question: {other:?}"))),
        }
    }

    /// Reads the members afresh and goes by them from now on; `None` when they are not written down
    /// yet.
    pub(super) async fn look(&self, router: &Router) -> Result<Option<MembersState>, Failure> {
        let broken = |reason: String| Failure::new(FailureKind::Internal, reason);
        let Some(stream) = Members::stream() else {
            return Ok(None);
        };
        match router.read(&stream, COMMAND_WAIT).await.0 {
            Answer::State(view) => {
                let members: MembersState = serde_json::from_str(view.state.get())
                    .map_err(|error| broken(error.to_string()))?;
                let sequence = view.sequence_number;
                self.hear(Heard {
                    sequence,
                    members: members.clone(),
                });
                Ok(Some(members))
            }
            Answer::NotFound => Ok(None),
            Answer::Failed(failure) => Err(failure),
            other => Err(broken(format!("an answer to another question: {other:?}"))),
        }
    }
}
