//! What a member does for the cluster.

use std::collections::BTreeSet;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// A part of the work.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema,
)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// It may hold copies of shards, and lead them.
    Command,
    /// It keeps the read models and answers views and event streams.
    Query,
    /// It takes the requests of clients.
    Gateway,
}

impl Role {
    /// Every role.
    pub const ALL: [Self; 3] = [Self::Command, Self::Query, Self::Gateway];

    /// As it is written in settings.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Command => "command",
            Self::Query => "query",
            Self::Gateway => "gateway",
        }
    }
}

/// Every role.
#[must_use]
pub fn all() -> BTreeSet<Role> {
    Role::ALL.into()
}
