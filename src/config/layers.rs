//! Where values come from: flags, files, environment. Knows names and origins,
//! nothing of what a value means.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};

use serde::{Serialize, Serializer};
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::ConfigError;
use super::settings::{SETTINGS, Setting};

/// Where a value was set.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// A command-line flag.
    Flag(&'static str),
    File {
        path: PathBuf,
        line: usize,
    },
    Environment(String),
    Default,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Flag(name) => write!(f, "flag --{name}"),
            Self::File { path, line } => write!(f, "{}:{line}", path.display()),
            Self::Environment(name) => write!(f, "environment {name}"),
            Self::Default => f.write_str("default"),
        }
    }
}

impl Serialize for Origin {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// A value as it was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Value {
    pub text: String,
    pub origin: Origin,
}

/// All sources, not yet understood.
#[derive(Debug, Clone, Default)]
pub struct Layers {
    flags: BTreeMap<&'static str, Value>,
    /// The file that `--config` names.
    explicit: BTreeMap<String, Value>,
    environment: BTreeMap<String, String>,
    /// `cogo.toml` in the working directory.
    project: BTreeMap<String, Value>,
}

impl Layers {
    /// Sources without files, from the given environment.
    pub fn new(environment: impl IntoIterator<Item = (String, String)>) -> Self {
        Self {
            // A variable that is set to nothing is as good as unset.
            environment: environment
                .into_iter()
                .filter(|(_, value)| !value.is_empty())
                .collect(),
            ..Self::default()
        }
    }

    /// A value given on the command line as `--flag`.
    pub fn set_flag(&mut self, key: &'static str, flag: &'static str, text: impl Into<String>) {
        let value = Value {
            text: text.into(),
            origin: Origin::Flag(flag),
        };
        self.flags.insert(key, value);
    }

    /// Reads `cogo.toml` where it exists.
    ///
    /// # Errors
    /// When the file cannot be read or understood.
    pub fn read_project(&mut self, path: &Path) -> Result<(), ConfigError> {
        if path.exists() {
            self.project = read(path)?;
        }
        Ok(())
    }

    /// Reads the file that the command line names.
    ///
    /// # Errors
    /// When the file does not exist, or cannot be read or understood.
    pub fn read_explicit(&mut self, path: &Path) -> Result<(), ConfigError> {
        self.explicit = read(path)?;
        Ok(())
    }

    /// The same with these settings only: for what needs no more of the
    /// configuration, and should not fail over the rest.
    #[must_use]
    pub fn only(&self, keys: &[&str]) -> Self {
        let kept = SETTINGS
            .iter()
            .filter(|setting| keys.contains(&setting.key));
        let names: Vec<&str> = kept.map(|setting| setting.env).collect();
        let mut few = self.clone();
        few.flags.retain(|key, _| keys.contains(key));
        few.explicit.retain(|key, _| keys.contains(&key.as_str()));
        few.project.retain(|key, _| keys.contains(&key.as_str()));
        few.environment
            .retain(|name, _| names.contains(&name.as_str()));
        few
    }

    /// All values of a setting, the one that counts first.
    pub fn lookup(&self, setting: &Setting) -> Vec<Value> {
        let environment = self.environment.get(setting.env).map(|text| Value {
            text: text.clone(),
            origin: Origin::Environment(setting.env.to_owned()),
        });
        let layers = [
            self.flags.get(setting.key).cloned(),
            self.explicit.get(setting.key).cloned(),
            environment,
            self.project.get(setting.key).cloned(),
        ];
        layers.into_iter().flatten().collect()
    }

    /// A variable of the host's environment.
    pub fn environment(&self, name: &str) -> Option<&str> {
        self.environment.get(name).map(String::as_str)
    }

    /// The values of `[route."…"]` and `[plugin.…]` by dotted key, such as
    /// `route."code/build-test".real`. The explicit file goes before `cogo.toml`
    /// field by field.
    pub fn tables(&self) -> BTreeMap<String, Value> {
        let mut tables = self.project.clone();
        tables.extend(self.explicit.clone());
        tables.retain(|key, _| key.starts_with("route.") || key.starts_with("plugin."));
        tables
    }
}

fn read(path: &Path) -> Result<BTreeMap<String, Value>, ConfigError> {
    let place = || path.display().to_string();
    let text = std::fs::read_to_string(path)
        .map_err(|cause| ConfigError::new(place(), format!("cannot be read: {cause}")))?;
    let table = DeTable::parse(&text).map_err(|cause| {
        let line = cause.span().map_or(1, |span| line_of(&text, span.start));
        ConfigError::new(format!("{}:{line}", place()), cause.message().to_owned())
    })?;
    let mut file = File {
        path,
        text: &text,
        values: BTreeMap::new(),
    };
    for (key, value) in table.get_ref() {
        let name = key.get_ref().as_ref();
        match (name, value.get_ref()) {
            ("route" | "plugin", DeValue::Table(entries)) => {
                for (entry, fields) in entries {
                    let prefix = format!("{name}.{}", quoted(entry.get_ref()));
                    file.flatten(&prefix, fields)?;
                }
            }
            _ if SETTINGS.iter().any(|setting| setting.key == name) => {
                file.flatten(name, value)?;
            }
            _ => {
                let line = line_of(&text, key.span().start);
                return Err(unknown_key(&place(), line, name));
            }
        }
    }
    Ok(file.values)
}

/// A file being flattened into dotted keys.
struct File<'a> {
    path: &'a Path,
    text: &'a str,
    values: BTreeMap<String, Value>,
}

impl File<'_> {
    fn flatten(&mut self, key: &str, value: &Spanned<DeValue<'_>>) -> Result<(), ConfigError> {
        let line = line_of(self.text, value.span().start);
        let text = match value.get_ref() {
            DeValue::Table(table) => {
                for (field, value) in table {
                    self.flatten(&format!("{key}.{}", quoted(field.get_ref())), value)?;
                }
                return Ok(());
            }
            DeValue::Array(items) => {
                let mut texts = Vec::with_capacity(items.len());
                for item in items {
                    match item.get_ref() {
                        DeValue::String(text) => texts.push(text.to_string()),
                        _ => return Err(self.wrong(line, key, "expected a list of strings")),
                    }
                }
                texts.join("\n")
            }
            DeValue::String(text) => text.to_string(),
            DeValue::Integer(number) => number.to_string(),
            DeValue::Float(number) => number.to_string(),
            DeValue::Boolean(truth) => truth.to_string(),
            DeValue::Datetime(_) => {
                return Err(self.wrong(line, key, "a date makes no sense here"));
            }
        };
        let origin = Origin::File {
            path: self.path.to_owned(),
            line,
        };
        self.values.insert(key.to_owned(), Value { text, origin });
        Ok(())
    }

    fn wrong(&self, line: usize, key: &str, problem: &str) -> ConfigError {
        let place = format!("{}:{line}", self.path.display());
        ConfigError::new(place, format!("`{key}`: {problem}"))
    }
}

/// A key as TOML would need it: quoted where it is not bare.
pub(super) fn quoted(key: &str) -> String {
    let bare = !key.is_empty()
        && key
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-');
    if bare {
        key.to_owned()
    } else {
        format!("\"{}\"", key.replace('\\', "\\\\").replace('"', "\\\""))
    }
}

fn line_of(text: &str, offset: usize) -> usize {
    let before = text.get(..offset).unwrap_or(text);
    before.bytes().filter(|b| *b == b'\n').count() + 1
}

fn unknown_key(place: &str, line: usize, name: &str) -> ConfigError {
    let known = SETTINGS.iter().map(|setting| setting.key);
    let known = known.chain(["route", "plugin"]);
    let error = ConfigError::new(
        format!("{place}:{line}"),
        format!("`{name}` is not a setting"),
    );
    match nearest(name, known) {
        Some(near) => error.hint(format!("did you mean `{near}`?")),
        None => error.hint("`cogo-host config show` lists all settings"),
    }
}

/// The known name that a mistyped one is closest to, if any is close.
pub(crate) fn nearest<'a>(name: &str, known: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let lower = name.to_lowercase();
    known
        .map(|candidate| (strsim::jaro_winkler(&lower, candidate), candidate))
        .filter(|(likeness, _)| *likeness > 0.85)
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .map(|(_, candidate)| candidate)
}
