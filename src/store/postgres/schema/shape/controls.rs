//! The tables of what was decided while hosts run, about routes and plugins.

use super::{
    BIGINT, BOOLEAN, BYTES, INSTANT, INTEGER, JSON, TEXT, Table, add, index, need, unique,
};

/// The flags of routes, where they were set on the bus.
pub(super) const EXECUTOR_FLAGS: Table = Table {
    name: "executor_flags",
    columns: &[
        need("route", TEXT, "NOT NULL PRIMARY KEY"),
        need("enabled", BOOLEAN, "NOT NULL"),
        need("actor", TEXT, "NOT NULL"),
        add("reason", TEXT, ""),
        add("changed_at", INSTANT, "NOT NULL DEFAULT now()"),
    ],
    constraints: "",
    storage: "",
    unlogged: false,
    indexes: &[],
};

/// The routes that operators stopped.
pub(super) const EXECUTOR_PAUSES: Table = Table {
    name: "executor_pauses",
    columns: &[
        need("route", TEXT, "NOT NULL PRIMARY KEY"),
        need("actor", TEXT, "NOT NULL"),
        add("reason", TEXT, ""),
        add("paused_at", INSTANT, "NOT NULL DEFAULT now()"),
    ],
    constraints: "",
    storage: "",
    unlogged: false,
    indexes: &[],
};

/// Approvals of the fallback; kept after they ended.
pub(super) const EXECUTOR_APPROVALS: Table = Table {
    name: "executor_approvals",
    columns: &[
        need("id", TEXT, "NOT NULL PRIMARY KEY"),
        need("route", TEXT, "NOT NULL"),
        need("reason", TEXT, "NOT NULL"),
        need("approver", TEXT, "NOT NULL"),
        add("created_at", INSTANT, "NOT NULL DEFAULT now()"),
        need("expires_at", INSTANT, "NOT NULL"),
        add("revoked_at", INSTANT, ""),
        add("revoked_by", TEXT, ""),
    ],
    constraints: "",
    storage: "",
    unlogged: false,
    indexes: &[
        index(
            "executor_approvals_expiry",
            "(expires_at) WHERE revoked_at IS NULL",
        ),
        index("executor_approvals_created", "(created_at)"),
    ],
};

/// The real paths, each a plugin on a route, that were ever down. Only who names
/// the revision that a row has may change it.
pub(super) const EXECUTOR_BREAKERS: Table = Table {
    name: "executor_breakers",
    columns: &[
        need("plugin", TEXT, "NOT NULL"),
        need("route", TEXT, "NOT NULL"),
        need("revision", BIGINT, "NOT NULL"),
        need(
            "state",
            TEXT,
            "NOT NULL CHECK (state IN ('closed', 'open', 'probing'))",
        ),
        add("cause", JSON, ""),
        add("failed_probes", INTEGER, "NOT NULL DEFAULT 0"),
        add("probe_at", INSTANT, ""),
        add("probe_holder", TEXT, ""),
        add("probe_until", INSTANT, ""),
        // What began before this is no evidence.
        add("closed_at", INSTANT, ""),
        add("changed_at", INSTANT, "NOT NULL DEFAULT now()"),
    ],
    constraints: "PRIMARY KEY (plugin, route)",
    storage: "",
    unlogged: false,
    indexes: &[],
};

/// Which version of a plugin serves on every host, where that is decided here.
pub(super) const EXECUTOR_SERVING: Table = Table {
    name: "executor_serving",
    columns: &[
        need("plugin", TEXT, "NOT NULL PRIMARY KEY"),
        need("digest", TEXT, "NOT NULL"),
        need(
            "cause",
            TEXT,
            "NOT NULL CHECK (cause IN ('promotion', 'rollback'))",
        ),
        need("actor", TEXT, "NOT NULL"),
        add("reason", TEXT, ""),
        need("trace_id", TEXT, "NOT NULL"),
        add("changed_at", INSTANT, "NOT NULL DEFAULT now()"),
    ],
    constraints: "",
    storage: "",
    unlogged: false,
    indexes: &[],
};

/// Rollouts of plugin versions; kept after they ended. Only who names the revision
/// that one has may change it.
pub(super) const EXECUTOR_ROLLOUTS: Table = Table {
    name: "executor_rollouts",
    columns: &[
        need("id", TEXT, "NOT NULL PRIMARY KEY"),
        need("route", TEXT, "NOT NULL"),
        need("plugin", TEXT, "NOT NULL"),
        need("candidate", TEXT, "NOT NULL"),
        add("stable", TEXT, ""),
        need("steps", JSON, "NOT NULL"),
        need("interval_ms", BIGINT, "NOT NULL"),
        need("revision", BIGINT, "NOT NULL"),
        need(
            "state",
            TEXT,
            "NOT NULL CHECK (state IN \
             ('waiting', 'step', 'held', 'paused', 'promoted', 'rolled_back', 'aborted'))",
        ),
        add("step", INTEGER, ""),
        // What ended before this is no evidence of the step.
        add("step_began_at", INSTANT, ""),
        add("began_at", INSTANT, ""),
        add("why", TEXT, ""),
        add("actor", TEXT, ""),
        need("started_by", TEXT, "NOT NULL"),
        add("reason", TEXT, ""),
        need("trace_id", TEXT, "NOT NULL"),
        add("started_at", INSTANT, "NOT NULL DEFAULT now()"),
        add("changed_at", INSTANT, "NOT NULL DEFAULT now()"),
    ],
    constraints: "",
    storage: "",
    unlogged: false,
    indexes: &[
        // One at a time on a route, and one of a plugin.
        unique(
            "executor_rollouts_route",
            "(route) WHERE state IN ('waiting', 'step', 'held', 'paused')",
        ),
        unique(
            "executor_rollouts_plugin",
            "(plugin) WHERE state IN ('waiting', 'step', 'held', 'paused')",
        ),
        index("executor_rollouts_started", "(started_at)"),
    ],
};

/// The plugin versions that every host is to have. What is here never changes
/// but for a retraction.
pub(super) const EXECUTOR_PUBLISHED: Table = Table {
    name: "executor_published",
    columns: &[
        need("digest", TEXT, "NOT NULL PRIMARY KEY"),
        need("name", TEXT, "NOT NULL"),
        need("version", TEXT, "NOT NULL"),
        need("bytes", BIGINT, "NOT NULL"),
        add("signature", TEXT, ""),
        need("actor", TEXT, "NOT NULL"),
        add("reason", TEXT, ""),
        add("published_at", INSTANT, "NOT NULL DEFAULT now()"),
        add("retracted_at", INSTANT, ""),
        add("retracted_by", TEXT, ""),
        need("component", BYTES, "NOT NULL"),
    ],
    constraints: "UNIQUE (name, version)",
    storage: "",
    unlogged: false,
    indexes: &[index(
        "executor_published_latest",
        "(published_at) WHERE retracted_at IS NULL",
    )],
};
