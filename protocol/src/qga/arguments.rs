//! A command's arguments, read as strictly as a schema has them.
//!
//! This is a serde deserializer whose errors are the texts stock agents give: which parameter, by its
//! path, and what was due there. Three points are the schema's and not JSON's: a number with a
//! fraction or an exponent is no integer, whatever its value; a null is no absent value; and an
//! unsigned parameter takes a negative number, wrapped.

use std::fmt;

use serde::de::value::StringDeserializer;
use serde::de::{
    self, DeserializeOwned, DeserializeSeed, EnumAccess, Error as _, IntoDeserializer, MapAccess,
    SeqAccess, VariantAccess, Visitor,
};
use serde_json::{Map, Value};

use super::envelope::Fault;

/// Why arguments are refused; the text names the parameter.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct ArgumentsError(String);

impl From<ArgumentsError> for Fault {
    fn from(error: ArgumentsError) -> Self {
        Self::generic(error.0)
    }
}

/// Reads the arguments of a command.
///
/// ```
/// use ostler_protocol::qga::{arguments, commands::sync::SyncArguments};
/// let error = arguments::read::<SyncArguments>(serde_json::Map::new()).unwrap_err();
/// assert_eq!(error.to_string(), "Parameter 'id' is missing");
/// ```
pub fn read<T: DeserializeOwned>(arguments: Map<String, Value>) -> Result<T, ArgumentsError> {
    T::deserialize(Argument { value: Value::Object(arguments), path: String::new() })
}

impl de::Error for ArgumentsError {
    fn custom<T: fmt::Display>(text: T) -> Self {
        Self(text.to_string())
    }

    fn missing_field(field: &'static str) -> Self {
        Self(format!("Parameter '{field}' is missing"))
    }

    fn unknown_field(field: &str, _expected: &'static [&'static str]) -> Self {
        Self(format!("Parameter '{field}' is unexpected"))
    }
}

/// A value and where it stands, `a.b[0].c`.
struct Argument {
    value: Value,
    path: String,
}

impl Argument {
    fn wrong_type(&self, expected: &str) -> ArgumentsError {
        let name = if self.path.is_empty() { "null" } else { &self.path };
        ArgumentsError(format!("Invalid parameter type for '{name}', expected: {expected}"))
    }

    fn integer(&self) -> Result<i64, ArgumentsError> {
        self.value.as_i64().ok_or_else(|| self.wrong_type("integer"))
    }
}

macro_rules! integers {
    ($($method:ident $visit:ident $kind:ty),*) => {$(
        fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, ArgumentsError> {
            let integer = self.integer()?;
            match <$kind>::try_from(integer) {
                Ok(integer) => visitor.$visit(integer),
                Err(_) => Err(ArgumentsError(format!(
                    "Parameter '{}' expects {}", self.path, stringify!($kind)
                ))),
            }
        }
    )*};
}

impl<'de> de::Deserializer<'de> for Argument {
    type Error = ArgumentsError;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, ArgumentsError> {
        match self.value {
            Value::Null => visitor.visit_unit(),
            Value::Bool(value) => visitor.visit_bool(value),
            Value::String(value) => visitor.visit_string(value),
            Value::Number(ref number) => {
                if let Some(integer) = number.as_i64() {
                    visitor.visit_i64(integer)
                } else if let Some(integer) = number.as_u64() {
                    visitor.visit_u64(integer)
                } else {
                    visitor.visit_f64(number.as_f64().unwrap_or_default())
                }
            }
            Value::Array(items) => visitor.visit_seq(Items::new(items, self.path)),
            Value::Object(members) => visitor.visit_map(Members::new(members, self.path)),
        }
    }

    integers!(
        deserialize_i8 visit_i8 i8, deserialize_i16 visit_i16 i16, deserialize_i32 visit_i32 i32,
        deserialize_u8 visit_u8 u8, deserialize_u16 visit_u16 u16, deserialize_u32 visit_u32 u32
    );

    fn deserialize_i64<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, ArgumentsError> {
        visitor.visit_i64(self.integer()?)
    }

    fn deserialize_u64<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, ArgumentsError> {
        match self.value.as_u64() {
            Some(integer) => visitor.visit_u64(integer),
            None => visitor.visit_u64(self.integer()?.cast_unsigned()),
        }
    }

    fn deserialize_f64<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, ArgumentsError> {
        match self.value.as_f64() {
            Some(number) => visitor.visit_f64(number),
            None => Err(self.wrong_type("number")),
        }
    }

    fn deserialize_f32<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, ArgumentsError> {
        self.deserialize_f64(visitor)
    }

    fn deserialize_bool<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, ArgumentsError> {
        let Value::Bool(value) = self.value else { return Err(self.wrong_type("boolean")) };
        visitor.visit_bool(value)
    }

    fn deserialize_str<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, ArgumentsError> {
        self.deserialize_string(visitor)
    }

    fn deserialize_string<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, ArgumentsError> {
        let Value::String(text) = self.value else { return Err(self.wrong_type("string")) };
        visitor.visit_string(text)
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, ArgumentsError> {
        visitor.visit_some(self)
    }

    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, ArgumentsError> {
        let Value::Array(items) = self.value else { return Err(self.wrong_type("array")) };
        visitor.visit_seq(Items::new(items, self.path))
    }

    fn deserialize_map<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, ArgumentsError> {
        let Value::Object(members) = self.value else { return Err(self.wrong_type("object")) };
        visitor.visit_map(Members::new(members, self.path))
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        _fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, ArgumentsError> {
        let path = self.path.clone();
        self.deserialize_map(visitor).map_err(|error| error.under(&path))
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _name: &'static str,
        variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, ArgumentsError> {
        let Value::String(word) = self.value else { return Err(self.wrong_type("string")) };
        if !variants.contains(&word.as_str()) {
            let path = self.path;
            return Err(ArgumentsError(format!(
                "Parameter '{path}' does not accept value '{word}'"
            )));
        }
        visitor.visit_enum(Variant(word))
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        visitor: V,
    ) -> Result<V::Value, ArgumentsError> {
        visitor.visit_newtype_struct(self)
    }

    serde::forward_to_deserialize_any! {
        char bytes byte_buf unit unit_struct tuple tuple_struct identifier ignored_any
    }
}

impl ArgumentsError {
    /// The same error of a member of what stands at `path`: serde's own texts know only the last name.
    fn under(self, path: &str) -> Self {
        let own = ["' is missing", "' is unexpected"];
        let name = self.0.strip_prefix("Parameter '").filter(|_| !path.is_empty());
        match name.and_then(|name| own.iter().find_map(|end| Some((name.strip_suffix(end)?, end))))
        {
            Some((name, end)) if !name.contains(['.', '[']) => {
                Self(format!("Parameter '{path}.{name}{end}"))
            }
            _ => self,
        }
    }
}

struct Items {
    items: std::vec::IntoIter<Value>,
    path: String,
    at: usize,
}

impl Items {
    fn new(items: Vec<Value>, path: String) -> Self {
        Self { items: items.into_iter(), path, at: 0 }
    }
}

impl<'de> SeqAccess<'de> for Items {
    type Error = ArgumentsError;

    fn next_element_seed<T: DeserializeSeed<'de>>(
        &mut self,
        seed: T,
    ) -> Result<Option<T::Value>, ArgumentsError> {
        let Some(value) = self.items.next() else { return Ok(None) };
        let path = format!("{}[{}]", self.path, self.at);
        self.at += 1;
        seed.deserialize(Argument { value, path }).map(Some)
    }
}

struct Members {
    members: serde_json::map::IntoIter,
    next: Option<Argument>,
    path: String,
}

impl Members {
    fn new(members: Map<String, Value>, path: String) -> Self {
        Self { members: members.into_iter(), next: None, path }
    }
}

impl<'de> MapAccess<'de> for Members {
    type Error = ArgumentsError;

    fn next_key_seed<K: DeserializeSeed<'de>>(
        &mut self,
        seed: K,
    ) -> Result<Option<K::Value>, ArgumentsError> {
        let Some((name, value)) = self.members.next() else { return Ok(None) };
        let path =
            if self.path.is_empty() { name.clone() } else { format!("{}.{name}", self.path) };
        self.next = Some(Argument { value, path });
        let key: StringDeserializer<ArgumentsError> = name.into_deserializer();
        seed.deserialize(key).map(Some)
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(
        &mut self,
        seed: V,
    ) -> Result<V::Value, ArgumentsError> {
        match self.next.take() {
            Some(argument) => seed.deserialize(argument),
            None => Err(ArgumentsError::custom("a value was asked for before its key")),
        }
    }
}

struct Variant(String);

impl<'de> EnumAccess<'de> for Variant {
    type Error = ArgumentsError;
    type Variant = Unit;

    fn variant_seed<V: DeserializeSeed<'de>>(
        self,
        seed: V,
    ) -> Result<(V::Value, Unit), ArgumentsError> {
        let name: StringDeserializer<ArgumentsError> = self.0.into_deserializer();
        Ok((seed.deserialize(name)?, Unit))
    }
}

/// A variant with nothing in it, as all of the schema's are.
struct Unit;

impl<'de> VariantAccess<'de> for Unit {
    type Error = ArgumentsError;

    fn unit_variant(self) -> Result<(), ArgumentsError> {
        Ok(())
    }

    fn newtype_variant_seed<T: DeserializeSeed<'de>>(
        self,
        _seed: T,
    ) -> Result<T::Value, ArgumentsError> {
        Err(ArgumentsError::custom("a value with parts stands where a word is due"))
    }

    fn tuple_variant<V: Visitor<'de>>(
        self,
        _len: usize,
        _visitor: V,
    ) -> Result<V::Value, ArgumentsError> {
        Err(ArgumentsError::custom("a value with parts stands where a word is due"))
    }

    fn struct_variant<V: Visitor<'de>>(
        self,
        _fields: &'static [&'static str],
        _visitor: V,
    ) -> Result<V::Value, ArgumentsError> {
        Err(ArgumentsError::custom("a value with parts stands where a word is due"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde::Deserialize;
    use serde_json::json;

    #[derive(Debug, Deserialize, PartialEq)]
    #[serde(deny_unknown_fields, rename_all = "kebab-case")]
    struct Inner {
        logical_id: i64,
        online: bool,
    }

    #[derive(Debug, Deserialize, PartialEq)]
    #[serde(rename_all = "lowercase")]
    enum Word {
        One,
    }

    #[derive(Debug, Deserialize, PartialEq)]
    #[serde(deny_unknown_fields)]
    struct Outer {
        id: i64,
        count: Option<u64>,
        word: Option<Word>,
        list: Option<Vec<Inner>>,
        text: Option<String>,
    }

    fn outer(value: Value) -> Result<Outer, String> {
        let Value::Object(members) = value else { panic!("arguments are an object") };
        read(members).map_err(|error| error.to_string())
    }

    #[test]
    fn errors_name_the_parameter_as_clients_expect() {
        for (arguments, text) in [
            (json!({}), "Parameter 'id' is missing"),
            (json!({"id": 1, "x": 1}), "Parameter 'x' is unexpected"),
            (json!({"id": "1"}), "Invalid parameter type for 'id', expected: integer"),
            (json!({"id": null}), "Invalid parameter type for 'id', expected: integer"),
            (json!({"id": 1, "text": null}), "Invalid parameter type for 'text', expected: string"),
            (json!({"id": 1, "list": {}}), "Invalid parameter type for 'list', expected: array"),
            (
                json!({"id": 1, "list": [1]}),
                "Invalid parameter type for 'list[0]', expected: object",
            ),
            (
                json!({"id": 1, "list": [{"logical-id": 1, "online": 1}]}),
                "Invalid parameter type for 'list[0].online', expected: boolean",
            ),
            (
                json!({"id": 1, "list": [{"logical-id": 1}]}),
                "Parameter 'list[0].online' is missing",
            ),
            (
                json!({"id": 1, "list": [{"logical-id": 1, "online": true, "z": 1}]}),
                "Parameter 'list[0].z' is unexpected",
            ),
            (json!({"id": 1, "word": "two"}), "Parameter 'word' does not accept value 'two'"),
        ] {
            assert_eq!(outer(arguments.clone()), Err(text.to_owned()), "{arguments}");
        }
    }

    #[test]
    fn a_number_with_a_fraction_or_exponent_is_no_integer() {
        for number in [json!(1.0), json!(1e3), json!(u64::MAX)] {
            let error = outer(json!({"id": number})).unwrap_err();
            assert_eq!(error, "Invalid parameter type for 'id', expected: integer");
        }
        assert_eq!(outer(json!({"id": i64::MIN})).unwrap().id, i64::MIN);
    }

    #[test]
    fn an_unsigned_parameter_wraps_a_negative_number() {
        assert_eq!(outer(json!({"id": 1, "count": -1})).unwrap().count, Some(u64::MAX));
        assert_eq!(outer(json!({"id": 1, "count": u64::MAX})).unwrap().count, Some(u64::MAX));
    }
}
