//! Reading JSON objects field by field, so that what is wrong can be named.
//!
//! Deserialising a payload into a struct says "invalid type: integer `5`,
//! expected a string at line 1 column 31"; an operator wants `payload.repo`.
//! An [`Object`] keeps the text of each field unparsed and checks a field when
//! it is asked for. Nothing is copied but strings that hold escapes.

use std::borrow::Cow;
use std::fmt;

use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;

/// How much of an offending value an error shows, in characters.
const SHOWN_CHARS: usize = 40;

/// A JSON object whose fields are parsed when they are read.
///
/// Of a repeated field the last one counts, as in JavaScript and Python.
#[derive(Debug)]
pub struct Object<'a> {
    path: Cow<'static, str>,
    fields: Vec<(Cow<'a, str>, &'a RawValue)>,
}

/// What is wrong with which field.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FieldError {
    /// From the root of the document, such as `payload.mock.delay_ms`.
    pub path: String,
    /// What was expected, and what was found instead.
    pub complaint: String,
}

impl fmt::Display for FieldError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}: {}", self.path, self.complaint)
    }
}

impl std::error::Error for FieldError {}

impl<'a> Object<'a> {
    /// Reads `text`, which errors will call `name`.
    ///
    /// # Errors
    ///
    /// When `text` is no JSON, or is JSON but no object.
    pub fn parse(text: &'a str, name: &'static str) -> Result<Self, FieldError> {
        Self::read(text, Cow::Borrowed(name))
    }

    /// The value of a field that may be missing; `null` counts as missing.
    ///
    /// # Errors
    ///
    /// When the field is there and is no `T`.
    pub fn optional<T: FromJson<'a>>(&self, key: &str) -> Result<Option<T>, FieldError> {
        match self.raw(key) {
            None => Ok(None),
            Some(raw) => match T::from_json(raw) {
                Some(value) => Ok(Some(value)),
                None => Err(self.mismatch(key, T::EXPECTED, raw)),
            },
        }
    }

    /// The value of a field that has to be there.
    ///
    /// # Errors
    ///
    /// When the field is missing, is `null`, or is no `T`.
    pub fn required<T: FromJson<'a>>(&self, key: &str) -> Result<T, FieldError> {
        self.optional(key)?
            .ok_or_else(|| self.error(key, format!("is missing; expected {}", T::EXPECTED)))
    }

    /// An object within this one; `null` counts as missing.
    ///
    /// # Errors
    ///
    /// When the field is there and is no object.
    pub fn object(&self, key: &str) -> Result<Option<Object<'a>>, FieldError> {
        match self.raw(key) {
            None => Ok(None),
            Some(raw) if raw.starts_with('{') => {
                Object::read(raw, Cow::Owned(self.path_of(key))).map(Some)
            }
            Some(raw) => Err(self.mismatch(key, "an object", raw)),
        }
    }

    /// The JSON text of a field; `None` where it is missing or `null`.
    pub fn raw(&self, key: &str) -> Option<&'a str> {
        self.value(key).map(RawValue::get)
    }

    /// A field as it stands, to be passed on; `None` where it is missing or `null`.
    pub fn value(&self, key: &str) -> Option<&'a RawValue> {
        let (_, value) = self.fields.iter().rev().find(|(name, _)| name == key)?;
        Some(*value).filter(|value| value.get() != "null")
    }

    /// Every field with its JSON text, in the order of the document.
    pub fn entries(&self) -> impl Iterator<Item = (&str, &'a RawValue)> {
        self.fields
            .iter()
            .map(|(name, value)| (name.as_ref(), *value))
    }

    /// An error about one field of this object.
    pub fn error(&self, key: &str, complaint: impl Into<String>) -> FieldError {
        FieldError {
            path: self.path_of(key),
            complaint: complaint.into(),
        }
    }

    fn read(text: &'a str, path: Cow<'static, str>) -> Result<Self, FieldError> {
        match serde_json::from_str::<Fields<'a>>(text) {
            Ok(Fields(fields)) => Ok(Self { path, fields }),
            Err(error) if error.is_data() => Err(FieldError {
                path: path.into_owned(),
                complaint: format!("expected an object, found {}", Shown(text)),
            }),
            Err(error) => Err(FieldError {
                path: path.into_owned(),
                complaint: format!("is no JSON: {error}"),
            }),
        }
    }

    fn path_of(&self, key: &str) -> String {
        format!("{}.{key}", self.path)
    }

    fn mismatch(&self, key: &str, expected: &str, raw: &str) -> FieldError {
        self.error(key, format!("expected {expected}, found {}", Shown(raw)))
    }
}

/// The beginning of a JSON text, as much as fits into a message.
struct Shown<'a>(&'a str);

impl fmt::Display for Shown<'_> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = self.0.trim();
        match text.char_indices().nth(SHOWN_CHARS) {
            None => formatter.write_str(text),
            Some((end, _)) => write!(formatter, "{}…", text.get(..end).unwrap_or_default()),
        }
    }
}

/// What the text of a JSON value can become.
pub trait FromJson<'a>: Sized {
    /// Fills the gap in "expected …".
    const EXPECTED: &'static str;

    /// The value, or `None` where the text is something else. `raw` is valid
    /// JSON without surrounding space.
    fn from_json(raw: &'a str) -> Option<Self>;
}

impl<'a> FromJson<'a> for Cow<'a, str> {
    const EXPECTED: &'static str = "a string";

    fn from_json(raw: &'a str) -> Option<Self> {
        let inner = raw.strip_prefix('"')?.strip_suffix('"')?;
        if inner.contains('\\') {
            serde_json::from_str(raw).ok().map(Cow::Owned)
        } else {
            Some(Cow::Borrowed(inner))
        }
    }
}

impl<'a> FromJson<'a> for String {
    const EXPECTED: &'static str = <Cow<'a, str>>::EXPECTED;

    fn from_json(raw: &'a str) -> Option<Self> {
        Cow::from_json(raw).map(Cow::into_owned)
    }
}

impl<'a> FromJson<'a> for bool {
    const EXPECTED: &'static str = "true or false";

    fn from_json(raw: &'a str) -> Option<Self> {
        raw.parse().ok()
    }
}

// JSON's grammar for numbers is narrower than that of `str::parse`, so a number
// that parses is a whole number within range, and `1.0` or `1e3` is none.
impl<'a> FromJson<'a> for u32 {
    const EXPECTED: &'static str = "a whole number from 0 to 4294967295";

    fn from_json(raw: &'a str) -> Option<Self> {
        raw.parse().ok()
    }
}

impl<'a> FromJson<'a> for u64 {
    const EXPECTED: &'static str = "a whole number from 0 to 18446744073709551615";

    fn from_json(raw: &'a str) -> Option<Self> {
        raw.parse().ok()
    }
}

impl<'a> FromJson<'a> for i32 {
    const EXPECTED: &'static str = "a whole number from -2147483648 to 2147483647";

    fn from_json(raw: &'a str) -> Option<Self> {
        raw.parse().ok()
    }
}

/// The fields of an object in their order, unparsed.
struct Fields<'a>(Vec<(Cow<'a, str>, &'a RawValue)>);

impl<'de: 'a, 'a> Deserialize<'de> for Fields<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Reading;

        impl<'de> Visitor<'de> for Reading {
            type Value = Fields<'de>;

            fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str("an object")
            }

            fn visit_map<M: MapAccess<'de>>(self, mut map: M) -> Result<Self::Value, M::Error> {
                let mut fields = Vec::with_capacity(8);
                while let Some(Key(key)) = map.next_key()? {
                    fields.push((key, map.next_value()?));
                }
                Ok(Fields(fields))
            }
        }

        deserializer.deserialize_map(Reading)
    }
}

/// A field's name, borrowed unless it holds escapes.
struct Key<'a>(Cow<'a, str>);

impl<'de: 'a, 'a> Deserialize<'de> for Key<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Reading;

        impl<'de> Visitor<'de> for Reading {
            type Value = Key<'de>;

            fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str("a field name")
            }

            fn visit_borrowed_str<E>(self, name: &'de str) -> Result<Self::Value, E> {
                Ok(Key(Cow::Borrowed(name)))
            }

            fn visit_str<E>(self, name: &str) -> Result<Self::Value, E> {
                Ok(Key(Cow::Owned(name.to_owned())))
            }
        }

        deserializer.deserialize_str(Reading)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Object<'_> {
        Object::parse(text, "payload").expect("an object")
    }

    #[test]
    fn what_is_no_object_is_named_as_such() {
        for (text, complaint) in [
            (
                "",
                "payload: is no JSON: EOF while parsing a value at line 1 column 0",
            ),
            (
                "{",
                "payload: is no JSON: EOF while parsing an object at line 1 column 1",
            ),
            (
                "{} x",
                "payload: is no JSON: trailing characters at line 1 column 4",
            ),
            (
                "{\"a\":NaN}",
                "payload: is no JSON: expected value at line 1 column 6",
            ),
            ("[1]", "payload: expected an object, found [1]"),
            (" null ", "payload: expected an object, found null"),
            ("\"text\"", "payload: expected an object, found \"text\""),
        ] {
            let error = Object::parse(text, "payload").expect_err(text);
            assert_eq!(error.to_string(), complaint);
        }
    }

    #[test]
    fn fields_are_checked_when_they_are_read() {
        let object =
            read(r#"{"s":"plain","e":"a\"b\u00e9","n":7,"neg":-7,"b":true,"z":null,"o":{"x":[]}}"#);
        assert_eq!(object.required::<String>("s"), Ok("plain".into()));
        assert!(matches!(object.required("s"), Ok(Cow::Borrowed("plain"))));
        assert_eq!(object.required::<String>("e"), Ok("a\"bé".into()));
        assert_eq!(object.required::<u32>("n"), Ok(7));
        assert_eq!(object.required::<i32>("neg"), Ok(-7));
        assert_eq!(object.required::<bool>("b"), Ok(true));
        assert_eq!(object.optional::<bool>("z"), Ok(None));
        assert_eq!(object.optional::<bool>("absent"), Ok(None));
    }

    #[test]
    fn errors_name_the_field_and_show_a_bounded_value() {
        let long = format!(r#"{{"o":{{"n":"{}"}}}}"#, "x".repeat(1000));
        let object = read(&long);
        let inner = object.object("o").expect("well formed").expect("present");
        let error = inner
            .required::<u32>("n")
            .expect_err("a string is no number");
        assert!(
            error
                .to_string()
                .starts_with("payload.o.n: expected a whole number"),
            "{error}"
        );
        assert!(error.complaint.len() < 150, "{error}");

        let error = inner.required::<bool>("gone").expect_err("missing");
        assert_eq!(
            error.to_string(),
            "payload.o.gone: is missing; expected true or false"
        );
    }

    #[test]
    fn numbers_outside_the_type_are_refused_not_bent() {
        let object = read(
            r#"{"neg":-1,"big":4294967296,"frac":1.0,"exp":1e3,"huge":1e999,"long":99999999999999999999999}"#,
        );
        for key in ["neg", "big", "frac", "exp", "huge", "long"] {
            assert!(object.required::<u32>(key).is_err(), "{key}");
        }
        assert_eq!(object.required::<u64>("big"), Ok(4_294_967_296));
        assert!(object.required::<u64>("long").is_err());
    }

    #[test]
    fn the_last_of_repeated_fields_counts() {
        assert_eq!(read(r#"{"a":1,"a":2}"#).required::<u32>("a"), Ok(2));
        assert_eq!(
            read(r#"{"a":1,"\u0061":null}"#).optional::<u32>("a"),
            Ok(None)
        );
    }

    #[test]
    fn a_lone_surrogate_is_an_error_not_a_panic() {
        assert!(read(r#"{"s":"\ud800"}"#).required::<String>("s").is_err());
    }

    #[test]
    fn deep_nesting_is_skipped_without_recursion() {
        let text = format!(
            r#"{{"deep":{}{},"n":1}}"#,
            "[".repeat(200_000),
            "]".repeat(200_000)
        );
        assert_eq!(read(&text).required::<u32>("n"), Ok(1));
    }
}
