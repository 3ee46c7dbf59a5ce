//! The tables of shadows and of what they came to.

use super::{BIGINT, BOOLEAN, INSTANT, INTEGER, JSON, TEXT, Table, UUID, add, index, need, unique};

/// Versions that run tasks again beside what serves; kept after they ended.
pub(super) const EXECUTOR_SHADOWS: Table = Table {
    name: "executor_shadows",
    columns: &[
        need("id", TEXT, "NOT NULL PRIMARY KEY"),
        need("route", TEXT, "NOT NULL"),
        need("plugin", TEXT, "NOT NULL"),
        need("candidate", TEXT, "NOT NULL"),
        need("share", INTEGER, "NOT NULL"),
        need(
            "side_effects",
            TEXT,
            "NOT NULL CHECK (side_effects IN ('refuse', 'allow'))",
        ),
        need("started_by", TEXT, "NOT NULL"),
        add("reason", TEXT, ""),
        need("trace_id", TEXT, "NOT NULL"),
        add("started_at", INSTANT, "NOT NULL DEFAULT now()"),
        // Tasks that it did not run since nothing was spare.
        add("dropped", BIGINT, "NOT NULL DEFAULT 0"),
        add("ended_at", INSTANT, ""),
        add("ended_by", TEXT, ""),
    ],
    constraints: "",
    storage: "",
    unlogged: false,
    indexes: &[
        // One at a time on a route.
        unique("executor_shadows_route", "(route) WHERE ended_at IS NULL"),
        index("executor_shadows_started", "(started_at)"),
    ],
};

/// What they came to, kept as long as their tasks. `run` is all of it; what stands
/// beside it is what is asked for.
pub(super) const EXECUTOR_SHADOW_RUNS: Table = Table {
    name: "executor_shadow_runs",
    columns: &[
        need("message_id", UUID, "NOT NULL"),
        need("shadow", TEXT, "NOT NULL"),
        need("route", TEXT, "NOT NULL"),
        need("digest", TEXT, "NOT NULL"),
        need("outcome", TEXT, "NOT NULL"),
        need("run_ms", BIGINT, "NOT NULL"),
        need("stable_outcome", TEXT, "NOT NULL"),
        need("stable_run_ms", BIGINT, "NOT NULL"),
        add("agrees", BOOLEAN, ""),
        need("differences", JSON, "NOT NULL"),
        need("run", JSON, "NOT NULL"),
        add("ended_at", INSTANT, "NOT NULL DEFAULT now()"),
    ],
    constraints: "PRIMARY KEY (message_id, shadow)",
    storage: "",
    unlogged: false,
    indexes: &[
        index("executor_shadow_runs_shadow", "(shadow, ended_at)"),
        // What a rollout of the same version asks for.
        index(
            "executor_shadow_runs_version",
            "(digest, route, ended_at) WHERE agrees IS NOT NULL",
        ),
    ],
};
