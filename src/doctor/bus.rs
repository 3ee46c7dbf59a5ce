//! The bus: what it says of itself, and what is done about what waits there.

use std::collections::BTreeSet;

use crate::config::{Config, Served};
use crate::finding::{Check, Finding, Remedy, Severity};
use crate::route::{KnownRole, RouteKey};
use crate::store::{self, BusUrl, HostRow, OpenMode, Store, StoreError};

pub const CONNECTION: Check = Check {
    id: "bus.connection",
    title: "connection",
    severity: Severity::Error,
    fix: "check DATABASE_URL, and that the database runs and lets this machine in",
};

const SCHEMA: Check = Check {
    id: "bus.schema",
    title: "schema version",
    severity: Severity::Error,
    fix: "run `cogo-host migrate`",
};

const HOSTS: Check = Check {
    id: "bus.hosts",
    title: "hosts",
    severity: Severity::Warning,
    fix: "start a host with `cogo-host run`; one that is silent has crashed, hangs, or cannot reach the database",
};

const ROUTES: Check = Check {
    id: "bus.routes",
    title: "routes with tasks",
    severity: Severity::Warning,
    fix: "add a `[route.\"SERVICE/ROLE\"]` with its plugin to cogo.toml, and run a host for it",
};

pub(super) async fn examine(config: &Config) -> Vec<Finding> {
    let place = config.bus.to_string();
    let store = match store::open(&config.bus, OpenMode::ReadOnly).await {
        Ok(store) => store,
        // A host makes it at its first start.
        Err(error @ StoreError::Missing(_)) if matches!(config.bus, BusUrl::Sqlite(_)) => {
            return vec![CONNECTION.unknown(error.to_string())];
        }
        Err(error) => return vec![refused(CONNECTION, &error)],
    };
    let mut findings = match store.check_schema().await {
        Ok(()) => vec![
            CONNECTION.pass(place),
            SCHEMA.pass("the one that this build knows"),
        ],
        Err(error @ StoreError::NotMigrated) => {
            let finding = refused(SCHEMA, &error).mended_by(Remedy::Migrate);
            return vec![CONNECTION.pass(place), finding];
        }
        Err(error @ StoreError::Newer { .. }) => {
            return vec![CONNECTION.pass(place), refused(SCHEMA, &error)];
        }
        Err(error) => return vec![refused(CONNECTION, &error)],
    };
    match store.examine().await {
        Ok(own) => findings.extend(own),
        Err(error) => findings.push(CONNECTION.bad(error.to_string())),
    }
    match hosts_and_routes(config, &*store).await {
        Ok(both) => findings.extend(both),
        Err(error) => findings.push(CONNECTION.bad(error.to_string())),
    }
    // Only reads were made of it.
    let _ = store.close().await;
    findings
}

fn refused(check: Check, error: &StoreError) -> Finding {
    let fix = error.hint();
    Check { fix, ..check }.bad(error.to_string())
}

async fn hosts_and_routes(config: &Config, store: &dyn Store) -> Result<Vec<Finding>, StoreError> {
    let hosts = store.hosts().await?;
    let routes = store.routes().await?;
    let waiting: BTreeSet<RouteKey> = routes.into_iter().map(|route| route.key).collect();
    let live = hosts.iter().filter(|host| host.is_live()).count();
    Ok(vec![
        examine_hosts(&hosts, live, !waiting.is_empty()),
        examine_routes(config, &waiting),
    ])
}

fn examine_hosts(hosts: &[HostRow], live: usize, tasks_wait: bool) -> Finding {
    let silent: Vec<String> = hosts
        .iter()
        .filter(|host| !host.is_live())
        .map(|host| format!("`{}` for {} s", host.holder, host.silent_ms / 1000))
        .collect();
    if !silent.is_empty() {
        return HOSTS.bad(format!("{live} live; silent: {}", silent.join(", ")));
    }
    HOSTS.holds(live > 0 || !tasks_wait, format!("{live} live"))
}

/// By this configuration: other hosts may have another.
fn examine_routes(config: &Config, waiting: &BTreeSet<RouteKey>) -> Finding {
    let unserved: Vec<String> = waiting
        .iter()
        .filter(|key| !is_served(config, key))
        .map(ToString::to_string)
        .collect();
    match unserved.is_empty() {
        true => ROUTES.pass(format!("{}, all of them served", waiting.len())),
        false => ROUTES.bad(format!(
            "by these settings nobody serves {}",
            unserved.join(", ")
        )),
    }
}

fn is_served(config: &Config, key: &RouteKey) -> bool {
    let listed = config.routes.contains_key(key);
    match &config.served {
        Served::Handled => listed || KnownRole::ALL.iter().any(|role| role.key() == *key),
        Served::Listed => listed,
        Served::Agent { service, role, .. } => {
            let names = |wanted: &Option<String>, own: &str| {
                wanted.as_deref().is_none_or(|wanted| wanted == own)
            };
            names(service, key.service()) && names(role, key.role())
        }
    }
}
