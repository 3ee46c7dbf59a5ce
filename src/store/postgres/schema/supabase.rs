//! What Supabase needs on top: explicit grants for `service_role`, since a new
//! table has none by itself, and the publication that Realtime reads.
//!
//! Only where the operator asks for it (`migrate --supabase`): these are rights
//! on tables that others may own. What is there already is not named again.

use sqlx::postgres::PgConnection;

use super::shape::table_names;
use crate::store::StoreError;
use crate::store::postgres::{PgCells, Step};

const ROLES: &str = "
SELECT string_agg('`' || wanted.name || '`', ', ' ORDER BY wanted.name) AS missing
FROM unnest(ARRAY['anon', 'authenticated', 'service_role']) AS wanted (name)
WHERE NOT EXISTS (SELECT FROM pg_roles WHERE rolname = wanted.name)";

/// Without a key to tell rows by, a publication makes every update fail.
const UNKEYED: &str = "
SELECT EXISTS (
  SELECT FROM pg_class AS c
  WHERE c.oid = to_regclass('agent_messages') AND c.relreplident IN ('d', 'n')
    AND NOT (c.relreplident = 'd' AND EXISTS (
      SELECT FROM pg_index AS i WHERE i.indrelid = c.oid AND i.indisprimary))
    AND EXISTS (
      SELECT FROM pg_publication WHERE pubname = 'supabase_realtime' AND NOT puballtables)
) AS unkeyed";

/// The statements that are missing, in order, for the tables named by $1. Tables
/// that a dry run has not made go by the name that they will have. What a table is
/// for says what `service_role` may do: submit tasks, record events, read the rest
/// but what is for the hosts alone.
const MISSING: &str = "
WITH home AS (
  SELECT coalesce(
    (SELECT quote_ident(n.nspname) FROM pg_class AS c
     JOIN pg_namespace AS n ON n.oid = c.relnamespace
     WHERE c.oid = to_regclass('agent_messages')),
    quote_ident(current_schema())) AS schema
),
ours AS (
  SELECT t.name, to_regclass(t.name) AS id, home.schema || '.' || t.name AS path, t.place
  FROM home
  CROSS JOIN unnest($1::text[]) WITH ORDINALITY AS t (name, place)
)
SELECT statement
FROM (
  SELECT 1 AS step, 0 AS place, format('GRANT USAGE ON SCHEMA %s TO service_role', schema) AS statement
  FROM home
  WHERE NOT has_schema_privilege('service_role', schema, 'USAGE')
  UNION ALL
  SELECT 2, ours.place, format('GRANT %s ON TABLE %s TO service_role',
    string_agg(p.name, ', ' ORDER BY p.place), ours.path)
  FROM ours
  CROSS JOIN unnest(CASE ours.name
      WHEN 'agent_messages' THEN ARRAY['SELECT', 'INSERT', 'UPDATE']
      WHEN 'bus_events' THEN ARRAY['SELECT', 'INSERT']
      WHEN 'executor_waiters' THEN ARRAY[]::text[]
      WHEN 'cogo_host_schema' THEN ARRAY[]::text[]
      ELSE ARRAY['SELECT'] END)
    WITH ORDINALITY AS p (name, place)
  WHERE ours.id IS NULL OR NOT has_table_privilege('service_role', ours.id, p.name)
  GROUP BY ours.place, ours.path
  UNION ALL
  SELECT 3, 0, format('GRANT USAGE, SELECT ON SEQUENCE %s TO service_role', s.name)
  FROM (
    -- It fails for a table that is not there, or has no such column.
    SELECT CASE WHEN ours.name = 'bus_events' AND a.attname = 'id'
      THEN pg_get_serial_sequence(ours.path, 'id') END AS name
    FROM ours
    JOIN pg_attribute AS a ON a.attrelid = ours.id AND a.attname = 'id' AND NOT a.attisdropped
    WHERE ours.name = 'bus_events'
  ) AS s
  WHERE s.name IS NOT NULL AND NOT has_sequence_privilege('service_role', s.name, 'USAGE')
  UNION ALL
  SELECT 4, ours.place, format('REVOKE ALL ON TABLE %s FROM %s', ours.path, r.name)
  FROM ours
  CROSS JOIN unnest(ARRAY['anon', 'authenticated']) AS r (name)
  WHERE ours.name LIKE ANY (ARRAY['executor%', 'cogo%'])
    AND has_table_privilege(r.name, ours.id,
      'SELECT, INSERT, UPDATE, DELETE, TRUNCATE, REFERENCES, TRIGGER')
  UNION ALL
  SELECT 5, 0, format('ALTER PUBLICATION supabase_realtime ADD TABLE %s', ours.path)
  FROM ours
  WHERE ours.name = 'agent_messages'
    AND EXISTS (
      SELECT FROM pg_publication WHERE pubname = 'supabase_realtime' AND NOT puballtables)
    AND NOT EXISTS (
      SELECT FROM pg_publication_rel AS r
      JOIN pg_publication AS p ON p.oid = r.prpubid
      WHERE p.pubname = 'supabase_realtime' AND r.prrelid = ours.id)
) AS missing
ORDER BY step, place, statement";

/// PostgREST answers by what it knew before, until it is told.
const RELOAD: &str = "NOTIFY pgrst, 'reload schema'";

/// What is missing of Supabase's part.
///
/// # Errors
/// [`StoreError::Refused`] for a database that has not Supabase's roles, and
/// for a table that cannot be published.
pub(super) async fn missing(conn: &mut PgConnection) -> Step<Vec<String>> {
    let row = sqlx::query(ROLES)
        .persistent(false)
        .fetch_one(&mut *conn)
        .await?;
    if let Some(roles) = PgCells::of("pg_roles", &row).text("missing")? {
        let problem = format!(
            "this database lacks {roles}: `--supabase` is for a project of Supabase; leave it out"
        );
        return Err(StoreError::Refused(problem).into());
    }
    let row = sqlx::query(UNKEYED)
        .persistent(false)
        .fetch_one(&mut *conn)
        .await?;
    if PgCells::of("pg_class", &row).flag("unkeyed")? {
        let problem = "agent_messages has no primary key: once Realtime publishes it, every update \
                       of it fails; give it one";
        return Err(StoreError::Refused(problem.to_owned()).into());
    }
    let rows = sqlx::query(MISSING)
        .persistent(false)
        .bind(table_names())
        .fetch_all(conn)
        .await?;
    let mut statements = Vec::with_capacity(rows.len() + 1);
    for row in &rows {
        statements.push(PgCells::of("pg_class", row).required_text("statement")?);
    }
    if !statements.is_empty() {
        statements.push(RELOAD.to_owned());
    }
    Ok(statements)
}
