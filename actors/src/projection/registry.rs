//! The registered projections, and the typed code behind a common face.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::{self, Debug};
use std::sync::Arc;

use jiff::Timestamp;

use super::rows::Rows;
use super::table::{Table, is_name};
use super::{EventMeta, Handled, HandlerError, Projection};
use crate::aggregate::Aggregate;
use crate::evolution::Upcast;
use crate::fold::{self, guarded};
use crate::names::{Position, ShardId, StreamName};
use crate::record::{Circumstances, Record, RecordView};
use crate::types::TypeRegistry;
use crate::variant;

/// Handles one event of an aggregate type.
type HandlerFn<A> = fn(&<A as Aggregate>::Event, &EventMeta<'_>, &mut Rows<'_>) -> Handled;

/// Which events a projection wants, and what it does with each.
#[derive(Debug, Default)]
pub struct Subscriptions {
    handlers: Vec<(&'static str, Arc<dyn Handler>)>,
}

impl Subscriptions {
    /// Every event of an aggregate type.
    #[must_use]
    pub fn on<A: Aggregate>(self, handler: HandlerFn<A>) -> Self {
        self.add::<A>(None, handler)
    }

    /// These events of an aggregate type, by their names.
    #[must_use]
    pub fn on_only<A: Aggregate, const N: usize>(
        self,
        events: [&'static str; N],
        handler: HandlerFn<A>,
    ) -> Self {
        self.add::<A>(Some(events.into()), handler)
    }

    fn add<A: Aggregate>(mut self, only: Option<Vec<&'static str>>, handler: HandlerFn<A>) -> Self {
        let typed = Typed::<A> { only, handler };
        self.handlers.push((A::TYPE, Arc::new(typed)));
        self
    }
}

trait Handler: Debug + Send + Sync {
    fn decode(&self, shard: ShardId, record: &Record, from: u64, out: &mut Vec<DecodedEvent>);

    fn only(&self) -> Option<&[&'static str]>;
}

struct Typed<A: Aggregate> {
    only: Option<Vec<&'static str>>,
    handler: HandlerFn<A>,
}

impl<A: Aggregate> Debug for Typed<A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "handler of {}", A::TYPE)
    }
}

impl<A: Aggregate> Typed<A> {
    /// One for each stored event; those of which no part is wanted are left out. And what else is
    /// stored with all of them.
    fn bodies(&self, record: &Record) -> Result<(Bodies, Origin), String> {
        let view = RecordView::open(&record.bytes).map_err(|e| e.to_string())?;
        let circumstances = view.circumstances().map_err(|e| e.to_string())?;
        let events = fold::decode_events::<A>(&view).map_err(|e| e.to_string())?;
        let wanted = |event: &A::Event| match &self.only {
            None => true,
            Some(only) => variant::variant_name(event).is_some_and(|n| only.contains(&n)),
        };
        let body = |upcast: Upcast<A::Event>| {
            let upcast = match upcast {
                Upcast::One(event) if wanted(&event) => Upcast::One(event),
                Upcast::Parts(parts) => Upcast::Parts(parts.into_iter().filter(wanted).collect()),
                Upcast::One(_) | Upcast::Dropped(_) => return None,
            };
            let handler = self.handler;
            let any = !upcast.events().is_empty();
            any.then(|| Box::new(TypedBody::<A> { upcast, handler }) as Box<dyn Body>)
        };
        Ok((
            events.into_iter().map(body).collect(),
            Origin::of(circumstances),
        ))
    }
}

impl<A: Aggregate> Handler for Typed<A> {
    fn decode(&self, shard: ShardId, record: &Record, from: u64, out: &mut Vec<DecodedEvent>) {
        let event = |sequence_number: u64, body, origin| DecodedEvent {
            stream: record.stream.clone(),
            sequence_number,
            position: Position {
                shard,
                number: record.first_position + (sequence_number - record.first_sequence),
            },
            time_us: record.time_us,
            origin,
            body,
        };
        match guarded(|| self.bodies(record)) {
            Ok((bodies, origin)) => out.extend(
                (record.first_sequence..)
                    .zip(bodies)
                    .filter(|(sequence, _)| *sequence >= from)
                    .filter_map(|(sequence, body)| {
                        Some(event(sequence, Ok(body?), origin.clone()))
                    }),
            ),
            // The first one stands for all of them: it is set aside, and so are those behind it.
            Err(reason) => {
                let sequence = record.first_sequence.max(from);
                out.push(event(sequence, Err(reason), Origin::default()));
            }
        }
    }

    fn only(&self) -> Option<&[&'static str]> {
        self.only.as_deref()
    }
}

/// A decoded event with its handler.
trait Body: Debug + Send + Sync {
    fn apply(&self, meta: &EventMeta<'_>, rows: &mut Rows<'_>) -> Handled;

    fn name(&self) -> Option<&'static str>;
}

/// One for each stored event that is wanted.
type Bodies = Vec<Option<Box<dyn Body>>>;

/// What one stored event is today. Its parts are handled together or not at all.
struct TypedBody<A: Aggregate> {
    upcast: Upcast<A::Event>,
    handler: HandlerFn<A>,
}

impl<A: Aggregate> Debug for TypedBody<A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.upcast.fmt(f)
    }
}

impl<A: Aggregate> Body for TypedBody<A> {
    fn apply(&self, meta: &EventMeta<'_>, rows: &mut Rows<'_>) -> Handled {
        let mut events = self.upcast.events().iter();
        events.try_for_each(|event| (self.handler)(event, meta, rows))
    }

    fn name(&self) -> Option<&'static str> {
        variant::variant_name(self.upcast.events().first()?)
    }
}

/// Where a command came from, shared by all of its events.
#[derive(Debug, Clone, Default)]
struct Origin {
    principal: Option<Arc<str>>,
    occurred_at: Option<Timestamp>,
}

impl Origin {
    fn of(circumstances: Circumstances<'_>) -> Self {
        let known = !circumstances.principal.is_empty();
        Self {
            principal: known.then(|| circumstances.principal.into()),
            occurred_at: circumstances.occurred_at(),
        }
    }
}

/// An event that a projection wants, ready to be handled.
#[derive(Debug)]
pub struct DecodedEvent {
    /// Whose event it is.
    pub stream: StreamName,
    /// Its place in the stream.
    pub sequence_number: u64,
    /// Its place in the shard.
    pub position: Position,
    /// When it was decided, in microseconds since the Unix epoch.
    pub time_us: i64,
    origin: Origin,
    body: Result<Box<dyn Body>, String>,
}

impl DecodedEvent {
    pub(super) fn apply(&self, rows: &mut Rows<'_>) -> Handled {
        let body = match &self.body {
            Ok(body) => body,
            Err(reason) => return Err(HandlerError::refused(reason)),
        };
        let meta = EventMeta {
            aggregate_type: self.stream.aggregate_type(),
            aggregate_id: self.stream.id(),
            sequence_number: self.sequence_number,
            position: self.position,
            time: Timestamp::from_microsecond(self.time_us).unwrap_or_default(),
            principal: self.origin.principal.as_deref(),
            occurred_at: self.origin.occurred_at,
        };
        body.apply(&meta, rows)
    }

    /// The event's name, that of the first part of one that was split; `None` when it could not be
    /// decoded.
    #[must_use]
    pub fn event_type(&self) -> Option<&'static str> {
        self.body.as_ref().ok().and_then(|body| body.name())
    }
}

/// A registered projection.
#[derive(Debug, Clone)]
pub struct ProjectionDefinition {
    /// Its name, which is that of its view.
    pub name: &'static str,
    /// Its version.
    pub version: u32,
    /// What it shows.
    pub description: &'static str,
    /// Its tables; the first one is the view.
    pub tables: Vec<Table>,
    handlers: BTreeMap<&'static str, Arc<dyn Handler>>,
}

impl ProjectionDefinition {
    /// Whether it wants any event of this aggregate type.
    #[must_use]
    pub fn wants(&self, aggregate_type: &str) -> bool {
        self.handlers.contains_key(aggregate_type)
    }

    /// The aggregate types whose events it wants.
    pub fn aggregate_types(&self) -> impl Iterator<Item = &'static str> {
        self.handlers.keys().copied()
    }

    /// Adds the events of a record that it wants, from sequence number `from` on.
    pub fn decode(&self, shard: ShardId, record: &Record, from: u64, out: &mut Vec<DecodedEvent>) {
        if let Some(handler) = self.handlers.get(record.stream.aggregate_type()) {
            handler.decode(shard, record, from, out);
        }
    }

    /// Takes a projection's definition and checks it.
    ///
    /// # Errors
    /// See [`ProjectionError`].
    pub fn of<P: Projection>() -> Result<Self, ProjectionError> {
        let projection = P::NAME;
        if !is_name(projection) || is_taken(projection) {
            return Err(ProjectionError::Name { projection });
        }
        let tables = P::tables();
        if tables.is_empty() || P::VERSION == 0 {
            return Err(ProjectionError::Empty { projection });
        }
        let mut names = BTreeSet::new();
        for table in &tables {
            table.check(projection)?;
            if !names.insert(table.name.clone()) {
                return Err(ProjectionError::Table {
                    projection,
                    table: table.name.to_string(),
                    reason: "there are two of this name".to_owned(),
                });
            }
        }
        let mut handlers = BTreeMap::new();
        for (aggregate_type, handler) in P::subscriptions().handlers {
            if handlers.insert(aggregate_type, handler).is_some() {
                return Err(ProjectionError::Twice {
                    projection,
                    aggregate_type,
                });
            }
        }
        Ok(Self {
            name: projection,
            version: P::VERSION,
            description: P::DESCRIPTION,
            tables,
            handlers,
        })
    }
}

/// Whether a store calls things of its own like that: `phalanx_builds`, `b7_accounts`.
fn is_taken(name: &str) -> bool {
    let of_build = name
        .strip_prefix('b')
        .is_some_and(|rest| rest.starts_with(|first: char| first.is_ascii_digit()));
    of_build || name.starts_with("phalanx_") || name.starts_with("sqlite_")
}

/// Every projection of a node.
#[derive(Debug, Clone, Default)]
pub struct ProjectionRegistry {
    projections: BTreeMap<&'static str, Arc<ProjectionDefinition>>,
}

impl ProjectionRegistry {
    /// Adds a projection.
    ///
    /// # Errors
    /// See [`ProjectionError`].
    pub fn register<P: Projection>(&mut self) -> Result<(), ProjectionError> {
        let definition = ProjectionDefinition::of::<P>()?;
        let projection = definition.name;
        let taken = self.projections.insert(projection, Arc::new(definition));
        match taken {
            Some(_) => Err(ProjectionError::Taken { projection }),
            None => Ok(()),
        }
    }

    /// The projection of this name.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&Arc<ProjectionDefinition>> {
        self.projections.get(name)
    }

    /// All of them, by name.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<ProjectionDefinition>> {
        self.projections.values()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.projections.is_empty()
    }

    /// Checks that every event that is wanted exists.
    ///
    /// # Errors
    /// When a projection wants events of a type that is not registered, or events that it has not.
    pub fn check(&self, types: &TypeRegistry) -> Result<(), ProjectionError> {
        for definition in self.iter() {
            for (aggregate_type, handler) in &definition.handlers {
                let unknown = |event: &str| ProjectionError::UnknownEvents {
                    projection: definition.name,
                    aggregate_type,
                    event: event.to_owned(),
                };
                let known = types.get(aggregate_type).ok_or_else(|| unknown("*"))?;
                for event in handler.only().into_iter().flatten() {
                    if !known.events.iter().any(|known| known.name == *event) {
                        return Err(unknown(event));
                    }
                }
            }
        }
        Ok(())
    }
}

/// Why a projection was not accepted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ProjectionError {
    /// Not a usable name.
    #[error(
        "`{projection}` is not a projection's name: use a letter, then up to 47 of a-z, 0-9, _"
    )]
    Name {
        /// The name.
        projection: &'static str,
    },
    /// Two projections of one name.
    #[error("there are two projections called `{projection}`")]
    Taken {
        /// The name.
        projection: &'static str,
    },
    /// It has no table, or the version 0.
    #[error("the projection `{projection}` needs a table and a version of at least 1")]
    Empty {
        /// Its name.
        projection: &'static str,
    },
    /// A table cannot be made.
    #[error("the table `{table}` of the projection `{projection}` is not possible: {reason}")]
    Table {
        /// The projection.
        projection: &'static str,
        /// The table.
        table: String,
        /// What is wrong with it.
        reason: String,
    },
    /// Two handlers for one aggregate type.
    #[error("the projection `{projection}` subscribes to `{aggregate_type}` twice")]
    Twice {
        /// The projection.
        projection: &'static str,
        /// The aggregate type.
        aggregate_type: &'static str,
    },
    /// It wants what does not exist.
    #[error(
        "the projection `{projection}` wants `{event}` of `{aggregate_type}`, which is not registered"
    )]
    UnknownEvents {
        /// The projection.
        projection: &'static str,
        /// The aggregate type.
        aggregate_type: &'static str,
        /// The event, or `*` when the type is unknown.
        event: String,
    },
}
