//! The JSON Schema of `cogo.toml`, for editors.
//!
//! Written from the table of settings and the fields of routes and plugins, which
//! are what parsing reads: files are read value by value with their places, not
//! deserialized, so that there is no type to derive it from.

use serde_json::{Map, Value, json};

use super::parse::{PLUGIN_FIELDS, ROUTE_FIELDS};
use super::settings::{SETTINGS, Setting};
use crate::stage::Stage;

/// The dialect that editors know best.
const DIALECT: &str = "http://json-schema.org/draft-07/schema#";
/// The name of a plugin, as [`crate::ids::PluginName`] reads it.
const PLUGIN_NAME: &str = "^[a-z][a-z0-9]*(-[a-z0-9]+)*$";

/// The schema of a configuration file.
pub fn schema() -> Value {
    let mut properties: Map<String, Value> = SETTINGS
        .iter()
        .map(|setting| (setting.key.to_owned(), of_setting(setting)))
        .collect();
    properties.insert("route".to_owned(), routes());
    properties.insert("plugin".to_owned(), plugins());
    json!({
        "$schema": DIALECT,
        "title": "cogo.toml",
        "description": "Settings of cogo-host; flags, --config and the environment beat them.",
        "type": "object",
        "additionalProperties": false,
        "properties": properties,
    })
}

fn of_setting(setting: &Setting) -> Value {
    let Setting { key, env, help, .. } = setting;
    let mut schema = match *key {
        "stage" => {
            let names: Vec<&str> = Stage::ALL.iter().map(|stage| stage.as_str()).collect();
            json!({ "enum": names })
        }
        "enable_cogo_worker" | "compare" => boolean(),
        "fail_rate_max" => json!({ "type": ["number", "string"], "minimum": 0, "maximum": 1 }),
        "decision_quality_min" => {
            json!({ "type": ["number", "string"], "minimum": 0, "maximum": 100 })
        }
        "host_names" => json!({ "type": ["string", "array"], "items": { "type": "string" } }),
        _ if is_number(setting) => json!({ "type": ["integer", "string"], "minimum": 0 }),
        _ => json!({ "type": "string" }),
    };
    if let Some(fields) = schema.as_object_mut() {
        fields.insert("description".to_owned(), format!("{help} ({env})").into());
        if let Some(default) = setting.default {
            let default = serde_json::from_str(default).unwrap_or_else(|_| default.into());
            fields.insert("default".to_owned(), default);
        }
    }
    schema
}

/// What counts something: the names say so, and so do the defaults.
fn is_number(setting: &Setting) -> bool {
    const COUNTED: [&str; 5] = ["_ms", "_days", "_min", "_samples", "_shard"];
    let counted = COUNTED.iter().any(|end| setting.key.ends_with(end));
    counted
        || setting
            .default
            .is_some_and(|text| text.parse::<u64>().is_ok())
}

/// As the environment would write it, too.
fn boolean() -> Value {
    json!({ "enum": [true, false, "true", "false", "yes", "no", "on", "off", "1", "0"] })
}

fn routes() -> Value {
    let fields = ROUTE_FIELDS.into_iter().map(|field| {
        let (schema, help) = route_field(field);
        (field, schema, help)
    });
    json!({
        "type": "object",
        "description": "One table for each route, by its `service/role`.",
        "propertyNames": { "pattern": "^[^/]+/[^/]+$" },
        "additionalProperties": table(fields),
    })
}

fn route_field(field: &str) -> (Value, &'static str) {
    let name = || json!({ "type": "string", "pattern": PLUGIN_NAME });
    match field {
        "real" => (name(), "the plugin that does the work"),
        "mock" => (name(), "the plugin that only simulates it"),
        "plugin" => (name(), "one plugin, whatever the flag says"),
        "policy" => (
            json!({ "enum": ["required", "optional"] }),
            "required: the stage decides; optional: the route's own flag alone",
        ),
        "flag" => (boolean(), "the route's own flag"),
        "shard" => (
            json!({ "type": ["integer", "string"] }),
            "serve only this shard",
        ),
        "concurrency" => (positive(), "attempts of this route at once"),
        "deadline" => (json!({ "type": "string" }), "of an attempt, such as `90s`"),
        "reclaim_foreign_after" => (
            json!({ "type": "string" }),
            "when claims of other programs are taken over, such as `5m`",
        ),
        _ => (json!({ "type": "string" }), "serve only this tenant"),
    }
}

fn plugins() -> Value {
    let plain = PLUGIN_FIELDS
        .into_iter()
        .filter(|field| !field.contains('.'));
    let limits = PLUGIN_FIELDS.into_iter();
    let limits = limits.filter_map(|field| field.strip_prefix("limits."));
    let limits = table(limits.map(|field| (field, positive(), "of each attempt")));
    let fields = plain
        .map(|field| {
            let (schema, help) = plugin_field(field);
            (field, schema, help)
        })
        .chain([("limits", limits, "what an attempt may take")]);
    json!({
        "type": "object",
        "description": "One table for each plugin, by its name.",
        "propertyNames": { "pattern": PLUGIN_NAME },
        "additionalProperties": table(fields),
    })
}

fn plugin_field(field: &str) -> (Value, &'static str) {
    let texts = || json!({ "type": "array", "items": { "type": "string" } });
    match field {
        "config" => (
            json!({
                "type": "object",
                "additionalProperties": { "type": ["string", "number", "boolean"] },
            }),
            "values that the plugin may read",
        ),
        "config_env" => (
            texts(),
            "values taken from the environment by the same name",
        ),
        "allow" => (texts(), "origins that the plugin may call"),
        "kind" => (
            json!({ "enum": ["real", "mock"] }),
            "what gates count it as",
        ),
        _ => (
            json!({ "type": "string", "pattern": "^sha256:[0-9a-f]{64}$" }),
            "the only component that may run",
        ),
    }
}

fn positive() -> Value {
    json!({ "type": ["integer", "string"], "minimum": 1 })
}

fn table<'a>(fields: impl Iterator<Item = (&'a str, Value, &'static str)>) -> Value {
    let properties: Map<String, Value> = fields
        .map(|(name, mut schema, help)| {
            if let Some(fields) = schema.as_object_mut() {
                fields.insert("description".to_owned(), help.into());
            }
            (name.to_owned(), schema)
        })
        .collect();
    json!({ "type": "object", "additionalProperties": false, "properties": properties })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a value's type is called, as far as this schema uses types.
    fn fits(schema: &Value, value: &Value) -> bool {
        if let Some(values) = schema["enum"].as_array() {
            return values.contains(value);
        }
        let name = match value {
            Value::String(_) => "string",
            Value::Number(number) if number.is_u64() => "integer",
            Value::Number(_) => "number",
            Value::Bool(_) => "boolean",
            Value::Array(_) => "array",
            Value::Object(_) | Value::Null => "object",
        };
        let allows = |allowed: &str| allowed == name || (allowed, name) == ("number", "integer");
        match &schema["type"] {
            Value::Array(types) => types.iter().filter_map(Value::as_str).any(allows),
            one => one.as_str().is_some_and(allows),
        }
    }

    #[test]
    fn every_setting_is_there_with_a_default_that_it_allows() {
        let schema = schema();
        let properties = schema["properties"].as_object().unwrap();
        assert_eq!(properties.len(), SETTINGS.len() + 2);
        for setting in SETTINGS {
            let own = &properties[setting.key];
            let said = own["description"].as_str().unwrap();
            assert!(said.contains(setting.env), "{said}");
            let Some(default) = setting.default else {
                continue;
            };
            // As text, which is what the environment has, and as TOML would have it.
            assert!(fits(own, &default.into()), "{}", setting.key);
            assert!(fits(own, &own["default"]), "{}", setting.key);
        }
    }

    #[test]
    fn tables_hold_the_fields_that_are_read_and_no_others() {
        let schema = schema();
        for (table, fields) in [("route", &ROUTE_FIELDS[..]), ("plugin", &PLUGIN_FIELDS)] {
            let entry = &schema["properties"][table]["additionalProperties"];
            assert_eq!(entry["additionalProperties"], false);
            let mut named = Vec::new();
            for (name, own) in entry["properties"].as_object().unwrap() {
                match own["properties"].as_object() {
                    None => named.push(name.clone()),
                    Some(inner) => named.extend(inner.keys().map(|key| format!("{name}.{key}"))),
                }
            }
            named.sort();
            let mut fields: Vec<&str> = fields.to_vec();
            fields.sort_unstable();
            assert_eq!(named, fields);
        }
    }

    #[test]
    fn what_cannot_be_right_is_marked() {
        let schema = schema();
        let setting = |key: &str| &schema["properties"][key];
        assert!(fits(setting("stage"), &json!("staging")));
        assert!(!fits(setting("stage"), &json!("prod")));
        assert!(!fits(setting("port"), &json!(true)));
        assert!(!fits(setting("cogo_worker_url"), &json!(5)));
        assert_eq!(schema["additionalProperties"], false);
    }
}
