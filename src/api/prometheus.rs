//! `/metrics`: what can be told truly at the moment of asking, in the text
//! format of Prometheus.
//!
//! Labels never carry task ids, URLs or digests of versions that no longer
//! serve, so the number of series stays small.
//!
//! Source: Prometheus documentation, "Exposition formats", version 0.0.4.

mod attempts;

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};

use super::Shared;
use super::facts::{RouteView, SwapCounts};
use crate::breaker;
use crate::bus::{Figures, Histogram};
use crate::ids::PluginName;
use crate::store::{Depth, Waiting};

const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";
const CLASSES: [&str; 5] = ["1xx", "2xx", "3xx", "4xx", "5xx"];

/// Requests answered since the start, by class of status.
#[derive(Default)]
pub(super) struct Answered([AtomicU64; 5]);

impl Answered {
    pub(super) fn count(&self, status: StatusCode) {
        let class = usize::from(status.as_u16() / 100).wrapping_sub(1);
        if let Some(counter) = self.0.get(class) {
            counter.fetch_add(1, Ordering::Relaxed);
        }
    }
}

pub(super) async fn expose(State(shared): State<Arc<Shared>>) -> Response {
    let depth = match shared.store().depth().await {
        Ok(depth) => Some(depth),
        Err(error) => {
            tracing::warn!(%error, "metrics go without the depth of the bus");
            None
        }
    };
    let waiting = match shared.store().waiting().await {
        Ok(waiting) => waiting,
        Err(error) => {
            tracing::warn!(%error, "metrics go without what waits by route");
            Vec::new()
        }
    };
    let text = render(&shared, depth.as_ref(), &waiting);
    ([(header::CONTENT_TYPE, CONTENT_TYPE)], text).into_response()
}

fn render(shared: &Shared, depth: Option<&Depth>, waiting: &[Waiting]) -> String {
    let mut page = Page::default();
    let (facts, bus) = (&shared.api.facts, &shared.api.bus);
    let stage = facts.stage();
    page.family(
        "cogo_build_info",
        "gauge",
        "The build that runs, and its stage.",
    );
    let version = env!("CARGO_PKG_VERSION");
    page.sample(
        "cogo_build_info",
        &[("version", version), ("stage", stage.as_str())],
        1,
    );

    page.family("cogo_bus_up", "gauge", "Whether the database answered.");
    page.sample("cogo_bus_up", &[], u64::from(depth.is_some()));
    if let Some(depth) = depth {
        page.depth(depth);
        page.waiting(waiting);
    }

    page.family(
        "cogo_attempts_in_flight",
        "gauge",
        "Attempts that run on this host.",
    );
    page.sample("cogo_attempts_in_flight", &[], bus.in_flight() as u64);
    let shadows = bus.shadow_counts();
    page.family(
        "cogo_shadow_runs_in_flight",
        "gauge",
        "Tasks that run again here beside their result, for comparison.",
    );
    page.sample("cogo_shadow_runs_in_flight", &[], shadows.running);
    page.family(
        "cogo_shadow_runs_total",
        "counter",
        "Tasks that ran again in a shadow, and those that found no place for it.",
    );
    for (result, count) in [("ran", shadows.ran), ("dropped", shadows.dropped)] {
        page.sample("cogo_shadow_runs_total", &[("result", result)], count);
    }
    page.family("cogo_draining", "gauge", "Whether the host claims no more.");
    page.sample("cogo_draining", &[], u64::from(bus.is_draining()));

    page.figures(&bus.figures());
    page.breakers(&facts.routes());

    page.family(
        "cogo_plugin_info",
        "gauge",
        "The version of each plugin that serves.",
    );
    let plugins = facts.plugins();
    for plugin in &plugins {
        if let Some(serving) = &plugin.serving {
            let digest = serving.digest.to_string();
            let labels = [
                ("plugin", plugin.name.as_str()),
                ("version", &serving.version),
                ("digest", &digest),
                ("stage", stage.as_str()),
            ];
            page.sample("cogo_plugin_info", &labels, 1);
        }
    }
    page.family(
        "cogo_rollout_share_percent",
        "gauge",
        "How many of a hundred tasks get the candidate of a rollout that is under way.",
    );
    for route in facts.routes() {
        if let Some(row) = route.decided.rollout {
            let name = route.route.to_string();
            let labels = [
                ("route", name.as_str()),
                ("plugin", row.plugin.as_str()),
                ("state", row.state.name()),
            ];
            let share = row.share().map_or(0, |share| u64::from(share.percent()));
            page.sample("cogo_rollout_share_percent", &labels, share);
        }
    }
    page.family(
        "cogo_plugin_load_failed",
        "gauge",
        "Whether the latest version found of a plugin could not be loaded.",
    );
    for plugin in &plugins {
        let failed = u64::from(plugin.last_error.is_some());
        page.sample(
            "cogo_plugin_load_failed",
            &[("plugin", plugin.name.as_str())],
            failed,
        );
    }

    page.swaps(&facts.swaps());

    page.family(
        "cogo_http_requests_total",
        "counter",
        "Requests that the API answered, by class of status.",
    );
    for (class, counter) in CLASSES.iter().zip(&shared.answered.0) {
        let count = counter.load(Ordering::Relaxed);
        page.sample("cogo_http_requests_total", &[("class", class)], count);
    }
    page.0
}

#[derive(Default)]
struct Page(String);

impl Page {
    fn family(&mut self, name: &str, kind: &str, help: &str) {
        // Writing to a string cannot fail.
        let _ = writeln!(self.0, "# HELP {name} {help}\n# TYPE {name} {kind}");
    }

    fn sample(&mut self, name: &str, labels: &[(&str, &str)], value: impl std::fmt::Display) {
        self.0.push_str(name);
        for (at, (label, text)) in labels.iter().enumerate() {
            self.0.push(if at == 0 { '{' } else { ',' });
            let _ = write!(self.0, "{label}=\"{}\"", escaped(text));
        }
        if !labels.is_empty() {
            self.0.push('}');
        }
        let _ = writeln!(self.0, " {value}");
    }

    /// What this process has counted since it began.
    fn figures(&mut self, figures: &Figures) {
        let counters = [
            (
                "cogo_claims_total",
                "Calls to claim that the database answered.",
                figures.claims,
            ),
            (
                "cogo_tasks_claimed_total",
                "Tasks that this host claimed.",
                figures.claimed,
            ),
            (
                "cogo_completions_fenced_total",
                "Results that were refused since the lease had gone to somebody else.",
                figures.fenced,
            ),
            (
                "cogo_tasks_rescued_total",
                "Tasks with an expired lease that this host took back.",
                figures.rescued,
            ),
        ];
        for (name, help, count) in counters {
            self.family(name, "counter", help);
            self.sample(name, &[], count);
        }
        self.family(
            "cogo_settle_batch_size",
            "histogram",
            "How many settlements shared a commit.",
        );
        self.histogram("cogo_settle_batch_size", &[], &figures.settle_batch);
        self.family(
            "cogo_task_wait_seconds",
            "histogram",
            "From when a task was due to its claim, by attempt.",
        );
        for (route, waits) in &figures.wait_seconds {
            self.histogram(
                "cogo_task_wait_seconds",
                &[("route", &route.to_string())],
                waits,
            );
        }
        self.attempts(figures);
    }

    fn swaps(&mut self, swaps: &BTreeMap<PluginName, SwapCounts>) {
        self.family(
            "cogo_plugin_swaps_total",
            "counter",
            "Versions of plugins that came in, by what became of them.",
        );
        for (name, counts) in swaps {
            for (result, count) in [
                ("applied", counts.applied),
                ("refused", counts.refused),
                ("rolled_back", counts.rolled_back),
            ] {
                let labels = [("plugin", name.as_str()), ("result", result)];
                self.sample("cogo_plugin_swaps_total", &labels, count);
            }
        }
    }

    fn histogram(&mut self, name: &str, labels: &[(&str, &str)], histogram: &Histogram) {
        let mut bucket = |bound: &str, count: u64| {
            let labels: Vec<_> = labels.iter().copied().chain([("le", bound)]).collect();
            self.sample(&format!("{name}_bucket"), &labels, count);
        };
        for (bound, count) in histogram.buckets() {
            bucket(&bound.to_string(), count);
        }
        bucket("+Inf", histogram.count);
        self.sample(&format!("{name}_sum"), labels, histogram.sum);
        self.sample(&format!("{name}_count"), labels, histogram.count);
    }

    fn breakers(&mut self, routes: &[RouteView]) {
        self.family(
            "cogo_breaker_open",
            "gauge",
            "Whether a route's real path is taken for down.",
        );
        for row in routes
            .iter()
            .filter_map(|view| view.decided.breaker.as_ref())
        {
            let route = row.path.route.to_string();
            let labels = [("plugin", row.path.plugin.as_str()), ("route", &route)];
            let open = u64::from(row.state != breaker::State::Closed);
            self.sample("cogo_breaker_open", &labels, open);
        }
    }

    fn depth(&mut self, depth: &Depth) {
        self.family("cogo_queue_depth", "gauge", "Tasks on the bus, by status.");
        let states = [
            ("queued", depth.queued),
            ("claimed", depth.claimed),
            ("done", depth.done),
            ("failed", depth.failed),
        ];
        for (state, tasks) in states {
            self.sample("cogo_queue_depth", &[("state", state)], tasks);
        }
        self.family(
            "cogo_queue_oldest_age_seconds",
            "gauge",
            "For how long the oldest task that is due has waited; 0 if none is.",
        );
        self.sample(
            "cogo_queue_oldest_age_seconds",
            &[],
            seconds(depth.oldest_due_ms),
        );
    }

    fn waiting(&mut self, waiting: &[Waiting]) {
        self.family(
            "cogo_route_queue_depth",
            "gauge",
            "Tasks that wait, by route; counted up to 10,000.",
        );
        for one in waiting {
            let route = one.route.to_string();
            self.sample("cogo_route_queue_depth", &[("route", &route)], one.queued);
        }
        self.family(
            "cogo_route_queue_oldest_age_seconds",
            "gauge",
            "For how long the oldest task of a route that is due has waited; 0 if none is.",
        );
        for one in waiting {
            let route = one.route.to_string();
            let age = seconds(one.oldest_due_ms);
            self.sample(
                "cogo_route_queue_oldest_age_seconds",
                &[("route", &route)],
                age,
            );
        }
    }
}

fn seconds(ms: Option<u64>) -> f64 {
    ms.unwrap_or(0) as f64 / 1000.0
}

fn escaped(text: &str) -> String {
    text.replace('\\', "\\\\")
        .replace('"', "\\\"")
        .replace('\n', "\\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn label_values_cannot_break_out() {
        let mut page = Page::default();
        page.sample("m", &[("a", "x\"} 1\nevil \\"), ("b", "")], 2);
        assert_eq!(page.0, "m{a=\"x\\\"} 1\\nevil \\\\\",b=\"\"} 2\n");
    }
}
