//! Brings an expectation up to date with what is there now, and keeps what its
//! author wrote by hand.

use serde_json::{Map, Value};

use super::{Expectation, matcher};

/// The expectation for `now`. What holds stays as it is written, matchers
/// included; what does not becomes the value itself.
pub fn updated(written: &Value, now: &Value) -> Value {
    let holds = Expectation::parse(written).is_ok_and(|expected| expected.holds(now));
    if holds {
        return written.clone();
    }
    match (written, now) {
        (Value::Object(old), Value::Object(new)) if matcher(old).is_none() => {
            let field = |(name, value): (&String, &Value)| {
                let value = match old.get(name) {
                    Some(old) => updated(old, value),
                    None => literal(value),
                };
                (name.clone(), value)
            };
            Value::Object(new.iter().map(field).collect())
        }
        (Value::Array(old), Value::Array(new)) => {
            let item = |(at, value): (usize, &Value)| match old.get(at) {
                Some(old) => updated(old, value),
                None => literal(value),
            };
            Value::Array(new.iter().enumerate().map(item).collect())
        }
        _ => literal(now),
    }
}

/// The value as an expectation that only it meets.
fn literal(value: &Value) -> Value {
    match value {
        Value::Object(object) if matcher(object).is_some() => {
            Value::Object(Map::from_iter([("$exact".to_owned(), value.clone())]))
        }
        Value::Object(object) => {
            let fields = object.iter();
            Value::Object(fields.map(|(k, v)| (k.clone(), literal(v))).collect())
        }
        Value::Array(items) => Value::Array(items.iter().map(literal).collect()),
        scalar => scalar.clone(),
    }
}
