//! Everything that can be asked, in the order of its paths.
//!
//! What is not in this list is neither served nor described. Answers are only
//! ever added to.

use super::operation::Operation;
use super::{
    approvals, artifacts, controls, events, flags, guard, health, hosts, index, integration,
    metrics, openapi, pipeline, plugins, prometheus, published, rollouts, routes, shadows, tasks,
    workflows,
};
use crate::control::ApprovalRow;
use crate::event::Event;
use crate::rollout::RolloutRow;
use crate::shadow::ShadowRow;
use crate::steering::{RolloutView, ShadowView};
use crate::trace::TraceView;

/// All of it.
pub(super) fn all() -> Vec<Operation> {
    [
        of_the_host(),
        of_operators(),
        of_plugins(),
        of_tasks(),
        of_the_bus(),
    ]
    .into_iter()
    .flatten()
    .collect()
}

fn of_the_host() -> Vec<Operation> {
    vec![
        Operation::get("/", "What there is to ask", index::show).answers::<index::Index>(),
        Operation::get(guard::LIVENESS, "Whether the process lives", health::live)
            .answers::<health::Liveness>()
            .open(),
        Operation::get(
            "/readyz",
            "Whether the host does its work, and what keeps it from it",
            health::ready,
        )
        .answers::<health::Readiness>()
        .also(&[503]),
        Operation::get("/metrics", "Figures for Prometheus", prometheus::expose)
            .answers_raw("text/plain"),
        Operation::get("/openapi.json", "This description", openapi::show)
            .answers::<serde_json::Map<String, serde_json::Value>>(),
        Operation::get(
            "/api/hosts",
            "The host processes that show themselves on the bus",
            hosts::list,
        )
        .answers::<hosts::Hosts>(),
        Operation::get(
            "/api/integration/status",
            "Stage, flag, routes, plugins, host and bus in one answer",
            integration::status,
        )
        .answers::<integration::IntegrationStatus>(),
    ]
}

fn of_operators() -> Vec<Operation> {
    vec![
        Operation::get(
            "/api/approvals",
            "The approvals of fallbacks, newest first",
            approvals::list,
        )
        .query(&["limit"])
        .answers::<approvals::Approvals>(),
        Operation::post(
            "/api/approvals",
            "Let the mock stand in for a real executor that is down",
            approvals::approve,
        )
        .takes::<approvals::Approve>()
        .answers::<ApprovalRow>()
        .statuses(&[201]),
        Operation::post(
            "/api/approvals/{id}/revoke",
            "End an approval before its time",
            approvals::revoke,
        )
        .takes::<approvals::Revoke>()
        .answers::<approvals::RevokedView>(),
        Operation::get("/api/flags", "The flags of routes", flags::list).answers::<flags::Flags>(),
        Operation::put(
            "/api/flags",
            "Set the flag of a route, for every host",
            flags::set,
        )
        .takes::<flags::SetFlag>()
        .answers::<controls::DecidedView>(),
        Operation::get("/api/pauses", "The routes that are paused", routes::pauses)
            .answers::<routes::Pauses>(),
        Operation::put(
            "/api/pauses",
            "Have a route's tasks wait, or go on",
            routes::set_pause,
        )
        .takes::<routes::SetPause>()
        .answers::<controls::DecidedView>(),
        Operation::get("/api/rollouts", "Rollouts, newest first", rollouts::list)
            .query(&["limit"])
            .answers::<rollouts::Rollouts>(),
        Operation::post(
            "/api/rollouts",
            "Roll a plugin version out, share by share",
            rollouts::start,
        )
        .takes::<rollouts::Start>()
        .answers::<RolloutRow>()
        .statuses(&[201]),
        Operation::get(
            "/api/rollouts/{id}",
            "A rollout and how it is doing",
            rollouts::show,
        )
        .answers::<RolloutView>(),
        Operation::post(
            "/api/rollouts/{id}/{action}",
            "Steer a rollout",
            rollouts::act,
        )
        .choice("action", rollouts::ACTIONS)
        .takes::<rollouts::Steer>()
        .answers::<RolloutRow>(),
        Operation::get("/api/shadows", "Shadows, newest first", shadows::list)
            .query(&["limit"])
            .answers::<shadows::Shadows>(),
        Operation::post(
            "/api/shadows",
            "Run a share of ended tasks again on a candidate, and compare",
            shadows::start,
        )
        .takes::<shadows::Start>()
        .answers::<ShadowRow>()
        .statuses(&[201]),
        Operation::get(
            "/api/shadows/{id}",
            "A shadow and what it found",
            shadows::show,
        )
        .query(&["route"])
        .answers::<ShadowView>(),
        Operation::post("/api/shadows/{id}/stop", "End a shadow", shadows::stop)
            .takes::<shadows::Stop>()
            .answers::<ShadowRow>(),
        Operation::get(
            "/api/routes",
            "The routes, what runs on them, and why they wait",
            routes::list,
        )
        .answers::<routes::Routes>(),
    ]
}

fn of_plugins() -> Vec<Operation> {
    vec![
        Operation::get(
            "/api/plugins",
            "The executors that this host has",
            plugins::list,
        )
        .answers::<plugins::Plugins>(),
        Operation::post(
            "/api/plugins/{name}/rollback",
            "Put an earlier version back into service",
            plugins::roll_back,
        )
        .takes::<plugins::Rollback>()
        .answers::<plugins::RollbackView>(),
        Operation::get(
            "/api/plugins/published",
            "The versions that every host is to have",
            published::list,
        )
        .answers::<published::Listed>(),
        Operation::post(
            "/api/plugins/published",
            "Put a component on the bus, for every host",
            published::publish,
        )
        .query(&["reason", "signature"])
        .takes_raw("application/wasm")
        .answers::<published::PublishView>(),
        Operation::post(
            "/api/plugins/published/{digest}/retract",
            "Have no host use a published version any more",
            published::retract,
        )
        .takes::<published::Retract>()
        .answers::<published::RetractView>(),
    ]
}

fn of_tasks() -> Vec<Operation> {
    vec![
        Operation::get("/api/tasks", "Tasks, newest first", tasks::list)
            .query(&["status", "route", "trace", "task_id", "limit"])
            .answers::<tasks::Listing>(),
        Operation::post("/api/tasks", "Put a task on the bus", tasks::submit)
            .takes::<crate::intake::Submission>()
            .answers::<tasks::Submitted>()
            .statuses(&[200, 201]),
        Operation::get("/api/tasks/{id}", "A task and what was tried", tasks::show)
            .answers::<tasks::Shown>(),
        Operation::post("/api/tasks/{id}/cancel", "End a task", tasks::cancel)
            .answers::<tasks::CancelAnswer>()
            .statuses(&[200, 202]),
        Operation::post(
            "/api/tasks/{id}/retry",
            "Put the same task on the bus once more",
            tasks::retry,
        )
        .answers::<tasks::Submitted>()
        .statuses(&[200, 201]),
        Operation::get(
            "/artifacts/{task}/{*path}",
            "What a task's attempt stored",
            artifacts::fetch,
        )
        .statuses(&[200, 206]),
        Operation::get(
            "/api/pipeline/codeBuildTest",
            "Runs of the pipeline, newest first",
            pipeline::list,
        )
        .query(&["limit"])
        .answers::<pipeline::Listing>(),
        Operation::post(
            "/api/pipeline/codeBuildTest",
            "Have code written, built, tested and judged; with `enforce` only a gate that passes is a success",
            pipeline::start,
        )
        .query(&["enforce", "wait_ms"])
        .takes::<crate::pipeline::Order>()
        .answers::<pipeline::Shown>()
        .statuses(&[200, 202]),
        Operation::get(
            "/api/pipeline/codeBuildTest/{task}",
            "A run of the pipeline",
            pipeline::show,
        )
        .answers::<pipeline::Shown>(),
        Operation::post(
            "/api/pipeline/codeBuildTest/{task}/cancel",
            "End a run of the pipeline",
            pipeline::cancel,
        )
        .answers::<pipeline::Shown>()
        .statuses(&[202]),
    ]
}

fn of_the_bus() -> Vec<Operation> {
    vec![
        Operation::get(
            "/api/events",
            "The events of the bus as they come, as server-sent events",
            events::follow,
        )
        .query(&["trace", "type", "after"])
        .answers_raw("text/event-stream"),
        Operation::get(
            "/api/metrics/bus/events",
            "The latest events, oldest of them first",
            metrics::bus::events,
        )
        .query(&["trace", "task", "type", "since_min", "limit"])
        .answers::<metrics::bus::Events>(),
        Operation::get(
            "/api/metrics/bus/latency",
            "For how long attempts waited",
            metrics::bus::latency,
        )
        .query(&["service", "role", "since_min"])
        .answers::<metrics::bus::Waits>(),
        Operation::get(
            "/api/metrics/orchestrator/decision-quality",
            "How many tasks the executor ran that the policy prescribes",
            metrics::orchestrator::decision_quality,
        )
        .query(&["since_min"])
        .answers::<metrics::orchestrator::DecisionQuality>(),
        Operation::get(
            "/api/metrics/trace/{trace}",
            "The whole story of a trace",
            metrics::trace::show,
        )
        .answers::<TraceView>(),
        Operation::get(
            "/api/metrics/workflows/codeBuildTest",
            "How the pipeline's runs ended",
            metrics::workflows::code_build_test,
        )
        .query(&["since_min"])
        .answers::<metrics::workflows::Figures>(),
        Operation::get(
            "/api/workflows/gate",
            "The verdict over a trace or a window of time",
            workflows::gate,
        )
        .query(&["trace", "window_min", "require_real"])
        .answers::<workflows::Gate>(),
    ]
}

/// What the stream of events carries, which no operation answers with as it is.
pub(super) type Streamed = Event;
