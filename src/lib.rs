//! A clustered, in-memory command model with an HTTP interface: the node.

pub mod journal;
