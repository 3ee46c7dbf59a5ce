//! The table of runs of the pipeline.

use super::{BIGINT, INSTANT, JSON, TEXT, Table, UUID, add, index, need};

/// By the label of their task; what they wait for are tasks like any other.
pub(super) const EXECUTOR_PIPELINES: Table = Table {
    name: "executor_pipelines",
    columns: &[
        need("task_id", TEXT, "NOT NULL PRIMARY KEY"),
        need("trace_id", TEXT, "NOT NULL"),
        need(
            "state",
            TEXT,
            "NOT NULL CHECK (state IN ('codegen', 'build-test', 'done', 'cancelled'))",
        ),
        need("revision", BIGINT, "NOT NULL"),
        need("request", JSON, "NOT NULL"),
        need("actor", TEXT, "NOT NULL"),
        add("codegen_id", UUID, ""),
        add("build_test_id", UUID, ""),
        add("cancel_requested_at", INSTANT, ""),
        add("cancelled_by", TEXT, ""),
        add("error", TEXT, ""),
        add("decision", JSON, ""),
        add("created_at", INSTANT, "NOT NULL DEFAULT now()"),
        add("updated_at", INSTANT, "NOT NULL DEFAULT now()"),
        add("ended_at", INSTANT, ""),
    ],
    constraints: "",
    storage: "",
    unlogged: false,
    indexes: &[
        index(
            "executor_pipelines_open",
            "(updated_at) WHERE ended_at IS NULL",
        ),
        index("executor_pipelines_created", "(created_at)"),
        index(
            "executor_pipelines_ended",
            "(ended_at) WHERE ended_at IS NOT NULL",
        ),
    ],
};
