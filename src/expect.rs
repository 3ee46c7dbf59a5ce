//! What a JSON value is expected to look like, and where it differs.
//!
//! Golden tasks compare results with it, HTTP mocks recognise requests by it. A
//! plain value is expected exactly. An object with one key that begins with `$`
//! is a matcher:
//!
//! | matcher | holds for |
//! |---|---|
//! | `{"$subset": {…}}` | an object with at least these fields, an array with at least these elements in this order; at every depth below |
//! | `{"$pattern": "…"}` | a text that matches this regular expression from its beginning to its end |
//! | `{"$any": "number"}` | any value of this type: `string`, `number`, `boolean`, `array`, `object`, `null`, or `any` |
//! | `{"$exact": …}` | exactly this, also where it looks like a matcher or lies in a subset |
//!
//! Pure: it reads no file and never panics, whatever it is given.

use std::collections::BTreeMap;
use std::fmt;

use regex_lite::Regex;
use serde_json::{Map, Value};

mod difference;
mod update;

pub use difference::{Difference, Mismatch};
pub use update::updated;

/// An expectation that was read.
#[derive(Debug, Clone)]
pub enum Expectation {
    Scalar(Value),
    /// As many elements, each as expected.
    Array(Vec<Self>),
    /// The same fields, each as expected.
    Object(BTreeMap<String, Self>),
    SomeElements(Vec<Self>),
    SomeFields(BTreeMap<String, Self>),
    Pattern(Regex),
    Any(Type),
}

/// A type of JSON, or any.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Type {
    Any,
    Null,
    Boolean,
    Number,
    String,
    Array,
    Object,
}

impl Type {
    const ALL: [Self; 7] = [
        Self::Any,
        Self::Null,
        Self::Boolean,
        Self::Number,
        Self::String,
        Self::Array,
        Self::Object,
    ];

    const fn as_str(self) -> &'static str {
        match self {
            Self::Any => "any",
            Self::Null => "null",
            Self::Boolean => "boolean",
            Self::Number => "number",
            Self::String => "string",
            Self::Array => "array",
            Self::Object => "object",
        }
    }

    const fn of(value: &Value) -> Self {
        match value {
            Value::Null => Self::Null,
            Value::Bool(_) => Self::Boolean,
            Value::Number(_) => Self::Number,
            Value::String(_) => Self::String,
            Value::Array(_) => Self::Array,
            Value::Object(_) => Self::Object,
        }
    }
}

impl fmt::Display for Type {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A text that is no expectation.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("at `{path}`: {problem}")]
pub struct InvalidExpectation {
    /// Where, as [`Difference::path`]; a dot for all of it.
    pub path: String,
    pub problem: String,
}

impl Expectation {
    /// Reads an expectation.
    ///
    /// # Errors
    /// [`InvalidExpectation`] names the place of a matcher that makes no sense.
    pub fn parse(value: &Value) -> Result<Self, InvalidExpectation> {
        read(value, Depth::Exact, &Path::root())
    }

    /// Whether the value is as expected.
    pub fn holds(&self, value: &Value) -> bool {
        self.differences(value).is_empty()
    }

    /// All points in which the value is not as expected.
    pub fn differences(&self, value: &Value) -> Vec<Difference> {
        let mut found = Vec::new();
        difference::compare(self, value, &Path::root(), &mut found);
        found
    }
}

/// Whether plain objects and arrays are meant as a whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Depth {
    Exact,
    Subset,
}

/// A place in a document.
#[derive(Debug, Clone)]
struct Path(String);

impl Path {
    const fn root() -> Self {
        Self(String::new())
    }

    fn field(&self, name: &str) -> Self {
        match self.0.as_str() {
            "" => Self(name.to_owned()),
            parent => Self(format!("{parent}.{name}")),
        }
    }

    fn element(&self, index: usize) -> Self {
        Self(format!("{}[{index}]", self.0))
    }
}

impl fmt::Display for Path {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0.is_empty() { "." } else { &self.0 })
    }
}

/// The matcher that an object is, if it is one.
fn matcher(object: &Map<String, Value>) -> Option<(&str, &Value)> {
    match object.iter().next() {
        Some((name, of)) if object.len() == 1 && name.starts_with('$') => Some((name, of)),
        _ => None,
    }
}

fn read(value: &Value, depth: Depth, path: &Path) -> Result<Expectation, InvalidExpectation> {
    match value {
        Value::Object(object) => match matcher(object) {
            Some((name, of)) => read_matcher(name, of, path),
            None => fields(object, depth, path),
        },
        Value::Array(items) => {
            let items = items.iter().enumerate();
            let items = items
                .map(|(at, item)| read(item, depth, &path.element(at)))
                .collect::<Result<_, _>>()?;
            Ok(match depth {
                Depth::Exact => Expectation::Array(items),
                Depth::Subset => Expectation::SomeElements(items),
            })
        }
        scalar => Ok(Expectation::Scalar(scalar.clone())),
    }
}

fn fields(
    object: &Map<String, Value>,
    depth: Depth,
    path: &Path,
) -> Result<Expectation, InvalidExpectation> {
    let fields = object
        .iter()
        .map(|(name, value)| Ok((name.clone(), read(value, depth, &path.field(name))?)))
        .collect::<Result<_, _>>()?;
    Ok(match depth {
        Depth::Exact => Expectation::Object(fields),
        Depth::Subset => Expectation::SomeFields(fields),
    })
}

fn read_matcher(name: &str, of: &Value, path: &Path) -> Result<Expectation, InvalidExpectation> {
    let invalid = |problem: String| InvalidExpectation {
        path: path.to_string(),
        problem,
    };
    match (name, of) {
        ("$subset", Value::Object(_) | Value::Array(_)) => read(of, Depth::Subset, path),
        ("$subset", _) => Err(invalid("`$subset` takes an object or an array".to_owned())),
        ("$exact", _) => Ok(literal(of)),
        ("$pattern", Value::String(text)) => match Regex::new(&format!("^(?s:{text})$")) {
            Ok(pattern) => Ok(Expectation::Pattern(pattern)),
            Err(cause) => Err(invalid(format!(
                "`{text}` is no regular expression: {cause}"
            ))),
        },
        ("$pattern", _) => Err(invalid("`$pattern` takes a regular expression".to_owned())),
        ("$any", of) => {
            let named = of.as_str();
            let known = Type::ALL.into_iter().find(|t| Some(t.as_str()) == named);
            let names = Type::ALL.map(Type::as_str).join(", ");
            known
                .map(Expectation::Any)
                .ok_or_else(|| invalid(format!("`$any` takes one of {names}")))
        }
        (other, _) => Err(invalid(format!(
            "`{other}` is no matcher; there are $subset, $pattern, $any and $exact"
        ))),
    }
}

/// A value that stands for itself alone.
fn literal(value: &Value) -> Expectation {
    match value {
        Value::Object(object) => {
            let fields = object.iter();
            Expectation::Object(fields.map(|(k, v)| (k.clone(), literal(v))).collect())
        }
        Value::Array(items) => Expectation::Array(items.iter().map(literal).collect()),
        scalar => Expectation::Scalar(scalar.clone()),
    }
}

#[cfg(test)]
mod tests;
