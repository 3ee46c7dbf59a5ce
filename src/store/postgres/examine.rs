//! What keeps a database from serving well as a bus.
//!
//! A question is a check and one statement, which answers with a row of `bad`
//! (null where it cannot be told) and `detail`. What no single statement can tell
//! is asked below.

use chrono::{DateTime, Utc};
use sqlx::{Connection as _, Row as _};

use super::{PgCells, PostgresStore, Step, schema};
use crate::finding::{Check, Finding, Severity, State};
use crate::store::cells::Columns as _;

struct Question {
    check: Check,
    /// It asks about the tables that $1 names, which are all of the schema's.
    of_tables: bool,
    sql: &'static str,
}

const QUESTIONS: &[Question] = &[
    Question {
        check: Check {
            id: "postgres.rights",
            title: "rights on the tables",
            severity: Severity::Error,
            fix: "grant what is lacking on the tables named, or connect as their owner",
        },
        of_tables: true,
        sql: "
SELECT count(*) > 0 AS bad,
  current_user || coalesce(
    ' lacks ' || string_agg(r.right || ' on ' || t.name, ', ' ORDER BY t.place, r.place),
    ' has all it needs') AS detail
FROM unnest($1::text[]) WITH ORDINALITY AS t (name, place)
CROSS JOIN unnest(CASE t.name
    WHEN 'cogo_host_schema' THEN ARRAY['SELECT']
    ELSE ARRAY['SELECT', 'INSERT', 'UPDATE', 'DELETE'] END)
  WITH ORDINALITY AS r (\"right\", place)
WHERE NOT has_table_privilege(to_regclass(t.name), r.right)",
    },
    Question {
        check: Check {
            id: "postgres.rls",
            title: "row-level security",
            severity: Severity::Error,
            fix: "connect as a role with BYPASSRLS (on Supabase: `postgres`), as the tables' owner, or give this role a policy for all rows",
        },
        of_tables: true,
        sql: "
SELECT count(*) > 0 AS bad,
  coalesce(
    'hides rows of ' || string_agg(t.name, ', ' ORDER BY t.place) || ' from ' || current_user,
    'hides nothing from ' || current_user) AS detail
FROM unnest($1::text[]) WITH ORDINALITY AS t (name, place)
WHERE row_security_active(to_regclass(t.name))",
    },
    Question {
        check: Check {
            id: "postgres.routeless",
            title: "tasks without a route",
            severity: Severity::Warning,
            fix: "give each a `service` and a `role`, or delete it; `ALTER TABLE agent_messages ALTER COLUMN service SET NOT NULL, ALTER COLUMN role SET NOT NULL` keeps more from coming",
        },
        of_tables: false,
        sql: "
SELECT count(*) > 0 AS bad,
  coalesce(count(*) || ' waiting that no host can serve, such as ' || min(id::text), 'none waiting')
    AS detail
FROM agent_messages
WHERE status = 'queued' AND (service IS NULL OR role IS NULL)",
    },
    Question {
        check: Check {
            id: "postgres.bloat",
            title: "dead rows",
            severity: Severity::Warning,
            fix: "run `VACUUM` on the tables named; if it helps for a short time only, see autovacuum and old snapshots",
        },
        of_tables: true,
        sql: "
SELECT count(*) FILTER (WHERE dead) > 0 AS bad,
  coalesce(string_agg(relname || ': ' || n_dead_tup || ' dead, ' || n_live_tup || ' live', '; ')
    FILTER (WHERE dead), 'few') AS detail
FROM (
  SELECT relname, n_dead_tup, n_live_tup,
    n_dead_tup > greatest(50000, n_live_tup / 5) AS dead
  FROM pg_stat_user_tables
  WHERE relid IN (SELECT to_regclass(name) FROM unnest($1::text[]) AS t (name))
) AS t",
    },
    Question {
        check: Check {
            id: "postgres.autovacuum",
            title: "autovacuum",
            severity: Severity::Warning,
            fix: "set `autovacuum = on`, and let the table's owner run what `cogo-host migrate --dry-run` advises for it",
        },
        of_tables: false,
        sql: "
SELECT NOT (current_setting('autovacuum')::boolean AND on_table AND often) AS bad,
  CASE
    WHEN NOT current_setting('autovacuum')::boolean THEN 'off for the whole server'
    WHEN NOT on_table THEN 'off for agent_messages'
    WHEN NOT often THEN 'agent_messages is left alone until a fifth of it is dead'
    ELSE 'on, and early for agent_messages'
  END AS detail
FROM (
  SELECT NOT coalesce('autovacuum_enabled=false' = ANY (reloptions), false) AS on_table,
    coalesce(array_to_string(reloptions, ',') LIKE '%autovacuum_vacuum_%', false) AS often
  FROM pg_class
  WHERE oid = to_regclass('agent_messages')
) AS t",
    },
    Question {
        check: Check {
            id: "postgres.snapshots",
            title: "old snapshots",
            severity: Severity::Warning,
            fix: "end the session, the prepared transaction or the replication slot that is named: nothing that died since can be cleaned away",
        },
        of_tables: false,
        sql: "
SELECT count(*) > 0 AS bad,
  coalesce(string_agg(who, '; '), 'none older than five minutes') AS detail
FROM (
  SELECT 'session ' || pid || coalesce(' (' || nullif(application_name, '') || ')', '')
    || ' since ' || date_trunc('second', xact_start) AS who
  FROM pg_stat_activity
  WHERE backend_xmin IS NOT NULL AND backend_type = 'client backend'
    AND xact_start < now() - interval '5 minutes'
  UNION ALL
  SELECT 'prepared transaction ' || gid
  FROM pg_prepared_xacts
  WHERE prepared < now() - interval '5 minutes'
  UNION ALL
  SELECT 'replication slot ' || slot_name
  FROM pg_replication_slots
  WHERE NOT active AND (xmin IS NOT NULL OR catalog_xmin IS NOT NULL)
) AS held",
    },
    Question {
        check: Check {
            id: "postgres.timeouts",
            title: "statement timeout",
            severity: Severity::Warning,
            fix: "let settings through: a pooler that drops them must be named by `?pgbouncer=true`",
        },
        of_tables: false,
        sql: "
SELECT setting::bigint = 0 AS bad,
  CASE setting WHEN '0' THEN 'none: a statement that hangs hangs for ever'
    ELSE setting || ' ms' END AS detail
FROM pg_settings
WHERE name = 'statement_timeout'",
    },
    Question {
        check: Check {
            id: "postgres.leases",
            title: "expired leases",
            severity: Severity::Warning,
            fix: "start a host: each rescues what others left",
        },
        of_tables: false,
        sql: "
SELECT count(*) > 0 AS bad, count(*) || ' not rescued' AS detail
FROM (
  SELECT FROM agent_messages
  WHERE status = 'claimed' AND lease_expires_at < now() - interval '5 seconds'
  LIMIT 1000
) AS vacant",
    },
];

const CLOCK: Check = Check {
    id: "postgres.clock",
    title: "clock of this machine",
    severity: Severity::Warning,
    fix: "set the clock by NTP: leases go by the database's, but logs and TLS go by this one",
};

const LIMITS: Check = Check {
    id: "postgres.limits",
    title: "limits of tables made by others",
    severity: Severity::Warning,
    fix: "let through what hosts write: `cogo-host migrate --dry-run` names the statement for each",
};

const COMPLETE: Check = Check {
    id: "postgres.schema",
    title: "tables and indexes",
    severity: Severity::Error,
    fix: "run `cogo-host migrate`: it builds what is missing or invalid",
};

const POOLER: Check = Check {
    id: "postgres.pooler",
    title: "pooler",
    severity: Severity::Error,
    fix: "add `?pgbouncer=true` to DATABASE_URL, or use a direct or a session connection (port 5432)",
};

const TLS: Check = Check {
    id: "postgres.tls",
    title: "TLS",
    severity: Severity::Warning,
    fix: "add `?sslmode=verify-full&sslrootcert=FILE` to DATABASE_URL, with the CA certificate of the server",
};

/// Beyond this, this machine's clock is wrong rather than the network slow.
const MAX_SKEW_MS: i64 = 2_000;

pub(super) async fn examine(store: &PostgresStore) -> Step<Vec<Finding>> {
    let pooler = pooler(store).await?;
    if pooler.state == State::Fail {
        // What is prepared is mixed up there: no further answer could be trusted.
        return Ok(vec![pooler]);
    }
    let mut findings = vec![
        pooler,
        clock(store).await?,
        complete(store).await?,
        limits(store).await?,
        tls(store).await?,
    ];
    for question in QUESTIONS {
        findings.push(ask(store, question).await?);
    }
    Ok(findings)
}

async fn ask(store: &PostgresStore, question: &Question) -> Step<Finding> {
    let mut turn = store.connections.turn().await?;
    let mut query = turn.query(question.sql);
    if question.of_tables {
        query = query.bind(schema::table_names());
    }
    let row = query.fetch_one(turn.conn()).await?;
    turn.finish().await?;
    let detail = PgCells::of("pg_catalog", &row).text("detail")?;
    let detail = detail.unwrap_or_default();
    Ok(match row.flag("bad")? {
        Some(bad) => question.check.holds(!bad, detail),
        None => question.check.unknown(detail),
    })
}

async fn clock(store: &PostgresStore) -> Step<Finding> {
    let mut turn = store.connections.turn().await?;
    let query = turn.query("SELECT clock_timestamp() AS now");
    let before = Utc::now();
    let row = query.fetch_one(turn.conn()).await?;
    let after = Utc::now();
    turn.finish().await?;
    let theirs: DateTime<Utc> = row.try_get("now")?;
    // Theirs was read between the two.
    let ahead = (before - theirs).num_milliseconds().max(0);
    let behind = (theirs - after).num_milliseconds().max(0);
    let told = match (ahead, behind) {
        (0, 0) => "as the database's".to_owned(),
        (0, behind) => format!("{behind} ms behind the database's"),
        (ahead, _) => format!("{ahead} ms ahead of the database's"),
    };
    Ok(CLOCK.holds(ahead.max(behind) <= MAX_SKEW_MS, told))
}

async fn complete(store: &PostgresStore) -> Step<Finding> {
    let mut turn = store.connections.transaction().await?;
    let missing = schema::missing(turn.conn()).await?;
    turn.finish().await?;
    Ok(match missing.as_slice() {
        [] => COMPLETE.pass("all there and valid"),
        [first, rest @ ..] => COMPLETE.bad(format!(
            "{} statements are missing, the first: {}",
            rest.len() + 1,
            first.lines().next().unwrap_or_default()
        )),
    })
}

async fn limits(store: &PostgresStore) -> Step<Finding> {
    let mut conn = store.connections.probe().await?;
    let limits = schema::limits(&mut conn).await?;
    conn.close().await?;
    let rules: Vec<String> = limits.into_iter().map(|limit| limit.rule).collect();
    Ok(match rules.is_empty() {
        true => LIMITS.pass("none that a host would meet"),
        false => LIMITS.bad(rules.join("; ")),
    })
}

/// Two connections that meet one server session are handed it by turns.
async fn pooler(store: &PostgresStore) -> Step<Finding> {
    if store.is_pooled() {
        return Ok(POOLER.pass("named by the URL: nothing is prepared, and no hints come"));
    }
    let mut one = store.connections.probe().await?;
    let mut other = store.connections.probe().await?;
    let mut sessions = Vec::with_capacity(2);
    for conn in [&mut one, &mut other] {
        let row = sqlx::raw_sql("SELECT pg_backend_pid()")
            .fetch_one(&mut *conn)
            .await?;
        sessions.push(row.try_get::<i32, _>(0)?);
    }
    one.close().await?;
    other.close().await?;
    sessions.dedup();
    let told = match sessions.len() {
        1 => "a pooler of transactions that the URL does not name",
        _ => "none, or one that keeps a server for each session",
    };
    Ok(POOLER.holds(sessions.len() > 1, told))
}

async fn tls(store: &PostgresStore) -> Step<Finding> {
    if store.is_pooled() {
        return Ok(TLS.unknown("the server sees the pooler's connection, not this one"));
    }
    let sql = "
SELECT coalesce(s.ssl, false) AS ssl, s.version,
  a.client_addr IS NULL OR host(a.client_addr) IN ('127.0.0.1', '::1') AS local
FROM pg_stat_activity AS a
LEFT JOIN pg_stat_ssl AS s ON s.pid = a.pid
WHERE a.pid = pg_backend_pid()";
    let mut turn = store.connections.turn().await?;
    let query = turn.query(sql);
    let row = query.fetch_one(turn.conn()).await?;
    turn.finish().await?;
    let cells = PgCells::of("pg_stat_ssl", &row);
    Ok(match (cells.flag("ssl")?, cells.flag("local")?) {
        (true, _) => TLS.pass(cells.text("version")?.unwrap_or_default()),
        (false, true) => TLS.pass("not in use, on this machine alone"),
        (false, false) => {
            TLS.bad("not in use: passwords and payloads cross the network as they are")
        }
    })
}
