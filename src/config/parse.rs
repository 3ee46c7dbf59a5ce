//! Turns layers into a [`Config`]: every value parsed once, every mistake named
//! with its place, its cause and what would be right.

use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use super::layers::{Layers, Origin, Value, nearest, quoted};
use super::settings::{SETTINGS, Setting};
use super::{
    ArtifactsBase, Config, ConfigError, Flag, GateConfig, Listen, PluginConfig, RouteConfig,
    Secret, Served,
};
use crate::attempt::Kind;
use crate::breaker::Timing;
use crate::gate::Thresholds;
use crate::ids::PluginName;
use crate::retry::RetryPolicy;
use crate::route::{Policy, RouteKey};
use crate::stage::Stage;
use crate::store::{BusUrl, InvalidBusUrl};

/// Long enough for a few signs of life to be lost.
const PROBE_LEASE: Duration = Duration::from_secs(5);

impl Config {
    /// Understands all layers.
    ///
    /// # Errors
    /// The first mistake, with its place.
    pub fn from_layers(layers: &Layers) -> Result<Self, ConfigError> {
        let read = Reader { layers };
        let stage: Stage = read.required("stage")?;
        Ok(Self {
            stage,
            bus: read.bus()?,
            cache_dir: match read.text("cache_dir")? {
                Some(dir) => PathBuf::from(dir),
                None => read.state_dir()?.join("cache"),
            },
            ci: layers.environment("CI") == Some("true"),
            state_dir: read.state_dir()?,
            holder_id: read.holder_id()?,
            compare: read.compare(stage)?,
            flag: read.flag()?,
            served: read.served(stage)?,
            routes: read.routes()?,
            plugins: read.plugins()?,
            plugins_dir: read.text("plugins_dir")?.map(PathBuf::from),
            trusted_keys: read.list("trusted_keys")?,
            signatures_required: read.signatures_required(stage)?,
            worker_url: read.worker_url()?,
            plugins_quiet: read.millis("plugins_quiet_ms", 0)?,
            plugins_rescan: read.millis("plugins_rescan_ms", 10)?,
            worker_timeout: read.millis("cogo_worker_timeout_ms", 1)?,
            poll: read.millis("bus_poll_ms", 1)?,
            lease: read.millis("reclaim_after_ms", 500)?,
            drain: read.millis("drain_ms", 0)?,
            concurrency: read.number("concurrency", 1, 10_000)?,
            guest_threads: read.number::<usize>("guest_threads", 1, 256)?,
            retry: RetryPolicy {
                base: read.millis("retry_base_ms", 1)?,
                cap: read.millis("retry_cap_ms", 1)?,
                max_attempts: read.number("max_attempts", 1, 1000)?,
            },
            breaker: Timing {
                probe_after: read.millis("probe_after_ms", 1)?,
                probe_lease: PROBE_LEASE,
            },
            retention_days: read.optional_number("retention_days", 1, 36_500)?,
            audit_retention_days: read.optional_number("audit_retention_days", 1, 36_500)?,
            artifacts_base: read.artifacts_base()?,
            listen: read.listen()?,
            gate: read.gate()?,
        })
    }
}

struct Reader<'a> {
    layers: &'a Layers,
}

impl Reader<'_> {
    fn setting(&self, key: &str) -> Result<&'static Setting, ConfigError> {
        let found = SETTINGS.iter().find(|setting| setting.key == key);
        found.ok_or_else(|| ConfigError::new(key, "is not in the table of settings"))
    }

    fn value(&self, key: &str) -> Result<Option<Value>, ConfigError> {
        let setting = self.setting(key)?;
        let set = self.layers.lookup(setting).into_iter().next();
        Ok(set.or_else(|| {
            setting.default.map(|text| Value {
                text: text.to_owned(),
                origin: Origin::Default,
            })
        }))
    }

    fn text(&self, key: &str) -> Result<Option<String>, ConfigError> {
        Ok(self.value(key)?.map(|value| value.text))
    }

    fn artifacts_base(&self) -> Result<Option<ArtifactsBase>, ConfigError> {
        let base = self.text("artifacts_base")?;
        let in_bucket = base
            .as_deref()
            .is_some_and(|base| base.starts_with("s3://"));
        let signed_links = match self.value("artifacts_links")? {
            None => false,
            Some(links) => match (links.text.trim(), in_bucket) {
                ("host", _) => false,
                ("signed", true) => true,
                ("signed", false) => {
                    let expected = "links are signed only into a bucket, which ARTIFACTS_BASE names by s3://BUCKET/PREFIX";
                    return Err(wrong("artifacts_links", &links, expected));
                }
                _ => {
                    return Err(wrong(
                        "artifacts_links",
                        &links,
                        "expected `host` or `signed`",
                    ));
                }
            },
        };
        Ok(base.map(|url| match in_bucket {
            true => ArtifactsBase::Bucket { url, signed_links },
            false => ArtifactsBase::Url(url),
        }))
    }

    fn optional<T>(&self, key: &str) -> Result<Option<T>, ConfigError>
    where
        T: FromStr,
        T::Err: std::fmt::Display,
    {
        let Some(value) = self.value(key)? else {
            return Ok(None);
        };
        let parsed = value.text.trim().parse();
        parsed
            .map(Some)
            .map_err(|cause: T::Err| wrong(key, &value, &cause.to_string()))
    }

    fn required<T>(&self, key: &str) -> Result<T, ConfigError>
    where
        T: FromStr,
        T::Err: std::fmt::Display,
    {
        self.optional(key)?
            .ok_or_else(|| ConfigError::new(key, "is not set"))
    }

    fn optional_number<T>(&self, key: &str, min: T, max: T) -> Result<Option<T>, ConfigError>
    where
        T: FromStr + PartialOrd + std::fmt::Display,
    {
        let Some(value) = self.value(key)? else {
            return Ok(None);
        };
        match value.text.trim().replace('_', "").parse::<T>() {
            Ok(number) if number >= min && number <= max => Ok(Some(number)),
            _ => Err(wrong(
                key,
                &value,
                &format!("expected a number from {min} to {max}"),
            )),
        }
    }

    fn number<T>(&self, key: &str, min: T, max: T) -> Result<T, ConfigError>
    where
        T: FromStr + PartialOrd + std::fmt::Display,
    {
        self.optional_number(key, min, max)?
            .ok_or_else(|| ConfigError::new(key, "is not set"))
    }

    fn millis(&self, key: &str, min: u64) -> Result<Duration, ConfigError> {
        // A day: more is a mistake of units.
        let ms = self.number(key, min, 24 * 3600 * 1000)?;
        Ok(Duration::from_millis(ms))
    }

    fn state_dir(&self) -> Result<PathBuf, ConfigError> {
        self.required("state_dir")
    }

    fn bus(&self) -> Result<BusUrl, ConfigError> {
        if let Some(value) = self.value("database_url")? {
            // The value may hold a password, so it is not repeated.
            return value.text.parse().map_err(|cause: InvalidBusUrl| {
                let problem = format!("`database_url`: {cause}");
                ConfigError::new(value.origin.to_string(), problem)
            });
        }
        for key in ["supabase_url", "supabase_service_role_key"] {
            if let Some(value) = self.value(key)? {
                let problem = format!(
                    "`{key}` is set, but this version reaches Supabase only over a direct database connection"
                );
                return Err(ConfigError::new(value.origin.to_string(), problem).hint(
                    "set DATABASE_URL to the project's direct connection string (dashboard, Connect), or unset SUPABASE_URL and SUPABASE_SERVICE_ROLE_KEY to use the embedded SQLite",
                ));
            }
        }
        Ok(BusUrl::Sqlite(self.state_dir()?.join("bus.db")))
    }

    fn worker_url(&self) -> Result<Option<String>, ConfigError> {
        let Some(value) = self.value("cogo_worker_url")? else {
            return Ok(None);
        };
        let usable = url::Url::parse(&value.text)
            .is_ok_and(|url| matches!(url.scheme(), "http" | "https") && url.has_host());
        if usable {
            Ok(Some(value.text))
        } else {
            let expected = "expected a URL such as `http://127.0.0.1:8080`";
            Err(wrong("cogo_worker_url", &value, expected))
        }
    }

    fn holder_id(&self) -> Result<String, ConfigError> {
        let value = self.value("holder_id")?;
        let Some(value) = value else {
            return Err(ConfigError::new("holder_id", "is not set"));
        };
        let fine = value.text.len() <= 128
            && value
                .text
                .bytes()
                .all(|b| b.is_ascii_graphic() && b != b':');
        if fine {
            Ok(value.text)
        } else {
            let problem = "expected visible ASCII characters without a colon, at most 128";
            Err(wrong("holder_id", &value, problem))
        }
    }

    fn flag(&self) -> Result<Flag, ConfigError> {
        let Some(value) = self.value("enable_cogo_worker")? else {
            return Ok(Flag {
                value: None,
                origin: Origin::Default,
            });
        };
        let truth = truth(&value.text)
            .ok_or_else(|| wrong("enable_cogo_worker", &value, "expected true or false"))?;
        Ok(Flag {
            value: Some(truth),
            origin: value.origin,
        })
    }

    fn compare(&self, stage: Stage) -> Result<bool, ConfigError> {
        let Some(value) = self.value("compare")? else {
            return Ok(false);
        };
        match (truth(&value.text), stage) {
            (None, _) => Err(wrong("compare", &value, "expected true or false")),
            (Some(false), _) => Ok(false),
            (Some(true), Stage::Development) => Ok(true),
            (Some(true), Stage::Staging | Stage::Production) => {
                let problem = "real and mock run side by side only in development";
                let hint = "order a shadow: `cogo-host shadow start --route ROUTE --candidate NAME@DIGEST`";
                Err(wrong("compare", &value, problem).hint(hint))
            }
        }
    }

    fn served(&self, stage: Stage) -> Result<Served, ConfigError> {
        let service = self.text("agent_service")?;
        let role = self.text("agent_role")?;
        let shard = self.optional("agent_shard")?;
        Ok(match (&service, &role, shard, stage) {
            (None, None, None, Stage::Development) => Served::Handled,
            (None, None, None, _) => Served::Listed,
            _ => Served::Agent {
                service,
                role,
                shard,
            },
        })
    }

    fn listen(&self) -> Result<Listen, ConfigError> {
        Ok(Listen {
            bind: self.required("bind").map_err(|error: ConfigError| {
                error.hint("an IP address alone, such as 0.0.0.0; the port is `port` (PORT)")
            })?,
            port: self.number("port", 0, u16::MAX)?,
            token_file: self.text("host_token_file")?.map(PathBuf::from),
            token: self.text("host_token")?.map(Secret::new),
            names: self
                .list("host_names")?
                .iter()
                .map(|name| name.to_lowercase())
                .collect(),
        })
    }

    /// Values that commas or ends of lines separate.
    fn list(&self, key: &str) -> Result<Vec<String>, ConfigError> {
        let text = self.text(key)?.unwrap_or_default();
        let values = text.split([',', '\n']).map(str::trim);
        Ok(values
            .filter(|value| !value.is_empty())
            .map(str::to_owned)
            .collect())
    }

    fn signatures_required(&self, stage: Stage) -> Result<bool, ConfigError> {
        const KEY: &str = "signed_stages";
        let mut required = false;
        for text in self.list(KEY)? {
            let named = text.parse::<Stage>().map_err(|_| {
                ConfigError::new(KEY, format!("`{text}` is no stage"))
                    .hint("expected development, staging or production, separated by commas")
            })?;
            required |= named == stage;
        }
        Ok(required)
    }

    fn gate(&self) -> Result<GateConfig, ConfigError> {
        Ok(GateConfig {
            window_min: self.number("window_min", 1, 60 * 24 * 366)?,
            thresholds: Thresholds {
                fail_rate_max: self.number("fail_rate_max", 0.0, 1.0)?,
                wait_p90_max_ms: self.number("wait_p90_max_ms", 0, u64::MAX)?,
                decision_quality_min: self.number("decision_quality_min", 0.0, 100.0)?,
                min_samples: self.number("gate_min_samples", 1, u64::MAX)?,
            },
        })
    }

    fn routes(&self) -> Result<std::collections::BTreeMap<RouteKey, RouteConfig>, ConfigError> {
        let mut routes = std::collections::BTreeMap::<RouteKey, RouteConfig>::new();
        for (key, value) in self.layers.tables() {
            let Some((name, field)) = table_key(&key, "route.") else {
                continue;
            };
            let route: RouteKey = name
                .parse()
                .map_err(|e: crate::route::InvalidRoute| wrong(&key, &value, &e.to_string()))?;
            route_field(routes.entry(route).or_default(), &field, &key, &value)?;
        }
        Ok(routes)
    }

    fn plugins(&self) -> Result<std::collections::BTreeMap<PluginName, PluginConfig>, ConfigError> {
        let mut plugins = std::collections::BTreeMap::<PluginName, PluginConfig>::new();
        for (key, value) in self.layers.tables() {
            let Some((name, field)) = table_key(&key, "plugin.") else {
                continue;
            };
            let plugin: PluginName = name
                .parse()
                .map_err(|e: crate::ids::InvalidId| wrong(&key, &value, &e.to_string()))?;
            let entry = plugins.entry(plugin).or_default();
            if field == "config_env" {
                for name in value.text.lines() {
                    if let Some(set) = self.layers.environment(name) {
                        entry.config.insert(name.to_owned(), set.to_owned());
                    }
                }
            } else {
                plugin_field(entry, &field, &key, &value)?;
            }
        }
        Ok(plugins)
    }
}

fn wrong(key: &str, value: &Value, expected: &str) -> ConfigError {
    let place = value.origin.to_string();
    ConfigError::new(place, format!("`{key}` = `{}`: {expected}", value.text))
}

fn truth(text: &str) -> Option<bool> {
    match text.trim().to_ascii_lowercase().as_str() {
        "true" | "1" | "yes" | "on" => Some(true),
        "false" | "0" | "no" | "off" => Some(false),
        _ => None,
    }
}

/// Splits `route."code/build-test".real` into the table's name and the field.
fn table_key(key: &str, prefix: &str) -> Option<(String, String)> {
    let rest = key.strip_prefix(prefix)?;
    match rest.strip_prefix('"') {
        Some(inner) => {
            let (name, field) = inner.split_once("\".")?;
            Some((name.to_owned(), field.to_owned()))
        }
        None => {
            let (name, field) = rest.split_once('.')?;
            Some((name.to_owned(), field.to_owned()))
        }
    }
}

fn parsed<T: FromStr>(key: &str, value: &Value, expected: &str) -> Result<T, ConfigError> {
    let parsed = value.text.trim().parse();
    parsed.map_err(|_| wrong(key, value, expected))
}

fn duration(key: &str, value: &Value) -> Result<Duration, ConfigError> {
    humantime::parse_duration(value.text.trim())
        .map_err(|_| wrong(key, value, "expected a duration such as `90s` or `5m`"))
}

/// What a `[route."…"]` can hold.
pub(super) const ROUTE_FIELDS: [&str; 10] = [
    "real",
    "mock",
    "plugin",
    "policy",
    "flag",
    "shard",
    "tenant",
    "concurrency",
    "deadline",
    "reclaim_foreign_after",
];

fn route_field(
    route: &mut RouteConfig,
    field: &str,
    key: &str,
    value: &Value,
) -> Result<(), ConfigError> {
    let name = "expected the name of a plugin, in lower-case kebab";
    match field {
        "real" => route.real = Some(parsed(key, value, name)?),
        "mock" => route.mock = Some(parsed(key, value, name)?),
        "plugin" => route.plugin = Some(parsed(key, value, name)?),
        "policy" => {
            route.policy = Some(match value.text.as_str() {
                "required" => Policy::Required,
                "optional" => Policy::Optional,
                _ => return Err(wrong(key, value, "expected `required` or `optional`")),
            });
        }
        "flag" => {
            let flag = truth(&value.text);
            route.flag = Some(flag.ok_or_else(|| wrong(key, value, "expected true or false"))?);
        }
        "shard" => route.shard = Some(parsed(key, value, "expected a whole number")?),
        "tenant" => route.tenant = Some(value.text.clone()),
        "concurrency" => route.concurrency = Some(positive(key, value)?),
        "deadline" => route.deadline = Some(duration(key, value)?),
        "reclaim_foreign_after" => route.reclaim_foreign_after = Some(duration(key, value)?),
        _ => return Err(unknown_field(field, value, &ROUTE_FIELDS)),
    }
    Ok(())
}

/// What a `[plugin.NAME]` can hold.
pub(super) const PLUGIN_FIELDS: [&str; 8] = [
    "config",
    "config_env",
    "allow",
    "kind",
    "digest",
    "limits.memory_mb",
    "limits.deadline_ms",
    "limits.concurrency",
];

fn plugin_field(
    plugin: &mut PluginConfig,
    field: &str,
    key: &str,
    value: &Value,
) -> Result<(), ConfigError> {
    match field {
        "allow" => plugin.allow = value.text.lines().map(str::to_owned).collect(),
        "kind" => {
            plugin.kind = Some(match value.text.as_str() {
                "real" => Kind::Real,
                "mock" => Kind::Mock,
                _ => return Err(wrong(key, value, "expected `real` or `mock`")),
            });
        }
        "digest" => {
            let expected = "expected `sha256:` and 64 hexadecimal digits";
            plugin.digest = Some(parsed(key, value, expected)?);
        }
        "limits.memory_mb" => plugin.limits.memory_mb = Some(positive(key, value)?),
        "limits.deadline_ms" => {
            let ms: u32 = positive(key, value)?;
            plugin.limits.deadline = Some(Duration::from_millis(ms.into()));
        }
        "limits.concurrency" => plugin.limits.concurrency = Some(positive(key, value)?),
        _ => match field.strip_prefix("config.") {
            Some(name) => {
                let name = name.trim_matches('"').to_owned();
                plugin.config.insert(name, value.text.clone());
            }
            None => return Err(unknown_field(field, value, &PLUGIN_FIELDS)),
        },
    }
    Ok(())
}

fn positive(key: &str, value: &Value) -> Result<u32, ConfigError> {
    match value.text.trim().parse() {
        Ok(number) if number > 0 => Ok(number),
        _ => Err(wrong(key, value, "expected a whole number above 0")),
    }
}

fn unknown_field(field: &str, value: &Value, known: &[&'static str]) -> ConfigError {
    let error = ConfigError::new(
        value.origin.to_string(),
        format!(
            "`{}` is not a field of this table",
            quoted(field).trim_matches('"')
        ),
    );
    match nearest(field, known.iter().copied()) {
        Some(near) => error.hint(format!("did you mean `{near}`?")),
        None => error.hint(format!("fields: {}", known.join(", "))),
    }
}
