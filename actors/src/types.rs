//! The registered aggregate types: what they are called, what they accept, and the typed code
//! behind a common face.

mod erased;

use std::collections::BTreeMap;
use std::sync::Arc;

use schemars::JsonSchema;
use serde_json::{Map, Value, json};

use self::erased::Typed;
pub(crate) use self::erased::{AnswerReceiver, ErasedType};
use crate::aggregate::{Aggregate, Justification};
use crate::evolution::{self, UpcasterError};
use crate::history::RecordedEvent;
use crate::names::{ShardId, StreamName};
use crate::ports::{Journal, JournalError};
use crate::record::Record;
use crate::verify::StreamCheck;

/// A type's description, derived from its code.
#[derive(Debug, Clone)]
pub struct TypeDescription {
    /// The name in URLs.
    pub name: &'static str,
    /// What it is.
    pub description: &'static str,
    /// What it accepts.
    pub commands: Vec<VariantDescription>,
    /// What can happen to it.
    pub events: Vec<VariantDescription>,
    /// Why it may refuse.
    pub rejections: Vec<VariantDescription>,
    /// JSON Schema of its state.
    pub state: Value,
    /// Reasons for fresh reads.
    pub justifications: Vec<Justification>,
    /// Read models that serve it.
    pub views: Vec<&'static str>,
}

/// One command, event or rejection.
#[derive(Debug, Clone, PartialEq)]
pub struct VariantDescription {
    /// Its name.
    pub name: String,
    /// From its doc comment.
    pub description: String,
    /// JSON Schema of its fields: always an object.
    pub schema: Value,
    /// Of an event: the version of these fields. 1 for everything else.
    pub version: u16,
}

/// Every type that this node knows.
#[derive(Debug, Default)]
pub struct TypeRegistry {
    types: BTreeMap<&'static str, (TypeDescription, Arc<dyn ErasedType>)>,
    /// Types of the runtime's own, which have no description.
    hidden: BTreeMap<&'static str, Arc<dyn ErasedType>>,
}

impl TypeRegistry {
    /// Adds a type.
    ///
    /// # Errors
    /// When its name is not `snake_case`, is taken, or one of its enums is not one.
    pub fn register<A: Aggregate>(&mut self) -> Result<(), RegistrationError> {
        let name = A::TYPE;
        let allowed = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_';
        let hidden = name.starts_with('_');
        if name.is_empty() || name.len() > 64 || !name.bytes().all(allowed) || hidden {
            return Err(RegistrationError::Name { name });
        }
        if self.types.contains_key(name) {
            return Err(RegistrationError::Taken { name });
        }
        let description = describe::<A>()?;
        let typed = Typed::<A>::new(&description);
        self.types.insert(name, (description, Arc::new(typed)));
        Ok(())
    }

    /// Adds a type that serves the runtime itself: nobody finds it by its name but who knows it. Its
    /// name begins with `_`, which no other type's does.
    ///
    /// # Errors
    /// When its name has another form, is taken, or one of its enums is not one.
    pub fn register_hidden<A: Aggregate>(&mut self) -> Result<(), RegistrationError> {
        let name = A::TYPE;
        if !name.starts_with('_') {
            return Err(RegistrationError::Name { name });
        }
        if self.hidden.contains_key(name) {
            return Err(RegistrationError::Taken { name });
        }
        let typed = Typed::<A>::new(&describe::<A>()?);
        self.hidden.insert(name, Arc::new(typed));
        Ok(())
    }

    /// The description of a type that is not hidden.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&TypeDescription> {
        self.types.get(name).map(|(description, _)| description)
    }

    /// All of them but the hidden ones, by name.
    pub fn iter(&self) -> impl Iterator<Item = &TypeDescription> {
        self.types.values().map(|(description, _)| description)
    }

    /// The events of a stored record as they are shown to readers; none when its type is not
    /// registered.
    ///
    /// # Errors
    /// Says why an event cannot be read.
    pub fn events(&self, shard: ShardId, record: &Record) -> Result<Vec<RecordedEvent>, String> {
        match self.erased(record.stream.aggregate_type()) {
            Some(known) => known.events(shard, record, 0),
            None => Ok(Vec::new()),
        }
    }

    /// Whether this build understands a stored stream as the one did that wrote it; `None` when its
    /// type is not registered. Takes as long as replaying it.
    ///
    /// # Errors
    /// When the journal cannot be read.
    pub fn verify(
        &self,
        journal: &dyn Journal,
        shard: ShardId,
        stream: &StreamName,
    ) -> Option<Result<StreamCheck, JournalError>> {
        let known = self.erased(stream.aggregate_type())?;
        Some(known.verify(journal, shard, stream))
    }

    /// The version in which events of a type are stored now; 0 when the type is not registered.
    #[must_use]
    pub fn event_version(&self, aggregate_type: &str, event: &str) -> u16 {
        let known = self.erased(aggregate_type);
        known.map_or(0, |known| known.event_version(event))
    }

    pub(crate) fn erased(&self, name: &str) -> Option<&Arc<dyn ErasedType>> {
        let public = self.types.get(name).map(|(_, erased)| erased);
        public.or_else(|| self.hidden.get(name))
    }
}

/// Why a type was not accepted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RegistrationError {
    /// Not a usable name.
    #[error("`{name}` is not a type name: use 1 to 64 of a-z, 0-9 and _, and no _ in front")]
    Name {
        /// The name.
        name: &'static str,
    },
    /// Two types of one name.
    #[error("there are two aggregate types called `{name}`")]
    Taken {
        /// The name.
        name: &'static str,
    },
    /// Commands, events and rejections must be enums.
    #[error("the {what} of `{name}` must be an externally tagged enum")]
    NotAnEnum {
        /// The type's name.
        name: &'static str,
        /// `commands`, `events` or `rejections`.
        what: &'static str,
    },
    /// Its upcasters fit no event type.
    #[error("`{name}`: {source}")]
    Upcasters {
        /// The type's name.
        name: &'static str,
        /// What is wrong with them.
        source: UpcasterError,
    },
}

fn describe<A: Aggregate>() -> Result<TypeDescription, RegistrationError> {
    let not_an_enum = |what| RegistrationError::NotAnEnum {
        name: A::TYPE,
        what,
    };
    let mut events = variants::<A::Event>().ok_or(not_an_enum("events"))?;
    let schema = evolution::schema_of::<A>();
    schema
        .check()
        .map_err(|source| RegistrationError::Upcasters {
            name: A::TYPE,
            source,
        })?;
    for event in &mut events {
        event.version = schema.version(&event.name);
    }
    Ok(TypeDescription {
        name: A::TYPE,
        description: A::DESCRIPTION,
        commands: variants::<A::Command>().ok_or(not_an_enum("commands"))?,
        events,
        rejections: variants::<A::Rejection>().ok_or(not_an_enum("rejections"))?,
        state: schemars::schema_for!(A::State).to_value(),
        justifications: A::justifications(),
        views: A::views(),
    })
}

/// Takes an externally tagged enum's schema apart.
fn variants<T: JsonSchema>() -> Option<Vec<VariantDescription>> {
    let root = schemars::schema_for!(T).to_value();
    let definitions = root.get("$defs").cloned();
    let Some(alternatives) = root.get("oneOf").and_then(Value::as_array) else {
        // Only variants without fields: a list of names.
        let names = root.get("enum").and_then(Value::as_array)?;
        return Some(names.iter().filter_map(Value::as_str).map(bare).collect());
    };
    let mut found = Vec::new();
    for alternative in alternatives {
        let description = text(alternative.get("description"));
        if let Some(names) = alternative.get("enum").and_then(Value::as_array) {
            found.extend(names.iter().filter_map(Value::as_str).map(bare));
        } else if let Some(name) = alternative.get("const").and_then(Value::as_str) {
            found.push(VariantDescription {
                description,
                ..bare(name)
            });
        } else {
            let properties = alternative.get("properties").and_then(Value::as_object)?;
            let (name, schema) = properties.iter().next()?;
            found.push(VariantDescription {
                name: name.clone(),
                description,
                schema: self_contained(schema, definitions.as_ref()),
                version: 1,
            });
        }
    }
    Some(found)
}

fn bare(name: &str) -> VariantDescription {
    VariantDescription {
        name: name.to_owned(),
        description: String::new(),
        schema: json!({"type": "object", "properties": {}, "additionalProperties": false}),
        version: 1,
    }
}

fn text(value: Option<&Value>) -> String {
    value.and_then(Value::as_str).unwrap_or_default().to_owned()
}

fn self_contained(schema: &Value, definitions: Option<&Value>) -> Value {
    let mut schema = schema.clone();
    if let (Value::Object(map), Some(definitions)) = (&mut schema, definitions) {
        map.insert("$defs".to_owned(), definitions.clone());
    }
    if schema.is_object() {
        schema
    } else {
        Value::Object(Map::new())
    }
}
