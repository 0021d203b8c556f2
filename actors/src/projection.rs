//! Projections: how committed events become rows that can be queried.
//!
//! This part owns the contract between a domain and the read side, without any I/O: what a
//! projection is called, which tables it owns, which events it wants, and the pure function from an
//! event to changes of rows. Where rows are kept is not known here.
//!
//! Invariants: the rows depend on nothing but the events in their order, so that a read model may be
//! thrown away and built again; the changes of one event take effect together or not at all.

mod columns;
mod ddl;
mod registry;
mod row;
mod rows;
mod table;
mod workspace;

use std::fmt::Debug;

use jiff::Timestamp;

use crate::names::Position;

pub use self::columns::Columns;
pub use self::ddl::{Dialect, SUM_COLUMN, create_table, index_name, quoted};
pub use self::registry::{
    DecodedEvent, ProjectionDefinition, ProjectionError, ProjectionRegistry, Subscriptions,
};
pub use self::row::{Key, Row, Value, moment};
pub use self::rows::Rows;
pub use self::table::{Column, ColumnType, Table};
pub use self::workspace::{Change, KeyLimit, Loaded, Run, Stored, Workspace};

/// A read model's definition: one view, the tables behind it, and how events change them.
///
/// ```
/// use phalanx_actors::projection::{EventMeta, HandlerError, Projection, Row, Rows, Subscriptions, Table};
/// # use phalanx_actors::{Aggregate, Context};
/// # use schemars::JsonSchema;
/// # use serde::{Deserialize, Serialize};
/// # #[derive(Debug)] struct Counter;
/// # #[derive(Debug, Deserialize, JsonSchema)] enum CounterCommand { Count { by: i64 } }
/// # #[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)] enum CounterEvent { Counted { by: i64 } }
/// # #[derive(Debug, PartialEq, Serialize, JsonSchema, thiserror::Error)] #[error("no")] enum Never { Never }
/// # impl Aggregate for Counter {
/// #     const TYPE: &'static str = "counter"; const DESCRIPTION: &'static str = "Counts.";
/// #     type State = (); type Command = CounterCommand; type Event = CounterEvent; type Rejection = Never;
/// #     fn decide(_: &(), _: CounterCommand, _: &Context<'_>) -> Result<Vec<CounterEvent>, Never> { Ok(vec![]) }
/// #     fn evolve(_: &mut (), _: &CounterEvent) {}
/// # }
/// #[derive(Debug)]
/// struct Counters;
///
/// impl Projection for Counters {
///     const NAME: &'static str = "counters";
///     const VERSION: u32 = 1;
///     const DESCRIPTION: &'static str = "How far each counter is.";
///
///     fn tables() -> Vec<Table> {
///         vec![Table::new("counters", "id").text("id").integer("count")]
///     }
///
///     fn subscriptions() -> Subscriptions {
///         Subscriptions::default().on::<Counter>(|event, meta, rows| {
///             let CounterEvent::Counted { by } = event;
///             let count = match rows.get("counters", meta.aggregate_id)? {
///                 Some(row) => row.integer("count")?,
///                 None => 0,
///             };
///             rows.put(
///                 "counters",
///                 Row::default().with("id", meta.aggregate_id).with("count", count + by),
///             )
///         })
///     }
/// }
/// ```
pub trait Projection: Debug + Send + Sync + 'static {
    /// The name of the projection and of its view in URLs, in `snake_case`.
    const NAME: &'static str;

    /// The version of tables and handlers. Raise it when either changes: the read model is then
    /// built again from the journal, beside the old one, and takes its place when it has caught up.
    const VERSION: u32;

    /// One sentence for the description of the view.
    const DESCRIPTION: &'static str;

    /// The tables that it owns. The first one is the view; the others are for its own use.
    fn tables() -> Vec<Table>;

    /// The events that it wants and what it does with each.
    fn subscriptions() -> Subscriptions;
}

/// What a handler may know of an event besides its fields.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EventMeta<'a> {
    /// The aggregate's type.
    pub aggregate_type: &'a str,
    /// The aggregate's id.
    pub aggregate_id: &'a str,
    /// The event's place in its stream, from 1.
    pub sequence_number: u64,
    /// Its place among the events of its shard.
    pub position: Position,
    /// When it was decided.
    pub time: Timestamp,
    /// Who sent the command that led to it, where the node knew.
    pub principal: Option<&'a str>,
    /// When it happened in the world, where the client said so.
    pub occurred_at: Option<Timestamp>,
}

/// What a handler gives back.
pub type Handled = Result<(), HandlerError>;

/// Why a handler did not finish an event.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(transparent)]
pub struct HandlerError(#[from] Stop);

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
enum Stop {
    /// A row is not in memory yet. The handler is run again once it is: handlers pass this on with
    /// `?` and never meet it.
    #[error("a row has not been read yet")]
    Missing,
    /// It cannot be done. The event is set aside.
    #[error("{0}")]
    Refused(String),
}

impl HandlerError {
    /// The event cannot be handled, for this reason. It is set aside with all later events of its
    /// aggregate, and the projection goes on with the others.
    #[must_use]
    pub fn refused(reason: impl Into<String>) -> Self {
        Self(Stop::Refused(reason.into()))
    }

    fn missing() -> Self {
        Self(Stop::Missing)
    }
}

#[cfg(test)]
mod tests;
