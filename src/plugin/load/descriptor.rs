//! What a plugin says of itself, checked before anybody relies on it.

use semver::Version;
use serde::Serialize;

use super::LoadCause;
use crate::attempt::Kind;
use crate::ids::PluginName;
use crate::plugin::bindings::exports::cogo::executor::plugin as raw;
use crate::route::RouteKey;

/// The most entries of each list.
const MAX_ENTRIES: usize = 64;
/// The longest entry, in bytes.
const MAX_ENTRY: usize = 256;

/// A checked descriptor.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Descriptor {
    pub name: PluginName,
    pub version: Version,
    /// Its own word; see [`super::Plugin::kind`] for what counts.
    pub claims: Kind,
    pub handles: Vec<RouteKey>,
    pub config_keys: Vec<String>,
    /// As it was written; grants are parsed against the operator's values.
    pub egress: Vec<String>,
}

impl Descriptor {
    pub(super) fn check(raw: raw::Descriptor) -> Result<Self, LoadCause> {
        let invalid = |field, problem: String| LoadCause::Descriptor { field, problem };
        let name = raw.name.parse();
        let name: PluginName = name.map_err(|e| invalid("name", format!("{e}")))?;
        let version = cut(&raw.version);
        let version = Version::parse(&version)
            .map_err(|e| invalid("version", format!("`{version}` is no SemVer version: {e}")))?;
        bounded("handles", &raw.handles)?;
        bounded("config-keys", &raw.config_keys)?;
        bounded("egress", &raw.egress)?;
        if raw.handles.is_empty() {
            let problem = "is empty; expected at least one `service/role`".to_owned();
            return Err(invalid("handles", problem));
        }
        let handles: Result<Vec<RouteKey>, _> = raw.handles.iter().map(|h| h.parse()).collect();
        let mut handles = handles.map_err(|e| invalid("handles", format!("{e}")))?;
        handles.sort();
        handles.dedup();
        for key in &raw.config_keys {
            let usable = !key.is_empty()
                && key
                    .bytes()
                    .all(|b| b.is_ascii_alphanumeric() || b"_.-".contains(&b));
            if !usable {
                let problem = format!(
                    "`{}` is no key: expected letters, digits, `_`, `.`, `-`",
                    cut(key)
                );
                return Err(invalid("config-keys", problem));
            }
        }
        Ok(Self {
            name,
            version,
            claims: match raw.kind {
                raw::Kind::Real => Kind::Real,
                raw::Kind::Mock => Kind::Mock,
            },
            handles,
            config_keys: raw.config_keys,
            egress: raw.egress,
        })
    }
}

fn bounded(field: &'static str, list: &[String]) -> Result<(), LoadCause> {
    let problem = if list.len() > MAX_ENTRIES {
        format!(
            "has {} entries; at most {MAX_ENTRIES} are allowed",
            list.len()
        )
    } else if let Some(entry) = list.iter().find(|entry| entry.len() > MAX_ENTRY) {
        let bytes = entry.len();
        format!("has an entry of {bytes} bytes; at most {MAX_ENTRY} are allowed")
    } else {
        return Ok(());
    };
    Err(LoadCause::Descriptor { field, problem })
}

fn cut(text: &str) -> String {
    text.chars().take(80).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn good() -> raw::Descriptor {
        raw::Descriptor {
            name: "worker".to_owned(),
            version: "1.2.3".to_owned(),
            kind: raw::Kind::Real,
            handles: vec!["code/build-test".to_owned()],
            config_keys: vec!["WORKER_URL".to_owned()],
            egress: vec!["config:WORKER_URL".to_owned()],
        }
    }

    #[test]
    fn a_good_one_passes_and_every_bad_field_is_named() {
        assert!(Descriptor::check(good()).is_ok());
        type Break = fn(&mut raw::Descriptor);
        let table: [(&str, Break); 9] = [
            ("name", |d| d.name = "Worker".to_owned()),
            ("name", |d| d.name = "../worker".to_owned()),
            ("version", |d| d.version = "1.2".to_owned()),
            ("handles", |d| d.handles.clear()),
            ("handles", |d| d.handles.push("code".to_owned())),
            ("handles", |d| d.handles = vec!["a/b".to_owned(); 65]),
            ("config-keys", |d| d.config_keys.push("a b".to_owned())),
            ("config-keys", |d| d.config_keys.push("x".repeat(257))),
            ("egress", |d| d.egress.push("x".repeat(257))),
        ];
        for (expected, spoil) in table {
            let mut raw = good();
            spoil(&mut raw);
            match Descriptor::check(raw) {
                Err(LoadCause::Descriptor { field, .. }) => assert_eq!(field, expected),
                other => panic!("{expected}: {other:?}"),
            }
        }
    }
}
