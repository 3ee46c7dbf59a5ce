//! The routes that are held, and what their operator can do about it, in words.

use std::collections::BTreeMap;

use super::controls::Known;
use super::live_routes::LiveRoutes;
use super::routes::{RouteEntry, RouteTable};
use crate::control::approve_command;
use crate::route::RouteKey;
use crate::selection::{Choice, HoldReason};

/// Every route that is held now, with why and what to do.
pub fn holds(routes: &LiveRoutes) -> BTreeMap<RouteKey, String> {
    let (table, known) = (routes.table(), routes.decided());
    let held = table.entries().filter_map(|entry| {
        let reason = reason(&table, &known, entry)?;
        Some((entry.key.clone(), said(&known, entry, reason)))
    });
    held.collect()
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
