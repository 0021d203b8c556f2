//! Names and contents of enum variants through serde: which event this is, which command a URL
//! names, what a rejection carries.
//!
//! Domains stay plain enums; nothing here needs a macro.

use serde::de::value::StrDeserializer;
use serde::de::{
    Deserialize, DeserializeOwned, DeserializeSeed, EnumAccess, IntoDeserializer, MapAccess,
    VariantAccess, Visitor,
};
use serde::ser::{self, Serialize, Serializer};
use serde_json::value::RawValue;
use serde_json::{Map, Value};

/// The variant's name as serde writes it; `None` when the value is not an enum.
pub fn variant_name<T: Serialize + ?Sized>(value: &T) -> Option<&'static str> {
    match value.serialize(NameFinder) {
        Ok(()) => None,
        Err(Found(name)) => name,
    }
}

/// The names of an enum's variants as serde knows them, in order; `None` when the type is not an enum.
pub fn variant_names<T: DeserializeOwned>() -> Option<&'static [&'static str]> {
    let mut names = None;
    // It fails on purpose, once it has heard the names.
    let _failed = T::deserialize(NamesFinder(&mut names));
    names
}

struct NamesFinder<'a>(&'a mut Option<&'static [&'static str]>);

impl<'de> serde::Deserializer<'de> for NamesFinder<'_> {
    type Error = serde::de::value::Error;

    fn deserialize_any<V: Visitor<'de>>(self, _visitor: V) -> Result<V::Value, Self::Error> {
        Err(serde::de::Error::custom("not an enum"))
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _name: &'static str,
        variants: &'static [&'static str],
        _visitor: V,
    ) -> Result<V::Value, Self::Error> {
        *self.0 = Some(variants);
        Err(serde::de::Error::custom("only the names were wanted"))
    }

    serde::forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf option
        unit unit_struct newtype_struct seq tuple tuple_struct map struct identifier ignored_any
    }
}

/// A variant's fields as a JSON object. Optional fields that are absent are left out, so that an event
/// which does not use a new one looks as it did before.
///
/// # Errors
/// When the fields cannot be written as JSON.
pub fn variant_fields<T: Serialize>(
    value: &T,
    name: &str,
) -> Result<Box<RawValue>, serde_json::Error> {
    let json = serde_json::to_string(value)?;
    // Externally tagged: `{"Name":{...}}`, or `"Name"` for a variant without fields.
    let inner = json
        .strip_prefix("{\"")
        .and_then(|s| s.strip_prefix(name))
        .and_then(|s| s.strip_prefix("\":"))
        .and_then(|s| s.strip_suffix('}'))
        .unwrap_or("{}");
    without_nulls(inner.to_owned())
}

/// A JSON object without those of its members that are null.
pub(crate) fn without_nulls(json: String) -> Result<Box<RawValue>, serde_json::Error> {
    if !json.contains(":null") {
        return RawValue::from_string(json);
    }
    let members: Members<'_> = serde_json::from_str(&json)?;
    let mut out = String::with_capacity(json.len());
    for (name, value) in members.0.iter().filter(|(_, value)| value.get() != "null") {
        out.push(if out.is_empty() { '{' } else { ',' });
        out.push_str(&serde_json::to_string(name)?);
        out.push(':');
        out.push_str(value.get());
    }
    if out.is_empty() {
        out.push('{');
    }
    out.push('}');
    RawValue::from_string(out)
}

/// The members of an object in their order.
struct Members<'a>(Vec<(String, &'a RawValue)>);

impl<'de: 'a, 'a> Deserialize<'de> for Members<'a> {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Collect;
        impl<'de> Visitor<'de> for Collect {
            type Value = Vec<(String, &'de RawValue)>;

            fn expecting(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                out.write_str("an object")
            }

            fn visit_map<M: MapAccess<'de>>(self, mut map: M) -> Result<Self::Value, M::Error> {
                let mut members = Vec::new();
                while let Some(member) = map.next_entry()? {
                    members.push(member);
                }
                Ok(members)
            }
        }
        deserializer.deserialize_map(Collect).map(Members)
    }
}

/// A rejection's code and fields.
///
/// # Errors
/// When it cannot be written as JSON.
pub fn code_and_fields<T: Serialize>(
    value: &T,
) -> Result<(String, Map<String, Value>), serde_json::Error> {
    Ok(match serde_json::to_value(value)? {
        Value::String(code) => (code, Map::new()),
        Value::Object(map) => match map.into_iter().next() {
            Some((code, Value::Object(fields))) => (code, fields),
            Some((code, value)) => (code, Map::from_iter([("value".to_owned(), value)])),
            None => (String::new(), Map::new()),
        },
        other => (other.to_string(), Map::new()),
    })
}

/// Why a body does not fit a command.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mismatch {
    /// JSON pointer to the place.
    pub pointer: String,
    /// What is wrong there.
    pub detail: String,
}

/// Reads `body`, a JSON object, as the fields of the variant `name`.
///
/// # Errors
/// [`Mismatch`] when the body is not JSON, not an object, or does not fit.
pub fn parse_variant<T: DeserializeOwned>(name: &str, body: &[u8]) -> Result<T, Mismatch> {
    let mut json = serde_json::Deserializer::from_slice(body);
    let parsed = T::deserialize(Variant {
        name,
        json: &mut json,
    });
    match parsed.and_then(|value| json.end().map(|()| value)) {
        Ok(value) => Ok(value),
        Err(_) => Err(explain::<T>(name, body)),
    }
}

/// Reads `body`, a JSON object, as the fields of `T`.
///
/// # Errors
/// [`Mismatch`] when the body is not JSON, not an object, or does not fit.
pub fn parse_object<T: DeserializeOwned>(body: &[u8]) -> Result<T, Mismatch> {
    let mismatch = |pointer: String, detail: String| Mismatch { pointer, detail };
    // An array would be taken as the fields in order.
    if body.trim_ascii_start().first() != Some(&b'{') {
        let detail = "the body must be a JSON object".to_owned();
        return Err(mismatch(String::new(), detail));
    }
    let mut json = serde_json::Deserializer::from_slice(body);
    let read = serde_path_to_error::deserialize(&mut json)
        .map_err(|error| mismatch(pointer(error.path()), error.inner().to_string()))?;
    match json.end() {
        Ok(()) => Ok(read),
        Err(error) => Err(mismatch(String::new(), error.to_string())),
    }
}

/// Parses once more, slowly, to say where it went wrong.
fn explain<T: DeserializeOwned>(name: &str, body: &[u8]) -> Mismatch {
    if body.trim_ascii_start().first() != Some(&b'{') {
        return Mismatch {
            pointer: String::new(),
            detail: "the body must be a JSON object; `{}` for a command without fields".to_owned(),
        };
    }
    let mut json = serde_json::Deserializer::from_slice(body);
    let result: Result<T, _> = serde_path_to_error::deserialize(Variant {
        name,
        json: &mut json,
    });
    match result {
        Ok(_) => Mismatch {
            pointer: String::new(),
            detail: "trailing characters after the JSON object".to_owned(),
        },
        Err(error) => Mismatch {
            pointer: pointer(error.path()),
            detail: error.into_inner().to_string(),
        },
    }
}

/// A place in a body as a JSON pointer.
fn pointer(path: &serde_path_to_error::Path) -> String {
    use serde_path_to_error::Segment;
    let mut out = String::new();
    // The first segment is the command's name, which stands in the URL, not in the body.
    for (place, segment) in path.iter().enumerate() {
        match segment {
            Segment::Map { key } => {
                out.push('/');
                out.push_str(&key.replace('~', "~0").replace('/', "~1"));
            }
            Segment::Seq { index } => {
                out.push('/');
                out.push_str(&index.to_string());
            }
            Segment::Enum { variant } if place > 0 => {
                out.push('/');
                out.push_str(variant);
            }
            Segment::Enum { .. } | Segment::Unknown => {}
        }
    }
    out
}

/// Deserializes an enum whose variant name stands outside of the JSON text.
struct Variant<'a, 'j, R> {
    name: &'a str,
    json: &'j mut serde_json::Deserializer<R>,
}

impl<'de, R: serde_json::de::Read<'de>> serde::Deserializer<'de> for Variant<'_, '_, R> {
    type Error = serde_json::Error;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Self::Error> {
        visitor.visit_enum(self)
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _name: &'static str,
        _variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Self::Error> {
        visitor.visit_enum(self)
    }

    serde::forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf option
        unit unit_struct newtype_struct seq tuple tuple_struct map struct identifier ignored_any
    }
}

impl<'de, R: serde_json::de::Read<'de>> EnumAccess<'de> for Variant<'_, '_, R> {
    type Error = serde_json::Error;
    type Variant = Self;

    fn variant_seed<V: DeserializeSeed<'de>>(
        self,
        seed: V,
    ) -> Result<(V::Value, Self), Self::Error> {
        let name: StrDeserializer<'_, Self::Error> = self.name.into_deserializer();
        Ok((seed.deserialize(name)?, self))
    }
}

impl<'de, R: serde_json::de::Read<'de>> VariantAccess<'de> for Variant<'_, '_, R> {
    type Error = serde_json::Error;

    fn unit_variant(self) -> Result<(), Self::Error> {
        // A command without fields takes `{}` like any other.
        let fields: Map<String, Value> = serde::Deserialize::deserialize(self.json)?;
        match fields.keys().next() {
            None => Ok(()),
            Some(key) => Err(serde::de::Error::custom(format_args!(
                "unknown field `{key}`, there are no fields"
            ))),
        }
    }

    fn newtype_variant_seed<T: DeserializeSeed<'de>>(
        self,
        seed: T,
    ) -> Result<T::Value, Self::Error> {
        seed.deserialize(self.json)
    }

    fn tuple_variant<V: Visitor<'de>>(
        self,
        len: usize,
        visitor: V,
    ) -> Result<V::Value, Self::Error> {
        serde::Deserializer::deserialize_tuple(self.json, len, visitor)
    }

    fn struct_variant<V: Visitor<'de>>(
        self,
        _fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Self::Error> {
        // A map and nothing else: an array would be taken as the fields in order.
        serde::Deserializer::deserialize_map(self.json, visitor)
    }
}

/// Carries the variant's name out of a serialization that stops at once.
#[derive(Debug)]
struct Found(Option<&'static str>);

impl std::fmt::Display for Found {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:?}", self.0)
    }
}

impl std::error::Error for Found {}

impl ser::Error for Found {
    fn custom<T: std::fmt::Display>(_: T) -> Self {
        Self(None)
    }
}

struct NameFinder;

macro_rules! not_an_enum {
    ($($method:ident($($argument:ty),*)),* $(,)?) => {
        $(fn $method(self, $(_: $argument),*) -> Result<(), Found> { Err(Found(None)) })*
    };
}

type Never = ser::Impossible<(), Found>;

impl Serializer for NameFinder {
    type Ok = ();
    type Error = Found;
    type SerializeSeq = Never;
    type SerializeTuple = Never;
    type SerializeTupleStruct = Never;
    type SerializeTupleVariant = Never;
    type SerializeMap = Never;
    type SerializeStruct = Never;
    type SerializeStructVariant = Never;

    not_an_enum! {
        serialize_bool(bool), serialize_i8(i8), serialize_i16(i16), serialize_i32(i32),
        serialize_i64(i64), serialize_u8(u8), serialize_u16(u16), serialize_u32(u32),
        serialize_u64(u64), serialize_f32(f32), serialize_f64(f64), serialize_char(char),
        serialize_str(&str), serialize_bytes(&[u8]), serialize_none(), serialize_unit(),
        serialize_unit_struct(&'static str),
    }

    fn serialize_some<T: Serialize + ?Sized>(self, value: &T) -> Result<(), Found> {
        value.serialize(self)
    }

    fn serialize_newtype_struct<T: Serialize + ?Sized>(
        self,
        _: &'static str,
        value: &T,
    ) -> Result<(), Found> {
        value.serialize(self)
    }

    fn serialize_unit_variant(
        self,
        _: &'static str,
        _: u32,
        variant: &'static str,
    ) -> Result<(), Found> {
        Err(Found(Some(variant)))
    }

    fn serialize_newtype_variant<T: Serialize + ?Sized>(
        self,
        _: &'static str,
        _: u32,
        variant: &'static str,
        _: &T,
    ) -> Result<(), Found> {
        Err(Found(Some(variant)))
    }

    fn serialize_tuple_variant(
        self,
        _: &'static str,
        _: u32,
        variant: &'static str,
        _: usize,
    ) -> Result<Never, Found> {
        Err(Found(Some(variant)))
    }

    fn serialize_struct_variant(
        self,
        _: &'static str,
        _: u32,
        variant: &'static str,
        _: usize,
    ) -> Result<Never, Found> {
        Err(Found(Some(variant)))
    }

    fn serialize_seq(self, _: Option<usize>) -> Result<Never, Found> {
        Err(Found(None))
    }

    fn serialize_tuple(self, _: usize) -> Result<Never, Found> {
        Err(Found(None))
    }

    fn serialize_tuple_struct(self, _: &'static str, _: usize) -> Result<Never, Found> {
        Err(Found(None))
    }

    fn serialize_map(self, _: Option<usize>) -> Result<Never, Found> {
        Err(Found(None))
    }

    fn serialize_struct(self, _: &'static str, _: usize) -> Result<Never, Found> {
        Err(Found(None))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde::{Deserialize, Serialize};

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    #[serde(deny_unknown_fields)]
    enum Ask {
        Open { owner: String, lines: Vec<u8> },
        Close {},
        Stop,
    }

    #[test]
    fn names_and_fields_come_out() {
        let open = Ask::Open {
            owner: "ada".into(),
            lines: vec![1],
        };
        assert_eq!(variant_name(&open), Some("Open"));
        assert_eq!(
            variant_fields(&open, "Open").unwrap().get(),
            r#"{"owner":"ada","lines":[1]}"#
        );
        assert_eq!(variant_name(&Ask::Stop), Some("Stop"));
        assert_eq!(variant_fields(&Ask::Stop, "Stop").unwrap().get(), "{}");
        assert_eq!(variant_name(&"text"), None);
    }

    #[test]
    fn bodies_become_commands() {
        assert_eq!(parse_variant("Close", b"{}"), Ok(Ask::Close {}));
        assert_eq!(parse_variant("Stop", b" {} "), Ok(Ask::Stop));
        let open = parse_variant("Open", br#"{"owner":"ada","lines":[1]}"#);
        assert_eq!(
            open,
            Ok(Ask::Open {
                owner: "ada".into(),
                lines: vec![1]
            })
        );
    }

    #[test]
    fn bodies_that_do_not_fit_are_explained() {
        let at = |body: &str| parse_variant::<Ask>("Open", body.as_bytes()).unwrap_err();
        assert_eq!(at(r#"{"owner":"a","lines":[1,"x"]}"#).pointer, "/lines/1");
        assert_eq!(at(r#"{"owner":7,"lines":[]}"#).pointer, "/owner");
        assert!(
            at(r#"{"owner":"a"}"#)
                .detail
                .contains("missing field `lines`")
        );
        assert!(
            at(r#"{"owner":"a","lines":[],"x":1}"#)
                .detail
                .contains("unknown field `x`")
        );
        for body in [
            "",
            "[]",
            r#"["ada",[1]]"#,
            "null",
            "{",
            "{} {}",
            "\u{0}",
            r#"{"owner":"a","owner":"b","lines":[]}"#,
        ] {
            at(body);
        }
        assert!(at("null").detail.contains("must be a JSON object"));
        assert!(parse_variant::<Ask>("Stop", br#"{"a":1}"#).is_err());
        assert!(parse_variant::<Ask>("Close", b"null").is_err());
    }
}
