//! `/` for browsers: is it healthy, what waits, who works, may I promote?

use std::sync::Arc;

use askama::Template;
use axum::http::StatusCode;

use super::action::Command;
use super::events::EventLine;
use super::form::asking;
use super::frame::{Frame, Section};
use super::gate::GateShown;
use super::route::RouteRow;
use super::shown::{Badge, Tone, When, duration};
use super::standing::{Seen, Standing};
use super::{Answer, rendered, route};
use crate::api::Shared;
use crate::api::events::newest;
use crate::api::health::Readiness;
use crate::api::hosts::{HostView, Hosts};
use crate::api::integration::IntegrationStatus;
use crate::api::metrics::bus::Events;
use crate::api::plugins::Plugins;
use crate::store::{Depth, EventFilter, Order};

/// As many events as show what is going on.
const EVENTS: u32 = 10;

#[derive(Template)]
#[template(path = "overview.html", config = "src/api/pages/askama.toml")]
struct Overview {
    frame: Frame,
    standing: Standing,
    states: Vec<State>,
    /// Nothing is or was on the bus.
    unused: bool,
    oldest: String,
    in_flight: usize,
    flag: String,
    gate: GateShown,
    gate_over: String,
    require_real: bool,
    routes: Vec<RouteRow>,
    hosts: Vec<HostRow>,
    checks: Vec<(Badge, String, String)>,
    events: Vec<EventLine>,
}

/// How many tasks are in a state.
struct State {
    badge: Badge,
    tasks: u64,
    href: String,
}

struct HostRow {
    name: String,
    live: Badge,
    seen: When,
    silent: String,
    stage: String,
    version: String,
    started: When,
    this: bool,
}

pub(in crate::api) async fn show(shared: Arc<Shared>) -> Answer {
    let after = newest(&shared).await?;
    let status = IntegrationStatus::read(&shared).await?;
    let window_min = shared.api.window_min;
    let gate = shared.judged.over_the_window(&shared).await?;
    let readiness = Readiness::check(&shared).await;
    let Hosts { hosts } = Hosts::read(&shared).await?;
    let plugins = Plugins::of(&shared);
    let waiting = shared.store().waiting().await?;
    let latest = EventFilter {
        limit: EVENTS,
        order: Order::NewestFirst,
        ..EventFilter::default()
    };
    let events = Events::read(&shared, &latest).await?.events;
    let standing = Standing::of(&Seen {
        readiness: &readiness.checks,
        routes: &status.routes,
        plugins: &plugins.plugins,
        directory: plugins.directory.as_ref(),
        hosts: &hosts,
        gate: &gate.report,
        depth: status.bus,
        wait_max_ms: shared.api.thresholds.wait_p90_max_ms,
    });
    let routes = status.routes.iter();
    let page = Overview {
        frame: frame(&shared, after, window_min)
            .actions(routes.clone().flat_map(route::actions).take(ACTIONS)),
        standing,
        states: states(&status.bus),
        unused: states(&status.bus).iter().all(|state| state.tasks == 0),
        oldest: oldest(&status.bus),
        in_flight: status.host.in_flight,
        flag: flag(&status),
        gate: GateShown::of(&gate.report),
        gate_over: format!("Gate over the last {window_min} minutes"),
        require_real: gate.require_real,
        routes: routes.map(|view| RouteRow::of(view, &waiting)).collect(),
        hosts: hosts
            .into_iter()
            .map(|host| HostRow::of(host, &status.host.holder))
            .collect(),
        checks: checks(readiness),
        events: events.iter().rev().map(EventLine::of).collect(),
    };
    Ok(rendered(StatusCode::OK, &page))
}

/// More of what can be done than one looks through.
const ACTIONS: usize = 6;

fn frame(shared: &Shared, after: i64, window_min: u32) -> Frame {
    let gate = asking(
        "/api/workflows/gate",
        [("window_min", Some(window_min.to_string()))],
    );
    Frame::new(shared, Section::Overview, "Overview")
        .after(after)
        .path("/api/integration/status")
        .path("/readyz")
        .path("/api/hosts")
        .path(gate)
        .path("/api/metrics/bus/events")
        .command(Command::new("route list"))
        .command(Command::new("gate").option("--window-min", &window_min.to_string()))
        .command(Command::new("doctor"))
}

fn states(depth: &Depth) -> Vec<State> {
    let state = |tone, name: &str, tasks| State {
        badge: Badge::new(tone, name),
        tasks,
        href: asking("/ui/tasks", [("status", Some(name.to_owned()))]),
    };
    vec![
        state(Tone::Quiet, "queued", depth.queued),
        state(Tone::Busy, "claimed", depth.claimed),
        state(Tone::Good, "done", depth.done),
        state(Tone::Bad, "failed", depth.failed),
    ]
}

fn oldest(depth: &Depth) -> String {
    match depth.oldest_due_ms {
        Some(ms) => duration(ms),
        None => "none".to_owned(),
    }
}

fn flag(status: &IntegrationStatus) -> String {
    let value = match status.flag.value {
        Some(true) => "true",
        Some(false) => "false",
        None => "not set",
    };
    format!("{}: {value} ({})", status.flag.name, status.flag.origin)
}

fn checks(readiness: Readiness) -> Vec<(Badge, String, String)> {
    let checks = readiness.checks.into_iter();
    let checks = checks.map(|check| {
        let badge = match check.ok {
            true => Badge::new(Tone::Good, "ok"),
            false => Badge::new(Tone::Bad, "not ready"),
        };
        (badge, check.name, check.detail)
    });
    checks.collect()
}

impl HostRow {
    fn of(host: HostView, own: &str) -> Self {
        let HostView { row, live } = host;
        let live = match live {
            true => Badge::new(Tone::Good, "live"),
            false => Badge::new(Tone::Bad, "silent"),
        };
        Self {
            live,
            this: row.holder == own,
            silent: duration(row.silent_ms),
            seen: When::of(row.seen_at),
            started: When::of(row.started_at),
            name: row.name,
            stage: row.stage,
            version: row.version,
        }
    }
}
