//! How events of earlier releases become events of this one.
//!
//! Each event type (a variant of the event enum) has a version of its own, from 1, which is stored with
//! every event. Where its fields changed, the aggregate names the shapes that were released and one
//! pure function from each to the next; the last one leads to the events of today. The compiler checks
//! that the chain fits. Everything that reads events reads them through [`EventSchema::decode`].
//!
//! Owns: the chains, and what a stored event becomes. Refuses: to guess; a version that it does not
//! know is an error. Invariant: what is stored is never changed, and so are its sequence number and
//! position: the parts of an event that is split share both, and an event that is dropped keeps both.

use std::any::{Any, TypeId};
use std::collections::HashMap;
use std::fmt;
use std::sync::{OnceLock, RwLock};

use schemars::JsonSchema;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::value::RawValue;

use crate::aggregate::Aggregate;
use crate::codec::{self, CodecError};
use crate::record::{RecordView, StoredEvent};
use crate::variant;

/// What a stored event is today.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Upcast<E> {
    /// One event.
    One(E),
    /// Several that stand at the place of the one.
    Parts(Vec<E>),
    /// None any more, for this reason.
    Dropped(&'static str),
}

impl<E> Upcast<E> {
    /// The events at this place, in order.
    #[must_use]
    pub fn events(&self) -> &[E] {
        match self {
            Self::One(event) => std::slice::from_ref(event),
            Self::Parts(events) => events,
            Self::Dropped(_) => &[],
        }
    }

    /// The events at this place, in order.
    #[must_use]
    pub fn into_events(self) -> Vec<E> {
        match self {
            Self::One(event) => vec![event],
            Self::Parts(events) => events,
            Self::Dropped(_) => Vec::new(),
        }
    }
}

impl<E> From<E> for Upcast<E> {
    fn from(event: E) -> Self {
        Self::One(event)
    }
}

type Decode<T> = Box<dyn Fn(&[u8]) -> Result<T, CodecError> + Send + Sync>;
type Show = fn(&[u8]) -> Result<Box<RawValue>, String>;

/// The released shapes of an event type so far; `T` is the last of them. See [`first`].
pub struct Released<T> {
    /// From the stored fields of version n (at place n - 1) to the last shape.
    decoders: Vec<Decode<T>>,
    shows: Vec<Show>,
}

/// Begins a chain with the fields of version 1: a struct with the same fields, in the same order, as
/// the variant had.
#[must_use]
pub fn first<T: DeserializeOwned + Serialize + 'static>() -> Released<T> {
    Released {
        decoders: vec![Box::new(codec::from_bytes::<T>)],
        shows: vec![show::<T>],
    }
}

impl<T> fmt::Debug for Released<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Released({} versions)", self.decoders.len())
    }
}

impl<T: 'static> Released<T> {
    /// The next version had the fields of `U`, and the one before becomes that like this.
    #[must_use]
    pub fn then<U: DeserializeOwned + Serialize + 'static>(self, step: fn(T) -> U) -> Released<U> {
        let behind =
            |decode: Decode<T>| -> Decode<U> { Box::new(move |bytes| Ok(step(decode(bytes)?))) };
        let mut decoders: Vec<Decode<U>> = self.decoders.into_iter().map(behind).collect();
        decoders.push(Box::new(codec::from_bytes::<U>));
        let mut shows = self.shows;
        shows.push(show::<U>);
        Released { decoders, shows }
    }

    /// Ends the chain: the next version is the one that the enum has today.
    #[must_use]
    pub fn now<E, R>(self, step: fn(T) -> R) -> History<E>
    where
        E: 'static,
        R: Into<Upcast<E>> + 'static,
    {
        let behind = |decode: Decode<T>| -> Decode<Upcast<E>> {
            Box::new(move |bytes| Ok(step(decode(bytes)?).into()))
        };
        History {
            decoders: self.decoders.into_iter().map(behind).collect(),
            shows: self.shows,
        }
    }
}

fn show<T: DeserializeOwned + Serialize>(bytes: &[u8]) -> Result<Box<RawValue>, String> {
    let fields: T = codec::from_bytes(bytes).map_err(|error| error.to_string())?;
    let json = serde_json::to_string(&fields).map_err(|error| error.to_string())?;
    variant::without_nulls(json).map_err(|error| error.to_string())
}

/// All earlier versions of an event type, and how each becomes an event of today.
pub struct History<E> {
    decoders: Vec<Decode<Upcast<E>>>,
    shows: Vec<Show>,
}

impl<E> fmt::Debug for History<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "History({} versions)", self.decoders.len())
    }
}

/// The event types of an aggregate that changed since their first release.
#[derive(Debug)]
pub struct Upcasters<E> {
    histories: Vec<(&'static str, History<E>)>,
}

impl<E> Default for Upcasters<E> {
    fn default() -> Self {
        Self {
            histories: Vec::new(),
        }
    }
}

impl<E> Upcasters<E> {
    /// This event type had these versions before the one that it has today.
    #[must_use]
    pub fn event(mut self, name: &'static str, history: History<E>) -> Self {
        self.histories.push((name, history));
        self
    }
}

/// The fields of a variant that no code makes any more. It keeps the variant's place in the enum, for
/// places are part of the stored bytes: `NoteAdded(Retired)`. Nothing can be made of it, so `evolve`
/// has no more to say than `Event::NoteAdded(never) => match *never {}`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, JsonSchema)]
pub enum Retired {}

impl Serialize for Retired {
    fn serialize<S: Serializer>(&self, _: S) -> Result<S::Ok, S::Error> {
        match *self {}
    }
}

impl<'de> Deserialize<'de> for Retired {
    fn deserialize<D: Deserializer<'de>>(_: D) -> Result<Self, D::Error> {
        Err(serde::de::Error::custom("this event type is retired"))
    }
}

/// Why an aggregate's upcasters are not accepted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum UpcasterError {
    /// There is no such event type.
    #[error("there are upcasters for `{event}`, which is no variant of the events")]
    Unknown {
        /// The event type.
        event: &'static str,
    },
    /// Two chains for one event type.
    #[error("there are two chains of upcasters for `{event}`")]
    Twice {
        /// The event type.
        event: &'static str,
    },
}

/// One event type.
struct EventType<E> {
    name: &'static str,
    history: Option<History<E>>,
}

impl<E> EventType<E> {
    fn version(&self) -> u16 {
        let earlier = self.history.as_ref().map_or(0, |h| h.decoders.len());
        u16::try_from(earlier + 1).unwrap_or(u16::MAX)
    }
}

/// What is known of an aggregate's stored events.
pub struct EventSchema<E> {
    /// In the order of the enum.
    types: Vec<EventType<E>>,
    /// Every type is in its first version.
    is_first: bool,
    problem: Option<UpcasterError>,
}

impl<E> fmt::Debug for EventSchema<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let versions = self.types.iter().map(|t| (t.name, t.version()));
        f.debug_map().entries(versions).finish()
    }
}

impl<E: DeserializeOwned + Serialize + 'static> EventSchema<E> {
    fn new(upcasters: Upcasters<E>) -> Self {
        let name = |name: &&'static str| EventType {
            name,
            history: None,
        };
        let names = variant::variant_names::<E>().unwrap_or_default();
        let mut schema = Self {
            types: names.iter().map(name).collect(),
            is_first: upcasters.histories.is_empty(),
            problem: None,
        };
        for (event, history) in upcasters.histories {
            let found = schema.types.iter_mut().find(|known| known.name == event);
            let problem = match found {
                None => Some(UpcasterError::Unknown { event }),
                Some(known) => {
                    let before = known.history.replace(history);
                    before.map(|_| UpcasterError::Twice { event })
                }
            };
            schema.problem = schema.problem.or(problem);
        }
        schema
    }

    /// What is wrong with the upcasters.
    ///
    /// # Errors
    /// See [`UpcasterError`].
    pub fn check(&self) -> Result<(), UpcasterError> {
        self.problem.clone().map_or(Ok(()), Err)
    }

    /// The version in which events of this type are stored today.
    #[must_use]
    pub fn version(&self, name: &str) -> u16 {
        let known = self.types.iter().find(|known| known.name == name);
        known.map_or(1, EventType::version)
    }

    /// The version in which an event is stored.
    #[must_use]
    pub fn version_of(&self, event: &E) -> u16 {
        if self.is_first {
            return 1;
        }
        variant::variant_name(event).map_or(1, |name| self.version(name))
    }

    /// The name of a stored event's type and what is known of that.
    fn type_of(&self, stored: &StoredEvent<'_>) -> Result<(&EventType<E>, usize), CodecError> {
        let (tag, fields) = codec::take_borrowed::<u32>(stored.bytes)?;
        let known = usize::try_from(tag)
            .ok()
            .and_then(|tag| self.types.get(tag));
        let known = known.ok_or(CodecError::EventType {
            tag,
            known: self.types.len(),
        })?;
        Ok((known, stored.bytes.len() - fields.len()))
    }

    /// What a stored event is today.
    ///
    /// # Errors
    /// When it is of an unknown type or version, or of an unknown shape.
    pub fn decode(&self, stored: &StoredEvent<'_>) -> Result<Upcast<E>, CodecError> {
        if self.is_first && stored.version == 1 {
            return match codec::from_bytes(stored.bytes) {
                Ok(event) => Ok(Upcast::One(event)),
                // A type that is not known here is told apart from damage.
                Err(error) => Err(self.type_of(stored).err().unwrap_or(error)),
            };
        }
        let (known, at) = self.type_of(stored)?;
        let current = known.version();
        if stored.version == current {
            return Ok(Upcast::One(codec::from_bytes(stored.bytes)?));
        }
        let earlier = usize::from(stored.version).checked_sub(1);
        let history = known.history.as_ref();
        let decoder = earlier.and_then(|place| history?.decoders.get(place));
        let Some(decoder) = decoder else {
            return Err(CodecError::SchemaVersion {
                event: known.name,
                found: stored.version,
                known: current,
            });
        };
        decoder(stored.bytes.get(at..).unwrap_or_default())
    }

    /// A stored event's name and version; `None` for a type that is not known here.
    #[must_use]
    pub fn identify(&self, stored: &StoredEvent<'_>) -> Option<(&'static str, u16)> {
        let (known, _) = self.type_of(stored).ok()?;
        Some((known.name, stored.version))
    }

    /// A stored event's name and fields as they were when it was stored, which is what the reply to
    /// its command said.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn as_stored(
        &self,
        stored: &StoredEvent<'_>,
    ) -> Result<(&'static str, Box<RawValue>), String> {
        let (known, at) = self.type_of(stored).map_err(|error| error.to_string())?;
        let earlier = usize::from(stored.version).checked_sub(1);
        let history = known.history.as_ref();
        if let Some(show) = earlier.and_then(|place| history?.shows.get(place)) {
            let fields = stored.bytes.get(at..).unwrap_or_default();
            return Ok((known.name, show(fields)?));
        }
        let event = self.decode(stored).map_err(|error| error.to_string())?;
        let event = event.events().first().ok_or("it was dropped")?;
        let fields = variant::variant_fields(event, known.name);
        Ok((known.name, fields.map_err(|error| error.to_string())?))
    }

    /// What the events of a record are today: one entry for each that is stored, in order.
    ///
    /// # Errors
    /// When one of them cannot be read.
    pub fn decode_all(&self, view: &RecordView<'_>) -> Result<Vec<Upcast<E>>, CodecError> {
        view.events().map(|event| self.decode(&event?)).collect()
    }
}

/// The schemas in use, one for each aggregate type of the program, made when first asked for.
static SCHEMAS: OnceLock<RwLock<HashMap<TypeId, &'static (dyn Any + Send + Sync)>>> =
    OnceLock::new();

/// What is known of an aggregate's stored events.
#[must_use]
pub fn schema_of<A: Aggregate>() -> &'static EventSchema<A::Event> {
    let schemas = SCHEMAS.get_or_init(RwLock::default);
    let key = TypeId::of::<A>();
    let known = {
        let schemas = schemas.read().unwrap_or_else(|broken| broken.into_inner());
        schemas.get(&key).copied()
    };
    if let Some(known) = known.and_then(|known| known.downcast_ref()) {
        return known;
    }
    // Once for each type in the life of the program; of two that race, one is left unused.
    let made: &'static EventSchema<A::Event> =
        Box::leak(Box::new(EventSchema::new(A::upcasters())));
    let mut schemas = schemas.write().unwrap_or_else(|broken| broken.into_inner());
    schemas.insert(key, made);
    made
}
