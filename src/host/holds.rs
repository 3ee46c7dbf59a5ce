//! The routes that are held, and what their operator can do about it, in words.

use std::collections::BTreeMap;

use serde::Serialize;

use super::controls::Known;
use super::live_routes::LiveRoutes;
use super::routes::{RouteEntry, RouteTable};
use crate::control::approve_command;
use crate::route::RouteKey;
use crate::selection::{Choice, HoldReason};
use crate::store::{Store, StoreError, Want};

/// Every route that is held now, with why and what to do.
pub fn holds(routes: &LiveRoutes) -> BTreeMap<RouteKey, String> {
    let (table, known) = (routes.table(), routes.decided());
    let held = table.entries().filter_map(|entry| {
        let reason = reason(&table, &known, entry)?;
        Some((entry.key.clone(), said(&known, entry, reason)))
    });
    held.collect()
}

/// A held route, and the tasks that wait on it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct HeldTasks {
    pub route: RouteKey,
    pub tasks: u64,
    /// Why it is held, and what lets it go on.
    pub why: String,
}

/// The held routes that tasks wait on.
///
/// # Errors
/// As the store's reads.
pub async fn held_tasks(
    routes: &LiveRoutes,
    store: &dyn Store,
) -> Result<Vec<HeldTasks>, StoreError> {
    let mut held = Vec::new();
    for (route, why) in holds(routes) {
        let table = routes.table();
        let entry = table.entries().find(|entry| entry.key == route);
        let want = Want {
            shard: entry.and_then(|entry| entry.shard),
            tenant: entry.and_then(|entry| entry.tenant.clone()),
            key: route.clone(),
            limit: 1,
            reclaim_foreign_after: None,
            draw: None,
        };
        let tasks = store.queued(&want).await?;
        if tasks > 0 {
            held.push(HeldTasks { route, tasks, why });
        }
    }
    Ok(held)
}

/// Tells what has changed of them since `before`.
pub fn tell(before: &BTreeMap<RouteKey, String>, now: &BTreeMap<RouteKey, String>) {
    for (route, said) in now {
        if before.get(route) != Some(said) {
            tracing::warn!(route = %route, "{said}");
        }
    }
    for route in before.keys().filter(|route| !now.contains_key(*route)) {
        tracing::info!(route = %route, "route {route} is held no more");
    }
}

fn reason(table: &RouteTable, known: &Known, entry: &RouteEntry) -> Option<HoldReason> {
    match table.choice(entry, &known.of(entry), false) {
        Choice::Hold(reason) => Some(reason),
        Choice::Run { .. } => None,
    }
}

fn said(known: &Known, entry: &RouteEntry, reason: HoldReason) -> String {
    let key = &entry.key;
    let because =
        |reason: Option<&String>| reason.map_or(String::new(), |text| format!(" ({text})"));
    match reason {
        HoldReason::Paused => {
            let pause = known.controls.pauses.get(key);
            let by = pause.map_or("somebody", |pause| pause.actor.as_str());
            let why = because(pause.and_then(|pause| pause.reason.as_ref()));
            format!(
                "route {key} is held: {by} paused it{why}; `cogo-host route resume {key}` lets it go on"
            )
        }
        HoldReason::FlagOff => {
            let flag = known.controls.flags.get(key);
            let by = flag.map_or("the configuration", |flag| flag.actor.as_str());
            let why = because(flag.and_then(|flag| flag.reason.as_ref()));
            format!(
                "route {key} is held: {by} turned its flag off{why}, and production runs no mock; `cogo-host flag set {key} on` lets it go on"
            )
        }
        HoldReason::BreakerOpen => {
            let path = entry.real_path();
            let state = path.map(|path| known.breaker(&path).state);
            let cause =
                state.and_then(|state| state.outage().map(|outage| outage.cause.to_string()));
            format!(
                "route {key} is held: its real path is down ({}); `{}` lets the mock stand in",
                cause.as_deref().unwrap_or("too many failures"),
                approve_command(key)
            )
        }
    }
}
