//! Compares a value with what was expected, place by place.

use std::collections::BTreeMap;
use std::fmt;

use serde_json::{Number, Value};

use super::{Expectation, Path, Type};

/// One place in which a value is not as expected.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Difference {
    /// `report.tests`, `requests[0].body.repo`; a dot for all of it.
    pub path: String,
    pub mismatch: Mismatch,
}

/// What is wrong at a place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Mismatch {
    /// Expected and not there.
    Missing {
        expected: String,
    },
    /// There and not expected.
    Unexpected {
        found: String,
    },
    Other {
        expected: String,
        found: String,
    },
}

impl fmt::Display for Difference {
    /// The place, below it what was expected with `-` and what is there with
    /// `+`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.path)?;
        let (expected, found) = match &self.mismatch {
            Mismatch::Missing { expected } => (Some(expected), None),
            Mismatch::Unexpected { found } => (None, Some(found)),
            Mismatch::Other { expected, found } => (Some(expected), Some(found)),
        };
        let lines = |f: &mut fmt::Formatter<'_>, sign: char, text: Option<&String>| {
            let lines = text.into_iter().flat_map(|text| text.lines());
            lines
                .into_iter()
                .try_for_each(|line| write!(f, "\n  {sign} {line}"))
        };
        lines(f, '-', expected)?;
        lines(f, '+', found)
    }
}

/// The longest value that is shown whole, in characters.
const SHOWN: usize = 2_000;

fn shown(value: &Value) -> String {
    let compact = value.to_string();
    let text = if compact.len() <= 100 {
        compact
    } else {
        format!("{value:#}")
    };
    match text.char_indices().nth(SHOWN) {
        Some((end, _)) => format!("{}…", text.get(..end).unwrap_or_default()),
        None => text,
    }
}

impl fmt::Display for Expectation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&shown(&self.to_value()))
    }
}

impl Expectation {
    /// The expectation as it could be written.
    fn to_value(&self) -> Value {
        let object = |fields: &BTreeMap<String, Self>| {
            let fields = fields.iter();
            Value::Object(fields.map(|(k, v)| (k.clone(), v.to_value())).collect())
        };
        let array = |items: &[Self]| Value::Array(items.iter().map(Self::to_value).collect());
        let matcher = |name: &str, of: Value| serde_json::json!({ name: of });
        match self {
            Self::Scalar(value) => value.clone(),
            Self::Array(items) => array(items),
            Self::Object(fields) => object(fields),
            Self::SomeElements(items) => matcher("$subset", array(items)),
            Self::SomeFields(fields) => matcher("$subset", object(fields)),
            Self::Pattern(pattern) => {
                let text = pattern.as_str();
                let inner = text
                    .strip_prefix("^(?s:")
                    .and_then(|t| t.strip_suffix(")$"));
                matcher("$pattern", inner.unwrap_or(text).into())
            }
            Self::Any(kind) => matcher("$any", kind.as_str().into()),
        }
    }
}

pub(super) fn compare(
    expected: &Expectation,
    value: &Value,
    path: &Path,
    found: &mut Vec<Difference>,
) {
    match (expected, value) {
        (Expectation::Scalar(expected), value) if same(expected, value) => {}
        (Expectation::Any(kind), value) if *kind == Type::Any || Type::of(value) == *kind => {}
        (Expectation::Pattern(pattern), Value::String(text)) if pattern.is_match(text) => {}
        (Expectation::Array(items), Value::Array(values)) => {
            elements(items, values, path, found);
        }
        (Expectation::SomeElements(items), Value::Array(values)) => {
            some_elements(items, values, path, found);
        }
        (Expectation::Object(fields), Value::Object(values)) => {
            named_fields(fields, values, path, found);
            for (name, value) in values
                .iter()
                .filter(|(name, _)| !fields.contains_key(*name))
            {
                let found_there = shown(value);
                push(
                    found,
                    &path.field(name),
                    Mismatch::Unexpected { found: found_there },
                );
            }
        }
        (Expectation::SomeFields(fields), Value::Object(values)) => {
            named_fields(fields, values, path, found);
        }
        (expected, value) => {
            let mismatch = Mismatch::Other {
                expected: expected.to_string(),
                found: shown(value),
            };
            push(found, path, mismatch);
        }
    }
}

fn push(found: &mut Vec<Difference>, path: &Path, mismatch: Mismatch) {
    found.push(Difference {
        path: path.to_string(),
        mismatch,
    });
}

fn missing(found: &mut Vec<Difference>, path: &Path, expected: &Expectation) {
    let expected = expected.to_string();
    push(found, path, Mismatch::Missing { expected });
}

fn named_fields(
    fields: &BTreeMap<String, Expectation>,
    values: &serde_json::Map<String, Value>,
    path: &Path,
    found: &mut Vec<Difference>,
) {
    for (name, expected) in fields {
        let path = path.field(name);
        match values.get(name) {
            Some(value) => compare(expected, value, &path, found),
            None => missing(found, &path, expected),
        }
    }
}

fn elements(items: &[Expectation], values: &[Value], path: &Path, found: &mut Vec<Difference>) {
    for (at, expected) in items.iter().enumerate() {
        match values.get(at) {
            Some(value) => compare(expected, value, &path.element(at), found),
            None => missing(found, &path.element(at), expected),
        }
    }
    for (at, value) in values.iter().enumerate().skip(items.len()) {
        let found_there = shown(value);
        push(
            found,
            &path.element(at),
            Mismatch::Unexpected { found: found_there },
        );
    }
}

/// Each expectation is met by an element behind the one that met its
/// predecessor.
fn some_elements(
    items: &[Expectation],
    values: &[Value],
    path: &Path,
    found: &mut Vec<Difference>,
) {
    let mut left = values.iter();
    for (at, expected) in items.iter().enumerate() {
        if !left.any(|value| expected.holds(value)) {
            missing(found, &path.element(at), expected);
        }
    }
}

/// `1` and `1.0` are the same number to whoever writes JSON.
fn same(expected: &Value, value: &Value) -> bool {
    match (expected, value) {
        (Value::Number(a), Value::Number(b)) => a == b || same_float(a, b),
        _ => expected == value,
    }
}

fn same_float(a: &Number, b: &Number) -> bool {
    // Where both are whole numbers, a float would lose digits.
    (a.is_f64() || b.is_f64()) && a.as_f64() == b.as_f64()
}
