//! What the tables must have, and how each part is made where it is missing.
//!
//! Append-only in meaning: a later version adds columns and indexes here and
//! raises [`VERSION`]; nothing is renamed, narrowed or dropped but an index of our
//! own that another one replaces.

mod controls;
mod pipelines;
mod shadows;

use self::controls::{
    EXECUTOR_APPROVALS, EXECUTOR_BREAKERS, EXECUTOR_FLAGS, EXECUTOR_PAUSES, EXECUTOR_PUBLISHED,
    EXECUTOR_ROLLOUTS, EXECUTOR_SERVING,
};
use self::pipelines::EXECUTOR_PIPELINES;
use self::shadows::{EXECUTOR_SHADOW_RUNS, EXECUTOR_SHADOWS};

/// What this build knows.
pub(super) const VERSION: i64 = 9;

/// A table that the host needs.
pub(super) struct Table {
    pub(super) name: &'static str,
    pub(super) columns: &'static [Column],
    /// After the columns, within the parentheses.
    pub(super) constraints: &'static str,
    /// After the parentheses, where we make the table.
    pub(super) storage: &'static str,
    /// Lost by a crash and never missed.
    pub(super) unlogged: bool,
    pub(super) indexes: &'static [Index],
}

pub(super) struct Column {
    pub(super) name: &'static str,
    /// The types that an existing column may have, the first being ours; none
    /// where any will do.
    pub(super) kinds: &'static [&'static str],
    /// What follows name and type.
    pub(super) rest: &'static str,
    pub(super) missing: Missing,
}

/// What to do about a column that an existing table lacks.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Missing {
    /// Add it: null or with a constant, so that no row is rewritten.
    Add,
    /// Without it the table is not what its name says.
    Refuse,
}

pub(super) struct Index {
    pub(super) name: &'static str,
    pub(super) unique: bool,
    /// From the parenthesis on.
    pub(super) on: &'static str,
}

const UUID: &[&str] = &["uuid"];
const TEXT: &[&str] = &["text", "character varying"];
const INTEGER: &[&str] = &["integer", "bigint", "smallint"];
const BIGINT: &[&str] = &["bigint"];
const INSTANT: &[&str] = &["timestamp with time zone"];
const JSON: &[&str] = &["jsonb"];
const BYTES: &[&str] = &["bytea"];
const BOOLEAN: &[&str] = &["boolean"];

const fn add(name: &'static str, kinds: &'static [&'static str], rest: &'static str) -> Column {
    Column {
        name,
        kinds,
        rest,
        missing: Missing::Add,
    }
}

const fn need(name: &'static str, kinds: &'static [&'static str], rest: &'static str) -> Column {
    Column {
        name,
        kinds,
        rest,
        missing: Missing::Refuse,
    }
}

const fn index(name: &'static str, on: &'static str) -> Index {
    Index {
        name,
        unique: false,
        on,
    }
}

const fn unique(name: &'static str, on: &'static str) -> Index {
    Index {
        name,
        unique: true,
        on,
    }
}

/// The settings that keep claims flat: every claim and every end leaves dead
/// index entries, and a claim walks over those that no vacuum removed.
pub(super) const BUSY_TABLE: &str = "autovacuum_vacuum_scale_factor = 0.01, \
autovacuum_vacuum_threshold = 1000, autovacuum_vacuum_cost_delay = 0, \
autovacuum_analyze_scale_factor = 0.02, autovacuum_analyze_threshold = 1000";

/// The time to live of a waiting task, in milliseconds: only whole numbers are
/// any. Total over every JSON, since other programs' inserts evaluate it.
macro_rules! has_ttl {
    ($m:literal) => {
        concat!(
            "jsonb_typeof(",
            $m,
            "payload #> '{__assignment,ttl_ms}') = 'number'",
            " AND (",
            $m,
            "payload #>> '{__assignment,ttl_ms}') ~ '^[0-9]{1,15}$'"
        )
    };
}
pub(in crate::store::postgres) use has_ttl;

/// When the time to live runs out, in UTC without a zone, which an index can
/// keep.
macro_rules! ttl_ends {
    ($m:literal) => {
        concat!(
            "least(",
            $m,
            "created_at AT TIME ZONE 'UTC', timestamp '9999-01-01')",
            " + (",
            $m,
            "payload #>> '{__assignment,ttl_ms}')::float8 * interval '1 millisecond'"
        )
    };
}
pub(in crate::store::postgres) use ttl_ends;

/// What a claim goes by, and tables that others made may leave out.
macro_rules! lacks {
    () => {
        "created_at IS NULL OR priority IS NULL"
    };
}
pub(in crate::store::postgres) use lacks;

/// The index on rows that lack it, where there can be any.
pub(super) const LACKING: &str = "cogo_messages_lacking";

pub(super) const AGENT_MESSAGES: Table = Table {
    name: "agent_messages",
    columns: &[
        need("id", UUID, "NOT NULL DEFAULT gen_random_uuid() PRIMARY KEY"),
        need("created_at", INSTANT, "NOT NULL DEFAULT now()"),
        need("service", TEXT, "NOT NULL"),
        need("role", TEXT, "NOT NULL"),
        add("shard", INTEGER, "NOT NULL DEFAULT 0"),
        add("tenant", TEXT, ""),
        need("payload", JSON, "NOT NULL DEFAULT '{}'"),
        need(
            "status",
            TEXT,
            "NOT NULL DEFAULT 'queued' CHECK (status IN ('queued', 'claimed', 'done', 'failed'))",
        ),
        need("claimed_by", TEXT, ""),
        add("claimed_at", INSTANT, ""),
        add("done_at", INSTANT, ""),
        add("error", TEXT, ""),
        add("attempts", INTEGER, "NOT NULL DEFAULT 0"),
        add("last_error_at", INSTANT, ""),
        add("retry_at", INSTANT, ""),
        add("result_snippet", TEXT, ""),
        add("result_url", TEXT, ""),
        add("trace_id", TEXT, ""),
        add("task_id", TEXT, ""),
        add("priority", INTEGER, "NOT NULL DEFAULT 0"),
        add("max_attempts", INTEGER, ""),
        add("unique_key", TEXT, ""),
        // Null until this bus knows the row: other programs do not fill it.
        add("lease_epoch", BIGINT, ""),
        add("lease_expires_at", INSTANT, ""),
        add("cancel_requested_at", INSTANT, ""),
        add("host_faults", INTEGER, "NOT NULL DEFAULT 0"),
        add("rollout_side", TEXT, ""),
        add("result", JSON, ""),
    ],
    constraints: "",
    storage: BUSY_TABLE,
    unlogged: false,
    indexes: &[
        // The claim's order. Shard, priority and tenant before the due time make
        // lanes, each of which is read from its oldest row on and no further
        // than now.
        index(
            "cogo_messages_turn",
            "(service, role, coalesce(shard, 0), priority, coalesce(tenant, ''), \
             coalesce(retry_at, created_at), id) WHERE status = 'queued'",
        ),
        // Leases of ours, by expiry.
        index(
            "cogo_messages_lease",
            "(lease_expires_at) WHERE status = 'claimed' AND lease_expires_at IS NOT NULL",
        ),
        // Claims without a lease belong to foreign workers.
        index(
            "cogo_messages_foreign",
            "(service, role, coalesce(claimed_at, created_at)) \
             WHERE status = 'claimed' AND lease_expires_at IS NULL",
        ),
        index(
            "cogo_messages_cancelling",
            "(claimed_by) WHERE status = 'claimed' AND cancel_requested_at IS NOT NULL",
        ),
        index(
            "cogo_messages_expiry",
            concat!(
                "((",
                ttl_ends!(""),
                ")) WHERE status = 'queued' AND ",
                has_ttl!("")
            ),
        ),
        Index {
            name: "cogo_messages_unique",
            unique: true,
            on: "(unique_key) WHERE unique_key IS NOT NULL AND status IN ('queued', 'claimed')",
        },
        // For gates over a window, and for retention.
        index(
            "cogo_messages_ended",
            "(coalesce(done_at, last_error_at, created_at), status) \
             WHERE status IN ('done', 'failed')",
        ),
        // What a task is found by. Every change of its state writes each of these
        // again, which is a tenth of what a task costs: so a claim leaves it out,
        // and claimed tasks, which are few, are found by the indexes on claims.
        index(
            "cogo_messages_unclaimed_trace",
            "(trace_id) WHERE trace_id IS NOT NULL AND status <> 'claimed'",
        ),
        index(
            "cogo_messages_unclaimed_label",
            "(task_id) WHERE task_id IS NOT NULL AND status <> 'claimed'",
        ),
        index(
            "cogo_messages_unclaimed_created",
            "(created_at, id) WHERE status <> 'claimed'",
        ),
    ],
};

pub(super) const BUS_EVENTS: Table = Table {
    name: "bus_events",
    columns: &[
        need(
            "id",
            &[],
            "bigint GENERATED BY DEFAULT AS IDENTITY PRIMARY KEY",
        ),
        need("created_at", INSTANT, "NOT NULL DEFAULT now()"),
        need("event_type", TEXT, "NOT NULL"),
        add("message_id", &["uuid", "text", "character varying"], ""),
        add("service", TEXT, ""),
        add("role", TEXT, ""),
        add("shard", &["integer", "bigint", "smallint", "text"], ""),
        add("tenant", TEXT, ""),
        add("trace_id", TEXT, ""),
        add("reason", TEXT, ""),
        add("payload", &["jsonb", "json"], "NOT NULL DEFAULT '{}'"),
    ],
    constraints: "",
    storage: "",
    unlogged: false,
    indexes: &[
        index("cogo_events_trace", "(trace_id)"),
        // Rows come in this order, and few columns are read by it: a fifth of
        // what an event costs would be a full index here.
        index(
            "cogo_events_created",
            "USING brin (created_at) WITH (autosummarize = on)",
        ),
        index("cogo_events_message", "(message_id)"),
    ],
};

/// Indexes of our own that an earlier version made and this one does without.
pub(super) const SUPERSEDED: [&str; 4] = [
    "cogo_messages_due",
    "cogo_messages_trace",
    "cogo_messages_label",
    "cogo_messages_created",
];

/// Where existing events are not numbered, for readers that follow.
pub(super) const EVENT_SEQ: &str = "event_seq";

/// One row for each attempt that ended; a rescue writes those that vanished.
const EXECUTOR_ATTEMPTS: Table = Table {
    name: "executor_attempts",
    columns: &[
        need("message_id", UUID, "NOT NULL"),
        need("lease_epoch", BIGINT, "NOT NULL"),
        need("attempt", INTEGER, "NOT NULL"),
        need("host", TEXT, "NOT NULL"),
        add("plugin", TEXT, ""),
        add("version", TEXT, ""),
        add("digest", TEXT, ""),
        add("kind", TEXT, ""),
        add("stage", TEXT, ""),
        add("why", JSON, ""),
        add("claimed_at", INSTANT, ""),
        add("ended_at", INSTANT, "NOT NULL DEFAULT now()"),
        add("wait_ms", BIGINT, "NOT NULL DEFAULT 0"),
        add("run_ms", BIGINT, "NOT NULL DEFAULT 0"),
        need("outcome", TEXT, "NOT NULL"),
        add("code", TEXT, ""),
        add("blame", TEXT, ""),
        add("usage", JSON, "NOT NULL DEFAULT '{}'"),
        add("peak_memory_bytes", BIGINT, "NOT NULL DEFAULT 0"),
        add("outbound_requests", BIGINT, "NOT NULL DEFAULT 0"),
        add("spans", JSON, "NOT NULL DEFAULT '[]'"),
        add("log", JSON, "NOT NULL DEFAULT '[]'"),
        add("log_dropped", BIGINT, "NOT NULL DEFAULT 0"),
        // The side that it ran on, and its rollout.
        add("rollout_side", TEXT, ""),
    ],
    constraints: "PRIMARY KEY (message_id, lease_epoch)",
    storage: "",
    unlogged: false,
    indexes: &[
        index(
            "executor_attempts_ended",
            "USING brin (ended_at) WITH (autosummarize = on)",
        ),
        // What breakers look at: few, so that an attempt which ends well costs
        // nothing here.
        index(
            "executor_attempts_worker",
            "(ended_at) WHERE blame = 'worker'",
        ),
        // What rollouts look at: an attempt without one costs nothing here.
        index(
            "executor_attempts_rollout",
            "(rollout_side, ended_at) WHERE rollout_side IS NOT NULL",
        ),
    ],
};

/// What settled attempts published; the bytes lie elsewhere, by their digest.
const EXECUTOR_ARTIFACTS: Table = Table {
    name: "executor_artifacts",
    columns: &[
        need("message_id", UUID, "NOT NULL"),
        need("lease_epoch", BIGINT, "NOT NULL"),
        need("task_id", TEXT, "NOT NULL"),
        need("trace_id", TEXT, "NOT NULL"),
        need("path", TEXT, "NOT NULL"),
        need("content_type", TEXT, "NOT NULL"),
        need("digest", TEXT, "NOT NULL"),
        need("bytes", BIGINT, "NOT NULL"),
        add("created_at", INSTANT, "NOT NULL DEFAULT now()"),
    ],
    constraints: "PRIMARY KEY (message_id, lease_epoch, path)",
    storage: "",
    unlogged: false,
    indexes: &[index(
        "executor_artifacts_label",
        "(task_id, path, created_at)",
    )],
};

/// The host processes that show themselves.
const EXECUTOR_HOSTS: Table = Table {
    name: "executor_hosts",
    columns: &[
        need("holder", TEXT, "NOT NULL PRIMARY KEY"),
        need("name", TEXT, "NOT NULL"),
        need("stage", TEXT, "NOT NULL"),
        need("version", TEXT, "NOT NULL"),
        add("api", TEXT, ""),
        add("started_at", INSTANT, "NOT NULL DEFAULT now()"),
        add("seen_at", INSTANT, "NOT NULL DEFAULT now()"),
        add("digests", JSON, "NOT NULL DEFAULT '[]'"),
    ],
    constraints: "",
    storage: "fillfactor = 50",
    unlogged: false,
    indexes: &[],
};

/// The hosts that have nothing to do and listen: only while there is one does
/// an insert notify.
const EXECUTOR_WAITERS: Table = Table {
    name: "executor_waiters",
    columns: &[
        need("holder", TEXT, "NOT NULL PRIMARY KEY"),
        need("until", INSTANT, "NOT NULL"),
    ],
    constraints: "",
    storage: "fillfactor = 50",
    unlogged: true,
    indexes: &[],
};

/// Which versions of the schema this database has been brought to.
const COGO_HOST_SCHEMA: Table = Table {
    name: "cogo_host_schema",
    columns: &[
        need("version", BIGINT, "NOT NULL PRIMARY KEY"),
        add("migrated_at", INSTANT, "NOT NULL DEFAULT now()"),
    ],
    constraints: "",
    storage: "",
    unlogged: false,
    indexes: &[],
};

pub(super) const TABLES: [&Table; 17] = [
    &AGENT_MESSAGES,
    &BUS_EVENTS,
    &EXECUTOR_ATTEMPTS,
    &EXECUTOR_ARTIFACTS,
    &EXECUTOR_HOSTS,
    &EXECUTOR_WAITERS,
    &EXECUTOR_FLAGS,
    &EXECUTOR_PAUSES,
    &EXECUTOR_APPROVALS,
    &EXECUTOR_BREAKERS,
    &EXECUTOR_PIPELINES,
    &EXECUTOR_SERVING,
    &EXECUTOR_ROLLOUTS,
    &EXECUTOR_PUBLISHED,
    &EXECUTOR_SHADOWS,
    &EXECUTOR_SHADOW_RUNS,
    &COGO_HOST_SCHEMA,
];

/// The names of [`TABLES`].
pub(in crate::store::postgres) fn table_names() -> Vec<&'static str> {
    TABLES.iter().map(|table| table.name).collect()
}

impl Column {
    /// `type rest`, as it follows the name.
    pub(super) fn definition(&self) -> String {
        let kind = self.kinds.first().copied().unwrap_or("");
        format!("{kind} {}", self.rest).trim().to_owned()
    }
}
