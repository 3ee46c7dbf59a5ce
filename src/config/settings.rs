//! The table of all settings: one line each, the single list that parsing,
//! `config show` and the check for unknown keys read.

use serde::Serialize;

use super::layers::{Layers, Origin};

/// One setting. Its name is the key in files; in upper case, the environment
/// variable, but where an older name is established.
#[derive(Debug, Clone, Copy)]
pub struct Setting {
    pub key: &'static str,
    pub env: &'static str,
    /// As it would be written; `None` is unset.
    pub default: Option<&'static str>,
    pub secret: bool,
    pub help: &'static str,
}

const fn setting(
    key: &'static str,
    env: &'static str,
    default: Option<&'static str>,
    help: &'static str,
) -> Setting {
    Setting {
        key,
        env,
        default,
        secret: false,
        help,
    }
}

const fn secret(key: &'static str, env: &'static str, help: &'static str) -> Setting {
    Setting {
        key,
        env,
        default: None,
        secret: true,
        help,
    }
}

/// Every setting there is.
pub const SETTINGS: &[Setting] = &[
    setting(
        "stage",
        "COGO_STAGE",
        Some("development"),
        "development, staging or production",
    ),
    secret(
        "database_url",
        "DATABASE_URL",
        "sqlite://FILE or postgres://…; unset: SQLite in the state directory",
    ),
    setting(
        "supabase_url",
        "SUPABASE_URL",
        None,
        "the project's URL; needs DATABASE_URL for now",
    ),
    secret(
        "supabase_service_role_key",
        "SUPABASE_SERVICE_ROLE_KEY",
        "the project's service key; needs DATABASE_URL for now",
    ),
    setting(
        "state_dir",
        "COGO_STATE_DIR",
        Some(".cogo"),
        "the host's own directory",
    ),
    setting(
        "cache_dir",
        "COGO_CACHE_DIR",
        None,
        "compiled plugins; unset: below the state directory",
    ),
    setting(
        "enable_cogo_worker",
        "ENABLE_COGO_WORKER",
        None,
        "real executors on required routes; unset: by stage",
    ),
    setting(
        "compare",
        "COGO_COMPARE",
        Some("false"),
        "development: run real and mock for every task, and keep the difference",
    ),
    setting(
        "cogo_worker_url",
        "COGO_WORKER_URL",
        None,
        "where cogo-worker listens",
    ),
    setting(
        "cogo_worker_timeout_ms",
        "COGO_WORKER_TIMEOUT_MS",
        Some("60000"),
        "how long a call of cogo-worker may take",
    ),
    setting(
        "agent_service",
        "AGENT_SERVICE",
        None,
        "serve only this service",
    ),
    setting("agent_role", "AGENT_ROLE", None, "serve only this role"),
    setting("agent_shard", "AGENT_SHARD", None, "serve only this shard"),
    setting(
        "holder_id",
        "HOLDER_ID",
        Some("cogo-host"),
        "the name in claimed_by",
    ),
    setting(
        "bus_poll_ms",
        "BUS_POLL_MS",
        Some("1000"),
        "how long an empty bus is left alone",
    ),
    setting(
        "reclaim_after_ms",
        "RECLAIM_AFTER_MS",
        Some("30000"),
        "length of a lease",
    ),
    setting(
        "drain_ms",
        "COGO_DRAIN_MS",
        Some("25000"),
        "how long a drain may take",
    ),
    setting(
        "concurrency",
        "COGO_CONCURRENCY",
        Some("64"),
        "attempts at once on this host",
    ),
    setting(
        "guest_threads",
        "COGO_GUEST_THREADS",
        Some("1"),
        "threads that run plugins",
    ),
    setting(
        "retry_base_ms",
        "COGO_RETRY_BASE_MS",
        Some("1000"),
        "bound of the first retry's delay",
    ),
    setting(
        "retry_cap_ms",
        "COGO_RETRY_CAP_MS",
        Some("900000"),
        "bound of any retry's delay",
    ),
    setting(
        "max_attempts",
        "COGO_MAX_ATTEMPTS",
        Some("5"),
        "attempts of a task that names no number",
    ),
    setting(
        "probe_after_ms",
        "COGO_PROBE_AFTER_MS",
        Some("5000"),
        "when a worker that is taken for down is first tried again; doubles with each failure",
    ),
    setting(
        "retention_days",
        "RETENTION_DAYS",
        None,
        "ended tasks older than this are deleted",
    ),
    setting(
        "audit_retention_days",
        "AUDIT_RETENTION_DAYS",
        None,
        "events older than this are deleted",
    ),
    setting(
        "artifacts_base",
        "ARTIFACTS_BASE",
        None,
        "what URLs of artifacts begin with, or `s3://BUCKET/PREFIX` to keep them there (with the usual AWS_* variables); unset: this host",
    ),
    setting(
        "artifacts_links",
        "ARTIFACTS_LINKS",
        Some("host"),
        "where workers fetch artifacts: `host`, or `signed` links into the bucket",
    ),
    setting("bind", "COGO_BIND", Some("127.0.0.1"), "address of the API"),
    setting(
        "port",
        "PORT",
        Some("7171"),
        "port of the API; 0 takes a free one",
    ),
    secret("host_token", "COGO_HOST_TOKEN", "the token of API writes"),
    setting(
        "host_token_file",
        "COGO_HOST_TOKEN_FILE",
        None,
        "a file of `name:token` lines",
    ),
    setting(
        "host_names",
        "COGO_HOST_NAMES",
        None,
        "further names of this host, by commas",
    ),
    setting(
        "trusted_keys",
        "COGO_TRUSTED_KEYS",
        None,
        "public keys of minisign whose signatures of plugins count, separated by commas",
    ),
    setting(
        "signed_stages",
        "COGO_SIGNED_STAGES",
        None,
        "stages that want every plugin signed, separated by commas",
    ),
    setting(
        "plugins_dir",
        "COGO_PLUGINS_DIR",
        None,
        "a directory of NAME.wasm that overlays the bundled plugins",
    ),
    setting(
        "plugins_quiet_ms",
        "COGO_PLUGINS_QUIET_MS",
        Some("200"),
        "how long a plugin's file must be left alone before it is read; a quarter where it was renamed into place",
    ),
    setting(
        "plugins_rescan_ms",
        "COGO_PLUGINS_RESCAN_MS",
        Some("30000"),
        "how often all of plugins_dir is looked at",
    ),
    setting(
        "window_min",
        "WINDOW_MIN",
        Some("60"),
        "gate: minutes looked at",
    ),
    setting(
        "fail_rate_max",
        "FAIL_RATE_MAX",
        Some("0.05"),
        "gate: share of failed tasks",
    ),
    setting(
        "wait_p90_max_ms",
        "WAIT_P90_MAX_MS",
        Some("5000"),
        "gate: 90th percentile of waits",
    ),
    setting(
        "decision_quality_min",
        "DECISION_QUALITY_MIN",
        Some("85"),
        "gate: percent of decisions that held",
    ),
    setting(
        "gate_min_samples",
        "GATE_MIN_SAMPLES",
        Some("20"),
        "gate: results that a window needs",
    ),
];

/// A setting as `config show` prints it.
#[derive(Debug, Clone, Serialize)]
pub struct ShownSetting {
    pub key: String,
    /// Of a secret, only that it is set and how long it is.
    pub value: Option<String>,
    pub origin: Origin,
    /// Where else it is set, to no effect.
    pub shadowed: Vec<Origin>,
    pub help: &'static str,
}

/// Every setting with its value and origin, then the routes' and plugins'.
pub fn show(layers: &Layers) -> Vec<ShownSetting> {
    let plain = SETTINGS.iter().map(|setting| {
        let mut found = layers.lookup(setting).into_iter();
        let (value, origin) = match found.next() {
            Some(value) => (Some(value.text), value.origin),
            None => (setting.default.map(str::to_owned), Origin::Default),
        };
        ShownSetting {
            key: setting.key.to_owned(),
            value: value.map(|text| shown(&text, setting.secret)),
            origin,
            shadowed: found.map(|value| value.origin).collect(),
            help: setting.help,
        }
    });
    let tables = layers
        .tables()
        .into_iter()
        .map(|(key, value)| ShownSetting {
            // The values of a plugin's configuration may be secrets of its own.
            value: Some(shown(&value.text, key.contains(".config."))),
            key,
            origin: value.origin,
            shadowed: Vec::new(),
            help: "",
        });
    plain.chain(tables).collect()
}

fn shown(text: &str, secret: bool) -> String {
    if secret {
        format!("«set, {} bytes»", text.len())
    } else {
        text.to_owned()
    }
}
